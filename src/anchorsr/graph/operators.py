"""The operators of a graph, over tensors in the layout (N, H, W, C).

An operator names its input tensors and its output tensor; their `TensorType` describes them. Names
and arithmetic follow the TensorFlow Lite specification. An operator works on float and on integer
tensors unless its docstring says otherwise.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from anchorsr.arrays import Array
from anchorsr.errors import GraphError

DType = Literal["float32", "uint8", "int8"]

# Quantized weights lie within ±64: two products then fit 16 bits (255 · 64 · 2 < 2^15), so no x86
# kernel saturates.
WEIGHT_LIMIT = 64

# The smallest normal float32: LiteRT crashes on subnormal scales.
_SMALLEST_SCALE = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class Quantization:
    """Affine quantization: real value = scale * (integer - zero_point)."""

    scale: float
    zero_point: int

    def __post_init__(self) -> None:
        if not np.isfinite(self.scale) or self.scale < _SMALLEST_SCALE:
            raise GraphError(f"a scale is at least {_SMALLEST_SCALE:.3g}, not {self.scale}")
        if float(np.float32(self.scale)) != self.scale:
            raise GraphError(f"a scale is stored as float32, which {self.scale!r} is not")


@dataclass(frozen=True)
class TensorType:
    """Channels, data type and, for integers, quantization of a tensor (N, H, W, C)."""

    channels: int
    dtype: DType
    quantization: Quantization | None = None

    def __post_init__(self) -> None:
        if self.channels < 1:
            raise GraphError(f"a tensor has at least one channel, not {self.channels}")
        if (self.dtype == "float32") != (self.quantization is None):
            raise GraphError("integer tensors have a quantization, float tensors have none")
        if self.quantization is not None:
            info = np.iinfo(self.dtype)
            if not info.min <= self.quantization.zero_point <= info.max:
                raise GraphError(
                    f"zero point {self.quantization.zero_point} is outside {self.dtype}"
                )


@dataclass(frozen=True, eq=False)
class OneInput:
    """The base class of operators with one input."""

    input: str
    output: str

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the input tensors."""
        return (self.input,)


@dataclass(frozen=True, eq=False)
class Conv2D(OneInput):
    """Convolution whose output is `stride` times smaller than its input, with an optional ReLU.

    Each side is padded with (kernel - stride) / 2 zeros, so kernels of stride 1 are odd.

    Attributes:
        weights: (out, height, width, in / groups), float32 or int8.
        bias: (out,), float32 or int32.
        weight_scales: (out,) float32 per-channel scales in an integer graph, else None.
        relu: Whether a ReLU is fused.
        groups: The number of channel groups.
        stride: The number of input pixels, along each axis, for an output pixel.
    """

    weights: Array
    bias: Array
    weight_scales: Array | None = None
    relu: bool = False
    groups: int = 1
    stride: int = 1

    @property
    def copies_channels(self) -> bool:
        """Whether every output channel is a copy of one input channel, as in an anchor."""
        if self.weights.shape[1:3] != (1, 1) or self.relu or self.bias.any():
            return False
        scales = 1 if self.weight_scales is None else self.weight_scales[:, None]
        real = self.weights[:, 0, 0] * scales
        return bool(((real == 0) | (real == 1)).all() and (real.sum(axis=1) == 1).all())


@dataclass(frozen=True)
class Add:
    """Element-wise sum; an input of 1×1 pixels is broadcast."""

    inputs: tuple[str, str]
    output: str


@dataclass(frozen=True)
class DepthToSpace(OneInput):
    """Rearrangement of channels into pixels, (N, H, W, block² * C) to (N, block * H, block * W, C).

    Channel (dy * block + dx) * C + c moves to row dy, column dx, channel c (TensorFlow's order;
    ONNX calls it DCR). Input and output have the same type.
    """

    block: int


@dataclass(frozen=True)
class Requantize(OneInput):
    """Conversion of integers to another data type or quantization (TFLite: QUANTIZE)."""


@dataclass(frozen=True)
class Clip(OneInput):
    """Clipping to [low, high]; float graphs only, because integers saturate."""

    low: float
    high: float


@dataclass(frozen=True)
class Concat:
    """Concatenation along the channels; a tensor may occur several times."""

    inputs: tuple[str, ...]
    output: str


@dataclass(frozen=True)
class Minimum(OneInput):
    """Element-wise minimum with the integer `bound`; integer graphs only. Keeps the type."""

    bound: int


@dataclass(frozen=True)
class ReLU(OneInput):
    """ReLU that is not fused into a convolution. Keeps the type."""


