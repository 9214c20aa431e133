"""Run jobs: while one image is in the network, the next is read and the last is written.

The network runs in the calling thread, and results come in the order of the jobs. Pillow's codecs
and filters release Python's lock, so they use the processors that the network leaves idle.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

from anchorsr.engines.runtimes import default_threads
from anchorsr.errors import AnchorSRError, OutputError
from anchorsr.images.animation import Animation, for_format, read_file, read_header, write_file
from anchorsr.images.encode import Coding, check_coding, check_colours, not_kept
from anchorsr.images.formats import MAX_PIXELS, check_output, format_of
from anchorsr.images.image import RasterImage
from anchorsr.inference.automatic import Selection
from anchorsr.inference.batch import Job
from anchorsr.inference.books import Book, is_book_name, open_book, upscale_book
from anchorsr.inference.image_upscaler import ImageUpscaler
from anchorsr.inference.memory import check_memory
from anchorsr.inference.sizes import UpscalePlan
from anchorsr.inference.streaming import should_stream, upscale_to_file
from anchorsr.utils.files import check_free, make_folder, reason
from anchorsr.utils.locks import FileLocks
from anchorsr.utils.temporary import remove_leftovers

# Images read ahead, and pixels waiting to be written (3 bytes each; one image in any case), which
# bound the memory whatever the folder.
_READ_AHEAD = 2
_PIXELS_BEHIND = 64_000_000


@dataclass(frozen=True)
class JobResult:
    """How a job ended: done, skipped or failed.

    Attributes:
        job: The job.
        error: Why it failed.
        skipped: Why it was skipped; empty if it was not.
        size: (height, width) of the image, if known.
        target_size: (height, width) of the result, if known.
        selection: The model that was taken for the image, once it was read.
        pages: The number of images in a comic book; 0 for any other file.
        notes: What was left out or repaired, a line each.
    """

    job: Job
    error: AnchorSRError | None = None
    skipped: str = ""
    size: tuple[int, int] | None = None
    target_size: tuple[int, int] | None = None
    selection: Selection | None = None
    pages: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class FileOptions:
    """How files are read and written.

    Attributes:
        quality: 1 to 100, for JPEG, WebP, AVIF and HEIC.
        lossless: Write WebP and HEIC without loss, and refuse JPEG, AVIF and GIF.
        overwrite: Replace existing files.
        keep_times: Give results the modification times of their originals.
        max_pixels: The largest image to decode; the frames of an animation may have 4 times as many
            pixels in all.
    """

    quality: int = 92
    lossless: bool = False
    overwrite: bool = False
    keep_times: bool = False
    max_pixels: int = MAX_PIXELS

    @property
    def coding(self) -> Coding:
        """How lossy formats store pixels."""
        return Coding(self.quality, self.lossless)


@dataclass(frozen=True)
class _Opened:
    """A job whose image or animation is open and whose output is locked."""

    job: Job
    image: RasterImage | Animation
    plan: UpscalePlan
    notes: tuple[str, ...]
    selection: Selection

    @property
    def result(self) -> JobResult:
        size, target_size = self.plan.size, self.plan.target
        return JobResult(
            self.job,
            size=size,
            target_size=target_size,
            notes=self.notes,
            selection=self.selection,
        )


@dataclass(frozen=True)
class _OpenedBook:
    """A job whose comic book is to be upscaled, and whose output is locked."""

    job: Job
    book: Book


_Item = _Opened | _OpenedBook | JobResult


def upscale_files(
    jobs: Iterable[Job], upscaler: ImageUpscaler, options: FileOptions = FileOptions()
) -> Iterator[JobResult]:
    """Run the jobs; a bad file does not stop the others.

    Without `overwrite`, existing files are skipped, whoever wrote them. What another process is
    writing at the moment is always skipped. On Ctrl-C the image in the network is dropped, files
    being written are finished, and KeyboardInterrupt follows their results.

    Args:
        jobs: The jobs, as `batch.plan_jobs` returns them; each is asked for when it is next.
        upscaler: What upscales the images.
        options: How files are read and written.

    Yields:
        One result per job, in the order of the jobs.
    """
    with (
        FileLocks() as locks,
        _pool(1) as readers,
        _pool(min(4, default_threads())) as writers,
    ):
        read = partial(_read, upscaler=upscaler, options=options, locks=locks)
        write = partial(_write, upscaler=upscaler, options=options, locks=locks)
        upscaled = (
            _upscale(item, upscaler, locks, options) for item in _ahead(readers, read, jobs)
        )
        yield from _behind(writers, write, upscaled)


def preview(
    jobs: Sequence[Job], upscaler: ImageUpscaler, options: FileOptions = FileOptions()
) -> Iterator[JobResult]:
    """Tell what `upscale_files` would do, from names and image headers alone.

    Args:
        jobs: The jobs, as `batch.plan_jobs` returns them.
        upscaler: What would upscale the images.
        options: How files would be read and written.

    Yields:
        One result per job, in the order of the jobs.
    """
    for job in jobs:
        skipped = _why_skip(job, options.overwrite)
        if job.problem is not None or skipped:
            yield JobResult(job, job.problem, skipped)
            continue
        try:
            if is_book_name(job.source):
                yield JobResult(job, pages=open_book(job.source).pages)
                continue
            plan = _plan_from_header(job, upscaler, options)
            yield JobResult(job, size=plan.size, target_size=plan.target)
        except AnchorSRError as error:
            yield JobResult(job, error)


def _read(job: Job, *, upscaler: ImageUpscaler, options: FileOptions, locks: FileLocks) -> _Item:
    skipped = _why_skip(job, options.overwrite)
    if job.problem is not None or skipped:
        if not job.left_out:
            remove_leftovers(job.target)
        return JobResult(job, job.problem, skipped)
    item: _Opened | _OpenedBook
    try:
        if is_book_name(job.source):
            item = _OpenedBook(job, open_book(job.source, job.page_suffix))
        else:
            _plan_from_header(job, upscaler, options)  # refuses what needs no decoding
            image = read_file(job.source, max_pixels=options.max_pixels)
            animated = isinstance(image, Animation)
            plan = _plan(job, image.size, upscaler, options, animated=animated)
            format_name = format_of(job.target)
            check_colours(job.target, image, format_name)
            lost = not_kept(image, format_name, animated=animated)
            told = (f"{format_name} cannot hold: {', '.join(lost)}",) if lost else ()
            image = for_format(image, format_name)
            selection = upscaler.select(_first_frame(image), plan)
            item = _Opened(job, image, plan, (*image.notes, *told), selection)
        make_folder(job.target.parent)
        check_free(job.target, overwrite=True)
        if not locks.acquire(job.target):
            return JobResult(job, skipped="being written by another process")
        skipped = _why_skip(job, options.overwrite)  # by a process that has just released its lock
        if skipped:
            locks.release(job.target)
            return JobResult(job, skipped=skipped)
    except AnchorSRError as error:
        return JobResult(job, error)
    except MemoryError:
        return JobResult(job, _too_large(job))
    return item


def _first_frame(image: RasterImage | Animation) -> RasterImage:
    return next(image.frames()) if isinstance(image, Animation) else image


def _plan_from_header(job: Job, upscaler: ImageUpscaler, options: FileOptions) -> UpscalePlan:
    header = read_header(job.source, max_pixels=options.max_pixels)
    return _plan(job, header.size, upscaler, options, animated=header.animated)


def _plan(
    job: Job,
    size: tuple[int, int],
    upscaler: ImageUpscaler,
    options: FileOptions,
    *,
    animated: bool,
) -> UpscalePlan:
    """Plan the passes, and check that the output's format can hold the result."""
    try:
        plan = upscaler.plan(*size)
    except OutputError as error:
        raise OutputError(f"{job.source}: {error}") from error
    format_name = check_output(job.target, *plan.target, animated=animated)
    check_coding(job.target, format_name, options.coding)
    if not animated:
        check_memory(job.target, size, plan.target, math.prod(plan.factors))
    return plan


