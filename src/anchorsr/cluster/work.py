"""A worker: reads images from where they are, upscales them, and puts the results where they go.

The way through an image is that of the command `upscale` (`inference.pipeline`), so the results
have the same bytes. What is in an object store passes through temporary files: while one image is
in the network, the next ones are fetched and the last ones are put in place.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from anchorsr.cluster.addresses import Address, parse_address
from anchorsr.cluster.rows import Row, Status, Task
from anchorsr.cluster.settings import Settings
from anchorsr.cluster.stores import fetch, size_of, upload
from anchorsr.errors import AnchorSRError, DataError, StoreError
from anchorsr.inference.batch import Job
from anchorsr.inference.books import is_book_name
from anchorsr.inference.image_upscaler import ImageUpscaler
from anchorsr.inference.pipeline import JobResult, upscale_files
from anchorsr.utils.files import reason
from anchorsr.utils.temporary import temporary_folder

# Images fetched ahead, and results on their way, for each worker.
_AHEAD = 3
_BEHIND = 4
# What is wrong with a machine or a store, and not with an image.
_OF_THE_MACHINE = {
    errno.EACCES, errno.EAGAIN, errno.EBUSY, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE,
    errno.ENODEV, errno.ENOENT, errno.ENOMEM, errno.ENOSPC, errno.ENXIO, errno.EPERM, errno.EROFS,
    errno.ESTALE, errno.ETIMEDOUT,
}  # fmt: skip


@dataclass(frozen=True)
class _Opened:
    """A task whose image is a file of this machine."""

    task: Task
    job: Job
    source: Address
    target: Address
    number: int


class Worker:
    """Upscales images, a list of tasks at a time, with a model that it loads once.

    Args:
        settings: The options.

    Raises:
        ModelError: The model cannot be loaded.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._upscaler: ImageUpscaler = settings.upscaler()

    def run(self, tasks: Sequence[Task]) -> Iterator[Row]:
        """Do some tasks; an image that cannot be done does not stop the others.

        Args:
            tasks: The images.

        Yields:
            A row for each, in order.
        """
        done = 0
        try:
            for row in self._run(tasks):
                done += 1
                yield row
        except Exception:
            # An error that nothing foresaw: find out whose it is, and go on with the others.
            for task in tasks[done:]:
                yield self._run_alone(task)

    def _run_alone(self, task: Task) -> Row:
        try:
            (row,) = self._run([task])
        except Exception as error:
            words = f"{task.source}: unexpected {type(error).__name__}: {reason(error)}"
            return Row(task.source, task.target, _status_of(error), words)
        return row

    def _run(self, tasks: Sequence[Task]) -> Iterator[Row]:
        last = time.monotonic()
        with (
            temporary_folder() as folder,
            ThreadPoolExecutor(_AHEAD) as readers,
            ThreadPoolExecutor(_BEHIND) as writers,
        ):
            opened: deque[_Opened] = deque()
            jobs = self._open_ahead(tasks, folder, readers, opened)
            ending: deque[Future[Row]] = deque()
            for result in upscale_files(jobs, self._upscaler, self._settings.files):
                now = time.monotonic()
                spent, last = round(1000 * (now - last)), now
                ending.append(writers.submit(self._end, opened.popleft(), result, folder, spent))
                while ending and (len(ending) > _BEHIND or ending[0].done()):
                    yield ending.popleft().result()
            while ending:
                yield ending.popleft().result()

    def _open_ahead(
        self,
        tasks: Sequence[Task],
        folder: Path,
        readers: ThreadPoolExecutor,
        opened: deque[_Opened],
    ) -> Iterator[Job]:
        """Yield the jobs of tasks, while the next images are fetched."""
        waiting: deque[Future[_Opened]] = deque()
        for number, task in enumerate(tasks):
            waiting.append(readers.submit(self._open, task, number, folder))
            if len(waiting) > _AHEAD:
                opened.append(waiting.popleft().result())
                yield opened[-1].job
        while waiting:
            opened.append(waiting.popleft().result())
            yield opened[-1].job

    def _open(self, task: Task, number: int, folder: Path) -> _Opened:
        settings = self._settings
        source = _address(task, settings)
        target = settings.target.below(task.target)
        here = Path(source.path)
        there = Path(target.path)
        if not source.is_local:
            here = folder / f"{number}-in{here.suffix}"
        if not target.is_local:
            there = folder / f"{number}-out{there.suffix}"
        job = Job(here, there, page_suffix=settings.suffix if is_book_name(here) else None)
        try:
            if task.problem:
                job = replace(job, problem=DataError(task.problem))
            elif not target.is_local and not settings.files.overwrite and _is_there(target):
                job = replace(job, left_out="already exists")
            elif not source.is_local:
                fetch(source, here)
        except AnchorSRError as error:
            job = replace(job, problem=error)
        return _Opened(task, job, source, target, number)

    def _end(self, opened: _Opened, result: JobResult, folder: Path, spent: int) -> Row:
        """Put a result where it goes, and remove the temporary files."""
        row = _row(opened, result, spent)
        try:
            if row.status in (Status.DONE, Status.PRESENT):
                row = self._publish(opened, row)
        except AnchorSRError as error:
            row = replace(row, status=_status_of(error), error=_named(opened, error))
        finally:
            for path in (opened.job.source, opened.job.target):
                if path.parent == folder:
                    with contextlib.suppress(OSError):
                        path.unlink(missing_ok=True)
        return replace(row, milliseconds=spent)

    def _publish(self, opened: _Opened, row: Row) -> Row:
        """Upload a result, if it has to be, and note its size and digest."""
        path = opened.job.target
        if row.status is Status.PRESENT and not opened.target.is_local:
            fetch(opened.target, path)
        try:
            source = opened.job.source
            source_bytes = source.stat().st_size if source.is_file() else None
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise StoreError(f"{path} cannot be read again ({reason(error)})") from error
        if row.status is Status.DONE and not opened.target.is_local:
            upload(path, opened.target)
        return replace(row, sha256=digest, target_bytes=size, source_bytes=source_bytes)


