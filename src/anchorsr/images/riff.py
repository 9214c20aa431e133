"""Read the chunks of a WebP: how pixels are stored, and where the file is cut.

Follows RFC 9649.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import BinaryIO

from anchorsr.images.view import Part, size_of, view, what_follows

_FRAME_HEADER = 16
_KNOWN = {b"VP8X", b"ICCP", b"ANIM", b"ANMF", b"ALPH", b"VP8 ", b"VP8L", b"EXIF", b"XMP "}
_EXIF_FLAG, _XMP_FLAG = 0x08, 0x04


@dataclass(frozen=True)
class WebpParts:
    """How a WebP stores its pixels.

    Attributes:
        file: The file; without metadata that is cut off, if that is all that is missing.
        lossless: Whether all of its pixels are stored without loss.
        notes: What is left out.
    """

    file: BinaryIO
    lossless: bool
    notes: tuple[str, ...] = ()


def read_webp(file: BinaryIO) -> WebpParts:
    """Read the chunks of a WebP.

    Args:
        file: The open file.
    """
    size = size_of(file)
    lossy = lossless = False
    parts: list[Part] = []
    others: list[str] = []
    file.seek(4)
    stated = 8 + int.from_bytes(file.read(4), "little")
    at = 12
    while at + 8 <= min(size, stated):
        file.seek(at)
        name, length = struct.unpack("<4sI", file.read(8))
        if name not in _KNOWN:
            others.append(name.decode("latin-1").strip())
        inner = name
        if name == b"ANMF":
            file.seek(at + 8 + _FRAME_HEADER)
            inner = file.read(4)
            if inner == b"ALPH":
                inner = b"VP8 "  # only lossy colours have their transparency apart
        lossy |= inner == b"VP8 "
        lossless |= inner == b"VP8L"
        if at + 8 + length > size:
            return _without_cut(file, parts, name, lossless=lossless and not lossy)
        parts.append((at, min(at + 8 + length + length % 2, size)))
        at += 8 + length + length % 2
    notes = [f"left out of the WebP: {', '.join(dict.fromkeys(others))}"] if others else []
    if at == size + 1:  # the byte after an odd chunk
        file = view(file, [(0, size), b"\0"])
    elif follows := what_follows(file, at):
        notes.append(follows)
    return WebpParts(file, lossless and not lossy, tuple(notes))


def _without_cut(file: BinaryIO, parts: list[Part], name: bytes, *, lossless: bool) -> WebpParts:
    """Leave out metadata that is cut off; a file whose pixels are cut off stays as it is."""
    if name not in (b"EXIF", b"XMP ") or not parts:
        return WebpParts(file, lossless)
    kept: list[Part] = []
    for part in parts:
        start, stop = part
        file.seek(start)
        chunk = file.read(9)
        if chunk[:4] == b"VP8X":
            flags = chunk[8] & ~(_EXIF_FLAG if name == b"EXIF" else _XMP_FLAG)
            kept += [chunk[:8] + bytes([flags]), (start + 9, stop)]
        else:
            kept.append(part)
    length = sum(len(part) if isinstance(part, bytes) else part[1] - part[0] for part in kept)
    header = b"RIFF" + struct.pack("<I", 4 + length) + b"WEBP"
    note = f"the end of the file is missing, and {name.decode().strip()} with it, but no pixel is"
    return WebpParts(view(file, [header, *kept]), lossless, (note,))
