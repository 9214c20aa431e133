"""Reference execution of a graph with numpy, which defines what "exact" means.

An integer convolution sums (x - zero_point) * w and the bias as integers, multiplies each channel
by one float32 number, rounds half to even, adds the zero point of the output and saturates.
LiteRT's XNNPACK kernels and ONNX Runtime compute the same (the multiplier is float32(input scale *
weight scale) / output scale, each operation rounded to float32), so their outputs can be compared
for equality. Sums are computed in float32 if all of them are below 2^24, up to which float32
represents every integer, and in float64 otherwise.

Other operators that change scales are computed as in LiteRT (`fixed_point`); all runtimes agree
only where all scales are equal. Float graphs, for calibration and comparison, are accurate to
float32 rounding, not bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from anchorsr.arrays import Array
from anchorsr.errors import GraphError
from anchorsr.graph import fixed_point, kernels
from anchorsr.graph import operators as ops
from anchorsr.graph.graph import Graph

_EXACT_FLOAT32 = 2**24


def run_graph(
    graph: Graph, images: Array, *, observe: Callable[[str, Array], None] | None = None
) -> Array:
    """Run a graph.

    Args:
        graph: The graph.
        images: (N, H, W, C) of the data type of the graph's input.
        observe: Called with the name and the value of every computed tensor.

    Returns:
        The output, (N, factor · H, factor · W, C).

    Raises:
        GraphError: The images have another data type, number of channels or size.
    """
    expected = graph.tensors[graph.input]
    if images.ndim != 4 or images.shape[3] != expected.channels or images.dtype != expected.dtype:
        raise GraphError(
            f"{graph.name} takes {expected.dtype} (N, H, W, {expected.channels}),"
            f" not {images.dtype} {images.shape}"
        )
    graph.check_size(*images.shape[1:3])
    last_use = {name: i for i, op in enumerate(graph.operators) for name in op.inputs}
    values: dict[str, Array] = {graph.input: images}
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
    """Compute the per-channel float32 factors from accumulators to output integers."""
    if source.quantization is None or target.quantization is None or conv.weight_scales is None:
        raise GraphError("multipliers belong to integer convolutions")
    product = np.float32(source.quantization.scale) * conv.weight_scales
    return np.asarray(product / np.float32(target.quantization.scale), np.float32)


def accumulator_bound(conv: ops.Convolution) -> int:
    """Bound the absolute value of every partial sum of an integer convolution."""
    weights = np.abs(conv.weights.astype(np.int64))
    axes = (0, 1) if isinstance(conv, ops.DepthwiseConv2D) else (1, 2, 3)
    return int((255 * weights.sum(axis=axes) + np.abs(conv.bias.astype(np.int64))).max())


def execute(
    operator: ops.Operator,
    sources: list[Array],
    types: list[ops.TensorType],
    target: ops.TensorType,
) -> Array:
    """Run one operator on tensors of these types."""
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


# Operators that keep the type of their input.
def _relu(sources: list[Array], target: ops.TensorType) -> Array:
    zero = 0 if target.quantization is None else target.quantization.zero_point
    return np.asarray(np.maximum(sources[0], sources[0].dtype.type(zero)))


def _pool(pool: ops.Pool2D, source: Array) -> Array:
    if pool.stride > 1:
        return kernels.block_max(source, pool.stride)
    if pool.kind == "max":
        return kernels.pool_max(source, pool.size)
    if source.dtype == np.float32:
        total, number = kernels.pool_sum(source, pool.size)
        return np.asarray(total / number)
    return fixed_point.mean_of_window(source, pool.size)


def _resize(resize: ops.Resize, source: Array) -> Array:
    if resize.mode == "nearest":
        return kernels.resize_nearest(source, resize.factor)
    if source.dtype == np.float32:
        return kernels.resize_bilinear(source, resize.factor)
    return fixed_point.resize_bilinear(source, resize.factor)


_MOVES: dict[type, Callable[[Any, list[Array], ops.TensorType], Array]] = {
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
def _sum_of_products(conv: ops.Convolution, images: Array, weights: Array) -> Array:
    if isinstance(conv, ops.DepthwiseConv2D):
        return kernels.convolve_depthwise(images, weights)
    if isinstance(conv, ops.TransposedConv2D):
        return kernels.convolve_transposed(images, weights, conv.stride)
    return kernels.convolve(images, weights, conv.groups, conv.stride)


def _has_relu(conv: ops.Convolution) -> bool:
    return not isinstance(conv, ops.TransposedConv2D) and conv.relu


def _float_convolve(conv: ops.Convolution, source: Array) -> Array:
    total = _sum_of_products(conv, source, conv.weights) + conv.bias
    return np.maximum(total, np.float32(0)) if _has_relu(conv) else total


def _float_slope(source: Array, slope: Array | np.float32) -> Array:
    return np.where(source < 0, source * slope, source)


def _float_sigmoid(source: Array) -> Array:
    # exp of negative values only, so that nothing overflows.
    power = np.exp(-np.abs(source))
    return np.asarray(np.where(source < 0, power, np.float32(1)) / (1 + power))


_FLOAT: dict[type, Callable[..., Array]] = {
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
    conv: ops.Convolution, images: Array, source: ops.TensorType, target: ops.TensorType
) -> Array:
    before, after = _quantization(source), _quantization(target)
    kind = np.dtype(np.float32 if accumulator_bound(conv) < _EXACT_FLOAT32 else np.float64)
    centred = images.astype(kind) - before.zero_point
    products = _sum_of_products(conv, centred, conv.weights.astype(kind))
    total = (products + conv.bias.astype(kind)).astype(np.float32)
    scaled = np.rint(total * multipliers(conv, source, target))
    low = after.zero_point if _has_relu(conv) else None
    return _saturate(scaled + np.float32(after.zero_point), target, low)


def _requantize(
    source: Array, before: ops.Quantization, after: ops.Quantization, target: ops.TensorType
) -> Array:
    if before.scale != after.scale:
        return fixed_point.rescale(source, before, after)
    return _saturate(source.astype(np.int32) - before.zero_point + after.zero_point, target)


_INTEGER: dict[
    type, Callable[[Any, list[Array], list[ops.Quantization], ops.Quantization], Array]
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
        raise GraphError("an integer operator has a float tensor")
    return tensor.quantization


def _saturate(values: npt.NDArray[Any], target: ops.TensorType, low: int | None = None) -> Array:
    info = np.iinfo(target.dtype)
    saturated = np.clip(values, info.min if low is None else low, info.max)
    return np.asarray(saturated, target.dtype)
