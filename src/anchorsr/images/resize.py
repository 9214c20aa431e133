"""Pillow's resampling filters on arrays."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from anchorsr.arrays import UInt8Array
from anchorsr.images.image import Pixels, RasterImage

Box = tuple[float, float, float, float]  # left, top, right and bottom, in pixels

_STRIP_PIXELS = 8_000_000
_BAND = 256  # rows


def bicubic(pixels: UInt8Array, height: int, width: int) -> UInt8Array:
    """Resize with Pillow's bicubic filter, in its 8-bit integer arithmetic.

    Args:
        pixels: uint8 (H, W), (H, W, 3) or (H, W, 4). The fourth channel is alpha: Pillow weights
            the colours by it.
        height: Of the result, in pixels.
        width: Of the result, in pixels.
    """
    return resample(pixels, height, width, Image.Resampling.BICUBIC)


def resample(pixels: UInt8Array, height: int, width: int, kernel: Image.Resampling) -> UInt8Array:
    """Resize as `bicubic` does, with any of Pillow's filters."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(image.resize((width, height), kernel))


def resize_image(
    image: RasterImage, height: int, width: int, *, wraps: bool = False
) -> RasterImage:
    """Resize to exactly this size with a three-lobed Lanczos filter, keeping the number type.

    Colours are weighted by alpha, so hidden colours do not bleed into visible ones. An image that
    has the size already is returned unchanged.

    Args:
        image: The image.
        height: Of the result, in pixels.
        width: Of the result, in pixels.
        wraps: Whether the filter sees, beyond an edge, what lies at the opposite one.
    """
    if image.size == (height, width):
        return image
    if not wraps:
        return _resized(image, height, width, None)
    margin = resize_margin(image.size, (height, width))
    box = (margin, margin, margin + image.size[1], margin + image.size[0])
    return _resized(wrapped(image, margin), height, width, box)


def resize_margin(before: tuple[int, int], after: tuple[int, int]) -> int:
    """Return the pixels around an image of one (height, width) that affect one of another.

    The filter sees three pixels, or of a reduced image three result pixels, to each side.
    """
    return _reach(max(before[0] / after[0], before[1] / after[1]))


def _reach(scale: float) -> int:
    return math.ceil(3 * max(1.0, scale)) + 1


