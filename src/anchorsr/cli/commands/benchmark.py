"""How fast: models, engines and threads on this machine, and how cost grows with the image."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from anchorsr.bench.end_to_end import EndToEnd, count_end_to_end_turns, measure_end_to_end
from anchorsr.bench.plots import Point, draw_scatter
from anchorsr.bench.scaling import Growth, count_growth_turns, measure_growth
from anchorsr.bench.speed import (
    Speed,
    check_fixed_sizes,
    count_turns,
    default_models,
    find_quality,
    is_network,
    measure_speed,
)
from anchorsr.bench.system_info import describe_machine
from anchorsr.cli.commands.options import (
    STANDARD_OUTPUT,
    Engines,
    Factor,
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
from anchorsr.errors import OutputError
from anchorsr.utils.files import publish

_TEST_SET = "BSD100"


def benchmark_command(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            help="Shipped models, .tflite files, published (the published network's form), bicubic"
            " (Pillow), .pb files of OpenCV's dnn_superres. All shipped ones, published and"
            " bicubic by default."
        ),
    ] = None,
    factor: Factor = 3,
    engines: Engines = None,
    threads: ThreadCounts = None,
    size: Annotated[str, typer.Option(help="Height x width of the input.")] = "360x640",
    rounds: Annotated[int, typer.Option(min=1, max=10_000, help="Turns of every case.")] = 10,
    growth: Annotated[
        bool, typer.Option("--growth", help="Time and memory from 64x64 to 4000x6000 as well.")
    ] = False,
    json_file: JsonFile = None,
    plot: Annotated[
        Path | None, typer.Option(help="An .svg file to write: quality against time.")
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            help="A test set, as `evaluate` takes, to measure the plot's quality on; without it"
            f" the figures are those on {_TEST_SET} in the models' cards."
        ),
    ] = None,
    force: Force = False,
) -> None:
    """Measure speed, memory and the distance from this machine's ceiling.

    All cases take turns, so that what changes on the machine changes for all alike. The first
    table is one call of the engine; the second is what `upscale` takes from array to array,
    from JPEG to JPEG and as a process of its own.

    Examples:

        anchorsr benchmark

        anchorsr benchmark abpn published --engine litert --rounds 30

        anchorsr benchmark --growth --json speed.json --plot speed.svg
    """
    names = models or default_models(factor)
    chosen = choose_engines(engines)
    counts = choose_threads(threads)
    height_and_width = parse_size(size)
    check_outputs(json_file, plot, force)

    networks = [name for name in names if is_network(name)]
    check_fixed_sizes(networks, factor=factor, size=height_and_width, growth=growth)
    test_set = _TEST_SET if images is None else images.resolve().name
    quality: dict[str, float] = {}
    if plot is not None:
        quality = find_quality(names, factor=factor, test_set=test_set, images=images)
        if not quality:
            known = "give a test set with --images" if images is None else "no finite PSNR"
            raise OutputError(f"{plot}: nothing to plot: {known}")
    turns = count_turns(names, chosen, counts, rounds)
    turns += count_end_to_end_turns(networks, rounds)
    turns += count_growth_turns(networks) if growth else 0
    common: dict[str, Any] = {"factor": factor}
    with bar("Measuring", turns, hidden=False) as advance:
        common["on_call"] = advance
        sized = {**common, "size": height_and_width, "rounds": rounds}
        speeds = measure_speed(names, engines=chosen, threads=counts, **sized)
        whole = measure_end_to_end(networks, threads=counts[-1], **sized)
        grown = measure_growth(networks, threads=counts[-1], **common) if growth else []

    machine = describe_machine()
    if json_file != STANDARD_OUTPUT:
        _print_speeds(speeds)
        _print_end_to_end(whole)
        _print_growth(grown)
    report = {
        "machine": machine,
        "speed": [dataclasses.asdict(row) for row in speeds],
        "end_to_end": [dataclasses.asdict(row) for row in whole],
        "growth": [dataclasses.asdict(row) for row in grown],
    }
    write_json(report, json_file, force)
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
        "model", "engine", "threads", "array ms", "frames/s", "JPEG to JPEG ms", "files/s",
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


def _print_growth(rows: list[Growth]) -> None:
    if not rows:
        return
    table = Table("model", "input", "seconds", "ns per LR pixel", "peak memory", "of it images")
    for row in rows:
        table.add_row(
            row.model,
            f"{row.height}x{row.width}",
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
    """Each model and engine with the most threads it was measured with."""
    without = sorted({row.model for row in rows} - quality.keys())
    if without:
        remark(f"not in the plot, having no figure on {test_set}: {', '.join(without)}")
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
    larger = f"{height * first.factor}x{width * first.factor}"
    text = draw_scatter(
        points,
        title=f"Quality on {test_set} against time, {height}x{width} to {larger}",
        subtitle=f"{processor}, {most} thread{'s' if most > 1 else ''}; above and left is better",
        x_label="milliseconds a frame, median; bars: quartiles",
        y_label="PSNR over RGB, dB",
    )
    publish(text.encode(), path, overwrite=force)
