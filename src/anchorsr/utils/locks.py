"""Advisory locks on outputs, so that processes running at the same time share the work.

A lock is an empty hidden file beside the output, locked with `flock` while the output is made and
removed afterwards. The system releases it when the process ends, however it ends; the file that a
killed process leaves is reused or removed by the next one. Without `flock` (Windows, some network
drives) every lock is granted; files are still written atomically.
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from types import TracebackType

from anchorsr.errors import OutputError
from anchorsr.utils.files import reason
from anchorsr.utils.temporary import is_open_as, lock_name

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


# A link in the place of a lock could lead to any file, which would be made, or removed later.
_FLAGS = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)


class FileLocks:
    """The locks that this process holds. As a context manager, it releases them at the end."""

    def __init__(self) -> None:
        self._held: dict[Path, tuple[int, Path]] = {}

    def __enter__(self) -> FileLocks:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for target in list(self._held):
            self.release(target)

    def acquire(self, target: Path) -> bool:
        """Lock an output, without waiting.

        Args:
            target: The output, in an existing folder.

        Returns:
            False if another process holds the lock.

        Raises:
            OutputError: If nothing can be written there.
        """
        if fcntl is None:
            return True
        path = lock_name(target)
        while True:
            try:
                descriptor = os.open(path, _FLAGS, 0o666)
            except OSError as error:
                if error.errno == errno.ELOOP:
                    raise OutputError(
                        f"{path} is a link in the place of a lock: remove it"
                    ) from error
                raise OutputError(f"{target} cannot be written ({reason(error)})") from error
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                return False
            except OSError:  # this file system has no locks
                os.close(descriptor)
                _remove(path)
                return True
            if is_open_as(descriptor, path):
                self._held[target] = descriptor, path
                return True
            os.close(descriptor)  # removed by its holder between our two calls

    def release(self, target: Path) -> None:
        """Release the lock on an output, if this process holds it."""
        descriptor, path = self._held.pop(target, (None, None))
        if descriptor is not None and path is not None:
            _remove(path)  # first, while nobody else can hold it
            os.close(descriptor)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
