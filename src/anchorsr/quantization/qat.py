"""Quantize a training run: calibration, then quantization-aware training (QAT) as its recipe says.

QAT trains the integer graph itself (`qat_network`), so that what was trained is what is written.
Its targets are the mean of the HR images and the output of the float network. With HR images
alone, most of the error and its gradient is detail that no network of this size can restore, and
rounding is half a percent of it; with the float network alone, the integers learn nothing new.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anchorsr.arrays import UInt8Array
from anchorsr.data.degradation import degrade_like
from anchorsr.data.pairs import draw_pairs
from anchorsr.data.strengths import CLEAN, Strengths
from anchorsr.errors import CheckpointError, RecipeError
from anchorsr.graph.graph import Graph
from anchorsr.lowering.trace import lower
from anchorsr.networks.base import RecipeNetwork
from anchorsr.networks.conditioned_abpn import ConditionedABPN
from anchorsr.quantization.calibration import Ranges, choose_quantization, observe_ranges
from anchorsr.quantization.equalize import equalize
from anchorsr.quantization.ptq import apply_quantization
from anchorsr.quantization.qat_network import IntegerNetwork
from anchorsr.quantization.rounding import avoid_ties
from anchorsr.training.checkpoint import TrainingRun, load_run
from anchorsr.training.machine import Machine
from anchorsr.training.progress import TrainingProgress
from anchorsr.training.recipe import QuantizationRecipe
from anchorsr.training.trainer import fit

INTEGER_FOLDER = "integer"


@dataclass(frozen=True)
class QuantizedRun:
    """A training run as an integer graph.

    Attributes:
        run: The float run.
        graph: The integer graph.
        qat_record: The content of run.json of quantization-aware training; None without it.
    """

    run: TrainingRun
    graph: Graph
    qat_record: dict[str, Any] | None = None

    @property
    def records(self) -> dict[str, Any]:
        """The records of both runs, as a model's card holds them."""
        integer = {} if self.qat_record is None else {"integer": self.qat_record}
        return {"float": self.run.record, **integer}


@dataclass(frozen=True)
class Calibration:
    """What quantization starts from.

    Attributes:
        graph: The float graph, equalized if the recipe says so.
        ranges: Lowest and highest value of each tensor on the calibration images.
        digest: SHA-256 of weights, settings and images. The ranges are not in it: their last
            bits differ between processors.
    """

    graph: Graph
    ranges: Ranges
    digest: str


def quantize(
    run: TrainingRun | str | os.PathLike[str],
    *,
    qat: bool = True,
    unfinished: bool = False,
    strengths: Strengths = CLEAN,
    machine: Machine = Machine(),
    on_loading: Callable[[int, int], None] | None = None,
    on_progress: Callable[[TrainingProgress], None] | None = None,
) -> QuantizedRun:
    """Turn a training run into an integer graph.

    Activation ranges are calibrated on training images. Then the integers are trained, if the
    recipe has a `quantization.schedule`. That run is kept in the folder `integer` inside the
    run's, and resumed from there. A conditioned network has no quantization-aware training: it is
    folded for the given strengths, and all strengths share its integer weights.

    Args:
        run: What `train` returned, or the folder of a run.
        qat: False stops after calibration (post-training quantization).
        unfinished: Whether to accept a run that has not taken all its steps.
        strengths: The degradation of the images that the graph is for, which a conditioned network
            is folded for. Calibration images are degraded to them.
        machine: What to compute on; mixed precision is never used.
        on_loading: As in `train`.
        on_progress: As in `train`.

    Raises:
        CheckpointError: There is no run, it is unfinished, or `integer` was made from weights or a
            calibration that have changed since.
        DataError: There are no training images.
        GraphError: The network cannot be quantized.
        RecipeError: The network takes no such strength.
        TrainingError: A loss, gradient or weight is not finite.

    Example:
        >>> quantized = anchorsr.quantize("runs/abpn_x3")
        >>> quantized.graph.is_integer
        True
    """
    run = run if isinstance(run, TrainingRun) else load_run(Path(run))
    if not (run.is_finished or unfinished):
        raise CheckpointError(
            f"{run.folder} has taken {run.step} of {run.recipe.schedule.steps} steps: resume it"
            " with anchorsr train, or quantize it as it is with --unfinished"
        )
    calibration = calibrate(run, strengths)
    graph = calibration.graph
    chosen = choose_quantization(graph, calibration.ranges)
    settings = run.recipe.quantization
    if settings.schedule is None or run.network.strengths or not qat:
        return QuantizedRun(run, avoid_ties(apply_quantization(graph, chosen)))
    network = IntegerNetwork(graph, chosen)
    recipe = dataclasses.replace(
        run.recipe,
        # Random patches: if chosen for their detail, flat areas would keep a wrong level.
        data=dataclasses.replace(run.recipe.data, candidates=1),
        schedule=settings.schedule,
        optimizer=settings.optimizer,
        loss=settings.loss,
        # The integers of EMA weights are not those that were trained: 0.01 dB less.
        ema_decay=0.0,
    )
    # Integers need exact float32: no mixed precision, and no TF32 in cuDNN.
    torch.backends.cudnn.allow_tf32 = False
    trained, record = fit(
        network,
        recipe,
        run.folder / INTEGER_FOLDER,
        machine=dataclasses.replace(machine, mixed_precision=False),
        origin=calibration.digest,
        teacher=copy.deepcopy(run.network),
        on_loading=on_loading,
        on_progress=on_progress,
    )
    trained.avoid_ties()
    return QuantizedRun(run, trained.to_graph(), record)


def calibrate(run: TrainingRun, strengths: Strengths = CLEAN) -> Calibration:
    """Lower the network of a run to a float graph and measure its activations.

    Args:
        run: The run.
        strengths: As in `quantize`.

    Raises:
        DataError: There are no training images.
        RecipeError: The network takes no such strength.
    """
    settings = run.recipe.quantization
    network = _fold(run.network, strengths)
    pairs = draw_pairs(
        [Path(name) for name in run.recipe.data.folders],
        network.factor,
        patch=run.recipe.data.patch,
        seed=run.recipe.seed,
        count=settings.calibration,
    )
    random = np.random.default_rng(run.recipe.seed)
    images = [degrade_like(pair.lr, strengths, random) for pair in pairs]
    name = str(run.recipe.network["name"]).rpartition(":")[2]
    graph = lower(network, name=f"{name}_x{network.factor}")
    if settings.equalize:
        graph = equalize(graph, images)
    ranges = observe_ranges(graph, images, settings.percentile)
    return Calibration(graph, ranges, _digest(network, settings, images))


def _fold(network: RecipeNetwork, strengths: Strengths) -> RecipeNetwork:
    """Return the plain network for these strengths, which a plain network is if there are none."""
    values = {name: value for name, value in dataclasses.asdict(strengths).items() if value}
    if isinstance(network, ConditionedABPN):
        return network.fold(values)
    if values:
        raise RecipeError(f"the network is not conditioned: it takes no strength {min(values)}")
    return network


def _digest(
    network: RecipeNetwork, settings: QuantizationRecipe, images: Sequence[UInt8Array]
) -> str:
    digest = hashlib.sha256(repr((settings.percentile, settings.equalize)).encode())
    for _, tensor in sorted(network.state_dict().items()):
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    for image in images:
        digest.update(image.tobytes())
    return digest.hexdigest()