def _row(opened: _Opened, result: JobResult, spent: int) -> Row:
    task = opened.task
    row = Row(task.source, task.target, Status.DONE, milliseconds=spent)
    if result.error is not None:
        error = result.error
        status = Status.FAILED if task.problem else _status_of(error)
        return replace(row, status=status, error=_named(opened, error))
    if result.skipped.startswith("already exists"):
        return replace(row, status=Status.PRESENT)
    if result.skipped:
        return replace(row, status=Status.UNFINISHED, error=f"{task.source}: {result.skipped}")
    (height, width) = result.size or (None, None)
    (target_height, target_width) = result.target_size or (None, None)
    chosen = result.selection
    return replace(
        row,
        notes=tuple(_named(opened, note) for note in result.notes),
        width=width,
        height=height,
        target_width=target_width,
        target_height=target_height,
        pages=result.pages or None,
        model=None if chosen is None else str(chosen.model),
        strengths=None if chosen is None else chosen.strengths.describe(),
    )


def _status_of(error: BaseException) -> Status:
    """Whether an error is the image's own, or may be gone the next time."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, StoreError):
            return Status.UNFINISHED
        if isinstance(cause, OSError) and cause.errno in _OF_THE_MACHINE:
            return Status.UNFINISHED
        cause = cause.__cause__
    return Status.FAILED


def _named(opened: _Opened, text: object) -> str:
    """A message, with the names that a person knows."""
    words = str(text).replace(str(opened.job.source), str(opened.source))
    return words.replace(str(opened.job.target), str(opened.target))


def _address(task: Task, settings: Settings) -> Address:
    """The address of an image, with the options of its store."""
    try:
        address = parse_address(task.source, options=False)
    except DataError:
        return Address("", task.source)
    for place in (settings.source, settings.target):
        if place.scheme == address.scheme:
            return replace(address, options=place.options)
    return address


def _is_there(target: Address) -> bool:
    return size_of(target) is not None
