"""The files beside a video that is in progress: what it is written to, and its journal."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from anchorsr.errors import OutputError
from anchorsr.utils.files import is_same_file, move_into_place, reason
from anchorsr.utils.locks import FileLocks
from anchorsr.utils.signals import delayed_interrupts
from anchorsr.utils.temporary import remove_leftovers
from anchorsr.video.journal import Journal, is_journal


@dataclass(frozen=True)
class WorkFiles:
    """The names of the files in progress of an output.

    Attributes:
        target: The output.
    """

    target: Path

    @property
    def part(self) -> Path:
        """The file that is renamed to the output when it is complete."""
        return self.target.with_name(f"{self.target.stem}.part{self.target.suffix}")

    @property
    def resume(self) -> Path:
        """The journal."""
        return self.target.with_name(f"{self.target.name}.resume")

    @property
    def aside(self) -> Path:
        """An earlier `.part` file, until there is something to put in its place."""
        return self.part.with_name(f".{self.part.name[:60]}.earlier.tmp")

    @property
    def finished(self) -> Path:
        """The journal, from when the `.part` file is complete."""
        return self.target.with_name(f".{self.target.name[:60]}.finished.tmp")


def publish_video(files: WorkFiles, *, overwrite: bool) -> None:
    """Give the complete `.part` file the name of the output, and delete the journal.

    Raises:
        OutputError: The output exists and `overwrite` is false, or cannot be written.
    """
    try:
        with delayed_interrupts():  # one between two of these would leave files that nobody removes
            files.resume.rename(files.finished)
            try:
                move_into_place(files.part, files.target, overwrite=overwrite)
            except BaseException:
                files.finished.rename(files.resume)
                raise
            files.finished.unlink()
    except OSError as error:
        raise OutputError(f"{files.target} cannot be written ({reason(error)})") from error


def remove_finished(target: Path) -> None:
    """Remove what a process that was killed in `publish_video` left beside a finished video.

    If the video has not got its name yet, its journal gets its own name back.
    """
    files = WorkFiles(target)
    remove_leftovers(target)
    if not os.path.lexists(files.finished):
        return
    with FileLocks() as locks:
        if not locks.acquire(target):
            return
        if is_same_file(files.part, target):  # it has both names
            files.part.unlink()
        if os.path.lexists(files.part):
            files.finished.replace(files.resume)
        else:
            files.finished.unlink(missing_ok=True)


@contextlib.contextmanager
def prepared(
    files: WorkFiles, settings: Mapping[str, object], *, overwrite: bool
) -> Iterator[Journal]:
    """Open the journal, and move an earlier `.part` file away.

    The file is deleted after the block, or put back on an error. It is known to be of an earlier
    run by the journal beside it; another one is replaced only if `overwrite` is set.

    Args:
        files: Where they are.
        settings: As for `Journal`.
        overwrite: Whether to start over where the journal has other settings.

    Yields:
        The journal, which is closed again if the block fails.

    Raises:
        OutputError: There is a `.part` file of another origin, or as for `Journal`.
    """
    part, resume = files.part, files.resume
    is_ours = is_journal(resume)
    if os.path.lexists(part):
        if not is_ours and not overwrite:
            raise OutputError(
                f"{part} exists and is of no earlier run that could go on: move or delete it, or"
                " replace it with --force"
            )
        if part.is_dir():
            raise OutputError(f"{part} is a folder: move it away")
    journal = Journal(resume, settings, restart=overwrite)
    try:
        with _set_aside(files):
            yield journal
    except BaseException:
        if journal.frames or is_ours:
            journal.close()
        else:
            journal.remove()
        raise


@contextlib.contextmanager
def _set_aside(files: WorkFiles) -> Iterator[None]:
    """Move a file away; delete it after the block, or put it back on an error."""
    part, aside = files.part, files.aside
    try:
        if os.path.lexists(aside):  # the process was killed in the block
            aside.replace(part)
        moved = os.path.lexists(part)
        if moved:
            part.rename(aside)
    except OSError as error:
        raise OutputError(f"{part} cannot be moved out of the way: {reason(error)}") from error
    try:
        yield
    except BaseException:
        if moved:
            aside.rename(part)
        raise
    if moved:
        aside.unlink()
