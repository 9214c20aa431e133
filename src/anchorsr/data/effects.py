"""Single degradations of an image: blur, noise, JPEG and WebP.

The codecs are Pillow's. Images are (H, W, 3) RGB on [0, 255].
"""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from anchorsr.arrays import UInt8Array

FloatArray = npt.NDArray[np.float32]

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_WEBP_METHOD = 2  # the effort; with more, encoding takes three times as long


def blur(image: FloatArray, covariance: tuple[float, float, float]) -> FloatArray:
    """Blur with a Gaussian; edge pixels are repeated outside the image.

    Args:
        image: (H, W, 3) float32.
        covariance: Variance along rows and along columns, and covariance, in pixels squared.
    """
    rows, columns, both = covariance
    pad = math.ceil(3.5 * math.sqrt(max(rows, columns))) + 1
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), "edge")
    v = (2 * np.pi * np.fft.fftfreq(padded.shape[0]).astype(np.float32))[:, None, None]
    u = (2 * np.pi * np.fft.rfftfreq(padded.shape[1]).astype(np.float32))[None, :, None]
    response = np.exp(-0.5 * (rows * v * v + columns * u * u + 2 * both * u * v))
    spectrum = np.fft.rfft2(padded, axes=(0, 1)) * response
    blurred = np.fft.irfft2(spectrum, s=padded.shape[:2], axes=(0, 1))
    return blurred[pad : pad + image.shape[0], pad : pad + image.shape[1]].astype(np.float32)


def blur_isotropic(image: FloatArray, sigma: float) -> FloatArray:
    """Blur with an isotropic Gaussian; sigma is in pixels."""
    return blur(image, (sigma**2, sigma**2, 0.0)) if sigma else image


def add_noise(
    image: FloatArray,
    sigma: float,
    random: np.random.Generator,
    *,
    grey: bool = False,
    poisson: bool = False,
) -> FloatArray:
    """Add Gaussian or Poisson noise.

    Args:
        image: (H, W, 3) float32 on [0, 255].
        sigma: Standard deviation in levels; of Poisson noise at level 128.
        random: Where the noise comes from.
        grey: Whether the noise is the same in the three channels.
        poisson: Whether the noise is Poisson noise of a photon count, and not Gaussian.
    """
    if not poisson:
        shape = (*image.shape[:2], 1 if grey else 3)
        return image + np.float32(sigma) * random.standard_normal(shape, np.float32)
    photon = sigma**2 / 128  # levels
    light = np.clip(image @ _LUMA if grey else image, 0, 255)
    noise = (random.poisson(light / photon) * photon - light).astype(np.float32)
    return image + (noise[..., None] if grey else noise)


def encode_jpeg(rgb: UInt8Array, quality: int, *, full_chroma: bool = False) -> UInt8Array:
    """Encode an (H, W, 3) image as baseline JPEG, and decode it."""
    return _round_trip(rgb, "JPEG", quality=quality, subsampling=0 if full_chroma else 2)


def encode_webp(rgb: UInt8Array, quality: int) -> UInt8Array:
    """Encode an (H, W, 3) image as lossy WebP, and decode it."""
    return _round_trip(rgb, "WEBP", quality=quality, method=_WEBP_METHOD)


def to_uint8(image: npt.NDArray[Any]) -> UInt8Array:
    """Round half to even and clip to [0, 255]."""
    return np.asarray(np.clip(np.rint(image), 0, 255), np.uint8)


def _round_trip(rgb: UInt8Array, kind: str, **options: int) -> UInt8Array:
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, kind, **options)
    with Image.open(buffer) as stored:
        return np.array(stored.convert("RGB"))
