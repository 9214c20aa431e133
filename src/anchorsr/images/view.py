"""A file made of parts of another one, without copying it.

With it, a decoder sees an image without what stands before it, without what it could stumble over,
and with an end mark that is missing.
"""

from __future__ import annotations

import bisect
import io
import itertools
import os
from collections.abc import Sequence
from typing import Any, BinaryIO, cast

# Bytes that programs fill files up with, and how many are looked at.
_PADDING = b"\0\r\n\t "
_LOOKED_AT = 1 << 20

Part = bytes | tuple[int, int]  # bytes, or (start, stop) in the file


def view(file: BinaryIO, parts: Sequence[Part]) -> BinaryIO:
    """Return a file, open for reading, that consists of parts of another.

    Args:
        file: What the parts are of. Its position changes as the view is read.
        parts: Bytes, and (start, stop) of a file.
    """
    return cast(BinaryIO, io.BufferedReader(_View(file, parts), buffer_size=1 << 16))


def size_of(file: BinaryIO) -> int:
    """Return the bytes of an open file."""
    return file.seek(0, os.SEEK_END)


def what_follows(file: BinaryIO, end: int) -> str:
    """Return a note on what stands behind an image in its file; empty if that is only padding."""
    file.seek(end)
    rest = file.read(_LOOKED_AT)
    count = size_of(file) - end
    return "" if not rest.strip(_PADDING) else f"what follows the image is left out: {count} B"


class _View(io.RawIOBase):
    def __init__(self, file: BinaryIO, parts: Sequence[Part]) -> None:
        self._file, self._at = file, 0
        self._parts: list[Part] = []
        for part in parts:
            last = self._parts[-1] if self._parts else b""
            if isinstance(part, tuple) and isinstance(last, tuple) and last[1] == part[0]:
                self._parts[-1] = (last[0], part[1])  # a PNG has tens of thousands of chunks
            else:
                self._parts.append(part)
        lengths = (len(p) if isinstance(p, bytes) else p[1] - p[0] for p in self._parts)
        self._ends = list(itertools.accumulate(lengths))
        self._size = self._ends[-1] if self._ends else 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        index = bisect.bisect_right(self._ends, self._at)
        if index == len(self._ends):
            return 0
        part, end = self._parts[index], self._ends[index]
        within = self._at - (self._ends[index - 1] if index else 0)
        wanted = min(len(buffer), end - self._at)
        if isinstance(part, bytes):
            data = part[within : within + wanted]
        else:
            self._file.seek(part[0] + within)
            data = self._file.read(wanted)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
