"""Jobs done: while one image is in the network, the next is read and the last is written.

The network runs in the calling thread, and its results come in the order of the jobs. Pillow's
codecs and filters leave Python's lock, so they take the processors that the network leaves idle.
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
from anchorsr.images.animation import Animation, check_file, read_file, read_header, write_file
from anchorsr.images.image import RasterImage
from anchorsr.inference.batch import Job
from anchorsr.inference.sizes import resize_image
from anchorsr.inference.streaming import is_for_strips, upscale_to_png
from anchorsr.inference.upscaler import Enlarger
from anchorsr.utils.files import check_free, make_folder
from anchorsr.utils.locks import Claims

# Images read before their turn, and pixels that wait to be written (3 bytes each; one image
# in any case): memory is bounded, whatever the folder.
_READ_AHEAD = 2
_PIXELS_BEHIND = 64_000_000


@dataclass(frozen=True)
class Done:
    """A job that ended: done, skipped for a reason, or failed with an error of its own.

    size and target_size are (height, width), as far as they were learnt.
    """

    job: Job
    error: AnchorSRError | None = None
    skipped: str = ""
    size: tuple[int, int] | None = None
    target_size: tuple[int, int] | None = None


@dataclass(frozen=True)
class _Open:
    """A job whose image or animation is open and whose output is claimed; sizes as in `Done`."""

    job: Job
    image: RasterImage | Animation
    size: tuple[int, int]
    target_size: tuple[int, int]


def upscale_files(
    jobs: Sequence[Job], enlarger: Enlarger, *, quality: int = 92, overwrite: bool = False
) -> Iterator[Done]:
    """Do the jobs; a bad file does not keep the others from being done.

    Without overwrite, what exists is skipped, whoever made it; what another run is making just
    now is skipped in any case. On Ctrl-C what is in the network is given up, what is being
    written is finished, and KeyboardInterrupt comes after its results.
    """
    with (
        Claims() as claims,
        _pool(1) as readers,
        _pool(min(4, default_threads())) as writers,
    ):
        read = partial(_read, enlarger=enlarger, overwrite=overwrite, claims=claims)
        write = partial(_write, quality=quality, overwrite=overwrite, claims=claims)
        larger = (
            _enlarge(item, enlarger, claims, overwrite=overwrite)
            for item in _ahead(readers, read, jobs)
        )
        yield from _behind(writers, write, larger)


def preview(jobs: Sequence[Job], enlarger: Enlarger, *, overwrite: bool = False) -> Iterator[Done]:
    """What `upscale_files` would do, by names and by the headers of the images alone."""
    for job in jobs:
        skipped = _why_skip(job, overwrite)
        if job.problem is not None or skipped:
            yield Done(job, job.problem, skipped)
            continue
        try:
            header = read_header(job.source)
            target_size = _target_size(job, header.size, enlarger)
            check_file(job.target, *target_size, animated=header.animated)
            yield Done(job, size=header.size, target_size=target_size)
        except AnchorSRError as error:
            yield Done(job, error)


def _read(job: Job, *, enlarger: Enlarger, overwrite: bool, claims: Claims) -> _Open | Done:
    skipped = _why_skip(job, overwrite)
    if job.problem is not None or skipped:
        return Done(job, job.problem, skipped)
    try:
        image = read_file(job.source)
        target_size = _target_size(job, image.size, enlarger)
        check_file(job.target, *target_size, animated=isinstance(image, Animation))
        make_folder(job.target.parent)
        check_free(job.target, overwrite=True)
        if not claims.take(job.target):
            return Done(job, skipped="being made by another run")
        skipped = _why_skip(job, overwrite)  # by the run whose claim has just ended
        if skipped:
            claims.give_up(job.target)
            return Done(job, skipped=skipped)
    except AnchorSRError as error:
        return Done(job, error)
    except MemoryError:
        return Done(job, _too_large(job))
    return _Open(job, image, image.size, target_size)


def _enlarge(
    item: _Open | Done, enlarger: Enlarger, claims: Claims, *, overwrite: bool
) -> _Open | Done:
    if isinstance(item, Done):
        return item
    error: AnchorSRError
    try:
        done = _in_strips(item, enlarger, overwrite=overwrite)
        if done is not None:
            claims.give_up(item.job.target)
            return done
        if isinstance(item.image, Animation):  # whose frames are made as they are written
            return replace(item, image=enlarger.animate(item.image))
        return replace(item, image=enlarger.through_network(item.image))
    except AnchorSRError as caught:
        error = caught
    except MemoryError:
        error = _too_large(item.job)
    claims.give_up(item.job.target)
    return Done(item.job, error)


def _in_strips(item: _Open, enlarger: Enlarger, *, overwrite: bool) -> Done | None:
    """Done, if the result is one that memory might not hold and that can be written in strips."""
    upscaler, job, image = enlarger.only_pass(*item.size), item.job, item.image
    if upscaler is None or isinstance(image, Animation):
        return None
    if not is_for_strips(image, job.target, upscaler.factor):
        return None
    upscale_to_png(image, upscaler, job.target, overwrite=overwrite)
    return Done(job, size=item.size, target_size=item.target_size)


def _write(item: _Open | Done, *, quality: int, overwrite: bool, claims: Claims) -> Done:
    if isinstance(item, Done):
        return item
    job = item.job
    done = Done(job, size=item.size, target_size=item.target_size)
    try:
        image = item.image
        if isinstance(image, RasterImage):
            image = resize_image(image, *item.target_size)
        write_file(job.target, image, quality=quality, overwrite=overwrite)
    except AnchorSRError as error:
        # Where there are no claims, another run can have been faster.
        skipped = _why_skip(job, overwrite)
        done = Done(job, skipped=skipped) if skipped else Done(job, error)
    except MemoryError:
        done = Done(job, _too_large(job))
    finally:
        claims.give_up(job.target)
    return done


def _why_skip(job: Job, overwrite: bool) -> str:
    """Why nothing is to be done, in words that go for one file and for several; else nothing."""
    if job.left_out:
        return job.left_out
    if overwrite or job.problem is not None or not os.path.lexists(job.target):
        return ""
    try:
        target = job.target.lstat()
        if job.target.is_dir():
            return ""  # which is an error, when it comes to writing
        older = target.st_mtime_ns < job.source.stat().st_mtime_ns
    except OSError:
        older = False
    return "there already, older than the original" if older else "there already"


def _target_size(job: Job, size: tuple[int, int], enlarger: Enlarger) -> tuple[int, int]:
    try:
        return enlarger.target(*size)
    except OutputError as error:
        raise OutputError(f"{job.source}: {error}") from error


def _too_large(job: Job) -> OutputError:
    return OutputError(f"{job.source} is too large for this machine's memory")


def _pixels(item: _Open | Done) -> int:
    return math.prod(item.image.size) if isinstance(item, _Open) else 0


@contextlib.contextmanager
def _pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    """Threads of which nothing goes on afterwards: what has not begun is dropped."""
    pool = ThreadPoolExecutor(threads)
    try:
        yield pool
    finally:
        while True:
            try:
                pool.shutdown(wait=True, cancel_futures=True)
                break
            except KeyboardInterrupt:  # pressed again: what is being written is soon whole
                continue


def _ahead(
    pool: ThreadPoolExecutor, read: Callable[[Job], _Open | Done], jobs: Iterable[Job]
) -> Iterator[_Open | Done]:
    """What is read of the jobs, in their order; the next `_READ_AHEAD` are under way meanwhile."""
    waiting: deque[Future[_Open | Done]] = deque()
    for job in jobs:
        waiting.append(pool.submit(read, job))
        if len(waiting) > _READ_AHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _behind(
    pool: ThreadPoolExecutor,
    write: Callable[[_Open | Done], Done],
    items: Iterator[_Open | Done],
) -> Iterator[Done]:
    """How the writing of the items ended, in their order, as soon as it is known.

    No more than one is under way while they have over `_PIXELS_BEHIND` together. When Ctrl-C
    comes from the items, those under way come before it.
    """
    waiting: deque[tuple[int, Future[Done]]] = deque()

    def is_full() -> bool:
        return len(waiting) > 1 and sum(pixels for pixels, _ in waiting) > _PIXELS_BEHIND

    try:
        while (item := next(items, None)) is not None:
            waiting.append((_pixels(item), pool.submit(write, item)))
            del item  # the largest thing in memory: written, it should go
            while waiting and (is_full() or waiting[0][1].done()):
                done = waiting[0][1].result()
                waiting.popleft()
                yield done
        while waiting:
            done = waiting[0][1].result()
            waiting.popleft()
            yield done
    except KeyboardInterrupt:
        for _, future in waiting:
            if not future.cancel():
                yield future.result()
        raise
