"""Quantization-aware training: the integer graph itself is trained (`integer_network`), so that
what was trained is what is written.

Its targets lie halfway between the images and what the float network makes of them. Of images
alone, what no network of the size can know is most of the error and of its gradient, and rounding
half a percent of it; of the float network alone, integers learn nothing that it does not know.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from anchorsr.data.degradation import degrade_like
from anchorsr.data.pairs import draw_pairs
from anchorsr.data.strengths import CLEAN, Strengths
from anchorsr.errors import RecipeError
from anchorsr.graph.graph import Graph
from anchorsr.lowering.trace import lower
from anchorsr.networks.conditioned import ConditionedABPN
from anchorsr.networks.layers import RecipeNetwork
from anchorsr.quantization.calibration import Ranges, choose_quantization, observe_ranges
from anchorsr.quantization.equalize import equalize
from anchorsr.quantization.ptq import apply_quantization
from anchorsr.quantization.qat_network import IntegerNetwork
from anchorsr.quantization.rounding import keep_from_ties
from anchorsr.training.checkpoint import load_weights, read_record, read_run
from anchorsr.training.recipe import Recipe
from anchorsr.training.trainer import Machine, Progress, fit

UInt8Array = npt.NDArray[np.uint8]

INTEGER_FOLDER = "integer"


def quantize_run(
    folder: Path,
    *,
    train: bool = True,
    strengths: Strengths = CLEAN,
    machine: Machine = Machine(),
    on_loading: Callable[[int, int], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Graph:
    """The integer graph of a finished run: calibrated, then trained as its recipe says.

    strengths: what images have been through that a network which is told is for. Its integer
    weights are the same for all, so they are calibrated only, on images that were degraded alike.

    The integer run has a folder of its own, `integer` inside the run's; it is resumed from
    there, unless the float weights or the calibration have changed since, which is an error.
    train=False stops after the calibration.
    Raises CheckpointError for a folder without a run, RecipeError for a strength that the network
    is not told, and what `training.fit` raises.
    """
    recipe = read_run(folder)
    settings = recipe.quantization
    network = load_weights(folder)
    images = _draw(recipe, network.factor)
    if network.strengths or strengths != CLEAN:
        network = _fold(network, strengths)
        random = np.random.default_rng(recipe.seed)
        images = [degrade_like(image, strengths, random) for image in images]
        train = False
    graph, ranges = _calibrate(network, recipe, images)
    chosen = choose_quantization(graph, ranges)
    calibrated = apply_quantization(graph, chosen)
    if settings.schedule is None or not train:
        return keep_from_ties(calibrated)
    # Integers need float32 as it is: no mixed precision, and no TF32 in cuDNN.
    torch.backends.cudnn.allow_tf32 = False
    trained, _ = fit(
        IntegerNetwork(graph, chosen),
        dataclasses.replace(
            recipe,
            # Patches as they come: chosen for their detail, flat ones would keep a wrong level.
            data=dataclasses.replace(recipe.data, candidates=1),
            schedule=settings.schedule,
            optimizer=settings.optimizer,
            loss=settings.loss,
            # Integers of averaged weights are not those that were trained: 0.01 dB less.
            ema_decay=0.0,
        ),
        folder / INTEGER_FOLDER,
        machine=dataclasses.replace(machine, mixed_precision=False),
        origin=_digest(network, recipe, images),
        teacher=network,
        on_loading=on_loading,
        on_progress=on_progress,
    )
    trained.keep_from_ties()
    return trained.to_graph()


def _fold(network: RecipeNetwork, strengths: Strengths) -> RecipeNetwork:
    """The plain network for images that have been through this."""
    told = {name: value for name, value in dataclasses.asdict(strengths).items() if value}
    if not isinstance(network, ConditionedABPN):
        raise RecipeError(f"the network is not told what images have been through ({min(told)})")
    return network.fold(told)


def _digest(network: RecipeNetwork, recipe: Recipe, images: Sequence[UInt8Array]) -> str:
    """Of what the integers begin with. Ranges differ in their last bit between processors."""
    settings = recipe.quantization
    digest = hashlib.sha256(repr((settings.percentile, settings.equalize)).encode())
    for _, tensor in sorted(network.state_dict().items()):
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    for image in images:
        digest.update(image.tobytes())
    return digest.hexdigest()


def calibrate_run(folder: Path) -> tuple[Graph, Ranges]:
    """The float graph of a run, and the range of each of its tensors on training images."""
    recipe = read_run(folder)
    network = load_weights(folder)
    return _calibrate(network, recipe, _draw(recipe, network.factor))


def _calibrate(
    network: RecipeNetwork, recipe: Recipe, images: Sequence[UInt8Array]
) -> tuple[Graph, Ranges]:
    graph = lower(network, name=f"{recipe.network['name']}_x{network.factor}")
    settings = recipe.quantization
    if settings.equalize:
        graph = equalize(graph, images)
    return graph, observe_ranges(graph, images, settings.percentile)


def _draw(recipe: Recipe, factor: int) -> list[UInt8Array]:
    """The LR images that a recipe calibrates with."""
    drawn = draw_pairs(
        [Path(name) for name in recipe.data.folders],
        factor,
        patch=recipe.data.patch,
        seed=recipe.seed,
        count=recipe.quantization.calibration,
    )
    return [pair.lr for pair in drawn]


def read_records(folder: Path, *, trained: bool) -> dict[str, Any]:
    """What run.json holds of the float run and, if the integers were trained, of theirs."""
    records = {"float": read_record(folder)}
    if trained and (folder / INTEGER_FOLDER).exists():
        records["integer"] = read_record(folder / INTEGER_FOLDER)
    return records
