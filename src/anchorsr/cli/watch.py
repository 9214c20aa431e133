"""`upscale --watch`: upscale what comes into folders, until Ctrl-C."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType

from anchorsr.cli.usage import UsageError
from anchorsr.errors import DataError, needs
from anchorsr.inference.batch import Job

# A file that was written to less than this ago may still be being copied.
_SETTLED_SECONDS = 1.0
_POLL_MILLISECONDS = 1000
# Network drives tell nothing of changes, and one can be lost between a listing and the next wait.
_LISTING_SECONDS = 20.0

_Stamp = tuple[int, int]


def check_watched(folders: Sequence[Path], output: str | None) -> None:
    """Check that there are folders to watch, and another one for the results.

    Raises:
        UsageError: There are not.
        MissingDependencyError: `watchfiles` is not installed.
    """
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(f"--watch takes folders, and {folder} is none")
    if output is None or output == "-" or Path(output).suffix:
        raise UsageError("--watch needs -o and a folder for the results")
    with needs("watchfiles", "watch"):
        import watchfiles  # noqa: F401


def new_jobs(folders: Sequence[Path], plan: Callable[[], list[Job]]) -> Iterator[list[Job]]:
    """Yield the jobs of what is in folders, and of what comes or changes later; never ends.

    Args:
        folders: What to watch.
        plan: Makes jobs of all that is in them.

    Yields:
        Jobs whose files are complete, as far as that can be seen; each once for each change.
    """
    from watchfiles import watch

    seen: dict[Path, _Stamp] = {}
    unsettled, listed = True, 0.0
    changes = watch(
        *folders, yield_on_timeout=True, rust_timeout=_POLL_MILLISECONDS, raise_interrupt=True
    )
    with _remembered_interrupt() as was_interrupted:
        while True:
            if unsettled or time.monotonic() - listed > _LISTING_SECONDS:
                jobs, unsettled = _fresh(plan, seen)
                listed = time.monotonic()
                if jobs:
                    yield jobs
                    unsettled = True  # changes during a batch are not told
                if was_interrupted():
                    raise KeyboardInterrupt
            unsettled |= bool(next(changes))


@contextlib.contextmanager
def _remembered_interrupt() -> Iterator[Callable[[], bool]]:
    """Note Ctrl-C also where the end of a batch swallows it, as there is nothing left to stop."""
    pressed = False

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        pressed = True
        signal.default_int_handler(number, frame)

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before)


def _fresh(plan: Callable[[], list[Job]], seen: dict[Path, _Stamp]) -> tuple[list[Job], bool]:
    """The jobs whose sources have changed, and whether others are still being written."""
    try:
        jobs = plan()
    except DataError:  # no image yet
        return [], False
    fresh, unsettled = [], False
    for job in jobs:
        try:
            status = job.source.stat()
        except OSError:  # gone, or a folder that cannot be listed
            continue
        stamp = status.st_mtime_ns, status.st_size
        if job.left_out or seen.get(job.source) == stamp:
            continue
        if 0 <= time.time() - status.st_mtime < _SETTLED_SECONDS:
            unsettled = True
            continue
        seen[job.source] = stamp
        fresh.append(job)
    return fresh, unsettled
