"""PSNR, SSIM and luma. The caller chooses the border and whether to compare luma.

`ssim` is that of Wang et al., "Image Quality Assessment: From Error Visibility to Structural
Similarity" (IEEE TIP 13(4), 2004): an 11×11 Gaussian window with sigma 1.5, biased variances, and
only windows that lie within the image.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from anchorsr.arrays import Float64Array

_WINDOW, _SIGMA = 11, 1.5
_STRIP = 12  # rows of SSIM at a time, so that they stay in the cache


@dataclass(frozen=True)
class Score:
    """Mean scores of a method on a test set.

    Attributes:
        method: What was measured: a model's name, a file, a run, or `bicubic`.
        test_set: The name of the test set.
        images: The number of images.
        psnr_rgb: PSNR over RGB in dB.
        psnr_y: PSNR over BT.601 luma in dB.
        ssim_y: SSIM over BT.601 luma.
        damage: What was done to the LR images (`data.damage`).
        seconds: Time an image, without reading it; None if it was not measured.
        macs_per_lr_pixel: Multiply-accumulate operations per LR pixel; None for filters, and where
            it is not known.
    """

    method: str
    test_set: str
    images: int
    psnr_rgb: float
    psnr_y: float
    ssim_y: float
    damage: str = "clean"
    seconds: float | None = field(default=None, compare=False)
    macs_per_lr_pixel: int | None = None


def psnr(first: npt.NDArray[Any], second: npt.NDArray[Any], *, border: int) -> float:
    """Compute the peak signal-to-noise ratio, 10·log10(255² / MSE).

    Args:
        first: An image (H, W) or (H, W, C) on [0, 255].
        second: An image of the same shape.
        border: Pixels to crop on each side first.

    Returns:
        PSNR in dB; infinity for equal images.

    Raises:
        ValueError: The shapes differ, or the border leaves no pixels.
    """
    a, b = _prepare(first, second, border)
    error = float(np.mean((a - b) ** 2))
    return float("inf") if error == 0 else 10 * float(np.log10(255**2 / error))


def ssim(first: npt.NDArray[Any], second: npt.NDArray[Any], *, border: int) -> float:
    """Compute the structural similarity, averaged over positions and channels.

    Args:
        first: An image (H, W) or (H, W, C) on [0, 255].
        second: An image of the same shape.
        border: Pixels to crop on each side first.

    Returns:
        SSIM, at most 1.

    Raises:
        ValueError: The shapes differ, or the border leaves less than 11 pixels on a side.
    """
    a, b = _prepare(first, second, border)
    height, width = a.shape[:2]
    if min(height, width) < _WINDOW:
        raise ValueError(f"SSIM needs {_WINDOW} pixels a side, not {height}x{width}")
    a, b = a.reshape(height, -1), b.reshape(height, -1)
    step = a.shape[1] // width
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    total, count = 0.0, 0
    for top in range(0, height - _WINDOW + 1, _STRIP):
        x, y = (image[top : top + _STRIP + _WINDOW - 1] for image in (a, b))
        # The variances are needed as their sum only.
        mean_x, mean_y, power, xy = _blur(np.stack([x, y, x * x + y * y, x * y]), step)
        product, squares = mean_x * mean_y, mean_x**2 + mean_y**2
        similarity = (2 * product + c1) * (2 * (xy - product) + c2)
        similarity /= (squares + c1) * (power - squares + c2)
        total += float(similarity.sum())
        count += similarity.size
    return total / count


def luma(rgb: npt.NDArray[Any]) -> Float64Array:
    """Convert RGB to luma by ITU-R BT.601, as MATLAB's `rgb2ycbcr` but without rounding.

    Args:
        rgb: An image (H, W, 3) on [0, 255].

    Returns:
        Luma (H, W) on [16, 235].
    """
    weights = np.array([65.481, 128.553, 24.966]) / 255
    return np.asarray(rgb.astype(np.float64) @ weights + 16)


def _prepare(
    first: npt.NDArray[Any], second: npt.NDArray[Any], border: int
) -> tuple[Float64Array, Float64Array]:
    if first.shape != second.shape:
        raise ValueError(f"images of equal shape are compared, not {first.shape}, {second.shape}")
    if border < 0 or min(first.shape[:2]) <= 2 * border:
        raise ValueError(f"cutting {border} pixels leaves nothing of {first.shape}")
    inside = (slice(border, first.shape[0] - border), slice(border, first.shape[1] - border))
    return first[inside].astype(np.float64), second[inside].astype(np.float64)


def _blur(images: Float64Array, step: int) -> Float64Array:
    """Filter with the Gaussian window along rows and columns, only where it fits ("valid").

    Args:
        images: (N, H, W · C), channels last.
        step: From a pixel to the next in its row: C.
    """
    tall = images.shape[1] - _WINDOW + 1
    images = _weigh([images[:, i : i + tall] for i in range(_WINDOW)])
    wide = images.shape[2] - (_WINDOW - 1) * step
    return _weigh([images[:, :, i * step : i * step + wide] for i in range(_WINDOW)])


def _weigh(shifted: list[Float64Array]) -> Float64Array:
    """Add up views by the weights of the window, which are symmetric."""
    position = np.arange(_WINDOW) - _WINDOW // 2
    weights = np.exp(-(position**2) / (2 * _SIGMA**2))
    weights /= weights.sum()
    result = weights[_WINDOW // 2] * shifted[_WINDOW // 2]
    pair = np.empty_like(result)
    for i in range(_WINDOW // 2):
        np.add(shifted[i], shifted[-1 - i], out=pair)
        pair *= weights[i]
        result += pair
    return np.asarray(result)
