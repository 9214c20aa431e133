"""Graphs to be timed: of one operator alone, and of each residual form.

An `OperatorClass` is all that an operator's time depends on: two operators of one class take
equally long. Its graph applies it once, or several times in a row, between an input and an output
of the same number type. Weights are random, and no scale of an integer graph is one that a runtime
could optimize away.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from anchorsr.arrays import Array
from anchorsr.errors import GraphError
from anchorsr.graph import operators as ops
from anchorsr.graph.graph import Graph
from anchorsr.quantization.calibration import RESIDUAL

Precision = Literal["float32", "int8"]

IMAGE = 3  # channels
_SLOPE = 0.125
# Like most activations: runtimes, above all OpenVINO, are slower with a zero point that is not 0.
_FEATURES = ops.Quantization(1.0, -9)
_RECTIFIED = ops.Quantization(1.0, -128)
_SIGMOID = ops.Quantization(1 / 256, -128)

_ALONE = ("ReLU", "LeakyReLU", "PReLU", "Sigmoid", "Clip", "Minimum", "Concat", "Tile", "Slice")

# The residual forms that `residual_graph` builds.
ResidualForm = Literal[
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
    """All that the time of an operator depends on, for an image of given size.

    Attributes:
        kind: The name of its class in `graph.operators`, or "ChannelAttention", which is several.
        inputs: Channels of each tensor that it reads.
        outputs: Channels of its output.
        extent: Its input's height over the image's.
        size: The side of a kernel or pool, a factor, a block, or the number of tensors that are
            concatenated.
        stride: Of a transposed convolution.
        groups: Of a convolution.
        relu: Whether a ReLU is fused into it.
        detail: A mode, or "gate" where the second tensor is 1×1.
        columns: The other side of a kernel that is not square.
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
        """Its output's height over the image's."""
        if self.kind == "GlobalAveragePool":
            return 0
        grows = {"DepthToSpace": self.size, "Resize": self.size, "TransposedConv2D": self.stride}
        return self.extent * grows.get(self.kind, 1)

    @property
    def repeats(self) -> bool:
        """Whether it can be applied to its own output, and takes as long every time.

        Runtimes fuse elementwise operators: ten of those in a row take as long as one.
        """
        keeps = (self.inputs, self.extent) == (self.outputs, self.output_extent)
        return keeps and self.kind not in _ALONE

    @property
    def convolves(self) -> bool:
        """Whether it is a convolution of any kind."""
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
    """Return the class of an operator in a graph; None on 1×1 tensors, where it takes no time."""
    extents = [graph.extents[name] for name in operator.inputs]
    extent = max(extents)
    if not extent:
        return None
    if graph.multiple > 1:
        raise GraphError(f"{graph.name} has strides, and there is no measurement of those")
    source = graph.tensors[operator.inputs[extents.index(extent)]]
    widths = source.channels, graph.tensors[operator.output].channels
    kind = type(operator).__name__
    common: dict[str, Any] = {"extent": int(extent)}
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
        # Inputs of unequal width are treated as equal ones of the same total width.
        count = len(operator.inputs)
        each = max(1, round(widths[1] / count))
        widths = each, each * count
        common |= {"size": count}
    return OperatorClass(kind, *widths, **common)


def _sides(rows: int, columns: int) -> dict[str, int]:
    return {"size": rows, "columns": 0 if rows == columns else columns}


def operator_graph(
    operator: OperatorClass, precision: Precision, *, count: int = 1, file_io: bool = False
) -> Graph:
    """Build a graph that applies an operator one or several times in a row.

    An operator over two tensors reads the last two.

    Args:
        operator: What to apply.
        precision: float32 or int8.
        count: How many times.
        file_io: Whether an integer graph takes and gives uint8, as a network's file does, and not
            int8.

    Raises:
        GraphError: It cannot be applied to its own output, or the precision does not have it.
    """
    if count != 1 and not operator.repeats:
        raise GraphError(f"{operator.label} cannot be applied to its own output")
    quantization = _FEATURES
    if operator.relu:
        quantization = _RECTIFIED
    elif operator.kind == "Sigmoid":
        quantization = _SIGMOID
    chain = Chain(operator.inputs, precision, quantization, file_io=file_io)
    if operator.detail == "gate":
        chain.gate = chain.append(
            lambda source, name: ops.GlobalAveragePool(source, name), operator.inputs
        )
        chain.last = chain.first
    for _ in range(count):
        chain.apply(operator)
    return chain.graph(operator.kind)


