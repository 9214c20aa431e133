"""Decode 16-bit PNG and TIFF, in bands, so that little more than the result is in memory."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image, ImageFile

from anchorsr.images.formats import bands, load, tiff_tag
from anchorsr.images.image import Pixels
from anchorsr.images.pixel_memory import PixelMemory
from anchorsr.images.source import Source

_OTHER_ORDER = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}


def colours_of_16_bits(
    source: Source, image: ImageFile.ImageFile
) -> tuple[Pixels, Pixels | None, bool]:
    """Decode a 16-bit PNG or TIFF.

    Args:
        source: The open file.
        image: Its image, not decoded yet.

    Returns:
        uint16 (H, W, 3); alpha (H, W), if any; and whether it is grey.
    """
    if image.mode.startswith("I;16"):
        channels, decoded = 1, _decoded_grey(image)
    elif _raw_mode(image).startswith("LA"):
        channels, decoded = 2, _decoded_grey_and_alpha(image)
    else:
        channels, decoded = len(image.mode), _decoded_colours(source, image)
    # The size is known now: Pillow turns a TIFF while it decodes it.
    rgb = np.empty((image.height, image.width, 3), np.uint16)
    alpha = np.empty(rgb.shape[:2], np.uint16) if channels in (2, 4) else None
    for top, band in decoded:
        place = np.s_[top : top + len(band)]
        rgb[place] = band[..., : 1 if channels < 3 else 3]
        if alpha is not None:
            alpha[place] = band[..., channels - 1]
    return rgb, alpha, channels < 3


def _decoded_grey(image: ImageFile.ImageFile) -> Iterator[tuple[int, Pixels]]:
    load(image)
    # White is zero; Pillow does not invert this depth.
    inverted = image.format == "TIFF" and tiff_tag(image, 0x0106, 0) == 0
    decoded = ((top, band.astype(np.uint16)[..., None]) for top, band in _bands(image))
    return ((top, 65_535 - values if inverted else values) for top, values in decoded)


def _decoded_grey_and_alpha(image: ImageFile.ImageFile) -> Iterator[tuple[int, Pixels]]:
    image._mode = "RGBA"  # two channels of 16 bits take the bytes of four of 8
    memory = PixelMemory.lend(image)
    load(image, "RGBA")
    decoded = _bands(image, memory)
    return ((top, _joined(band[..., ::2], band[..., 1::2])) for top, band in decoded)


def _decoded_colours(source: Source, image: ImageFile.ImageFile) -> Iterator[tuple[int, Pixels]]:
    """Decode, and return an iterator of the first row and the values of each band.

    Pillow keeps only the high bytes of 16-bit colours, in the given byte order. So the image is
    decoded twice; the second time, in the other order, gives the low bytes.
    """
    raw = _raw_mode(image)
    premultiplied = raw.startswith("RGBa")
    raw = raw.replace("a", "A")
    again = source.open()
    memory, other_memory = PixelMemory.lend(image), PixelMemory.lend(again)
    load(again, raw[:-1] + _OTHER_ORDER[raw[-1]])
    load(image, raw)
    pairs = zip(_bands(image, memory), _bands(again, other_memory), strict=True)
    decoded = ((top, _joined(high, low)) for (top, high), (_, low) in pairs)
    return ((top, _plain(values) if premultiplied else values) for top, values in decoded)


def _joined(high: Pixels, low: Pixels) -> Pixels:
    """Return the values of 16 bits from their high and low bytes."""
    return high.astype(np.uint16) << 8 | low


def _plain(premultiplied: Pixels) -> Pixels:
    """Return RGBA with colours that are not multiplied by alpha."""
    weight = np.maximum(premultiplied[..., 3:], 1) / 65_535
    colours = np.minimum(np.rint(premultiplied[..., :3] / weight), 65_535)
    return np.dstack((colours.astype(np.uint16), premultiplied[..., 3]))


def _bands(image: Image.Image, memory: PixelMemory | None = None) -> Iterator[tuple[int, Pixels]]:
    """Yield the first row and the pixels of each band of a decoded image.

    Args:
        image: The image.
        memory: Where its pixels may be; each band is released then, and has four channels.
    """
    if memory is not None and memory.is_in_use:
        yield from memory.bands()
        return
    for top, band in bands(image):
        yield top, np.asarray(band)


def _raw_mode(image: ImageFile.ImageFile) -> str:
    arguments: Any = image.tile[0].args
    return str(arguments if isinstance(arguments, str) else arguments[0])
