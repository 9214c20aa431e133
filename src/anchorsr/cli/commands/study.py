"""Recipes that differ in one thing, side by side."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from anchorsr.bench.system_info import describe_machine
from anchorsr.cli.commands.options import (
    STANDARD_OUTPUT,
    Force,
    JsonFile,
    Threads,
    check_outputs,
    choose_engines,
    print_scores,
    write_json,
)
from anchorsr.cli.commands.training import training_machine
from anchorsr.cli.terminal import print_table, remark, training_bars
from anchorsr.engines.runtimes import ENGINES
from anchorsr.errors import needs

if TYPE_CHECKING:
    from anchorsr.studies.recipes import Studied


def study_command(
    recipes: Annotated[
        list[Path], typer.Argument(help="TOML recipes, such as those of recipes/studies.")
    ],
    runs: Annotated[
        Path, typer.Option(help="Where the folders of the runs are, or will be.")
    ] = Path("runs"),
    engines: Annotated[
        list[str] | None,
        typer.Option(
            "--engine",
            help=f"One of {', '.join(ENGINES)}, to time in; all that are installed by default.",
        ),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, max=10_000, help="Turns of the timing.")] = 10,
    json_file: JsonFile = None,
    tails: Annotated[
        bool,
        typer.Option(
            "--tails", help="Other ends of the integer networks as well: scales, and no clip."
        ),
    ] = False,
    mixed_precision: Annotated[
        bool, typer.Option("--mixed-precision", help="bfloat16 where it is safe.")
    ] = False,
    threads: Threads = 0,
    force: Force = False,
) -> None:
    """Train recipes, turn each into integers with and without training these, and compare.

    Finished runs are not trained again; a stopped one goes on. PSNR is over RGB, the border as
    wide as the factor, INT8 in LiteRT; times are of INT8 at 360x640, on all processors.

    Examples:

        anchorsr study recipes/studies/residual_*.toml

        anchorsr study recipes/studies/fsrcnn.toml recipes/studies/residual_anchor.toml

        anchorsr study recipes/studies/residual_anchor.toml --tails
    """
    chosen = choose_engines(engines)
    check_outputs(json_file, None, force)
    with needs("PyTorch", "train"):
        from anchorsr.studies.output_stage import measure_tails
        from anchorsr.studies.recipes import run_study
    with training_bars("Training") as callbacks:
        rows = run_study(
            recipes,
            runs,
            engines=chosen,
            rounds=rounds,
            machine=training_machine("cpu", threads, mixed_precision),
            on_recipe=remark,
            **callbacks,
        )
    ends = {row.run: measure_tails(runs / row.run) for row in rows} if tails else {}
    if json_file != STANDARD_OUTPUT:
        _print_quality(rows)
        _print_latency(rows)
        for run, scores in ends.items():
            print(f"The ends of {run}, calibrated only:")
            print_scores(scores)
    report = {
        "machine": describe_machine(),
        "study": [dataclasses.asdict(row) for row in rows],
        "tails": {run: [dataclasses.asdict(one) for one in ends[run]] for run in ends},
    }
    write_json(report, json_file, force)


def _print_quality(rows: list[Studied]) -> None:
    table = Table("run", "set", "float", "calibrated", "loss", "trained", "loss")
    for row in rows:
        for test_set, value in row.float_psnr.items():
            cells = [f"{value:.3f}"]
            for integers in (row.calibrated_psnr, row.trained_psnr):
                found = None if integers is None else integers[test_set]
                cells += ["", ""] if found is None else [f"{found:.3f}", f"{value - found:.3f}"]
            table.add_row(row.run, test_set, *cells)
    print_table(table)


def _print_latency(rows: list[Studied]) -> None:
    engines = sorted({engine for row in rows for engine in row.latency_ms})
    table = Table("run", "steps", "parameters", "MAC per LR pixel", *(f"{e} ms" for e in engines))
    for row in rows:
        times = [row.latency_ms.get(engine) for engine in engines]
        table.add_row(
            row.run,
            str(row.steps),
            f"{row.parameters:,}",
            f"{row.macs_per_pixel:,}",
            *("" if ms is None else f"{ms:.1f}" for ms in times),
        )
    print_table(table)
