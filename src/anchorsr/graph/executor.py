"""Exact execution of a graph with numpy: what "exact" means in this project.

An integer convolution sums (x - zero_point) * w and the bias as integers, multiplies each
channel by one float32 number, rounds half to even, adds the output's zero point and
saturates. That is what LiteRT's XNNPACK kernels and ONNX Runtime compute (the multiplier is
float32(input scale * weight scale) / output scale, each operation rounded to float32), so
their bytes can be compared with these for equality. Sums are carried in float32 while all
of them stay below 2^24, where float32 holds every integer, and in float64 otherwise.

Where other operators change scales they are computed as LiteRT does (`fixed_point`); only where
every scale is the same do all runtimes agree. Float graphs run too, for calibration and
comparison; they are accurate to float32 rounding, not bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from anchorsr.errors import GraphError
from anchorsr.graph import fixed_point, kernels
from anchorsr.graph import operators as ops
from anchorsr.graph.graph import Graph

_EXACT_FLOAT32 = 2**24


def run_graph(
    graph: Graph, images: ops.Array, *, observe: Callable[[str, ops.Array], None] | None = None
) -> ops.Array:
    """Run the graph on (N, H, W, C) images of its input's number type.

    observe is called with the name and value of every tensor that is made.
    Raises GraphError for images of another type or number of channels.
    """
    expected = graph.tensors[graph.input]
    if images.ndim != 4 or images.shape[3] != expected.channels or images.dtype != expected.dtype:
        raise GraphError(
            f"{graph.name} takes {expected.dtype} (N, H, W, {expected.channels}),"
            f" not {images.dtype} {images.shape}"
        )
    last_use = {name: i for i, op in enumerate(graph.operators) for name in op.inputs}
    values: dict[str, ops.Array] = {graph.input: images}
    for index, operator in enumerate(graph.operators):
        types = [graph.tensors[name] for name in operator.inputs]
        sources = [values[name] for name in operator.inputs]
        value = execute(operator, sources, types, graph.tensors[operator.output])
        values[operator.output] = value
        if observe is not None:
            observe(operator.output, value)
        for name in operator.inputs:
            if last_use[name] == index and name != graph.output:
                values.pop(name, None)
    return values[graph.output]


def multipliers(
    conv: ops.Convolution, source: ops.TensorType, target: ops.TensorType
) -> npt.NDArray[np.float32]:
    """One float32 factor per output channel, from sums to the output's integers."""
    if source.quantization is None or target.quantization is None or conv.weight_scales is None:
        raise GraphError("multipliers belong to integer convolutions")
    product = np.float32(source.quantization.scale) * conv.weight_scales
    return np.asarray(product / np.float32(target.quantization.scale), np.float32)


def accumulator_bound(conv: ops.Convolution) -> int:
    """An upper bound of the absolute value of every partial sum of an integer convolution."""
    weights = np.abs(conv.weights.astype(np.int64))
    axes = (0, 1) if isinstance(conv, ops.DepthwiseConv2D) else (1, 2, 3)
    return int((255 * weights.sum(axis=axes) + np.abs(conv.bias.astype(np.int64))).max())


def execute(
    operator: ops.Operator,
    sources: list[ops.Array],
    types: list[ops.TensorType],
    target: ops.TensorType,
) -> ops.Array:
    """What one operator makes of tensors of these types."""
    moved = _MOVES.get(type(operator))
    if moved is not None:
        return moved(operator, sources, target)
    if target.quantization is None:
        return np.asarray(_FLOAT[type(operator)](operator, *sources), np.float32)
    if isinstance(operator, ops.Convolution):
        return _integer_convolve(operator, sources[0], types[0], target)
    after = _quantization(target)
    if isinstance(operator, ops.Requantize):
        return _requantize(sources[0], _quantization(types[0]), after, target)
    before = [_quantization(tensor) for tensor in types]
    return _INTEGER[type(operator)](operator, sources, before, after)


# Operators that give on the numbers that they take, whatever these mean.
def _relu(sources: list[ops.Array], target: ops.TensorType) -> ops.Array:
    zero = 0 if target.quantization is None else target.quantization.zero_point
    return np.asarray(np.maximum(sources[0], sources[0].dtype.type(zero)))


def _pool(pool: ops.Pool2D, source: ops.Array) -> ops.Array:
    if pool.kind == "max":
        return kernels.pool_max(source, pool.size)
    if source.dtype == np.float32:
        total, number = kernels.pool_sum(source, pool.size)
        return np.asarray(total / number)
    return fixed_point.mean_of_window(source, pool.size)


def _resize(resize: ops.Resize, source: ops.Array) -> ops.Array:
    if resize.mode == "nearest":
        return kernels.resize_nearest(source, resize.factor)
    if source.dtype == np.float32:
        return kernels.resize_bilinear(source, resize.factor)
    return fixed_point.resize_bilinear(source, resize.factor)