def _upscale(
    item: _Item, upscaler: ImageUpscaler, locks: FileLocks, options: FileOptions
) -> _Opened | JobResult:
    if isinstance(item, JobResult):
        return item
    error: AnchorSRError
    try:
        if isinstance(item, _OpenedBook):
            return _upscale_book(item, upscaler, locks, options)
        if isinstance(item.image, Animation):  # frames are upscaled as they are written
            return replace(item, image=upscaler.animate(item.image, item.plan, item.selection))
        if _stream(item, item.image, upscaler, options):
            _keep_time(item.job, options)
            locks.release(item.job.target)
            return item.result
        passed = upscaler.run_passes(item.image, item.plan.factors, item.selection)
        return replace(item, image=passed)
    except AnchorSRError as caught:
        error = caught
    except MemoryError:
        error = _too_large(item.job)
    locks.release(item.job.target)
    return JobResult(item.job, error)


def _upscale_book(
    item: _OpenedBook, upscaler: ImageUpscaler, locks: FileLocks, options: FileOptions
) -> JobResult:
    job = item.job
    notes = upscale_book(
        item.book,
        job.target,
        upscaler,
        options.coding,
        overwrite=options.overwrite,
        max_pixels=options.max_pixels,
    )
    _keep_time(job, options)
    locks.release(job.target)
    return JobResult(job, pages=item.book.pages, notes=notes)


def _keep_time(job: Job, options: FileOptions) -> None:
    """Give a result the modification time of its original, if that is wanted."""
    if options.keep_times:
        try:
            times = job.source.stat()
            os.utime(job.target, ns=(times.st_atime_ns, times.st_mtime_ns))
        except OSError as error:
            raise OutputError(
                f"{job.target} is done, but its time could not be set ({reason(error)})"
            ) from error


