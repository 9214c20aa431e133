"""Measure how fast models run on this machine."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from anchorsr.bench.end_to_end import EndToEnd, measure_end_to_end
from anchorsr.bench.plots import Point, draw_scatter
from anchorsr.bench.scaling import Scaling, measure_scaling
from anchorsr.bench.speed import (
    Speed,
    check_fixed_sizes,
    default_models,
    find_quality,
    is_network,
    measure_speed,
)
from anchorsr.bench.system_info import describe_machine
from anchorsr.cli.commands.options import (
    AsJson,
    Engines,
    Factor,
    Force,
    ThreadCounts,
    check_plot,
    choose_engines,
    choose_threads,
    parse_size,
)
from anchorsr.cli.terminal import counting_bar, print_json, print_table, remark
from anchorsr.data.pairs import load_test_pairs
from anchorsr.engines.native.library import has_kernel
from anchorsr.errors import OutputError
from anchorsr.utils.files import input_first, publish

_TEST_SET = "BSD100"


def benchmark_command(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            help="Shipped models, .tflite files, published (the network of the ABPN paper), bicubic"
            " (Pillow), .pb files of OpenCV's dnn_superres; by default all shipped models,"
            " published and bicubic."
        ),
    ] = None,
    factor: Factor = 3,
    engines: Engines = None,
    threads: ThreadCounts = None,
    size: Annotated[str, typer.Option(help="Width x height of the input.")] = "640x360",
    rounds: Annotated[int, typer.Option(min=1, max=10_000, help="Timed calls of each case.")] = 10,
    scaling: Annotated[
        bool,
        typer.Option("--scaling", help="Also measure time and memory from 64x64 to 6000x4000."),
    ] = False,
    as_json: AsJson = False,
    plot: Annotated[
        Path | None,
        typer.Option(help="An .svg file to write: quality over time. Needs anchorsr[plots]."),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            help="A test set, as for `evaluate`, to measure the plot's PSNR on; by default it is"
            f" the PSNR on {_TEST_SET} in the models' cards."
        ),
    ] = None,
    force: Force = False,
) -> None:
    """Measure speed, memory and how near this machine's ceiling a model runs.

    All cases are timed interleaved, so that whatever else the machine does affects all alike. The
    first table is of one call of the engine; the second is of `upscale` from array to array,
    from JPEG to JPEG and as a whole process.

    Examples:

        anchorsr benchmark

        anchorsr benchmark abpn published --engine litert --rounds 30

        anchorsr benchmark --scaling --plot speed.svg --json > speed.json
    """
    names = models or default_models(factor)
    chosen = choose_engines(engines, native=has_kernel())
    counts = choose_threads(threads)
    height_and_width = parse_size(size)
    networks = [name for name in names if is_network(name)]
    check_fixed_sizes(networks, factor=factor, size=height_and_width, scaling=scaling)
    with input_first(lambda: images and next(load_test_pairs(images, factor))):
        check_plot(plot, overwrite=force)
    test_set = _TEST_SET if images is None else images.resolve().name
    quality: dict[str, float] = {}
    if plot is not None:
        quality = find_quality(names, factor=factor, test_set=test_set, images=images)
        if not quality:
            known = "give a test set with --images" if images is None else "no finite PSNR"
            raise OutputError(f"{plot}: nothing to plot: {known}")
    with counting_bar("Measuring engines") as on_progress:
        speeds = measure_speed(
            names,
            engines=chosen,
            threads=counts,
            factor=factor,
            size=height_and_width,
            rounds=rounds,
            on_progress=on_progress,
        )
    with counting_bar("Measuring upscale") as on_progress:
        whole = measure_end_to_end(
            networks,
            threads=counts[-1],
            factor=factor,
            size=height_and_width,
            rounds=rounds,
            on_progress=on_progress,
        )
    scaled: list[Scaling] = []
    if scaling:
        with counting_bar("Measuring sizes") as on_progress:
            scaled = measure_scaling(
                networks, threads=counts[-1], factor=factor, on_progress=on_progress
            )

    machine = describe_machine()
    if as_json:
        report = {
            "machine": machine,
            "speed": [dataclasses.asdict(row) for row in speeds],
            "end_to_end": [dataclasses.asdict(row) for row in whole],
            "growth": [dataclasses.asdict(row) for row in scaled],
        }
        print_json(report)
    else:
        _print_speeds(speeds)
        _print_end_to_end(whole)
        _print_scaling(scaled)
    if plot is not None:
        _write_plot(plot, speeds, quality, test_set, machine["processor"], force)


def _print_speeds(rows: list[Speed]) -> None:
    table = Table(
        "model", "engine", "threads", "ms", "quartiles", "frames/s", "GMAC/s", "of ceiling",
        "x published",
    )  # fmt: skip
    for row in rows:
        table.add_row(
            row.model,
            row.engine,
            str(row.threads),
            f"{row.median_ms:.1f}",
            f"{row.low_ms:.1f} - {row.high_ms:.1f}",
            f"{row.frames_per_s:.1f}",
            "" if row.gmac_per_s is None else f"{row.gmac_per_s:.0f}",
            "" if row.share is None else f"{row.share:.0%} of {row.ceiling_gmac_per_s:.0f}",
            "" if row.times_published is None else f"{row.times_published:.2f}",
        )
    print_table(table)


def _print_end_to_end(rows: list[EndToEnd]) -> None:
    if not rows:
        return
    table = Table(
        "model", "engine", "threads", "array ms", "frames/s", "JPEG ms", "files/s",
        "cold start ms", "peak memory",
    )  # fmt: skip
    for row in rows:
        table.add_row(
            row.model,
            row.engine,
            str(row.threads),
            f"{row.frame_ms:.1f}",
            f"{row.frames_per_s:.1f}",
            f"{row.file_ms:.1f}",
            f"{row.files_per_s:.1f}",
            f"{row.cold_ms:.0f}",
            _megabytes(row.peak_bytes),
        )
    print_table(table)


def _print_scaling(rows: list[Scaling]) -> None:
    if not rows:
        return
    table = Table("model", "input", "seconds", "ns per LR pixel", "peak memory", "of which images")
    for row in rows:
        table.add_row(
            row.model,
            f"{row.width}x{row.height}",
            f"{row.seconds:.3f}",
            f"{row.ns_per_lr_pixel:.0f}",
            _megabytes(row.peak_bytes),
            _megabytes(row.pictures_bytes),
        )
    print_table(table)


def _megabytes(count: int | None) -> str:
    return "" if count is None else f"{count / 1e6:.0f} MB"


def _write_plot(
    path: Path,
    rows: list[Speed],
    quality: dict[str, float],
    test_set: str,
    processor: str,
    force: bool,
) -> None:
    """Plot each model in each engine, at the largest number of threads it was measured with."""
    without = sorted({row.model for row in rows} - quality.keys())
    if without:
        remark(f"not in the plot, for lack of a PSNR on {test_set}: {', '.join(without)}")
    best: dict[tuple[str, str], Speed] = {}
    for row in rows:
        if row.model in quality:
            best[row.model, row.engine] = max(
                row, best.get((row.model, row.engine), row), key=lambda one: one.threads
            )
    points = [
        Point(row.median_ms, row.low_ms, row.high_ms, quality[row.model], row.model, row.engine)
        for row in best.values()
    ]
    first = rows[0]
    most = max(row.threads for row in rows)
    height, width = first.height, first.width
    output = f"{width * first.factor}x{height * first.factor}"
    text = draw_scatter(
        points,
        title=f"Quality on {test_set} over time, {width}x{height} to {output}",
        subtitle=f"{processor}, {most} thread{'s' if most > 1 else ''}; above and left is better",
        x_label="milliseconds per frame, median; bars: interquartile range",
        y_label="PSNR over RGB, dB",
    )
    publish(text.encode(), path, overwrite=force)
