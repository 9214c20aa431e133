"""PSNR, SSIM and luma. The caller chooses the border and whether to compare luma.

`ssim` is that of Wang et al., "Image Quality Assessment: From Error Visibility to Structural
Similarity" (IEEE TIP 13(4), 2004): an 11×11 Gaussian window with sigma 1.5, biased variances, and
only windows that lie within the image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from anchorsr.arrays import Float64Array

_WINDOW, _SIGMA = 11, 1.5


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
    """

    method: str
    test_set: str
    images: int
    psnr_rgb: float
    psnr_y: float
    ssim_y: float
    damage: str = "clean"


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
    if min(a.shape[:2]) < _WINDOW:
        raise ValueError(f"SSIM needs {_WINDOW} pixels a side, not {a.shape[0]}x{a.shape[1]}")
    mean_a, mean_b = _blur(a), _blur(b)
    variance_a = _blur(a * a) - mean_a**2
    variance_b = _blur(b * b) - mean_b**2
    covariance = _blur(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similarity = ((2 * mean_a * mean_b + c1) * (2 * covariance + c2)) / (
        (mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2)
    )
    return float(similarity.mean())


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


def _blur(image: Float64Array) -> Float64Array:
    """Filter with the Gaussian window along both axes, only where it fits ("valid")."""
    position = np.arange(_WINDOW) - _WINDOW // 2
    weights = np.exp(-(position**2) / (2 * _SIGMA**2))
    weights /= weights.sum()
    for _ in range(2):  # each pass blurs the first axis and swaps the two
        count = image.shape[0] - _WINDOW + 1
        blurred = sum(w * image[i : i + count] for i, w in enumerate(weights))
        image = np.swapaxes(np.asarray(blurred), 0, 1)
    return image
