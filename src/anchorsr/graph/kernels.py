"""The kernels of operators over numpy arrays in the layout (N, H, W, C), without quantization.

Sums are computed in the data type of the arguments: with integer values, they are exact as long as
the type represents every partial sum.
"""

from __future__ import annotations

import numpy as np

from anchorsr.arrays import Array


def convolve(images: Array, weights: Array, groups: int = 1, stride: int = 1) -> Array:
    """Convolve zero-padded images with weights (out, height, width, in / groups)."""
    count, height, width = images.shape[0], *(side // stride for side in images.shape[1:3])
    outputs, kernel_height, kernel_width, inputs = weights.shape
    padded = _padded(images, (kernel_height - stride) // 2, (kernel_width - stride) // 2)
    group_outputs = outputs // groups
    total = np.zeros((count * height * width, outputs), images.dtype)
    for dy, dx in np.ndindex(kernel_height, kernel_width):
        rows = slice(dy, dy + height * stride, stride)
        columns = slice(dx, dx + width * stride, stride)
        shifted = padded[:, rows, columns].reshape(-1, inputs * groups)
        for group in range(groups):
            filters = slice(group * group_outputs, (group + 1) * group_outputs)
            pixels = shifted[:, group * inputs : (group + 1) * inputs]
            total[:, filters] += pixels @ weights[filters, dy, dx].T
    return total.reshape(count, height, width, outputs)


def convolve_depthwise(images: Array, weights: Array) -> Array:
    """Convolve each channel, zero-padded, with weights (odd, odd, channels)."""
    _, height, width, _ = images.shape
    rows, columns, _ = weights.shape
    padded = _padded(images, rows // 2, columns // 2)
    total = np.zeros_like(images)
    for dy, dx in np.ndindex(rows, columns):
        total += padded[:, dy : dy + height, dx : dx + width] * weights[dy, dx]
    return total


def convolve_transposed(images: Array, weights: Array, stride: int) -> Array:
    """Convolve transposed, with weights (out, height, width, in), and crop the overhang."""
    count, height, width, inputs = images.shape
    outputs, rows, columns, _ = weights.shape
    shape = (count, (height - 1) * stride + rows, (width - 1) * stride + columns, outputs)
    canvas = np.zeros(shape, images.dtype)
    flat = images.reshape(-1, inputs)
    for dy, dx in np.ndindex(rows, columns):
        bottom, right = dy + (height - 1) * stride + 1, dx + (width - 1) * stride + 1
        spread = flat @ weights[:, dy, dx].T
        canvas[:, dy:bottom:stride, dx:right:stride] += spread.reshape(count, height, width, -1)
    top, left = (rows - stride) // 2, (columns - stride) // 2
    return canvas[:, top : top + height * stride, left : left + width * stride].copy()


def depth_to_space(packed: Array, block: int) -> Array:
    """Rearrange (N, H, W, block² · C) to (N, block · H, block · W, C)."""
    count, height, width, channels = packed.shape
    split = packed.reshape(count, height, width, block, block, channels // block**2)
    return np.ascontiguousarray(split.transpose(0, 1, 3, 2, 4, 5)).reshape(
        count, height * block, width * block, -1
    )


def pool_max(images: Array, size: int) -> Array:
    """Take the maximum of the size × size window around each pixel, within the image."""
    result = images.copy()
    for inner, outer in _overlaps(images, size):
        np.maximum(result[inner], images[outer], out=result[inner])
    return result


def block_max(images: Array, block: int) -> Array:
    """Take the maximum of each block × block pixels."""
    count, height, width, channels = images.shape
    split = images.reshape(count, height // block, block, width // block, block, channels)
    return np.asarray(split.max(axis=(2, 4)))


def pool_sum(images: Array, size: int) -> tuple[Array, Array]:
    """Sum the size × size window around each pixel, within the image.

    Returns:
        The sums (N, H, W, C), and the number of summands (1, H, W, 1), in the images' data type.
    """
    total = np.zeros_like(images)
    number = np.zeros((1, *images.shape[1:3], 1), images.dtype)
    for inner, outer in _overlaps(images, size):
        total[inner] += images[outer]
        number[inner] += 1
    return total, number


def resize_nearest(images: Array, factor: int) -> Array:
    """Upscale by repeating pixels."""
    return images.repeat(factor, axis=1).repeat(factor, axis=2)


def linear_positions(size: int, factor: int) -> tuple[Array, Array, Array]:
    """Compute where the outputs of a linear interpolation lie, in XNNPACK's float32 arithmetic.

    Returns:
        For each of the size · factor outputs: the index of the input before it, the index of the
        input after it, and its distance from the former, on [0, 1).
    """
    scale = np.float32(size) / np.float32(size * factor)
    offset = np.float32(0.5) * scale - np.float32(0.5)
    positions = np.arange(size * factor, dtype=np.float32) * scale + offset
    positions = np.clip(positions, np.float32(0), np.float32(size - 1))
    before = positions.astype(np.int64)
    return before, np.minimum(before + 1, size - 1), positions - before.astype(np.float32)


def resize_bilinear(images: Array, factor: int) -> Array:
    """Upscale bilinearly in float32, with half-pixel centres and replicated edges."""
    for axis in (1, 2):
        before, after, distance = linear_positions(images.shape[axis], factor)
        first, second = images.take(before, axis), images.take(after, axis)
        shape = [1, 1, 1, 1]
        shape[axis] = len(distance)
        images = first + (second - first) * distance.reshape(shape)
    return images


def _padded(images: Array, rows: int, columns: int) -> Array:
    return np.pad(images, ((0, 0), (rows, rows), (columns, columns), (0, 0)))


_Window = tuple[slice, slice, slice]


def _overlaps(images: Array, size: int) -> list[tuple[_Window, _Window]]:
    """For each offset in a window: the pixels that have a neighbour there, and the neighbours."""
    height, width = images.shape[1:3]
    reach = size // 2
    found: list[tuple[_Window, _Window]] = []
    for dy in range(-min(reach, height - 1), min(reach, height - 1) + 1):
        for dx in range(-min(reach, width - 1), min(reach, width - 1) + 1):
            rows = slice(max(-dy, 0), height - max(dy, 0))
            columns = slice(max(-dx, 0), width - max(dx, 0))
            moved_rows = slice(rows.start + dy, rows.stop + dy)
            moved_columns = slice(columns.start + dx, columns.stop + dx)
            everything = slice(None)
            found.append(((everything, rows, columns), (everything, moved_rows, moved_columns)))
    return found
