"""Adjust an EXIF block to another image: upright, of another size, without a thumbnail.

Follows EXIF 2.32 (CIPA DC-008). A block is patched in place, never rebuilt, because maker notes
hold offsets into it. A block starts with `Exif` and two zero bytes.
"""

from __future__ import annotations

import contextlib
import struct

PREFIX = b"Exif\x00\x00"


def upright_exif(exif: bytes) -> tuple[int, bytes | None]:
    """Return the orientation, and the block with orientation 1 and without its thumbnail.

    For an unreadable block that is (1, None).
    """
    # Some WebP and PNG writers add a prefix of their own, so it comes twice.
    tiff = bytearray(exif.removeprefix(PREFIX).removeprefix(PREFIX))
    orientation = 1
    try:
        order, fields, following = _fields(tiff)
        if 0x0112 in fields:
            (orientation,) = struct.unpack_from(order + "H", tiff, fields[0x0112] + 8)
            struct.pack_into(order + "HIHH", tiff, fields[0x0112] + 2, 3, 1, 1, 0)
    except struct.error:
        return 1, None
    with contextlib.suppress(struct.error, KeyError):  # no thumbnail, or an unreadable one
        thumbnail, _ = _directory(tiff, order, following)
        struct.pack_into(order + "I", tiff, following, 0)
        (start,) = struct.unpack_from(order + "I", tiff, thumbnail[0x0201] + 8)
        (size,) = struct.unpack_from(order + "I", tiff, thumbnail[0x0202] + 8)
        rest = tiff[start + size :]
        tiff[start:] = bytes(size) + rest if rest else b""
    return orientation if 1 <= orientation <= 8 else 1, PREFIX + tiff


def sized_exif(exif: bytes, height: int, width: int) -> bytes | None:
    """Set the sizes that a block states; return None if the block is unreadable."""
    tiff = bytearray(exif.removeprefix(PREFIX))
    try:
        order, fields, _ = _fields(tiff)
        for tag, value in ((0x0100, width), (0x0101, height), (0xA002, width), (0xA003, height)):
            if tag in fields:
                struct.pack_into(order + "HII", tiff, fields[tag] + 2, 4, 1, value)
    except struct.error:
        return None
    return PREFIX + tiff


def without_orientation(exif: bytes) -> bytes:
    """Remove the orientation, for a format that stores it elsewhere.

    The fields after it move up; everything else stays in place. An unreadable block is returned
    unchanged.
    """
    tiff = bytearray(exif.removeprefix(PREFIX))
    try:
        order, fields, end = _fields(tiff)
    except struct.error:
        return exif
    at = fields.get(0x0112, end)
    if at < end:
        tiff[at : end + 4] = tiff[at + 12 : end + 4] + bytes(12)
        (start,) = struct.unpack_from(order + "I", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, start)
        struct.pack_into(order + "H", tiff, start, count - 1)
    return PREFIX + tiff


def exif_dpi(exif: bytes) -> tuple[float, float] | None:
    """Return the stated resolution, (horizontal, vertical) in dots per inch, or None."""
    tiff = bytearray(exif.removeprefix(PREFIX))
    values = []
    try:
        order, fields, _ = _fields(tiff)
        for tag in (0x011A, 0x011B):
            (offset,) = struct.unpack_from(order + "I", tiff, fields[tag] + 8)
            numerator, denominator = struct.unpack_from(order + "II", tiff, offset)
            values.append(numerator / denominator)
        unit = 2
        if 0x0128 in fields:
            (unit,) = struct.unpack_from(order + "H", tiff, fields[0x0128] + 8)
    except (struct.error, KeyError, ZeroDivisionError):
        return None
    inches = 2.54 if unit == 3 else 1.0
    return values[0] * inches, values[1] * inches


def _fields(tiff: bytearray) -> tuple[str, dict[int, int], int]:
    """Return the byte order, the place of each field, and that of the next directory's pointer.

    The fields of the main directory and of the Exif directory, which has the pixel size.
    """
    order = {b"II*\x00": "<", b"MM\x00*": ">"}.get(bytes(tiff[:4]))
    if order is None:
        raise struct.error("no TIFF header")
    fields, following = _directory(tiff, order, 4)
    with contextlib.suppress(struct.error, KeyError):
        fields = _directory(tiff, order, fields[0x8769] + 8)[0] | fields
    return order, fields, following


def _directory(tiff: bytearray, order: str, pointer: int) -> tuple[dict[int, int], int]:
    """Return the place of each field by tag, and that of the pointer to the next directory.

    Raises struct.error if the directory is truncated.
    """
    (offset,) = struct.unpack_from(order + "I", tiff, pointer)
    (count,) = struct.unpack_from(order + "H", tiff, offset)
    end = offset + 2 + 12 * count
    if offset < 8 or end > len(tiff):
        raise struct.error("truncated directory")
    places = range(offset + 2, end, 12)
    return {struct.unpack_from(order + "H", tiff, at)[0]: at for at in places}, end