@dataclass(frozen=True, eq=False)
class DepthwiseConv2D(OneInput):
    """Depthwise convolution with channel multiplier 1; otherwise like `Conv2D`.

    Attributes:
        weights: (height, width, channels), float32 or int8.
        bias: (channels,), float32 or int32.
        weight_scales: (channels,) float32 in an integer graph, else None.
        relu: Whether a ReLU is fused.
    """

    weights: Array
    bias: Array
    weight_scales: Array | None = None
    relu: bool = False


@dataclass(frozen=True, eq=False)
class TransposedConv2D(OneInput):
    """Transposed convolution whose output is `stride` times as high and wide.

    The overhang of the kernel, kernel - stride, is even; half of it is cropped on each side.

    Attributes:
        weights: (out, height, width, in), float32 or int8.
        bias: (out,), float32 or int32.
        stride: The upscaling factor.
        weight_scales: (out,) float32 in an integer graph, else None.
    """

    weights: Array
    bias: Array
    stride: int
    weight_scales: Array | None = None


@dataclass(frozen=True)
class Subtract:
    """Element-wise difference; an input of 1×1 pixels is broadcast."""

    inputs: tuple[str, str]
    output: str


@dataclass(frozen=True)
class Multiply:
    """Element-wise product; an input of 1×1 pixels is broadcast."""

    inputs: tuple[str, str]
    output: str


@dataclass(frozen=True)
class LeakyReLU(OneInput):
    """Multiplication of negative values by `slope`, which is rounded to float32."""

    slope: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "slope", float(np.float32(self.slope)))


@dataclass(frozen=True, eq=False)
class PReLU(OneInput):
    """Multiplication of negative values by a per-channel slope.

    Attributes:
        slopes: (channels,) float32, or int8 with zero point 0.
        slope_scale: The scale of int8 slopes.
    """

    slopes: Array
    slope_scale: float | None = None


@dataclass(frozen=True)
class Sigmoid(OneInput):
    """1 / (1 + exp(-x)); an integer output has scale 1/256 and zero point -128."""


@dataclass(frozen=True)
class SquareRoot(OneInput):
    """Square root of non-negative values; only of 1×1 tensors, as in attention."""


@dataclass(frozen=True)
class Pool2D(OneInput):
    """Average or maximum of the size × size window, without the padding.

    Attributes:
        kind: Which of them.
        size: The side of the window: odd, or equal to the stride.
        stride: 1, or the size: windows that do not overlap, of maxima only.
    """

    kind: Literal["average", "max"]
    size: int
    stride: int = 1


@dataclass(frozen=True)
class GlobalAveragePool(OneInput):
    """Mean of every channel over the whole image, (N, 1, 1, C)."""


@dataclass(frozen=True)
class Resize(OneInput):
    """Upscaling by an integer factor with half-pixel centres (align_corners=False)."""

    factor: int
    mode: Literal["nearest", "bilinear"]


@dataclass(frozen=True)
class Slice(OneInput):
    """The channels from `start` on, as many as the output has. Keeps the type."""

    start: int


@dataclass(frozen=True)
class Tile(OneInput):
    """All channels repeated `count` times, as a block. Keeps the type."""

    count: int


Convolution = Conv2D | DepthwiseConv2D | TransposedConv2D

# Operators that keep the type of their input.
Move = Concat | DepthToSpace | Minimum | Pool2D | ReLU | Resize | Slice | Tile

Operator = (
    Convolution
    | Move
    | Add
    | Subtract
    | Multiply
    | Requantize
    | Clip
    | LeakyReLU
    | PReLU
    | Sigmoid
    | SquareRoot
    | GlobalAveragePool
)


def by_channel(conv: Convolution) -> npt.NDArray[np.float32]:
    """Return the weights with the output channels first, (out, height, width, in)."""
    if isinstance(conv, DepthwiseConv2D):
        return np.asarray(conv.weights.transpose(2, 0, 1)[..., None])
    return conv.weights


def as_stored(
    conv: Convolution, weights: npt.NDArray[np.float32 | np.int8]
) -> npt.NDArray[np.float32 | np.int8]:
    """Return weights from `by_channel` in the layout that the operator stores."""
    if isinstance(conv, DepthwiseConv2D):
        return np.ascontiguousarray(weights[..., 0].transpose(1, 2, 0))
    return weights


def with_inputs(operator: Operator, sources: tuple[str, ...]) -> Operator:
    """Return the operator with other inputs."""
    single = isinstance(operator, OneInput)
    changes: dict[str, Any] = {"input": sources[0]} if single else {"inputs": sources}
    return dataclasses.replace(operator, **changes)
