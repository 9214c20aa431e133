"""The `upscale` command: images and folders of images."""

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
    ModelOrAuto,
    OptionalFactor,
    StrengthTexts,
    Threads,
    Verbose,
    complete_from,
    parse_size,
)
from anchorsr.cli.terminal import bar, complain, complain_of_all, print_json, remark
from anchorsr.cli.usage import UsageError
from anchorsr.data.strengths import parse_strengths
from anchorsr.engines.selection import AUTO
from anchorsr.errors import ImageError, OutputError, StoppedError, unknown_choice
from anchorsr.images.formats import SUFFIXES
from anchorsr.inference.automatic import Selection
from anchorsr.inference.batch import Job, plan_jobs
from anchorsr.inference.pipeline import JobResult, preview, upscale_files
from anchorsr.inference.sizes import TargetSize
from anchorsr.inference.upscaler import ImageUpscaler
from anchorsr.models.registry import AUTO_MODEL
from anchorsr.video.codecs import SUFFIXES as VIDEO_SUFFIXES

_FORMAT_NAMES = [suffix.removeprefix(".") for suffix in SUFFIXES]
_READ_VIDEO_SUFFIXES = (*VIDEO_SUFFIXES, ".avi", ".3gp", ".mpg", ".mpeg", ".ts", ".wmv")


