"""Prepare a submission for the Mobile AI challenge."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from anchorsr.cli.commands.options import AsJson, Force, Threads, refuse_nan
from anchorsr.cli.terminal import bar, print_json, print_table, remark
from anchorsr.data.pairs import load_test_pairs
from anchorsr.export.accelerators import ACCELERATORS, not_looked_up
from anchorsr.export.challenge import (
    BORDER,
    FACTOR,
    FIXED,
    FREE,
    build,
    check_output,
    check_rules,
    measure_quality,
    measure_time,
    score,
    write_files,
)
from anchorsr.models.registry import model_path, read_model
from anchorsr.serialization.tflite.summary import summarize
from anchorsr.utils.files import input_first


def challenge_command(
    model: Annotated[str, typer.Argument(help="A shipped model's name, or a .tflite file.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder for the three files.")],
    images: Annotated[
        Path | None,
        typer.Option(help="A folder of images to measure PSNR on, such as DIV2K_valid_HR."),
    ] = None,
    runtime: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            max=1e6,
            callback=refuse_nan,
            help="Milliseconds on your device; by default they are measured on this machine.",
        ),
    ] = None,
    threads: Threads = 0,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Make a Mobile AI challenge submission, and check its rules, PSNR, time and score.

    The score is that of 2021, 2^(2 PSNR) / (2^48 ms). The three files are written only if LiteRT
    reproduces the integer arithmetic.

    Examples:

        anchorsr challenge abpn -o submission/

        anchorsr challenge abpn -o submission/ --images DIV2K_valid_HR --runtime 36.9
    """
    path = model_path(model)
    data, graph = read_model(path)
    with input_first(lambda: images and next(load_test_pairs(images, FACTOR))):
        check_output(output, overwrite=force, inputs=[path])
    digest = hashlib.sha256(data).hexdigest()
    files = build(graph, description=json.dumps({"model": graph.name, "from_sha256": digest}))
    checks = check_rules(files)
    quality = None
    if images is not None:
        with bar("Measuring", None, hidden=as_json) as advance:
            quality = measure_quality(
                files, images, threads=threads or None, on_image=lambda _: advance()
            )
    on_device = runtime is not None
    milliseconds = runtime or measure_time(files[FIXED], threads=threads or None)
    write_files(files, output, overwrite=force)
    points = None if quality is None else score(quality.psnr, milliseconds)
    operators = summarize(files[FREE]).operators
    report: dict[str, Any] = {
        "model": graph.name,
        "files": [str(output / name) for name in files],
        "checks": [
            {"rule": check.rule, "found": check.found, "kept": check.passed} for check in checks
        ],
        "refused_by": {a.name: a.refuses(operators) for a in ACCELERATORS},
        "not_looked_up": not_looked_up(operators),
        "images": None if quality is None else quality.folder,
        "pictures": 0 if quality is None else quality.images,
        "psnr": None if quality is None else quality.psnr,
        "psnr_float": None if quality is None else quality.psnr_float,
        "border": BORDER,
        "milliseconds": milliseconds,
        "time_of": "device" if on_device else "this processor",
        "score_2021": points,
    }
    if as_json:
        print_json([report])
    else:
        _print_report(report, {name: len(content) for name, content in files.items()})
    if not all(check.passed for check in checks):
        raise typer.Exit(1)


def _print_report(report: dict[str, Any], sizes: dict[str, int]) -> None:
    files = Table("file", "size")
    for path, size in zip(report["files"], sizes.values(), strict=True):
        files.add_row(path, f"{size / 1000:.1f} kB")
    print_table(files)
    rules = Table("rule", "found", "passed")
    for check in report["checks"]:
        rules.add_row(check["rule"], check["found"], "yes" if check["kept"] else "NO")
    print_table(rules)
    accelerators = Table("accelerator", "refused operators", "remark", "source")
    for accelerator in ACCELERATORS:
        refused = ", ".join(report["refused_by"][accelerator.name]) or "none"
        accelerators.add_row(accelerator.name, refused, accelerator.remark, accelerator.source)
    print_table(accelerators)
    if report["not_looked_up"]:
        remark(f"not looked up for any accelerator: {', '.join(report['not_looked_up'])}")
    figures = Table("figure", "value", "of")
    if report["psnr"] is not None:
        measured = f"{report['pictures']} images in {report['images']}, border {report['border']}"
        figures.add_row("PSNR RGB, 8 bits", f"{report['psnr']:.3f} dB", measured)
        figures.add_row("PSNR RGB, float", f"{report['psnr_float']:.3f} dB", measured)
    figures.add_row("time", f"{report['milliseconds']:.2f} ms", report["time_of"])
    if report["score_2021"] is not None:
        figures.add_row("score of 2021", f"{report['score_2021']:.2f}", report["time_of"])
    print_table(figures)
    if report["psnr"] is None:
        remark("no PSNR and no score without images: give --images FOLDER")
