"""Compare a model with bicubic on a web page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from anchorsr.cli.commands.options import Force, ModelOrAuto, OptionalFactor, Threads
from anchorsr.cli.terminal import say
from anchorsr.evaluation.compare import compare, page, page_path
from anchorsr.images.io import check_readable
from anchorsr.inference.upscaler import Upscaler
from anchorsr.models.registry import AUTO_MODEL
from anchorsr.utils.files import check_free, publish


def compare_command(
    image: Annotated[Path, typer.Argument(help="An image.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="The page; by default NAME_compare.html beside the image."
        ),
    ] = None,
    original: Annotated[
        Path | None,
        typer.Option(help="The large original, to show as well and to measure PSNR against."),
    ] = None,
    factor: OptionalFactor = None,
    model: ModelOrAuto = AUTO_MODEL,
    threads: Threads = 0,
    force: Force = False,
) -> None:
    """Write a web page that compares an image upscaled by bicubic and by a model.

    One HTML file that loads nothing from elsewhere: a divider to drag, zoom, the file sizes of
    both results and the time that each took.

    Examples:

        anchorsr compare photo.jpg

        anchorsr compare small.png --original large.png -m mine.tflite -o mine.html
    """
    inputs = [path for path in (image, original) if path is not None]
    for path in inputs:
        check_readable(path)
    target = page_path(image, output, inputs=inputs)
    check_free(target, overwrite=force)
    upscaler = Upscaler(model, factor, threads=threads or None)
    result = compare(image, upscaler, original=original)
    publish(page(result).encode(), target, overwrite=force)
    say(target)
