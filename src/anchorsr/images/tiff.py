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
from collections.abc import Iterable
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from anchorsr.images.bands import rebanded, with_first_row
from anchorsr.images.exif import PREFIX
from anchorsr.images.geotiff import FIELDS as GEO_FIELDS
from anchorsr.images.geotiff import GeoFields, resized_geo
from anchorsr.images.image import Metadata, Pixels
from anchorsr.images.jpeg import iptc_of_resources

# A field is its type and the bytes of its values, or the directory it points at.
Fields = dict[int, "tuple[int, bytes] | Fields"]

_SHORT, _LONG, _RATIONAL, _BYTE, _UNDEFINED = 3, 4, 5, 1, 7
_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}
_DIRECTORIES = (0x8769, 0x8825, 0xA005)  # Exif, GPS, interoperability
# Fields of the main directory in EXIF 2.32 (table 4) that do not describe the pixel layout, and
# those Windows adds: description, make, model, software, date, artist, host, copyright, rating.
_KEPT_FIELDS = {0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x013C, 0x8298, 0x4746, 0x4749}
_KEPT_FIELDS |= {0x9C9B, 0x9C9C, 0x9C9D, 0x9C9E, 0x9C9F, *_DIRECTORIES}
_IPTC, _PHOTOSHOP, _WHITE_POINT, _PRIMARIES = 0x83BB, 0x8649, 0x013E, 0x013F
# Fields that describe how pixels are stored, or are read elsewhere: TIFF 6.0 and its supplements.
_OF_PIXELS = {
    *range(0x00FE, 0x010D),
    *range(0x0111, 0x011E),
    *range(0x0120, 0x0126),
    *(0x0128, 0x0129, 0x013D, _WHITE_POINT, _PRIMARIES),
    *range(0x0140, 0x0146),
    *range(0x014A, 0x0160),
    *range(0x0200, 0x020A),
    *range(0x0211, 0x0215),
    *(0x02BC, 0x022F, 0x80E3, 0x80E4, 0x80E5, 0x80E6, _IPTC, 0x8773),
}
_NAMES = {
    0x010D: "document name",
    0x012D: "transfer function",
    _PHOTOSHOP: "Photoshop settings",
    0x935C: "Photoshop layers",
    0xC4A5: "print settings",
    0xC5E0: "content credentials",
}
_LONGEST_EXIF = 1_000_000
_STRIP_BYTES = 1 << 20


@dataclass(frozen=True)
class TiffFields:
    """What a TIFF stores among the fields of its pixels.

    Attributes:
        exif: The EXIF block for another format; None without such fields, and for BigTIFF.
        iptc: The IPTC-IIM data.
        geo: The place on the map.
        primaries: x and y of white, red, green and blue.
        notes: What is left out.
    """

    exif: bytes | None = None
    iptc: bytes | None = None
    geo: GeoFields | None = None
    primaries: tuple[float, ...] | None = None
    notes: tuple[str, ...] = ()


def read_tiff_fields(file: BinaryIO, size: tuple[int, int]) -> TiffFields:
    """Read the fields that do not describe the layout of the pixels.

    Args:
        file: The open file.
        size: (height, width) as stored.
    """
    file.seek(0)
    try:
        order, fields = _read(file)
    except struct.error:
        return TiffFields(notes=("the metadata of a BigTIFF is left out",))
    values = {tag: field for tag, field in fields.items() if isinstance(field, tuple)}
    kept = {tag: field for tag, field in fields.items() if tag in _KEPT_FIELDS}
    geo = {tag: values[tag] for tag in values.keys() & GEO_FIELDS}
    iptc = values[_IPTC][1] if _IPTC in values else None
    if iptc is not None and values[_IPTC][0] == _LONG and order == ">":
        # Stored as 32-bit numbers, though it is text.
        iptc = struct.pack(f"<{len(iptc) // 4}I", *struct.unpack(f">{len(iptc) // 4}I", iptc))
    if iptc is None and _PHOTOSHOP in values:
        iptc = iptc_of_resources(values[_PHOTOSHOP][1])
    left_out = _tags(file) - _OF_PIXELS - kept.keys() - geo.keys()
    names = [_NAMES.get(tag, f"field {tag}") for tag in sorted(left_out)]
    return TiffFields(
        exif=PREFIX + _header(order, 8) + _directory(kept, order, 8) if kept else None,
        iptc=iptc.rstrip(b"\0") or None if iptc is not None else None,
        geo=GeoFields(order, geo, size) if geo else None,
        primaries=_primaries(values, order),
        notes=(f"left out of the TIFF: {', '.join(names)}",) if names else (),
    )