def resize_strips(
    strips: Iterable[Pixels],
    before: tuple[int, int],
    after: tuple[int, int],
    *,
    translucent: bool,
    margin: int = 0,
) -> Iterator[Pixels]:
    """Resize an image that comes in strips, as `resize_image` does, with few rows in memory.

    Args:
        strips: (N, W, C) from top to bottom: grey, grey and alpha, RGB or RGBA.
        before: (height, width) of the image.
        after: (height, width) of the result.
        translucent: Whether any of its alpha is less than opaque.
        margin: Rows and columns that the strips have, around the image, for the filter to see.

    Yields:
        (M, w, C) from top to bottom. Pillow filters rows or columns first, whichever is less work,
        and rounds and clips between; so at hard edges a value can differ from the whole image's.
    """
    (height, width), (new_height, new_width) = before, after
    scale = height / new_height
    reach = _reach(scale)
    step = max(1, _STRIP_PIXELS // new_width)
    period = new_height // math.gcd(height, new_height)
    if margin and period <= step:
        step -= step % period  # strips begin at whole rows of the image, so nothing is rounded
    waiting = iter(strips)
    rows = next(waiting)
    first = 0  # the row of the strips at which `rows` begin
    for top in range(0, new_height, step):
        bottom = min(top + step, new_height)
        start = max(0, math.floor(top * scale) + margin - reach)
        stop = min(height + 2 * margin, math.ceil(bottom * scale) + margin + reach)
        rows, first = rows[start - first :], start
        if first + len(rows) < stop:
            parts = [rows.copy()]  # the strip that they are a part of is freed
            del rows
            while first + sum(map(len, parts)) < stop:
                parts.append(next(waiting))
            rows = np.concatenate(parts)
            del parts
        lowest = min(bottom * scale + margin - first, float(stop - first))
        box = (margin, top * scale + margin - first, margin + width, lowest)
        size = bottom - top, new_width
        yield _resized_strip(rows[: stop - start], size, box, translucent=translucent)


def _resized_strip(rows: Pixels, size: tuple[int, int], box: Box, *, translucent: bool) -> Pixels:
    """Resize grey, grey and alpha, RGB or RGBA."""
    channels = rows.shape[2]
    if channels in (1, 3):
        return _resize_channels(rows, *size, box)
    colours, alpha = rows[:, :, :-1], rows[:, :, -1]
    if translucent:
        colours, alpha = _resize_translucent(colours, alpha, *size, box)
    else:
        colours = _resize_channels(colours, *size, box)
        alpha = np.full(size, np.iinfo(alpha.dtype).max, alpha.dtype)
    return np.dstack((colours, alpha))


def wrapped(image: RasterImage, margin: int) -> RasterImage:
    """Add to each edge what lies at the opposite one, repeated if need be.

    Args:
        image: The image.
        margin: In pixels.
    """
    sides = ((margin, margin), (margin, margin))
    alpha = None if image.alpha is None else np.pad(image.alpha, sides, mode="wrap")
    return dataclasses.replace(
        image, rgb=np.pad(image.rgb, (*sides, (0, 0)), mode="wrap"), alpha=alpha
    )


def without_margin(image: RasterImage, margin: int) -> RasterImage:
    """Cut the same margin, in pixels, off each edge."""
    place = np.s_[margin : image.size[0] - margin, margin : image.size[1] - margin]
    alpha = None if image.alpha is None else np.ascontiguousarray(image.alpha[place])
    return dataclasses.replace(image, rgb=np.ascontiguousarray(image.rgb[place]), alpha=alpha)


def _resized(image: RasterImage, height: int, width: int, box: Box | None) -> RasterImage:
    rgb, alpha = image.rgb, image.alpha
    colours = rgb[:, :, :1] if image.grey else rgb
    if alpha is not None and alpha.min() < np.iinfo(alpha.dtype).max:
        colours, alpha = _resize_translucent(colours, alpha, height, width, box)
    else:
        colours = _resize(colours, height, width, box)
        if alpha is not None:
            alpha = np.full((height, width), np.iinfo(alpha.dtype).max, alpha.dtype)
    if image.grey:
        colours = np.broadcast_to(colours, (height, width, 3))
    return dataclasses.replace(image, rgb=colours, alpha=alpha)


def resize_plane(
    plane: npt.NDArray[Any],
    height: int,
    width: int,
    resample: Image.Resampling = Image.Resampling.LANCZOS,
    box: Box | None = None,
    *,
    weight: Pixels | None = None,
) -> npt.NDArray[np.float32]:
    """Resize one channel (H, W), or the box of it, in float32, where Pillow does not round.

    Args:
        plane: The channel, of any number type.
        height: Of the result, in pixels.
        width: Of the result, in pixels.
        resample: The filter.
        box: The part that becomes the result; by default all of it.
        weight: (H, W), by which the channel is multiplied first.
    """
    image = Image.new("F", plane.shape[::-1])
    for top in range(0, len(plane), _BAND):  # no other copy in float32 has the whole channel
        band = plane[top : top + _BAND].astype(np.float32)
        if weight is not None:
            band *= weight[top : top + _BAND]
        image.paste(Image.fromarray(band), (0, top))
    image = image.resize((width, height), resample, box)
    return np.asarray(image, np.float32)


def round_to(values: npt.NDArray[np.float32], dtype: npt.DTypeLike) -> Pixels:
    """Round half to even and clip to the range of an unsigned integer type."""
    rounded = np.rint(values)
    return np.clip(rounded, 0, np.iinfo(dtype).max, out=rounded).astype(dtype)


def _resize(colours: Pixels, height: int, width: int, box: Box | None = None) -> Pixels:
    """Resize (H, W, 1 or 3): uint8 in Pillow's integers, uint16 channel by channel in float32."""
    if colours.dtype == np.uint8:
        image = Image.fromarray(
            np.ascontiguousarray(colours.squeeze(2) if colours.shape[2] == 1 else colours)
        )
        resized = np.asarray(image.resize((width, height), Image.Resampling.LANCZOS, box))
        return resized.reshape(height, width, -1)
    output = np.empty((height, width, colours.shape[2]), colours.dtype)
    for channel in range(colours.shape[2]):
        plane = resize_plane(colours[:, :, channel], height, width, box=box)
        output[:, :, channel] = round_to(plane, colours.dtype)
    return output


def _resize_channels(colours: Pixels, height: int, width: int, box: Box) -> Pixels:
    """Resize as `_resize` does, one channel after another, which takes less memory."""
    output = np.empty((height, width, colours.shape[2]), colours.dtype)
    for channel in range(colours.shape[2]):
        output[:, :, channel] = _resize(colours[:, :, channel, None], height, width, box)[:, :, 0]
    return output


def _resize_translucent(
    colours: Pixels, alpha: Pixels, height: int, width: int, box: Box | None = None
) -> tuple[Pixels, Pixels]:
    """Resize colours weighted by alpha, and alpha; unweighted where nothing is visible."""
    total = resize_plane(alpha, height, width, box=box)
    small = round_to(total, alpha.dtype)
    divisor = np.maximum(total, 0.5)  # anything less rounds to transparent
    del total
    output = np.empty((height, width, colours.shape[2]), colours.dtype)
    for channel in range(colours.shape[2]):
        plane = colours[:, :, channel]
        plain = resize_plane(plane, height, width, box=box)
        weighted = resize_plane(plane, height, width, box=box, weight=alpha) / divisor
        output[:, :, channel] = round_to(np.where(small > 0, weighted, plain), colours.dtype)
    return output, small
