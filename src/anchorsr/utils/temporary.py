"""Temporary files and folders that do not outlive the next run, however the process ends.

Each is locked with `flock` as long as its process uses it, and the system releases the lock when
the process ends. So one that is not locked was left by a process that was killed, and is removed.
Where there is no `flock` (Windows, some network drives), names are random and nothing is removed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

# Processes that may write one output at once, under numbered names; further ones get random names.
_NUMBERS = 4
_FOLDER = "anchorsr-tmp-"
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)


@contextlib.contextmanager
def temporary_beside(path: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """Create a temporary file in the folder of an output, and delete it after the block.

    It stays locked until then, also once the file object is closed.

    Args:
        path: The output.

    Yields:
        The name of the temporary file, and the file, open for writing.

    Raises:
        OSError: It cannot be created.
    """
    name, lock = _create(path)
    try:
        yield name, os.fdopen(os.dup(lock), "wb")
    finally:
        with contextlib.suppress(OSError, ValueError):
            if is_open_as(lock, name):  # else it was moved, and the name can be another's by now
                name.unlink()
        os.close(lock)


def lock_name(path: Path) -> Path:
    """Return the name of an output's lock file (`utils.locks`)."""
    # Hashed, so that long names stay short and distinct.
    digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
    return path.with_name(f".anchorsr-{digest}.lock")


def remove_leftovers(path: Path) -> None:
    """Remove what a killed process has left beside an output: temporary files and the lock.

    Whatever another process is using stays.
    """
    for name in (lock_name(path), *(_numbered(path, number) for number in range(_NUMBERS))):
        if os.path.lexists(name):
            remove_stale(name)


def remove_stale(path: Path) -> bool:
    """Remove a file unless a process has it locked; returns whether it is gone."""
    if fcntl is None:
        return False
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | _NO_FOLLOW)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if is_open_as(descriptor, path):
            path.unlink()
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """Make a folder among the system's temporary files, and delete it after the block."""
    _remove_stale_folders()
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_FOLDER))
        lock = None
        if fcntl is None:
            break
        try:
            lock = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:  # another process took it for a leftover, before it was locked
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if is_open_as(lock, folder):
                break
        except BlockingIOError:  # another process takes it for a leftover
            pass
        except OSError:  # this file system has no locks
            break
        os.close(lock)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def is_open_as(descriptor: int, path: Path) -> bool:
    """Return whether an open file still has this name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def _create(path: Path) -> tuple[Path, int]:
    """Create and lock a file beside a path; returns its name and a descriptor."""
    number = 0
    while fcntl is not None and number < _NUMBERS:
        name = _numbered(path, number)
        try:
            descriptor = _create_new(name)
        except FileExistsError:
            # Never written to: it can be a second name of a finished output.
            number += not remove_stale(name)
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if is_open_as(descriptor, name):
                return name, descriptor
        except BlockingIOError:  # another process takes it for a leftover
            pass
        except OSError:  # this file system has no locks
            os.close(descriptor)
            name.unlink(missing_ok=True)
            break
        os.close(descriptor)
    name = _numbered(path, secrets.token_hex(4))
    return name, _create_new(name)


def _create_new(name: Path) -> int:
    binary = getattr(os, "O_BINARY", 0)
    return os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | binary, 0o666)


def _numbered(path: Path, number: int | str) -> Path:
    # 60 characters are at most 240 bytes, so the name stays within the usual 255.
    return path.with_name(f".{path.name[:60]}.{number}.tmp")


def _remove_stale_folders() -> None:
    if fcntl is None:
        return
    with contextlib.suppress(OSError), os.scandir(tempfile.gettempdir()) as entries:
        for entry in entries:
            if not entry.name.startswith(_FOLDER) or not entry.is_dir(follow_symlinks=False):
                continue
            with contextlib.suppress(OSError):
                if entry.stat(follow_symlinks=False).st_uid == os.getuid():
                    _remove_stale_folder(entry.path)


def _remove_stale_folder(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | _NO_FOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(descriptor)
