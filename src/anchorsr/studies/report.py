"""One page with the studies that fit into a given time.

Each study is a list of measurements; the studies take turns. A measurement begins only if the
longest one of its study so far would fit into the time that is left; the page lists the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from anchorsr.bench.plots import check_matplotlib
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
    output_stage_grids,
    prediction_grid,
    study_grids,
)
from anchorsr.utils.files import cannot_read, check_free, check_not_input, publish
from anchorsr.utils.strict_json import parse_json

_FACTOR = 3
_SIZE = (360, 640)
_WIDTHS = (28, 32)
_ROUNDS = 5
_TEST_SET = "BSD100"  # whose figures every shipped card has
LEAST_MINUTES = 1.0


class Measurement(NamedTuple):
    """What is measured in one go: the study it belongs to, its name, and a function."""

    study: str
    name: str
    measure: Callable[[], None]


@dataclass
class Findings:
    """The results of the measurements, those left out, and those that failed and why."""

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
    on_measurement: Callable[[str], None] | None = None,
) -> Findings:
    """Measure what there is time for and write a Markdown page, with its plots beside it.

    Args:
        output: The `.md` file.
        minutes: The time to measure; a measurement that has begun is finished.
        study: A file with the output of `anchorsr study --json`, for its tables.
        overwrite: Whether to replace existing files.
        on_measurement: Called with the name of each measurement before it begins.

    Raises:
        OutputError: The page or a plot may not be written.
        DataError: `study` is not such a file.
        MissingDependencyError: matplotlib or PyTorch is not installed.
    """
    if output.suffix.lower() != ".md":
        raise OutputError(f"{output} does not end with .md, which is the only format of reports")
    studied = None if study is None else read_study(study)
    plots = {name: output.with_name(f"{output.stem}-{name}.svg") for name in _PLOTS}
    for path in (output, *plots.values()):
        check_free(path, overwrite=overwrite)
        check_not_input(path, () if study is None else (study,))
    check_matplotlib()
    found = Findings()
    run_measurements(
        list_measurements(found), found, seconds=60 * minutes, on_measurement=on_measurement
    )
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
    """Read the output of `anchorsr study --json`.

    Raises:
        DataError: It cannot be read, or is something else.
    """
    try:
        found = parse_json(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise KeyError("study")
        study_grids(found["study"])
        output_stage_grids(found["tails"])
    except OSError as error:
        raise DataError(f"{path} {cannot_read(error)}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is not the output of anchorsr study --json") from error
    return found


def run_measurements(
    measurements: Sequence[Measurement],
    found: Findings,
    *,
    seconds: float,
    on_measurement: Callable[[str], None] | None = None,
) -> None:
    """Run the measurements that fit into the time, and note the others and those that failed."""
    end = time.monotonic() + seconds
    longest: dict[str, float] = {}
    for study, name, measure in measurements:
        started = time.monotonic()
        if started + longest.get(study, 0.0) >= end:
            found.left_out.append(f"{study}: {name}")
            continue
        if on_measurement is not None:
            on_measurement(f"{study}: {name}")
        try:
            measure()
        except AnchorSRError as error:
            found.failed.append(f"{study}: {name}: {error}")
        longest[study] = max(longest.get(study, 0.0), time.monotonic() - started)


def list_measurements(found: Findings) -> list[Measurement]:
    """List the measurements of all studies, which take turns; results are added to `found`."""
    studies = (
        _operator_measurements(found), _network_measurements(found),
        _challenge_measurements(found),
    )  # fmt: skip
    return [each for turn in zip_longest(*studies) for each in turn if each is not None]


def _operator_measurements(found: Findings) -> list[Measurement]:
    """One for each width, number of threads, precision and engine; the important ones first."""

    def measurement(channels: int, threads: int, engine: str, precision: Precision) -> Measurement:
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
        return Measurement("operators", name, measure)

    return [
        measurement(channels, threads, engine, precision)
        for channels in _WIDTHS
        for threads in dict.fromkeys((default_threads(), 1))
        for precision in reversed(PRECISIONS)
        for engine in installed_engines()
    ]


def _network_measurements(found: Findings) -> list[Measurement]:
    def measurement(name: str) -> Measurement:
        def measure() -> None:
            found.predictions += measure_networks(
                [load_network(name)],
                engines=installed_engines(),
                threads=[1],  # with more, short operators that are measured alone wait for them
                rounds=_ROUNDS,
            )

        return Measurement("networks", name, measure)

    with needs("PyTorch", "train"):
        from anchorsr.networks.registry import NETWORKS
    return [measurement(name) for name in NETWORKS if name != "residual_form"]  # a study of its own


def _challenge_measurements(found: Findings) -> list[Measurement]:
    def measurement(name: str) -> Measurement:
        def measure() -> None:
            milliseconds = measure_time(build(read_model(model_path(name))[1])[FIXED])
            psnr = find_quality([name], factor=_FACTOR, test_set=_TEST_SET)[name]
            points = score(psnr, milliseconds)
            found.scores.append({"model": name, "psnr": psnr, "ms": milliseconds, "score": points})

        return Measurement("challenge", name, measure)

    return [measurement(model.path.stem) for model in list_models() if model.factor == _FACTOR]


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
    blocks = [
        "# Studies",
        f"Written by `anchorsr report --minutes {minutes:g}{' --study FILE' if studied else ''}` on"
        f" {machine['processor']}"
        f" ({machine['cores']} cores, {machine['system']}; {versions}).",
    ]
    sections: list[tuple[str, str, list[Grid], list[str]]] = [
        (
            "Operators",
            _OPERATORS,
            [*cost_grids(found.costs), *_paper_claims(found.costs)],
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
            [*study_grids(studied["study"]), *output_stage_grids(studied["tails"])]
            if studied
            else [],
            [],
        ),
        (
            "Challenge",
            "Of the models that were shipped when this page was written.",
            [challenge_grid(found.scores, _TEST_SET)] if found.scores else [],
            [],
        ),
    ]
    for title, words, grids, notes in sections:
        if not grids:
            continue
        blocks += [f"## {title}", words]
        if title.lower() in plots:
            blocks.append(f"![{title}]({plots[title.lower()]})")
        blocks += [grid.markdown() for grid in grids]
        blocks += [f"- {note}" for note in notes]
    for title, lines in (("Left out for lack of time", found.left_out), ("Failed", found.failed)):
        if lines:
            blocks += [f"## {title}", "\n".join(f"- {line}" for line in lines)]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _where(studied: dict[str, Any] | None) -> str:
    """Name the machine that a study was timed on, if its file does."""
    machine = (studied or {}).get("machine")
    processor = machine.get("processor") if isinstance(machine, dict) else None
    return f" Milliseconds were measured on {processor}." if processor else ""


def _paper_claims(costs: Sequence[Cost]) -> list[Grid]:
    claims = compare_with_paper(costs)
    return [claim_grid(claims)] if claims else []


_OPERATORS = (
    "Each is measured in graphs that hold nothing else, less the cost of the graph's input and"
    " output; the cost of a residual is how much longer three convolutions and depth-to-space take"
    " with it. `anchorsr probe operators` measures the same."
)
_NETWORKS = (
    "The sum of what the operators cost alone, and the measured time of the whole network, with"
    " random weights. `anchorsr probe network NAME` lists the operators."
)
_STUDY = (
    "Networks trained with the same budget by `anchorsr study`: the recipes in recipes/studies/"
    " are of ABPN's convolutions with each residual form, and of FSRCNN."
)
