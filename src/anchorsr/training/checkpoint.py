"""The folder of a training run: its files, written atomically and read back.

checkpoint.pt   all state of the run; a resumed run equals the uninterrupted one
weights.pt      the EMA weights and the options of their network
run.json        the recipe with every default, versions, duration, losses, validation
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from anchorsr.errors import CheckpointError, RecipeError
from anchorsr.networks.base import RecipeNetwork
from anchorsr.networks.registry import build_network
from anchorsr.training.recipe import Recipe
from anchorsr.utils.config import parse_table
from anchorsr.utils.files import cannot_read, make_folder, publish, reason
from anchorsr.utils.strict_json import parse_json, to_json

CHECKPOINT, WEIGHTS, RECORD = "checkpoint.pt", "weights.pt", "run.json"

# These tables of a recipe do not change what the float training computes.
MAY_CHANGE = ("validation", "quantization")


@dataclass(frozen=True)
class TrainingRun:
    """A training run, as `train` returns it and `load_run` reads it back.

    Attributes:
        folder: Where its files are.
        recipe: The recipe, with the defaults of its network written out.
        record: The content of run.json.
        network: The network with its EMA weights, in eval mode.
    """

    folder: Path
    recipe: Recipe
    record: dict[str, Any]
    network: RecipeNetwork

    @property
    def step(self) -> int:
        """Number of steps taken."""
        return int(self.record.get("step", 0))

    @property
    def is_finished(self) -> bool:
        """Whether all steps of the recipe are taken."""
        return self.step >= self.recipe.schedule.steps

    @property
    def history(self) -> list[dict[str, Any]]:
        """One entry per validation: step, loss, and PSNR in dB by the name of the set."""
        history: list[dict[str, Any]] = self.record["history"]
        return history


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run after a step.

    Attributes:
        recipe: The recipe; read back, its tables in `MAY_CHANGE` have their defaults.
        origin: Digest of what the network was made from, where the recipe does not say it all.
        data: Number, size and CRC-32 of the training images.
        state: Weights of the network.
        averaged: EMA of the weights.
        optimizer: State of the optimizer.
        step: Number of steps taken.
        seconds: Training time so far.
        history: One entry per validation.
        made_on: Device, threads, processes and versions; None in checkpoints of old versions.
        losses: Losses since the last validation.
    """

    recipe: Recipe
    data: dict[str, int]
    state: dict[str, Any]
    averaged: dict[str, Any]
    optimizer: dict[str, Any]
    step: int
    seconds: float
    history: list[dict[str, Any]]
    origin: str = ""
    made_on: dict[str, Any] | None = None
    losses: tuple[float, ...] | list[float] = ()


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _is_duration(value: Any) -> bool:
    return _is_number(value) and 0 <= value < math.inf


def _is_table(value: Any) -> bool:
    return isinstance(value, dict)


def _is_fingerprint(value: Any) -> bool:
    """A fingerprint of images (`data.pairs.fingerprint`); an unfinished run may have none."""
    return isinstance(value, dict) and (
        not value
        or (
            {"pictures", "lr_pixels"} <= value.keys()
            and all(isinstance(key, str) and _is_count(each) for key, each in value.items())
        )
    )


def _is_history(value: Any) -> bool:
    """Entries of numbers by name; null stands for an infinite PSNR."""
    return isinstance(value, list) and all(
        isinstance(entry, dict)
        and _is_count(entry.get("step"))
        and all(
            isinstance(key, str) and (each is None or _is_number(each))
            for key, each in entry.items()
        )
        for entry in value
    )


