"""PSNR and SSIM with the border and the luma that the caller asks for, never a hidden one.

`psnr` is the usual 10·log10(255² / MSE). `ssim` is Wang et al., "Image Quality Assessment:
From Error Visibility to Structural Similarity" (IEEE TIP 13(4), 2004): an 11×11 Gaussian
window with sigma 1.5, biased variances, only windows inside the image. `luma` is BT.601 in
the 16..235 range, as MATLAB's `rgb2ycbcr`; it is not rounded, as in the published tables.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

_WINDOW, _SIGMA = 11, 1.5


def psnr(first: npt.NDArray[Any], second: npt.NDArray[Any], *, border: int) -> float:
    """PSNR in dB of two (H, W) or (H, W, C) images on [0, 255], `border` pixels cut off each
    side; infinite for equal images. Raises ValueError when shapes differ or nothing is left.
    """
    a, b = _prepare(first, second, border)
    error = float(np.mean((a - b) ** 2))
    return float("inf") if error == 0 else 10 * float(np.log10(255**2 / error))


def ssim(first: npt.NDArray[Any], second: npt.NDArray[Any], *, border: int) -> float:
    """Mean SSIM of two (H, W) or (H, W, C) images on [0, 255], averaged over channels.

    `border` pixels are cut off each side first; at least 11 must be left on each axis
    (ValueError otherwise).
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


def luma(rgb: npt.NDArray[Any]) -> FloatArray:
    """(H, W, 3) RGB on [0, 255] to (H, W) luma on [16, 235], not rounded (ITU-R BT.601)."""
    weights = np.array([65.481, 128.553, 24.966]) / 255
    return np.asarray(rgb.astype(np.float64) @ weights + 16)


def _prepare(
    first: npt.NDArray[Any], second: npt.NDArray[Any], border: int
) -> tuple[FloatArray, FloatArray]:
    if first.shape != second.shape:
        raise ValueError(f"images of equal shape are compared, not {first.shape}, {second.shape}")
    if border < 0 or min(first.shape[:2]) <= 2 * border:
        raise ValueError(f"cutting {border} pixels leaves nothing of {first.shape}")
    inside = (slice(border, first.shape[0] - border), slice(border, first.shape[1] - border))
    return first[inside].astype(np.float64), second[inside].astype(np.float64)


def _blur(image: FloatArray) -> FloatArray:
    """Gaussian window along both axes, only where it fits ("valid")."""
    position = np.arange(_WINDOW) - _WINDOW // 2
    weights = np.exp(-(position**2) / (2 * _SIGMA**2))
    weights /= weights.sum()
    for _ in range(2):  # each pass blurs the first axis and swaps the two
        count = image.shape[0] - _WINDOW + 1
        blurred = sum(w * image[i : i + count] for i, w in enumerate(weights))
        image = np.swapaxes(np.asarray(blurred), 0, 1)
    return image
