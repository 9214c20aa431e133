"""What people do with pictures: make them larger."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from anchorsr.choosing import AUTO
from anchorsr.commands.options import (
    AsJson,
    Engine,
    Force,
    Model,
    OptionalFactor,
    Threads,
    Verbose,
)
from anchorsr.jobs import plan, upscale_files
from anchorsr.models import DEFAULT
from anchorsr.terminal import bar, complain, print_json, remark
from anchorsr.upscale import Upscaler


def upscale_command(
    pictures: Annotated[list[Path], typer.Argument(help="Pictures, or folders of pictures.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="A file for one picture, else a folder, made if need be."
        ),
    ] = None,
    factor: OptionalFactor = None,
    model: Model = DEFAULT,
    quality: Annotated[int, typer.Option(min=1, max=100, help="Of JPEG and WebP.")] = 92,
    threads: Threads = 0,
    engine: Engine = AUTO,
    force: Force = False,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Make pictures larger.

    PNG, JPEG and WebP in and out, by the suffix of the output. Without -o the result is
    written beside the original as NAME_x3. Orientation, colour profile, transparency and EXIF
    are kept; files that exist are not replaced without --force.

    Examples:

        anchorsr upscale photo.jpg

        anchorsr upscale photo.jpg -o larger.png

        anchorsr upscale holiday/ -o holiday-large/ --quality 95
    """
    upscaler = Upscaler(model, factor, threads=threads or None, engine=engine)
    if verbose:
        remark(f"engine {upscaler.engine}: {upscaler.why}")
    jobs = plan(pictures, output, factor=upscaler.factor, overwrite=force)
    failed = 0
    written: list[dict[str, Any]] = []
    with bar("Upscaling", len(jobs), hidden=len(jobs) == 1 or as_json) as advance:
        for done in upscale_files(jobs, upscaler, quality=quality, overwrite=force):
            advance()
            entry = {"input": str(done.job.source), "output": str(done.job.target)}
            if done.error is not None:
                failed += 1
                entry["error"] = str(done.error)
                complain(done.error)
            elif not as_json:
                print(done.job.target, flush=True)
            written.append(entry)
    if as_json:
        print_json(written)
    if failed:
        raise typer.Exit(1)
