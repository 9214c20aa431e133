"""Write TIFF with 8 and 16 bits, and convert EXIF between TIFF and other formats.

Follows TIFF 6.0 and its Technical Note 3 (Deflate). Pillow reads every TIFF but writes 16 bits
only in grey. A TIFF stores EXIF fields among those of the image, so unlike in `exif`, a block is
taken apart and rebuilt; offsets inside a maker note remain those of the original file.
"""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from typing import BinaryIO

import numpy as np

from anchorsr.images.exif import PREFIX
from anchorsr.images.image import Metadata, Pixels

# A field is its type and the bytes of its values, or the directory it points at.
Fields = dict[int, "tuple[int, bytes] | Fields"]

_SHORT, _LONG, _RATIONAL, _BYTE, _UNDEFINED = 3, 4, 5, 1, 7
_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}
_DIRECTORIES = (0x8769, 0x8825, 0xA005)  # Exif, GPS, interoperability
# Fields of the main directory in EXIF 2.32 (table 4) that do not describe the pixel layout, and
# those Windows adds: description, make, model, software, date, artist, host, copyright, rating.
_KEPT_FIELDS = {0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x013C, 0x8298, 0x4746, 0x4749}
_KEPT_FIELDS |= {0x9C9B, 0x9C9C, 0x9C9D, 0x9C9E, 0x9C9F, *_DIRECTORIES}
_LONGEST_EXIF = 1_000_000
_STRIP_BYTES = 1 << 20


def exif_of_tiff(file: BinaryIO) -> bytes | None:
    """Return the EXIF block for another format: the fields that do not describe the pixels.

    None for a TIFF without such fields, and for BigTIFF.
    """
    file.seek(0)
    try:
        order, fields = _read(file)
    except struct.error:
        return None
    fields = {tag: field for tag, field in fields.items() if tag in _KEPT_FIELDS}
    if not fields:
        return None
    return PREFIX + _header(order, 8) + _directory(fields, order, 8)


