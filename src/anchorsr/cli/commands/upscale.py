"""The `upscale` command: images and folders of images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

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
    Threads,
    Verbose,
)
from anchorsr.cli.pipes import Places, piped
from anchorsr.cli.terminal import bar, complain, complain_of_all, print_json, remark, say
from anchorsr.cli.usage import UsageError
from anchorsr.cli.watch import check_watched, new_jobs
from anchorsr.data.strengths import parse_strengths
from anchorsr.engines.selection import AUTO
from anchorsr.errors import ImageError, StoppedError
from anchorsr.inference.batch import Job, plan_jobs
from anchorsr.inference.image_upscaler import ImageUpscaler
from anchorsr.inference.pipeline import FileOptions, JobResult, preview, upscale_files
from anchorsr.inference.shards import Shard, parse_shard, shard_jobs
from anchorsr.models.registry import AUTO_MODEL
from anchorsr.video.codecs import READ_SUFFIXES as VIDEO_SUFFIXES


def upscale_command(
    images: Annotated[
        list[Path],
        typer.Argument(
            help="Images, comic books (.cbz), or folders of them; - for standard input.",
            default_factory=list,
            show_default=False,
        ),
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            help="A file for one image, else a folder, made if need be; NAME/ is always a folder,"
            " and - is standard output.",
        ),
    ] = None,
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
    threads: Threads = 0,
    engine: Engine = AUTO,
    force: Force = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be done, and stop.")
    ] = False,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch", help="Go on with images that come into the folders later, until Ctrl-C."
        ),
    ] = False,
    shard_text: Annotated[
        str | None,
        typer.Option(
            "--shard",
            metavar="K/N",
            help="Only the K-th of N parts, such as 3/100, by a hash of the relative path: for N"
            " jobs of a scheduler.",
        ),
    ] = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Upscale images.

    Reads and writes PNG, JPEG, WebP, TIFF, AVIF, GIF, HEIC and BMP, including animations and 16
    bits. The suffix of the output chooses the format. Without -o the result is written beside the
    original as NAME_x3. Colour profile, transparency and metadata are kept; a note says what is
    not. Existing files are not replaced without --force.

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

        anchorsr upscale scans/ -o scans-large/ --watch

        cat photo.jpg | anchorsr upscale - -o - > larger.jpg
    """
    _check_inputs(images)
    if watch:
        if dry_run or as_json:
            raise UsageError("--watch excludes --dry-run and --json")
        check_watched(images, output)
    shard = _shard(shard_text)
    target = target_size(scale, size, width, height, stretch)
    suffix = format_suffix(format_name)
    upscaler = ImageUpscaler(
        model,
        factor,
        target,
        threads=threads or None,
        engine=engine,
        strengths=parse_strengths(strengths or []),
        wraps=wrap,
    )
    if verbose:
        remark(f"engine {upscaler.engine}: {upscaler.why}")
    options = FileOptions(quality, lossless, force, keep_times, max_megapixels * 1_000_000)
    run = preview if dry_run else upscale_files
    others: Counter[str] = Counter()
    with piped(images, output, suffix) as places:
        if places.is_piped and as_json:
            raise UsageError("--json and an image cannot both go to standard output")
        if shard is not None and places.temporary:
            raise UsageError("--shard divides files, and - is a single image")

        def plan(others: Counter[str] | None = None, *, told: bool = False) -> list[Job]:
            jobs = plan_jobs(
                places.inputs,
                places.output,
                label=upscaler.label,
                suffix=None if places.is_piped else suffix,
                overwrite=force,
                is_folder=places.is_folder,
                others=others,
            )
            if shard is None:
                return jobs
            chosen = shard_jobs(jobs, places.inputs, shard)
            if told:
                remark(f"shard {shard} has {len(chosen)} of {len(jobs)} images")
            return chosen

        printer = _Printer(places, dry_run=dry_run, as_json=as_json, force=force, verbose=verbose)
        if watch:
            remark("watching; Ctrl-C stops")
            for some in new_jobs(images, plan):
                printer.summarize(printer.follow(some, run(some, upscaler, options)), others)
        jobs = plan(others, told=True)
        results = printer.follow(jobs, run(jobs, upscaler, options))
        printer.summarize(results, others)
        if any(result.error is not None for result in results):
            raise typer.Exit(1)


