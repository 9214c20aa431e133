"""The challenge's files, rules and score, and the operators that accelerators accept."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from PIL import Image

from anchorsr.cli import app
from anchorsr.data.imresize import downscale
from anchorsr.engines.runtimes import LiteRT
from anchorsr.errors import DataError, ExactnessError, GraphError, ModelError, OutputError
from anchorsr.evaluation.evaluate import evaluate
from anchorsr.export import challenge
from anchorsr.export.accelerators import ACCELERATORS, not_looked_up
from anchorsr.export.challenge import (
    FIXED,
    FLOAT,
    FREE,
    build,
    check_rules,
    measure_quality,
    measure_time,
    score,
    write_files,
)
from anchorsr.graph.dequantize import dequantize
from anchorsr.graph.executor import run_graph
from anchorsr.graph.graph import Graph
from anchorsr.graph.operators import Conv2D
from anchorsr.inference.image_upscaler import upscale
from anchorsr.metrics import psnr
from anchorsr.models.registry import model_path, read_model
from anchorsr.serialization.tflite.reader import read_tflite
from anchorsr.serialization.tflite.summary import TensorInfo, summarize
from anchorsr.serialization.tflite.writer import write_tflite
from helpers.graphs import float_graph, image, integer_graph, reference_run


@pytest.fixture(scope="module")
def abpn() -> Graph:
    return read_model(model_path("abpn", 3))[1]


@pytest.fixture(scope="module")
def files(abpn: Graph) -> dict[str, bytes]:
    return build(abpn, description="words")


@pytest.fixture
def small_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """The numpy executor, with which files are compared, takes seconds for the real one."""
    monkeypatch.setattr(challenge, "SIZE", (36, 64))


@pytest.fixture
def images(tmp_path: Path, dog: np.ndarray) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    Image.fromarray(dog[:150, :240]).save(folder / "a.png")
    Image.fromarray(dog[60:, 30:]).save(folder / "b.png")
    return folder


def details(data: bytes) -> list[Any]:
    interpreter = Interpreter(model_content=data)
    interpreter.allocate_tensors()
    return [*interpreter.get_input_details(), *interpreter.get_output_details()]


# The score


@pytest.mark.parametrize(
    ("decibels", "milliseconds", "published"), [(29.87, 36.89, 92.7), (29.58, 44.85, 51.0)]
)
def test_the_score_is_that_of_the_report(
    decibels: float, milliseconds: float, published: float
) -> None:
    assert score(decibels, milliseconds) == pytest.approx(published, abs=0.05)


def test_a_decibel_is_worth_a_quarter_of_the_time() -> None:
    assert score(31, 40) == pytest.approx(score(30, 10))
    assert score(30, 10, constant=2.0**49) == pytest.approx(score(30, 10) / 2)
    assert score(float("inf"), 10) == float("inf")


# The files


@pytest.mark.slow
def test_the_files_are_of_the_kinds_that_are_asked_for(files: dict[str, bytes]) -> None:
    assert list(files) == ["model.tflite", "model_none.tflite", "model_none_float.tflite"]
    fixed, free, real = (details(files[name]) for name in (FIXED, FREE, FLOAT))
    assert [d["shape_signature"].tolist() for d in fixed] == [[1, 360, 640, 3], [1, 1080, 1920, 3]]
    for edges, dtype in ((free, np.uint8), (real, np.float32)):
        assert [d["shape_signature"].tolist() for d in edges] == [[1, -1, -1, 3]] * 2
        assert {d["dtype"] for d in edges} == {dtype}
    assert {d["dtype"] for d in fixed} == {np.uint8}


@pytest.mark.slow
def test_all_three_give_the_same_image(files: dict[str, bytes], dog: np.ndarray) -> None:
    small = np.ascontiguousarray(np.tile(dog, (2, 3, 1))[:360, :640])[None]
    expected = upscale(small[0], model="abpn", engine="litert")[None]
    np.testing.assert_array_equal(LiteRT(files[FIXED], 1)(small), expected)
    np.testing.assert_array_equal(LiteRT(files[FREE], 1)(small), expected)
    real = LiteRT(files[FLOAT], 1, np.float32)(small.astype(np.float32))
    assert real.dtype == np.float32
    assert psnr(real, expected, border=0) > 45
    assert 0 <= real.min() < real.max() <= 255


def test_what_is_no_submission_is_refused() -> None:
    with pytest.raises(GraphError, match="quantize it first"):
        build(float_graph(0))
    with pytest.raises(GraphError, match="the challenge is x3"):
        build(integer_graph(0, factor=2))


@pytest.mark.usefixtures("small_size")
def test_a_float_file_that_computes_something_else_is_refused(
    abpn: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = challenge.write_tflite

    def wrong(graph: Graph, **options: Any) -> bytes:
        first = graph.operators[0]
        if isinstance(first, Conv2D) and first.bias.dtype == np.float32:
            changed = replace(first, bias=first.bias + np.float32(1))
            graph = replace(graph, operators=(changed, *graph.operators[1:]))
        return written(graph, **options)

    monkeypatch.setattr(challenge, "write_tflite", wrong)
    with pytest.raises(ExactnessError, match="differs from the float graph"):
        build(abpn)


@pytest.mark.slow
def test_writing_is_whole_or_not_at_all(tmp_path: Path, files: dict[str, bytes]) -> None:
    folder = tmp_path / "new" / "folder"
    write_files(files, folder)
    assert {name: (folder / name).read_bytes() for name in os.listdir(folder)} == files
    (folder / FIXED).unlink()
    (folder / FREE).unlink()
    with pytest.raises(OutputError, match="exists already"):
        write_files(files, folder)
    assert os.listdir(folder) == [FLOAT]
    write_files(files, folder, overwrite=True)
    with pytest.raises(OutputError, match="is not a folder"):
        write_files(files, folder / FIXED)


# The rules


@pytest.mark.slow
def test_a_submission_keeps_every_rule(files: dict[str, bytes]) -> None:
    checks = check_rules(files)
    assert all(check.passed for check in checks)
    assert checks[-1].found == "QUANTIZE CONV_2D ADD DEPTH_TO_SPACE"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "taken", "broken"),
    [
        (FIXED, FREE, {"model.tflite: input", "model.tflite: output"}),
        (FREE, FIXED, {"model_none.tflite: input", "model_none.tflite: output"}),
        (FLOAT, FREE, {"model_none_float.tflite: input", "model_none_float.tflite: output"}),
        (
            FREE,
            FLOAT,
            {
                "model_none.tflite: 8-bit integers throughout",
                "model_none.tflite: input",
                "model_none.tflite: output",
                "model.tflite and model_none.tflite: the same operators",
            },
        ),
    ],
)
def test_a_wrong_file_is_found(
    files: dict[str, bytes], place: str, taken: str, broken: set[str]
) -> None:
    checks = check_rules({**files, place: files[taken]})
    names = {check.rule.split(" 1×")[0] for check in checks if not check.passed}
    assert names == broken


def test_a_file_says_what_it_is() -> None:
    graph = integer_graph(0, depth=1)
    summary = summarize(write_tflite(graph, size=(4, 5)))
    expected = ("QUANTIZE", *["CONV_2D"] * 3, "ADD", "DEPTH_TO_SPACE", "QUANTIZE")
    assert summary.operators == expected
    assert summary.input == TensorInfo("uint8", (1, 4, 5, 3))
    assert summary.output == TensorInfo("uint8", (1, 12, 15, 3))
    assert summary.dtypes == {"uint8", "int8", "int32"}
    clipped = summarize(write_tflite(float_graph(0)))
    assert clipped.operators[-2:] == ("MAXIMUM", "MINIMUM")
    for data in (b"", b"words", write_tflite(graph)[:200]):
        with pytest.raises(ModelError, match=r"not a \.tflite file"):
            summarize(data)


@pytest.mark.slow
def test_accelerators_are_asked_for_every_operator(files: dict[str, bytes]) -> None:
    refused = {a.name: a.refuses(summarize(files[FREE]).operators) for a in ACCELERATORS}
    assert refused.pop("Edge TPU") == ("DEPTH_TO_SPACE",)
    assert refused.pop("MediaTek NeuroPilot") == ("DEPTH_TO_SPACE",)
    assert refused.pop("Samsung AI LiteCore") == ("DEPTH_TO_SPACE", "QUANTIZE")
    assert set(refused.values()) == {()}
    some = ["WHILE", "ADD", "CALL", "WHILE", "DEPTH_TO_SPACE"]
    assert ACCELERATORS[-1].refuses(some) == ("DEPTH_TO_SPACE",)
    assert not_looked_up(some) == ("CALL", "WHILE")
    assert all(accelerator.source for accelerator in ACCELERATORS)


# Float and integer


@pytest.mark.parametrize("quantize_last", [True, False])
def test_the_float_graph_differs_by_rounding_only(quantize_last: bool) -> None:
    """Without hidden layers only the residual is rounded; this one is small, so it is all."""
    graph = integer_graph(1, depth=0, quantize_last=quantize_last)
    before, residual, *rest = graph.operators
    assert isinstance(residual, Conv2D)
    assert residual.weight_scales is not None
    small = replace(residual, weight_scales=residual.weight_scales / np.float32(16))
    graph = replace(graph, operators=(before, small, *rest))
    real = dequantize(graph)
    assert not real.is_integer
    assert (real.factor, real.halo, real.macs_per_pixel) == (
        graph.factor,
        graph.halo,
        graph.macs_per_pixel,
    )
    images = image(1, 31, 17)
    integers = reference_run(graph, images).astype(float)
    floats = reference_run(real, images.astype(np.float32))
    assert np.abs(integers - floats).max() <= 0.5 + 1e-3
    assert np.abs(integers - floats).max() > 0.4
    stored = run_graph(read_tflite(write_tflite(real)), images.astype(np.float32))
    np.testing.assert_allclose(stored, floats, atol=1e-3)


def test_a_float_graph_has_nothing_to_dequantize() -> None:
    with pytest.raises(GraphError, match="float graph already"):
        dequantize(float_graph(0))


# What is measured


@pytest.mark.slow
def test_quality_is_that_of_evaluate(files: dict[str, bytes], images: Path) -> None:
    seen: list[str] = []
    quality = measure_quality(files, images, threads=1, on_image=seen.append)
    assert quality.psnr == pytest.approx(evaluate("abpn", images, border=1).psnr_rgb)
    assert seen == ["a", "b"]
    assert quality.images == 2
    assert abs(quality.psnr - quality.psnr_float) < 0.1
    assert quality.psnr != quality.psnr_float


@pytest.mark.slow
def test_the_mean_is_over_images(files: dict[str, bytes], images: Path) -> None:
    values = []
    for name in "ab":
        hr = np.asarray(Image.open(images / f"{name}.png"))
        values.append(psnr(upscale(downscale(hr, 3), model="abpn"), hr, border=1))
    assert measure_quality(files, images).psnr == pytest.approx(np.mean(values))


@pytest.mark.slow
def test_a_folder_without_images_is_told(files: dict[str, bytes], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no image"):
        measure_quality(files, tmp_path)
    Image.new("RGB", (3, 3)).save(tmp_path / "dot.png")
    assert measure_quality(files, tmp_path).images == 1
    Image.new("RGB", (300, 1)).save(tmp_path / "line.png")
    with pytest.raises(DataError, match="smaller than 3x3"):
        measure_quality(files, tmp_path)


@pytest.mark.slow
def test_time_is_a_positive_number(
    files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(challenge, "_ROUNDS", 3)
    assert 0 < measure_time(files[FIXED], threads=1) < 60_000
    with pytest.raises(ModelError):
        measure_time(b"words")


# The command

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: Any, small_size: None
) -> Call:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        code = app.run(["challenge", *map(str, arguments)])
        return code, *capsys.readouterr()

    return run


@pytest.mark.slow
def test_the_command_makes_the_files_and_says_what_they_score(
    call: Call, files: dict[str, bytes], images: Path
) -> None:
    code, out, err = call("abpn", "-o", "out", "--images", images, "--runtime", 36.9, "--json")
    assert (code, err) == (0, "")
    (report,) = json.loads(out)
    quality = measure_quality(files, images)
    assert report["psnr"] == pytest.approx(quality.psnr)
    assert report["score_2021"] == pytest.approx(score(quality.psnr, 36.9))
    assert (report["images"], report["pictures"], report["time_of"]) == (str(images), 2, "device")
    assert report["refused_by"]["NNAPI delegate"] == []
    assert all(check["kept"] for check in report["checks"])
    written = {Path(path).name: Path(path).read_bytes() for path in report["files"]}
    assert list(written) == list(files)
    assert summarize(written[FIXED]).input.shape == (1, 36, 64, 3)
    for name in (FREE, FLOAT):
        assert summarize(written[name]) == summarize(files[name])


@pytest.mark.slow
def test_without_images_there_is_no_score_and_it_says_so(call: Call) -> None:
    code, out, err = call("abpn", "-o", "out", "--runtime", 5)
    assert code == 0
    assert "PSNR" not in out
    assert "score" not in out
    assert err.startswith("note: no PSNR and no score without images")
    assert "DEPTH_TO_SPACE" in out
    assert "1×108×192×3 uint8" in out
    code, out, err = call("abpn", "-o", "out", "--runtime", 5)
    assert (code, out) == (1, "")
    assert "exists already" in err
    code, out, _ = call("abpn", "-o", "out", "--runtime", 5, "--force", "--json")
    assert code == 0
    assert json.loads(out)[0]["score_2021"] is None


def test_a_model_is_not_overwritten_by_its_own_submission(call: Call, tmp_path: Path) -> None:
    model = tmp_path / FREE
    model.write_bytes(write_tflite(integer_graph(0)))
    before = model.read_bytes()
    code, out, err = call(model, "-o", ".", "--runtime", 5, "--force")
    assert (code, out) == (1, "")
    assert f"{FREE} is an input" in err
    assert model.read_bytes() == before
    assert os.listdir(tmp_path) == [FREE]


@pytest.mark.slow
def test_mistakes_are_told_before_anything_is_written(call: Call, tmp_path: Path) -> None:
    (tmp_path / "x2.tflite").write_bytes(write_tflite(integer_graph(0, factor=2)))
    for arguments, words in [
        (["x2.tflite", "-o", "out"], "the challenge is x3"),
        (["none.tflite", "-o", "out"], "does not exist"),
        (["abpn", "-o", "x2.tflite"], "is not a folder"),
        (["abpn", "-o", "out", "--images", "none"], "not an existing folder"),
    ]:
        code, out, err = call(*arguments)
        assert (code, out) == (1, "")
        assert words in err
        assert err.count("\n") == 1
    for runtime in (0, "inf", "nan"):
        assert call("abpn", "-o", "out", "--runtime", runtime)[0] == 2
    assert os.listdir(tmp_path) == ["x2.tflite"]
