"""What operators and networks cost in each engine on this machine."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from anchorsr.bench.system_info import describe_machine
from anchorsr.cli.commands.options import (
    STANDARD_OUTPUT,
    Engines,
    Force,
    JsonFile,
    ThreadCounts,
    check_outputs,
    choose_engines,
    choose_threads,
    parse_size,
    write_json,
)
from anchorsr.cli.terminal import bar, print_table, remark
from anchorsr.engines.runtimes import default_threads
from anchorsr.errors import OutputError
from anchorsr.studies.networks import count_network_turns, load_network, measure_networks
from anchorsr.studies.op_graphs import Precision
from anchorsr.studies.operators import (
    PRECISIONS,
    choose,
    compare_with_paper,
    count_turns,
    measure_operators,
)
from anchorsr.studies.report import write_report
from anchorsr.studies.tables import (
    Grid,
    claim_grid,
    cost_grids,
    draw_costs,
    draw_predictions,
    failures,
    part_grids,
    prediction_grid,
)
from anchorsr.utils.files import publish

probe_app = typer.Typer(
    help="What operators and networks cost in each engine.", no_args_is_help=True
)

_SHORT = {"fp32": "float32", "int8": "int8"}


def _known_precision(names: list[str] | None) -> list[str] | None:
    for name in names or []:
        if name not in _SHORT:
            raise typer.BadParameter(f"{name!r} is none of {', '.join(_SHORT)}")
    return names


_Precisions = Annotated[
    list[str] | None,
    typer.Option(
        "--precision",
        callback=_known_precision,
        help="fp32 or int8; both by default. May be given several times.",
    ),
]
_Rounds = Annotated[int, typer.Option(min=1, max=10_000, help="Turns of every graph.")]
_Plot = Annotated[Path | None, typer.Option(help="An .svg file to write.")]


@probe_app.command("operators")
def operators_command(
    operators: Annotated[
        list[str] | None,
        typer.Argument(help="Names as in the table, such as add or anchor_concat; all by default."),
    ] = None,
    channels: Annotated[
        list[int] | None,
        typer.Option(
            min=2, max=1024, help="Widths; 28 and 32 by default. May be given several times."
        ),
    ] = None,
    precisions: _Precisions = None,
    engines: Engines = None,
    threads: ThreadCounts = None,
    size: Annotated[str, typer.Option(help="Height x width of the input.")] = "360x640",
    rounds: _Rounds = 5,
    json_file: JsonFile = None,
    plot: _Plot = None,
    force: Force = False,
) -> None:
    """Measure what each operator costs, and say whether a network can afford it.

    Each comes from graphs of that operator alone, the edges of the graph taken off; a residual
    is what the same three convolutions take longer with it. Affordable is what takes at most
    half as long as a 3x3 convolution of the same width. All operators in all engines take about
    half an hour; a few take seconds. Operators of image space (concat_nine, resize_*) work on a
    image of 3 channels whatever the width, depth_to_space on as many as fit into it.

    Examples:

        anchorsr probe operators add relu conv1x1 --engine litert --channels 28

        anchorsr probe operators --json operators.json --plot operators.svg
    """
    widths = list(dict.fromkeys(channels or (28, 32)))
    chosen, counts, numbers = choose_engines(engines), choose_threads(threads), _read(precisions)
    height_and_width = parse_size(size)
    check_outputs(json_file, plot, force)
    _warn_if_busy()
    names = operators or []
    settings = len(numbers) * len(chosen) * len(counts)
    probed = [one for width in widths for one in choose(names, width).values()]
    with bar("Measuring", count_turns(settings, probed, rounds), hidden=False) as advance:
        costs = measure_operators(
            names,
            channels=widths,
            precisions=numbers,
            engines=chosen,
            threads=counts,
            size=height_and_width,
            rounds=rounds,
            on_call=advance,
        )
    claims = compare_with_paper(costs)
    machine = describe_machine()
    if json_file != STANDARD_OUTPUT:
        for grid in cost_grids(costs) + ([claim_grid(claims)] if claims else []):
            _print_grid(grid)
        for line in failures(costs):
            remark(line)
    write_json(
        {
            "machine": machine,
            "operators": [dataclasses.asdict(row) for row in costs],
            "paper": [dataclasses.asdict(row) for row in claims],
        },
        json_file,
        force,
    )
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
            help="Height x width of the input. By default the largest of 360x640, 180x320, 90x160,"
            " 45x80 and 24x40 that takes at most 25 thousand million multiplications."
        ),
    ] = None,
    rounds: _Rounds = 5,
    json_file: JsonFile = None,
    plot: _Plot = None,
    force: Force = False,
) -> None:
    """List a network's operators, predict its time from what each costs, and measure the whole.

    With one thread unless --threads says otherwise: with more, a short operator that is measured
    alone waits for the others, which within a network are awake.

    Examples:

        anchorsr probe network abpn

        anchorsr probe network edsr imdn --engine openvino --size 90x160 --json networks.json
    """
    chosen, numbers = choose_engines(engines), _read(precisions)
    counts = choose_threads(threads or [1])
    height_and_width = None if size is None else parse_size(size)
    check_outputs(json_file, plot, force)
    _warn_if_busy()
    networks = [load_network(name, numbers) for name in dict.fromkeys(names)]
    turns = count_network_turns(networks, len(chosen) * len(counts), rounds)
    with bar("Measuring", turns, hidden=False) as advance:
        rows = measure_networks(
            networks,
            engines=chosen,
            threads=counts,
            size=height_and_width,
            rounds=rounds,
            on_call=advance,
        )
    machine = describe_machine()
    if json_file != STANDARD_OUTPUT:
        for grid in part_grids(rows) + ([prediction_grid(rows)] if len(networks) > 1 else []):
            _print_grid(grid)
        for line in failures(rows):
            remark(line)
    made = [{**dataclasses.asdict(row), "ratio": row.ratio} for row in rows]
    write_json({"machine": machine, "networks": made}, json_file, force)
    if plot is not None:
        _publish_plot(draw_predictions(rows, machine["processor"]), plot, force)
    if all(row.failure is not None for row in rows):
        raise typer.Exit(1)


def report_command(
    output: Annotated[Path, typer.Option("--output", "-o", help="The .md file to write.")],
    minutes: Annotated[
        float, typer.Option(min=0.0, max=10_000.0, help="How long to measure, about.")
    ] = 10.0,
    study: Annotated[
        Path | None, typer.Option(help="What `study --json` wrote, for its tables.")
    ] = None,
    force: Force = False,
) -> None:
    """Measure operators, networks and challenge scores, as time allows, and write one page.

    Plots are written beside it. What there was no time for is named on the page.

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
        on_piece=lambda name: remark(f"measuring {name}"),
    )
    for line in found.failed:
        remark(f"failed: {line}")
    if found.left_out:
        remark(f"no time for {len(found.left_out)} pieces; the page names them")
    print(output)


def _warn_if_busy() -> None:
    """A call is interrupted for others on a busy machine only if it takes longer than a few
    milliseconds, which makes what is long look longer than it is beside what is short."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load > _BUSY * default_threads():
        remark(f"this machine is busy (load {load:.1f}): long times come out too long")


# The share of the processors that others may use unnoticed.
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
        raise OutputError(f"{path}: nothing was measured that could be plotted")
    publish(text.encode(), path, overwrite=force)