def upscale_command(
    images: Annotated[
        list[Path],
        typer.Argument(
            help="Images, or folders of images.", default_factory=list, show_default=False
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="A file for one image, else a folder, made if need be."
        ),
    ] = None,
    factor: OptionalFactor = None,
    model: ModelOrAuto = AUTO_MODEL,
    strengths: StrengthTexts = None,
    scale: Annotated[
        float | None, typer.Option(help="How many times larger, or smaller; any number, like 2.5.")
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            help="WIDTHxHEIGHT, such as 3840x2160. The aspect ratio is kept: the result fits"
            " inside."
        ),
    ] = None,
    width: Annotated[
        int | None, typer.Option(min=1, help="In pixels; the height follows the aspect ratio.")
    ] = None,
    height: Annotated[
        int | None, typer.Option(min=1, help="In pixels; the width follows the aspect ratio.")
    ] = None,
    stretch: Annotated[
        bool, typer.Option("--stretch", help="Exactly --size, whatever the aspect ratio.")
    ] = False,
    format_name: Annotated[
        str | None,
        typer.Option(
            "--format",
            autocompletion=complete_from(_FORMAT_NAMES),
            help=f"Of all results: {', '.join(_FORMAT_NAMES)}.",
        ),
    ] = None,
    quality: Annotated[
        int, typer.Option(min=1, max=100, help="Quality of JPEG, WebP, AVIF and HEIC.")
    ] = 92,
    threads: Threads = 0,
    engine: Engine = AUTO,
    force: Force = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be done, and stop.")
    ] = False,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Upscale images.

    Reads and writes PNG, JPEG, WebP, TIFF, AVIF, GIF and HEIC, including animations and 16 bits.
    The suffix of the output chooses the format. Without -o the result is written beside the
    original as NAME_x3. Colour profile, transparency and metadata are kept. Existing files are not
    replaced without --force.

    The model `auto` looks at each image: `photo` removes the damage of JPEG, noise, scans and
    video while it upscales, and clean images go to `quality`. --strength replaces what it measures:
    higher sigmas smooth more. --model quality leaves all damage as it is. --verbose says what was
    taken and why.

    Folders are searched recursively. Existing results are skipped, so the same command resumes
    after an interrupt, and several processes can share the work. A bad file does not stop the
    others; bad files are listed at the end.

    Examples:

        anchorsr upscale photo.jpg

        anchorsr upscale photo.jpg -o larger.png --size 3840x2160

        anchorsr upscale holiday/ -o holiday-large/ --scale 2.5 --quality 95
    """
    _check_inputs(images)
    target = _target_size(scale, size, width, height, stretch)
    suffix = _suffix(format_name)
    upscaler = ImageUpscaler(
        model,
        factor,
        target,
        threads=threads or None,
        engine=engine,
        strengths=parse_strengths(strengths or []),
    )
    if verbose:
        remark(f"engine {upscaler.engine}: {upscaler.why}")
    jobs = plan_jobs(images, output, label=upscaler.label, suffix=suffix, overwrite=force)
    if not dry_run:
        running = upscale_files(jobs, upscaler, quality=quality, overwrite=force)
    else:
        running = preview(jobs, upscaler, overwrite=force)
    results = _follow(jobs, running, dry_run=dry_run, as_json=as_json, force=force, verbose=verbose)
    failed = [result for result in results if result.error is not None]
    if not as_json:
        _summarize(results, failed)
    else:
        rows = [_to_row(result, dry_run=dry_run) for result in results]
        print_json(rows)
    if failed:
        raise typer.Exit(1)


def _check_inputs(images: list[Path]) -> None:
    if not images:
        raise typer.BadParameter("name at least one image or folder to upscale")
    for path in images:
        if path.suffix.lower() in _READ_VIDEO_SUFFIXES and not path.is_dir():
            raise ImageError(f"{path} is a video: use anchorsr video {path}")


def _follow(
    jobs: list[Job],
    running: Iterable[JobResult],
    *,
    dry_run: bool,
    as_json: bool,
    force: bool,
    verbose: bool,
) -> list[JobResult]:
    """Show each result as it comes; return all. Raises StoppedError on Ctrl-C if several."""
    results: list[JobResult] = []
    hidden = len(jobs) == 1 or as_json or dry_run
    try:
        with bar("Upscaling", len(jobs), hidden=hidden) as advance:
            for result in running:
                advance()
                results.append(result)
                if verbose and result.selection is not None:
                    remark(f"{result.job.source}: {_describe_model(result.selection)}")
                if result.error is not None:
                    complain(result.error)
                elif not as_json and (dry_run or not result.skipped):
                    print(_describe(result) if dry_run else result.job.target, flush=True)
    except KeyboardInterrupt:
        if len(jobs) == 1:
            raise
        done = sum(result.error is None and not result.job.left_out for result in results)
        total = sum(not job.left_out for job in jobs)
        again = "the same command resumes with the others"
        if force:
            again = "the same command without --force makes the missing ones"
        raise StoppedError(f"{done} of {total} images are done; {again}") from None
    return results


def _summarize(results: list[JobResult], failed: list[JobResult]) -> None:
    """Print, on standard error, what was skipped and what failed."""
    for words, count in Counter(result.skipped for result in results if result.skipped).items():
        remark(f"{count} skipped: {words}")
    if failed and len(results) > 1:
        sources = [result.job.source for result in failed]
        complain_of_all(f"{len(failed)} of {len(results)} failed", sources)


def _describe(result: JobResult) -> str:
    """Return one line on what would be done."""
    source, target = result.job.source, result.job.target
    if result.size is None or result.target_size is None:
        return f"{target}: skipped, {result.skipped}"
    (height, width), (target_height, target_width) = result.size, result.target_size
    return f"{source} {width}x{height} -> {target} {target_width}x{target_height}"


def _describe_model(selection: Selection) -> str:
    strengths = selection.strengths.describe()
    told = f", {strengths}" if strengths else ""
    why = f": {selection.why}" if selection.why else ""
    return f"model {selection.model}{told}{why}"


def _to_row(result: JobResult, *, dry_run: bool) -> dict[str, Any]:
    """Return a result as JSON shows it."""
    row: dict[str, Any] = {
        "input": str(result.job.source),
        "output": None if result.job.left_out else str(result.job.target),
        "status": "planned" if dry_run else "done",
    }
    if result.error is not None:
        row.update(status="failed", error=str(result.error))
    elif result.skipped:
        row.update(status="skipped", reason=result.skipped)
    if result.size is not None:
        row.update(zip(("input_height", "input_width"), result.size, strict=True))
    if result.target_size is not None:
        row.update(zip(("output_height", "output_width"), result.target_size, strict=True))
    if result.selection is not None:
        row.update(
            model=str(result.selection.model),
            strengths=result.selection.strengths.in_units(),
            why=result.selection.why,
        )
    return row


def _target_size(
    scale: float | None, size: str | None, width: int | None, height: int | None, stretch: bool
) -> TargetSize:
    """Return the size that the options ask for, or a usage error if they contradict."""
    if size is not None:
        if (width, height) != (None, None):
            raise typer.BadParameter("--size excludes --width and --height")
        height, width = parse_size(size)
    try:
        return TargetSize(scale, height, width, stretch)
    except OutputError as error:
        raise typer.BadParameter(str(error)) from error


def _suffix(format_name: str | None) -> str | None:
    if format_name is None:
        return None
    suffix = f".{format_name.lower().removeprefix('.')}"
    if suffix not in SUFFIXES:
        raise UsageError(unknown_choice("format", format_name, _FORMAT_NAMES))
    return suffix
