"""Read the boxes of HEIC and AVIF: what colours mean, and how many images there are.

Follows ISO/IEC 14496-12 (boxes) and 23008-12 (HEIF). Damaged boxes are ignored: the library that
decodes the pixels reports them if it needs them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

_IMAGES = {b"av01", b"hvc1", b"grid", b"iden", b"iovl", b"jpeg", b"unci"}
# C2PA 2.1, A.5.
_C2PA = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")
_LONGEST_META = 16 << 20
# Items that belong to another one: its parts, its thumbnail, its transparency or its depth.
_PARTS = {b"dimg": False, b"thmb": True, b"auxl": True, b"prem": True}


@dataclass(frozen=True)
class Boxes:
    """What the boxes of a file say.

    Attributes:
        colours: H.273's numbers of primaries, transfer and matrix of the primary image.
        images: The number of images that a viewer shows.
        gain_map: Whether there is a gain map, from which HDR screens brighten the image.
        others: What else the file holds that is not read.
    """

    colours: tuple[int, int, int] | None = None
    images: int = 1
    gain_map: bool = False
    others: tuple[str, ...] = ()


def read_boxes(file: BinaryIO) -> Boxes:
    """Read all boxes but those of pixels.

    Args:
        file: The open file.
    """
    file.seek(0)
    found, others = Boxes(), []
    while len(head := file.read(8)) == 8:
        length, name = struct.unpack(">I4s", head)
        content = length - 8
        if length == 1:
            content = int.from_bytes(file.read(8)) - 16
        if content < 0:  # up to the end of the file, or damaged
            break
        start = file.tell()
        if name == b"meta" and 4 <= content <= _LONGEST_META:
            with contextlib.suppress(struct.error, IndexError):
                found = _read_meta(file.read(content)[4:])
        elif name == b"mpvd":
            others.append("a video (motion photo)")
        elif name == b"uuid" and file.read(16) == _C2PA:
            others.append("content credentials (C2PA)")
        file.seek(start + content)
    return dataclasses.replace(found, others=tuple(others))


def _read_meta(meta: bytes) -> Boxes:
    boxes = dict(_inside(meta))
    primary = int.from_bytes(boxes.get(b"pitm", b"")[4:])
    kinds: dict[int, bytes] = {}
    for name, entry in _inside(_entries(boxes.get(b"iinf", b""))):
        if name == b"infe" and entry[0] in (2, 3):
            wide = entry[0] == 3
            item = int.from_bytes(entry[4 : 8 if wide else 6])
            kind = entry[10 if wide else 8 :][:4]
            if not entry[3] & 1 or kind == b"tmap":  # not hidden
                kinds[item] = kind
    parts = _parts(boxes.get(b"iref", b""))
    shown = [item for item, kind in kinds.items() if kind in _IMAGES and item not in parts]
    gain_map = b"tmap" in kinds.values() or b"hdrgainmap" in meta
    return Boxes(_colours(boxes.get(b"iprp", b""), primary), max(1, len(shown)), gain_map)


def _colours(properties: bytes, primary: int) -> tuple[int, int, int] | None:
    """Return the nclx colours among the properties of an item."""
    boxes = dict(_inside(properties))
    listed = list(_inside(boxes.get(b"ipco", b"")))
    for index in _associated(boxes.get(b"ipma", b""), primary):
        if 0 < index <= len(listed):
            name, content = listed[index - 1]
            if name == b"colr" and content[:4] == b"nclx":
                return struct.unpack_from(">HHH", content, 4)
    return None


def _associated(data: bytes, item: int) -> list[int]:
    """Return the numbers of an item's properties."""
    if not data:
        return []
    wide_item, wide_index = data[0] > 0, data[3] & 1
    (count,) = struct.unpack_from(">I", data, 4)
    at = 8
    for _ in range(count):
        size = 4 if wide_item else 2
        number = int.from_bytes(data[at : at + size])
        entries = data[at + size]
        at += size + 1
        step = 2 if wide_index else 1
        values = [int.from_bytes(data[at + i * step :][:step]) for i in range(entries)]
        at += entries * step
        if number == item:
            return [value & (0x7FFF if wide_index else 0x7F) for value in values]
    return []


def _parts(data: bytes) -> set[int]:
    """Return the items that only belong to another one."""
    found: set[int] = set()
    if not data:
        return found
    size = 4 if data[0] else 2
    for name, content in _inside(data[4:]):
        (count,) = struct.unpack_from(">H", content, size)
        ids = [int.from_bytes(content[size + 2 + i * size :][:size]) for i in range(count)]
        if name in _PARTS:
            # `dimg` goes from the whole to its parts, the others from the part to the whole.
            found |= {int.from_bytes(content[:size])} if _PARTS[name] else set(ids)
    return found


def _entries(data: bytes) -> bytes:
    """Return the boxes of an item information box, after its count."""
    return data[(8 if data[:1] != b"\0" else 6) :]


def _inside(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the name and content of each box."""
    at = 0
    while at + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        if length < 8 or at + length > len(data):
            return
        yield name, data[at + 8 : at + length]
        at += length
