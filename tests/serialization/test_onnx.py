"""The ONNX writer: ONNX Runtime with default options gives the bytes of the arithmetic."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", reason="needs anchorsr[onnx]")
pytest.importorskip("onnxruntime", reason="needs anchorsr[onnx]")

import onnx
import onnxruntime

from anchorsr.engines.runtimes import load_engine
from anchorsr.errors import GraphError, MissingDependencyError
from anchorsr.graph import operators as ops
from anchorsr.graph.executor import run_graph
from anchorsr.graph.graph import Graph
from anchorsr.models.registry import model_path, read_model
from anchorsr.quantization.ptq import quantize_graph
from anchorsr.serialization.onnx import write_onnx
from anchorsr.utils.sample_image import sample_image
from helpers.float_graphs import with_every_operator
from helpers.graphs import (
    SIZES,
    float_graph,
    image,
    integer_graph,
    reference_run,
    with_power_of_two_scales,
)


def run_onnx(data: bytes, images: np.ndarray) -> np.ndarray:
    """Through ONNX Runtime; images and result (1, H, W, C)."""
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    made = session.run(None, {session.get_inputs()[0].name: images.transpose(0, 3, 1, 2)})[0]
    return made.transpose(0, 2, 3, 1)


def shape_of(value: Any) -> list[int | str]:
    dimensions = value.type.tensor_type.shape.dim
    return [dimension.dim_param or dimension.dim_value for dimension in dimensions]


@pytest.mark.slow
@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_onnx_runtime_reproduces_the_arithmetic(seed: int, factor: int) -> None:
    graph = integer_graph(seed, factor=factor)
    free = write_onnx(graph)
    for size in SIZES:
        images = image(seed, *size)
        expected = reference_run(graph, images)
        np.testing.assert_array_equal(run_onnx(free, images), expected)
        np.testing.assert_array_equal(run_onnx(write_onnx(graph, size=size), images), expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"quantize_last": False},
        {"hidden_zero_point": -20},
        {"hidden_zero_point": 127},
        {"colors": 1},
        {"factor": 1},
        {"depth": 0},
        {"channels": 28, "depth": 4},
        {"channels": 1, "weight_limit": 1},
    ],
    ids=str,
)
def test_other_forms_of_the_network_are_exact_too(changes: dict[str, Any]) -> None:
    graph = integer_graph(7, **changes)
    images = image(7, 31, 17, graph.tensors["images"].channels)
    data = write_onnx(graph)
    onnx.checker.check_model(onnx.load_from_string(data), full_check=True)
    np.testing.assert_array_equal(run_onnx(data, images), reference_run(graph, images))


def test_ties_round_to_even() -> None:
    graph = with_power_of_two_scales(integer_graph(3))
    images = image(3, 64, 48)
    np.testing.assert_array_equal(run_onnx(write_onnx(graph), images), reference_run(graph, images))


def test_an_integer_graph_holds_integer_operators_only() -> None:
    model = onnx.load_from_string(write_onnx(integer_graph(0), description="words"))
    onnx.checker.check_model(model, full_check=True)
    kinds = [node.op_type for node in model.graph.node]
    assert kinds == ["QLinearConv"] * 4 + ["QLinearAdd", "DepthToSpace"]
    assert model.doc_string == "words"
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert model.graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8


def test_a_free_file_names_its_height_and_width() -> None:
    network = onnx.load_from_string(write_onnx(integer_graph(0))).graph
    assert (network.input[0].name, network.output[0].name) == ("images", "upscaled")
    assert shape_of(network.input[0]) == [1, 3, "height", "width"]
    assert shape_of(network.output[0]) == [1, 3, "height_x3", "width_x3"]


def test_a_fixed_file_holds_its_size() -> None:
    network = onnx.load_from_string(write_onnx(integer_graph(0), size=(36, 64))).graph
    assert shape_of(network.input[0]) == [1, 3, 36, 64]
    assert shape_of(network.output[0]) == [1, 3, 108, 192]


@pytest.mark.parametrize("size", SIZES)
def test_a_float_graph_runs_as_float(size: tuple[int, int]) -> None:
    graph = float_graph(0)
    images = image(0, *size).astype(np.float32)
    data = write_onnx(graph)
    onnx.checker.check_model(onnx.load_from_string(data), full_check=True)
    result = run_onnx(data, images)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, reference_run(graph, images), rtol=0, atol=1e-3)
    assert result.min() >= 0
    assert result.max() <= 255


def test_equal_graphs_give_equal_bytes() -> None:
    assert write_onnx(integer_graph(4)) == write_onnx(integer_graph(4))


def test_a_network_that_only_passes_its_input_on_does_that() -> None:
    image_type = ops.TensorType(3, "uint8", ops.Quantization(1.0, 0))
    int8 = ops.TensorType(3, "int8", ops.Quantization(1.0, -128))
    tensors = {"images": image_type, "same": int8, "upscaled": image_type}
    operators = (ops.Requantize("images", "same"), ops.Requantize("same", "upscaled"))
    images = image(5, 13, 11)
    for graph in (
        Graph("plain", tensors, operators, "images", "upscaled"),
        Graph("empty", {"images": image_type}, (), "images", "images"),
    ):
        data = write_onnx(graph)
        onnx.checker.check_model(onnx.load_from_string(data), full_check=True)
        np.testing.assert_array_equal(run_onnx(data, images), images)


def test_an_impossible_size_is_refused() -> None:
    with pytest.raises(GraphError, match="positive"):
        write_onnx(integer_graph(0), size=(5, 0))


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingDependencyError, match=r"anchorsr\[onnx\]"):
        write_onnx(integer_graph(0))


def from_openvino(data: bytes, images: np.ndarray) -> np.ndarray:
    openvino = pytest.importorskip("openvino", reason="needs anchorsr[fast]")
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(data), "CPU")
    made = compiled(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))[0]
    return np.asarray(made.transpose(0, 2, 3, 1))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["abpn_x3", "fast_x2", "quality_x3"])
def test_dequantized_form_is_exact_and_standard_in_both_runtimes(name: str) -> None:
    _, graph = read_model(model_path(name))
    data = write_onnx(graph, form="qdq")
    model = onnx.load_from_string(data)
    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} == {""}
    assert [entry.domain for entry in model.opset_import] == [""]
    for size in ((1, 1), (7, 2), (24, 40)):
        images = sample_image(*size)[None]
        expected = run_graph(graph, images)
        np.testing.assert_array_equal(load_engine(data, threads=1)(images), expected)
        np.testing.assert_array_equal(from_openvino(data, images), expected)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_dequantized_form_of_every_operator_is_exact(seed: int) -> None:
    graph = quantize_graph(with_every_operator(), [image(seed, 24, 24)[0]])
    images = image(seed, 13, 11)
    data, other = (write_onnx(graph, form=form) for form in ("qdq", "qlinear"))
    onnx.checker.check_model(onnx.load_from_string(data))
    made, wanted = (load_engine(each, threads=1)(images) for each in (data, other))
    assert np.abs(made.astype(int) - wanted).max() <= 1  # ties of means and bilinear resizing