def _stream(
    item: _Opened, image: RasterImage, upscaler: ImageUpscaler, options: FileOptions
) -> bool:
    """Write the result strip by strip, if it is large and that is possible."""
    factors, target = item.plan.factors, item.job.target
    if item.plan.target == item.plan.size:
        return False
    factor = math.prod(factors)
    resized = item.plan.target != tuple(factor * side for side in item.plan.size)
    if upscaler.wraps and factors and resized and image.alpha is not None:
        return False  # around a transparent texture, colours are filled in for each margin
    if not should_stream(image, target, factor, resized=resized):
        return False
    selection = item.selection if len(factors) == 1 else None  # a pass makes images clean
    last = upscaler.upscaler(factors[-1], selection) if factors else None
    upscale_to_file(
        upscaler.run_passes(image, factors[:-1], item.selection),
        last,
        target,
        options.coding,
        target=item.plan.target,
        overwrite=options.overwrite,
        wraps=upscaler.wraps,
    )
    return True


def _write(
    item: _Opened | JobResult,
    *,
    upscaler: ImageUpscaler,
    options: FileOptions,
    locks: FileLocks,
) -> JobResult:
    if isinstance(item, JobResult):
        return item
    job = item.job
    result = item.result
    try:
        image = item.image
        if isinstance(image, RasterImage):
            image = upscaler.resize(image, item.plan)
        write_file(
            job.target,
            image,
            quality=options.quality,
            lossless=options.lossless,
            overwrite=options.overwrite,
        )
        _keep_time(job, options)
    except AnchorSRError as error:
        # On systems without locks, another process can have been faster.
        skipped = _why_skip(job, options.overwrite)
        result = JobResult(job, skipped=skipped) if skipped else JobResult(job, error)
    except MemoryError:
        result = JobResult(job, _too_large(job))
    finally:
        locks.release(job.target)
    return result


def _why_skip(job: Job, overwrite: bool) -> str:
    """Return why a job is to be skipped, in words for one file and for several; empty if not."""
    if job.left_out:
        return job.left_out
    if overwrite or job.problem is not None or not os.path.lexists(job.target):
        return ""
    try:
        target = job.target.lstat()
        if job.target.is_dir():
            return ""  # an error later, when writing
        older = target.st_mtime_ns < job.source.stat().st_mtime_ns
    except (OSError, ValueError):
        return ""  # an error later, when reading
    return "already exists, older than the original" if older else "already exists"


def _too_large(job: Job) -> OutputError:
    return OutputError(f"{job.source} is too large for this machine's memory")


def _pixels(item: _Opened | JobResult) -> int:
    return math.prod(item.image.size) if isinstance(item, _Opened) else 0


@contextlib.contextmanager
def _pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    """Start threads that end with the block; what has not begun is dropped, and Ctrl-C waits."""
    pool = ThreadPoolExecutor(threads)
    try:
        yield pool
    finally:
        interrupt: KeyboardInterrupt | None = None
        while True:
            try:
                pool.shutdown(wait=True, cancel_futures=True)
                break
            except KeyboardInterrupt as error:
                interrupt = error
        if interrupt is not None:
            raise interrupt


def _ahead(
    pool: ThreadPoolExecutor, read: Callable[[Job], _Item], jobs: Iterable[Job]
) -> Iterator[_Item]:
    """Yield the opened jobs in order, while the next `_READ_AHEAD` are being read."""
    waiting: deque[Future[_Item]] = deque()
    for job in jobs:
        waiting.append(pool.submit(read, job))
        if len(waiting) > _READ_AHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _behind(
    pool: ThreadPoolExecutor,
    write: Callable[[_Opened | JobResult], JobResult],
    items: Iterator[_Opened | JobResult],
) -> Iterator[JobResult]:
    """Write the items and yield their results in order, as soon as they are known.

    Once the waiting items have more than `_PIXELS_BEHIND` pixels, no other is taken. If Ctrl-C
    comes from the items, the results of those being written come before it.
    """
    waiting: deque[tuple[int, Future[JobResult]]] = deque()

    def is_full() -> bool:
        return len(waiting) > 1 and sum(pixels for pixels, _ in waiting) > _PIXELS_BEHIND

    try:
        while (item := next(items, None)) is not None:
            waiting.append((_pixels(item), pool.submit(write, item)))
            del item  # the largest object in memory, to be freed once written
            while waiting and (is_full() or waiting[0][1].done()):
                result = waiting[0][1].result()
                waiting.popleft()
                yield result
        while waiting:
            result = waiting[0][1].result()
            waiting.popleft()
            yield result
    except KeyboardInterrupt:
        for _, future in waiting:
            if not future.cancel():
                yield future.result()
        raise
