"""A file that can be finished even when the disk is full."""

from __future__ import annotations

import errno
import io
import os
import tempfile
from pathlib import Path
from typing import Any

from anchorsr.errors import OutputError
from anchorsr.utils.files import reason

FULL = (errno.ENOSPC, errno.EDQUOT)

# Bytes for the index of a file and the frames still in the encoder: 100,000 frames and their sound
# have an index of 4 MB.
_RESERVE = 16 * 2**20


class OutputFile(io.RawIOBase):
    """A new file that frees reserved space, and sets `full`, once the disk is full.

    Args:
        path: The file, which must not exist.

    Attributes:
        full: Whether the reserved space is in use; the file should be finished now.

    Raises:
        OutputError: The file cannot be made, or there is no space even for the reserve.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.full = False
        self._abandoned = False
        self._reserve: Any = None
        try:
            self._file = io.FileIO(path, "xb")
        except OSError as error:
            raise OutputError(f"{path} cannot be written ({reason(error)})") from error
        try:
            self._reserve = tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115 (kept open)
            for _ in range(_RESERVE // 2**20):
                self._reserve.write(bytes(2**20))
            self._reserve.flush()
        except OSError as error:
            self._file.close()
            path.unlink()
            raise OutputError(
                f"{path.parent} has no space for a video ({reason(error)}): free some space, or "
                f"write to another disk"
            ) from error

    def write(self, data: Any) -> int:
        """Write all bytes, with the reserved space if need be; returns how many."""
        view = memoryview(data)
        while view and not self._abandoned:
            try:
                view = view[self._file.write(view) :]
            except OSError as error:
                if self.full or error.errno not in FULL:
                    raise
                self.free_reserve()
        return len(data)

    def free_reserve(self) -> None:
        """Set `full`, and free the reserved space."""
        self.full = True
        self._reserve.close()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position; returns it."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return the position."""
        return self._file.tell()

    def writable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def abandon(self) -> None:
        """Drop everything that is still written."""
        self._abandoned = True

    def close(self) -> None:
        """Close the file, and free the reserved space."""
        super().close()
        if self._reserve is not None:
            self._reserve.close()
        self._file.close()
