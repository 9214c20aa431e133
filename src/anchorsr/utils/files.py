"""Write files atomically: they appear complete, and never replace another unless asked to."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from anchorsr.errors import OutputError
from anchorsr.utils.temporary import remove_leftovers, temporary_beside


def check_free(path: Path, *, overwrite: bool) -> None:
    """Check, before any work is done, that a file may be written.

    Temporary files that a killed process left beside it are removed.

    Args:
        path: The file.
        overwrite: Whether it may replace an existing file.

    Raises:
        OutputError: If it may not.
    """
    try:
        if path.is_dir():
            raise OutputError(f"{path} is a folder; give a file name")
        if not path.parent.is_dir():
            raise OutputError(f"{path.parent} is not an existing folder; create it first")
        remove_leftovers(path)
        if not overwrite and os.path.lexists(path):
            raise _exists(path)
    except (OSError, ValueError) as error:
        raise OutputError(f"{path} cannot be written ({reason(error)})") from error


@contextlib.contextmanager
def input_first(read: Callable[[], object]) -> Iterator[None]:
    """Inside, check an output: what is wrong with the input is told before what is wrong with it.

    Args:
        read: Reads as much of the input as shows whether it can be used. It is called only if the
            output cannot be written.
    """
    try:
        yield
    except OutputError:
        read()
        raise


def check_not_input(output: Path, inputs: Iterable[Path]) -> None:
    """Raise OutputError if the output is one of the inputs, links included."""
    if any(is_same_file(path, output) for path in inputs):
        raise OutputError(f"{output} is an input: write to another name")


def is_same_file(one: Path, other: Path) -> bool:
    """Return whether two paths lead to one file, links included; it need not exist."""
    if os.path.realpath(one) == os.path.realpath(other):  # resolve() fails on a loop of links
        return True
    with contextlib.suppress(OSError, ValueError):
        return os.path.samefile(one, other)
    return False


def file_key(path: Path) -> tuple[int, int] | None:
    """Return a key that is equal for all paths to one file or folder; None if there is none."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def check_folder(folder: Path) -> None:
    """Raise OutputError unless the folder exists, or can be made, and is writable."""
    there = next(p for p in (folder, *folder.absolute().parents) if os.path.lexists(p))
    if not there.is_dir():
        raise OutputError(f"{there} is not a folder: give another name for the output")
    if not os.access(there, os.W_OK | os.X_OK):
        raise OutputError(f"{there} is not writable: give another folder for the output")


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, unless they exist.

    Raises:
        OutputError: If that fails.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"the folder {folder} cannot be made: {reason(error)}") from error


def publish(data: bytes, path: Path, *, overwrite: bool) -> None:
    """Write a file atomically.

    Args:
        data: Its contents.
        path: The file; its folder must exist.
        overwrite: Replace an existing file.

    Raises:
        OutputError: If the file exists and `overwrite` is false, or cannot be written.
    """
    with publishing(path, overwrite=overwrite) as file:
        file.write(data)


@contextlib.contextmanager
def publishing(path: Path, *, overwrite: bool) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path` that becomes `path` if the block succeeds.

    It has the permissions of the file that it replaces, and is deleted if the block fails. Whether
    `path` is free is checked before the block, and again when the file is moved.

    Args:
        path: The file; its folder must exist.
        overwrite: Replace an existing file.

    Yields:
        The temporary file, open for writing.

    Raises:
        OutputError: If the file exists and `overwrite` is false, or cannot be written.
    """
    check_free(path, overwrite=overwrite)
    try:
        with temporary_beside(path) as (temporary, file):
            with file:
                yield file
            _take_mode(path, temporary)
            move_into_place(temporary, path, overwrite=overwrite)
    except (OSError, ValueError) as error:
        raise OutputError(f"{path} cannot be written ({reason(error)})") from error


def _take_mode(old: Path, new: Path) -> None:
    """Give a new file the permissions of the one that it replaces, if there is one."""
    with contextlib.suppress(FileNotFoundError, NotImplementedError):
        new.chmod(stat.S_IMODE(old.stat().st_mode))


def move_into_place(finished: Path, path: Path, *, overwrite: bool) -> None:
    """Give a finished file its final name.

    Args:
        finished: The file, in the folder of `path`.
        path: Its final name.
        overwrite: Replace an existing file.

    Raises:
        OutputError: As `publish` does.
    """
    try:
        if overwrite:
            os.replace(finished, path)
        else:
            _move_to_free_name(finished, path)
            finished.unlink(missing_ok=True)
    except (OSError, ValueError) as error:
        raise OutputError(f"{path} cannot be written ({reason(error)})") from error


def reason(error: BaseException) -> str:
    """Return an exception's message as one line, or its name if it has none."""
    told = getattr(error, "strerror", None)  # of the system, and of FFmpeg
    text = told if isinstance(told, str) and told else str(error)
    return " ".join(text.split()) or type(error).__name__


def _exists(path: Path) -> OutputError:
    return OutputError(
        f"{path} exists already: choose another name, or replace it with --force"
        f" (overwrite=True in Python)"
    )


def _move_to_free_name(temporary: Path, path: Path) -> None:
    """Rename without replacing a file that has appeared meanwhile."""
    try:
        os.link(temporary, path)
        return
    except FileExistsError:
        raise _exists(path) from None
    except (OSError, AttributeError):
        pass  # no hard links on this file system or platform
    try:
        path.open("xb").close()
    except FileExistsError:
        raise _exists(path) from None
    try:
        os.replace(temporary, path)
    except BaseException:
        path.unlink()
        raise


def cannot_read(error: BaseException) -> str:
    """Say what is wrong with a file that cannot be read; the file's name goes before it."""
    if isinstance(error, FileNotFoundError):
        return "does not exist"
    if isinstance(error, IsADirectoryError):
        return "is a folder; give a file"
    if isinstance(error, PermissionError):
        return f"cannot be read ({reason(error)}): check its permissions"
    return f"cannot be read ({reason(error)})"