_MOVES: dict[type, Callable[[Any, list[ops.Array], ops.TensorType], ops.Array]] = {
    ops.Concat: lambda op, sources, target: np.concatenate(sources, axis=3),
    ops.DepthToSpace: lambda op, sources, target: kernels.depth_to_space(sources[0], op.block),
    ops.Minimum: lambda op, sources, target: np.minimum(
        sources[0], sources[0].dtype.type(op.bound)
    ),
    ops.Pool2D: lambda op, sources, target: _pool(op, sources[0]),
    ops.ReLU: lambda op, sources, target: _relu(sources, target),
    ops.Resize: lambda op, sources, target: _resize(op, sources[0]),
    ops.Slice: lambda op, sources, target: sources[0][..., op.start : op.start + target.channels],
    ops.Tile: lambda op, sources, target: np.tile(sources[0], (1, 1, 1, op.count)),
}


# Operators over float32.
def _sum_of_products(conv: ops.Convolution, images: ops.Array, weights: ops.Array) -> ops.Array:
    if isinstance(conv, ops.DepthwiseConv2D):
        return kernels.convolve_depthwise(images, weights)
    if isinstance(conv, ops.TransposedConv2D):
        return kernels.convolve_transposed(images, weights, conv.stride)
    return kernels.convolve(images, weights, conv.groups)


def _has_relu(conv: ops.Convolution) -> bool:
    return not isinstance(conv, ops.TransposedConv2D) and conv.relu


def _float_convolve(conv: ops.Convolution, source: ops.Array) -> ops.Array:
    total = _sum_of_products(conv, source, conv.weights) + conv.bias
    return np.maximum(total, np.float32(0)) if _has_relu(conv) else total


def _float_slope(source: ops.Array, slope: ops.Array | np.float32) -> ops.Array:
    return np.where(source < 0, source * slope, source)


def _float_sigmoid(source: ops.Array) -> ops.Array:
    # exp only of what is negative, so that nothing overflows.
    power = np.exp(-np.abs(source))
    return np.asarray(np.where(source < 0, power, np.float32(1)) / (1 + power))


_FLOAT: dict[type, Callable[..., ops.Array]] = {
    ops.Conv2D: _float_convolve,
    ops.DepthwiseConv2D: _float_convolve,
    ops.TransposedConv2D: _float_convolve,
    ops.Add: lambda op, left, right: left + right,
    ops.Subtract: lambda op, left, right: left - right,
    ops.Multiply: lambda op, left, right: left * right,
    ops.Clip: lambda op, source: np.clip(source, op.low, op.high),
    ops.LeakyReLU: lambda op, source: _float_slope(source, np.float32(op.slope)),
    ops.PReLU: lambda op, source: _float_slope(source, op.slopes),
    ops.Sigmoid: lambda op, source: _float_sigmoid(source),
    ops.SquareRoot: lambda op, source: np.sqrt(source),
    ops.GlobalAveragePool: lambda op, source: source.mean(
        axis=(1, 2), keepdims=True, dtype=np.float64
    ),
}


# Operators over integers.
def _integer_convolve(
    conv: ops.Convolution, images: ops.Array, source: ops.TensorType, target: ops.TensorType
) -> ops.Array:
    before, after = _quantization(source), _quantization(target)
    kind = np.dtype(np.float32 if accumulator_bound(conv) < _EXACT_FLOAT32 else np.float64)
    centred = images.astype(kind) - before.zero_point
    products = _sum_of_products(conv, centred, conv.weights.astype(kind))
    total = (products + conv.bias.astype(kind)).astype(np.float32)
    scaled = np.rint(total * multipliers(conv, source, target))
    low = after.zero_point if _has_relu(conv) else None
    return _saturate(scaled + np.float32(after.zero_point), target, low)


def _requantize(
    source: ops.Array, before: ops.Quantization, after: ops.Quantization, target: ops.TensorType
) -> ops.Array:
    if before.scale != after.scale:
        return fixed_point.rescale(source, before, after)
    return _saturate(source.astype(np.int32) - before.zero_point + after.zero_point, target)


_INTEGER: dict[
    type, Callable[[Any, list[ops.Array], list[ops.Quantization], ops.Quantization], ops.Array]
] = {
    ops.Add: lambda op, x, before, after: fixed_point.add(x[0], x[1], before, after),
    ops.Subtract: lambda op, x, before, after: fixed_point.subtract(x[0], x[1], before, after),
    ops.Multiply: lambda op, x, before, after: fixed_point.multiply(x[0], x[1], before, after),
    ops.LeakyReLU: lambda op, x, before, after: fixed_point.rescale(
        x[0], before[0], after, op.slope
    ),
    ops.PReLU: lambda op, x, before, after: fixed_point.prelu(
        x[0], op.slopes, op.slope_scale, before[0], after
    ),
    ops.Sigmoid: lambda op, x, before, after: fixed_point.sigmoid(x[0], before[0], after),
    ops.SquareRoot: lambda op, x, before, after: fixed_point.square_root(x[0], before[0], after),
    ops.GlobalAveragePool: lambda op, x, before, after: fixed_point.mean(x[0], before[0], after),
}


def _quantization(tensor: ops.TensorType) -> ops.Quantization:
    if tensor.quantization is None:
        raise GraphError("an integer operator reads or makes a float tensor")
    return tensor.quantization


def _saturate(
    values: npt.NDArray[Any], target: ops.TensorType, low: int | None = None
) -> ops.Array:
    info = np.iinfo(target.dtype)
    saturated = np.clip(values, info.min if low is None else low, info.max)
    return np.asarray(saturated, target.dtype)
