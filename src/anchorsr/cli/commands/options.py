"""Options that several commands have, how they are read, and tables that several print."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from anchorsr.cli.terminal import print_table
from anchorsr.engines.runtimes import ENGINES, MOST_THREADS, default_threads
from anchorsr.engines.selection import AUTO, installed_engines
from anchorsr.errors import OutputError
from anchorsr.evaluation.evaluate import Score
from anchorsr.utils.files import check_free, is_same_file, publish
from anchorsr.utils.strict_json import to_json

Factor = Annotated[int, typer.Option("--factor", "-f", min=2, max=4, help="Times larger.")]
OptionalFactor = Annotated[
    int | None,
    typer.Option("--factor", "-f", min=2, max=4, help="Times larger; what the model does, or 3."),
]
Model = Annotated[
    str, typer.Option("--model", "-m", help="A shipped model's name, or a .tflite file.")
]
Threads = Annotated[
    int,
    typer.Option(min=0, max=MOST_THREADS, help="Processor threads; 0 takes all that there are."),
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

Engines = Annotated[
    list[str] | None,
    typer.Option(
        "--engine",
        help=f"One of {', '.join(ENGINES)}; all that are installed by default. May be given"
        " several times.",
    ),
]
ThreadCounts = Annotated[
    list[int] | None,
    typer.Option(
        "--threads",
        min=0,
        max=MOST_THREADS,
        help="Processor threads, 0 for all; 1 and all by default. May be given several times.",
    ),
]
STANDARD_OUTPUT = "-"
JsonFile = Annotated[
    str | None,
    typer.Option(
        "--json", help=f"A file for all figures as JSON; {STANDARD_OUTPUT} prints them instead."
    ),
]


def choose_engines(names: list[str] | None) -> list[str]:
    """Those that are named, or all that are installed."""
    for name in names or []:
        if name not in ENGINES:
            raise typer.BadParameter(f"no engine {name!r}; there are: {', '.join(ENGINES)}")
    return list(dict.fromkeys(names or installed_engines()))


def choose_threads(counts: list[int] | None) -> list[int]:
    """Those that are given, 0 meaning all; one and all by default."""
    return sorted({count or default_threads() for count in counts or [1, 0]})


def check_outputs(json_file: str | None, plot: Path | None, force: bool) -> None:
    """Minutes of measuring should not end with a name that cannot be written."""
    if plot is not None and plot.suffix.lower() != ".svg":
        raise OutputError(f"{plot} does not end with .svg, which is what a plot is written as")
    if json_file not in (None, STANDARD_OUTPUT):
        check_free(Path(str(json_file)), overwrite=force)
    if plot is not None:
        check_free(plot, overwrite=force)
        if json_file not in (None, STANDARD_OUTPUT) and is_same_file(Path(str(json_file)), plot):
            raise OutputError(f"{plot} is the plot: give another name for --json")


def write_json(report: Any, json_file: str | None, force: bool) -> None:
    """Print figures, or write them to a file, or neither, as --json says."""
    text = to_json(report, indent=1)
    if json_file == STANDARD_OUTPUT:
        print(text)
    elif json_file is not None:
        publish(f"{text}\n".encode(), Path(json_file), overwrite=force)


def parse_size(text: str) -> tuple[int, int]:
    """Height and width."""
    sides = re.fullmatch("([1-9][0-9]{0,4})x([1-9][0-9]{0,4})", text.lower())
    if sides is None:
        raise typer.BadParameter(f"--size is height x width, such as 360x640, not {text!r}")
    return int(sides[1]), int(sides[2])


def print_scores(scores: list[Score]) -> None:
    damaged = any(score.damage != "clean" for score in scores)
    columns = ["model", "set", *(["damage"] if damaged else [])]
    table = Table(*columns, "images", "PSNR RGB", "PSNR Y", "SSIM Y")
    for score in scores:
        table.add_row(
            score.method,
            score.test_set,
            *([score.damage] if damaged else []),
            str(score.images),
            f"{score.psnr_rgb:.3f}",
            f"{score.psnr_y:.3f}",
            f"{score.ssim_y:.4f}",
        )
    print_table(table)