def _check_inputs(images: list[Path]) -> None:
    if not images:
        raise typer.BadParameter("name at least one image or folder to upscale")
    for path in images:
        if path.suffix.lower() in VIDEO_SUFFIXES and not path.is_dir():
            raise ImageError(f"{path} is a video: use anchorsr video {path}")


@dataclass(frozen=True)
class _Printer:
    """Prints results: paths, or what would be done, or JSON; and on standard error all else."""

    places: Places
    dry_run: bool
    as_json: bool
    force: bool
    verbose: bool = False

    def follow(self, jobs: list[Job], running: Iterable[JobResult]) -> list[JobResult]:
        """Show each result as it comes; return all. Raises StoppedError on Ctrl-C if several."""
        results: list[JobResult] = []
        hidden = len(jobs) == 1 or self.as_json or self.dry_run
        try:
            with bar("Upscaling", len(jobs), hidden=hidden) as advance:
                for result in running:
                    advance()
                    results.append(result)
                    if self.verbose and result.selection is not None:
                        source = self.places.shown(result.job.source)
                        remark(f"{source}: {result.selection.describe()}")
                    if result.error is not None:
                        complain(self.places.shown(result.error))
                    elif self.dry_run and not self.as_json:
                        say(self.places.shown(_describe(result)))
                    elif not (self.as_json or self.places.is_piped or result.skipped):
                        say(result.job.target)
        except KeyboardInterrupt:
            if len(jobs) == 1:
                raise
            done = sum(result.error is None and not result.job.left_out for result in results)
            total = sum(not job.left_out for job in jobs)
            again = "the same command resumes with the others"
            if self.force:
                again = "the same command without --force makes the missing ones"
            raise StoppedError(f"{done} of {total} images are done; {again}") from None
        return results

    def summarize(self, results: list[JobResult], others: Counter[str]) -> None:
        """Print what was left out, what was skipped and what failed."""
        if self.as_json:
            print_json([_to_row(result, self) for result in results])
        sources: dict[str, list[Path]] = {}
        for result in results:
            for note in result.notes:
                sources.setdefault(note, []).append(result.job.source)
        for note, noted in sources.items():
            one = self.places.shown(noted[0])
            remark(f"{one}: {note}" if len(noted) == 1 else f"{len(noted)} images: {note}")
        skipped = Counter(result.skipped for result in results if result.skipped)
        for words, count in skipped.items() if not self.as_json else ():
            remark(f"{count} skipped: {words}")
        if others:
            kinds = ", ".join(suffix or "no suffix" for suffix, _ in others.most_common(8))
            remark(f"{others.total()} of other kinds left out: {kinds}")
        failed = [result.job.source for result in results if result.error is not None]
        if failed and len(results) > 1 and not self.as_json:
            complain_of_all(f"{len(failed)} of {len(results)} failed", failed)


def _describe(result: JobResult) -> str:
    """Return one line on what would be done."""
    source, target = result.job.source, result.job.target
    if result.pages:
        return f"{source} {result.pages} pages -> {target}"
    if result.size is None or result.target_size is None:
        return f"{target}: skipped, {result.skipped}"
    (height, width), (target_height, target_width) = result.size, result.target_size
    return f"{source} {width}x{height} -> {target} {target_width}x{target_height}"


def _to_row(result: JobResult, printer: _Printer) -> dict[str, Any]:
    """Return a result as JSON shows it."""
    shown = printer.places.shown
    row: dict[str, Any] = {
        "input": shown(result.job.source),
        "output": None if result.job.left_out else shown(result.job.target),
        "status": "planned" if printer.dry_run else "done",
    }
    if result.error is not None:
        row.update(status="failed", error=shown(result.error))
    elif result.skipped:
        row.update(status="skipped", reason=result.skipped)
    if result.size is not None:
        row.update(zip(("input_height", "input_width"), result.size, strict=True))
    if result.target_size is not None:
        row.update(zip(("output_height", "output_width"), result.target_size, strict=True))
    if result.selection is not None:
        row.update(result.selection.as_row())
    if result.pages:
        row["pages"] = result.pages
    if result.notes:
        row["notes"] = list(result.notes)
    return row


def _shard(text: str | None) -> Shard | None:
    shard = None if text is None else parse_shard(text)
    if text is not None and shard is None:
        raise UsageError(f"--shard is K/N with K from 1 to N, such as 3/100, not {text!r}")
    return shard
