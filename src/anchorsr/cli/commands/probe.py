"""Measure what operators and networks cost in each engine on this machine."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from anchorsr.bench.system_info import describe_machine
from anchorsr.cli.commands.options import (
    AsJson,
    Engines,
    Force,
    ThreadCounts,
    check_plot,
    choose_engines,
    choose_threads,
    parse_size,
    refuse_nan,
)
from anchorsr.cli.terminal import counting_bar, print_json, print_table, remark, say
from anchorsr.cli.usage import UsageError
from anchorsr.engines.runtimes import default_threads
from anchorsr.errors import OutputError, unknown_choice
from anchorsr.studies.depth import FORMS, depth_grid, measure_depths
from anchorsr.studies.networks import load_network, measure_networks
from anchorsr.studies.op_graphs import Precision
from anchorsr.studies.operators import (
    PRECISIONS,
    compare_with_paper,
    measure_operators,
)
from anchorsr.studies.report import LEAST_MINUTES, write_report
from anchorsr.studies.tables import (
    Grid,
    claim_grid,
    cost_grids,
    draw_costs,
    draw_predictions,
    failures,
    operator_grids,
    prediction_grid,
)
from anchorsr.utils.files import publish

probe_app = typer.Typer(
    help="Measure what operators and networks cost in each engine.", no_args_is_help=True
)

_SHORT = {"fp32": "float32", "int8": "int8"}


def _known_precision(names: list[str] | None) -> list[str] | None:
    for name in names or []:
        if name not in _SHORT:
            raise UsageError(unknown_choice("precision", name, _SHORT))
    return names


_Precisions = Annotated[
    list[str] | None,
    typer.Option(
        "--precision",
        callback=_known_precision,
        help="fp32 or int8; by default both. Repeatable.",
    ),
]
_Rounds = Annotated[int, typer.Option(min=1, max=10_000, help="Timed calls of each graph.")]
_Plot = Annotated[Path | None, typer.Option(help="An .svg file to write. Needs anchorsr[plots].")]


@probe_app.command("operators")
def operators_command(
    operators: Annotated[
        list[str] | None,
        typer.Argument(help="Names as in the table, such as add or anchor_concat; by default all."),
    ] = None,
    channels: Annotated[
        list[int] | None,
        typer.Option(min=2, max=1024, help="Widths; by default 28 and 32. Repeatable."),
    ] = None,
    precisions: _Precisions = None,
    engines: Engines = None,
    threads: ThreadCounts = None,
    size: Annotated[str, typer.Option(help="Width x height of the input.")] = "640x360",
    rounds: _Rounds = 5,
    as_json: AsJson = False,
    plot: _Plot = None,
    force: Force = False,
) -> None:
    """Measure what each operator costs, and whether a network can afford it.

    Each is measured in graphs that hold nothing else, less the cost of the graph's input and
    output; the cost of a residual is how much longer three convolutions take with it. An operator
    is affordable if it takes at most half as long as a 3x3 convolution of the same width. All
    operators in all engines take about half an hour; a few take seconds. Operators in image space
    (concat_nine, resize_*) read 3 channels whatever the width.

    Examples:

        anchorsr probe operators add relu conv1x1 --engine litert --channels 28

        anchorsr probe operators --plot operators.svg --json > operators.json
    """
    widths = list(dict.fromkeys(channels or (28, 32)))
    chosen, counts, numbers = choose_engines(engines), choose_threads(threads), _read(precisions)
    height_and_width = parse_size(size)
    check_plot(plot, overwrite=force)
    _warn_if_busy()
    with counting_bar("Measuring") as on_progress:
        costs = measure_operators(
            operators or [],
            channels=widths,
            precisions=numbers,
            engines=chosen,
            threads=counts,
            size=height_and_width,
            rounds=rounds,
            on_progress=on_progress,
        )
    claims = compare_with_paper(costs)
    machine = describe_machine()
    if as_json:
        report = {
            "machine": machine,
            "operators": [dataclasses.asdict(row) for row in costs],
            "paper": [dataclasses.asdict(row) for row in claims],
        }
        print_json(report)
    else:
        for grid in cost_grids(costs) + ([claim_grid(claims)] if claims else []):
            _print_grid(grid)
        for line in failures(costs):
            remark(line)
    if plot is not None:
        _publish_plot(draw_costs(costs, machine["processor"]), plot, force)
    if all(row.failure is not None for row in costs):
        raise typer.Exit(1)


@probe_app.command("network")
def network_command(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME...",
            help="Networks such as edsr, with random weights; shipped models; .tflite files.",
        ),
    ],
    precisions: _Precisions = None,
    engines: Engines = None,
    threads: ThreadCounts = None,
    size: Annotated[
        str | None,
        typer.Option(
            help="Width x height of the input; by default the largest of 640x360, 320x180, 160x90,"
            " 80x45 and 40x24 that takes at most 25 GMAC."
        ),
    ] = None,
    rounds: _Rounds = 5,
    as_json: AsJson = False,
    plot: _Plot = None,
    force: Force = False,
) -> None:
    """List a network's operators, predict its time from what each costs, and measure the whole.

    By default with one thread: with more, a short operator that is measured alone waits for the
    other threads to wake up, which within a network are awake.

    Examples:

        anchorsr probe network abpn

        anchorsr probe network edsr imdn --engine openvino --size 160x90 --json > networks.json
    """
    chosen, numbers = choose_engines(engines), _read(precisions)
    counts = choose_threads(threads or [1])
    height_and_width = None if size is None else parse_size(size)
    check_plot(plot, overwrite=force)
    _warn_if_busy()
    networks = [load_network(name, numbers) for name in dict.fromkeys(names)]
    with counting_bar("Measuring") as on_progress:
        rows = measure_networks(
            networks,
            engines=chosen,
            threads=counts,
            size=height_and_width,
            rounds=rounds,
            on_progress=on_progress,
        )
    machine = describe_machine()
    if as_json:
        predictions = [{**dataclasses.asdict(row), "ratio": row.ratio} for row in rows]
        print_json({"machine": machine, "networks": predictions})
    else:
        for grid in operator_grids(rows) + ([prediction_grid(rows)] if len(networks) > 1 else []):
            _print_grid(grid)
        for line in failures(rows):
            remark(line)
    if plot is not None:
        _publish_plot(draw_predictions(rows, machine["processor"]), plot, force)
    if all(row.failure is not None for row in rows):
        raise typer.Exit(1)


@probe_app.command("depth")
def depth_command(
    forms: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FORM]...", help=f"Forms of the anchor; by default all: {', '.join(FORMS)}."
        ),
    ] = None,
    channels: Annotated[int, typer.Option(min=2, max=1024, help="Width of the body.")] = 28,
    precisions: _Precisions = None,
    engines: Engines = None,
    threads: ThreadCounts = None,
    size: Annotated[str, typer.Option(help="Width x height of the input.")] = "640x360",
    rounds: _Rounds = 5,
    as_json: AsJson = False,
) -> None:
    """Measure whether convolutions beside an anchor cost time, as the paper says they do not.

    Networks with a body of 0 to 8 convolutions with ReLU are timed, interleaved, for each form of
    the anchor.

    Examples:

        anchorsr probe depth

        anchorsr probe depth anchor_conv --engine litert --threads 1 --threads 2 --precision int8
    """
    chosen, counts, numbers = choose_engines(engines), choose_threads(threads), _read(precisions)
    height_and_width = parse_size(size)
    _warn_if_busy()
    with counting_bar("Measuring") as on_progress:
        rows = measure_depths(
            forms or FORMS,
            channels=channels,
            precisions=numbers,
            engines=chosen,
            threads=counts,
            size=height_and_width,
            rounds=rounds,
            on_progress=on_progress,
        )
    if as_json:
        depths = [dataclasses.asdict(row) for row in rows]
        print_json({"machine": describe_machine(), "depths": depths})
    else:
        _print_grid(depth_grid(rows))
        for row in rows:
            if row.failure is not None:
                remark(f"{row.form}, {row.precision}, {row.engine}: {row.failure}")
    if all(row.failure is not None for row in rows):
        raise typer.Exit(1)


def report_command(
    output: Annotated[Path, typer.Option("--output", "-o", help="The .md file to write.")],
    minutes: Annotated[
        float,
        typer.Option(
            min=LEAST_MINUTES,
            max=10_000.0,
            callback=refuse_nan,
            help=f"How long to measure, at least {LEAST_MINUTES:g}. A measurement that has begun is"
            " finished.",
        ),
    ] = 10.0,
    study: Annotated[
        Path | None, typer.Option(help="A file with the output of `study --json`, for its tables.")
    ] = None,
    force: Force = False,
) -> None:
    """Measure operators, networks and challenge scores for a given time, and write one page.

    Plots are written beside it; they need anchorsr[plots]. The page lists what there was no time
    for.

    Examples:

        anchorsr report -o studies.md --minutes 60

        anchorsr report -o studies.md --study study.json
    """
    _warn_if_busy()
    found = write_report(
        output,
        minutes=minutes,
        study=study,
        overwrite=force,
        on_measurement=lambda name: remark(f"measuring {name}"),
    )
    for line in found.failed:
        remark(f"failed: {line}")
    if found.left_out:
        remark(f"no time for {len(found.left_out)} measurements; the page lists them")
    say(output)


def _warn_if_busy() -> None:
    """Warn where other programs bias the figures.

    On a busy machine, calls of more than a few milliseconds are interrupted, and shorter ones are
    not.
    """
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load > _BUSY * default_threads():
        remark(f"this machine is busy (load {load:.1f}): long calls are measured too long")


# The share of the processors that other programs may use before a warning.
_BUSY = 0.5


def _read(precisions: list[str] | None) -> list[Precision]:
    wanted = {_SHORT[name] for name in precisions or _SHORT}
    return [precision for precision in PRECISIONS if precision in wanted]


def _print_grid(grid: Grid) -> None:
    table = Table(*grid.head, title=grid.title, caption=grid.notes or None)
    for row in grid.rows:
        table.add_row(*row)
    print_table(table)


def _publish_plot(text: str | None, path: Path, force: bool) -> None:
    if text is None:
        raise OutputError(f"{path}: nothing to plot was measured")
    publish(text.encode(), path, overwrite=force)
