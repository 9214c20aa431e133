"""Each operator as ONNX, in ONNX Runtime with default options: over floats, and over integers.

Both are held against `run_graph`. Where LiteRT rounds in a way of its own, which is that of
`run_graph`, few integers may be one off; elsewhere none. Integers are also held against what they
mean, so that no two mistakes hide one another: the same network over floats, whose numbers are
rounded to the output's integers once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest

pytest.importorskip("onnx", reason="needs anchorsr[onnx]")
pytest.importorskip("onnxruntime", reason="needs anchorsr[onnx]")

import onnx
import onnxruntime

from anchorsr.graph import operators as ops
from anchorsr.graph.executor import run_graph
from anchorsr.graph.graph import Graph
from anchorsr.serialization.onnx import write_onnx
from helpers.graphs import image

CHANNELS = 6
SIZES = [(1, 1), (1, 7), (13, 11), (31, 17)]


def quantization(scale: float, zero_point: int) -> ops.Quantization:
    return ops.Quantization(float(np.float32(scale)), zero_point)


# An image that is nowhere darker than DARKEST has the same integers, 30 lower, in the second.
FIRST, SECOND, DARKEST = quantization(0.05, -20), quantization(0.03, -50), 30
POSITIVE = quantization(0.03, -128)


class Case(NamedTuple):
    """An operator to be tried, the channels and the numbers that it makes, and what share of its
    integers may be one off. It reads "first" and "second", or their 1×1 "mean" and "level"."""

    operator: ops.Operator
    channels: int = CHANNELS
    quantization: ops.Quantization = FIRST
    share: float = 0.0


def convolution(
    shape: tuple[int, ...], fan_in: int, make: Callable[..., ops.Operator]
) -> ops.Operator:
    """make: from int8 weights of a shape, int32 biases and the scales of weights."""
    generator = np.random.default_rng(fan_in)
    out = shape[-1] if len(shape) == 3 else shape[0]
    weights = generator.integers(-64, 65, shape, dtype=np.int8)
    bias = generator.integers(-3000, 3000, out, dtype=np.int32)
    scales = generator.uniform(0.5, 1.0, out) / (37 * np.sqrt(fan_in))
    return make(weights, bias, scales.astype(np.float32))


def conv(kernel: int, groups: int = 1, relu: bool = False) -> ops.Operator:
    inputs = CHANNELS // groups
    return convolution(
        (8 * groups, kernel, kernel, inputs),
        kernel**2 * inputs,
        lambda w, b, s: ops.Conv2D("first", "made", w, b, s, relu, groups),
    )


def depthwise(kernel: int, relu: bool = False) -> ops.Operator:
    return convolution(
        (kernel, kernel, CHANNELS),
        kernel**2,
        lambda w, b, s: ops.DepthwiseConv2D("first", "made", w, b, s, relu),
    )


def transposed(kernel: tuple[int, int], stride: int) -> ops.Operator:
    return convolution(
        (4, *kernel, CHANNELS),
        kernel[0] * kernel[1] * CHANNELS // stride**2,
        lambda w, b, s: ops.TransposedConv2D("first", "made", w, b, stride, s),
    )


def attention() -> ops.Operator:
    return convolution(
        (8, 1, 1, CHANNELS), CHANNELS, lambda w, b, s: ops.Conv2D("mean", "made", w, b, s, True)
    )


SLOPES = np.array([-40, 0, 3, 50, 100, 127], np.int8)
SIGMOID = ops.Quantization(1 / 256, -128)
BOTH, WITH_LEVEL, LEVEL_FIRST = ("first", "second"), ("first", "level"), ("level", "first")
SUM, PRODUCT, BENT = quantization(0.07, -15), quantization(0.2, 3), quantization(0.045, -60)

CASES = {
    "conv 1x1": Case(conv(1), 8, SUM),
    "conv 3x3": Case(conv(3), 8, SUM),
    "conv 5x5": Case(conv(5), 8, SUM),
    "conv 3x3 with ReLU": Case(conv(3, relu=True), 8, SUM),
    "conv 3x3 in 3 groups": Case(conv(3, groups=3), 24, SUM),
    "conv 1x1 in 2 groups with ReLU": Case(conv(1, groups=2, relu=True), 16, SUM),
    "conv of a mean": Case(attention(), 8, SUM),
    "depthwise 3x3": Case(depthwise(3), quantization=SUM),
    "depthwise 5x5 with ReLU": Case(depthwise(5, relu=True), quantization=SUM),
    "transposed 2x2 by 2": Case(transposed((2, 2), 2), 4, SUM),
    "transposed 9x9 by 3": Case(transposed((9, 9), 3), 4, SUM),
    "transposed 5x3 by 3": Case(transposed((5, 3), 3), 4, SUM),
    "add": Case(ops.Add(BOTH, "made"), quantization=SUM),
    "add one to itself": Case(ops.Add(("first", "first"), "made"), quantization=SUM),
    "add a level": Case(ops.Add(WITH_LEVEL, "made"), quantization=SUM),
    "add to a level": Case(ops.Add(LEVEL_FIRST, "made"), quantization=SUM),
    "subtract": Case(ops.Subtract(BOTH, "made"), quantization=SUM),
    "subtract a level": Case(ops.Subtract(WITH_LEVEL, "made"), quantization=SUM),
    "subtract from a level": Case(ops.Subtract(LEVEL_FIRST, "made"), quantization=SUM),
    "multiply": Case(ops.Multiply(BOTH, "made"), quantization=PRODUCT),
    "multiply by a level": Case(ops.Multiply(WITH_LEVEL, "made"), quantization=PRODUCT),
    "multiply a level": Case(ops.Multiply(LEVEL_FIRST, "made"), quantization=PRODUCT),
    "multiply levels": Case(ops.Multiply(("level", "mean"), "made"), quantization=PRODUCT),
    "another scale": Case(ops.Requantize("first", "made"), quantization=SUM),
    "another zero point": Case(
        ops.Requantize("first", "made"), quantization=replace(FIRST, zero_point=9)
    ),
    "relu": Case(ops.ReLU("first", "made")),
    "leaky relu": Case(ops.LeakyReLU("first", "made", 0.2), quantization=BENT),
    "leaky relu of slope 0.9": Case(ops.LeakyReLU("first", "made", 0.9), quantization=SUM),
    "prelu": Case(ops.PReLU("first", "made", SLOPES, 1 / 128), quantization=BENT),
    "sigmoid": Case(ops.Sigmoid("first", "made"), quantization=SIGMOID),
    "square root": Case(ops.SquareRoot("positive", "made"), quantization=quantization(0.01, -128)),
    "max pool 3": Case(ops.Pool2D("first", "made", "max", 3)),
    "max pool 5": Case(ops.Pool2D("first", "made", "max", 5)),
    "average pool 3": Case(ops.Pool2D("first", "made", "average", 3), share=0.03),
    "average pool 5": Case(ops.Pool2D("first", "made", "average", 5), share=0.01),
    "global pool": Case(ops.GlobalAveragePool("first", "made"), quantization=quantization(0.02, 3)),
    "concat": Case(ops.Concat(("first", "other", "first"), "made"), 3 * CHANNELS),
    "concat of means": Case(ops.Concat(("mean", "mean"), "made"), 2 * CHANNELS),
    "slice": Case(ops.Slice("first", "made", 1), 3),
    "slice of a mean": Case(ops.Slice("mean", "made", 4), 2),
    "tile": Case(ops.Tile("first", "made", 4), 4 * CHANNELS),
    "depth to space": Case(ops.DepthToSpace("nine", "made", 3), 2),
    "nearest x2": Case(ops.Resize("first", "made", 2, "nearest")),
    "nearest x3": Case(ops.Resize("first", "made", 3, "nearest")),
    "bilinear x2": Case(ops.Resize("first", "made", 2, "bilinear")),
    "bilinear x3": Case(ops.Resize("first", "made", 3, "bilinear")),
    "bilinear x4": Case(ops.Resize("first", "made", 4, "bilinear")),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def integer_network(case: Case) -> Graph:
    """uint8 images in and out, with what the operator reads before it."""
    int8 = {name: ops.TensorType(CHANNELS, "int8", FIRST) for name in ("first", "other", "mean")}
    int8["both"] = ops.TensorType(2 * CHANNELS, "int8", FIRST)
    int8["nine"] = ops.TensorType(3 * CHANNELS, "int8", FIRST)
    int8["second"] = int8["level"] = ops.TensorType(CHANNELS, "int8", SECOND)
    int8["positive"] = ops.TensorType(CHANNELS, "int8", POSITIVE)
    # The same integers with another meaning, so that no rounding comes in here.
    ones = np.ones((1, 1, CHANNELS), np.int8)
    zeros = np.zeros(CHANNELS, np.int32)

    def rescale(source: str, output: str, relu: bool = False) -> ops.Operator:
        after = int8[output].quantization
        assert after is not None
        ratio = np.full(CHANNELS, np.float32(after.scale / FIRST.scale))
        return ops.DepthwiseConv2D(source, output, ones, zeros, ratio, relu)

    before: list[ops.Operator] = [
        ops.Requantize("images", "both"),
        ops.Slice("both", "first", 0),
        ops.Slice("both", "other", CHANNELS),
        rescale("other", "second"),
        ops.GlobalAveragePool("first", "mean"),
        rescale("mean", "level"),
        rescale("mean", "positive", relu=True),
        ops.Tile("first", "nine", 3),
    ]
    wanted = set(case.operator.inputs)
    used: list[ops.Operator] = []
    for operator in reversed(before):
        if operator.output in wanted:
            used.insert(0, operator)
            wanted |= set(operator.inputs)
    made = ops.TensorType(case.channels, "int8", case.quantization)
    tensors = {name: kind for name, kind in int8.items() if name in wanted}
    tensors["images"] = ops.TensorType(2 * CHANNELS, "uint8", unsigned(FIRST))
    tensors |= {
        "made": made,
        "upscaled": replace(made, dtype="uint8", quantization=unsigned(case.quantization)),
    }
    operators = (*used, case.operator, ops.Requantize("made", "upscaled"))
    return Graph("one operator", tensors, operators, "images", "upscaled")


def unsigned(signed: ops.Quantization) -> ops.Quantization:
    return replace(signed, zero_point=signed.zero_point + 128)


def real(graph: Graph) -> Graph:
    """The network over floats that an integer network stands for."""
    tensors = {
        name: ops.TensorType(kind.channels, "float32") for name, kind in graph.tensors.items()
    }
    return replace(
        graph,
        tensors=tensors,
        operators=tuple(real_operator(operator, graph) for operator in graph.operators),
    )


def real_operator(operator: ops.Operator, graph: Graph) -> ops.Operator:
    if isinstance(operator, ops.Requantize):
        return ops.Tile(operator.input, operator.output, 1)
    if isinstance(operator, ops.PReLU):
        slopes = operator.slopes * np.float32(operator.slope_scale)
        return replace(operator, slopes=slopes, slope_scale=None)
    if not isinstance(operator, ops.Conv2D | ops.DepthwiseConv2D | ops.TransposedConv2D):
        return operator
    scales = operator.weight_scales
    before = graph.tensors[operator.input].quantization
    assert scales is not None
    assert before is not None
    # Output channels are the last axis of depthwise weights, and the first of others.
    along = scales if operator.weights.ndim == 3 else scales[:, None, None, None]
    weights = (operator.weights * along).astype(np.float32)
    bias = (operator.bias * scales * before.scale).astype(np.float32)
    return replace(operator, weights=weights, bias=bias, weight_scales=None)


def noise(size: tuple[int, int]) -> np.ndarray:
    return np.maximum(image(1, *size, 2 * CHANNELS), np.uint8(DARKEST))


def run(data: bytes, images: np.ndarray) -> np.ndarray:
    """Through ONNX Runtime; images and result (1, H, W, C)."""
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    made: Any = session.run(None, {"images": images.transpose(0, 3, 1, 2)})[0]
    return made.transpose(0, 2, 3, 1)


def numbers(integers: np.ndarray, meaning: ops.Quantization) -> np.ndarray:
    return ((integers.astype(np.float64) - meaning.zero_point) * meaning.scale).astype(np.float32)


@every_case
def test_floats_are_those_of_the_graph(case: Case) -> None:
    graph = real(integer_network(case))
    free = write_onnx(graph)
    onnx.checker.check_model(onnx.load_from_string(free), full_check=True)
    for size in SIZES:
        images = numbers(noise(size), unsigned(FIRST))
        expected = run_graph(graph, images)
        for data in (free, write_onnx(graph, size=size)):
            made = run(data, images)
            assert (made.dtype, made.shape) == (np.float32, expected.shape)
            np.testing.assert_allclose(made, expected, rtol=0, atol=1e-4)


@pytest.mark.slow
@every_case
def test_integers_are_those_of_the_graph(case: Case) -> None:
    graph = integer_network(case)
    meaning = graph.tensors["upscaled"].quantization
    assert meaning is not None
    free = write_onnx(graph)
    onnx.checker.check_model(onnx.load_from_string(free))
    off = []
    for size in SIZES:
        images = noise(size)
        expected = run_graph(graph, images)
        values = run_graph(real(graph), numbers(images, unsigned(FIRST)))
        meant = np.clip(np.rint(values / meaning.scale) + meaning.zero_point, 0, 255)
        for data in (free, write_onnx(graph, size=size)):
            made = run(data, images)
            assert (made.dtype, made.shape) == (np.uint8, expected.shape)
            assert np.abs(made - meant).max() <= 1
            off.append(np.abs(made.astype(int) - expected).ravel())
    assert np.concatenate(off).max() <= 1
    assert np.concatenate(off).mean() <= case.share