def residual_graph(
    form: ResidualForm,
    channels: int,
    precision: Precision,
    *,
    factor: int = 3,
    depth: int = 2,
    file_io: bool = False,
) -> Graph:
    """Build 3×3 convolutions and depth-to-space, with a residual in one of its forms.

    none      nothing is added
    fsrl      the first convolution's output is added before the last one (feature space)
    isrl_*    the upscaled image is added at full size (image space)
    anchor_*  the image is added to every block of pixels before depth-to-space: repeated by
              Concat, by Tile or by a 1×1 convolution, or folded into the last convolution,
              which reads features and image

    Args:
        form: One of those.
        channels: The width of the convolutions.
        precision: float32 or int8.
        factor: The super-resolution ratio.
        depth: Convolutions with ReLU before the last one.
        file_io: Whether an integer graph takes and gives uint8, as a network's file does, and not
            int8.
    """
    packed = IMAGE * factor**2
    chain = Chain(IMAGE, precision, _RECTIFIED, file_io=file_io)
    image = chain.last
    made = [chain.convolve(channels, relu=True) for _ in range(depth)] or [image]
    if form == "fsrl":
        chain.append(lambda _, name: ops.Add((made[0], made[-1]), name), channels)
    elif form == "anchor_folded":
        width = (channels if depth else IMAGE) + IMAGE
        chain.append(lambda _, name: ops.Concat((made[-1], image), name), width)
    in_space = form in ("isrl_nearest", "isrl_bilinear")
    added = in_space or form in ("anchor_concat", "anchor_tile", "anchor_conv")
    residual = chain.convolve(packed, quantization=RESIDUAL if added else _RECTIFIED)
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
    """Builds a graph of operators, each of which reads the output of the one before it."""

    def __init__(
        self,
        channels: int,
        precision: Precision,
        quantization: ops.Quantization,
        *,
        file_io: bool = False,
    ) -> None:
        self._integer = precision == "int8"
        self._file_io = file_io and self._integer
        self._generator = np.random.default_rng(0)
        self._tensors = {"images": self._io_type(channels, quantization)}
        self._operators: list[ops.Operator] = []
        self.gate = ""  # a 1×1 tensor for those that want one
        self.first = self.last = "images"
        if self._file_io:
            self.append(ops.Requantize, channels, quantization)
            self.first = self.last

    def append(
        self,
        make: Callable[[str, str], ops.Operator],
        channels: int,
        quantization: ops.Quantization | None = None,
    ) -> str:
        """Append an operator.

        Args:
            make: Makes it from the names of its input and its output.
            channels: Of its output.
            quantization: Of its output; by default the input's.

        Returns:
            The name of its output.
        """
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
        """Append an operator of a class."""
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
            self.append(lambda source, name: self._make(operator, source, name), width)

    def convolve(
        self,
        channels: int,
        *,
        kernel: tuple[int, int] = (3, 3),
        groups: int = 1,
        relu: bool = False,
        quantization: ops.Quantization | None = None,
    ) -> str:
        """Append a convolution with random weights; returns the name of its output."""
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
        """Make a 1×1 convolution that repeats a tensor's channels."""
        eye = np.eye(self._tensors[source].channels)
        weights = np.tile(eye, (copies, 1))[:, None, None]
        width = len(weights)
        if self._integer:
            bias, scales = np.zeros(width, np.int32), np.full(width, 1 / 64, np.float32)
            return ops.Conv2D(source, name, (weights * 64).astype(np.int8), bias, scales)
        return ops.Conv2D(source, name, weights.astype(np.float32), np.zeros(width, np.float32))

    def graph(self, name: str) -> Graph:
        """Return the graph, whose output is the last tensor."""
        last = self._tensors[self.last]
        if self._file_io:
            assert last.quantization is not None
            made = self._io_type(last.channels, last.quantization)
            operators = (*self._operators, ops.Requantize(self.last, "made"))
            return Graph(name, {**self._tensors, "made": made}, operators, "images", "made")
        return Graph(name, self._tensors, self._operators, "images", self.last)

    def _io_type(self, channels: int, quantization: ops.Quantization) -> ops.TensorType:
        if not self._integer:
            return ops.TensorType(channels, "float32")
        if not self._file_io:
            return ops.TensorType(channels, "int8", quantization)
        shifted = ops.Quantization(quantization.scale, quantization.zero_point + 128)
        return ops.TensorType(channels, "uint8", shifted)

    def _make(self, operator: OperatorClass, source: str, name: str) -> ops.Operator:
        """Make an operator that keeps the quantization."""
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
            raise GraphError(f"{operator.label} cannot be measured alone")
        return simple[kind]()

    def _pairwise(self, kind: str, source: str, name: str) -> ops.Operator:
        before = self._operators[-1].inputs[0] if source != self.first else source
        pair = (source, self.gate or before)
        if kind == "Add":
            return ops.Add(pair, name)
        return ops.Subtract(pair, name) if kind == "Subtract" else ops.Multiply(pair, name)

    def _attend(self, width: int) -> None:
        """Append RCAN's channel attention, a quarter as wide in between."""
        source, quantization = self.last, self._tensors[self.last].quantization
        self.append(ops.GlobalAveragePool, width)
        self.convolve(max(1, width // 4), kernel=(1, 1), relu=True)
        self.convolve(width, kernel=(1, 1))
        gate = self.append(ops.Sigmoid, width, _SIGMOID)
        self.append(lambda _, name: ops.Multiply((source, gate), name), width, quantization)

    def _requantize(self, width: int) -> None:
        """Change the scale to the other one of two."""
        last = self._tensors[self.last].quantization
        other = ops.Quantization(0.75, 5)
        self.append(ops.Requantize, width, _FEATURES if last == other else other)

    def _constants(
        self, shape: tuple[int, ...], channels: int
    ) -> tuple[Array, Array, Array | None]:
        """Draw weights, zero biases and the weights' scales.

        He's initialization keeps the size of activations from layer to layer.
        """
        reads = max(1, math.prod(shape) // channels)
        if not self._integer:
            weights = self._generator.normal(0, math.sqrt(2 / reads), shape)
            return weights.astype(np.float32), np.zeros(channels, np.float32), None
        integers = self._generator.integers(-ops.WEIGHT_LIMIT, ops.WEIGHT_LIMIT + 1, shape, np.int8)
        scale = math.sqrt(2 / reads) / (ops.WEIGHT_LIMIT / math.sqrt(3))
        scales = np.full(channels, scale, np.float32)
        return integers, np.zeros(channels, np.int32), scales
