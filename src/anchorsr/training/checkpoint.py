"""The folder of a run: what stands in it, written whole or not at all, and read back.

checkpoint.pt   everything needed to go on: the resumed run equals the uninterrupted one
weights.pt      the averaged weights and the network they belong to
run.json        the recipe with every default, versions, duration, losses, validation
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import torch

from anchorsr.errors import CheckpointError, RecipeError
from anchorsr.networks.layers import RecipeNetwork
from anchorsr.networks.registry import build_network
from anchorsr.training.recipe import Recipe
from anchorsr.utils.config import parse_table
from anchorsr.utils.files import publish, reason

CHECKPOINT, WEIGHTS, RECORD = "checkpoint.pt", "weights.pt", "run.json"


def load_weights(path: Path) -> RecipeNetwork:
    """The network of a run folder or a weights file, with its trained weights.

    Raises CheckpointError when it is missing, damaged, or does not fit its own network.
    """
    path = path / WEIGHTS if path.is_dir() else path
    content = read_content(path)
    try:
        network = build_network(content["network"])
        network.load_state_dict(content["state"])
    except (KeyError, TypeError, RuntimeError, RecipeError) as error:
        raise CheckpointError(
            f"{path} does not hold weights of a known network: {str(error).splitlines()[0]}"
        ) from error
    return network.eval()


def read_run(folder: Path) -> Recipe:
    """The recipe of the run in this folder. Raises CheckpointError when there is none."""
    table = read_record(folder).get("recipe")
    try:
        return parse_table(Recipe, table or {}, "")
    except RecipeError as error:
        raise CheckpointError(f"{folder / RECORD} is damaged: {error}") from error


def read_record(folder: Path) -> dict[str, Any]:
    """What run.json says of the run in this folder. Raises CheckpointError when there is none."""
    path = folder / RECORD
    try:
        record = json.loads(path.read_text())
    except OSError as error:
        raise CheckpointError(
            f"{folder} does not hold a run ({path.name}: {reason(error)}): make one with"
            " anchorsr train"
        ) from error
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: {reason(error)}") from error
    if not isinstance(record, dict):
        raise CheckpointError(f"{path} is damaged: it holds no table")
    return record


def read_content(path: Path) -> dict[str, Any]:
    """What a `.pt` file of a run holds, on the CPU. Raises CheckpointError."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except Exception as error:  # a damaged file can raise almost anything in the unpickler
        raise CheckpointError(f"{path} is damaged or not a checkpoint of anchorsr") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is damaged or not a checkpoint of anchorsr")
    return content


def write_content(path: Path, content: dict[str, Any]) -> None:
    """Whole or not at all, and the one before stays until then."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    publish(buffer.getvalue(), path, overwrite=True)
