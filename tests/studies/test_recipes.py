"""Recipes compared: each is trained once, quantized, scored and timed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from anchorsr.cli.app import run
from anchorsr.errors import RecipeError
from anchorsr.evaluation.evaluate import evaluate, run_at_every_size
from anchorsr.images.io import RasterImage, write_image
from anchorsr.quantization.qat import quantize
from anchorsr.serialization.tflite.writer import write_tflite
from anchorsr.studies.output_stage import CALIBRATED, OURS, PUBLISHED, UNSCALED, WRAPPED
from anchorsr.studies.recipes import run_study
from anchorsr.training.machine import Machine

RECIPE = """
seed = 1
[network]
name = "abpn"
channels = {channels}
body = 1
image_convolution = false
expansion = 0
[data]
folders = ["{folder}"]
patch = 12
batch = 2
[schedule]
steps = 3
[quantization]
calibration = 2
{integers}
[validation]
folders = ["{folder}"]
every = 3
"""
INTEGERS = "schedule = { steps = 2 }"


@pytest.fixture(scope="module")
def recipes(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two recipes over the same images; the second has no quantization-aware training."""
    folder = tmp_path_factory.mktemp("study")
    images = folder / "images"
    images.mkdir()
    for number in range(2):
        noise = np.random.default_rng(number).integers(0, 256, (48, 60, 3), np.uint8)
        write_image(images / f"{number}.png", RasterImage(noise))
    paths = []
    for name, channels, integers in (("wide", 8, INTEGERS), ("narrow", 4, "")):
        paths.append(folder / f"{name}.toml")
        text = RECIPE.format(channels=channels, folder=images, integers=integers)
        paths[-1].write_text(text)
    return paths


@pytest.mark.slow
def test_each_recipe_is_trained_once_and_measured(recipes: list[Path], tmp_path: Path) -> None:
    options = {"engines": ["litert"], "size": (8, 8), "rounds": 1, "machine": Machine(threads=1)}
    seen: list[str] = []
    wide, narrow = run_study(recipes, tmp_path, on_recipe=seen.append, **options)
    assert seen == ["wide", "narrow"]
    assert (wide.parameters, wide.steps) == (3 * 72 + 8 + 576 + 8 + 27 * 72 + 27, 3)
    assert narrow.parameters < wide.parameters
    assert narrow.trained_psnr is None
    assert wide.latency_ms.keys() == {"litert"}
    figure = evaluate(tmp_path / "wide", recipes[0].parent / "images").psnr_rgb
    assert wide.float_psnr == {"images": figure}

    steps: list[object] = []
    again = run_study(recipes, tmp_path, on_progress=steps.append, **options)
    assert not steps
    assert (again[0].trained_psnr, again[0].steps) == (wide.trained_psnr, wide.steps)


def test_what_is_wrong_with_a_later_recipe_is_told_first(
    recipes: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    twin = tmp_path / "other/wide.toml"
    twin.write_text(recipes[0].read_text())
    wrong = tmp_path / "wrong.toml"
    wrong.write_text(recipes[1].read_text().replace("body = 1", "bodies = 1"))
    for second, words in ((twin, "two recipes are named wide"), (wrong, "wrong: .*bodies")):
        with pytest.raises(RecipeError, match=words):
            run_study([recipes[0], second], tmp_path / "runs", engines=["litert"])
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_file_for_each_size_gives_what_one_for_all_gives(
    recipes: list[Path], tmp_path: Path
) -> None:
    run_study(recipes[1:], tmp_path, engines=[], rounds=1)
    graph = quantize(tmp_path / "narrow", qat=False).graph
    model = tmp_path / "narrow.tflite"
    model.write_bytes(write_tflite(graph))
    images = recipes[0].parent / "images"
    method = run_at_every_size(graph)
    lr = np.random.default_rng(0).integers(0, 256, (2, 9, 14, 3), np.uint8)
    assert method(lr[0]).shape == (27, 42, 3)
    assert not np.array_equal(method(lr[0]), method(lr[1]))
    (row,) = run_study(recipes[1:], tmp_path, engines=[], rounds=1)
    assert row.calibrated_psnr == {"images": evaluate(model, images).psnr_rgb}


@pytest.mark.slow
def test_the_command_prints_tables_or_json(
    recipes: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["study", *map(str, recipes), "--runs", str(tmp_path / "runs"), "--rounds", "1"]
    command += ["--engine", "litert", "--threads", "1"]
    assert run([*command, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [row["run"] for row in report["study"]] == ["wide", "narrow"]
    assert run(command) == 0
    printed = capsys.readouterr().out
    assert f"{report['study'][0]['float_psnr']['images']:.3f}" in printed
    assert "PSNR drop" in printed


@pytest.mark.slow
def test_other_output_stages_are_scored(
    recipes: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["study", str(recipes[1]), "--runs", str(tmp_path), "--rounds", "1"]
    command += ["--output-stages"]
    assert run([*command, "--engine", "litert", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    scores = {row["method"]: row["psnr_rgb"] for row in report["tails"]["narrow"]}
    assert scores[OURS] == report["study"][0]["calibrated_psnr"]["images"]
    assert scores.keys() == {OURS, PUBLISHED, CALIBRATED, UNSCALED, WRAPPED}


def test_a_wrong_engine_or_recipe_is_one_line(
    recipes: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["study", str(recipes[0]), "--engine", "abacus"]) == 2
    assert "no engine 'abacus'" in capsys.readouterr().err
    assert run(["study", str(tmp_path / "none.toml")]) == 1
    assert "does not exist" in capsys.readouterr().err
