"""Exported files: written only if a runtime reproduces them and nothing is lost; and their integers
are those of another quantizer."""

from __future__ import annotations

import dataclasses
import doctest
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from anchorsr.engines.runtimes import load_engine
from anchorsr.errors import ExactnessError, GraphError, ModelError, OutputError
from anchorsr.export import export as export_module
from anchorsr.export.export import SIZES, check_exact, export_graph, export_model
from anchorsr.graph import operators as ops
from anchorsr.graph.dequantize import dequantize
from anchorsr.graph.executor import run_graph
from anchorsr.graph.graph import Graph
from anchorsr.models.registry import model_path, read_model
from anchorsr.quantization.calibration import choose_quantization, observe_ranges
from anchorsr.quantization.ptq import apply_quantization
from anchorsr.serialization.tflite.reader import read_tflite
from anchorsr.serialization.tflite.writer import write_tflite
from helpers.graphs import assert_equal_graphs, float_graph, image, integer_graph, reference_run

SUFFIXES = [".tflite", ".onnx", ".TFLITE"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_of_free_size_takes_every_size(tmp_path: Path, suffix: str) -> None:
    graph = integer_graph(0)
    path = tmp_path / f"mine{suffix}"
    export_graph(graph, path)
    engine = load_engine(path, threads=1)
    for size in ((1, 1), (5, 3), (31, 17)):
        images = image(1, *size)
        np.testing.assert_array_equal(engine(images), reference_run(graph, images))
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_of_fixed_size_takes_only_that(tmp_path: Path, suffix: str) -> None:
    graph = integer_graph(1, factor=2)
    path = tmp_path / f"mine{suffix}"
    export_graph(graph, path, size=(9, 14))
    engine = load_engine(path, threads=1)
    images = image(1, 9, 14)
    np.testing.assert_array_equal(engine(images), reference_run(graph, images))
    with pytest.raises(ModelError):
        engine(image(1, 14, 9))


def test_what_is_exported_can_be_read_back(tmp_path: Path) -> None:
    graph = integer_graph(2)
    export_graph(graph, tmp_path / "random2.tflite", description="words")
    assert_equal_graphs(read_tflite((tmp_path / "random2.tflite").read_bytes()), graph)
    import onnx

    export_graph(graph, tmp_path / "random2.onnx", description="words")
    assert onnx.load(tmp_path / "random2.onnx").doc_string == "words"


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".tflite", ".onnx"])
def test_one_byte_that_differs_and_nothing_is_published(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OneByteOff:
        name = "unreliable"

        def __init__(self, data: bytes) -> None:
            self._engine = load_engine(data, threads=1)

        def __call__(self, images: np.ndarray) -> np.ndarray:
            output = self._engine(images).copy()
            if images.shape[1:3] == SIZES[-1]:  # at the last of the sizes only
                output[0, 100, 200, 1] ^= 1
            return output

    monkeypatch.setattr(export_module, "load_engine", OneByteOff)
    existing = tmp_path / f"old{suffix}"
    existing.write_bytes(b"precious")
    for path in (tmp_path / f"new{suffix}", existing):
        with pytest.raises(ExactnessError, match=r"unreliable differs .* at 64x96 in 1 of 165888"):
            export_graph(integer_graph(0), path, overwrite=True)
    assert [found.name for found in tmp_path.iterdir()] == [existing.name]
    assert existing.read_bytes() == b"precious"


def test_a_result_of_another_shape_is_not_exact() -> None:
    class Cropping:
        name = "cropping"

        def __call__(self, images: np.ndarray) -> np.ndarray:
            return run_graph(integer_graph(0), images)[:, 1:]

    with pytest.raises(ExactnessError, match=r"cropping returned shape \(1, 2, 3, 3\)"):
        check_exact(integer_graph(0), Cropping())


@pytest.mark.slow
@pytest.mark.parametrize("half", [False, True], ids=["float32", "float16"])
@pytest.mark.parametrize("suffix", [".tflite", ".onnx"])
def test_floats_are_those_of_the_graph(tmp_path: Path, suffix: str, half: bool) -> None:
    graph = dequantize(read_model(model_path("fast", 2))[1])
    path = tmp_path / f"mine{suffix}"
    data = export_graph(graph, path, half=half)
    assert (np.frombuffer(data, np.uint8).size < 4 * graph.parameter_count) == half
    images = image(0, 9, 14)
    made = load_engine(path, threads=1, dtype=np.float32)(images.astype(np.float32))
    whole = run_graph(graph, images.astype(np.float32))
    np.testing.assert_allclose(made, whole, atol=2 if half else 0.05)


def test_a_float_file_is_one_of_a_shipped_model(tmp_path: Path, dog: np.ndarray) -> None:
    exported = export_model("fast", tmp_path / "fast.tflite", factor=2, precision="float32")
    engine = load_engine(exported.path, threads=1, dtype=np.float32)
    images = dog[None, 64:88, 64:96]
    integers = run_graph(read_model(model_path("fast", 2))[1], images)
    assert np.abs(engine(images.astype(np.float32)) - integers).mean() < 0.6


def test_a_runtime_whose_floats_differ_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_module, "_FLOAT32_TOLERANCE", -1.0)
    with pytest.raises(ExactnessError, match=r"differs from the network by .* levels at 1x1"):
        export_graph(float_graph(0), tmp_path / "mine.tflite")
    assert not list(tmp_path.iterdir())
    with pytest.raises(GraphError, match="dequantize it for float16"):
        export_graph(integer_graph(0), tmp_path / "mine.tflite", half=True)


