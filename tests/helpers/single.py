"""Graphs of one operator each with random numbers and scales, for comparing what runs them.

An integer graph of a seed that is odd has powers of two as scales, so that many results end
exactly between two integers.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from anchorsr.graph import operators as ops
from anchorsr.graph.graph import Graph

SIZES = [(1, 1), (1, 7), (9, 1), (13, 11)]
CHANNELS = 8


class Maker:
    """Makes the tensors and operators of one graph, float or integer, that begins with `x`."""

    def __init__(self, seed: int, integer: bool) -> None:
        self.random = np.random.default_rng(seed)
        self.integer = integer
        self.round = bool(seed % 2)
        self.tensors: dict[str, ops.TensorType] = {}
        self.operators: list[ops.Operator] = []
        self.tensor("x", CHANNELS)

    def scale(self, low: float = 0.1, high: float = 4.0) -> float:
        exponent = self.random.uniform(np.log2(low), np.log2(high))
        return float(np.float32(2.0 ** (np.round(exponent) if self.round else exponent)))

    def tensor(
        self, name: str, channels: int, like: str = "", zero_point: int | None = None
    ) -> str:
        """A tensor of the quantization of another, or of one of its own."""
        if not self.integer:
            self.tensors[name] = ops.TensorType(channels, "float32")
        elif like:
            self.tensors[name] = ops.TensorType(channels, "int8", self.tensors[like].quantization)
        else:
            zero = int(self.random.integers(-128, 128)) if zero_point is None else zero_point
            self.tensors[name] = ops.TensorType(
                channels, "int8", ops.Quantization(self.scale(), zero)
            )
        return name

    def weights(self, shape: tuple[int, ...], outputs: int, source: str, output: str) -> tuple:
        """weights, bias and weight scales; few results of an integer convolution saturate."""
        if not self.integer:
            normal = self.random.normal(0, 1, shape).astype(np.float32)
            return normal, self.random.normal(0, 1, outputs).astype(np.float32), None
        before, after = self.tensors[source].quantization, self.tensors[output].quantization
        spread = 64 * 75 * np.sqrt(np.prod(shape) / outputs)
        relative = self.random.uniform(0.5, 2, outputs) * 60 / spread * after.scale / before.scale
        scales = 2.0 ** np.round(np.log2(relative)) if self.round else relative
        weights = self.random.integers(-64, 65, shape).astype(np.int8)
        bias = self.random.normal(0, spread / 2, outputs).astype(np.int32)
        return weights, bias, scales.astype(np.float32)

    def graph(self, *operators: ops.Operator) -> Graph:
        return Graph("single", self.tensors, operators, "x", operators[-1].output)

    def images(self, height: int, width: int) -> np.ndarray:
        shape = (1, height, width, CHANNELS)
        if self.integer:
            return self.random.integers(-128, 128, shape).astype(np.int8)
        return self.random.uniform(-255, 255, shape).astype(np.float32)


def _conv(shape: tuple[int, int], groups: int = 1, relu: bool = False) -> Callable[[Maker], Graph]:
    def make(maker: Maker) -> Graph:
        maker.tensor("y", 12)
        weights = maker.weights((12, *shape, CHANNELS // groups), 12, "x", "y")
        return maker.graph(ops.Conv2D("x", "y", *weights, relu=relu, groups=groups))

    return make


def _strided(kernel: int, stride: int) -> Callable[[Maker], Graph]:
    """A convolution that makes the image smaller, and depth-to-space that undoes that."""

    def make(maker: Maker) -> Graph:
        channels = 2 * stride**2
        maker.tensor("small", channels)
        weights = maker.weights((channels, kernel, kernel, CHANNELS), channels, "x", "small")
        conv = ops.Conv2D("x", "small", *weights, relu=True, stride=stride)
        maker.tensor("y", 2, "small")
        return maker.graph(conv, ops.DepthToSpace("small", "y", stride))

    return make


def _blocks(maker: Maker) -> Graph:
    maker.tensor("small", CHANNELS, "x")
    maker.tensor("y", 2, "x")
    pool = ops.Pool2D("x", "small", "max", 2, 2)
    return maker.graph(pool, ops.DepthToSpace("small", "y", 2))


def _depthwise(shape: tuple[int, int], relu: bool = False) -> Callable[[Maker], Graph]:
    def make(maker: Maker) -> Graph:
        maker.tensor("y", CHANNELS)
        weights = maker.weights((*shape, CHANNELS), CHANNELS, "x", "y")
        return maker.graph(ops.DepthwiseConv2D("x", "y", *weights, relu=relu))

    return make


def _transposed(kernel: int, stride: int) -> Callable[[Maker], Graph]:
    def make(maker: Maker) -> Graph:
        maker.tensor("y", 5)
        weights, bias, scales = maker.weights((5, kernel, kernel, CHANNELS), 5, "x", "y")
        return maker.graph(ops.TransposedConv2D("x", "y", weights, bias, stride, scales))

    return make


def _combined(kind: type) -> Callable[[Maker], Graph]:
    """Two halves of the channels, the second at a scale of its own."""

    def make(maker: Maker) -> Graph:
        maker.tensor("left", 4, "x")
        maker.tensor("same", 4, "x")
        maker.tensor("y", 4)
        operators = [ops.Slice("x", "left", 0), ops.Slice("x", "same", 4)]
        right = "same"
        if maker.integer:
            right = maker.tensor("right", 4)
            operators.append(ops.Requantize("same", right))
        return maker.graph(*operators, kind(("left", right), "y"))

    return make


def _broadcast(kind: type, small_first: bool) -> Callable[[Maker], Graph]:
    def make(maker: Maker) -> Graph:
        maker.tensor("small", CHANNELS)
        maker.tensor("y", CHANNELS)
        inputs = ("small", "x") if small_first else ("x", "small")
        return maker.graph(ops.GlobalAveragePool("x", "small"), kind(inputs, "y"))

    return make


def _plain(operator: ops.Operator, channels: int = CHANNELS) -> Callable[[Maker], Graph]:
    """An operator that moves numbers."""

    def make(maker: Maker) -> Graph:
        maker.tensor("y", channels, "x")
        return maker.graph(operator)

    return make


def _rescaled(operator: ops.Operator) -> Callable[[Maker], Graph]:
    """An operator whose output has a scale of its own."""

    def make(maker: Maker) -> Graph:
        maker.tensor("y", CHANNELS)
        return maker.graph(operator)

    return make


def _prelu(maker: Maker) -> Graph:
    maker.tensor("y", CHANNELS)
    if not maker.integer:
        return maker.graph(
            ops.PReLU("x", "y", maker.random.normal(0, 1, CHANNELS).astype(np.float32))
        )
    slopes = maker.random.integers(-128, 128, CHANNELS).astype(np.int8)
    return maker.graph(ops.PReLU("x", "y", slopes, maker.scale(0.002, 0.02)))


def _sigmoid(maker: Maker) -> Graph:
    maker.tensor("y", CHANNELS)
    if maker.integer:
        maker.tensors["y"] = ops.TensorType(CHANNELS, "int8", ops.Quantization(1 / 256, -128))
    return maker.graph(ops.Sigmoid("x", "y"))


def _square_root(maker: Maker) -> Graph:
    maker.tensor("squares", CHANNELS)
    maker.tensor("mean", CHANNELS, zero_point=-128)
    maker.tensor("y", CHANNELS)
    operators = (ops.Multiply(("x", "x"), "squares"), ops.GlobalAveragePool("squares", "mean"))
    return maker.graph(*operators, ops.SquareRoot("mean", "y"))


def _attention(maker: Maker) -> Graph:
    for name, channels in {"mean": CHANNELS, "few": 2, "many": CHANNELS}.items():
        maker.tensor(name, channels)
    weights = maker.weights((2, 1, 1, CHANNELS), 2, "mean", "few")
    squeeze = ops.Conv2D("mean", "few", *weights, relu=True)
    expand = ops.Conv2D("few", "many", *maker.weights((CHANNELS, 1, 1, 2), CHANNELS, "few", "many"))
    maker.tensor("gate", CHANNELS)
    if maker.integer:
        maker.tensors["gate"] = ops.TensorType(CHANNELS, "int8", ops.Quantization(1 / 256, -128))
    maker.tensor("y", CHANNELS)
    operators = (ops.GlobalAveragePool("x", "mean"), squeeze, expand, ops.Sigmoid("many", "gate"))
    return maker.graph(*operators, ops.Multiply(("x", "gate"), "y"))


MAKERS: dict[str, Callable[[Maker], Graph]] = {
    "convolution 1x1": _conv((1, 1)),
    "convolution 3x3": _conv((3, 3), relu=True),
    "convolution 3x5": _conv((3, 5)),
    "grouped": _conv((3, 3), groups=4, relu=True),
    "strided 2x2, 2": _strided(2, 2),
    "strided 4x4, 2": _strided(4, 2),
    "strided 5x5, 3": _strided(5, 3),
    "depthwise 1x1": _depthwise((1, 1)),
    "depthwise 3x3": _depthwise((3, 3), relu=True),
    "depthwise 5x3": _depthwise((5, 3)),
    "transposed 9x9, 3": _transposed(9, 3),
    "transposed 4x4, 2": _transposed(4, 2),
    "transposed 2x2, 2": _transposed(2, 2),
    "transposed 3x3, 1": _transposed(3, 1),
    "add": _combined(ops.Add),
    "subtract": _combined(ops.Subtract),
    "multiply": _combined(ops.Multiply),
    "add 1x1": _broadcast(ops.Add, small_first=False),
    "add to 1x1": _broadcast(ops.Add, small_first=True),
    "subtract 1x1": _broadcast(ops.Subtract, small_first=False),
    "subtract from 1x1": _broadcast(ops.Subtract, small_first=True),
    "multiply by 1x1": _broadcast(ops.Multiply, small_first=False),
    "multiply 1x1": _broadcast(ops.Multiply, small_first=True),
    "depth to space": _plain(ops.DepthToSpace("x", "y", 2), 2),
    "concat": _plain(ops.Concat(("x", "x", "x"), "y"), 3 * CHANNELS),
    "slice": _plain(ops.Slice("x", "y", 3), 4),
    "tile": _plain(ops.Tile("x", "y", 3), 3 * CHANNELS),
    "ReLU": _plain(ops.ReLU("x", "y")),
    "LeakyReLU": _rescaled(ops.LeakyReLU("x", "y", 0.3)),
    "PReLU": _prelu,
    "sigmoid": _sigmoid,
    "square root": _square_root,
    "max pool 3": _plain(ops.Pool2D("x", "y", "max", 3)),
    "max of blocks": _blocks,
    "average pool 3": _plain(ops.Pool2D("x", "y", "average", 3)),
    "average pool 5": _plain(ops.Pool2D("x", "y", "average", 5)),
    "global pool": _rescaled(ops.GlobalAveragePool("x", "y")),
    "nearest": _plain(ops.Resize("x", "y", 3, "nearest")),
    "bilinear x2": _plain(ops.Resize("x", "y", 2, "bilinear")),
    "bilinear x3": _plain(ops.Resize("x", "y", 3, "bilinear")),
    "channel attention": _attention,
}

INTEGER_MAKERS = MAKERS | {"requantize": _rescaled(ops.Requantize("x", "y"))}

# Those whose .tflite is of one size.
FIXED = {name for name in MAKERS if name.split()[0] in ("transposed", "nearest", "bilinear")}
