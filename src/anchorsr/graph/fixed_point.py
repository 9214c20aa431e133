"""Arithmetic between 8-bit integers of different scales, as LiteRT's kernels do it, bit for bit.

Each function takes int8 arrays with their quantizations and says which kernel it follows; a graph
holds only scales for which LiteRT takes that kernel (`checks`). "Ratio" is an input's scale over
the output's. Numbers are float32 where the kernel has float32, so that they round as it does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from anchorsr.graph import kernels
from anchorsr.graph.operators import Array, Quantization

_ALL_INT8 = np.arange(-128, 128, dtype=np.int32)


def add(left: Array, right: Array, before: Sequence[Quantization], after: Quantization) -> Array:
    """XNNPACK's qs8 addition: the larger ratio becomes an integer of 21 bits, the other one gets
    the same shift, and their sum is rounded half up once."""
    return _weighted_sum(left, right, before, after, sign=1)


def subtract(
    left: Array, right: Array, before: Sequence[Quantization], after: Quantization
) -> Array:
    """The addition with the second multiplier negative."""
    return _weighted_sum(left, right, before, after, sign=-1)


def multiply(
    left: Array, right: Array, before: Sequence[Quantization], after: Quantization
) -> Array:
    """XNNPACK's qs8 multiplication: the product of integers times one float32 number, rounded
    half to even."""
    scale = np.float32(before[0].scale) * np.float32(before[1].scale) / np.float32(after.scale)
    product = _centred(left, before[0]) * _centred(right, before[1])
    return _int8(np.rint(product.astype(np.float32) * scale) + after.zero_point)


def rescale(values: Array, before: Quantization, after: Quantization, slope: float = 1.0) -> Array:
    """XNNPACK's qs8 conversion and leaky ReLU: the ratio, below zero times the slope, becomes an
    integer of 8 fractional bits, and the product is rounded half up."""
    positive = np.float32(before.scale) / np.float32(after.scale)
    ratios = np.array([positive * np.float32(slope), positive])
    multipliers = np.rint(np.float32(256) * ratios).astype(np.int32)
    centred = _centred(values, before)
    product = centred * multipliers[(centred >= 0).astype(np.intp)]
    return _int8(((product + 128) >> 8) + after.zero_point)


def prelu(
    values: Array, slopes: Array, slope_scale: float, before: Quantization, after: Quantization
) -> Array:
    """TFLite's own kernel: 31-bit multipliers, rounded half up at 31 bits and half away from zero
    at the last shift."""
    ratio = before.scale / after.scale
    centred = _centred(values, before).astype(np.int64)
    positive = _multiply_by(centred, ratio)
    negative = _multiply_by(
        centred * slopes.astype(np.int64), before.scale * slope_scale / after.scale
    )
    return _int8(np.where(centred >= 0, positive, negative) + after.zero_point)


def sigmoid(values: Array, before: Quantization, after: Quantization) -> Array:
    """XNNPACK's table of 256 results, each computed in double and rounded to float32."""
    real = (_ALL_INT8 - before.zero_point).astype(np.float32) * np.float32(before.scale)
    # Beyond ±100 it is 0 or 1 in float32, and exp would overflow further out.
    power = np.exp(np.clip(real, -100, 100).astype(np.float64))
    result = (power / (1 + power)).astype(np.float32) / np.float32(after.scale)
    return _looked_up(values, np.rint(result + np.float32(after.zero_point)))


def square_root(values: Array, before: Quantization, after: Quantization) -> Array:
    """DEQUANTIZE, SQRT and QUANTIZE, in float32: TFLite's SQRT over int8 is younger, and cuts off
    instead of rounding."""
    real = (_ALL_INT8 - before.zero_point).astype(np.float32) * np.float32(before.scale)
    scaled = np.sqrt(np.maximum(real, np.float32(0))) * (np.float32(1) / np.float32(after.scale))
    return _looked_up(values, np.rint(scaled) + after.zero_point)


def mean(values: Array, before: Quantization, after: Quantization) -> Array:
    """XNNPACK's qs8 mean over height and width: the sum as float32, scaled, and rounded half to
    even after the zero point was added, in float32 too."""
    count = values.shape[1] * values.shape[2]
    total = values.sum(axis=(1, 2), keepdims=True, dtype=np.int64) - count * before.zero_point
    scale = np.float32(before.scale) / np.float32(after.scale) / np.float32(count)
    return _int8(np.rint(total.astype(np.float32) * scale + np.float32(after.zero_point)))


def resize_bilinear(images: Array, factor: int) -> Array:
    """XNNPACK's s8 bilinear interpolation: weights of 11 bits along each axis, rounded half up
    once at the end."""
    values = images.astype(np.int32)
    for axis in (2, 1):
        before, after, distance = kernels.linear_positions(images.shape[axis], factor)
        weights = np.rint(distance * np.float32(2048)).astype(np.int32)
        shape = [1, 1, 1, 1]
        shape[axis] = len(weights)
        first = values.take(before, axis)
        values = (first << 11) + (values.take(after, axis) - first) * weights.reshape(shape)
    return _int8((values + (1 << 21)) >> 22)


def mean_of_window(images: Array, size: int) -> Array:
    """TFLite's own AVERAGE_POOL_2D: the mean of the stored integers, whose halves go away from the
    integer 0 and not from the zero point."""
    total, number = kernels.pool_sum(images.astype(np.int32), size)
    return _int8(np.sign(total) * ((np.abs(total) + number // 2) // number))


def _weighted_sum(
    left: Array,
    right: Array,
    before: Sequence[Quantization],
    after: Quantization,
    sign: int,
) -> Array:
    ratios = [float(np.float32(each.scale) / np.float32(after.scale)) for each in before]
    shift = 21 - math.frexp(max(ratios))[1]
    first, second = (round(ratio * 2.0**shift) for ratio in ratios)
    total = _centred(left, before[0]) * first + _centred(right, before[1]) * (sign * second)
    return _int8(((total + (1 << (shift - 1))) >> shift) + after.zero_point)


def _multiply_by(values: npt.NDArray[np.int64], factor: float) -> npt.NDArray[np.int64]:
    """values · factor in TFLite's fixed point: factor = multiplier / 2^31 · 2^exponent."""
    fraction, exponent = math.frexp(factor)
    multiplier = math.floor(fraction * 2**31 + 0.5)
    left, right = max(exponent, 0), max(-exponent, 0)
    product = (values << left) * multiplier
    high = np.where(product >= 0, product + 2**30, product + (1 - 2**30))
    high = np.sign(high) * (np.abs(high) >> 31)
    remainder = high & ((1 << right) - 1)
    threshold = (((1 << right) - 1) >> 1) + (high < 0)
    return np.asarray((high >> right) + (remainder > threshold), np.int64)


def _centred(values: Array, quantization: Quantization) -> npt.NDArray[np.int32]:
    return np.asarray(values.astype(np.int32) - np.int32(quantization.zero_point), np.int32)


def _looked_up(values: Array, results: npt.NDArray[np.float32]) -> Array:
    """For each int8 the result that stands at its place among all of them."""
    return np.asarray(_int8(results)[values.astype(np.intp) + 128])


def _int8(values: npt.NDArray[Any]) -> Array:
    return np.asarray(np.clip(values, -128, 127), np.int8)
