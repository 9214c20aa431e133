"""What a JPEG holds besides pixels, and whether all pixels are there.

Follows ITU-T T.81 for segments, Photoshop's image resources and IPTC-IIM for captions, and CIPA
DC-007 for files of several images.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from anchorsr.images.view import Part, size_of, view

_END = b"\xff\xd9"
# Markers without data: TEM, RST0 to RST7, SOI, EOI.
_ALONE = {0x01, *range(0xD0, 0xDA)}
# Huffman tables, arithmetic conditioning and an extension, among the markers of frame headers.
_NO_FRAMES = (0xC4, 0xC8, 0xCC)
# Within coded pixels FF is followed by 00 or a restart marker; anything else begins a segment.
_NEXT_MARKER = re.compile(rb"\xff+[\x01-\xcf\xd8-\xfe]")
_PHOTOSHOP = b"Photoshop 3.0\0"
_EXIF, _XMP = b"Exif\0", b"http://ns.adobe.com/xap/1.0/\0"
_EXTENDED_XMP = b"http://ns.adobe.com/xmp/extension/\0"
_IPTC, _IPTC_DIGEST, _THUMBNAILS = 0x0404, 0x0425, (0x0409, 0x040C)
# Segments whose content is read elsewhere, or says how the old pixels were stored.
_KNOWN = (b"JFIF\0", b"JFXX\0", b"ICC_PROFILE\0", b"Adobe", b"Ducky", b"MPF\0", _EXIF, _XMP)
_LONGEST_SEGMENT = 65_533
# Bits that follow the last ones of a cut file; pixels that depend on them are missing.
_FILLERS = (b"", b"\x00" * 64, b"\x55" * 64, b"\xaa" * 64)


@dataclass(frozen=True)
class JpegParts:
    """What a JPEG holds besides pixels.

    Attributes:
        iptc: The IPTC-IIM data.
        comment: The comment.
        adobe: Whether Adobe's marker says how colours are stored.
        ended: Whether the end marker is there.
        end: The place of the end marker; the size of the file without one.
        whole_scans: Whether the scans that have begun are all that the pixels need.
        notes: What is left out.
        unusual: The kind of coding, if it is one that libjpeg does not decode to 8 bits.
    """

    iptc: bytes | None
    comment: bytes | None
    adobe: bool
    ended: bool
    end: int
    whole_scans: bool
    notes: tuple[str, ...]
    unusual: str


def read_parts(file: BinaryIO) -> JpegParts:
    """Read the segments of a JPEG.

    Args:
        file: The open file.
    """
    file.seek(0)
    data = file.read()
    iptc = comment = None
    adobe = ended = False
    unusual = ""
    images = 1
    others: list[str] = []
    scans = _Scans()
    end = len(data)
    for marker, start, stop in _segments(data):
        content = data[start:stop]
        if marker == 0xD9:
            ended, end = True, start - 2
            break
        scans.add(marker, content)
        unusual = unusual or _unusual_kind(marker, content)
        if marker == 0xFE:
            comment = content if comment is None else comment + b"\n" + content
        elif marker == 0xED and content.startswith(_PHOTOSHOP):
            resources = dict(_resources(content[len(_PHOTOSHOP) :]))
            iptc = resources.pop(_IPTC, None) or iptc
            if resources.keys() - {_IPTC_DIGEST, *_THUMBNAILS}:
                others.append("Photoshop settings")
        elif marker == 0xE2 and content.startswith(b"MPF\0"):
            images = _image_count(content[4:])
        elif 0xE0 <= marker <= 0xEF:
            adobe |= marker == 0xEE and content.startswith(b"Adobe")
            if content.startswith(_EXTENDED_XMP):
                others.append("extended XMP")
            elif not content.startswith(_KNOWN):
                others.append(_segment_name(marker, content))
    notes = []
    if others:
        notes.append(f"left out of the JPEG: {', '.join(dict.fromkeys(others))}")
    rest = data[end + 2 :].strip(b"\0\r\n \xff\xd9")  # some writers repeat the end marker
    if images > 1:
        notes.append(f"the file holds {images} images; only the first one, the main one, is read")
    elif rest:
        what = "a video (motion photo)" if b"ftyp" in rest[:64] else f"{len(rest)} B"
        notes.append(f"what follows the image is left out: {what}")
    return JpegParts(iptc, comment, adobe, ended, end, scans.are_whole, tuple(notes), unusual)


def completed(file: BinaryIO, size: int) -> list[BinaryIO]:
    """Return a JPEG without its end marker, completed in several ways.

    If it decodes to other pixels in one way than in another, pixels are missing.

    Args:
        file: The open file.
        size: The bytes before the end marker; of a file without one, all.
    """
    ended = size < size_of(file)
    file.seek(0)
    data = file.read(size)
    # A full disk or a broken download can end in zeros.
    kept = size if ended else len(data.rstrip(b"\0"))
    if data[kept - 1 : kept] == b"\xff":
        kept += 1 if kept < size else -1  # FF 00 are pixels, and a single FF half an end marker
    return [view(file, [(0, kept), filler + _END]) for filler in _FILLERS]


def without_metadata(file: BinaryIO) -> BinaryIO:
    """Return a JPEG without the segments that pixels do not need, for those that are damaged."""
    size = size_of(file)
    file.seek(0)
    parts: list[Part] = [b"\xff\xd8"]
    for marker, start, stop in _segments(file.read()):
        if marker == 0xDA:
            parts.append((start - 4, size))
            break
        if marker not in (0xFE, *range(0xE1, 0xEE), 0xEF) and marker not in _ALONE:
            parts.append((start - 4, stop))
    return view(file, parts)


def with_extras(jpeg: bytes, iptc: bytes | None, comment: bytes | None) -> bytes:
    """Add IPTC and a comment to a JPEG, after its other metadata.

    Args:
        jpeg: The file.
        iptc: IPTC-IIM data of at most `longest_iptc` bytes.
        comment: At most 65,533 bytes.
    """
    added = b""
    if iptc is not None:
        resource = b"8BIM" + struct.pack(">HHI", _IPTC, 0, len(iptc)) + iptc + bytes(len(iptc) % 2)
        added += _segment(0xED, _PHOTOSHOP + resource)
    if comment is not None:
        added += _segment(0xFE, comment)
    if not added:
        return jpeg
    place = next(start - 4 for marker, start, _ in _segments(jpeg) if not 0xE0 <= marker <= 0xEF)
    return jpeg[:place] + added + jpeg[place:]


def scan_of(jpeg: bytes) -> tuple[bytes, bytes]:
    """Split a JPEG of one scan into what stands before the coded pixels, and these."""
    start = next(stop for marker, _, stop in _segments(jpeg) if marker == 0xDA)
    return jpeg[:start], jpeg[start : -len(_END)]


def with_height(header: bytes, height: int) -> bytes:
    """Set the height that the frame header of a JPEG states."""
    start = next(start for marker, start, _ in _segments(header) if marker == 0xC0)
    return header[: start + 1] + struct.pack(">H", height) + header[start + 3 :]


LONGEST_IPTC = _LONGEST_SEGMENT - len(_PHOTOSHOP) - 13
LONGEST_COMMENT = _LONGEST_SEGMENT


def iptc_of_resources(resources: bytes) -> bytes | None:
    """Return the IPTC-IIM data among Photoshop's image resources, if any."""
    return dict(_resources(resources)).get(_IPTC)


