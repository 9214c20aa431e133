"""An EXIF block made true for another image: upright, of another size, without a thumbnail.

Follows EXIF 2.32 (CIPA DC-008). A block is patched in place, never rebuilt, because maker
notes hold offsets into it. A block starts with `Exif` and two zero bytes.
"""

from __future__ import annotations

import contextlib
import struct

PREFIX = b"Exif\x00\x00"


def upright_exif(exif: bytes) -> tuple[int, bytes | None]:
    """Return the orientation, and the block with orientation 1 and without its thumbnail.

    A block that cannot be read is (1, None).
    """
    # Some writers of WebP and PNG put the prefix where it does not belong, so it comes twice.
    tiff = bytearray(exif.removeprefix(PREFIX).removeprefix(PREFIX))
    orientation = 1
    try:
        order, fields, following = _fields(tiff)
        if 0x0112 in fields:
            (orientation,) = struct.unpack_from(order + "H", tiff, fields[0x0112] + 8)
            struct.pack_into(order + "HIHH", tiff, fields[0x0112] + 2, 3, 1, 1, 0)
    except struct.error:
        return 1, None
    with contextlib.suppress(struct.error, KeyError):  # there is none, or it is not readable
        thumbnail, _ = _directory(tiff, order, following)
        struct.pack_into(order + "I", tiff, following, 0)
        (start,) = struct.unpack_from(order + "I", tiff, thumbnail[0x0201] + 8)
        (size,) = struct.unpack_from(order + "I", tiff, thumbnail[0x0202] + 8)
        rest = tiff[start + size :]
        tiff[start:] = bytes(size) + rest if rest else b""
    return orientation if 1 <= orientation <= 8 else 1, PREFIX + tiff


def sized_exif(exif: bytes, height: int, width: int) -> bytes | None:
    """Make the sizes that a block states true; None if it cannot be read."""
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
    """The block without its orientation, for a format that has another place for it.

    The fields after it move up; everything else stays where it is. A block that cannot be read
    is returned as it is.
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
    """The resolution that a block states, (horizontal, vertical); None if there is none."""
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
    """Return the byte order, then what `_directory` says of the main directory.

    The fields of the Exif directory, where the size of the pixels stands, are added to them.
    """
    order = {b"II*\x00": "<", b"MM\x00*": ">"}.get(bytes(tiff[:4]))
    if order is None:
        raise struct.error("no TIFF header")
    fields, following = _directory(tiff, order, 4)
    with contextlib.suppress(struct.error, KeyError):
        fields = _directory(tiff, order, fields[0x8769] + 8)[0] | fields
    return order, fields, following


def _directory(tiff: bytearray, order: str, pointer: int) -> tuple[dict[int, int], int]:
    """Return the place of each field by its tag, and that of the pointer to the next directory.

    Raises struct.error if the directory is not whole.
    """
    (offset,) = struct.unpack_from(order + "I", tiff, pointer)
    (count,) = struct.unpack_from(order + "H", tiff, offset)
    end = offset + 2 + 12 * count
    if offset < 8 or end > len(tiff):
        raise struct.error("no whole directory")
    places = range(offset + 2, end, 12)
    return {struct.unpack_from(order + "H", tiff, at)[0]: at for at in places}, end
