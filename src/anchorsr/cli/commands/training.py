"""The commands that make a model: train and quantize."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anchorsr.cli.commands.data import make_data
from anchorsr.cli.commands.options import Force, StrengthTexts, Threads
from anchorsr.cli.terminal import print_scores, remark, say, training_bars
from anchorsr.data.strengths import parse_strengths
from anchorsr.errors import DataError, needs
from anchorsr.utils.files import reason

if TYPE_CHECKING:
    from anchorsr.training.chain import Phase


def train_command(
    recipe: Annotated[
        Path,
        typer.Argument(
            help="A TOML recipe; with --chain also a shipped model, such as quality_x3."
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The folder of this run; RUNS/RECIPE by default."),
    ] = None,
    runs: Annotated[Path, typer.Option(help="The folder in which runs are kept.")] = Path("runs"),
    device: Annotated[str, typer.Option(help="PyTorch device: cpu, cuda, ...")] = "cpu",
    mixed_precision: Annotated[
        bool, typer.Option("--mixed-precision", help="Use bfloat16 where it is safe.")
    ] = False,
    chain: Annotated[
        bool,
        typer.Option(
            "--chain",
            help="First train what the recipe is initialized from, by the recipes beside it, and "
            "make the images that they say how to make.",
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show the runs and what they need.")
    ] = False,
    threads: Threads = 0,
) -> None:
    """Train a network by a recipe.

    A checkpoint is written at least every five minutes. Stop with Ctrl-C at any time; the
    same command resumes the run, which then ends with the same weights. To extend a finished run,
    raise schedule.steps in its recipe.

    Examples:

        anchorsr train recipes/abpn_x3.toml

        torchrun --nproc-per-node 2 -m anchorsr train recipes/abpn_x3.toml

        anchorsr train --chain quality_x3    # all phases of the shipped model, from nothing

        anchorsr train --chain quality_x3 --dry-run
    """
    from anchorsr.training.recipe import read_recipe

    parsed = None if chain else read_recipe(recipe)
    with needs("PyTorch", "train"):
        from anchorsr.training.chain import Phase, find_chain, find_missing_data
        from anchorsr.training.distributed import process_count
        from anchorsr.training.sampling import how_to_make
        from anchorsr.training.trainer import train
    folder = output or Path(runs, recipe.stem)
    phases = find_chain(recipe, output) if parsed is None else [Phase(recipe, parsed, folder)]
    missing = find_missing_data(phases) if chain or dry_run else {}
    if dry_run:
        _show_plan(phases, missing)
        return
    machine = training_machine(device, threads, mixed_precision)
    for made, arguments in missing.items():
        if process_count() > 1:
            raise DataError(how_to_make(str(made), arguments))
        remark(f"making {made}: anchorsr data {arguments}")
        make_data(made, arguments)
    for number, phase in enumerate(phases, 1):
        recipe, folder = phase.path, phase.folder
        if chain:
            remark(f"phase {number} of {len(phases)}: {recipe}")
        with training_bars("Training") as callbacks:
            run = train(phase.recipe, folder, machine=machine, **callbacks)
    if os.environ.get("RANK", "0") != "0":
        return  # one of the processes prints
    hours, images = run.record["hours"], run.record["data"].get("pictures", 0)
    say(f"{folder}: {run.step} steps in {hours:.2f} hours, {images} images")
    last = run.history[-1] if run.history else {}
    figures = [f"{key} {last[key]:.3f} dB" for key in last if key not in ("step", "loss")]
    if figures:
        say(f"step {last['step']}: {', '.join(figures)} (RGB)")
    say(f"Next: anchorsr quantize {folder} -o {recipe.stem}.tflite")


def _show_plan(phases: list[Phase], missing: dict[Path, str]) -> None:
    for made, arguments in missing.items():
        say(f"make {made}: anchorsr data {arguments}")
    for number, phase in enumerate(phases, 1):
        say(f"{number}. {phase.path} -> {phase.folder}: {phase.recipe.schedule.steps:,} steps")


def quantize_command(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .tflite file to write.")],
    train: Annotated[
        bool,
        typer.Option(
            "--train/--no-train",
            help="Quantization-aware training (QAT) as the recipe says, or calibration only (PTQ).",
        ),
    ] = True,
    unfinished: Annotated[
        bool, typer.Option("--unfinished", help="Accept a run that has not taken all its steps.")
    ] = False,
    strengths: StrengthTexts = None,
    device: Annotated[str, typer.Option(help="PyTorch device: cpu, cuda, ...")] = "cpu",
    threads: Threads = 0,
    force: Force = False,
) -> None:
    """Quantize a trained network to an INT8 `.tflite` file, with a card beside it.

    Activation ranges are calibrated on training images, then the integers are trained as the
    recipe's [quantization] says. The file is written only after LiteRT has returned the same
    bytes as the integer arithmetic. Networks that end in a transposed convolution or upscale the
    image itself are written for images of 640x360, because the format stores such sizes. The file
    of a conditioned network serves all strengths; --strength makes a plain one for given strengths.

    Examples:

        anchorsr quantize runs/abpn_x3 -o abpn_x3.tflite

        anchorsr quantize runs/abpn_x3 -o abpn_x3_ptq.tflite --no-train

        anchorsr quantize runs/photo_x3 -o photo_jpeg75.tflite --strength jpeg=75
    """
    with needs("PyTorch", "train"):
        from anchorsr.export.release import release
    degraded = parse_strengths(strengths or [])
    with training_bars("Quantizing") as callbacks:
        scores = release(
            run,
            output,
            qat=train,
            unfinished=unfinished,
            strengths=degraded,
            machine=training_machine(device, threads),
            overwrite=force,
            **callbacks,
        )
    print_scores(scores)
    say(output)


def training_machine(device: str, threads: int, mixed_precision: bool = False) -> Any:
    """Return the `machine.Machine` of these options.

    Raises:
        typer.BadParameter: There is no such device here.
    """
    import torch

    from anchorsr.training.distributed import process_count
    from anchorsr.training.machine import Machine

    name = device
    if device == "cuda" and process_count() > 1:  # each process has a GPU of its own
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        torch.zeros(1, device=name).item()
    except Exception as error:  # unknown, or not of this machine: each backend has its own
        raise typer.BadParameter(f"no device {device!r}: {reason(error)[:200]}") from error
    return Machine(device=device, threads=threads, mixed_precision=mixed_precision)