def _primaries(values: dict[int, tuple[int, bytes]], order: str) -> tuple[float, ...] | None:
    """Return x and y of white, red, green and blue, where both fields say so."""
    data = b"".join(values.get(tag, (0, b""))[1] for tag in (_WHITE_POINT, _PRIMARIES))
    if len(data) != 64:
        return None
    numbers = struct.unpack(order + "16I", data)
    if not all(numbers[1::2]):
        return None
    return tuple(a / b for a, b in zip(numbers[::2], numbers[1::2], strict=True))


def _tags(file: BinaryIO) -> set[int]:
    """Return the tags of the main directory."""
    file.seek(0)
    header = file.read(8)
    order = "<" if header[:2] == b"II" else ">"
    file.seek(struct.unpack(order + "I", header[4:])[0])
    (count,) = struct.unpack(order + "H", file.read(2))
    entries = file.read(12 * count)
    return {
        struct.unpack_from(order + "H", entries, at)[0] for at in range(0, len(entries) - 11, 12)
    }


def write_tiff(
    file: BinaryIO, size: tuple[int, ...], strips: Iterable[Pixels], metadata: Metadata
) -> None:
    """Write a TIFF with Deflate.

    Args:
        file: The file, open for writing at its start.
        size: (height, width).
        strips: uint8 or uint16 (N, W, C), `height` rows in total; C is 1, 3 or 4.
        metadata: What to store with them.

    Raises:
        ValueError: If the file would be larger than the 4 GB that a TIFF can hold.
    """
    height, width = size
    order, fields = "<", Fields()
    if metadata.geo is not None:
        order = metadata.geo.order
    if metadata.exif is not None:
        with contextlib.suppress(struct.error):
            exif_order, exif_fields = _read(io.BytesIO(metadata.exif.removeprefix(PREFIX)))
            if metadata.geo is None or exif_order == order:
                order, fields = exif_order, exif_fields
    fields = {tag: field for tag, field in fields.items() if tag in _KEPT_FIELDS}
    if metadata.geo is not None:
        fields |= resized_geo(metadata.geo, height, width)
    if metadata.iptc is not None:
        fields[_IPTC] = (_UNDEFINED, metadata.iptc)

    def numbers(kind: int, *values: int) -> tuple[int, bytes]:
        return kind, struct.pack(f"{order}{len(values)}{'H' if kind == _SHORT else 'I'}", *values)

    row, strips = with_first_row(strips)
    channels, item_bytes = row.shape[2], row.dtype.itemsize
    rows = max(1, _STRIP_BYTES // (width * channels * item_bytes))
    file.write(_header(order, 0))
    sizes = []
    for planes in rebanded(strips, rows):
        data = _strip(planes, order)
        del planes  # and with it the strip that it is a part of
        file.write(data)
        sizes.append(len(data))
    starts = np.cumsum([8, *sizes]).tolist()
    if starts[-1] > 0xFFFF_FFFF - 64_000_000:
        raise ValueError("a TIFF holds at most 4 GB; write a .png file")
    end = starts[-1] + starts[-1] % 2
    fields |= {
        0x0100: numbers(_LONG, width),
        0x0101: numbers(_LONG, height),
        0x0102: numbers(_SHORT, *[8 * item_bytes] * channels),
        0x0103: numbers(_SHORT, 8),  # Deflate
        0x0106: numbers(_SHORT, 1 if channels == 1 else 2),  # black is zero, or RGB
        0x0112: numbers(_SHORT, 1),
        0x0115: numbers(_SHORT, channels),
        0x0116: numbers(_LONG, rows),
        0x0117: numbers(_LONG, *sizes),
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
    fields[0x0111] = numbers(_LONG, *starts[:-1])
    file.write(bytes(end - starts[-1]) + _directory(fields, order, end))
    file.seek(0)
    file.write(_header(order, end))


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