@pytest.mark.parametrize("name", ["mine", "mine.tfl", "mine.tflite.txt", ".onnx"])
def test_another_suffix_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError, match=r"ends with none of: \.tflite, \.onnx"):
        export_graph(integer_graph(0), tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".tflite", ".onnx"])
def test_an_existing_file_is_replaced_only_when_asked(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"mine{suffix}"
    path.write_bytes(b"precious")
    with pytest.raises(OutputError, match="exists already"):
        export_graph(integer_graph(0), path)
    assert path.read_bytes() == b"precious"
    export_graph(integer_graph(0), path, overwrite=True)
    assert load_engine(path, threads=1)(image(0, 4, 5)).shape == (1, 12, 15, 3)


def test_a_missing_folder_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="not an existing folder"):
        export_graph(integer_graph(0), tmp_path / "missing" / "mine.tflite")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", [(0, 5), (5, -1)])
@pytest.mark.parametrize("suffix", [".tflite", ".onnx"])
def test_an_impossible_size_is_refused(tmp_path: Path, suffix: str, size: tuple[int, int]) -> None:
    with pytest.raises(GraphError, match="positive"):
        export_graph(integer_graph(0), tmp_path / f"mine{suffix}", size=size)
    assert not list(tmp_path.iterdir())


# By name


