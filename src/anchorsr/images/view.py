"""A file made of parts of another one, without copying it.

With it, a decoder sees an image without what stands before it, without what it could stumble over,
and with an end mark that is missing.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from typing import Any, BinaryIO, cast

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


class _View(io.RawIOBase):
    def __init__(self, file: BinaryIO, parts: Sequence[Part]) -> None:
        self._file, self._at = file, 0
        self._parts: list[tuple[int, Part]] = []  # with the place where each one ends
        end = 0
        for part in parts:
            end += len(part) if isinstance(part, bytes) else part[1] - part[0]
            self._parts.append((end, part))
        self._size = end

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        start = 0
        for end, part in self._parts:
            if self._at < end:
                within = self._at - start
                wanted = min(len(buffer), end - self._at)
                if isinstance(part, bytes):
                    data = part[within : within + wanted]
                else:
                    self._file.seek(part[0] + within)
                    data = self._file.read(wanted)
                buffer[: len(data)] = data
                self._at += len(data)
                return len(data)
            start = end
        return 0
