"""The integer executor against direct sums of Python integers, and its refusals."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anchorsr.errors import GraphError
from anchorsr.graph import operators as ops
from anchorsr.graph.executor import accumulator_bound, multipliers, run_graph
from anchorsr.graph.graph import Graph
from helpers.graphs import image, integer_graph, reference_run


def one_convolution(
    weights: npt.NDArray[np.int8],
    bias: npt.NDArray[np.int32],
    scales: npt.NDArray[np.float32],
    *,
    output: ops.Quantization,
    relu: bool = False,
) -> Graph:
    tensors = {
        "x": ops.TensorType(weights.shape[3], "int8", ops.Quantization(0.5, 3)),
        "y": ops.TensorType(weights.shape[0], "int8", output),
    }
    conv = ops.Conv2D("x", "y", weights, bias, scales, relu)
    return Graph("one", tensors, [conv], "x", "y")


def by_hand(graph: Graph, image: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
    """One convolution with Python's unlimited integers, pixel by pixel."""
    (conv,) = graph.operators
    assert isinstance(conv, ops.Conv2D) and conv.weight_scales is not None
    output = graph.tensors["y"].quantization
    assert output is not None
    height, width = image.shape[:2]
    result = np.zeros((height, width, conv.weights.shape[0]), np.int8)
    for y, x, o in np.ndindex(*result.shape):
        total = int(conv.bias[o])
        for dy, dx, i in np.ndindex(*conv.weights.shape[1:]):
            row, column = y + dy - 1, x + dx - 1
            if 0 <= row < height and 0 <= column < width:
                total += (int(image[row, column, i]) - 3) * int(conv.weights[o, dy, dx, i])
        scale = np.float32(0.5) * conv.weight_scales[o] / np.float32(output.scale)
        product = Fraction(float(np.float32(np.float32(total) * scale)))
        value = round(product) + output.zero_point  # Python rounds half to even too
        low = output.zero_point if conv.relu else -128
        result[y, x, o] = min(max(value, low), 127)
    return result


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans(), st.integers(-128, 127))
def test_a_convolution_equals_sums_of_python_integers(
    seed: int, relu: bool, zero_point: int
) -> None:
    generator = np.random.default_rng(seed)
    outputs, inputs = generator.integers(1, 4, 2)
    height, width = generator.integers(1, 6, 2)
    graph = one_convolution(
        generator.integers(-127, 128, (outputs, 3, 3, inputs)).astype(np.int8),
        generator.integers(-(2**20), 2**20, outputs).astype(np.int32),
        generator.uniform(1e-4, 1e-2, outputs).astype(np.float32),
        output=ops.Quantization(float(np.float32(generator.uniform(0.1, 2))), zero_point),
        relu=relu,
    )
    image = generator.integers(-128, 128, (height, width, inputs)).astype(np.int8)
    np.testing.assert_array_equal(run_graph(graph, image[None])[0], by_hand(graph, image))


def test_ties_are_rounded_to_even() -> None:
    weights = np.zeros((1, 3, 3, 1), np.int8)
    weights[0, 1, 1, 0] = 1
    graph = one_convolution(
        weights, np.zeros(1, np.int32), np.ones(1, np.float32), output=ops.Quantization(1.0, 0)
    )
    image = np.array([[1, 2, 3, 4, 5, 6]], np.int8)[..., None] + np.int8(3)  # halves after scaling
    assert run_graph(graph, image[None])[0, 0, :, 0].tolist() == [0, 1, 2, 2, 2, 3]


def test_sums_beyond_float32_are_still_exact() -> None:
    weights = np.full((1, 3, 3, 8), 127, np.int8)
    bias = np.array([2**30 + 1], np.int32)
    graph = one_convolution(
        weights, bias, np.array([2.0**-24], np.float32), output=ops.Quantization(0.5, 0)
    )
    (conv,) = graph.operators
    assert isinstance(conv, ops.Conv2D) and accumulator_bound(conv) > 2**24
    image = np.random.default_rng(0).integers(-128, 128, (5, 4, 8)).astype(np.int8)
    np.testing.assert_array_equal(run_graph(graph, image[None])[0], by_hand(graph, image))


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (13, 11), (37, 2)])
@pytest.mark.parametrize("factor", [2, 3, 4])
def test_whole_networks_equal_the_independent_reference(size: tuple[int, int], factor: int) -> None:
    graph = integer_graph(seed=factor, factor=factor)
    images = image(1, *size)
    np.testing.assert_array_equal(run_graph(graph, images), reference_run(graph, images))


def test_multipliers_are_rounded_to_float32_at_every_step() -> None:
    source = ops.TensorType(1, "int8", ops.Quantization(float(np.float32(0.1)), 0))
    target = ops.TensorType(1, "int8", ops.Quantization(float(np.float32(0.3)), 0))
    scales = np.array([0.7], np.float32)
    conv = ops.Conv2D("x", "y", np.ones((1, 1, 1, 1), np.int8), np.zeros(1, np.int32), scales)
    expected = np.float32(np.float32(0.1) * np.float32(0.7)) / np.float32(0.3)
    assert multipliers(conv, source, target)[0] == expected


def test_an_addition_where_every_scale_is_the_same_is_the_sum() -> None:
    quantizations = [ops.Quantization(0.5, zero_point) for zero_point in (7, -100, 30)]
    types = [ops.TensorType(1, "int8", quantization) for quantization in quantizations]
    tensors = dict(zip("xyz", types, strict=True))
    operators = (ops.Requantize("x", "y"), ops.Add(("x", "y"), "z"))
    values = np.arange(-128, 128, dtype=np.int8).reshape(1, 16, 16, 1)
    made = run_graph(Graph("sum", tensors, operators, "x", "z"), values).astype(int)
    moved = np.maximum(values.astype(int) - 107, -128)
    expected = (values.astype(int) - 7) + (moved + 100) + 30
    np.testing.assert_array_equal(made, np.clip(expected, -128, 127))


def test_requantize_saturates_and_shifts() -> None:
    tensors = {
        "x": ops.TensorType(1, "uint8", ops.Quantization(1.0, 0)),
        "y": ops.TensorType(1, "int8", ops.Quantization(1.0, -100)),
    }
    graph = Graph("shift", tensors, [ops.Requantize("x", "y")], "x", "y")
    values = np.array([0, 1, 227, 228, 255], np.uint8).reshape(1, 1, 5, 1)
    assert run_graph(graph, values).ravel().tolist() == [-100, -99, 127, 127, 127]


def test_images_of_another_type_or_shape_are_refused() -> None:
    graph = integer_graph(seed=0, factor=2)
    for images in (np.zeros((1, 4, 4, 3), np.float32), np.zeros((4, 4, 3), np.uint8)):
        with pytest.raises(GraphError, match="takes uint8"):
            run_graph(graph, images)
