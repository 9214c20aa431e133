"""The operators of a graph, over tensors in the layout (N, H, W, C).

An operator names the tensors that it reads and the one that it makes; what the tensors are is
said by their `TensorType`. Names and arithmetic follow the TensorFlow Lite specification. Each
holds for float tensors and for integer ones unless its docstring says otherwise.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from anchorsr.errors import GraphError

DType = Literal["float32", "uint8", "int8"]
Array = npt.NDArray[Any]

# Below it float32 has fewer digits, and LiteRT crashes.
_SMALLEST_SCALE = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class Quantization:
    """What an integer means: real value = scale * (integer - zero_point)."""

    scale: float
    zero_point: int

    def __post_init__(self) -> None:
        if not np.isfinite(self.scale) or self.scale < _SMALLEST_SCALE:
            raise GraphError(
                f"a scale is a number of at least {_SMALLEST_SCALE:.3g}, not {self.scale}"
            )
        if float(np.float32(self.scale)) != self.scale:
            raise GraphError(f"a scale is stored as float32, which {self.scale!r} is not")


@dataclass(frozen=True)
class TensorType:
    """Channels, number type and, for integers, their meaning. Layout (N, H, W, C)."""

    channels: int
    dtype: DType
    quantization: Quantization | None = None

    def __post_init__(self) -> None:
        if self.channels < 1:
            raise GraphError(f"a tensor has at least one channel, not {self.channels}")
        if (self.dtype == "float32") != (self.quantization is None):
            raise GraphError("integer tensors carry a quantization, float tensors none")
        if self.quantization is not None:
            info = np.iinfo(self.dtype)
            if not info.min <= self.quantization.zero_point <= info.max:
                raise GraphError(
                    f"zero point {self.quantization.zero_point} is outside {self.dtype}"
                )


@dataclass(frozen=True, eq=False)
class OneInput:
    """What operators that read one tensor have in common."""

    input: str
    output: str

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.input,)


@dataclass(frozen=True, eq=False)
class Conv2D(OneInput):
    """Convolution with stride 1, zero padded to keep height and width, bias added, then
    optionally ReLU.

    weights: (out, height, width, in / groups), float32 or int8. bias: (out,), float32 or int32.
    weight_scales: (out,) float32 in an integer graph, else None. groups: input and output
    channels fall into so many equal parts in their order, and each part sees only its own.
    """

    weights: Array
    bias: Array
    weight_scales: Array | None = None
    relu: bool = False
    groups: int = 1

    @property
    def copies_channels(self) -> bool:
        """True where every output channel is one input channel unchanged: an anchor."""
        if self.weights.shape[1:3] != (1, 1) or self.relu or self.bias.any():
            return False
        scales = 1 if self.weight_scales is None else self.weight_scales[:, None]
        real = self.weights[:, 0, 0] * scales
        return bool(((real == 0) | (real == 1)).all() and (real.sum(axis=1) == 1).all())


@dataclass(frozen=True)
class Add:
    """Element-wise sum; either may be 1×1 and then stands for every pixel."""

    inputs: tuple[str, str]
    output: str


@dataclass(frozen=True)
class DepthToSpace(OneInput):
    """(N, H, W, block² * C) to (N, block * H, block * W, C).

    Channel (dy * block + dx) * C + c goes to row dy, column dx, channel c (TensorFlow's
    order; ONNX calls it DCR). Input and output have the same number type and quantization.
    """

    block: int


@dataclass(frozen=True)
class Requantize(OneInput):
    """The same real values with another number type or quantization (TFLite: QUANTIZE)."""


@dataclass(frozen=True)
class Clip(OneInput):
    """Values limited to [low, high]; float graphs only (integers clip by saturation)."""

    low: float
    high: float


@dataclass(frozen=True)
class Concat:
    """Tensors of one type side by side along the channels; one may stand there several times."""

    inputs: tuple[str, ...]
    output: str


@dataclass(frozen=True)
class Minimum(OneInput):
    """Integers above `bound` replaced by it; integer graphs only. The type stays the same."""

    bound: int


@dataclass(frozen=True)
class ReLU(OneInput):
    """Values below zero replaced by it, as an operator of its own. The type stays the same."""


@dataclass(frozen=True, eq=False)
class DepthwiseConv2D(OneInput):
    """Convolution of each channel with a kernel of its own, padded and finished as Conv2D's.

    weights: (height, width, channels), float32 or int8. bias, weight_scales: (channels,).
    """

    weights: Array
    bias: Array
    weight_scales: Array | None = None
    relu: bool = False


@dataclass(frozen=True, eq=False)
class TransposedConv2D(OneInput):
    """Each input pixel spread over height × width output pixels, `stride` apart, summed.

    The output is `stride` times as high and wide; of the kernel's overhang, kernel - stride,
    half is cut off on each side, so that is even. weights: (out, height, width, in).
    """

    weights: Array
    bias: Array
    stride: int
    weight_scales: Array | None = None


@dataclass(frozen=True)
class Subtract:
    """The first tensor less the second; either may be 1×1 and then stands for every pixel."""

    inputs: tuple[str, str]
    output: str


@dataclass(frozen=True)
class Multiply:
    """Element-wise product; either may be 1×1 and then stands for every pixel."""

    inputs: tuple[str, str]
    output: str


@dataclass(frozen=True)
class LeakyReLU(OneInput):
    """Values below zero multiplied by `slope`, which is rounded to float32."""

    slope: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "slope", float(np.float32(self.slope)))


@dataclass(frozen=True, eq=False)
class PReLU(OneInput):
    """Values below zero multiplied by a slope of their channel's own.

    slopes: (channels,) float32, or int8 at scale `slope_scale` and zero point 0.
    """

    slopes: Array
    slope_scale: float | None = None


@dataclass(frozen=True)
class Sigmoid(OneInput):
    """1 / (1 + exp(-x)); an integer output has scale 1/256 and stands for 0 to 255/256."""


@dataclass(frozen=True)
class SquareRoot(OneInput):
    """The square root of values that are not negative. Only 1×1 tensors, as attention has."""


@dataclass(frozen=True)
class Pool2D(OneInput):
    """Mean or maximum of the size × size pixels around each, of those inside the image."""

    kind: Literal["average", "max"]
    size: int


@dataclass(frozen=True)
class GlobalAveragePool(OneInput):
    """The mean of every channel over the whole image: (N, 1, 1, C)."""


@dataclass(frozen=True)
class Resize(OneInput):
    """`factor` times as high and wide, pixel centres at halves (PyTorch's align_corners=False)."""

    factor: int
    mode: Literal["nearest", "bilinear"]


@dataclass(frozen=True)
class Slice(OneInput):
    """As many channels as the output has, from number `start` on. The type stays the same."""

    start: int


@dataclass(frozen=True)
class Tile(OneInput):
    """All channels repeated `count` times, as a whole. The type stays the same."""

    count: int


Convolution = Conv2D | DepthwiseConv2D | TransposedConv2D

# Numbers go through these as they are.
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
    """Weights with the output channels first, (out, height, width, in)."""
    if isinstance(conv, DepthwiseConv2D):
        return np.asarray(conv.weights.transpose(2, 0, 1)[..., None])
    return conv.weights


def as_stored(
    conv: Convolution, weights: npt.NDArray[np.float32 | np.int8]
) -> npt.NDArray[np.float32 | np.int8]:
    if isinstance(conv, DepthwiseConv2D):
        return np.ascontiguousarray(weights[..., 0].transpose(1, 2, 0))
    return weights


def with_inputs(operator: Operator, sources: tuple[str, ...]) -> Operator:
    """The operator with other inputs."""
    single = isinstance(operator, OneInput)
    changes: dict[str, Any] = {"input": sources[0]} if single else {"inputs": sources}
    return dataclasses.replace(operator, **changes)
