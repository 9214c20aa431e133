"""Recipes: those that are shipped, round trips, and errors that name the key."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anchorsr.errors import RecipeError
from anchorsr.training.recipe import (
    DataRecipe,
    OptimizerRecipe,
    QuantizationRecipe,
    Recipe,
    ScheduleRecipe,
    ValidationRecipe,
    read_recipe,
)
from anchorsr.utils.config import parse_table

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.toml"))

MINIMAL = """
[network]
name = "abpn"

[data]
folders = ["pictures"]

[schedule]
steps = 100
"""


def read(folder: Path, text: str) -> Recipe:
    path = folder / "recipe.toml"
    path.write_text(text)
    return read_recipe(path)


def table(**changes: object) -> dict[str, object]:
    """The minimal recipe as a table, with other values for some of its keys."""
    minimal = {
        "network": {"name": "abpn"},
        "data": {"folders": ["pictures"]},
        "schedule": {"steps": 100},
    }
    return {**minimal, **changes}


def refused(changed: dict[str, object], message: str) -> None:
    """Check that the error starts with the full name of the key, then the message."""
    with pytest.raises(RecipeError, match="^" + re.escape(message)):
        parse_table(Recipe, changed, "")


def test_recipes_are_there() -> None:
    assert RECIPES


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_shipped_recipe_is_read_and_describes_a_network(path: Path) -> None:
    recipe = read_recipe(path)
    pytest.importorskip("torch", reason="needs anchorsr[train]")
    from anchorsr.networks.registry import build_network

    assert build_network(recipe.network).factor == recipe.network["factor"]
    assert f"_x{recipe.network['factor']}" in path.stem
    assert parse_table(Recipe, json.loads(json.dumps(recipe.as_table())), "") == recipe


def test_minimal_recipe_has_the_defaults(tmp_path: Path) -> None:
    recipe = read(tmp_path, MINIMAL)
    assert recipe == Recipe(
        {"name": "abpn"}, DataRecipe(("pictures",), 64, 16, False), ScheduleRecipe(100)
    )
    assert recipe.optimizer == OptimizerRecipe("adam", 1e-3, (0.9, 0.999), 10, 0.0)
    assert recipe.quantization.schedule is None
    assert recipe.validation.folders == ()
    assert (recipe.loss, recipe.ema_decay, recipe.seed, recipe.initial_weights) == (
        "l1",
        0.999,
        0,
        (),
    )


def test_a_list_of_one_name_may_be_the_name() -> None:
    """Records of old versions have a name, or "" without initial weights, instead of a list."""
    recipe = parse_table(Recipe, table(initial_weights="run", data={"folders": "a"}), "")
    assert (recipe.initial_weights, recipe.data.folders) == (("run",), ("a",))
    assert parse_table(Recipe, table(initial_weights=""), "").initial_weights == ()
    refused(table(data={"folders": ""}), "data.folders names at least one folder")


def test_every_level_is_read(tmp_path: Path) -> None:
    text = """
    seed = 7
    loss = "l2"
    ema_decay = 0
    [network]
    name = "abpn"
    anything = [1, "two"]
    [data]
    folders = ["one", "two"]
    channel_shuffle = true
    [schedule]
    steps = 9
    decay = "halving"
    halve_every = 3
    [quantization]
    percentile = 100
    [quantization.schedule]
    steps = 5
    [quantization.optimizer]
    betas = [0, 0.5]
    [validation]
    folders = ["three"]
    every = 2
    """
    recipe = read(tmp_path, text)
    assert recipe.seed == 7
    assert recipe.network == {"name": "abpn", "anything": [1, "two"]}
    assert recipe.data == DataRecipe(("one", "two"), channel_shuffle=True)
    assert recipe.schedule == ScheduleRecipe(9, decay="halving", halve_every=3)
    assert recipe.quantization.schedule == ScheduleRecipe(5)
    # A given table has the defaults of its class, not of the place where it is used.
    assert recipe.quantization.optimizer == OptimizerRecipe(betas=(0.0, 0.5))
    assert recipe.validation == ValidationRecipe(("three",), 2)
    assert isinstance(recipe.ema_decay, float)
    assert isinstance(recipe.quantization.percentile, float)


names = st.text(min_size=1, max_size=10)
counts = st.integers(1, 10**6)
decays = st.floats(0, 1, exclude_max=True)
optimizers = st.builds(
    OptimizerRecipe,
    name=st.sampled_from(["adam", "soap"]),
    learning_rate=st.floats(0, 10, exclude_min=True),
    betas=st.tuples(decays, decays),
    precondition_every=counts,
    gradient_clip=st.floats(0, 1e300),
)
schedules = st.builds(
    ScheduleRecipe,
    steps=st.integers(11, 10**12),
    warmup=st.integers(0, 10),
    decay=st.sampled_from(["cosine", "none"]),
) | st.builds(
    ScheduleRecipe, steps=st.integers(1, 10**12), decay=st.just("halving"), halve_every=counts
)
recipes = st.builds(
    Recipe,
    network=st.dictionaries(names, st.integers() | names | st.booleans(), max_size=3),
    data=st.builds(
        DataRecipe,
        folders=st.lists(names, min_size=1, max_size=3).map(tuple),
        patch=st.integers(8, 1000),
        batch=counts,
        channel_shuffle=st.booleans(),
    ),
    schedule=schedules,
    optimizer=optimizers,
    quantization=st.builds(
        QuantizationRecipe,
        schedule=st.none() | schedules,
        optimizer=optimizers,
        calibration=counts,
        percentile=st.floats(50, 100, exclude_min=True),
    ),
    validation=st.builds(ValidationRecipe, folders=st.lists(names, max_size=2).map(tuple)),
    loss=st.sampled_from(["l1", "l2", "relative_l2"]),
    ema_decay=decays,
    seed=st.integers(0, 2**32),
    initial_weights=st.lists(names, max_size=2).map(tuple),
)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(recipe=recipes)
def test_recipe_survives_the_record_of_its_run(recipe: Recipe) -> None:
    text = json.dumps(recipe.as_table(), allow_nan=False)
    assert parse_table(Recipe, json.loads(text), "") == recipe


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"learning_rate": 1}, "learning_rate"),
        ({"data": {"folders": ["a"], "path": 1}}, "data.path"),
        ({"schedule": {"steps": 1, "epochs": 1}}, "schedule.epochs"),
        ({"optimizer": {"lr": 1}}, "optimizer.lr"),
        ({"validation": {"folder": "a"}}, "validation.folder"),
        ({"quantization": {"bits": 8}}, "quantization.bits"),
        ({"quantization": {"schedule": {"steps": 1, "x": 1}}}, "quantization.schedule.x"),
        ({"quantization": {"optimizer": {"momentum": 1}}}, "quantization.optimizer.momentum"),
    ],
)
def test_unknown_key_is_named_with_those_that_are_known(
    changes: dict[str, object], key: str
) -> None:
    refused(table(**changes), f"unknown key {key}; known are: ")


@pytest.mark.parametrize(
    ("changed", "key"),
    [
        ({}, "network"),
        ({"network": {}, "schedule": {"steps": 1}}, "data"),
        ({"network": {}, "data": {"folders": ["a"]}}, "schedule"),
        (table(data={}), "data.folders"),
        (table(schedule={"warmup": 1}), "schedule.steps"),
        (table(quantization={"schedule": {}}), "quantization.schedule.steps"),
    ],
)
def test_missing_key_is_named(changed: dict[str, object], key: str) -> None:
    refused(changed, f"{key} is missing")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": "abpn"}, "network is "),
        ({"data": ["a"]}, "data is a table, not ['a']"),
        ({"data": {"folders": 1}}, "data.folders is a list, not 1"),
        ({"data": {"folders": ["a", 1]}}, "data.folders is str, not 1"),
        ({"data": {"folders": ["a"], "patch": 8.5}}, "data.patch is int, not 8.5"),
        ({"data": {"folders": ["a"], "patch": 64.0}}, "data.patch is int, not 64.0"),
        ({"data": {"folders": ["a"], "batch": "4"}}, "data.batch is int, not '4'"),
        ({"schedule": {"steps": 1, "decay": "linear"}}, "schedule.decay is one of cosine, halv"),
        ({"schedule": {"steps": 1, "decay": ["cosine"]}}, "schedule.decay is one of cosine, halv"),
        ({"schedule": 3}, "schedule is a table, not 3"),
        ({"optimizer": {"name": "sgd"}}, "optimizer.name is one of adam, soap; not 'sgd'"),
        ({"optimizer": {"learning_rate": "1e-3"}}, "optimizer.learning_rate is float, not '1e-3'"),
        ({"optimizer": {"betas": [0.9]}}, "optimizer.betas has 2 entries, not 1"),
        ({"optimizer": {"betas": [0.9, "0.9"]}}, "optimizer.betas is float, not '0.9'"),
        ({"optimizer": {"betas": 0.9}}, "optimizer.betas is a list, not 0.9"),
        ({"quantization": {"schedule": 1}}, "quantization.schedule is a table, not 1"),
        ({"loss": 1}, "loss is one of l1, l2, relative_l2; not 1"),
        ({"seed": None}, "seed is int, not None"),
        ({"initial_weights": ["run", 1]}, "initial_weights is str, not 1"),
    ],
)
def test_value_of_another_type_is_refused(changes: dict[str, object], message: str) -> None:
    refused(table(**changes), message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": True}, "seed is int, not True"),
        ({"ema_decay": False}, "ema_decay is float, not False"),
        ({"initial_weights": True}, "initial_weights is a list, not True"),
        ({"data": {"folders": ["a"], "batch": True}}, "data.batch is int, not True"),
        ({"data": {"folders": ["a"], "channel_shuffle": 1}}, "data.channel_shuffle is bool, not 1"),
        ({"optimizer": {"betas": [0.5, True]}}, "optimizer.betas is float, not True"),
    ],
)
def test_truth_is_not_a_number(changes: dict[str, object], message: str) -> None:
    refused(table(**changes), message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"folders": []}}, "data.folders names at least one folder"),
        ({"data": {"folders": ["a"], "patch": 7}}, "data.patch is from 8 to 1,000,000"),
        ({"data": {"folders": ["a", ""]}}, "data.folders: an empty name would mean"),
        ({"data": {"folders": ["a"], "batch": 0}}, "data.batch is from 1 to 1,000,000"),
        ({"data": {"folders": ["a"], "batch": 10**17}}, "data.batch is from 1 to 1,000,000"),
        ({"data": {"folders": ["a"], "candidates": 10**17}}, "data.candidates is from 1 to 1,0"),
        ({"schedule": {"steps": -1}}, "schedule.steps is from 0 to 1,000,000,000,000"),
        ({"schedule": {"steps": 10**17}}, "schedule.steps is from 0 to 1,000,000,000,000"),
        ({"initial_weights": ["a", ""]}, "initial_weights: a name is empty"),
        ({"validation": {"folders": [""]}}, "validation.folders: a name is empty"),
        ({"schedule": {"steps": 5, "warmup": 5}}, "schedule.warmup is below steps"),
        ({"schedule": {"steps": 5, "warmup": -1}}, "schedule.warmup is below steps"),
        ({"schedule": {"steps": 5, "decay": "halving"}}, "schedule.halve_every is given with"),
        ({"schedule": {"steps": 5, "halve_every": 2}}, "schedule.halve_every is given with"),
        ({"optimizer": {"learning_rate": 0}}, "optimizer.learning_rate is positive"),
        (
            {"optimizer": {"learning_rate": 1e300}},
            "optimizer.learning_rate is positive and at most 10",
        ),
        ({"optimizer": {"betas": [0.9, 1]}}, "optimizer.betas are in [0, 1)"),
        ({"optimizer": {"betas": [-0.1, 0.9]}}, "optimizer.betas are in [0, 1)"),
        ({"optimizer": {"precondition_every": 0}}, "optimizer.precondition_every is at least 1"),
        ({"optimizer": {"gradient_clip": -1}}, "optimizer.gradient_clip is not negative"),
        ({"validation": {"every": 0}}, "validation.every is at least 1"),
        ({"quantization": {"calibration": 0}}, "quantization.calibration is from 1 to 1,000,000"),
        ({"quantization": {"calibration": 10**17}}, "quantization.calibration is from 1 to 1,0"),
        ({"quantization": {"percentile": 50}}, "quantization.percentile is in (50, 100]"),
        ({"quantization": {"percentile": 100.1}}, "quantization.percentile is in (50, 100]"),
        ({"ema_decay": 1}, "ema_decay is in [0, 1)"),
        ({"ema_decay": -0.1}, "ema_decay is in [0, 1)"),
        ({"seed": -1}, "seed is in [0, 2^63)"),
        # The same classes in another place: the message has the name of that place.
        ({"quantization": {"schedule": {"steps": -1}}}, "quantization.schedule.steps is from 0"),
        (
            {"quantization": {"optimizer": {"learning_rate": -1}}},
            "quantization.optimizer.learning_rate is positive",
        ),
    ],
)
def test_value_out_of_range_is_refused(changes: dict[str, object], message: str) -> None:
    refused(table(**changes), message)


@pytest.mark.parametrize("value", ["inf", "-inf", "nan", "1" + "0" * 400])
@pytest.mark.parametrize("key", ["learning_rate", "gradient_clip"])
def test_number_that_is_not_finite_is_refused(tmp_path: Path, key: str, value: str) -> None:
    with pytest.raises(RecipeError, match=f"optimizer.{key} is (a finite number|out of range)"):
        read(tmp_path, f"{MINIMAL}\n[optimizer]\n{key} = {value}")


def test_file_is_named_in_every_error(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"recipe\.toml: unknown key schedule\.stpes"):
        read(tmp_path, MINIMAL.replace("steps", "stpes"))


@pytest.mark.parametrize(
    "content",
    [
        b"steps 100",
        b"[network",
        b'a = "\xff"',
        b"a = 1\na = 2",
        b"\x89PNG\r\n",
        b"a = " + b"9" * 5000,
    ],
)
def test_file_that_is_not_toml_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "recipe.toml"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=r"recipe\.toml is not a TOML file: "):
        read_recipe(path)


def test_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"none\.toml does not exist"):
        read_recipe(tmp_path / "none.toml")
    with pytest.raises(RecipeError, match="is a folder"):
        read_recipe(tmp_path)


def test_empty_file_says_what_is_missing_first(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="network is missing"):
        read(tmp_path, "")