def encode_tiff(pixels: Pixels, metadata: Metadata) -> bytes:
    """Encode as TIFF with Deflate.

    Args:
        pixels: uint8 or uint16: grey (H, W) or (H, W, 1), RGB (H, W, 3), RGBA (H, W, 4).
        metadata: What to store with them.

    Raises:
        ValueError: If the file would be larger than the 4 GB that a TIFF can hold.
    """
    planes = pixels[:, :, None] if pixels.ndim == 2 else pixels
    height, width, channels = planes.shape
    order, fields = "<", Fields()
    if metadata.exif is not None:
        with contextlib.suppress(struct.error):
            order, fields = _read(io.BytesIO(metadata.exif.removeprefix(PREFIX)))
    fields = {tag: field for tag, field in fields.items() if tag in _KEPT_FIELDS}

    def numbers(kind: int, *values: int) -> tuple[int, bytes]:
        return kind, struct.pack(f"{order}{len(values)}{'H' if kind == _SHORT else 'I'}", *values)

    bits = pixels.dtype.itemsize * 8
    rows = max(1, _STRIP_BYTES // (width * channels * pixels.dtype.itemsize))
    strips = [_strip(planes[top : top + rows], order) for top in range(0, height, rows)]
    starts = np.cumsum([8, *(len(strip) for strip in strips)]).tolist()
    end = starts[-1] + starts[-1] % 2
    fields |= {
        0x0100: numbers(_LONG, width),
        0x0101: numbers(_LONG, height),
        0x0102: numbers(_SHORT, *[bits] * channels),
        0x0103: numbers(_SHORT, 8),  # Deflate
        0x0106: numbers(_SHORT, 1 if channels == 1 else 2),  # black is zero, or RGB
        0x0112: numbers(_SHORT, 1),
        0x0115: numbers(_SHORT, channels),
        0x0116: numbers(_LONG, rows),
        0x0117: numbers(_LONG, *(len(strip) for strip in strips)),
        0x011C: numbers(_SHORT, 1),  # channels interleaved
        0x013D: numbers(_SHORT, 2),  # horizontal differencing
    }
    if channels == 4:
        fields[0x0152] = numbers(_SHORT, 2)  # alpha, not premultiplied
    if metadata.dpi is not None:
        for tag, value in zip((0x011A, 0x011B), metadata.dpi, strict=True):
            fields[tag] = (_RATIONAL, struct.pack(order + "II", round(value * 1000), 1000))
        fields[0x0128] = numbers(_SHORT, 2)  # an inch
    if metadata.xmp is not None:
        fields[0x02BC] = (_BYTE, metadata.xmp)
    if metadata.icc_profile is not None:
        fields[0x8773] = (_UNDEFINED, metadata.icc_profile)
    if end > 0xFFFF_FFFF - 64_000_000:
        raise ValueError("a TIFF holds at most 4 GB; write a .png file")
    fields[0x0111] = numbers(_LONG, *starts[:-1])
    parts = [_header(order, end), *strips, bytes(end - starts[-1])]
    return b"".join(parts) + _directory(fields, order, end)


def _strip(planes: Pixels, order: str) -> bytes:
    """Compress rows as differences between neighbours (TIFF 6.0, section 14)."""
    differences = planes.copy()
    differences[:, 1:] -= planes[:, :-1]
    stored = differences.astype(f"{order}u{planes.dtype.itemsize}", copy=False)
    return zlib.compress(stored.tobytes(), 1)


def _header(order: str, directory: int) -> bytes:
    return {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "I", directory)


def _read(file: BinaryIO) -> tuple[str, Fields]:
    """Read the byte order and the main directory. Raises struct.error if there is none."""
    header = file.read(8)
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(header[:4])
    if order is None:
        raise struct.error("no TIFF header")
    return order, _fields(file, order, struct.unpack(order + "I", header[4:])[0], depth=0)


def _fields(file: BinaryIO, order: str, offset: int, *, depth: int) -> Fields:
    """Read a directory, leaving out damaged and very long fields."""
    file.seek(offset)
    (count,) = struct.unpack(order + "H", file.read(2))
    entries = file.read(12 * count)
    fields = Fields()
    left = _LONGEST_EXIF
    for at in range(0, len(entries) - 11, 12):
        tag, kind, values = struct.unpack_from(order + "HHI", entries, at)
        data = entries[at + 8 : at + 12]
        size = _TYPE_BYTES.get(kind, 0) * values
        if tag in _DIRECTORIES:
            if depth < 2:
                with contextlib.suppress(struct.error):
                    (place,) = struct.unpack(order + "I", data)
                    fields[tag] = _fields(file, order, place, depth=depth + 1)
            continue
        if size > 4:
            if size > left:
                continue
            file.seek(struct.unpack(order + "I", data)[0])
            data = file.read(size)
            left -= size
        if size and len(data) >= size:
            fields[tag] = (kind, data[:size])
    return fields


def _directory(fields: Fields, order: str, offset: int) -> bytes:
    """Encode a directory for this offset, followed by the values that do not fit its entries."""
    entries = struct.pack(order + "H", len(fields))
    rest_at = offset + 2 + 12 * len(fields) + 4
    rest = b""
    for tag, field in sorted(fields.items()):
        place = rest_at + len(rest)
        if isinstance(field, dict):
            entries += struct.pack(order + "HHII", tag, _LONG, 1, place)
            rest += _directory(field, order, place)
        else:
            kind, data = field
            entries += struct.pack(order + "HHI", tag, kind, len(data) // _TYPE_BYTES[kind])
            if len(data) > 4:
                entries += struct.pack(order + "I", place)
                rest += data
            else:
                entries += data.ljust(4, b"\0")
        rest += bytes(len(rest) % 2)
    return entries + bytes(4) + rest
