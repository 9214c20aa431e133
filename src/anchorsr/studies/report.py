"""One page with the studies that fit into a stated time.

A study is cut into pieces that are measured one after another, in turns with those of the other
studies. A piece begins only if the longest one of its study so far would fit into the time that
is left; the page names those that did not.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from anchorsr.bench.speed import find_quality
from anchorsr.bench.system_info import describe_machine
from anchorsr.engines.runtimes import default_threads
from anchorsr.engines.selection import installed_engines
from anchorsr.errors import AnchorSRError, DataError, OutputError, needs
from anchorsr.export.challenge import FIXED, build, measure_time, score
from anchorsr.models.registry import list_models, model_path, read_model
from anchorsr.studies.networks import Prediction, load_network, measure_networks
from anchorsr.studies.op_graphs import Precision
from anchorsr.studies.operators import PRECISIONS, Cost, compare_with_paper, measure_operators
from anchorsr.studies.tables import (
    Grid,
    challenge_grid,
    claim_grid,
    cost_grids,
    draw_costs,
    draw_predictions,
    failures,
    prediction_grid,
    study_grids,
    tail_grids,
)
from anchorsr.utils.files import check_free, check_not_input, publish, reason

_FACTOR = 3
_SIZE = (360, 640)
_WIDTHS = (28, 32)
_ROUNDS = 5
_TEST_SET = "BSD100"  # every shipped card has the figures of this one


class Piece(NamedTuple):
    """What is measured at once: the study it is of, its name, and what measures it."""

    study: str
    name: str
    measure: Callable[[], None]


@dataclass
class Findings:
    """What the pieces found, which of them were left out, and which failed and why."""

    costs: list[Cost] = field(default_factory=list)
    predictions: list[Prediction] = field(default_factory=list)
    scores: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


def write_report(
    output: Path,
    *,
    minutes: float,
    study: Path | None = None,
    overwrite: bool = False,
    on_piece: Callable[[str], None] | None = None,
) -> Findings:
    """Measure what there is time for and write a Markdown page, with its plots beside it.

    study: the JSON file of an `anchorsr study`, for its tables.
    on_piece: told the name of each piece before it is measured.
    Raises OutputError for a page or plot that may not be written, DataError for a study that
    is none, before anything is measured.
    """
    if output.suffix.lower() != ".md":
        raise OutputError(f"{output} does not end with .md, which is what a report is written as")
    plots = {name: output.with_name(f"{output.stem}-{name}.svg") for name in _PLOTS}
    for path in (output, *plots.values()):
        check_free(path, overwrite=overwrite)
        check_not_input(path, () if study is None else (study,))
    studied = None if study is None else read_study(study)
    found = Findings()
    run_pieces(list_pieces(found), found, seconds=60 * minutes, on_piece=on_piece)
    machine = describe_machine()
    drawn = {name: _draw(name, found, machine["processor"]) for name in plots}
    page = _page(
        found, studied, machine, minutes, {n: path.name for n, path in plots.items() if drawn[n]}
    )
    for name, text in drawn.items():
        if text is not None:
            publish(text.encode(), plots[name], overwrite=overwrite)
    publish(page.encode(), output, overwrite=overwrite)
    return found


def read_study(path: Path) -> dict[str, Any]:
    """What `anchorsr study --json` wrote. Raises DataError for another file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise KeyError("study")
        study_grids(found["study"])
        tail_grids(found["tails"])
    except OSError as error:
        raise DataError(f"{path} cannot be read: {reason(error)}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is not what anchorsr study --json writes") from error
    return found


def run_pieces(
    pieces: Sequence[Piece],
    found: Findings,
    *,
    seconds: float,
    on_piece: Callable[[str], None] | None = None,
) -> None:
    """Measure those that fit; the rest, and those that fail, are noted."""
    end = time.monotonic() + seconds
    longest: dict[str, float] = {}
    for study, name, measure in pieces:
        started = time.monotonic()
        if started + longest.get(study, 0.0) >= end:
            found.left_out.append(f"{study}: {name}")
            continue
        if on_piece is not None:
            on_piece(f"{study}: {name}")
        try:
            measure()
        except AnchorSRError as error:
            found.failed.append(f"{study}: {name}: {error}")
        longest[study] = max(longest.get(study, 0.0), time.monotonic() - started)


def list_pieces(found: Findings) -> list[Piece]:
    """Every piece of every study, the studies in turns; each adds what it finds to `found`."""
    studies = (
        _operator_pieces(found), _network_pieces(found),
        _challenge_pieces(found),
    )  # fmt: skip
    return [piece for turn in zip_longest(*studies) for piece in turn if piece is not None]