def _unusual_kind(marker: int, content: bytes) -> str:
    """Name the kind of coding that a frame header states, if it is an unusual one."""
    if marker == 0xF7:
        return "JPEG-LS"
    if not 0xC0 <= marker <= 0xCF or marker in _NO_FRAMES or not content:
        return ""
    if marker in (0xC3, 0xCB):
        return "a lossless JPEG"
    if marker in (0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF):
        return "a hierarchical JPEG"
    return "" if content[0] == 8 else f"a {content[0]}-bit JPEG"


class _Scans:
    """Which coefficients the scans of a progressive JPEG have brought to full precision."""

    def __init__(self) -> None:
        self._progressive = False
        self._components: list[int] = []
        self._bits: dict[int, list[int | None]] = {}

    def add(self, marker: int, content: bytes) -> None:
        if marker in (*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC)) and content:
            self._progressive = marker in (0xC2, 0xC6, 0xCA)
            self._components = list(content[6::3][: content[5]]) if len(content) > 5 else []
            self._bits = {each: [None] * 64 for each in self._components}
        elif marker == 0xDA and content:
            count = content[0]
            named = content[1 : 1 + 2 * count : 2]
            tail = content[1 + 2 * count : 4 + 2 * count]
            if len(tail) == 3:
                first, last, low = tail[0], min(tail[1], 63), tail[2] & 15
                for each in named:
                    if each in self._bits:
                        spectrum = range(first, last + 1) if self._progressive else range(64)
                        for place in spectrum:
                            self._bits[each][place] = low if self._progressive else 0

    @property
    def are_whole(self) -> bool:
        return bool(self._bits) and all(
            bit == 0 for spectrum in self._bits.values() for bit in spectrum
        )


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield the marker of each segment, and the start and stop of its content."""
    at = 2
    while (match := _NEXT_MARKER.search(data, at)) is not None:
        marker, at = data[match.end() - 1], match.end()
        if marker in _ALONE:
            yield marker, at, at
            if marker == 0xD9:
                return
            continue
        if at + 2 > len(data):
            return
        stop = at + int.from_bytes(data[at : at + 2])
        yield marker, at + 2, min(stop, len(data))
        at = stop


def _segment(marker: int, content: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", 2 + len(content)) + content


def _segment_name(marker: int, content: bytes) -> str:
    name = re.match(rb"[\x20-\x7e]{2,20}", content)
    if marker == 0xEB and b"jumb" in content[:32]:
        return "content credentials (C2PA)"
    return f"APP{marker - 0xE0}" + (f" {name[0].decode().strip()!r}" if name else "")


def _resources(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the number and content of each of Photoshop's image resources."""
    at = 0
    while data[at : at + 4] == b"8BIM" and at + 12 <= len(data):
        (number,) = struct.unpack_from(">H", data, at + 4)
        name = 1 + data[at + 6]
        at += 6 + name + name % 2
        if at + 4 > len(data):
            return
        (length,) = struct.unpack_from(">I", data, at)
        content = data[at + 4 : at + 4 + length]
        if length and len(content) == length:
            yield number, content
        at += 4 + length + length % 2


def _image_count(index: bytes) -> int:
    """Return the number of images that a multi-picture index states (CIPA DC-007, 5.2.3)."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(index[:4])
    try:
        if order is not None:
            (at,) = struct.unpack_from(order + "I", index, 4)
            (count,) = struct.unpack_from(order + "H", index, at)
            for place in range(at + 2, at + 2 + 12 * min(count, 100), 12):
                tag, _, _, value = struct.unpack_from(order + "HHII", index, place)
                if tag == 0xB001:
                    return int(value)
    except struct.error:
        pass
    return 1
