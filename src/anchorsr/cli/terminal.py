"""Print errors, notes, tables, JSON and progress bars.

Results go to standard output, everything else to standard error.
"""

from __future__ import annotations

import codecs
import datetime
import functools
import io
import logging
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

from anchorsr.metrics import Score
from anchorsr.utils.strict_json import to_json

if TYPE_CHECKING:
    from anchorsr.video.upscale import VideoProgress


# C0, DEL and C1, as characters and as bytes that are no text; line ends of Unicode; and marks that
# change the direction in which a line is shown.
_CONTROLS = re.compile(
    r"[\x00-\x1f\x7f-\x9f\udc80-\udc9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]"
)


def prepare_streams(*, drop_native: bool) -> None:
    """Make both streams safe to print to: present, and able to print any file name.

    Args:
        drop_native: Whether to drop what native libraries write to file descriptor 2; what goes to
            `sys.stderr` is still shown.
    """
    if sys.stdout is None:  # closed by the caller, as with `>&-`
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (open until the process ends)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a file name can be any bytes
        sys.stdout.reconfigure(errors=_ANY_NAME if os.name == "posix" else "backslashreplace")
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
        return
    if not drop_native:
        return
    sys.stderr.flush()
    real = os.dup(2)
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 2)
    os.close(devnull)
    sys.stderr = os.fdopen(real, "w", buffering=1, errors="backslashreplace")


_ANY_NAME = "anchorsr.any_name"


def _bytes_or_escapes(error: UnicodeError) -> tuple[str | bytes, int]:
    """Keep the bytes of a name that are not text; escape characters that an encoding lacks."""
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeError:
        return codecs.lookup_error("backslashreplace")(error)


codecs.register_error(_ANY_NAME, _bytes_or_escapes)


def give_up_stdout() -> None:
    """Drop what is still to be printed, so that Python's last flush cannot fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


@functools.cache  # a single one, so that lines are printed above a bar that is shown
def console() -> Console:
    """Return the console on standard error."""
    return Console(stderr=True, highlight=False)


def visible(text: object) -> str:
    """Return a text with its control characters escaped.

    File names, metadata and keys can hold sequences that move the cursor, change the title or fill
    the clipboard of a terminal.

    Args:
        text: What is to be printed as one line.
    """
    return _CONTROLS.sub(lambda match: match[0].encode("unicode_escape").decode(), str(text))


def say(text: object) -> None:
    """Print a line of results on standard output; escape control characters for a terminal."""
    print(visible(text) if sys.stdout.isatty() else text, flush=True)


def complain(error: BaseException | str) -> None:
    """Print an error as one line."""
    text = visible(str(error).strip())
    console().print(Text.assemble(("error:", "bold red"), " ", text), soft_wrap=True)


def complain_of_all(text: str, names: Iterable[object]) -> None:
    """Print an error, and below it the names that it is about, one per line."""
    complain(f"{text}:")
    for name in names:
        console().print(Text(f"  {visible(name)}"), soft_wrap=True)


def remark(text: str) -> None:
    """Print a note."""
    console().print(Text(f"note: {visible(text)}"), soft_wrap=True)


class _Remarks(logging.Handler):
    """Prints each record as a note."""

    def emit(self, record: logging.LogRecord) -> None:
        remark(record.getMessage())


def show_trials() -> None:
    """Say on a terminal when engines are tried, which takes a moment before the first image."""
    if console().is_terminal:
        log = logging.getLogger("anchorsr.engines")
        log.addHandler(_Remarks())
        log.setLevel(logging.INFO)


def print_table(table: Table) -> None:
    """Print a table on standard output; long cells are wrapped, never cut."""
    for column in table.columns:
        column.overflow = "fold"
        if sys.stdout.isatty():
            column._cells = [visible(cell) for cell in column.cells]
    width = None if sys.stdout.isatty() else 160  # a file or pipe has no width
    Console(width=width, highlight=False, markup=False, emoji=False).print(table)


def print_json(value: Any) -> None:
    """Print a value as JSON on standard output, as every `--json` does."""
    print(to_json(value, indent=1))


@contextmanager
def bar(title: str, total: int | None, *, hidden: bool) -> Iterator[Callable[[], None]]:
    """Show a progress bar that disappears at the end; call what it yields once per item."""
    with _counter(hidden=hidden) as progress:
        task = progress.add_task(title, total=total)
        yield lambda: progress.advance(task)


@contextmanager
def counting_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar that disappears at the end; call what it yields with (done, total)."""
    with _counter(hidden=False) as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _counter(*, hidden: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console(),
        transient=True,
        disable=hidden or not console().is_terminal,
        redirect_stdout=sys.stdout.isatty(),  # otherwise results would go to the bar's stream
    )


