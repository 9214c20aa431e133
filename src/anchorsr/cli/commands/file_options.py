"""Options of `upscale` on how files are read and written."""

from __future__ import annotations

from typing import Annotated

import typer

from anchorsr.images.formats import MAX_PIXELS

MAX_MEGAPIXELS = MAX_PIXELS // 1_000_000

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
