"""Upscale a `RasterImage`: grey, alpha and 16 bits around a network that sees 8-bit RGB.

Alpha is resized with a bicubic filter. Colours below transparent and nearly transparent pixels are
first replaced by the visible colours around them, so that what a program left there does not bleed
into the visible edge.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from anchorsr.arrays import UInt8Array
from anchorsr.images.image import Pixels, RasterImage, eight_bits
from anchorsr.images.resize import bicubic, resize_plane, round_to

# Rows of an image whose results are finished at a time.
_BAND = 128
# Levels of 255: on smooth images the network errs by up to two, and rounding by a half.
_NOISE_LEVELS = 2.5
# By how much the channels of a black-and-white image differ after lossy compression: the codecs of
# 16-bit images round finer.
_SLIGHT = {8: 16, 16: 257}
# A grey area of a coloured image has squares of 9 × 9 pixels without colour.
_AREA = 4
# Rows whose transparent colours are filled at a time, a multiple of 2 to the power of the levels:
# the sizes, each half of the one before, that are not in memory as a whole.
_FILL_BAND, _FILL_LEVELS = 256, 3


class RgbUpscaler(Protocol):
    """What upscales 8-bit RGB by an integer factor."""

    @property
    def factor(self) -> int:
        """The super-resolution factor."""

    def upscale_rgb(self, rgb: UInt8Array, /) -> UInt8Array:
        """Upscale uint8 (H, W, 3) to (factor · H, factor · W, 3)."""

    def strips(self, rgb: UInt8Array, /) -> Iterator[UInt8Array]:
        """Do the same in strips of rows, from top to bottom."""


def upscale_image(image: RasterImage, upscaler: RgbUpscaler) -> RasterImage:
    """Upscale an image with its metadata, keeping grey, alpha and bit depth.

    Of a 16-bit image the network sees the nearest 8 bits. What counts is the difference between
    its answer and the 16-bit image upscaled with a bicubic filter: up to 2.5 levels of 255 it is
    the network's noise and rounding, and ignored; from 5 levels on it is detail, and added in full.
    So flat areas and gradients are as smooth as bicubic makes them, and no value is further than
    2.5 levels from the result of the 8-bit image.

    The network sees three channels and may tint grey. An image without colour gets none, nor do
    areas without colour of a coloured one. A black-and-white image whose channels differ slightly,
    as after lossy compression, keeps these differences and gets no others.
    """
    work = _Work(image, upscaler.factor)
    upscaled: Pixels = upscaler.upscale_rgb(eight_bits(work.rgb))
    if work.is_finished_in_place:
        upscaled = np.require(upscaled, requirements=["C", "W"])
        rgb = upscaled
    else:
        channels = 1 if image.grey else 3
        rgb = np.empty((*upscaled.shape[:2], channels), image.rgb.dtype)
    factor = upscaler.factor
    for top in range(0, image.size[0], _BAND):
        place = np.s_[top * factor : (top + _BAND) * factor]
        part = upscaled[place]
        finished = work.finish(part, top)
        if finished is not part:
            rgb[place] = finished
    if image.grey:
        rgb = np.broadcast_to(rgb, (*rgb.shape[:2], 3))
    alpha = None if work.alpha is None else _upscale_alpha(work.alpha, factor)
    return dataclasses.replace(image, rgb=rgb, alpha=alpha, coding=None)


def upscale_strips_of_image(image: RasterImage, upscaler: RgbUpscaler) -> Iterator[Pixels]:
    """Upscale an image in strips of rows, of which only one is in memory.

    Args:
        image: Any image.
        upscaler: What upscales RGB.

    Yields:
        (N, factor · W, C) from top to bottom, of the image's type: grey, grey and alpha, RGB or
        RGBA. Together they are the result of `upscale_image`.
    """
    work, factor = _Work(image, upscaler.factor), upscaler.factor
    top = 0
    for upscaled in upscaler.strips(eight_bits(work.rgb)):
        count = upscaled.shape[0] // factor
        strip = work.finish(upscaled, top)
        del upscaled
        if work.alpha is not None:
            alpha = work.alpha_rows(top, top + count)
            strip = np.concatenate((strip, alpha[:, :, None]), axis=2)
        yield strip
        top += count
        del strip


class _Work:
    """An image while it is upscaled, and what its results still need after the network."""

    def __init__(self, image: RasterImage, factor: int) -> None:
        rgb, alpha = image.rgb, image.alpha
        if alpha is not None:
            rgb = fill_transparent(rgb, alpha)
        self.rgb, self.alpha, self._factor = rgb, alpha, factor
        self._grey = image.grey
        slight = _SLIGHT[8 * rgb.dtype.itemsize]
        widest = 0 if image.grey else _widest_difference(rgb, slight)
        self._colourless = widest == 0
        self._nearly_colourless = 0 < widest <= slight

    @property
    def is_finished_in_place(self) -> bool:
        """Whether results may replace those of the network, being of their type and shape."""
        return self.rgb.dtype == np.uint8 and not self._grey

    def finish(self, upscaled: UInt8Array, top: int) -> Pixels:
        """Return the results of some rows: (N, W, 1) of a grey image, else (N, W, 3).

        Args:
            upscaled: The network's results, N rows of them.
            top: The row of the image at which they begin.
        """
        result: Pixels = upscaled
        bottom = top + upscaled.shape[0] // self._factor
        rgb = self.rgb[:, :, :1] if self._colourless else self.rgb
        if self._colourless or self._nearly_colourless:
            # Where the channels are equal, those of the result may differ by a rounding or more.
            result = _mean(upscaled)[:, :, None]
        if self._nearly_colourless:
            return self._with_slight_colours(result, top, bottom)
        if rgb.dtype == np.uint16:
            result = self._with_low_bits(result, rgb, top, bottom)
        if self._colourless:
            return result if self._grey else np.broadcast_to(result, (*result.shape[:2], 3))
        return self._without_tints(result, top, bottom)

    def alpha_rows(self, top: int, bottom: int) -> Pixels:
        """Return the alpha of some rows, (N, W)."""
        assert self.alpha is not None
        first, last = max(top - 2, 0), min(bottom + 2, self.alpha.shape[0])
        upscaled = _upscale_alpha(self.alpha[first:last], self._factor)
        return upscaled[(top - first) * self._factor : (bottom - first) * self._factor]

    def _smooth(self, plane: Pixels, top: int, bottom: int) -> npt.NDArray[np.float32]:
        """Upscale some rows of a plane (H, W) with a bicubic filter, which sees two more rows."""
        first, last = max(top - 2, 0), min(bottom + 2, plane.shape[0])
        within = np.s_[(top - first) * self._factor : (bottom - first) * self._factor]
        return _upscale_plane(plane[first:last], self._factor)[within]

    def _with_low_bits(self, upscaled: Pixels, pixels: Pixels, top: int, bottom: int) -> Pixels:
        """Combine 8-bit results (N, W, C) with the 16-bit image (H, W, C)."""
        result = np.empty(upscaled.shape, np.uint16)
        for channel in range(pixels.shape[2]):
            smooth = self._smooth(pixels[:, :, channel], top, bottom)
            detail = upscaled[:, :, channel].astype(np.float32) * 257 - smooth
            share = np.clip(np.abs(detail) / (257 * _NOISE_LEVELS) - 1, 0, 1)
            result[:, :, channel] = round_to(smooth + share * detail, result.dtype)
        return result

    def _with_slight_colours(self, grey: Pixels, top: int, bottom: int) -> Pixels:
        """Add the small differences between the image's channels to grey results (N, W, 1)."""
        first, last = max(top - 2, 0), min(bottom + 2, self.rgb.shape[0])
        rows = self.rgb[first:last].astype(np.float32)
        mean = rows.mean(axis=2)
        if self.rgb.dtype == np.uint16:
            grey = self._with_low_bits(grey, _mean(self.rgb)[:, :, None], top, bottom)
        result = np.empty((*grey.shape[:2], 3), self.rgb.dtype)
        for channel in range(3):
            slight = self._smooth(rows[:, :, channel] - mean, top - first, bottom - first)
            result[:, :, channel] = round_to(grey[:, :, 0] + slight, result.dtype)
        return result

    def _without_tints(self, result: Pixels, top: int, bottom: int) -> Pixels:
        """Replace results by their mean in areas without colour, one pixel away from colours."""
        reach = 2 * _AREA
        first, last = max(top - reach, 0), min(bottom + reach, self.rgb.shape[0])
        rows = self.rgb[first:last]
        grey = (rows[:, :, 0] == rows[:, :, 1]) & (rows[:, :, 1] == rows[:, :, 2])
        centres = ~_spread(~grey, _AREA)
        if not centres.any():
            return result
        areas = _spread(centres, _AREA) & ~_spread(~grey, 1)
        at = np.nonzero(areas[top - first : bottom - first])
        factor = self._factor
        blocks = result.reshape(bottom - top, factor, -1, factor, 3)
        chosen = blocks[at[0], :, at[1]]
        blocks[at[0], :, at[1]] = _mean(chosen)[..., None]
        return result


