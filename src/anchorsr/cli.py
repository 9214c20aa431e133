"""The command line: parses, calls one public function, prints; `terminal` shows the rest.

Results go to standard output, progress and errors to standard error. An error is one line
and exit code 1; wrong usage is exit code 2; an interrupt is one line and exit code 130.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from anchorsr import __version__
from anchorsr.errors import AnchorSRError, OutputError, needs
from anchorsr.evaluate import Score, evaluate
from anchorsr.export import export
from anchorsr.files import reason
from anchorsr.jobs import plan, upscale_files
from anchorsr.models import DEFAULT, list_models, model_path, read_model
from anchorsr.terminal import (
    bar,
    complain,
    console,
    give_up_stdout,
    prepare_streams,
    print_json,
    print_table,
    remark,
    training_bars,
)
from anchorsr.upscale import Upscaler

app = typer.Typer(
    name="anchorsr",
    help="Super-resolution that runs on phones, in browsers and on plain CPUs, in 8-bit integers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)

Factor = Annotated[int, typer.Option("--factor", "-f", min=2, max=4, help="Times larger.")]
OptionalFactor = Annotated[
    int | None,
    typer.Option("--factor", "-f", min=2, max=4, help="Times larger; what the model does, or 3."),
]
Model = Annotated[
    str, typer.Option("--model", "-m", help="A shipped model's name, or a .tflite file.")
]
Threads = Annotated[
    int, typer.Option(min=0, max=1024, help="Processor threads; 0 takes all that there are.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace files that exist.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a script to read.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"anchorsr {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and stop."
        ),
    ] = False,
) -> None:
    """Make pictures larger, and train, quantize, export and measure the networks that do it."""


@app.command("upscale", no_args_is_help=True)
def upscale_command(
    pictures: Annotated[list[Path], typer.Argument(help="Pictures, or folders of pictures.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="A file for one picture, else a folder, made if need be."
        ),
    ] = None,
    factor: OptionalFactor = None,
    model: Model = DEFAULT,
    quality: Annotated[int, typer.Option(min=1, max=100, help="Of JPEG and WebP.")] = 92,
    threads: Threads = 0,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Make pictures larger.

    PNG, JPEG and WebP in and out, by the suffix of the output. Without -o the result is
    written beside the original as NAME_x3. Orientation, colour profile, transparency and EXIF
    are kept; files that exist are not replaced without --force.

    Examples:

        anchorsr upscale photo.jpg

        anchorsr upscale photo.jpg -o larger.png

        anchorsr upscale holiday/ -o holiday-large/ --quality 95
    """
    upscaler = Upscaler(model, factor, threads=threads or None)
    jobs = plan(pictures, output, factor=upscaler.factor, overwrite=force)
    failed = 0
    written: list[dict[str, Any]] = []
    with bar("Upscaling", len(jobs), hidden=len(jobs) == 1 or as_json) as advance:
        for done in upscale_files(jobs, upscaler, quality=quality, overwrite=force):
            advance()
            entry = {"input": str(done.job.source), "output": str(done.job.target)}
            if done.error is not None:
                failed += 1
                entry["error"] = str(done.error)
                complain(done.error)
            elif not as_json:
                print(done.job.target, flush=True)
            written.append(entry)
    if as_json:
        print_json(written)
    if failed:
        raise typer.Exit(1)


