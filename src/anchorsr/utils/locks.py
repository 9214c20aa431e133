"""Which run makes which file, when several run at the same time: advisory locks of the system.

A claim is an empty hidden file beside the output, locked while the output is made and removed
afterwards. The system gives up the lock when a process ends, however it ends; a file that a
killed process left is taken over by the next run. Without `flock` (Windows, some network
drives) every claim is granted: `files.publish` alone then sees to it that no file is torn.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path
from types import TracebackType

from anchorsr.errors import OutputError
from anchorsr.utils.files import reason

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


class Claims:
    """The outputs that this run is making. Those that are left are given up at the end."""

    def __init__(self) -> None:
        self._held: dict[Path, tuple[int, Path]] = {}

    def __enter__(self) -> Claims:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for target in list(self._held):
            self.give_up(target)

    def take(self, target: Path) -> bool:
        """Claim an output in a folder that exists; False if another run has it.

        Raises OutputError where nothing can be written.
        """
        if fcntl is None:
            return True
        # The name is hashed: it stays short, and no two are cut to the same.
        name = hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16]
        path = target.with_name(f".anchorsr-{name}.lock")
        while True:
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            except OSError as error:
                raise OutputError(f"{target} cannot be written ({reason(error)})") from error
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                return False
            except OSError:  # no locks here
                os.close(descriptor)
                _remove(path)
                return True
            if _same_file(descriptor, path):
                self._held[target] = descriptor, path
                return True
            os.close(descriptor)  # removed by its owner between our two calls

    def give_up(self, target: Path) -> None:
        """Let others have it. Nothing happens for what is not claimed."""
        descriptor, path = self._held.pop(target, (None, None))
        if descriptor is not None and path is not None:
            _remove(path)  # first, while nobody else can have locked it
            os.close(descriptor)


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