def _mean(rgb: Pixels) -> Pixels:
    """Return the mean of the channels of (..., 3), rounded."""
    wider = np.uint16 if rgb.dtype == np.uint8 else np.uint32
    total = rgb[..., 0].astype(wider) + rgb[..., 1] + rgb[..., 2]
    return ((total + 1) // 3).astype(rgb.dtype)


def _spread(mask: npt.NDArray[np.bool_], distance: int) -> npt.NDArray[np.bool_]:
    """Return where a mask (H, W) is true within a distance in rows and columns."""
    for axis in (0, 1):
        mask = np.moveaxis(mask, axis, 0)
        spread = mask.copy()
        for step in range(1, min(distance, len(mask) - 1) + 1):
            spread[step:] |= mask[:-step]
            spread[:-step] |= mask[step:]
        mask = np.moveaxis(spread, 0, axis)
    return mask


def _widest_difference(rgb: Pixels, enough: int) -> int:
    """Return the largest difference between a pixel's channels, or one above `enough`."""
    widest = 0
    for top in range(0, rgb.shape[0], _BAND):
        rows = rgb[top : top + _BAND]
        difference = rows.max(axis=2) - rows.min(axis=2)
        widest = max(widest, int(difference.max()))
        if widest > enough:
            break
    return widest


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
    to fine. The finest sizes are made band by band, twice, and never in memory as a whole.
    """
    enough = min(int(alpha.max()), np.iinfo(alpha.dtype).max // 8)
    if alpha.min() >= enough:
        return rgb

    def pyramid(top: int) -> list[_Trusted]:
        place = np.s_[top : top + _FILL_BAND]
        trust = np.minimum(alpha[place].astype(np.float32) / enough, 1) ** 2
        levels = [_Trusted(rgb[place].astype(np.float32), trust)]
        for _ in range(_FILL_LEVELS):
            levels.append(_halved(levels[-1]))
        return levels

    tops = range(0, rgb.shape[0], _FILL_BAND)
    least = np.ones(_FILL_LEVELS + 1)
    coarsest = []
    for top in tops:
        levels = pyramid(top)
        least = np.minimum(least, [level.trust.min() for level in levels])
        coarsest.append(levels[-1])
    covered = [bool(trust >= 1) for trust in least]
    covered[-1] = True
    stop = covered.index(True)
    whole = _filled(_Trusted(*map(np.concatenate, zip(*coarsest, strict=True))))
    output = np.empty_like(rgb)
    for top in tops:
        levels = pyramid(top)
        filled = levels[stop].colour
        if stop == _FILL_LEVELS:
            filled = whole[top >> stop :][: len(filled)]
        for level in reversed(levels[:stop]):
            filled = _blended(level, filled)
        output[top : top + _FILL_BAND] = np.rint(filled)
    return output


class _Trusted(NamedTuple):
    """Colours (H, W, 3), and how far they are trusted, (H, W) from 0 to 1."""

    colour: npt.NDArray[np.float32]
    trust: npt.NDArray[np.float32]


def _filled(image: _Trusted) -> npt.NDArray[np.float32]:
    """Blend colours with those around, by as much as their trust lacks of 1."""
    if image.trust.min() >= 1 or image.trust.shape == (1, 1):
        return image.colour
    return _blended(image, _filled(_halved(image)))


def _halved(image: _Trusted) -> _Trusted:
    """Return the means of 2 × 2 pixels, weighted by their trust, which adds up."""
    colour, trust = image
    odd = [(0, side % 2) for side in trust.shape]
    weighted, weight = np.pad(colour * trust[:, :, None], (*odd, (0, 0))), np.pad(trust, odd)
    sums = weighted.reshape(weighted.shape[0] // 2, 2, -1, 2, 3).sum(axis=(1, 3))
    weights = weight.reshape(weight.shape[0] // 2, 2, -1, 2).sum(axis=(1, 3))
    means = sums / np.maximum(weights, np.float32(1e-12))[:, :, None]
    return _Trusted(means, np.minimum(weights, 1))


def _blended(image: _Trusted, coarse: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Blend colours with those of half the size."""
    height, width = image.trust.shape
    around = coarse.repeat(2, axis=0).repeat(2, axis=1)[:height, :width]
    blended: npt.NDArray[np.float32] = around + (image.colour - around) * image.trust[:, :, None]
    return blended
