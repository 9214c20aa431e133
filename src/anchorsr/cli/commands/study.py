"""Train recipes that differ in one thing, and compare them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from anchorsr.bench.system_info import describe_machine
from anchorsr.cli.commands.options import (
    AsJson,
    Threads,
    choose_engines,
)
from anchorsr.cli.commands.training import training_machine
from anchorsr.cli.terminal import (
    print_json,
    print_scores,
    print_table,
    remark,
    say,
    training_bars,
)
from anchorsr.engines.runtimes import ENGINES
from anchorsr.errors import needs

if TYPE_CHECKING:
    from anchorsr.studies.recipes import StudyResult


def study_command(
    recipes: Annotated[
        list[Path], typer.Argument(help="TOML recipes, such as those of recipes/studies.")
    ],
    runs: Annotated[Path, typer.Option(help="The folder in which runs are kept.")] = Path("runs"),
    engines: Annotated[
        list[str] | None,
        typer.Option(
            "--engine",
            help=f"One of {', '.join(ENGINES)}, for the timing; by default all that are installed."
            " Repeatable.",
        ),
    ] = None,
    rounds: Annotated[
        int, typer.Option(min=1, max=10_000, help="Timed calls of each network.")
    ] = 10,
    as_json: AsJson = False,
    output_stages: Annotated[
        bool,
        typer.Option(
            "--output-stages", help="Also score other output stages: other scales, and no clip."
        ),
    ] = False,
    mixed_precision: Annotated[
        bool, typer.Option("--mixed-precision", help="bfloat16 where it is safe.")
    ] = False,
    threads: Threads = 0,
) -> None:
    """Train recipes, quantize each with and without quantization-aware training, and compare.

    Finished runs are not trained again; a stopped one is resumed. PSNR is over RGB, with a border
    of the factor, INT8 in LiteRT; times are of INT8 at 640x360, on all processors.

    Examples:

        anchorsr study recipes/studies/residual_*.toml

        anchorsr study recipes/studies/fsrcnn.toml recipes/studies/residual_anchor.toml

        anchorsr study recipes/studies/residual_anchor.toml --output-stages
    """
    chosen = choose_engines(engines)
    with needs("PyTorch", "train"):
        from anchorsr.studies.output_stage import measure_output_stages
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
    stages = {row.run: measure_output_stages(runs / row.run) for row in rows if output_stages}
    if as_json:
        report = {
            "machine": describe_machine(),
            "study": [dataclasses.asdict(row) for row in rows],
            "tails": {
                run: [dataclasses.asdict(score) for score in scores]
                for run, scores in stages.items()
            },
        }
        print_json(report)
        return
    _print_quality(rows)
    _print_latency(rows)
    for run, scores in stages.items():
        say(f"Output stages of {run}, after post-training quantization:")
        print_scores(scores)


def _print_quality(rows: list[StudyResult]) -> None:
    table = Table("run", "set", "float", "PTQ", "PSNR drop", "QAT", "PSNR drop")
    for row in rows:
        for test_set, value in row.float_psnr.items():
            cells = [f"{value:.3f}"]
            for quantized in (row.calibrated_psnr, row.trained_psnr):
                found = None if quantized is None else quantized[test_set]
                cells += ["", ""] if found is None else [f"{found:.3f}", f"{value - found:.3f}"]
            table.add_row(row.run, test_set, *cells)
    print_table(table)


def _print_latency(rows: list[StudyResult]) -> None:
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
