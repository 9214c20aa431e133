"""Options on the size of results, and on how files are read and written."""

from __future__ import annotations

from typing import Annotated

import typer

from anchorsr.cli.commands.options import complete_from, parse_size
from anchorsr.cli.usage import UsageError
from anchorsr.errors import OutputError, unknown_choice
from anchorsr.images.formats import MAX_PIXELS, SUFFIXES
from anchorsr.inference.sizes import TargetSize

_FORMAT_NAMES = [suffix.removeprefix(".") for suffix in SUFFIXES]
MAX_MEGAPIXELS = MAX_PIXELS // 1_000_000

Scale = Annotated[
    float | None, typer.Option(help="How many times larger, or smaller; any number, like 2.5.")
]
Size = Annotated[
    str | None,
    typer.Option(
        help="WIDTHxHEIGHT, such as 3840x2160. The aspect ratio is kept: the result fits inside."
    ),
]
Width = Annotated[
    int | None, typer.Option(min=1, help="In pixels; the height follows the aspect ratio.")
]
Height = Annotated[
    int | None, typer.Option(min=1, help="In pixels; the width follows the aspect ratio.")
]
Stretch = Annotated[
    bool, typer.Option("--stretch", help="Exactly --size, whatever the aspect ratio.")
]
FormatName = Annotated[
    str | None,
    typer.Option(
        "--format",
        autocompletion=complete_from(_FORMAT_NAMES),
        help=f"Of all results: {', '.join(_FORMAT_NAMES)}.",
    ),
]
Quality = Annotated[int, typer.Option(min=1, max=100, help="Quality of JPEG, WebP, AVIF and HEIC.")]
Lossless = Annotated[
    bool,
    typer.Option(
        "--lossless",
        help="Write WebP and HEIC without loss, and nothing as JPEG, AVIF or GIF.",
    ),
]
Wrap = Annotated[
    bool,
    typer.Option("--wrap", help="For seamless textures: opposite edges of the result meet."),
]
KeepTimes = Annotated[
    bool,
    typer.Option("--keep-times", help="Give results the modification times of their originals."),
]
MaxMegapixels = Annotated[
    int,
    typer.Option(
        min=1,
        help="The largest image to read; all frames of an animation together may have 4 times as"
        " many pixels.",
    ),
]


def target_size(
    scale: float | None, size: str | None, width: int | None, height: int | None, stretch: bool
) -> TargetSize:
    """Return the size that the options ask for.

    Raises:
        BadParameter: They contradict one another.
    """
    if size is not None:
        if (width, height) != (None, None):
            raise typer.BadParameter("--size excludes --width and --height")
        height, width = parse_size(size)
    try:
        return TargetSize(scale, height, width, stretch)
    except OutputError as error:
        raise typer.BadParameter(str(error)) from error


def format_suffix(format_name: str | None) -> str | None:
    """Return the suffix of a format that a person named, with its dot; None if none was named.

    Raises:
        UsageError: There is no such format.
    """
    if format_name is None:
        return None
    suffix = f".{format_name.lower().removeprefix('.')}"
    if suffix not in SUFFIXES:
        raise UsageError(unknown_choice("format", format_name, _FORMAT_NAMES))
    return suffix
