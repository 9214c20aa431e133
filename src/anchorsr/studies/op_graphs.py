"""Graphs that hold one kind of operator and nothing else, to be timed; and residual tails.

What an operator's time depends on is an `OperatorClass`: two operators of one class take as
long as one another. Its graph applies it once, or several times in a row, between an input and
an output of the same number type. Numbers are random, and in integers every scale is one that
no runtime can leave out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from anchorsr.errors import GraphError
from anchorsr.graph import operators as ops
from anchorsr.graph.graph import Graph

Precision = Literal["float32", "int8"]

IMAGE = 3  # channels
_WEIGHT_LIMIT = 64
_SLOPE = 0.125
# As most activations have it: runtimes are slower, OpenVINO much, where the zero point is not 0.
_FEATURES = ops.Quantization(1.0, -9)
_RESIDUAL = ops.Quantization(1.0, 0)
_RECTIFIED = ops.Quantization(1.0, -128)
_SIGMOID = ops.Quantization(1 / 256, -128)

_ALONE = ("ReLU", "LeakyReLU", "PReLU", "Sigmoid", "Clip", "Minimum", "Concat", "Tile", "Slice")

# The residual forms that `tail_graph` makes.
Tail = Literal[
    "none",
    "fsrl",
    "isrl_nearest",
    "isrl_bilinear",
    "anchor_concat",
    "anchor_tile",
    "anchor_conv",
    "anchor_folded",
]


@dataclass(frozen=True)
class OperatorClass:
    """What the time of an operator depends on, for an image of given size.

    kind: the name of its class in `operators`, or "ChannelAttention", which is several.
    inputs, outputs: channels of each tensor it reads and of the one it makes. extent: its
    input's height over the image's. size: a kernel's or pool's side, a factor, a block, a
    stride, or how many tensors are put side by side. columns: a kernel's other side, where it is
    not square. relu: one is fused into it.
    detail: what else tells apart: a mode, or "gate" where the second tensor is 1×1.
    """

    kind: str
    inputs: int
    outputs: int
    extent: int = 1
    size: int = 1
    stride: int = 1
    groups: int = 1
    relu: bool = False
    detail: str = ""
    columns: int = 0

    @property
    def kernel(self) -> tuple[int, int]:
        """Rows and columns of a convolution's kernel."""
        return self.size, self.columns or self.size

    @property
    def output_extent(self) -> int:
        if self.kind == "GlobalAveragePool":
            return 0
        grows = {"DepthToSpace": self.size, "Resize": self.size, "TransposedConv2D": self.stride}
        return self.extent * grows.get(self.kind, 1)

    @property
    def repeats(self) -> bool:
        """Whether its output can be its input and each time takes as long: runtimes join what
        treats every number by itself, so that ten of those in a row take as long as one."""
        keeps = (self.inputs, self.extent) == (self.outputs, self.output_extent)
        return keeps and self.kind not in _ALONE

    @property
    def convolves(self) -> bool:
        return self.kind in ("Conv2D", "DepthwiseConv2D", "TransposedConv2D")

    @property
    def label(self) -> str:
        """Words for a table: the operator, then channels."""
        kernel = self.convolves or self.kind == "Pool2D"
        side = f" {self.kernel[0]}x{self.kernel[1]}" if kernel else ""
        if self.kind in ("Resize", "DepthToSpace"):
            side = f" x{self.size}"
        elif self.kind in ("Concat", "Tile"):
            side = f" of {self.size}"
        words = [f"{self.kind}{side}"]
        words += [f"stride {self.stride}"] * (self.stride > 1)
        words += [f"{self.groups} groups"] * (self.groups > 1)
        words += [self.detail] * bool(self.detail)
        words += ["ReLU"] * self.relu
        widths = str(self.inputs)
        if self.outputs != self.inputs:
            widths += f"->{self.outputs}"
        extent = "" if self.extent == 1 else f" at x{self.extent}"
        return f"{', '.join(words)}; {widths}{extent}"


