"""Write PNG and APNG with 8 and 16 bits, fast enough not to hold up the network.

Follows the PNG specification, third edition (W3C, 2025), which includes APNG. Pillow writes 16
bits only in grey, and keeps a whole image, or all frames of an animation, in memory. Every row
gets the Up filter, which numpy applies to many rows at once. ISA-L compresses the result if it is
installed (`isal`: about ten times as fast as Pillow's level 1, and smaller), else zlib (about
twice as fast, the same size). Not written: palettes, fewer than 8 bits, interlacing.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from anchorsr.images.bands import with_first_row
from anchorsr.images.exif import PREFIX
from anchorsr.images.image import Metadata, Pixels
from anchorsr.images.png_chunks import SIGNATURE, chunk

isal_zlib: Any
try:
    from isal import isal_zlib
except ImportError:
    isal_zlib = None

_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # by channels: grey, grey and alpha, RGB, RGB and alpha
_UP = 2
_BAND_BYTES = 1 << 19  # filtered and compressed while still in the cache


def png_parts(height: int, strips: Iterable[Pixels], metadata: Metadata) -> Iterator[bytes]:
    """Yield a PNG in parts, from strips of rows.

    Args:
        height: Rows of the whole image.
        strips: (N, W, C) each, `height` rows in total.
        metadata: What to store with them.
    """
    row, strips = with_first_row(strips)
    yield from (SIGNATURE, _header(height, row), *_metadata_chunks(metadata))
    for data in _deflated(strips):
        yield chunk(b"IDAT", data)
    yield chunk(b"IEND")


def encode_apng(
    frames: Iterable[tuple[npt.NDArray[np.uint8], float]], plays: int, metadata: Metadata
) -> bytes:
    """Encode an animated PNG, which stores only the rectangle of each frame that has changed.

    Args:
        frames: RGBA (H, W, 4) of one size, and the milliseconds of each.
        plays: How often it runs; 0 for ever.
        metadata: What to store with it.
    """
    stored: list[bytes] = []
    header = b""
    shown: npt.NDArray[np.uint8] | None = None
    count = number = 0
    for pixels, milliseconds in frames:
        if shown is None:
            header = _header(len(pixels), pixels)
            top, left, bottom, right = 0, 0, *pixels.shape[:2]
        else:
            top, left, bottom, right = changed_box((pixels != shown).any(axis=2))
        shown = pixels
        # A delay is a fraction of 16-bit numbers: beyond a minute, to a tenth of a second.
        finest = 1000 if milliseconds < 65_000 else 10
        delay = Fraction(milliseconds / 1000).limit_denominator(finest)
        control = struct.pack(">5I", number, right - left, bottom - top, left, top)
        control += struct.pack(">HH", min(delay.numerator, 65_535), delay.denominator)
        control += bytes(2)  # no disposal; overwrite
        data = b"".join(_deflated([pixels[top:bottom, left:right]]))
        stored.append(chunk(b"fcTL", control))
        number += 1
        if count == 0:
            stored.append(chunk(b"IDAT", data))
        else:
            stored.append(chunk(b"fdAT", struct.pack(">I", number) + data))
            number += 1
        count += 1
    animation = chunk(b"acTL", struct.pack(">II", count, plays))
    parts = [SIGNATURE, header, *_metadata_chunks(metadata), animation, *stored, chunk(b"IEND")]
    return b"".join(parts)


def changed_box(changed: npt.NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Return (top, left, bottom, right) of the bounding box of True, at least 1×1."""
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    if not rows.size:
        return 0, 0, 1, 1
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def _header(height: int, pixels: Pixels) -> bytes:
    _, width, channels = pixels.shape
    kind = (pixels.dtype.itemsize * 8, _COLOUR_TYPES[channels], 0, 0, 0)
    return chunk(b"IHDR", struct.pack(">II5B", width, height, *kind))


def _metadata_chunks(metadata: Metadata) -> list[bytes]:
    chunks = [metadata.png_colour] if metadata.png_colour is not None else []
    if metadata.icc_profile is not None:
        chunks.append(chunk(b"iCCP", b"ICC\0\0" + zlib.compress(metadata.icc_profile)))
    if metadata.dpi is not None:
        across, down = (round(value / 0.0254) for value in metadata.dpi)
        chunks.append(chunk(b"pHYs", struct.pack(">IIB", across, down, 1)))
    if metadata.exif is not None:
        chunks.append(chunk(b"eXIf", metadata.exif.removeprefix(PREFIX)))
    if metadata.xmp is not None:
        chunks.append(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + metadata.xmp))
    if metadata.png_text is not None:
        chunks.append(metadata.png_text)
    return chunks


def _deflated(strips: Iterable[Pixels]) -> Iterator[bytes]:
    """Yield the zlib stream of all filtered rows, each preceded by its filter's number."""
    compressor = (isal_zlib or zlib).compressobj(1)
    above: Any = 0
    for strip in strips:
        row_bytes = strip[0].nbytes
        count = max(1, _BAND_BYTES // row_bytes)
        filtered = np.empty((min(count, len(strip)), 1 + row_bytes), np.uint8)
        filtered[:, 0] = _UP
        for top in range(0, len(strip), count):
            band = strip[top : top + count]
            band = np.ascontiguousarray(band, band.dtype.newbyteorder(">"))
            values = band.view(np.uint8).reshape(len(band), row_bytes)
            np.subtract(values[:1], above, out=filtered[:1, 1:])
            np.subtract(values[1:], values[:-1], out=filtered[1 : len(values), 1:])
            above = values[-1:].copy()
            compressed = compressor.compress(filtered[: len(values)])
            if compressed:
                yield compressed
        del strip, band, values  # freed before the next strip is made
    yield compressor.flush()
