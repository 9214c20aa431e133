"""Upscale a `RasterImage`: grey, alpha and 16 bits around a network that sees 8-bit RGB.

Alpha is resized with a bicubic filter. Colours below transparent and nearly transparent pixels are
first replaced by the visible colours around them, so that what a program left there does not bleed
into the visible edge.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from anchorsr.arrays import UInt8Array
from anchorsr.images.image import Pixels, RasterImage, eight_bits
from anchorsr.images.resize import bicubic, resize_plane, round_to

# Rows of a 16-bit image that are upscaled at a time.
_BAND = 128
# Levels of 255: on smooth images the network errs by up to two, and rounding by a half.
_NOISE_LEVELS = 2.5


class RgbUpscaler(Protocol):
    """What upscales 8-bit RGB by an integer factor."""

    @property
    def factor(self) -> int:
        """The super-resolution factor."""

    def upscale_rgb(self, rgb: UInt8Array, /) -> UInt8Array:
        """Upscale uint8 (H, W, 3) to (factor · H, factor · W, 3)."""


def upscale_image(image: RasterImage, upscaler: RgbUpscaler) -> RasterImage:
    """Upscale an image with its metadata, keeping grey, alpha and bit depth.

    Of a 16-bit image the network sees the nearest 8 bits. What counts is the difference between
    its answer and the 16-bit image upscaled with a bicubic filter: up to 2.5 levels of 255 it is
    the network's noise and rounding, and ignored; from 5 levels on it is detail, and added in full.
    So flat areas and gradients are as smooth as bicubic makes them, and no value is further than
    2.5 levels from the result of the 8-bit image.
    """
    rgb, alpha, factor = image.rgb, image.alpha, upscaler.factor
    if alpha is not None:
        rgb = fill_transparent(rgb, alpha)
        alpha = _upscale_alpha(alpha, factor)
    upscaled: Pixels = upscaler.upscale_rgb(eight_bits(rgb))
    if image.grey:  # the three channels may differ by a rounding: grey is their mean
        total = upscaled[:, :, 0].astype(np.uint16) + upscaled[:, :, 1] + upscaled[:, :, 2]
        upscaled = ((total + 1) // 3).astype(np.uint8)[:, :, None]
        rgb = rgb[:, :, :1]
    if rgb.dtype == np.uint16:
        upscaled = _add_low_bits(upscaled, rgb, factor)
    if image.grey:
        upscaled = np.broadcast_to(upscaled, (*upscaled.shape[:2], 3))
    return dataclasses.replace(image, rgb=upscaled, alpha=alpha, coding=None)


def _add_low_bits(upscaled: Pixels, pixels: Pixels, factor: int) -> Pixels:
    """Combine 8-bit results (factor · H, factor · W, C) with the 16-bit image (H, W, C).

    In bands of rows, since a whole image in floating point takes much memory.
    """
    height = pixels.shape[0]
    result = np.empty(upscaled.shape, np.uint16)
    for top in range(0, height, _BAND):
        bottom = min(top + _BAND, height)
        first, last = max(top - 2, 0), min(bottom + 2, height)  # two more rows for the filter
        place = np.s_[top * factor : bottom * factor]
        within = np.s_[(top - first) * factor : (bottom - first) * factor]
        for channel in range(pixels.shape[2]):
            smooth = _upscale_plane(pixels[first:last, :, channel], factor)[within]
            detail = upscaled[place, :, channel].astype(np.float32) * 257 - smooth
            share = np.clip(np.abs(detail) / (257 * _NOISE_LEVELS) - 1, 0, 1)
            result[place, :, channel] = round_to(smooth + share * detail, result.dtype)
    return result


def _upscale_alpha(alpha: Pixels, factor: int) -> Pixels:
    """Upscale (H, W) of 8 or 16 bits with a bicubic filter."""
    if alpha.dtype == np.uint8:
        return bicubic(alpha, alpha.shape[0] * factor, alpha.shape[1] * factor)
    return round_to(_upscale_plane(alpha, factor), alpha.dtype)


def _upscale_plane(plane: Pixels, factor: int) -> npt.NDArray[np.float32]:
    """Upscale (H, W) with a bicubic filter in floating point."""
    height, width = (side * factor for side in plane.shape)
    return resize_plane(plane, height, width, Image.Resampling.BICUBIC)


def fill_transparent(rgb: Pixels, alpha: Pixels) -> Pixels:
    """Replace hardly visible colours by the alpha-weighted mean of the visible ones around.

    Below an alpha of 1/8, colours are trusted less and less, at 0 not at all: programs that store
    premultiplied colours leave little but rounding there, and the network would carry it into
    the visible edge. In an image that is faint everywhere, trust is relative to its largest alpha.
    Trusted colours are halved in size until nothing is left uncovered, then filled in from coarse
    to fine.
    """
    enough = min(int(alpha.max()), np.iinfo(alpha.dtype).max // 8)
    if alpha.min() >= enough:
        return rgb
    trust = np.minimum(alpha.astype(np.float32) / enough, 1) ** 2
    filled = _fill(rgb.astype(np.float32), trust)
    return np.asarray(np.rint(filled), rgb.dtype)


def _fill(colour: npt.NDArray[np.float32], trust: npt.NDArray[np.float32]) -> Any:
    """Blend colours (H, W, 3) with those around, by as much as their trust lacks of 1."""
    height, width = trust.shape
    if trust.min() >= 1 or (height, width) == (1, 1):
        return colour
    odd = ((0, height % 2), (0, width % 2))
    weighted, weight = np.pad(colour * trust[:, :, None], (*odd, (0, 0))), np.pad(trust, odd)
    sums = weighted.reshape(weighted.shape[0] // 2, 2, -1, 2, 3).sum(axis=(1, 3))
    weights = weight.reshape(weight.shape[0] // 2, 2, -1, 2).sum(axis=(1, 3))
    means = sums / np.maximum(weights, np.float32(1e-12))[:, :, None]
    coarse = _fill(means, np.minimum(weights, 1))
    around = coarse.repeat(2, axis=0).repeat(2, axis=1)[:height, :width]
    return around + (colour - around) * trust[:, :, None]