def classify(operator: ops.Operator, graph: Graph) -> OperatorClass | None:
    """The class of an operator of a graph; None for one on 1×1 tensors, which takes no time."""
    extents = [graph.extents[name] for name in operator.inputs]
    extent = max(extents)
    if not extent:
        return None
    source = graph.tensors[operator.inputs[extents.index(extent)]]
    widths = source.channels, graph.tensors[operator.output].channels
    kind = type(operator).__name__
    common: dict[str, Any] = {"extent": extent}
    if isinstance(operator, ops.Conv2D):
        common |= _sides(*operator.weights.shape[1:3])
        common |= {"groups": operator.groups, "relu": operator.relu}
    elif isinstance(operator, ops.DepthwiseConv2D):
        common |= {**_sides(*operator.weights.shape[:2]), "relu": operator.relu}
    elif isinstance(operator, ops.TransposedConv2D):
        common |= {**_sides(*operator.weights.shape[1:3]), "stride": operator.stride}
    elif isinstance(operator, ops.Add | ops.Subtract | ops.Multiply):
        common |= {"detail": "gate" if 0 in extents else ""}
    elif isinstance(operator, ops.Pool2D):
        common |= {"size": operator.size, "detail": operator.kind}
    elif isinstance(operator, ops.Resize):
        common |= {"size": operator.factor, "detail": operator.mode}
    elif isinstance(operator, ops.DepthToSpace):
        common |= {"size": operator.block}
    elif isinstance(operator, ops.Tile):
        common |= {"size": operator.count}
    elif isinstance(operator, ops.Concat):
        # Parts of unequal width are taken for equal ones of the same width in all.
        count = len(operator.inputs)
        each = max(1, round(widths[1] / count))
        widths = each, each * count
        common |= {"size": count}
    return OperatorClass(kind, *widths, **common)


def _sides(rows: int, columns: int) -> dict[str, int]:
    return {"size": rows, "columns": 0 if rows == columns else columns}


def operator_graph(
    operator: OperatorClass, precision: Precision, *, count: int = 1, file_edges: bool = False
) -> Graph:
    """A graph that applies an operator `count` times, each time to what came before.

    file_edges: an integer graph takes and gives uint8, as a network's file does, and not int8.
    An operator over two tensors reads the last two. Raises GraphError for one that cannot be
    applied to its own output, if more than once, and for one that the precision does not have.
    """
    if count != 1 and not operator.repeats:
        raise GraphError(f"{operator.label} cannot be applied to its own output")
    quantization = _FEATURES
    if operator.relu:
        quantization = _RECTIFIED
    elif operator.kind == "Sigmoid":
        quantization = _SIGMOID
    chain = Chain(operator.inputs, precision, quantization, file_edges=file_edges)
    if operator.detail == "gate":
        chain.gate = chain.append(
            lambda source, name: ops.GlobalAveragePool(source, name), operator.inputs
        )
        chain.last = chain.first
    for _ in range(count):
        chain.apply(operator)
    return chain.graph(operator.kind)


def tail_graph(form: Tail, channels: int, precision: Precision, *, factor: int = 3) -> Graph:
    """Three 3×3 convolutions and depth-to-space, with a residual in one of its forms.

    none      nothing is added
    fsrl      the first convolution's output is added before the last one (feature space)
    isrl_*    the image is enlarged and added at full size (image space)
    anchor_*  the image is added to every block of pixels before depth-to-space: put side by
              side by Concat, by Tile or by a 1×1 convolution, or folded into the last
              convolution, which reads features and image
    """
    packed = IMAGE * factor**2
    chain = Chain(IMAGE, precision, _RECTIFIED)
    image = chain.last
    first = chain.convolve(channels, relu=True)
    second = chain.convolve(channels, relu=True)
    if form == "fsrl":
        chain.append(lambda _, name: ops.Add((first, second), name), channels)
    elif form == "anchor_folded":
        chain.append(lambda _, name: ops.Concat((second, image), name), channels + IMAGE)
    in_space = form in ("isrl_nearest", "isrl_bilinear")
    added = in_space or form in ("anchor_concat", "anchor_tile", "anchor_conv")
    residual = chain.convolve(packed, quantization=_RESIDUAL if added else _RECTIFIED)
    if added and not in_space:
        copies: dict[str, Callable[[str, str], ops.Operator]] = {
            "anchor_concat": lambda _, name: ops.Concat((image,) * factor**2, name),
            "anchor_tile": lambda _, name: ops.Tile(image, name, factor**2),
            "anchor_conv": lambda _, name: chain.copying(image, name, factor**2),
        }
        anchor = chain.append(copies[form], packed, _RECTIFIED)
        chain.append(lambda _, name: ops.Add((residual, anchor), name), packed, _RECTIFIED)
    chain.append(lambda source, name: ops.DepthToSpace(source, name, factor), IMAGE)
    if in_space:
        large = chain.last
        mode: Literal["nearest", "bilinear"] = "nearest" if form == "isrl_nearest" else "bilinear"
        chain.last = image
        enlarged = chain.append(
            lambda source, name: ops.Resize(source, name, factor, mode), IMAGE, _RECTIFIED
        )
        chain.append(lambda _, name: ops.Add((large, enlarged), name), IMAGE, _RECTIFIED)
    return chain.graph(f"residual {form}")


