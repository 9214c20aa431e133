"""Options that several commands have, how they are read, and tables that several print."""

from __future__ import annotations

import re
from typing import Annotated

import typer
from rich.table import Table

from anchorsr.choosing import AUTO
from anchorsr.engines import ENGINES
from anchorsr.evaluate import Score
from anchorsr.terminal import print_table

Factor = Annotated[int, typer.Option("--factor", "-f", min=2, max=4, help="Times larger.")]
OptionalFactor = Annotated[
    int | None,
    typer.Option("--factor", "-f", min=2, max=4, help="Times larger; what the model does, or 3."),
]
Model = Annotated[
    str, typer.Option("--model", "-m", help="A shipped model's name, or a .tflite file.")
]
Threads = Annotated[
    int, typer.Option(min=0, max=1024, help="Processor threads; 0 takes all that there are.")
]


def _known_engine(name: str) -> str:
    if name not in _ENGINES:
        raise typer.BadParameter(f"{name!r} is none of {', '.join(_ENGINES)}")
    return name


_ENGINES = (AUTO, *ENGINES)
Engine = Annotated[
    str,
    typer.Option(
        callback=_known_engine,
        help=f"What runs the model: {', '.join(ENGINES)}; or auto, the fastest of those that are"
        " installed and exact enough here.",
    ),
]
Verbose = Annotated[
    bool, typer.Option("--verbose", help="Say on standard error which engine is taken, and why.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace files that exist.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a script to read.")]


def parse_size(text: str) -> tuple[int, int]:
    """Height and width."""
    sides = re.fullmatch("([1-9][0-9]{0,4})x([1-9][0-9]{0,4})", text.lower())
    if sides is None:
        raise typer.BadParameter(f"--size is height x width, such as 360x640, not {text!r}")
    return int(sides[1]), int(sides[2])


def print_scores(scores: list[Score]) -> None:
    table = Table("model", "set", "pictures", "PSNR RGB", "PSNR Y", "SSIM Y")
    for score in scores:
        table.add_row(
            score.method,
            score.test_set,
            str(score.pictures),
            f"{score.psnr_rgb:.3f}",
            f"{score.psnr_y:.3f}",
            f"{score.ssim_y:.4f}",
        )
    print_table(table)
