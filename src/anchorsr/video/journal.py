"""The encoded frames of an unfinished video, from which the same command goes on.

Frames are encoded in segments of `SEGMENT` frames, each by an encoder of its own. So a segment does
not depend on the others, and a video made in several runs has the frames of one made in a single
run. The journal is a file beside the output. It says what the video is made of and with which
options, and holds every whole segment. A segment that was cut off by a kill or a power failure is
dropped when the journal is opened. It is deleted when the video is complete.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anchorsr.errors import OutputError
from anchorsr.utils.files import reason

# As many frames as the longest group of pictures of x264 and x265.
SEGMENT = 250

_MAGIC = b"anchorsr video in progress, version 1\n"
_HEAD = struct.Struct("<4sIQI")  # _MARK, number of packets, bytes of all, CRC-32 of them
_PACKET = struct.Struct("<qqqI?")  # pts, dts, duration, bytes, keyframe
_MARK = b"SEGM"
_MOST_SETTINGS = 2**16


@dataclass(frozen=True)
class EncodedPacket:
    """An encoded frame, with times in the time base of the source."""

    pts: int
    dts: int
    duration: int
    is_keyframe: bool
    data: bytes


class Journal:
    """The journal of one output; it is made if there is none.

    Args:
        path: The journal's file.
        settings: Whatever the encoded frames depend on, as JSON has it, by a name for people.
        restart: Whether to start over where a journal has other settings.

    Attributes:
        frames: Number of frames in the whole segments.

    Raises:
        OutputError: The journal has other settings, or cannot be read or written.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], *, restart: bool) -> None:
        self.path = path
        self._places: list[int] = []
        written = json.loads(json.dumps(settings))
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0)
        flags |= getattr(os, "O_BINARY", 0)
        try:
            self._file = io.FileIO(os.open(path, flags, 0o666), "r+b")
            found = _read_settings(self._file)
            if found == written:
                self._find_segments()
                return
            if found and not restart:
                names = [name for name in written if written[name] != found.get(name)]
                self._file.close()
                raise OutputError(
                    f"{path} is of an earlier run with another {' and another '.join(names)}:"
                    " repeat its options to go on, or start over with --force"
                )
            self._file.seek(0)
            self._file.truncate()
            self._write(_MAGIC + json.dumps(settings).encode() + b"\n")
            self._end = self._file.tell()
        except OSError as error:
            if hasattr(self, "_file"):
                self._file.close()
            raise OutputError(f"{path} cannot be written ({reason(error)})") from error

    @property
    def frames(self) -> int:
        """See the class."""
        return SEGMENT * len(self._places)

    def read(self, segment: int) -> list[EncodedPacket]:
        """Return the packets of a segment, in the order in which they are decoded."""
        self._file.seek(self._places[segment])
        return _read_segment(self._file) or []

    def append(self, packets: Sequence[EncodedPacket]) -> None:
        """Add a segment.

        Raises:
            OSError: It cannot be written; the journal then ends with the segment before.
        """
        parts = []
        for each in packets:
            size = len(each.data)
            parts += [_PACKET.pack(each.pts, each.dts, each.duration, size, each.is_keyframe)]
            parts += [each.data]
        content = b"".join(parts)
        head = _HEAD.pack(_MARK, len(packets), len(content), zlib.crc32(content))
        self._file.seek(self._end)
        try:
            self._write(head + content)
        except OSError:
            with contextlib.suppress(OSError):
                self._file.truncate(self._end)
            raise
        self._places.append(self._end)
        self._end = self._file.tell()

    def close(self) -> None:
        """Close the file; the next run goes on from it."""
        self._file.close()

    def remove(self) -> None:
        """Close and delete the file."""
        self._file.close()
        with contextlib.suppress(OSError):
            self.path.unlink()

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]

    def _find_segments(self) -> None:
        while True:
            place = self._file.tell()
            if _read_segment(self._file) is None:
                break
            self._places.append(place)
        self._file.truncate(place)
        self._end = place


def is_journal(path: Path) -> bool:
    """Return whether a file is a journal."""
    try:
        with path.open("rb", buffering=0) as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except (OSError, ValueError):
        return False


def _read_settings(file: io.FileIO) -> dict[str, Any] | None:
    """Read the settings; None in a new or torn file. Another file than a journal is an error."""
    start = file.read(len(_MAGIC)) or b""
    if not _MAGIC.startswith(start):
        raise FileExistsError(0, "it is another file: move it away")
    line = file.read(_MOST_SETTINGS) or b""
    text, end, _ = line.partition(b"\n")
    if not end:
        return None
    file.seek(len(start) + len(text) + 1)
    try:
        settings = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return settings if isinstance(settings, dict) else None


def _read_segment(file: io.FileIO) -> list[EncodedPacket] | None:
    """Read the segment at the present position; None if it is not whole."""
    head = file.read(_HEAD.size) or b""
    if len(head) < _HEAD.size:
        return None
    mark, count, size, checksum = _HEAD.unpack(head)
    left = os.fstat(file.fileno()).st_size - file.tell()
    if mark != _MARK or size > left:
        return None
    content = _read(file, size)
    if len(content) != size or zlib.crc32(content) != checksum:
        return None
    packets, place = [], 0
    for _ in range(count):
        if place + _PACKET.size > size:
            return None
        pts, dts, duration, length, is_keyframe = _PACKET.unpack_from(content, place)
        place += _PACKET.size
        data = content[place : place + length]
        packets.append(EncodedPacket(pts, dts, duration, is_keyframe, data))
        place += length
    return packets


def _read(file: io.FileIO, size: int) -> bytes:
    parts = []
    while size and (part := file.read(size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