class Chain:
    """Collects operators, each of which reads what the one before it made."""

    def __init__(
        self,
        channels: int,
        precision: Precision,
        quantization: ops.Quantization,
        *,
        file_edges: bool = False,
    ) -> None:
        self._integer = precision == "int8"
        self._file_edges = file_edges and self._integer
        self._generator = np.random.default_rng(0)
        self._tensors = {"images": self._edge(channels, quantization)}
        self._operators: list[ops.Operator] = []
        self.gate = ""  # a 1×1 tensor for those that want one
        self.first = self.last = "images"
        if self._file_edges:
            self.append(ops.Requantize, channels, quantization)
            self.first = self.last

    def append(
        self,
        make: Callable[[str, str], ops.Operator],
        channels: int,
        quantization: ops.Quantization | None = None,
    ) -> str:
        """Add make(the last tensor's name, the new one's); quantization: the last one's."""
        name = f"t{len(self._operators)}"
        self._operators.append(make(self.last, name))
        if self._integer:
            quantization = quantization or self._tensors[self.last].quantization
            self._tensors[name] = ops.TensorType(channels, "int8", quantization)
        else:
            self._tensors[name] = ops.TensorType(channels, "float32")
        self.last = name
        return name

    def apply(self, operator: OperatorClass) -> None:
        """Add an operator of a class."""
        width = operator.outputs
        if operator.kind == "ChannelAttention":
            self._attend(width)
        elif operator.kind == "Conv2D":
            self.convolve(width, kernel=operator.kernel, groups=operator.groups, relu=operator.relu)
        elif operator.kind == "Requantize":
            self._requantize(width)
        elif operator.kind == "Sigmoid":
            self.append(ops.Sigmoid, width, _SIGMOID)
        else:
            self.append(lambda source, name: self._made(operator, source, name), width)

    def convolve(
        self,
        channels: int,
        *,
        kernel: tuple[int, int] = (3, 3),
        groups: int = 1,
        relu: bool = False,
        quantization: ops.Quantization | None = None,
    ) -> str:
        shape = (channels, *kernel, self._tensors[self.last].channels // groups)
        constants = self._constants(shape, channels)
        if quantization is None:
            quantization = _RECTIFIED if relu else _FEATURES
        return self.append(
            lambda source, name: ops.Conv2D(source, name, *constants, relu=relu, groups=groups),
            channels,
            quantization,
        )

    def copying(self, source: str, name: str, copies: int) -> ops.Conv2D:
        """A 1×1 convolution that puts copies of a tensor side by side."""
        eye = np.eye(self._tensors[source].channels)
        weights = np.tile(eye, (copies, 1))[:, None, None]
        width = len(weights)
        if self._integer:
            bias, scales = np.zeros(width, np.int32), np.full(width, 1 / 64, np.float32)
            return ops.Conv2D(source, name, (weights * 64).astype(np.int8), bias, scales)
        return ops.Conv2D(source, name, weights.astype(np.float32), np.zeros(width, np.float32))

    def graph(self, name: str) -> Graph:
        last = self._tensors[self.last]
        if self._file_edges:
            assert last.quantization is not None
            made = self._edge(last.channels, last.quantization)
            operators = (*self._operators, ops.Requantize(self.last, "made"))
            return Graph(name, {**self._tensors, "made": made}, operators, "images", "made")
        return Graph(name, self._tensors, self._operators, "images", self.last)

    def _edge(self, channels: int, quantization: ops.Quantization) -> ops.TensorType:
        if not self._integer:
            return ops.TensorType(channels, "float32")
        if not self._file_edges:
            return ops.TensorType(channels, "int8", quantization)
        shifted = ops.Quantization(quantization.scale, quantization.zero_point + 128)
        return ops.TensorType(channels, "uint8", shifted)

    def _made(self, operator: OperatorClass, source: str, name: str) -> ops.Operator:
        """An operator that keeps the quantization."""
        kind, size = operator.kind, operator.size
        if kind in ("Add", "Subtract", "Multiply"):
            return self._pairwise(kind, source, name)
        if kind == "DepthwiseConv2D":
            constants = self._constants((*operator.kernel, operator.outputs), operator.outputs)
            return ops.DepthwiseConv2D(source, name, *constants, relu=operator.relu)
        if kind == "TransposedConv2D":
            shape = (operator.outputs, *operator.kernel, operator.inputs)
            weights, bias, scales = self._constants(shape, operator.outputs)
            return ops.TransposedConv2D(source, name, weights, bias, operator.stride, scales)
        if kind == "PReLU":
            slopes = np.full(operator.inputs, _SLOPE, np.float32)
            if self._integer:
                return ops.PReLU(source, name, np.full(operator.inputs, 64, np.int8), _SLOPE / 64)
            return ops.PReLU(source, name, slopes)
        if kind == "Pool2D":
            return ops.Pool2D(source, name, "max" if operator.detail == "max" else "average", size)
        if kind == "Resize":
            mode: Literal["nearest", "bilinear"] = (
                "nearest" if operator.detail == "nearest" else "bilinear"
            )
            return ops.Resize(source, name, size, mode)
        simple: dict[str, Callable[[], ops.Operator]] = {
            "Concat": lambda: ops.Concat((source,) * size, name),
            "Tile": lambda: ops.Tile(source, name, size),
            "Slice": lambda: ops.Slice(source, name, 0),
            "DepthToSpace": lambda: ops.DepthToSpace(source, name, size),
            "GlobalAveragePool": lambda: ops.GlobalAveragePool(source, name),
            "ReLU": lambda: ops.ReLU(source, name),
            "LeakyReLU": lambda: ops.LeakyReLU(source, name, _SLOPE),
            "Clip": lambda: ops.Clip(source, name, 0.0, 255.0),
            "Minimum": lambda: ops.Minimum(source, name, 100),
        }
        if kind not in simple:
            raise GraphError(f"{operator.label} has no graph of its own to be measured by")
        return simple[kind]()

    def _pairwise(self, kind: str, source: str, name: str) -> ops.Operator:
        before = self._operators[-1].inputs[0] if source != self.first else source
        pair = (source, self.gate or before)
        if kind == "Add":
            return ops.Add(pair, name)
        return ops.Subtract(pair, name) if kind == "Subtract" else ops.Multiply(pair, name)

    def _attend(self, width: int) -> None:
        """Channel attention: a weight for each channel, from the mean of all (RCAN's, a quarter
        as wide in between)."""
        source, quantization = self.last, self._tensors[self.last].quantization
        self.append(ops.GlobalAveragePool, width)
        self.convolve(max(1, width // 4), kernel=(1, 1), relu=True)
        self.convolve(width, kernel=(1, 1))
        gate = self.append(ops.Sigmoid, width, _SIGMOID)
        self.append(lambda _, name: ops.Multiply((source, gate), name), width, quantization)

    def _requantize(self, width: int) -> None:
        """To one of two scales, whichever the last tensor has not."""
        last = self._tensors[self.last].quantization
        other = ops.Quantization(0.75, 5)
        self.append(ops.Requantize, width, _FEATURES if last == other else other)

    def _constants(
        self, shape: tuple[int, ...], channels: int
    ) -> tuple[ops.Array, ops.Array, ops.Array | None]:
        """Random weights, no bias, and the scales of integers: He's initialization, which keeps
        the size of activations from layer to layer."""
        reads = max(1, math.prod(shape) // channels)
        if not self._integer:
            weights = self._generator.normal(0, math.sqrt(2 / reads), shape)
            return weights.astype(np.float32), np.zeros(channels, np.float32), None
        integers = self._generator.integers(-_WEIGHT_LIMIT, _WEIGHT_LIMIT + 1, shape, np.int8)
        scale = math.sqrt(2 / reads) / (_WEIGHT_LIMIT / math.sqrt(3))
        scales = np.full(channels, scale, np.float32)
        return integers, np.zeros(channels, np.int32), scales