@contextmanager
def byte_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar in bytes; call what it yields with (done, total)."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    hidden = not console().is_terminal
    with Progress(*columns, console=console(), transient=True, disable=hidden) as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


@contextmanager
def video_bar(title: str, *, hidden: bool) -> Iterator[Callable[[VideoProgress], None]]:
    """Show a progress bar of a video; call what it yields with a `VideoProgress`."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[note]}"),
        TextColumn("{task.fields[left]}"),
    )
    with Progress(
        *columns, console=console(), transient=True, disable=hidden or not console().is_terminal
    ) as progress:
        task = progress.add_task(visible(title), total=None, note="", left="")

        def on_progress(state: VideoProgress) -> None:
            of = "" if state.total_frames is None else f" of {state.total_frames}"
            note = f"{state.frames}{of} frames, {state.frames_per_second:.1f} per second"
            if state.reused >= 0.01:
                note += f", {state.reused:.0%} reused"
            left = state.seconds_left
            words = "" if left is None else f"{datetime.timedelta(seconds=round(left))} left"
            progress.update(
                task, completed=state.seconds, total=state.total_seconds, note=note, left=words
            )

        yield on_progress


@contextmanager
def training_bars(title: str) -> Iterator[dict[str, Any]]:
    """Yield the callbacks of a training run: a bar while images are read, then one over steps."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    hidden = not console().is_terminal
    with Progress(*columns, console=console(), disable=hidden) as progress:
        reading = progress.add_task("Reading images", total=None, note="")
        running = progress.add_task(title, total=None, note="", visible=False)

        def on_loading(done: int, total: int) -> None:
            progress.update(reading, completed=done, total=total)

        def on_progress(state: Any) -> None:
            note = f"loss {state.loss:.3f}"
            progress.update(
                running, completed=state.step, total=state.steps, note=note, visible=True
            )
            if state.validation:
                figures = ", ".join(f"{k} {v:.3f}" for k, v in state.validation.items())
                line = Text(f"step {state.step}: loss {state.loss:.3f}, {figures} dB")
                console().print(line, soft_wrap=True)

        yield {"on_loading": on_loading, "on_progress": on_progress}


def print_scores(scores: list[Score], *, costs: bool = False) -> None:
    """Print PSNR and SSIM as a table, with a column of damages if any image was damaged.

    Args:
        scores: The rows.
        costs: Whether to show milliseconds an image, and multiplications per LR pixel.
    """
    damaged = any(score.damage != "clean" for score in scores)
    columns = ["model", "set", *(["damage"] if damaged else [])]
    headings = ["images", "PSNR RGB", "PSNR Y", "SSIM Y"]
    if costs:  # shorter, so that all fit into 80 columns
        headings = ["n", "RGB dB", "Y dB", "SSIM Y", "ms", "MAC"]
    table = Table(*columns, *headings)
    for score in scores:
        table.add_row(
            score.method,
            score.test_set,
            *([score.damage] if damaged else []),
            str(score.images),
            f"{score.psnr_rgb:.3f}",
            f"{score.psnr_y:.3f}",
            f"{score.ssim_y:.4f}",
            *([_milliseconds(score), _multiplications(score)] if costs else []),
        )
    print_table(table)


def _milliseconds(score: Score) -> str:
    return "" if score.seconds is None else f"{1000 * score.seconds:.0f}"


def _multiplications(score: Score) -> str:
    count = score.macs_per_lr_pixel
    return "" if count is None else f"{count / 1000:,.0f}k"