def _is_losses(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(map(_is_number, value))


# What the values of a checkpoint and of run.json must be, beyond what reading them shows.
_STATE = {
    "origin": lambda value: isinstance(value, str),
    "data": _is_fingerprint,
    "state": _is_table,
    "averaged": _is_table,
    "optimizer": _is_table,
    "step": _is_count,
    "seconds": _is_duration,
    "history": _is_history,
    "made_on": lambda value: value is None or _is_table(value),
    "losses": _is_losses,
}
_RECORD = {
    "step": _is_count,
    "hours": _is_duration,
    "data": _is_fingerprint,
    "history": _is_history,
}


def load_run(folder: Path) -> TrainingRun:
    """Load a run: its record, its recipe and its network with the EMA weights.

    Raises:
        CheckpointError: There is no run in the folder, or a file of it is damaged.
    """
    record = read_record(folder)
    network = load_weights(folder)
    try:
        recipe = parse_table(Recipe, record.get("recipe") or {}, "")
    except RecipeError as error:
        raise CheckpointError(f"{folder / RECORD} is damaged: {error}") from error
    return TrainingRun(folder, recipe, record, network)


def load_weights(path: Path) -> RecipeNetwork:
    """Load the network of a run's folder or of a weights file, in eval mode.

    Raises:
        CheckpointError: The file is missing or damaged, or does not fit its own network.
    """
    path = path / WEIGHTS if path.is_dir() else path
    content = read_content(path)
    try:
        network = build_network(content["network"])
        network.load_state_dict(content["state"])
    except (AttributeError, LookupError, TypeError, ValueError, RuntimeError, RecipeError) as error:
        raise CheckpointError(
            f"{path} does not hold weights of a known network: {str(error).splitlines()[0]}"
        ) from error
    return network.eval()


def read_record(folder: Path) -> dict[str, Any]:
    """Read run.json of the run in this folder.

    Raises:
        CheckpointError: It is missing or damaged.
    """
    path = folder / RECORD
    try:
        record = parse_json(path.read_bytes())
    except OSError as error:
        raise CheckpointError(
            f"{folder} does not hold a run ({path.name}: {reason(error)}): make one with"
            " anchorsr train"
        ) from error
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: {reason(error)}") from error
    if not isinstance(record, dict):
        raise CheckpointError(f"{path} is damaged: it does not hold a table")
    values = {"step": 0, "hours": 0.0, "data": {}, "history": [], **record}
    wrong = [name for name, is_valid in _RECORD.items() if not is_valid(values[name])]
    if wrong:
        raise CheckpointError(f"{path} is damaged: {' and '.join(wrong)} cannot be as it is")
    return record


def read_checkpoint(folder: Path) -> Checkpoint | None:
    """Read the checkpoint of the run in this folder; None without one.

    Raises:
        CheckpointError: It is damaged, or of a version with an unknown recipe key.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    content = read_content(path)
    known = {field.name for field in fields(Checkpoint)}
    try:
        # The excepted tables may hold what only the version that wrote them knows.
        table = {key: value for key, value in content["recipe"].items() if key not in MAY_CHANGE}
        recipe = parse_table(Recipe, table, "")
        values = {key: value for key, value in content.items() if key in known}
        checkpoint = Checkpoint(**{**values, "recipe": recipe})
    except (AttributeError, KeyError, TypeError, RecipeError) as error:
        raise CheckpointError(
            f"{path} is damaged or of another version: {reason(error)}"
        ) from error
    wrong = [name for name, is_valid in _STATE.items() if not is_valid(getattr(checkpoint, name))]
    if not wrong and checkpoint.step > recipe.schedule.steps:
        wrong = ["step"]
    if wrong:
        raise CheckpointError(f"{path} is damaged: {' and '.join(wrong)} cannot be as it is")
    return checkpoint


def check_same_run(checkpoint: Checkpoint, recipe: Recipe, origin: str, folder: Path) -> None:
    """Check that a checkpoint may be resumed with a recipe.

    The recipe may differ in the tables in `MAY_CHANGE`, and may have more steps.

    Args:
        checkpoint: The checkpoint of the folder.
        recipe: The recipe to resume it with.
        origin: Digest of what the network is made from now.
        folder: The folder of the run.

    Raises:
        CheckpointError: It belongs to another recipe, or was made from something else.
    """
    path = folder / CHECKPOINT
    if checkpoint.origin != origin:
        raise CheckpointError(
            f"{path} is of an earlier version, or was initialized from other weights or another"
            f" calibration, which have changed since: delete {folder} to start over"
        )
    theirs = checkpoint.recipe
    theirs = replace(
        theirs,
        data=replace(theirs.data, make=recipe.data.make),
        validation=recipe.validation,
        quantization=recipe.quantization,
    )
    if recipe.schedule.steps > theirs.schedule.steps:
        longer = replace(theirs.schedule, steps=recipe.schedule.steps)
        theirs = replace(theirs, schedule=longer)
    mine, others = recipe.as_table(), theirs.as_table()
    different = sorted(key for key in mine if mine[key] != others[key])
    if different:
        raise CheckpointError(
            f"{path} belongs to another recipe ({', '.join(different)} differ; only"
            f" schedule.steps may be raised): delete {folder} to start over, or give this run"
            " another output folder"
        )


def check_same_data(before: dict[str, int], now: dict[str, int], folder: Path) -> None:
    """Check that a run is resumed with the images it was trained on.

    Args:
        before: Fingerprint of the images in the checkpoint; empty for a new run.
        now: Fingerprint of the images (`data.pairs.fingerprint`).
        folder: The folder of the run.

    Raises:
        CheckpointError: The images differ.
    """
    if before != {key: now.get(key) for key in before}:  # earlier versions had no CRC
        raise CheckpointError(
            f"{folder} was trained on other images, {before['pictures']} with"
            f" {before['lr_pixels']} LR pixels, not on these {now['pictures']} with"
            f" {now['lr_pixels']}: give this run another output folder"
        )


def read_content(path: Path) -> dict[str, Any]:
    """Read a `.pt` file of a run onto the CPU.

    Raises:
        CheckpointError: It cannot be read or is damaged.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{path} {cannot_read(error)}") from error
    except Exception as error:  # a damaged file can raise almost anything in the unpickler
        raise CheckpointError(f"{path} is damaged or not a checkpoint of anchorsr") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is damaged or not a checkpoint of anchorsr")
    return content


def write_run(
    folder: Path, checkpoint: Checkpoint, record: dict[str, Any], network: Mapping[str, Any]
) -> None:
    """Write the files of a run, each atomically, replacing those before.

    Args:
        folder: Made if missing.
        checkpoint: The state of the run.
        record: The content of run.json.
        network: The options of the network, which weights.pt holds beside the EMA weights.

    Raises:
        OutputError: The folder cannot be written.
    """
    content = {field.name: getattr(checkpoint, field.name) for field in fields(checkpoint)}
    content["recipe"] = checkpoint.recipe.as_table()
    weights = {"network": dict(network), "state": checkpoint.averaged}
    files = {
        CHECKPOINT: _serialize(content),
        WEIGHTS: _serialize(weights),
        RECORD: f"{to_json(record, indent=1)}\n".encode(),
    }
    make_folder(folder)
    for name, data in files.items():
        publish(data, folder / name, overwrite=True)


def _serialize(content: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()
