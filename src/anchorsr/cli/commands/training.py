"""How a model is made: train, quantize."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from anchorsr.cli.commands.options import Force, Threads, print_scores
from anchorsr.cli.terminal import remark, training_bars
from anchorsr.data.strengths import parse_strengths
from anchorsr.errors import needs
from anchorsr.utils.files import reason


def train_command(
    recipe: Annotated[Path, typer.Argument(help="A TOML recipe; recipes/ has examples.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The run's folder; runs/RECIPE by default."),
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
    from anchorsr.training.recipe import read_recipe

    parsed = read_recipe(recipe)
    with needs("PyTorch", "train"):
        from anchorsr.training.trainer import train
    folder = output or Path("runs") / recipe.stem
    machine = training_machine(device, threads, mixed_precision)
    with training_bars("Training") as callbacks:
        record = train(parsed, folder, machine=machine, **callbacks)
    if os.environ.get("RANK", "0") != "0":
        return  # one of the processes tells it
    images = record["data"].get("images", 0)
    print(f"{folder}: {record['step']} steps in {record['hours']:.2f} hours, {images} images")
    _print_last_validation(record["history"])
    print(f"Next: anchorsr quantize {folder} -o {recipe.stem}.tflite")


def quantize_command(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .tflite file to write.")],
    train: Annotated[
        bool,
        typer.Option(
            "--train/--no-train", help="Train the integers as the recipe says, or only calibrate."
        ),
    ] = True,
    strengths: Annotated[
        list[str] | None,
        typer.Option(
            "--strength",
            help="What images have been through that the file is for, where the network is told:"
            " jpeg=75 (quality), noise=5 (sigma), video=28 (CRF), ... May be given several times.",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="Where PyTorch computes: cpu, cuda, ...")] = "cpu",
    threads: Threads = 0,
    force: Force = False,
) -> None:
    """Turn a trained network into an INT8 `.tflite` file, with a card beside it.

    The integers are calibrated and then trained themselves (the recipe's [quantization]). The
    file appears only after LiteRT gave the same bytes as the integer arithmetic.
    Networks that end in a transposed convolution or enlarge the image itself are written for
    images of 360x640, because the format stores such sizes.

    Examples:

        anchorsr quantize runs/abpn_x3 -o abpn_x3.tflite

        anchorsr quantize runs/abpn_x3 -o calibrated.tflite --no-train

        anchorsr quantize runs/photo_x3 -o photo_jpeg75.tflite --strength jpeg=75
    """
    with needs("PyTorch", "train"):
        from anchorsr.export.release import check_release, release
        from anchorsr.training.checkpoint import read_record, read_run
    told = parse_strengths(strengths or [])
    check_release(output, overwrite=force)
    steps, wanted = read_record(run).get("step", 0), read_run(run).schedule.steps
    if steps < wanted:
        remark(f"{run} has taken {steps} of {wanted} steps: anchorsr train goes on with it")
    machine = training_machine(device, threads)
    with training_bars("Quantizing") as callbacks:
        scores = release(
            run,
            output,
            train=train,
            strengths=told,
            machine=machine,
            overwrite=force,
            **callbacks,
        )
    print_scores(scores)
    print(output)


def _print_last_validation(history: list[dict[str, Any]]) -> None:
    last = history[-1] if history else {}
    figures = [f"{key} {value:.3f} dB" for key, value in last.items() if key not in _OWN_KEYS]
    if figures:
        print(f"step {last['step']}: {', '.join(figures)} (RGB)")


_OWN_KEYS = ("step", "loss")


def _is_one_of_several(device: str) -> bool:
    from anchorsr.training.distributed import process_count

    return device == "cuda" and process_count() > 1


def training_machine(device: str, threads: int, mixed_precision: bool = False) -> Any:
    """The `training.Machine` of these options. Raises a usage error for an unknown device."""
    import torch

    from anchorsr.training.trainer import Machine

    # Of several processes, each has a GPU of its own.
    mine = f"cuda:{os.environ['LOCAL_RANK']}" if _is_one_of_several(device) else device
    try:
        torch.zeros(1, device=mine).item()
    except Exception as error:  # unknown, or not of this machine: each backend has its own
        raise typer.BadParameter(f"no device {device!r}: {reason(error)[:200]}") from error
    return Machine(device=device, threads=threads, mixed_precision=mixed_precision)
