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
from torch import nn

from anchorsr.errors import CheckpointError, RecipeError
from anchorsr.files import publish, reason
from anchorsr.networks import RecipeNetwork, build_network
from anchorsr.networks.layers import Conv3x3, LowRankConv3x3
from anchorsr.recipes import Recipe, parse_table

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


def load_matching_weights(network: nn.Module, trained: nn.Module) -> None:
    """Take over each 3×3 convolution of the same name and shape, in its collapsed form.

    What `network` has beyond `trained` changes as little as it can: a convolution more of equal
    widths passes on what it is given, as in Net2DeeperNet (arXiv 1511.05641), and one of low rank
    comes as near as its rank allows. Raises CheckpointError when nothing is taken over.
    """
    sources = dict(trained.named_modules())
    found = False
    for name, module in network.named_modules():
        source = sources.get(name)
        parent = network.get_submodule(name.rpartition(".")[0])
        if not isinstance(module, Conv3x3 | LowRankConv3x3) or isinstance(parent, LowRankConv3x3):
            continue
        if isinstance(source, Conv3x3 | LowRankConv3x3) and source.widths == module.widths:
            module.take_over(source)
            found = True
        elif source is None and isinstance(module, Conv3x3) and len(set(module.widths)) == 1:
            module.pass_through()
    if not found:
        raise CheckpointError("initial_weights: no convolution of that network fits this one")


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
