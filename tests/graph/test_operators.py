"""Every operator alone: floats against PyTorch and LiteRT, integers against LiteRT in every bit."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs anchorsr[train]")

import torch
from torch import Tensor
from torch.nn import functional

from anchorsr.graph import operators as ops
from anchorsr.graph.executor import run_graph
from anchorsr.graph.graph import Graph
from anchorsr.serialization.tflite.reader import read_tflite
from anchorsr.serialization.tflite.writer import write_tflite
from helpers.graphs import assert_equal_graphs, run_litert
from helpers.single import FIXED, INTEGER_MAKERS, MAKERS, SIZES, Maker


def in_torch(operator: ops.Operator, inputs: list[Tensor], graph: Graph) -> Tensor:
    """One float operator over (N, C, H, W)."""
    first = inputs[0]
    match operator:
        case ops.Conv2D(weights=weights, groups=groups, stride=stride):
            made = functional.conv2d(
                first,
                torch.from_numpy(weights.transpose(0, 3, 1, 2).copy()),
                torch.from_numpy(operator.bias),
                stride=stride,
                padding=((weights.shape[1] - stride) // 2, (weights.shape[2] - stride) // 2),
                groups=groups,
            )
            return made.relu() if operator.relu else made
        case ops.DepthwiseConv2D(weights=weights):
            made = functional.conv2d(
                first,
                torch.from_numpy(weights.transpose(2, 0, 1)[:, None].copy()),
                torch.from_numpy(operator.bias),
                padding=(weights.shape[0] // 2, weights.shape[1] // 2),
                groups=first.shape[1],
            )
            return made.relu() if operator.relu else made
        case ops.TransposedConv2D(weights=weights, stride=stride):
            return functional.conv_transpose2d(
                first,
                torch.from_numpy(weights.transpose(3, 0, 1, 2).copy()),
                torch.from_numpy(operator.bias),
                stride=stride,
                padding=(weights.shape[1] - stride) // 2,
            )
        case ops.Add():
            return first + inputs[1]
        case ops.Subtract():
            return first - inputs[1]
        case ops.Multiply():
            return first * inputs[1]
        case ops.DepthToSpace(block=block):
            # PyTorch's order has the colours outside, TensorFlow's inside.
            number, channels, height, width = first.shape
            packed = first.reshape(number, block**2, channels // block**2, height, width)
            return functional.pixel_shuffle(
                packed.transpose(1, 2).reshape(number, channels, height, width), block
            )
        case ops.Concat():
            return torch.cat(inputs, 1)
        case ops.Slice(start=start):
            return first[:, start : start + graph.tensors[operator.output].channels]
        case ops.Tile(count=count):
            return first.repeat(1, count, 1, 1)
        case ops.ReLU():
            return first.relu()
        case ops.LeakyReLU(slope=slope):
            return functional.leaky_relu(first, slope)
        case ops.PReLU(slopes=slopes):
            return functional.prelu(first, torch.from_numpy(slopes))
        case ops.Sigmoid():
            return first.sigmoid()
        case ops.SquareRoot():
            return first.sqrt()
        case ops.Pool2D(kind="max", size=size, stride=stride):
            return functional.max_pool2d(first, size, stride, (size - stride) // 2)
        case ops.Pool2D(size=size):
            return functional.avg_pool2d(first, size, 1, size // 2, count_include_pad=False)
        case ops.GlobalAveragePool():
            return first.mean((2, 3), keepdim=True)
        case ops.Resize(mode="nearest", factor=factor):
            return functional.interpolate(first, scale_factor=factor, mode="nearest")
        case ops.Resize(factor=factor):
            return functional.interpolate(
                first, scale_factor=factor, mode="bilinear", align_corners=False
            )
    raise AssertionError(operator)


def run_torch(graph: Graph, images: np.ndarray) -> np.ndarray:
    values = {graph.input: torch.from_numpy(images.transpose(0, 3, 1, 2).copy())}
    for operator in graph.operators:
        inputs = [values[name] for name in operator.inputs]
        values[operator.output] = in_torch(operator, inputs, graph)
    return values[graph.output].numpy().transpose(0, 2, 3, 1)


def assert_close(result: np.ndarray, expected: np.ndarray) -> None:
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", MAKERS)
def test_floats_are_those_of_pytorch(name: str) -> None:
    for seed, size in enumerate(SIZES):
        maker = Maker(seed, integer=False)
        graph = MAKERS[name](maker)
        images = maker.images(*graph.fit(*size))
        assert_close(run_graph(graph, images), run_torch(graph, images))


@pytest.mark.slow
@pytest.mark.parametrize("name", MAKERS)
def test_floats_are_those_of_litert(name: str) -> None:
    for seed, size in enumerate(SIZES):
        maker = Maker(seed, integer=False)
        graph = MAKERS[name](maker)
        size = graph.fit(*size)
        images = maker.images(*size)
        expected = run_graph(graph, images)
        assert_close(run_litert(write_tflite(graph, size=size), images), expected)
        if name not in FIXED:
            assert_close(run_litert(write_tflite(graph), images), expected)


@pytest.mark.parametrize("name", INTEGER_MAKERS)
def test_integers_are_those_of_litert_in_every_bit(name: str) -> None:
    for seed in range(12):
        maker = Maker(seed, integer=True)
        graph = INTEGER_MAKERS[name](maker)
        assert graph.is_integer
        size = graph.fit(*SIZES[seed % len(SIZES)])
        images = maker.images(*size)
        data = write_tflite(graph, size=size if seed % 3 == 0 or name in FIXED else None)
        np.testing.assert_array_equal(run_litert(data, images), run_graph(graph, images))


def large(name: str, seed: int, height: int, width: int) -> None:
    maker = Maker(seed, integer=True)
    graph, images = INTEGER_MAKERS[name](maker), maker.images(height, width)
    images = np.maximum(images, np.int8(60))  # so that sums grow
    data = write_tflite(graph, size=(height, width))
    np.testing.assert_array_equal(run_litert(data, images), run_graph(graph, images))


@pytest.mark.slow
def test_a_mean_whose_sum_float32_does_not_hold_is_that_of_litert() -> None:
    for seed in range(4):
        large("global pool", seed, 401, 601)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bilinear x2", "bilinear x3"])
def test_places_far_from_the_corner_are_those_of_litert(name: str) -> None:
    large(name, 0, 1, 5000)
    large(name, 0, 5000, 1)


@pytest.mark.slow
@pytest.mark.parametrize("integer", [False, True], ids=["float", "integer"])
@pytest.mark.parametrize("name", INTEGER_MAKERS)
def test_reading_returns_what_was_written(name: str, integer: bool) -> None:
    if name not in MAKERS and not integer:
        return
    graph = INTEGER_MAKERS[name](Maker(0, integer=integer))
    fixed = graph.fit(5, 7)
    for size in [graph.fit(1, 1), fixed] if name in FIXED else [None, fixed]:
        data = write_tflite(graph, size=size)
        found = read_tflite(data)
        assert_equal_graphs(found, graph)
        assert write_tflite(found, size=size) == data
