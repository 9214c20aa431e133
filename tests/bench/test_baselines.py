"""The networks that ours are measured by, and the operators that only they have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from anchorsr.bench.baselines import BICUBIC, KNOWN_PSNR, published_graph, wide_graph
from anchorsr.engines.runtimes import load_engine
from anchorsr.errors import GraphError
from anchorsr.evaluation.evaluate import evaluate
from anchorsr.graph import operators as ops
from anchorsr.graph.executor import run_graph
from anchorsr.graph.graph import Graph
from anchorsr.models.registry import model_path, read_model
from anchorsr.serialization.onnx import write_onnx
from anchorsr.serialization.tflite.reader import read_tflite
from anchorsr.serialization.tflite.writer import write_tflite
from helpers.graphs import assert_equal_graphs, image, reference_run

FILE = ops.Quantization(1.0, 0)
IMAGE = ops.Quantization(1.0, -128)
OFFSET = ops.Quantization(0.5, -3)


def with_operator(
    operator: ops.Operator, *, channels: int = 3, quantization: ops.Quantization = IMAGE
) -> Graph:
    """A graph of one operator from `x` to `y`, between two changes of number type."""
    file = ops.Quantization(quantization.scale, quantization.zero_point + 128)
    tensors = {
        "images": ops.TensorType(3, "uint8", file),
        "x": ops.TensorType(3, "int8", quantization),
        "y": ops.TensorType(channels, "int8", quantization),
        "upscaled": ops.TensorType(channels, "uint8", file),
    }
    operators = (ops.Requantize("images", "x"), operator, ops.Requantize("y", "upscaled"))
    return Graph(type(operator).__name__, tensors, operators, "images", "upscaled")


SINGLE = [
    with_operator(ops.Concat(("x",) * 9, "y"), channels=27),
    with_operator(ops.Concat(("x",), "y"), quantization=OFFSET),
    with_operator(ops.Minimum("x", "y", 127)),
    with_operator(ops.Minimum("x", "y", -20), quantization=OFFSET),
    with_operator(ops.ReLU("x", "y")),
    with_operator(ops.ReLU("x", "y"), quantization=OFFSET),
    with_operator(ops.ReLU("x", "y"), quantization=ops.Quantization(1.0, 127)),
]


@pytest.mark.parametrize("graph", SINGLE, ids=lambda graph: graph.name)
def test_each_operator_means_the_same_everywhere(graph: Graph) -> None:
    images = image(1, 13, 11)
    expected = reference_run(graph, images)
    np.testing.assert_array_equal(run_graph(graph, images), expected)
    for data in (write_tflite(graph), write_onnx(graph)):
        np.testing.assert_array_equal(load_engine(data, threads=1)(images), expected)


@pytest.mark.parametrize("graph", SINGLE, ids=lambda graph: graph.name)
def test_each_operator_is_read_as_it_was_written(graph: Graph) -> None:
    data = write_tflite(graph)
    assert_equal_graphs(read_tflite(data), graph)
    assert write_tflite(read_tflite(data)) == data


def test_relu_and_concat_are_for_float_graphs_too() -> None:
    tensors = {
        "x": ops.TensorType(3, "float32"),
        "y": ops.TensorType(3, "float32"),
        "z": ops.TensorType(6, "float32"),
    }
    operators = (ops.ReLU("x", "y"), ops.Concat(("x", "y"), "z"))
    graph = Graph("float", tensors, operators, "x", "z")
    images = np.random.default_rng(0).normal(0, 9, (1, 4, 5, 3)).astype(np.float32)
    expected = np.concatenate([images, np.maximum(images, 0)], axis=3)
    np.testing.assert_array_equal(run_graph(graph, images), expected)
    assert_equal_graphs(read_tflite(write_tflite(graph)), graph)


IMPOSSIBLE: dict[str, tuple[dict[str, Any], ops.Operator]] = {
    "as many output channels as": (
        {"y": ops.TensorType(5, "int8", IMAGE)},
        ops.Concat(("x", "x"), "y"),
    ),
    "Concat keeps the type": (
        {"y": ops.TensorType(6, "int8", OFFSET)},
        ops.Concat(("x", "x"), "y"),
    ),
    "inputs and an output of one data type": (
        {"y": ops.TensorType(3, "uint8", FILE)},
        ops.ReLU("x", "y"),
    ),
    "ReLU keeps the type": ({"y": ops.TensorType(3, "int8", OFFSET)}, ops.ReLU("x", "y")),
    "keeps the number of channels": ({"y": ops.TensorType(4, "int8", IMAGE)}, ops.ReLU("x", "y")),
    "bound 128 is outside int8": (
        {"y": ops.TensorType(3, "int8", IMAGE)},
        ops.Minimum("x", "y", 128),
    ),
    "Minimum is for integer graphs": (
        {"x": ops.TensorType(3, "float32"), "y": ops.TensorType(3, "float32")},
        ops.Minimum("x", "y", 1),
    ),
}


@pytest.mark.parametrize("message", IMPOSSIBLE)
def test_an_operator_that_does_not_fit_is_refused(message: str) -> None:
    changed, operator = IMPOSSIBLE[message]
    tensors = {"x": ops.TensorType(3, "int8", IMAGE), **changed}
    with pytest.raises(GraphError, match=message):
        Graph("impossible", tensors, (operator,), "x", "y")


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_the_published_network_has_the_operators_of_its_file(factor: int) -> None:
    data = write_tflite(published_graph(factor))
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data))
    names = {code: name for name, code in vars(schema.BuiltinOperator).items()}
    operators = model.subgraphs[0].operators
    kinds = [names[model.operatorCodes[op.opcodeIndex].builtinCode] for op in operators]
    tail = ["CONCATENATION", "ADD", "DEPTH_TO_SPACE", "MINIMUM", "RELU", "QUANTIZE"]
    assert kinds == ["QUANTIZE", *["CONV_2D"] * 7, *tail]
    concatenation = operators[kinds.index("CONCATENATION")]
    assert len(concatenation.inputs) == factor**2
    assert len(set(concatenation.inputs)) == 1


def test_the_published_network_costs_what_ours_of_the_same_shape_costs() -> None:
    _, ours = read_model(model_path("abpn_x3"))
    published = published_graph()
    assert (published.macs_per_pixel, published.parameter_count) == (42345, 42539)
    assert (ours.macs_per_pixel, ours.parameter_count) == (42345, 42539)
    assert (published.factor, published.halo) == (3, 7)


def test_the_published_network_is_exact_and_not_constant() -> None:
    graph = published_graph()
    images = image(0, 13, 31)
    expected = run_graph(graph, images)
    np.testing.assert_array_equal(expected, reference_run(graph, images))
    for data in (write_tflite(graph), write_onnx(graph)):
        np.testing.assert_array_equal(load_engine(data, threads=1)(images), expected)
    assert expected.std() > 20


@pytest.mark.parametrize("count", [1, 2])
def test_a_wide_network_is_nearly_all_wide_convolution(count: int) -> None:
    graph = wide_graph(16, count=count)
    assert graph.macs_per_pixel == count * 9 * 16 * 16 + 2 * 3 * 16
    images = image(0, 9, 7)
    expected = run_graph(graph, images)
    np.testing.assert_array_equal(load_engine(write_tflite(graph), threads=1)(images), expected)
    assert expected.std() > 5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Set5", "Set14"])
def test_the_known_figures_of_bicubic_are_what_is_measured(shared_data: Path, name: str) -> None:
    score = evaluate(BICUBIC, shared_data / "test" / name)
    assert round(score.psnr_rgb, 3) == KNOWN_PSNR[BICUBIC][name]
