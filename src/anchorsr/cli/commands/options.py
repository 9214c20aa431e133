"""Options shared by several commands, and how they are parsed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated

import typer

from anchorsr.cli.usage import UsageError
from anchorsr.engines.runtimes import ENGINES, MOST_THREADS, NATIVE, default_threads
from anchorsr.engines.selection import AUTO, installed_engines
from anchorsr.errors import OutputError, unknown_choice
from anchorsr.inference import sizes
from anchorsr.models.registry import AUTO_MODEL, list_models
from anchorsr.utils.files import check_free


def complete_from(choices: Iterable[str]) -> Callable[[str], list[str]]:
    """Make a shell completion out of a fixed set of names."""
    names = list(choices)

    def complete(incomplete: str) -> list[str]:
        return [name for name in names if name.startswith(incomplete)]

    return complete


def refuse_nan(value: float | None) -> float | None:
    """Refuse "nan", which no limit of an option keeps out."""
    if value is not None and math.isnan(value):
        raise typer.BadParameter("'nan' is not a number.")
    return value


def complete_model(incomplete: str) -> list[str]:
    """Complete the name of a shipped model; without a match, the shell completes file names."""
    names = {full for model in list_models() for full in (model.name, model.path.stem)}
    return sorted(name for name in names if name.startswith(incomplete))


Factor = Annotated[int, typer.Option("--factor", "-f", min=2, max=4, help="Upscaling factor.")]
OptionalFactor = Annotated[
    int | None,
    typer.Option(
        "--factor", "-f", min=2, max=4, help="Upscaling factor; by default the model's, or 3."
    ),
]
Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        autocompletion=complete_model,
        help="A shipped model's name, or a .tflite file.",
    ),
]
ModelOrAuto = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        autocompletion=lambda incomplete: [
            *([AUTO_MODEL] if AUTO_MODEL.startswith(incomplete) else []),
            *complete_model(incomplete),
        ],
        help="auto, the one that fits the image; a shipped model's name; or a .tflite file.",
    ),
]
Threads = Annotated[
    int,
    typer.Option(min=0, max=MOST_THREADS, help="Number of threads; 0 means all processors."),
]


def _known_engine(name: str) -> str:
    if name not in _ENGINES:
        raise UsageError(unknown_choice("engine", name, _ENGINES))
    return name


_ENGINES = (AUTO, NATIVE, *ENGINES)
Engine = Annotated[
    str,
    typer.Option(
        callback=_known_engine,
        autocompletion=complete_from(_ENGINES),
        help=f"The runtime: {NATIVE}, our own kernel; {', '.join(ENGINES)}; or auto, the kernel"
        " where it runs the model, else the fastest of those installed that is exact enough here.",
    ),
]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose", help="Print the chosen engine and model, and why, on standard error."
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace existing files.")]
StrengthTexts = Annotated[
    list[str] | None,
    typer.Option(
        "--strength",
        help="How damaged the image is, for a model that takes strengths: jpeg=75 (quality),"
        " noise=5 or grain=11 (sigma), blur=0.7 (pixels), webp=60, video=28 (CRF), earlier=80 (a"
        " JPEG before the last). Repeatable, or with commas.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]

Engines = Annotated[
    list[str] | None,
    typer.Option(
        "--engine",
        autocompletion=complete_from((NATIVE, *ENGINES)),
        help=f"One of {NATIVE}, {', '.join(ENGINES)}; by default all that are installed."
        " Repeatable.",
    ),
]
ThreadCounts = Annotated[
    list[int] | None,
    typer.Option(
        "--threads",
        min=0,
        max=MOST_THREADS,
        help="Number of threads, 0 for all processors; by default 1 and all. Repeatable.",
    ),
]


def choose_engines(names: list[str] | None, *, native: bool = False) -> list[str]:
    """Return the engines that are named, by default all that are installed.

    Args:
        names: Those that are named.
        native: Whether our own kernel is one of the default.

    Raises:
        UsageError: There is no engine of such a name.
    """
    for name in names or []:
        if name not in (NATIVE, *ENGINES):
            raise UsageError(unknown_choice("engine", name, (NATIVE, *ENGINES)))
    return list(dict.fromkeys(names or [*[NATIVE] * native, *installed_engines()]))


def choose_threads(counts: list[int] | None) -> list[int]:
    """Return thread counts without duplicates, 0 replaced by all; by default one and all."""
    return sorted({count or default_threads() for count in counts or [1, 0]})


def check_plot(plot: Path | None, *, overwrite: bool) -> None:
    """Check that a plot can be drawn and written, before minutes of measuring.

    Raises:
        OutputError: It is not an `.svg` file, or may not be written.
        MissingDependencyError: matplotlib is not installed.
    """
    if plot is None:
        return
    if plot.suffix.lower() != ".svg":
        raise OutputError(f"{plot} does not end with .svg, which is the only format of plots")
    check_free(plot, overwrite=overwrite)
    from anchorsr.bench.plots import check_matplotlib

    check_matplotlib()


def parse_size(text: str) -> tuple[int, int]:
    """Parse a size that a person typed, WIDTHxHEIGHT.

    Returns:
        Height and width, in this order as everywhere inside the program.

    Raises:
        UsageError: The text is not a size.
    """
    height_and_width = sizes.parse_size(text)
    if height_and_width is None:
        raise UsageError(f"--size is WIDTHxHEIGHT, such as 640x360, not {text!r}")
    return height_and_width
