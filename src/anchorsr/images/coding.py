"""What a file says about how its pixels were coded: JPEG's tables, WebP's quantizer.

JPEG is ITU-T T.81, VP8 is RFC 6386. Files of other formats say nothing that is used here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

# Annex K's example table for luma, which libjpeg scales, row by row.
_LUMA = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)
# The coefficients by which tables are compared: the lowest, which images are made of.
_COMPARED = 6
# Bytes of a WebP file in which its first frame's header is looked for, behind profile and others.
_HEADER = 1 << 20


@dataclass(frozen=True)
class SourceCoding:
    """The lossy coding of a file.

    Attributes:
        format: The format's name, such as `JPEG`.
        quality: The quality that libjpeg or libwebp would be given for these tables.
    """

    format: str
    quality: int


def jpeg_luma_table(quality: int) -> npt.NDArray[np.int64]:
    """Return libjpeg's (8, 8) luma table of a quality from 1 to 100."""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    return np.asarray(np.clip((_LUMA * scale + 50) // 100, 1, 255))


def jpeg_quality_of(table: Sequence[int]) -> int:
    """Return the quality of libjpeg whose luma table is nearest to a table.

    Args:
        table: 64 steps, row by row.
    """
    given = np.log(np.reshape(np.maximum(table, 1), (8, 8)))
    shown = np.add.outer(np.arange(8), np.arange(8)) < _COMPARED
    distances = [
        float(np.square(given - np.log(jpeg_luma_table(quality)))[shown].sum())
        for quality in range(1, 101)
    ]
    return 1 + int(np.argmin(distances))


def coding_of(file: BinaryIO | None, image: Any) -> SourceCoding | None:
    """Tell how the pixels of an image that Pillow opened were coded; None if not lossy.

    Args:
        file: The open file, for formats of which Pillow does not tell; None if it is not at hand.
        image: The image, opened by Pillow and unchanged.
    """
    tables = getattr(image, "quantization", None)
    if image.format in ("JPEG", "MPO") and isinstance(tables, dict) and tables:
        layers = getattr(image, "layer", None) or [(1, 1, 1, 0)]
        table = tables.get(layers[0][3], next(iter(tables.values())))
        return SourceCoding("JPEG", jpeg_quality_of(table)) if len(table) == 64 else None
    if image.format == "WEBP" and file is not None:
        position = file.tell()
        file.seek(0)
        content = file.read(_HEADER)
        file.seek(position)
        quality = webp_quality(content)
        return None if quality is None else SourceCoding("WEBP", quality)
    return None


def webp_quality(content: bytes) -> int | None:
    """Return about the quality that a WebP file was written with; None if it is lossless.

    Args:
        content: The file, or its beginning.
    """
    start = content.find(b"VP8 ", 12)
    frame = content[start + 8 :]
    if start < 0 or len(frame) < 32 or frame[3:6] != b"\x9d\x01\x2a":
        return None
    bits = _BoolDecoder(frame[10:])
    bits.number(2)  # colour space, clamping
    steps: list[int] = []
    absolute = False
    if bits.number(1):  # segments
        updates_map = bits.number(1)
        if bits.number(1):
            absolute = bool(bits.number(1))
            steps = [bits.optional(7) for _ in range(4)]
            for _ in range(4):
                bits.optional(6)
        if updates_map:
            for _ in range(3):
                if bits.number(1):
                    bits.number(8)
    bits.number(10)  # the loop filter
    if bits.number(1) and bits.number(1):
        for _ in range(8):
            bits.optional(6)
    bits.number(2)  # partitions
    base = bits.number(7)
    indices = [step if absolute else base + step for step in steps] or [base]
    # The inverse of libwebp's map from quality to quantizer.
    share = (1 - min(max(sum(indices) / len(indices), 0), 127) / 127) ** 3
    return round(100 * (1.5 * share if share <= 0.5 else (share + 1) / 2))


class _BoolDecoder:
    """Decodes bits of even probability (RFC 6386, section 7)."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._value = int.from_bytes(data[:2], "big")
        self._position, self._range, self._shifted = 2, 255, 0

    def number(self, bits: int) -> int:
        value = 0
        for _ in range(bits):
            value = 2 * value + self._bit()
        return value

    def optional(self, bits: int) -> int:
        """Decode a flag, and a number with its sign if it is set."""
        if not self._bit():
            return 0
        value = self.number(bits)
        return -value if self._bit() else value

    def _bit(self) -> int:
        split = 1 + ((self._range - 1) * 128 >> 8)
        bit = self._value >= split << 8
        if bit:
            self._range -= split
            self._value -= split << 8
        else:
            self._range = split
        while self._range < 128:
            self._range <<= 1
            self._value <<= 1
            self._shifted += 1
            if self._shifted == 8:
                self._shifted = 0
                if self._position < len(self._data):
                    self._value |= self._data[self._position]
                self._position += 1
        return int(bit)
