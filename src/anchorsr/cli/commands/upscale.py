"""What people do with images: make them larger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from anchorsr.cli.commands.options import (
    AsJson,
    Engine,
    Force,
    Model,
    OptionalFactor,
    Threads,
    Verbose,
)
from anchorsr.cli.terminal import bar, complain, complain_of_all, print_json, remark
from anchorsr.engines.selection import AUTO
from anchorsr.errors import OutputError, StoppedError
from anchorsr.images.formats import SUFFIXES
from anchorsr.inference.batch import Job, plan
from anchorsr.inference.pipeline import Done, preview, upscale_files
from anchorsr.inference.sizes import TargetSize, parse_size
from anchorsr.inference.upscaler import Enlarger
from anchorsr.models.registry import DEFAULT

_FORMAT_NAMES = [suffix.removeprefix(".") for suffix in SUFFIXES]


def upscale_command(
    images: Annotated[list[Path], typer.Argument(help="Images, or folders of images.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="A file for one image, else a folder, made if need be."
        ),
    ] = None,
    factor: OptionalFactor = None,
    model: Model = DEFAULT,
    scale: Annotated[
        float | None, typer.Option(help="Times larger or smaller, such as 2.5; any number.")
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            help="Width x height, such as 3840x2160; the aspect is kept, so the result fits inside."
        ),
    ] = None,
    width: Annotated[
        int | None, typer.Option(min=1, help="In pixels; the height follows the aspect.")
    ] = None,
    height: Annotated[
        int | None, typer.Option(min=1, help="In pixels; the width follows the aspect.")
    ] = None,
    stretch: Annotated[
        bool, typer.Option("--stretch", help="Exactly --size, whatever the aspect.")
    ] = False,
    format_name: Annotated[
        str | None, typer.Option("--format", help=f"Of all results: {', '.join(_FORMAT_NAMES)}.")
    ] = None,
    quality: Annotated[
        int, typer.Option(min=1, max=100, help="Of JPEG, WebP, AVIF and HEIC.")
    ] = 92,
    threads: Threads = 0,
    engine: Engine = AUTO,
    force: Force = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would become what, and stop.")
    ] = False,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Make images larger.

    PNG, JPEG, WebP, TIFF, AVIF, GIF and HEIC in and out, by the suffix of the output; also
    animations and 16 bits. Without -o the result is written beside the original as NAME_x3.
    Colour profile, transparency and metadata are kept; files that exist are not replaced
    without --force.

    Folders are taken with all that is below them. What is there already is skipped, so the
    same command goes on after an interrupt, and several can share the work. A bad file does
    not stop the others; the bad ones are listed at the end.

    Examples:

        anchorsr upscale photo.jpg

        anchorsr upscale photo.jpg -o larger.png --size 3840x2160

        anchorsr upscale holiday/ -o holiday-large/ --scale 2.5 --quality 95
    """
    wanted = _wanted(scale, size, width, height, stretch)
    suffix = _suffix(format_name)
    enlarger = Enlarger(model, factor, wanted, threads=threads or None, engine=engine)
    if verbose:
        remark(f"engine {enlarger.engine}: {enlarger.why}")
    jobs = plan(images, output, label=enlarger.label, suffix=suffix, overwrite=force)
    if dry_run:
        results = preview(jobs, enlarger, overwrite=force)
    else:
        results = upscale_files(jobs, enlarger, quality=quality, overwrite=force)
    ended = _follow(jobs, results, dry_run=dry_run, as_json=as_json, force=force)
    if as_json:
        print_json([_entry(done, dry_run=dry_run) for done in ended])
    failed = [done for done in ended if done.error is not None]
    if not as_json:
        for words, count in Counter(done.skipped for done in ended if done.skipped).items():
            remark(f"{count} skipped: {words}")
        if failed and len(jobs) > 1:
            sources = [done.job.source for done in failed]
            complain_of_all(f"{len(failed)} of {len(jobs)} failed", sources)
    if failed:
        raise typer.Exit(1)


def _follow(
    jobs: list[Job], results: Iterable[Done], *, dry_run: bool, as_json: bool, force: bool
) -> list[Done]:
    """Show each result as it comes; all of them. Raises StoppedError on Ctrl-C between several."""
    ended: list[Done] = []
    hidden = len(jobs) == 1 or as_json or dry_run
    try:
        with bar("Upscaling", len(jobs), hidden=hidden) as advance:
            for done in results:
                advance()
                ended.append(done)
                if done.error is not None:
                    complain(done.error)
                elif not as_json and (dry_run or not done.skipped):
                    print(_line(done) if dry_run else done.job.target, flush=True)
    except KeyboardInterrupt:
        if len(jobs) == 1:
            raise
        made = sum(done.error is None and not done.job.left_out for done in ended)
        wanted = sum(not job.left_out for job in jobs)
        again = "the same command goes on with the others"
        if force:
            again = "without --force the same command makes those that are missing"
        raise StoppedError(f"{made} of {wanted} images are done; {again}") from None
    return ended


def _line(done: Done) -> str:
    """What would become of one image."""
    if done.size is None or done.target_size is None:
        return f"{done.job.target} is {done.skipped}"
    (height, width), (target_height, target_width) = done.size, done.target_size
    return f"{done.job.source} {width}x{height} -> {done.job.target} {target_width}x{target_height}"


def _entry(done: Done, *, dry_run: bool) -> dict[str, Any]:
    """One result as JSON has it."""
    entry: dict[str, Any] = {
        "input": str(done.job.source),
        "output": None if done.job.left_out else str(done.job.target),
        "status": "planned" if dry_run else "done",
    }
    if done.error is not None:
        entry.update(status="failed", error=str(done.error))
    elif done.skipped:
        entry.update(status="skipped", reason=done.skipped)
    if done.size is not None:
        entry.update(zip(("input_height", "input_width"), done.size, strict=True))
    if done.target_size is not None:
        entry.update(zip(("output_height", "output_width"), done.target_size, strict=True))
    return entry


def _wanted(
    scale: float | None, size: str | None, width: int | None, height: int | None, stretch: bool
) -> TargetSize:
    """The size that the options ask for; wrong usage where they do not agree."""
    if size is not None:
        if (width, height) != (None, None):
            raise typer.BadParameter("--size excludes --width and --height")
        parsed = parse_size(size)
        if parsed is None:
            raise typer.BadParameter(f"--size is width x height, such as 3840x2160, not {size!r}")
        height, width = parsed
    try:
        return TargetSize(scale, height, width, stretch)
    except OutputError as error:
        raise typer.BadParameter(str(error)) from error


def _suffix(format_name: str | None) -> str | None:
    if format_name is None:
        return None
    suffix = f".{format_name.lower().removeprefix('.')}"
    if suffix not in SUFFIXES:
        raise typer.BadParameter(
            f"--format is one of {', '.join(_FORMAT_NAMES)}, not {format_name!r}"
        )
    return suffix