def _operator_pieces(found: Findings) -> list[Piece]:
    """Each width, engine, precision and number of threads; those that matter most come first."""

    def piece(channels: int, threads: int, engine: str, precision: Precision) -> Piece:
        def measure() -> None:
            found.costs += measure_operators(
                channels=[channels],
                precisions=[precision],
                engines=[engine],
                threads=[threads],
                size=_SIZE,
                rounds=_ROUNDS,
            )

        name = f"{channels} channels, {engine}, {precision}, threads: {threads}"
        return Piece("operators", name, measure)

    return [
        piece(channels, threads, engine, precision)
        for channels in _WIDTHS
        for threads in dict.fromkeys((default_threads(), 1))
        for precision in reversed(PRECISIONS)
        for engine in installed_engines()
    ]


def _network_pieces(found: Findings) -> list[Piece]:
    def piece(name: str) -> Piece:
        def measure() -> None:
            found.predictions += measure_networks(
                [load_network(name)],
                engines=installed_engines(),
                threads=[1],  # with more, short operators measured alone wait for them
                rounds=_ROUNDS,
            )

        return Piece("networks", name, measure)

    with needs("PyTorch", "train"):
        from anchorsr.networks.registry import NETWORKS
    return [piece(name) for name in NETWORKS if name != "residual_form"]  # a study of its own


def _challenge_pieces(found: Findings) -> list[Piece]:
    def piece(name: str) -> Piece:
        def measure() -> None:
            milliseconds = measure_time(build(read_model(model_path(name))[1])[FIXED])
            psnr = find_quality([name], factor=_FACTOR, test_set=_TEST_SET)[name]
            points = score(psnr, milliseconds)
            found.scores.append({"model": name, "psnr": psnr, "ms": milliseconds, "score": points})

        return Piece("challenge", name, measure)

    return [piece(model.path.stem) for model in list_models() if model.factor == _FACTOR]


_PLOTS = ("operators", "networks")


def _draw(name: str, found: Findings, processor: str) -> str | None:
    if name == "operators":
        return draw_costs(found.costs, processor) if found.costs else None
    return draw_predictions(found.predictions, processor) if found.predictions else None


def _page(
    found: Findings,
    studied: dict[str, Any] | None,
    machine: dict[str, Any],
    minutes: float,
    plots: dict[str, str],
) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    parts = [
        "# Studies",
        f"Made by `anchorsr report --minutes {minutes:g}{' --study FILE' if studied else ''}` on"
        f" {machine['processor']}"
        f" ({machine['cores']} cores, {machine['system']}; {versions}).",
    ]
    sections: list[tuple[str, str, list[Grid], list[str]]] = [
        (
            "Operators",
            _OPERATORS,
            [*cost_grids(found.costs), *_claims(found.costs)],
            failures(found.costs),
        ),
        (
            "Networks",
            _NETWORKS,
            [prediction_grid(found.predictions)] if found.predictions else [],
            failures(found.predictions),
        ),
        (
            "Residual forms and the baseline",
            _STUDY + _where(studied),
            [*study_grids(studied["study"]), *tail_grids(studied["tails"])] if studied else [],
            [],
        ),
        (
            "Challenge",
            "Of the files that were shipped when this page was made.",
            [challenge_grid(found.scores, _TEST_SET)] if found.scores else [],
            [],
        ),
    ]
    for title, words, grids, notes in sections:
        if not grids:
            continue
        parts += [f"## {title}", words]
        if title.lower() in plots:
            parts.append(f"![{title}]({plots[title.lower()]})")
        parts += [grid.markdown() for grid in grids]
        parts += [f"- {note}" for note in notes]
    for title, lines in (("Left out for lack of time", found.left_out), ("Failed", found.failed)):
        if lines:
            parts += [f"## {title}", "\n".join(f"- {line}" for line in lines)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _where(studied: dict[str, Any] | None) -> str:
    """On which machine a study's milliseconds were measured, if it says so."""
    machine = (studied or {}).get("machine")
    processor = machine.get("processor") if isinstance(machine, dict) else None
    return f" Milliseconds were measured on {processor}." if processor else ""


def _claims(costs: Sequence[Cost]) -> list[Grid]:
    claims = compare_with_paper(costs)
    return [claim_grid(claims)] if claims else []


_OPERATORS = (
    "Each from graphs of that operator alone, the edges of the graph taken off; a residual is what"
    " three convolutions and depth-to-space take longer with it than without. `anchorsr probe"
    " operators` measures the same."
)
_NETWORKS = (
    "The sum of what each operator costs by itself beside what the whole takes, with random"
    " weights, except in shipped models. `anchorsr probe network NAME` lists the operators."
)
_STUDY = (
    "Networks trained on one budget by `anchorsr study`; recipes/studies/ has ABPN's convolutions"
    " with each residual form (`networks.residual_forms`), and FSRCNN."
)