def test_a_shipped_model_is_exported_by_name(tmp_path: Path) -> None:
    import onnx

    exported = export_model("abpn", tmp_path / "mine.onnx", factor=3, size=(8, 9))
    data = (tmp_path / "mine.onnx").read_bytes()
    assert exported.path == tmp_path / "mine.onnx"
    assert (exported.factor, exported.size) == (3, (8, 9))
    assert exported.sha256 == hashlib.sha256(data).hexdigest()
    source = model_path("abpn", 3)
    origin = json.loads(onnx.load(exported.path).doc_string)
    assert origin["from_sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    with pytest.raises(OutputError, match="exists already"):
        export_model("abpn", exported.path)
    with pytest.raises(ModelError, match="no model 'nothing'"):
        export_model("nothing", tmp_path / "nothing.onnx")


def test_a_model_does_not_replace_itself(tmp_path: Path) -> None:
    path = tmp_path / "mine.tflite"
    path.write_bytes(write_tflite(integer_graph(0)))
    with pytest.raises(OutputError, match="is an input"):
        export_model(path, path, overwrite=True)


def test_the_example_in_the_docstring_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (example,) = doctest.DocTestFinder(recurse=False).find(export_model, "export_model")
    assert len(example.examples) == 3
    assert doctest.DocTestRunner().run(example).failed == 0


# Against litert-quantizer


def without_clip(graph: Graph) -> Graph:
    """The other quantizer does not take constants of another rank than their partner's."""
    *operators, clip = graph.operators
    assert isinstance(clip, ops.Clip)
    tensors = {name: kind for name, kind in graph.tensors.items() if name != clip.output}
    return Graph(graph.name, tensors, operators, graph.input, clip.input)


def with_one_more_layer(graph: Graph) -> Graph:
    """A convolution without ReLU between `hidden` and `residual`: its range has two ends."""
    generator = np.random.default_rng(0)
    channels = graph.tensors["hidden"].channels
    more = ops.Conv2D(
        "hidden",
        "more",
        generator.normal(0, 0.1, (channels, 1, 1, channels)).astype(np.float32),
        generator.normal(5, 1, channels).astype(np.float32),
    )
    hidden, residual, *others = graph.operators
    operators = (hidden, more, dataclasses.replace(residual, input="more"), *others)
    tensors = {**graph.tensors, "more": graph.tensors["hidden"]}
    return Graph(graph.name, tensors, operators, graph.input, graph.output)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")  # its interpreter keeps all tensors, and warns
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_another_quantizer_finds_the_same_integers(seed: int) -> None:
    """litert-quantizer, int8 activations and int8 weights by channel, from the same ranges.

    The conventions meet with a weight limit of 127, which is its own; here it is 64. The ranges
    are handed over, because its own calibration runs LiteRT in float, whose sums are rounded
    otherwise. Images and the residual, whose scale is 1 by rule here, get the ranges that say
    so there: 0..255 and -128..127. Its file takes and gives int8 where the file here has
    uint8, which is a difference of 128. All else is equal: scales, zero points, weights, biases
    and every byte of an image.
    """
    from litert_quantizer import quantizer
    from litert_quantizer import recipe as quantizer_recipes

    graph = without_clip(with_one_more_layer(float_graph(seed)))
    images = image(seed, 16, 12)
    ranges = dict(observe_ranges(graph, images, 100.0))
    chosen = choose_quantization(graph, ranges)
    for name in ("images", "anchor", "sum", "large"):
        ranges[name] = (0.0, 255.0)
    ranges["residual"] = (-128.0, 127.0)
    mine = apply_quantization(graph, chosen, weight_limit=127)

    other = quantizer.Quantizer(
        write_tflite(graph, size=(16, 12)), quantizer_recipes.static_wi8_ai8()
    )
    calibrated = {
        name: {
            "min": np.full((1, 1, 1, 1), low, np.float32),
            "max": np.full((1, 1, 1, 1), high, np.float32),
        }
        for name, (low, high) in ranges.items()
    }
    result = other.quantize(calibrated, enable_progress_report=False)
    interpreter = Interpreter(model_content=bytes(result.quantized_model))
    interpreter.allocate_tensors()
    theirs = {tensor["name"]: tensor for tensor in interpreter.get_tensor_details()}

    for name in ("hidden", "more", "residual", "anchor", "sum"):
        quantization = mine.tensors[name].quantization
        assert quantization is not None
        parameters = theirs[name]["quantization_parameters"]
        # Two ends of a range are subtracted in float32 there: one rounding more.
        np.testing.assert_allclose(parameters["scales"], [quantization.scale], rtol=2**-23)
        assert parameters["zero_points"].tolist() == [quantization.zero_point]
        assert theirs[name]["dtype"] == np.int8
    assert chosen["hidden"].zero_point == -128
    assert -128 < chosen["more"].zero_point < 127
    for operator in mine.operators:
        if not isinstance(operator, ops.Conv2D):
            continue
        weights, bias = (theirs[f"{operator.output}/{what}"] for what in ("weights", "bias"))
        scales = weights["quantization_parameters"]["scales"]
        np.testing.assert_array_equal(scales, operator.weight_scales)
        np.testing.assert_array_equal(interpreter.get_tensor(weights["index"]), operator.weights)
        np.testing.assert_array_equal(interpreter.get_tensor(bias["index"]), operator.bias)

    runner = interpreter.get_signature_runner("serving_default")
    upscaled = runner(images=(images.astype(int) - 128).astype(np.int8))["upscaled"]
    np.testing.assert_array_equal(upscaled.astype(int) + 128, run_graph(mine, images))


def test_the_limit_here_only_scales_the_integers() -> None:
    """The ±64 of the rule are the ±127 of everybody else with another scale."""
    graph = float_graph(4)
    chosen = choose_quantization(graph, observe_ranges(graph, image(4, 16, 12), 100.0))
    narrow, wide = (
        apply_quantization(graph, chosen),
        apply_quantization(graph, chosen, weight_limit=127),
    )
    for ours, usual in zip(narrow.operators, wide.operators, strict=True):
        if isinstance(ours, ops.Conv2D) and isinstance(usual, ops.Conv2D):
            assert ours.weight_scales is not None
            assert usual.weight_scales is not None
            np.testing.assert_allclose(
                ours.weight_scales * ops.WEIGHT_LIMIT, usual.weight_scales * 127, rtol=1e-6
            )
            assert int(np.abs(ours.weights).max()) == ops.WEIGHT_LIMIT
            assert int(np.abs(usual.weights).max()) == 127


@pytest.mark.parametrize("suffix", [".tflite", ".onnx"])
@pytest.mark.parametrize("size", [(36, 64), pytest.param((360, 640), marks=pytest.mark.slow)])
def test_a_shipped_model_is_exported_at_the_size_it_is_timed_at(
    tmp_path: Path, size: tuple[int, int], suffix: str
) -> None:
    path = tmp_path / f"timed{suffix}"
    _, graph = read_model(model_path("abpn"))
    export_graph(graph, path, size=size)
    height, width = size
    assert load_engine(path)(image(0, height, width)).shape == (1, 3 * height, 3 * width, 3)
    with pytest.raises(ModelError):
        load_engine(path)(image(0, width, height))
