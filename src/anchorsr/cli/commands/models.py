"""What is done with models: list, measure, export."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from anchorsr.cli.commands.options import (
    AsJson,
    Engine,
    Factor,
    Force,
    OptionalFactor,
    Threads,
    parse_size,
    print_scores,
)
from anchorsr.cli.terminal import bar, print_json, print_table
from anchorsr.data.damage import NO_DAMAGE, USUAL
from anchorsr.engines.runtimes import ENGINES
from anchorsr.evaluation.evaluate import Score, evaluate
from anchorsr.export.export import export
from anchorsr.models.registry import DEFAULT, list_models, model_path, read_card, read_model
from anchorsr.utils.files import check_not_input
from anchorsr.utils.strict_json import to_json

ALL_DAMAGES = "usual"


def models_command(
    name: Annotated[
        str | None,
        typer.Argument(help="Print the whole card of this model, or of a .tflite file."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the shipped models, or print one model's card: recipe, data, figures, hashes.

    Examples:

        anchorsr models

        anchorsr models abpn_x3
    """
    if name is not None:
        print(to_json(read_card(model_path(name)), indent=1))
        return
    shipped = list_models()
    if as_json:
        print_json([{"path": str(model.path), **model.card} for model in shipped])
        return
    table = Table("model", "factor", "parameters", "MAC per LR pixel", "size", "file")
    for model in shipped:
        card = model.card
        table.add_row(
            model.name + (" (default)" if model.name == DEFAULT else ""),
            f"x{model.factor}",
            f"{card['parameters']:,}",
            f"{card['macs_per_lr_pixel']:,}",
            f"{card['size_bytes'] / 1000:.1f} kB",
            str(model.path),
        )
    print_table(table)


def evaluate_command(
    test_sets: Annotated[
        list[Path],
        typer.Argument(help="Folders of images, or with HR/ and LR_bicubic/X3/ inside."),
    ],
    methods: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            help="A shipped model, a .tflite or .onnx file, a run folder (its float weights), or"
            " bicubic, or lanczos. May be given several times.",
        ),
    ] = None,
    factor: Factor = 3,
    border: Annotated[
        int | None, typer.Option(min=0, help="Pixels cut off each side; the factor by default.")
    ] = None,
    damages: Annotated[
        list[str] | None,
        typer.Option(
            "--damage",
            help="What is done to the LR images before, with fixed seeds: jpeg75, noise5, webp60,"
            f" h264-28, phone, scan, twice, ...; or {ALL_DAMAGES}. May be given several times.",
        ),
    ] = None,
    threads: Threads = 0,
    engine: Engine = ENGINES[0],
    as_json: AsJson = False,
) -> None:
    """Measure PSNR and SSIM on test sets.

    Examples:

        anchorsr evaluate Set5 Set14 BSD100

        anchorsr evaluate my-photos/ -m bicubic -m abpn -m runs/mine --json

        anchorsr evaluate Set14 -m bicubic -m quality --damage jpeg75 --damage scan
    """
    names = methods or [DEFAULT]
    wanted = list(USUAL) if damages == [ALL_DAMAGES] else damages or [NO_DAMAGE.name]
    called = [folder.resolve().name for folder in test_sets]
    scores: list[Score] = []
    with bar("Evaluating", None, hidden=as_json) as advance:
        for damage, name in itertools.product(wanted, names):
            for folder in test_sets:
                score = evaluate(
                    name,
                    folder,
                    factor=factor,
                    border=border,
                    threads=threads or None,
                    engine=engine,
                    damage=damage,
                    on_image=lambda _: advance(),
                )
                if called.count(score.test_set) > 1:
                    score = dataclasses.replace(score, test_set=str(folder))
                scores.append(score)
    if as_json:
        print_json([dataclasses.asdict(score) for score in scores])
        return
    print_scores(scores)


def export_command(
    model: Annotated[str, typer.Argument(help="A shipped model's name, or a .tflite file.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="A .tflite or .onnx file to write.")
    ],
    factor: OptionalFactor = None,
    size: Annotated[
        str | None,
        typer.Option(help="Height x width of a file of fixed size, such as 360x640."),
    ] = None,
    force: Force = False,
) -> None:
    """Write an integer model as `.tflite` or ONNX, with free or fixed size.

    The file appears only after its runtime gave the same bytes as the integer arithmetic.

    Examples:

        anchorsr export abpn -o abpn.onnx

        anchorsr export abpn -o abpn_360x640.tflite --size 360x640
    """
    height_and_width = None if size is None else parse_size(size)
    path = model_path(model, factor)
    check_not_input(output, [path])
    data, graph = read_model(path)
    digest = hashlib.sha256(data).hexdigest()
    description = json.dumps({"model": graph.name, "from_sha256": digest})
    export(graph, output, size=height_and_width, description=description, overwrite=force)
    print(output)
