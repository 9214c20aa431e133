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
    # The filter sees three pixels, or of a reduced image three result pixels, to each side.
    reach = math.ceil(3 * max(1, image.size[0] / height, image.size[1] / width)) + 1
    box = (reach, reach, reach + image.size[1], reach + image.size[0])
    return _resized(wrapped(image, reach), height, width, box)


def resize_strips(
    strips: Iterable[Pixels], before: tuple[int, int], after: tuple[int, int], *, translucent: bool
) -> Iterator[Pixels]:
    """Resize an image that comes in strips, as `resize_image` does, with few rows in memory.

    Args:
        strips: (N, W, C) from top to bottom: grey, grey and alpha, RGB or RGBA.
        before: (height, width) of the image.
        after: (height, width) of the result.
        translucent: Whether any of its alpha is less than opaque.

    Yields:
        (M, w, C) from top to bottom. Pillow filters rows or columns first, whichever is less work,
        and rounds and clips between; so at hard edges a value can differ from the whole image's.
    """
    (height, width), (new_height, new_width) = before, after
    scale = height / new_height
    reach = math.ceil(3 * max(1.0, scale)) + 1
    step = max(1, _STRIP_PIXELS // new_width)
    waiting = iter(strips)
    rows = next(waiting)
    first = 0  # the row of the image at which `rows` begin
    for top in range(0, new_height, step):
        bottom = min(top + step, new_height)
        start = max(0, math.floor(top * scale) - reach)
        stop = min(height, math.ceil(bottom * scale) + reach)
        rows, first = rows[start - first :], start
        parts = [rows]
        while first + sum(map(len, parts)) < stop:
            parts.append(next(waiting))
        rows = np.concatenate(parts) if len(parts) > 1 else rows
        del parts
        seen = rows[: stop - start]
        lowest = min(bottom * scale - first, float(len(seen)))
        box = (0, top * scale - first, width, lowest)
        channels = seen.shape[2]
        has_alpha = channels in (2, 4)
        colours = seen[:, :, : channels - has_alpha]
        if not has_alpha:
            yield _resize(colours, bottom - top, new_width, box)
            continue
        alpha = seen[:, :, -1]
        if translucent:
            colours, alpha = _resize_translucent(colours, alpha, bottom - top, new_width, box)
        else:
            colours = _resize(colours, bottom - top, new_width, box)
            alpha = np.full(colours.shape[:2], np.iinfo(alpha.dtype).max, alpha.dtype)
        yield np.dstack((colours, alpha))


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
) -> npt.NDArray[np.float32]:
    """Resize one channel (H, W), or the box of it, in float32, where Pillow does not round."""
    image = Image.fromarray(plane.astype(np.float32))
    return np.asarray(image.resize((width, height), resample, box), np.float32)


def round_to(values: npt.NDArray[np.float32], dtype: npt.DTypeLike) -> Pixels:
    """Round half to even and clip to the range of an unsigned integer type."""
    return np.clip(np.rint(values), 0, np.iinfo(dtype).max).astype(dtype)


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


def _resize_translucent(
    colours: Pixels, alpha: Pixels, height: int, width: int, box: Box | None = None
) -> tuple[Pixels, Pixels]:
    """Resize colours weighted by alpha, and alpha; unweighted where nothing is visible."""
    weight = alpha.astype(np.float32)
    total = resize_plane(weight, height, width, box=box)
    small = round_to(total, alpha.dtype)
    divisor = np.maximum(total, 0.5)  # anything less rounds to transparent
    output = np.empty((height, width, colours.shape[2]), colours.dtype)
    for channel in range(colours.shape[2]):
        plane = colours[:, :, channel].astype(np.float32)
        weighted = resize_plane(plane * weight, height, width, box=box) / divisor
        plain = resize_plane(plane, height, width, box=box)
        output[:, :, channel] = round_to(np.where(small > 0, weighted, plain), colours.dtype)
    return output, small
