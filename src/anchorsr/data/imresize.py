"""Bicubic resizing that reproduces MATLAB's `imresize` bit for bit.

This is the convention of the classical test sets (Set5, Set14, BSD100 at ×2, ×3, ×4): Keys' cubic
with a = -0.5, widened by the factor when reducing (antialiasing); rows first, then columns;
after each axis, clipped to 0..255 and rounded half up to uint8; indices outside the image
clamped to its edge. Newer MATLAB mirrors the border instead, which changes the outer one or
two pixels; that variant is not implemented.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from anchorsr.arrays import Float64Array, UInt8Array


def downscale(image: UInt8Array, factor: int) -> UInt8Array:
    """Reduce an (H, W, C) or (H, W) uint8 image by an integer factor.

    Raises:
        ValueError: A side is not a multiple of the factor: use `crop_to_multiple` first.
    """
    height, width = image.shape[:2]
    if height % factor or width % factor or not image.size:
        raise ValueError(f"{width}x{height} is not a multiple of {factor}: crop the image first")
    return resize(image, height // factor, width // factor)


def resize(image: UInt8Array, height: int, width: int) -> UInt8Array:
    """Resize an (H, W, C) or (H, W) uint8 image to (height, width).

    Raises:
        ValueError: A side is below 1.
    """
    if height < 1 or width < 1:
        raise ValueError(f"a size is at least 1x1, not {width}x{height}")
    rows = _resize_rows(image, height)
    columns = _resize_rows(np.ascontiguousarray(np.swapaxes(rows, 0, 1)), width)
    return np.ascontiguousarray(np.swapaxes(columns, 0, 1))


def crop_to_multiple(image: UInt8Array, factor: int) -> UInt8Array:
    """Crop an (H, W, ...) image at the right and bottom to multiples of factor."""
    height, width = image.shape[:2]
    return image[: height - height % factor, : width - width % factor]


def _resize_rows(image: UInt8Array, length: int) -> UInt8Array:
    indices, weights = _taps(image.shape[0], length)
    trailing = (slice(None),) + (None,) * (image.ndim - 1)
    total = np.zeros((length, *image.shape[1:]))
    for index, weight in zip(indices.T, weights.T, strict=True):
        total += weight[trailing] * image[index]
    rounded = np.floor(np.clip(total, 0, 255) + 0.5)  # half up, as MATLAB rounds
    return rounded.astype(np.uint8)


def _taps(size: int, length: int) -> tuple[npt.NDArray[np.intp], Float64Array]:
    """Return, for each output index, the input indices and their weights, (length, taps)."""
    scale = length / size
    stretch = max(1.0, 1.0 / scale)
    centre = (np.arange(length) + 0.5) / scale - 0.5
    count = int(np.ceil(4 * stretch)) + 2
    first = np.floor(centre - 2 * stretch).astype(np.intp)
    indices = first[:, None] + np.arange(count)
    weights = _cubic((centre[:, None] - indices) / stretch) / stretch
    weights /= weights.sum(axis=1, keepdims=True)
    used = (weights != 0).any(axis=0)
    return np.clip(indices[:, used], 0, size - 1), weights[:, used]


def _cubic(distance: Float64Array) -> Float64Array:
    """Evaluate Keys' cubic kernel, a = -0.5 (IEEE Trans. ASSP 29(6), 1981, equation 15)."""
    x = np.abs(distance)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x <= 1, near, np.where(x <= 2, far, 0.0))
