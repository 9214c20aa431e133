"""Exact execution of a graph with numpy: what "exact" means in this project.

An integer convolution sums (x - zero_point) * w and the bias as integers, multiplies each
channel by one float32 number, rounds half to even, adds the output's zero point and
saturates. That is what LiteRT's XNNPACK kernels and ONNX Runtime compute (the multiplier is
float32(input scale * weight scale) / output scale, each operation rounded to float32), so
their bytes can be compared with these for equality. Sums are carried in float32 while all
of them stay below 2^24, where float32 holds every integer, and in float64 otherwise.

Additions and changes of number type are executed only where every scale is the same, because
only there do all runtimes agree. Float graphs run too, for calibration and comparison; they
are accurate to float32 rounding, not bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from anchorsr.errors import GraphError
from anchorsr.graph import Graph
from anchorsr.operators import (
    Add,
    Array,
    Clip,
    Concat,
    Conv2D,
    DepthToSpace,
    Minimum,
    ReLU,
    Requantize,
    TensorType,
)

_EXACT_FLOAT32 = 2**24


def run_graph(
    graph: Graph, images: Array, *, observe: Callable[[str, Array], None] | None = None
) -> Array:
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
    values: dict[str, Array] = {graph.input: images}
    for index, operator in enumerate(graph.operators):
        types = [graph.tensors[name] for name in operator.inputs]
        target = graph.tensors[operator.output]
        sources = [values[name] for name in operator.inputs]
        if isinstance(operator, Conv2D):
            value = _convolve(operator, sources[0], types[0], target)
        elif isinstance(operator, Add):
            value = _add(sources, types, target)
        elif isinstance(operator, DepthToSpace):
            value = _depth_to_space(sources[0], operator.block)
        elif isinstance(operator, Clip):
            value = np.clip(sources[0], operator.low, operator.high)
        elif isinstance(operator, Concat):
            value = np.concatenate(sources, axis=3)
        elif isinstance(operator, Minimum):
            value = np.minimum(sources[0], sources[0].dtype.type(operator.bound))
        elif isinstance(operator, ReLU):
            zero = 0 if target.quantization is None else target.quantization.zero_point
            value = np.maximum(sources[0], sources[0].dtype.type(zero))
        elif isinstance(operator, Requantize):
            value = _requantize(sources[0], types[0], target)
        else:
            raise GraphError(f"{type(operator).__name__} is not executed yet")
        values[operator.output] = value
        if observe is not None:
            observe(operator.output, value)
        for name in operator.inputs:
            if last_use[name] == index and name != graph.output:
                values.pop(name, None)
    return values[graph.output]


def multipliers(conv: Conv2D, source: TensorType, target: TensorType) -> npt.NDArray[np.float32]:
    """One float32 factor per output channel, from sums to the output's integers."""
    if source.quantization is None or target.quantization is None or conv.weight_scales is None:
        raise GraphError("multipliers belong to integer convolutions")
    product = np.float32(source.quantization.scale) * conv.weight_scales
    return np.asarray(product / np.float32(target.quantization.scale), np.float32)


def accumulator_bound(conv: Conv2D) -> int:
    """An upper bound of the absolute value of every partial sum of an integer convolution."""
    weights = np.abs(conv.weights.astype(np.int64)).sum(axis=(1, 2, 3))
    return int((255 * weights + np.abs(conv.bias.astype(np.int64))).max())


def _convolve(conv: Conv2D, images: Array, source: TensorType, target: TensorType) -> Array:
    quantized = source.quantization
    if quantized is None or target.quantization is None:
        total = _sum_of_products(images, conv.weights) + conv.bias
        return np.maximum(total, np.float32(0)) if conv.relu else total
    kind = np.dtype(np.float32 if accumulator_bound(conv) < _EXACT_FLOAT32 else np.float64)
    centred = images.astype(kind) - quantized.zero_point
    total = _sum_of_products(centred, conv.weights.astype(kind)) + conv.bias.astype(kind)
    scaled = np.rint(total.astype(np.float32) * multipliers(conv, source, target))
    low = target.quantization.zero_point if conv.relu else None
    return _saturate(scaled + np.float32(target.quantization.zero_point), target, low)


def _sum_of_products(images: Array, weights: Array) -> Array:
    """Zero padded convolution, in the number type of its arguments."""
    count, height, width, _ = images.shape
    outputs, kernel_height, kernel_width, inputs = weights.shape
    rows, columns = kernel_height // 2, kernel_width // 2
    padded = np.pad(images, ((0, 0), (rows, rows), (columns, columns), (0, 0)))
    total = np.zeros((count * height * width, outputs), images.dtype)
    for dy in range(kernel_height):
        for dx in range(kernel_width):
            shifted = padded[:, dy : dy + height, dx : dx + width]
            total += shifted.reshape(-1, inputs) @ weights[:, dy, dx].T
    return total.reshape(count, height, width, outputs)


def _add(sources: list[Array], types: list[TensorType], target: TensorType) -> Array:
    if target.quantization is None:
        return np.asarray(sources[0] + sources[1])
    zero_points = 0
    for tensor in types:
        zero_points += _zero_point_at(tensor, target.quantization.scale, "Add")
    total = sources[0].astype(np.int32) + sources[1].astype(np.int32)
    return _saturate(total - zero_points + target.quantization.zero_point, target)


def _requantize(source: Array, kind: TensorType, target: TensorType) -> Array:
    if target.quantization is None:
        raise GraphError("Requantize makes integers")
    zero_point = _zero_point_at(kind, target.quantization.scale, "Requantize")
    return _saturate(source.astype(np.int32) - zero_point + target.quantization.zero_point, target)


def _zero_point_at(tensor: TensorType, scale: float, operator: str) -> int:
    if tensor.quantization is None or tensor.quantization.scale != scale:
        raise GraphError(f"{operator} is exact only where every scale is the same ({scale})")
    return tensor.quantization.zero_point


def _saturate(values: npt.NDArray[Any], target: TensorType, low: int | None = None) -> Array:
    info = np.iinfo(target.dtype)
    saturated = np.clip(values, info.min if low is None else low, info.max)
    return np.asarray(saturated, target.dtype)


def _depth_to_space(packed: Array, block: int) -> Array:
    count, height, width, channels = packed.shape
    split = packed.reshape(count, height, width, block, block, channels // block**2)
    return np.ascontiguousarray(split.transpose(0, 1, 3, 2, 4, 5)).reshape(
        count, height * block, width * block, -1
    )