@app.command("models")
def models_command(
    name: Annotated[str | None, typer.Argument(help="Print this model's whole card.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the shipped models, or print one model's card: recipe, data, figures, hashes.

    Examples:

        anchorsr models

        anchorsr models abpn_x3
    """
    shipped = list_models()
    if name is not None:
        path = model_path(name)
        print(json.dumps(next(m.card for m in shipped if m.path == path), indent=1))
        return
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


@app.command("evaluate", no_args_is_help=True)
def evaluate_command(
    test_sets: Annotated[
        list[Path],
        typer.Argument(help="Folders of pictures, or with HR/ and LR_bicubic/X3/ inside."),
    ],
    methods: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            help="A shipped model, a .tflite or .onnx file, a run folder (its float weights), or"
            " bicubic. May be given several times.",
        ),
    ] = None,
    factor: Factor = 3,
    border: Annotated[
        int | None, typer.Option(min=0, help="Pixels cut off each side; the factor by default.")
    ] = None,
    threads: Threads = 0,
    as_json: AsJson = False,
) -> None:
    """Measure PSNR and SSIM on test sets.

    Examples:

        anchorsr evaluate Set5 Set14 BSD100

        anchorsr evaluate my-photos/ -m bicubic -m abpn -m runs/mine --json
    """
    names = methods or [DEFAULT]
    scores: list[Score] = []
    with bar("Evaluating", None, hidden=as_json) as advance:
        for name in names:
            for folder in test_sets:
                scores.append(
                    evaluate(
                        name,
                        folder,
                        factor=factor,
                        border=border,
                        threads=threads or None,
                        on_picture=lambda _: advance(),
                    )
                )
    if as_json:
        print_json([dataclasses.asdict(score) for score in scores])
        return
    _print_scores(scores)


@app.command("train", no_args_is_help=True)
def train_command(
    recipe: Annotated[Path, typer.Argument(help="A TOML recipe; recipes/ has examples.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The run's folder; runs/<recipe> by default."),
    ] = None,
    device: Annotated[str, typer.Option(help="Where PyTorch computes: cpu, cuda, ...")] = "cpu",
    mixed_precision: Annotated[
        bool, typer.Option("--mixed-precision", help="bfloat16 where it is safe.")
    ] = False,
    threads: Threads = 0,
) -> None:
    """Train a network by a recipe.

    A checkpoint is written at least every five minutes. Stop with Ctrl-C at any time; the
    same command goes on where it stopped, and ends with the same weights.

    Examples:

        anchorsr train recipes/abpn_x3.toml

        torchrun --nproc-per-node 2 -m anchorsr train recipes/abpn_x3.toml
    """
    from anchorsr.recipes import read_recipe

    parsed = read_recipe(recipe)
    with needs("PyTorch", "train"):
        from anchorsr.training import train
    folder = output or Path("runs") / recipe.stem
    machine = _machine(device, threads, mixed_precision)
    with training_bars("Training") as callbacks:
        record = train(parsed, folder, machine=machine, **callbacks)
    if os.environ.get("RANK", "0") != "0":
        return  # one of the processes tells it
    print(f"{folder}: {record['step']} steps in {record['hours']:.2f} hours")
    _print_last_validation(record["history"])
    print(f"Next: anchorsr quantize {folder} -o {recipe.stem}.tflite")


@app.command("quantize", no_args_is_help=True)
def quantize_command(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .tflite file to write.")],
    train: Annotated[
        bool,
        typer.Option(
            "--train/--no-train", help="Train the integers as the recipe says, or only calibrate."
        ),
    ] = True,
    device: Annotated[str, typer.Option(help="Where PyTorch computes: cpu, cuda, ...")] = "cpu",
    threads: Threads = 0,
    force: Force = False,
) -> None:
    """Turn a trained network into an INT8 `.tflite` file, with a card beside it.

    The integers are calibrated and then trained themselves (the recipe's [quantization]). The
    file appears only after LiteRT gave the same bytes as the integer arithmetic.

    Examples:

        anchorsr quantize runs/abpn_x3 -o abpn_x3.tflite

        anchorsr quantize runs/abpn_x3 -o calibrated.tflite --no-train
    """
    with needs("PyTorch", "train"):
        from anchorsr.release import check_release, release
        from anchorsr.runs import read_record, read_run
    check_release(output, overwrite=force)
    steps, wanted = read_record(run).get("step", 0), read_run(run).schedule.steps
    if steps < wanted:
        remark(f"{run} has taken {steps} of {wanted} steps: anchorsr train goes on with it")
    machine = _machine(device, threads)
    with training_bars("Quantizing") as callbacks:
        scores = release(run, output, train=train, machine=machine, overwrite=force, **callbacks)
    _print_scores(scores)
    print(output)


@app.command("export", no_args_is_help=True)
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
    height_and_width = _parse_size(size)
    path = model_path(model, factor)
    if output.resolve() == path.resolve():
        raise OutputError(f"{output} is the model itself: write to another name")
    data, graph = read_model(path)
    digest = hashlib.sha256(data).hexdigest()
    description = json.dumps({"model": graph.name, "from_sha256": digest})
    export(graph, output, size=height_and_width, description=description, overwrite=force)
    print(output)


def main() -> None:
    """The entry point of the `anchorsr` command."""
    # A training that a native library aborts should say so; the others should be quiet.
    prepare_streams(drop_native="train" not in sys.argv[1:2])
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Do what a command line asks for; returns the exit code."""
    try:
        code = app(arguments, prog_name="anchorsr", standalone_mode=False)
        sys.stdout.flush()
    except AnchorSRError as error:
        complain(error)
        return 1
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        give_up_stdout()
        return 1
    except SystemExit:  # Typer makes a broken pipe this
        give_up_stdout()
        return 1
    except OSError as error:  # most have a class of their own; a full disk under stdout has not
        complain(f"{error.filename or 'the results cannot be printed'}: {reason(error)}")
        give_up_stdout()
        return 1
    except MemoryError:
        complain("there is not enough memory for this: take smaller pictures or fewer at once")
        return 1
    except Exception as error:
        # Typer's usage errors, whose class has no name that is the same in all its versions.
        if not hasattr(error, "format_message"):
            raise
        message = error.format_message()
        if message:  # empty: the help was asked for, and is printed already
            words = ["anchorsr", *_command(arguments), "--help"]
            complain(f"{message.rstrip('.')}: see {' '.join(words)}")
        return 2
    if code == _INTERRUPTED:
        goes_on = _command(arguments) in (["train"], ["quantize"])
        console().print(f"stopped{_GOES_ON if goes_on else ''}")
    return int(code or 0)


# What Typer makes of Ctrl-C: 128 and the number of the signal, as shells count.
_INTERRUPTED = 130
_GOES_ON = "; the same command goes on from the last checkpoint"


def _command(arguments: list[str]) -> list[str]:
    """The name of the command that is called, alone; nothing if there is none."""
    names = [command.name for command in app.registered_commands]
    return [name for name in arguments[:1] if name in names]


def _print_scores(scores: list[Score]) -> None:
    table = Table("model", "set", "pictures", "PSNR RGB", "PSNR Y", "SSIM Y")
    for score in scores:
        table.add_row(
            score.method,
            score.test_set,
            str(score.pictures),
            f"{score.psnr_rgb:.3f}",
            f"{score.psnr_y:.3f}",
            f"{score.ssim_y:.4f}",
        )
    print_table(table)


def _print_last_validation(history: list[dict[str, Any]]) -> None:
    last = history[-1] if history else {}
    figures = [f"{key} {value:.3f} dB" for key, value in last.items() if key not in _OWN_KEYS]
    if figures:
        print(f"step {last['step']}: {', '.join(figures)} (RGB)")


_OWN_KEYS = ("step", "loss")


def _machine(device: str, threads: int, mixed_precision: bool = False) -> Any:
    import torch

    from anchorsr.training import Machine

    try:
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError) as error:  # unknown, or not of this machine
        raise typer.BadParameter(f"no device {device!r}: {reason(error)[:200]}") from error
    return Machine(device=device, threads=threads, mixed_precision=mixed_precision)


def _parse_size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    sides = re.fullmatch("([1-9][0-9]{0,4})x([1-9][0-9]{0,4})", text.lower())
    if sides is None:
        raise typer.BadParameter(f"--size is height x width, such as 360x640, not {text!r}")
    return int(sides[1]), int(sides[2])
