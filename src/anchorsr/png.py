"""PNG at 16 bits, and animated PNG, written frame after frame.

Follows the PNG specification, third edition (W3C, 2025), which holds APNG. Pillow writes 16 bits
only in grey, and keeps all frames of an animation in memory.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from anchorsr.picture import Metadata, Pixels

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
_BLOCK_BYTES = 1 << 22


def encode_png(pixels: Pixels, metadata: Metadata) -> bytes:
    """A PNG of uint8 or uint16 (H, W, C): grey, grey and alpha, RGB, or RGB and alpha."""
    parts = [SIGNATURE, _header(pixels), *_about(metadata)]
    return b"".join([*parts, _chunk(b"IDAT", _deflated(pixels)), _chunk(b"IEND")])


def encode_apng(
    frames: Iterable[tuple[npt.NDArray[np.uint8], float]], plays: int, metadata: Metadata
) -> bytes:
    """An animated PNG of RGBA frames (H, W, 4) of one size, each with its milliseconds.

    plays: how often it runs, 0 for ever. Of each frame the rectangle that has changed is stored.
    """
    stored: list[bytes] = []
    header = b""
    shown: npt.NDArray[np.uint8] | None = None
    count = number = 0
    for pixels, milliseconds in frames:
        if shown is None:
            header = _header(pixels)
            top, left, bottom, right = 0, 0, *pixels.shape[:2]
        else:
            top, left, bottom, right = changed_box((pixels != shown).any(axis=2))
        shown = pixels
        # A delay is a fraction of 16 bits; longer than a minute, a tenth of a second will do.
        finest = 1000 if milliseconds < 65_000 else 10
        delay = Fraction(milliseconds / 1000).limit_denominator(finest)
        control = struct.pack(">5I", number, right - left, bottom - top, left, top)
        control += struct.pack(">HH", min(delay.numerator, 65_535), delay.denominator)
        control += bytes(2)  # the frame stays, and replaces what was there
        data = _deflated(pixels[top:bottom, left:right])
        stored.append(_chunk(b"fcTL", control))
        number += 1
        if count == 0:
            stored.append(_chunk(b"IDAT", data))
        else:
            stored.append(_chunk(b"fdAT", struct.pack(">I", number) + data))
            number += 1
        count += 1
    animation = _chunk(b"acTL", struct.pack(">II", count, plays))
    parts = [SIGNATURE, header, *_about(metadata), animation, *stored, _chunk(b"IEND")]
    return b"".join(parts)


def changed_box(changed: npt.NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """(top, left, bottom, right) of the smallest rectangle around what is True, at least 1×1."""
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    if not rows.size:
        return 0, 0, 1, 1
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def _chunk(name: bytes, data: bytes = b"") -> bytes:
    check = zlib.crc32(data, zlib.crc32(name))
    return b"".join((struct.pack(">I", len(data)), name, data, struct.pack(">I", check)))


def _header(pixels: Pixels) -> bytes:
    height, width, channels = pixels.shape
    kind = (pixels.dtype.itemsize * 8, _COLOUR_TYPES[channels], 0, 0, 0)
    return _chunk(b"IHDR", struct.pack(">II5B", width, height, *kind))


def _about(metadata: Metadata) -> list[bytes]:
    """The chunks that say what is known besides the pixels."""
    chunks = []
    if metadata.icc_profile is not None:
        chunks.append(_chunk(b"iCCP", b"ICC\0\0" + zlib.compress(metadata.icc_profile)))
    if metadata.dpi is not None:
        across, down = (round(value / 0.0254) for value in metadata.dpi)
        chunks.append(_chunk(b"pHYs", struct.pack(">IIB", across, down, 1)))
    if metadata.exif is not None:
        chunks.append(_chunk(b"eXIf", metadata.exif.removeprefix(b"Exif\0\0")))
    if metadata.xmp is not None:
        chunks.append(_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + metadata.xmp))
    return chunks


def _deflated(pixels: Pixels) -> bytes:
    """Rows filtered, each by what leaves the smallest differences, and deflated."""
    height, width, channels = pixels.shape
    step = channels * pixels.dtype.itemsize
    length = width * step
    deflater = zlib.compressobj(1)
    parts = []
    above = np.zeros(length, np.uint8)
    block = max(1, _BLOCK_BYTES // length)
    for top in range(0, height, block):
        cut = pixels[top : top + block]
        stored = np.ascontiguousarray(cut, cut.dtype.newbyteorder(">"))
        rows = stored.view(np.uint8).reshape(len(cut), length)
        left = np.zeros_like(rows)
        left[:, step:] = rows[:, :-step]
        up = np.concatenate((above[None], rows[:-1]))
        # Sub and Up, PNG's filters 1 and 2; the others cost more than they save.
        candidates = np.stack((rows - left, rows - up))
        sizes = np.abs(candidates.view(np.int8).astype(np.int16)).sum(axis=2, dtype=np.int64)
        chosen = sizes.argmin(axis=0)
        filtered = np.empty((len(cut), 1 + length), np.uint8)
        filtered[:, 0] = 1 + chosen
        filtered[:, 1:] = candidates[chosen, np.arange(len(cut))]
        parts.append(deflater.compress(filtered.tobytes()))
        above = rows[-1]
    return b"".join([*parts, deflater.flush()])
