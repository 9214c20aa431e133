"""The `bulk` command: very many images, on one machine or a cluster."""

from __future__ import annotations

import contextlib
import datetime
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bars

from anchorsr.cli.commands.file_options import (
    MAX_MEGAPIXELS,
    FormatName,
    Height,
    KeepTimes,
    Lossless,
    MaxMegapixels,
    Quality,
    Scale,
    Size,
    Stretch,
    Width,
    Wrap,
    format_suffix,
    target_size,
)
from anchorsr.cli.commands.options import (
    AsJson,
    Engine,
    Force,
    ModelOrAuto,
    OptionalFactor,
    StrengthTexts,
    Verbose,
)
from anchorsr.cli.terminal import bar, complain, console, print_json, remark, say, visible
from anchorsr.cli.usage import UsageError
from anchorsr.cluster import bulk
from anchorsr.cluster.addresses import parse_address
from anchorsr.cluster.estimate import SAMPLE, estimate
from anchorsr.cluster.manifest import FOLDER
from anchorsr.cluster.plan import Found
from anchorsr.cluster.ray_cluster import alive_nodes, join_cluster
from anchorsr.cluster.rows import Row, Status
from anchorsr.cluster.settings import Settings
from anchorsr.cluster.spool import Spool
from anchorsr.data.strengths import parse_strengths
from anchorsr.engines.runtimes import MOST_THREADS, default_threads
from anchorsr.engines.selection import AUTO
from anchorsr.errors import StoppedError
from anchorsr.inference.pipeline import FileOptions
from anchorsr.models.registry import AUTO_MODEL
from anchorsr.utils.temporary import temporary_folder

# Without a terminal, a line of progress comes so often.
_LOG_SECONDS = 60.0
# Further errors are in the manifest only.
_MOST_ERRORS = 20


