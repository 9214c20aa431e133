"""Read the chunks of a PNG: those that pixels need, for Pillow, and what the others say.

Follows the PNG specification, third edition (W3C, 2025). Only chunks that pixels need can make a
file unreadable; another that is damaged or too long is left out, and a note says so.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from anchorsr.images.exif import PREFIX
from anchorsr.images.view import Part, size_of, view, what_follows

SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Coding-independent code points, white point and primaries, gamma, sRGB: bytes of each.
COLOUR_CHUNKS = {b"cICP": 4, b"cHRM": 32, b"gAMA": 4, b"sRGB": 1}
_XMP = b"XML:com.adobe.xmp"
# Describe how the old pixels were stored, as filters and compression do.
_OF_STORAGE = {b"sBIT", b"hIST", b"sPLT", b"IEND"}
# Critical chunks have an upper-case first letter; these others belong to pixels or to frames.
_OF_PIXELS = {b"tRNS", b"acTL", b"fcTL", b"fdAT", b"pHYs"}
# Readers, Pillow among them, refuse a file with a longer text.
_LONGEST_TEXT = 1 << 20
_MOST_TEXT = 16 << 20
_LONGEST_PROFILE = 16 << 20
_LONGEST_CHUNK = 64 << 20


@dataclass(frozen=True)
class PngChunks:
    """What a PNG holds.

    Attributes:
        pixels: The file without the chunks that pixels do not need.
        colour: The chunks that define the colour space, unchanged.
        icc_profile: The ICC colour profile.
        exif: An EXIF block.
        xmp: An XMP packet.
        text: The chunks with other text, unchanged.
        text_keys: The keys of the text.
        notes: What was left out.
    """

    pixels: BinaryIO
    colour: bytes | None
    icc_profile: bytes | None
    exif: bytes | None
    xmp: bytes | None
    text: bytes | None
    text_keys: tuple[str, ...]
    notes: tuple[str, ...]


def read_chunks(file: BinaryIO) -> PngChunks:
    """Read all chunks but those of pixels.

    Args:
        file: The open file.
    """
    size = size_of(file)
    parts: list[Part] = [(0, len(SIGNATURE))]
    notes: list[str] = []
    found: dict[bytes, bytes] = {}
    colour = text = b""
    keys: list[str] = []
    others: list[str] = []
    ended = has_pixels = False
    follows = ""
    for name, start, length in _chunks(file, size):
        end = start + 12 + length
        has_pixels |= name == b"IDAT"
        if not name[0] & 0x20 or name in _OF_PIXELS:
            parts.append((start, min(end, size)))
            if end - 4 > size:
                ended = True  # cut off within pixels, which Pillow reports
            elif end > size:  # the last chunk lacks its checksum; pixels have one of their own
                parts.append(_checksum(file, start, length)[size - end :])
            if name == b"IEND":
                ended = True
                follows = what_follows(file, end)
            continue
        data = _checked(file, start, length) if length <= _LONGEST_CHUNK else None
        label = name.decode("latin-1")
        if data is None:
            others.append(f"{label} (damaged)")
        elif name in COLOUR_CHUNKS:
            if len(data) == COLOUR_CHUNKS[name]:
                colour += chunk(name, data)
            else:
                others.append(f"{label} (damaged)")
        elif name == b"eXIf":
            found[name] = PREFIX + data
        elif name == b"iCCP":
            profile = _inflated(data.partition(b"\0")[2][1:], _LONGEST_PROFILE)
            if profile is None:
                others.append("iCCP (damaged)")
            else:
                found[name] = profile
        elif name in (b"tEXt", b"zTXt", b"iTXt"):
            key = data.partition(b"\0")[0]
            content = _text(name, data)
            if content is None or len(text) > _MOST_TEXT:
                others.append(f"the text {key.decode('latin-1')!r} (too long or damaged)")
            elif name == b"iTXt" and key == _XMP:
                found[_XMP] = content
            else:
                text += chunk(name, data)
                keys.append(key.decode("latin-1"))
        elif name not in _OF_STORAGE:
            others.append(label)
    if has_pixels and not ended:
        parts.append(chunk(b"IEND"))
        notes.append("the end of the file is missing, but no pixel is")
    if others:
        notes.append(f"left out of the PNG: {', '.join(dict.fromkeys(others))}")
    if follows:
        notes.append(follows)
    return PngChunks(
        pixels=view(file, parts),
        colour=colour or None,
        icc_profile=found.get(b"iCCP"),
        exif=found.get(b"eXIf"),
        xmp=found.get(_XMP),
        text=text or None,
        text_keys=tuple(dict.fromkeys(keys)),
        notes=tuple(notes),
    )


def chunk(name: bytes, data: bytes = b"") -> bytes:
    """Return a chunk with its length and checksum."""
    check = zlib.crc32(data, zlib.crc32(name))
    return b"".join((struct.pack(">I", len(data)), name, data, struct.pack(">I", check)))


def _chunks(file: BinaryIO, size: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield the name, place and data length of each chunk; of the last one, what it claims."""
    at = len(SIGNATURE)
    while at + 8 <= size:
        file.seek(at)
        length, name = struct.unpack(">I4s", file.read(8))
        yield name, at, length
        if name == b"IEND":
            return
        at += 12 + length


def _checked(file: BinaryIO, start: int, length: int) -> bytes | None:
    """Return the data of a chunk; None if its checksum is wrong."""
    file.seek(start + 4)
    named = file.read(4 + length)
    return named[4:] if file.read(4) == struct.pack(">I", zlib.crc32(named)) else None


def _checksum(file: BinaryIO, start: int, length: int) -> bytes:
    file.seek(start + 4)
    return struct.pack(">I", zlib.crc32(file.read(4 + length)))


def _text(name: bytes, data: bytes) -> bytes | None:
    """Return the text of a chunk, as bytes; None if it is damaged or too long."""
    _, separator, rest = data.partition(b"\0")
    if not separator:
        return None
    if name == b"tEXt":
        return rest if len(rest) <= _LONGEST_TEXT else None
    if name == b"zTXt":
        return _inflated(rest[1:], _LONGEST_TEXT) if rest[:1] == b"\0" else None
    content = rest[2:].split(b"\0", 2)
    if len(content) < 3:
        return None
    # XMP packets may be as long as a profile; other programs read them apart from text.
    longest = _LONGEST_PROFILE if data.startswith(_XMP + b"\0") else _LONGEST_TEXT
    if rest[:1] == b"\0":
        return content[2] if len(content[2]) <= longest else None
    return _inflated(content[2], longest)


def _inflated(data: bytes, longest: int) -> bytes | None:
    decompressor = zlib.decompressobj()
    try:
        content = decompressor.decompress(data, longest + 1)
    except zlib.error:
        return None
    return content if decompressor.eof and len(content) <= longest else None
