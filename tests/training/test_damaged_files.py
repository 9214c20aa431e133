"""Files of a run whose values are of other types than were written: one clear error for each."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs anchorsr[train]")

import torch

from anchorsr.errors import CheckpointError, RecipeError
from anchorsr.images.io import RasterImage, write_image
from anchorsr.networks.registry import build_network
from anchorsr.training.checkpoint import (
    CHECKPOINT,
    RECORD,
    WEIGHTS,
    load_run,
    load_weights,
    read_content,
)
from anchorsr.training.machine import Machine
from anchorsr.training.recipe import Recipe, read_recipe
from anchorsr.training.trainer import train
from anchorsr.utils.config import parse_table

DEEP = "[" * 50_000 + "]" * 50_000
TABLE = {
    "network": {"name": "abpn", "channels": 4, "body": 0, "expansion": 4},
    "schedule": {"steps": 2},
    "optimizer": {"name": "soap"},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two steps, and its images."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "images").mkdir()
    rgb = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    write_image(folder / "images" / "a.png", RasterImage(rgb))
    recipe = {**TABLE, "data": {"folders": [str(folder / "images")], "patch": 8, "batch": 1}}
    train(parse_table(Recipe, recipe, ""), folder / "run", machine=Machine(threads=1))
    return folder


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made / "run", tmp_path / "run")


WRONG: dict[str, list[Any]] = {
    "step": ["2", None, -1, 10**30, 3, 1.0, [1], True],
    "seconds": ["1", None, [], math.nan, -1.0, True],
    "history": [None, {}, [1], ["x"], [{"step": "x"}], [{"loss": 1.0}], [{"step": 1, 2: 3}]],
    "losses": [None, 1.0, ["x"], {"a": 1.0}],
    "data": [None, [], {"pictures": "one"}, {"pictures": 1}, {1: 2}],
    "origin": [1, None, []],
    "made_on": [1, "cpu", []],
    "state": [None, [], 1, {"x": 1}],
    "averaged": [None, [], 1, {"x": 1}],
    "optimizer": [None, [], 1, {}, {"state": 1, "param_groups": 2}, {"param_groups": [1]}],
    "recipe": [None, [], 1, "x", {"network": 1}, {"data": [DEEP[:10]]}],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WRONG)
def test_a_checkpoint_with_a_wrong_value_is_damaged(made: Path, run: Path, name: str) -> None:
    content = read_content(run / CHECKPOINT)
    recipe = parse_table(
        Recipe, {**content["recipe"], "schedule": {**content["recipe"]["schedule"], "steps": 4}}, ""
    )
    for value in WRONG[name]:
        torch.save({**content, name: value}, run / CHECKPOINT)
        with pytest.raises(CheckpointError, match=r"checkpoint\.pt"):
            train(recipe, run, machine=Machine(threads=1))


@pytest.mark.slow
def test_an_option_of_the_optimizer_that_does_not_fit_is_damage(made: Path, run: Path) -> None:
    """PyTorch asserts that `capturable` parameters are on a GPU."""
    content = read_content(run / CHECKPOINT)
    table = {**content["recipe"], "optimizer": {"name": "adam"}}
    shutil.rmtree(run)
    train(parse_table(Recipe, table, ""), run, machine=Machine(threads=1))
    content = read_content(run / CHECKPOINT)
    content["optimizer"]["param_groups"][0]["capturable"] = True
    torch.save(content, run / CHECKPOINT)
    table["schedule"] = {**table["schedule"], "steps": 4}
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt is damaged: .*capturable"):
        train(parse_table(Recipe, table, ""), run, machine=Machine(threads=1))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("step", ["2", None, -1, 10**30, 1.5, [1]]),
        ("hours", ["1", None, [], -1]),
        ("data", [None, [], 1, {"pictures": "one"}]),
        ("history", [None, 1, {}, [1], [{"step": None}], [{"step": 1, "loss": "x"}]]),
        ("recipe", [1, "x", [1], {"network": 1}, {"schedule": []}, {"network": {"name": []}}]),
    ],
)
def test_a_record_with_a_wrong_value_is_damaged(run: Path, name: str, values: list[Any]) -> None:
    record = json.loads((run / RECORD).read_text())
    for value in values:
        (run / RECORD).write_text(json.dumps({**record, name: value}))
        with pytest.raises(CheckpointError, match=r"run\.json is damaged"):
            load_run(run)


def test_deep_nesting_is_an_error_in_every_text_file(run: Path, tmp_path: Path) -> None:
    for text in (DEEP, '{"recipe":' + "[" * 300 + "]" * 300 + "}"):
        (run / RECORD).write_text(text)
        with pytest.raises(CheckpointError, match=r"damaged: it is nested more than 100 levels"):
            load_run(run)
    for text in (f"a = {DEEP}", "a = " + "[" * 300 + "]" * 300, f"{'a.' * 300}b = 1"):
        (tmp_path / "recipe.toml").write_text(text)
        with pytest.raises(RecipeError, match="nested"):
            read_recipe(tmp_path / "recipe.toml")


@pytest.mark.parametrize(
    "network",
    [
        None,
        1,
        "abpn",
        ["abpn"],
        {"name": ["abpn"]},
        {"name": "abpn", "channels": 10**23},
        {"name": "abpn", "channels": 10**10},
        {"name": "abpn", "channels": "28"},
        {"name": "abpn", "channels": [28]},
        {"name": "abpn", "factor": 10**400},
        {1: 2},
    ],
)
def test_weights_of_an_impossible_network_are_refused(run: Path, network: Any) -> None:
    content = read_content(run / WEIGHTS)
    torch.save({**content, "network": network}, run / WEIGHTS)
    with pytest.raises(CheckpointError, match=r"weights\.pt does not hold weights"):
        load_weights(run)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("channels", 99999999999999999999999),
        ("channels", 5000),
        ("factor", 10**400),
        ("body", True),
        ("expansion", 1.5),
    ],
)
def test_impossible_options_of_a_network_are_recipe_errors(key: str, value: Any) -> None:
    with pytest.raises(RecipeError, match=key):
        build_network({"name": "abpn", key: value})


@pytest.mark.parametrize("table", [1, "x", [1], None])
def test_a_recipe_that_is_no_table_is_refused(table: Any) -> None:
    with pytest.raises(RecipeError, match="is a table, not"):
        parse_table(Recipe, table, "")
