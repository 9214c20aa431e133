"""Checks of operators against the types of their tensors: data types, channels, extents, scales.

A failed check is a GraphError. `graph` checks the graph as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from anchorsr.arrays import Array
from anchorsr.errors import GraphError
from anchorsr.graph import operators as ops

SIGMOID_OUTPUT = ops.Quantization(1 / 256, -128)

# LiteRT refuses convolutions with a multiplier of this or more.
LARGEST_MULTIPLIER = 256

# The allowed range of the input scale over the output scale, by kind of operator: from the first
# number up to, but not including, the second. Outside it, LiteRT uses other kernels, which round
# differently. For a product, the input scale is the product of both.
_SUM_RATIOS = (2.0**-10, 2.0**8)
_PRODUCT_RATIOS = (2.0**-16, 2.0**8)
_RESCALE_RATIOS = (2.0**-8, float(np.nextafter(np.float32(2.0**7), np.float32(2.0**8))))
_SLOPE_RATIOS = (2.0**-30, 2.0**8)

# The runtimes have int8 kernels for these; for uint8 they have none, or different ones.
_INT8 = (
    ops.Add,
    ops.DepthwiseConv2D,
    ops.TransposedConv2D,
    ops.Subtract,
    ops.Multiply,
    ops.LeakyReLU,
    ops.PReLU,
    ops.Sigmoid,
    ops.SquareRoot,
    ops.Pool2D,
    ops.GlobalAveragePool,
    ops.Resize,
)


def check_operator(
    operator: ops.Operator, sources: Sequence[ops.TensorType], target: ops.TensorType
) -> None:
    """Check that an operator accepts the types of its tensors.

    Args:
        operator: The operator.
        sources: The types of its inputs.
        target: The type of its output.

    Raises:
        GraphError: It does not.
    """
    kind = type(operator).__name__
    _check_channels(operator, sources, target)
    if isinstance(operator, ops.Requantize):
        if "float32" in (sources[0].dtype, target.dtype):
            raise GraphError("Requantize works on integers only")
    elif any(tensor.dtype != target.dtype for tensor in sources):
        raise GraphError(f"{kind} has inputs and an output of one data type")
    if isinstance(operator, ops.Move) and any(
        tensor.quantization != target.quantization for tensor in sources
    ):
        raise GraphError(f"{kind} keeps the type: input and output must have the same quantization")
    if isinstance(operator, _INT8) and target.dtype == "uint8":
        raise GraphError(f"{kind} works on float32 and int8, not on uint8")
    _check_values(operator, sources[0], target)
    if target.quantization is not None:
        scales = [np.float32(each.quantization.scale) for each in sources if each.quantization]
        _check_scales(operator, scales, np.float32(target.quantization.scale), sources, target)


def extent_of(operator: ops.Operator, extents: Sequence[Fraction]) -> Fraction:
    """Compute the height of an operator's output relative to the graph's input.

    Args:
        operator: The operator.
        extents: The same of its inputs. 0 stands for a tensor of 1×1 pixels.

    Raises:
        GraphError: The extents do not fit the operator.
    """
    kind = type(operator).__name__
    first = extents[0]
    if isinstance(operator, ops.GlobalAveragePool):
        return Fraction(0)
    if isinstance(operator, ops.SquareRoot) and any(extents):
        raise GraphError(
            "SquareRoot works on 1x1 tensors only, such as the output of GlobalAveragePool"
        )
    if (
        isinstance(operator, ops.DepthToSpace | ops.TransposedConv2D | ops.Resize | ops.Pool2D)
        and not first
    ):
        raise GraphError(f"{kind} works on images, not on 1x1 tensors")
    if isinstance(operator, ops.DepthToSpace):
        return first * operator.block
    if isinstance(operator, ops.TransposedConv2D):
        return first * operator.stride
    if isinstance(operator, ops.Resize):
        return first * operator.factor
    if isinstance(operator, ops.Pool2D):
        return first / operator.stride
    if isinstance(operator, ops.Conv2D):
        if not first and operator.weights.shape[1:3] != (1, 1):
            raise GraphError("Conv2D over a 1x1 tensor has 1x1 weights")
        return first / operator.stride
    if isinstance(operator, ops.DepthwiseConv2D):
        if not first and operator.weights.shape[:2] != (1, 1):
            raise GraphError("DepthwiseConv2D over a 1x1 tensor has 1x1 weights")
    elif isinstance(operator, ops.Add | ops.Subtract | ops.Multiply):
        if len(set(extents) - {0}) > 1:
            raise GraphError(f"{kind} takes two tensors of the same height and width, or 1x1")
    elif len(set(extents)) > 1:
        raise GraphError(f"{kind} takes tensors of the same height and width")
    return max(extents)


def _check_channels(
    operator: ops.Operator, sources: Sequence[ops.TensorType], target: ops.TensorType
) -> None:
    kind = type(operator).__name__
    first = sources[0].channels
    if isinstance(operator, ops.Conv2D):
        _check_conv(operator, first, target)
    elif isinstance(operator, ops.DepthwiseConv2D):
        _check_depthwise(operator, first, target)
    elif isinstance(operator, ops.TransposedConv2D):
        _check_transposed(operator, first, target)
    elif isinstance(operator, ops.Add | ops.Subtract | ops.Multiply):
        if len({tensor.channels for tensor in [*sources, target]}) != 1:
            raise GraphError(f"{kind} takes two tensors with the output's number of channels")
    elif isinstance(operator, ops.DepthToSpace):
        if operator.block < 1 or first != target.channels * operator.block**2:
            raise GraphError(
                f"DepthToSpace({operator.block}) cannot turn {first} channels into"
                f" {target.channels}"
            )
    elif isinstance(operator, ops.Concat):
        if sum(tensor.channels for tensor in sources) != target.channels:
            raise GraphError("Concat has as many output channels as its inputs have together")
    elif isinstance(operator, ops.Slice):
        if not 0 <= operator.start <= first - target.channels:
            raise GraphError(
                f"Slice takes {target.channels} channels from index {operator.start} on, but there"
                f" are {first}"
            )
    elif isinstance(operator, ops.Tile):
        if operator.count < 1 or first * operator.count != target.channels:
            raise GraphError(
                f"Tile repeats {first} channels {operator.count} times, which is not"
                f" {target.channels}"
            )
    elif first != target.channels:
        raise GraphError(f"{kind} keeps the number of channels")


def _check_values(operator: ops.Operator, source: ops.TensorType, target: ops.TensorType) -> None:
    """Check the attributes of an operator, other than weights."""
    if isinstance(operator, ops.Clip) and target.dtype != "float32":
        raise GraphError("Clip is for float graphs; integers clip by saturation")
    if isinstance(operator, ops.Minimum):
        if target.dtype == "float32":
            raise GraphError("Minimum is for integer graphs; Clip is for float ones")
        if not np.iinfo(target.dtype).min <= operator.bound <= np.iinfo(target.dtype).max:
            raise GraphError(f"Minimum's bound {operator.bound} is outside {target.dtype}")
    if isinstance(operator, ops.LeakyReLU) and not 0 <= operator.slope < 1:
        raise GraphError(f"LeakyReLU's slope is from 0 to below 1, not {operator.slope}")
    if isinstance(operator, ops.PReLU):
        _check_slopes(operator, target)
    if isinstance(operator, ops.Sigmoid) and target.quantization not in (None, SIGMOID_OUTPUT):
        raise GraphError("Sigmoid's integers have scale 1/256 and zero point -128")
    if (
        isinstance(operator, ops.SquareRoot)
        and source.quantization is not None
        and source.quantization.zero_point != -128
    ):
        raise GraphError("SquareRoot takes integers with zero point -128, so that none is negative")
    if isinstance(operator, ops.Pool2D):
        if operator.stride > 1:
            if operator.kind != "max" or operator.size != operator.stride:
                raise GraphError("Pool2D has a stride for maxima of windows of the same size only")
        elif operator.size < 1 or operator.size % 2 == 0:
            raise GraphError(f"Pool2D's size is odd, not {operator.size}")
    if isinstance(operator, ops.Resize) and operator.factor < 1:
        raise GraphError(f"Resize has a factor of at least 1, not {operator.factor}")


def _check_scales(
    operator: ops.Operator,
    scales: Sequence[np.float32],
    output: np.float32,
    sources: Sequence[ops.TensorType],
    target: ops.TensorType,
) -> None:
    kind = type(operator).__name__
    if isinstance(operator, ops.Convolution):
        assert operator.weight_scales is not None  # checked by `_check_weights`
        with np.errstate(over="ignore"):
            largest = (scales[0] * operator.weight_scales / output).max()
        if not largest < LARGEST_MULTIPLIER:
            raise GraphError(
                f"{kind} has a multiplier of {largest:.3g}; LiteRT accepts only those below"
                f" {LARGEST_MULTIPLIER}"
            )
    elif isinstance(operator, ops.Add | ops.Subtract):
        for scale in scales:
            _check_ratio(kind, scale / output, _SUM_RATIOS)
    elif isinstance(operator, ops.Multiply):
        _check_ratio(kind, scales[0] * scales[1] / output, _PRODUCT_RATIOS)
    elif isinstance(operator, ops.LeakyReLU):
        _check_ratio(kind, scales[0] / output, _RESCALE_RATIOS)
        _check_ratio(
            "LeakyReLU's slope", scales[0] / output * np.float32(operator.slope), _RESCALE_RATIOS
        )
    elif isinstance(operator, ops.PReLU):
        _check_ratio(kind, scales[0] / output, _RESCALE_RATIOS)
        slope_scale = np.float32(operator.slope_scale or 1)
        _check_ratio("PReLU's slopes", scales[0] / output * slope_scale, _SLOPE_RATIOS)
    elif isinstance(operator, ops.Requantize) and scales[0] != output:
        if "uint8" in (sources[0].dtype, target.dtype):
            raise GraphError(f"Requantize from or to uint8 keeps the scale, {output}")
        _check_ratio(kind, scales[0] / output, _RESCALE_RATIOS)


def _check_ratio(what: str, ratio: np.float32, limits: tuple[float, float]) -> None:
    if not limits[0] <= ratio < limits[1]:
        raise GraphError(
            f"{what} has a scale {ratio:.3g} times the output's; LiteRT is exact only from"
            f" {limits[0]:.3g} to {limits[1]:.3g}: choose closer scales"
        )


def _check_slopes(prelu: ops.PReLU, target: ops.TensorType) -> None:
    integer = target.dtype != "float32"
    expected = np.dtype(np.int8 if integer else np.float32)
    if prelu.slopes.shape != (target.channels,) or prelu.slopes.dtype != expected:
        raise GraphError(
            f"PReLU has one {expected} slope per channel, not {prelu.slopes.dtype}"
            f" {prelu.slopes.shape}"
        )
    if integer != (prelu.slope_scale is not None):
        raise GraphError("an integer PReLU has a scale of its slopes, a float one has none")
    if prelu.slope_scale is not None:
        ops.Quantization(prelu.slope_scale, 0)


def _check_conv(conv: ops.Conv2D, channels: int, target: ops.TensorType) -> None:
    weights, stride = conv.weights, conv.stride
    if weights.ndim != 4 or (stride == 1 and any(side % 2 == 0 for side in weights.shape[1:3])):
        raise GraphError(f"weights are (out, odd, odd, in), not {weights.shape}")
    if stride < 1 or any(side < stride or (side - stride) % 2 for side in weights.shape[1:3]):
        raise GraphError(
            f"a kernel exceeds its stride {stride} by an even number of pixels, not"
            f" {weights.shape[1:3]}"
        )
    groups = conv.groups
    if groups < 1 or channels % groups or target.channels % groups:
        raise GraphError(f"{groups} groups do not divide {channels} and {target.channels} channels")
    if (weights.shape[0], weights.shape[3] * groups) != (target.channels, channels):
        raise GraphError(
            f"weights {weights.shape} do not map {channels} to {target.channels} channels"
            + (f" in {groups} groups" if groups > 1 else "")
        )
    _check_weights(weights, conv.bias, conv.weight_scales, target)


def _check_depthwise(conv: ops.DepthwiseConv2D, channels: int, target: ops.TensorType) -> None:
    weights = conv.weights
    if weights.ndim != 3 or weights.shape[0] % 2 == 0 or weights.shape[1] % 2 == 0:
        raise GraphError(f"depthwise weights are (odd, odd, channels), not {weights.shape}")
    if not weights.shape[2] == channels == target.channels:
        raise GraphError(
            f"depthwise weights {weights.shape} do not map {channels} to {target.channels} channels"
        )
    _check_weights(weights, conv.bias, conv.weight_scales, target)


def _check_transposed(conv: ops.TransposedConv2D, channels: int, target: ops.TensorType) -> None:
    weights, stride = conv.weights, conv.stride
    if weights.ndim != 4 or (weights.shape[0], weights.shape[3]) != (target.channels, channels):
        raise GraphError(
            f"transposed weights {weights.shape} do not map {channels} to"
            f" {target.channels} channels"
        )
    if stride < 1 or any(side < stride or (side - stride) % 2 for side in weights.shape[1:3]):
        raise GraphError(
            f"a transposed kernel exceeds its stride {stride} by an even number of pixels, not"
            f" {weights.shape[1:3]}"
        )
    _check_weights(weights, conv.bias, conv.weight_scales, target)


def _check_weights(
    weights: Array, bias: Array, scales: Array | None, target: ops.TensorType
) -> None:
    if bias.shape != (target.channels,):
        raise GraphError(f"a bias has one number per output channel, not shape {bias.shape}")
    integer = target.dtype != "float32"
    expected = (np.dtype(np.int8), np.dtype(np.int32)) if integer else (np.dtype(np.float32),) * 2
    if (weights.dtype, bias.dtype) != expected:
        raise GraphError(f"weights and bias are {weights.dtype} and {bias.dtype}, not {expected}")
    if integer != (scales is not None):
        raise GraphError("integer convolutions have weight scales, float ones have none")
    if scales is not None and (
        scales.shape != bias.shape
        or scales.dtype != np.float32
        or not ((scales > 0) & np.isfinite(scales)).all()
    ):
        raise GraphError("weight scales are positive float32, one per output channel")
