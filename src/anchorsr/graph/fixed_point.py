"""Arithmetic between int8 tensors of different scales, bit for bit as in LiteRT's kernels.

Each function takes int8 arrays with their quantization and names the kernel that it reproduces; a
graph has only scales for which LiteRT chooses that kernel (`verify`). A "ratio" is the scale of an
input over that of the output. Values are float32 where they are in the kernel, to round equally.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from anchorsr.arrays import Array
from anchorsr.graph import kernels
from anchorsr.graph.operators import Quantization

_ALL_INT8 = np.arange(-128, 128, dtype=np.int32)


def add(left: Array, right: Array, before: Sequence[Quantization], after: Quantization) -> Array:
    """Add, as XNNPACK's qs8-vadd.

    The larger ratio becomes an integer of 21 bits, the other one gets the same shift, and the sum
    is rounded once, half up.
    """
    return _weighted_sum(left, right, before, after, sign=1)


def subtract(
    left: Array, right: Array, before: Sequence[Quantization], after: Quantization
) -> Array:
    """Subtract, as `add` with a negative second multiplier."""
    return _weighted_sum(left, right, before, after, sign=-1)


def sum_multipliers(before: Sequence[Quantization], after: Quantization) -> tuple[int, int, int]:
    """Return the integer multipliers of two summands, and the shift of their sum in bits."""
    ratios = [float(np.float32(each.scale) / np.float32(after.scale)) for each in before]
    shift = 21 - math.frexp(max(ratios))[1]
    first, second = (round(ratio * 2.0**shift) for ratio in ratios)
    return first, second, shift


def product_multiplier(before: Sequence[Quantization], after: Quantization) -> np.float32:
    """Return what the product of two integers is multiplied by."""
    return np.float32(before[0].scale) * np.float32(before[1].scale) / np.float32(after.scale)


def multiply(
    left: Array, right: Array, before: Sequence[Quantization], after: Quantization
) -> Array:
    """Multiply, as XNNPACK's qs8-vmul.

    The product of the integers is multiplied by one float32 number and rounded half to even.
    """
    product = _centred(left, before[0]) * _centred(right, before[1])
    scaled = product.astype(np.float32) * product_multiplier(before, after)
    return _int8(np.rint(scaled) + after.zero_point)


def rescale(values: Array, before: Quantization, after: Quantization, slope: float = 1.0) -> Array:
    """Change the scale, as XNNPACK's qs8-vcvt and qs8-vlrelu.

    The ratio, for negative values times the slope, becomes an integer with 8 fractional bits, and
    the product is rounded half up.
    """
    positive = np.float32(before.scale) / np.float32(after.scale)
    ratios = np.array([positive * np.float32(slope), positive])
    multipliers = np.rint(np.float32(256) * ratios).astype(np.int32)
    centred = _centred(values, before)
    product = centred * multipliers[(centred >= 0).astype(np.intp)]
    return _int8(((product + 128) >> 8) + after.zero_point)


def prelu(
    values: Array, slopes: Array, slope_scale: float, before: Quantization, after: Quantization
) -> Array:
    """Apply PReLU, as TFLite's reference kernel.

    Multipliers have 31 bits; results are rounded half up at 31 bits and half away from zero in the
    final shift.
    """
    ratio = before.scale / after.scale
    centred = _centred(values, before).astype(np.int64)
    positive = _multiply_by(centred, ratio)
    negative = _multiply_by(
        centred * slopes.astype(np.int64), before.scale * slope_scale / after.scale
    )
    return _int8(np.where(centred >= 0, positive, negative) + after.zero_point)


def sigmoid(values: Array, before: Quantization, after: Quantization) -> Array:
    """Apply the sigmoid, as XNNPACK's table: computed in double and rounded to float32."""
    real = (_ALL_INT8 - before.zero_point).astype(np.float32) * np.float32(before.scale)
    # Beyond ±100, it is 0 or 1 in float32; further out, exp would overflow.
    power = np.exp(np.clip(real, -100, 100).astype(np.float64))
    result = (power / (1 + power)).astype(np.float32) / np.float32(after.scale)
    return _look_up(values, np.rint(result + np.float32(after.zero_point)))


def square_root(values: Array, before: Quantization, after: Quantization) -> Array:
    """Take the square root, as DEQUANTIZE, SQRT and QUANTIZE in float32.

    TFLite's SQRT over int8 is newer, and truncates instead of rounding.
    """
    real = (_ALL_INT8 - before.zero_point).astype(np.float32) * np.float32(before.scale)
    scaled = np.sqrt(np.maximum(real, np.float32(0))) * (np.float32(1) / np.float32(after.scale))
    return _look_up(values, np.rint(scaled) + after.zero_point)


def mean(values: Array, before: Quantization, after: Quantization) -> Array:
    """Average over height and width, as XNNPACK's qs8-rsum.

    The sum is scaled in float32, the zero point is added in float32, and the result is rounded half
    to even.
    """
    count = values.shape[1] * values.shape[2]
    total = values.sum(axis=(1, 2), keepdims=True, dtype=np.int64) - count * before.zero_point
    scale = np.float32(before.scale) / np.float32(after.scale) / np.float32(count)
    return _int8(np.rint(total.astype(np.float32) * scale + np.float32(after.zero_point)))


def resize_bilinear(images: Array, factor: int) -> Array:
    """Upscale bilinearly, as XNNPACK's s8-ibilinear.

    Weights have 11 bits along each axis; the result is rounded once, half up.
    """
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
    """Average over windows, as TFLite's AVERAGE_POOL_2D.

    The mean of the stored integers is rounded half away from the integer 0, not from the zero
    point.
    """
    total, number = kernels.pool_sum(images.astype(np.int32), size)
    return _int8(np.sign(total) * ((np.abs(total) + number // 2) // number))


def _weighted_sum(
    left: Array,
    right: Array,
    before: Sequence[Quantization],
    after: Quantization,
    sign: int,
) -> Array:
    first, second, shift = sum_multipliers(before, after)
    total = _centred(left, before[0]) * first + _centred(right, before[1]) * (sign * second)
    return _int8(((total + (1 << (shift - 1))) >> shift) + after.zero_point)


def _multiply_by(values: npt.NDArray[np.int64], factor: float) -> npt.NDArray[np.int64]:
    """Multiply in TFLite's fixed point: factor = multiplier / 2^31 · 2^exponent."""
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


def _look_up(values: Array, results: npt.NDArray[np.float32]) -> Array:
    """Look up each int8 value in a table of 256 results."""
    return np.asarray(_int8(results)[values.astype(np.intp) + 128])


def _int8(values: npt.NDArray[Any]) -> Array:
    return np.asarray(np.clip(values, -128, 127), np.int8)
