"""Output files that appear whole or not at all, and never over another unless that is asked for."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from anchorsr.errors import OutputError


def check_free(path: Path, *, overwrite: bool) -> None:
    """Raise OutputError unless a file may be written as `path`, before work is spent on it."""
    try:
        if path.is_dir():
            raise OutputError(f"{path} is a folder; give a file name")
        if not path.parent.is_dir():
            raise OutputError(f"{path.parent} is not an existing folder; create it first")
        if not overwrite and os.path.lexists(path):
            raise _exists(path)
    except (OSError, ValueError) as error:
        raise OutputError(f"{path} cannot be written ({reason(error)})") from error


def check_not_input(output: Path, inputs: Iterable[Path]) -> None:
    """Raise OutputError for an output that is one of the inputs, through links too."""
    if any(is_same_file(path, output) for path in inputs):
        raise OutputError(f"{output} is an input: write to another name")


def is_same_file(one: Path, other: Path) -> bool:
    """Whether two names are of one file, through links too; they need not be there."""
    if os.path.realpath(one) == os.path.realpath(other):  # resolve() fails on a loop of links
        return True
    with contextlib.suppress(OSError, ValueError):
        return os.path.samefile(one, other)
    return False


def check_folder(folder: Path) -> None:
    """Raise OutputError unless the folder is there, or can be made, and may be written in."""
    there = next(p for p in (folder, *folder.absolute().parents) if os.path.lexists(p))
    if not there.is_dir():
        raise OutputError(f"{there} is not a folder: give another name for the output")
    if not os.access(there, os.W_OK | os.X_OK):
        raise OutputError(f"{there} may not be written in: give another folder for the output")


def make_folder(folder: Path) -> None:
    """Make the folder and those above it, where they are missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"the folder {folder} cannot be made: {reason(error)}") from error


def publish(data: bytes, path: Path, *, overwrite: bool) -> None:
    """Write beside `path`, then move into place; nothing is left behind on failure.

    Raises OutputError for an existing file unless `overwrite`, and for whatever prevents writing.
    """
    with publishing(path, overwrite=overwrite) as file:
        file.write(data)


@contextlib.contextmanager
def publishing(path: Path, *, overwrite: bool) -> Iterator[BinaryIO]:
    """The same for what is written bit by bit: a file that takes its name when the block ends
    well, and is deleted when it does not."""
    check_free(path, overwrite=overwrite)
    # 60 characters are at most 240 bytes: the name stays within the usual 255.
    temporary = path.with_name(f".{path.name[:60]}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
        move_into_place(temporary, path, overwrite=overwrite)
    except (OSError, ValueError) as error:
        raise OutputError(f"{path} cannot be written ({reason(error)})") from error
    finally:
        with contextlib.suppress(OSError, ValueError):
            temporary.unlink()


def move_into_place(finished: Path, path: Path, *, overwrite: bool) -> None:
    """Give a finished file its final name. Raises OutputError as `publish` does."""
    try:
        if overwrite:
            os.replace(finished, path)
        else:
            _move_to_free_name(finished, path)
            finished.unlink(missing_ok=True)
    except (OSError, ValueError) as error:
        raise OutputError(f"{path} cannot be written ({reason(error)})") from error


def reason(error: BaseException) -> str:
    """What an exception says, on one line; its name if it says nothing."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__


def _exists(path: Path) -> OutputError:
    return OutputError(f"{path} exists already; choose another name or allow overwriting")


def _move_to_free_name(temporary: Path, path: Path) -> None:
    """Give a finished file its name, which nobody else may have taken meanwhile."""
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