def bulk_command(
    source: Annotated[
        str,
        typer.Argument(
            help="A folder, also of an object store (s3://, gs://, az://); a list (.txt) or a"
            " Parquet table of addresses."
        ),
    ],
    target: Annotated[
        str, typer.Argument(help="The folder of the results, also of an object store.")
    ],
    factor: OptionalFactor = None,
    model: ModelOrAuto = AUTO_MODEL,
    strengths: StrengthTexts = None,
    scale: Scale = None,
    size: Size = None,
    width: Width = None,
    height: Height = None,
    stretch: Stretch = False,
    format_name: FormatName = None,
    quality: Quality = 92,
    lossless: Lossless = False,
    wrap: Wrap = False,
    keep_times: KeepTimes = False,
    max_megapixels: MaxMegapixels = MAX_MEGAPIXELS,
    threads: Annotated[
        int, typer.Option(min=1, max=MOST_THREADS, help="The threads of each worker.")
    ] = 1,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="How many workers; by default as many as there are processors."),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            help="The Ray cluster to join: HOST:PORT, or auto for the one that this machine is"
            " part of. By default one is started on this machine."
        ),
    ] = None,
    engine: Engine = AUTO,
    force: Force = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try images again that failed before.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help=f"Count the images, estimate the time from {SAMPLE} of them, and stop.",
        ),
    ] = False,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Upscale very many images, on all processors of this machine or a Ray cluster.

    Results have the bytes of `anchorsr upscale`, and relative names stay the same. A result is
    written whole or not at all. TARGET/_manifest says in Parquet files what became of each image:
    digest, sizes, model, time and error. Needs the extra anchorsr[cluster].

    The same command resumes after an interrupt: what the manifest has, or what is there, is not
    done again. A bad image does not stop the others, and is not tried again without
    --retry-failed; what a store or a disk has refused is. If any image could not be done, the
    exit code is 1.

    Examples:

        anchorsr bulk scans/ scans-large/

        anchorsr bulk scans/ scans-large/ --dry-run

        anchorsr bulk s3://photos/2026 s3://photos/2026-large --address auto

        anchorsr bulk list.txt large/ --format webp --quality 90
    """
    places = parse_address(source), parse_address(target)
    if keep_times and not all(place.is_local for place in places):
        raise UsageError("--keep-times takes folders: objects have no time that can be set")
    settings = Settings(
        *places,
        suffix=format_suffix(format_name),
        files=FileOptions(quality, lossless, force, keep_times, max_megapixels * 1_000_000),
        threads=threads,
        model=os.path.abspath(model) if Path(model).is_file() else model,
        factor=factor,
        size=target_size(scale, size, width, height, stretch),
        strengths=parse_strengths(strengths or []),
        engine=engine,
        wraps=wrap,
    )
    upscaler = settings.upscaler()  # refuses an unknown model now
    if verbose:
        remark(f"engine {upscaler.engine}: {upscaler.why}")
    found = Found()
    with temporary_folder() as folder:
        spool = bulk.plan(settings, folder, found, again=retry_failed)
        _tell_found(found)
        if dry_run:
            _print_estimate(settings, spool, folder, workers, as_json=as_json)
            return
        if spool.made:
            remark(f"done already: {_count(spool.made, 'image')}")
        if spool.failed:
            images = _count(spool.failed, "image")
            complain(f"{images} failed before; the manifest says why, --retry-failed tries again")
        progress = bulk.Progress(0, spool.made, spool.failed)
        if spool.total:
            progress = _run(settings, spool, address, workers, as_json=as_json)
        else:
            remark("there is nothing to do")
            if as_json:
                print_json(_summary(settings, progress, 0.0))
    if progress.errors or progress.failed or found.problems:
        raise typer.Exit(1)


def _tell_found(found: Found) -> None:
    for problem in found.problems:
        complain(problem)
    if found.others:
        kinds = ", ".join(suffix or "no suffix" for suffix, _ in found.others.most_common(8))
        remark(f"{found.others.total()} of other kinds left out: {kinds}")


def _run(
    settings: Settings, spool: Spool, address: str | None, workers: int | None, *, as_json: bool
) -> bulk.Progress:
    """Run with a bar, and print the summary."""
    begun = time.monotonic()
    latest = bulk.Progress(spool.total, spool.made, spool.failed)
    complaints, threads = 0, settings.threads
    try:
        bulk.prepare(settings)
        with join_cluster(address, threads=threads, workers=workers) as cluster:
            places = f"{cluster.nodes} machines" if cluster.nodes > 1 else "this machine"
            workers_of = f"{_count(cluster.workers, 'worker')} of {_count(threads, 'thread')}"
            remark(f"{_count(spool.total, 'image')} on {places}: {workers_of}")
            if cluster.nodes > 1 and (settings.source.is_local or settings.target.is_local):
                remark("all machines must have the folders under the same names")
            with _following(spool.total) as show:

                def on_rows(rows: list[Row], progress: bulk.Progress) -> None:
                    nonlocal latest, complaints
                    latest = progress
                    for row in rows:
                        if row.error and complaints < _MOST_ERRORS:
                            complain(row.error)
                        complaints += bool(row.error)
                        if complaints == _MOST_ERRORS and row.error:
                            remark("further errors are in the manifest only")
                    show(progress)

                progress = bulk.run(settings, spool, cluster, on_rows)
            lost = cluster.nodes - alive_nodes()
            if lost > 0:
                machines = _count(lost, "machine")
                remark(f"{machines} of {cluster.nodes} lost; others have done the images")
    except KeyboardInterrupt:
        done = latest.ended - latest.errors + spool.made
        again = "the same command resumes with the others"
        if settings.files.overwrite:
            again = "the same command begins again"
        total = spool.total + spool.made + spool.failed
        raise StoppedError(f"{done} of {total} images are done; {again}") from None
    seconds = time.monotonic() - begun
    if as_json:
        print_json(_summary(settings, progress, seconds))
    else:
        _print_summary(settings, progress, seconds)
    return progress


@contextlib.contextmanager
def _following(total: int) -> Iterator[Callable[[bulk.Progress], None]]:
    """Show a bar on a terminal, and elsewhere a line each minute."""
    if not console().is_terminal:
        last = time.monotonic()

        def log(progress: bulk.Progress) -> None:
            nonlocal last
            if time.monotonic() - last >= _LOG_SECONDS and progress.ended < total:
                last = time.monotonic()
                remark(f"{progress.ended} of {total} images: {_describe(progress)}")

        yield log
        return
    columns = (
        TextColumn("Upscaling"),
        BarColumn(),
        TextColumn("{task.completed} of {task.total}, {task.fields[note]}"),
    )
    with Bars(*columns, console=console(), transient=True) as bars:
        task = bars.add_task("", total=total, note="workers start")
        yield lambda progress: bars.update(task, completed=progress.ended, note=_describe(progress))


def _describe(progress: bulk.Progress) -> str:
    words = f"{progress.images_per_second:.1f} a second, {progress.megapixels:.0f} MP"
    if progress.errors:
        words += f", {_count(progress.errors, 'error')}"
    left = progress.seconds_left
    return words if left is None else f"{words}, {_duration(left)} left"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _duration(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))


def _print_summary(settings: Settings, progress: bulk.Progress, seconds: float) -> None:
    for note, count in progress.notes.most_common(_MOST_ERRORS):
        remark(f"{_count(count, 'image')}: {note}")
    counts = progress.counts
    if counts[Status.PRESENT]:
        remark(f"there already: {_count(counts[Status.PRESENT], 'result')}")
    if counts[Status.FAILED]:
        complain(
            f"{_count(counts[Status.FAILED], 'image')} failed; the manifest says why, and"
            f" --retry-failed tries again"
        )
    if counts[Status.UNFINISHED]:
        complain(
            f"{_count(counts[Status.UNFINISHED], 'image')} could not be read or written; the same"
            f" command tries again"
        )
    say(
        f"{_count(counts[Status.DONE], 'image')}, {progress.megapixels:.1f} MP, in"
        f" {_duration(seconds)}: {visible(settings.target)}"
    )


def _summary(settings: Settings, progress: bulk.Progress, seconds: float) -> dict[str, Any]:
    return {
        "target": str(settings.target),
        "manifest": str(settings.target.below(FOLDER)),
        "done_before": progress.made,
        "failed_before": progress.failed,
        **{str(status): progress.counts[status] for status in Status},
        "megapixels": progress.megapixels,
        "bytes": progress.bytes_out,
        "worker_seconds": progress.busy,
        "seconds": seconds,
    }


def _print_estimate(
    settings: Settings, spool: Spool, folder: Path, workers: int | None, *, as_json: bool
) -> None:
    place = folder / "sample"
    place.mkdir()
    with bar("Trying", min(SAMPLE, spool.total), hidden=as_json) as advance:
        made = estimate(settings, spool, place, advance)
    count = workers or max(1, default_threads() // settings.threads)
    seconds = made.worker_seconds / count
    if as_json:
        print_json(
            {
                "images": spool.total,
                "done_before": spool.made,
                "failed_before": spool.failed,
                "tried": made.tried,
                "tried_failed": made.failed,
                "megapixels": made.megapixels,
                "bytes": made.bytes_out,
                "worker_seconds": made.worker_seconds,
                "workers": count,
                "seconds": seconds,
                "spread": made.spread,
            }
        )
        return
    say(f"{_count(spool.total, 'image')} to do, {spool.made} done already")
    if not made.tried:
        return
    say(
        f"about {made.megapixels:,.1f} MP, and {made.bytes_out / 1e6:,.1f} MB of results,"
        f" by {made.tried} images; {made.failed} of these failed"
    )
    say(
        f"about {_duration(seconds)} with {_count(count, 'worker')}, give or take"
        f" {2 * made.spread:.0%}: {made.worker_seconds / 3600:.2f} hours of one worker"
    )
