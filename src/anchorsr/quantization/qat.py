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
from typing import Any, TypeVar

import torch

from anchorsr.arrays import UInt8Array
from anchorsr.data.pairs import Pair, draw_pairs
from anchorsr.errors import CheckpointError
from anchorsr.graph.conditioning import Conditioning
from anchorsr.graph.graph import Graph
from anchorsr.lowering.trace import lower
from anchorsr.networks.base import RecipeNetwork
from anchorsr.networks.conditioned_abpn import ConditionedABPN
from anchorsr.quantization.calibration import Ranges, choose_quantization, observe_ranges
from anchorsr.quantization.conditioned import calibrate_conditioned
from anchorsr.quantization.equalize import equalize
from anchorsr.quantization.ptq import apply_quantization
from anchorsr.quantization.qat_network import IntegerNetwork
from anchorsr.quantization.rounding import avoid_ties
from anchorsr.training.checkpoint import TrainingRun, load_run
from anchorsr.training.machine import Machine
from anchorsr.training.progress import TrainingProgress
from anchorsr.training.recipe import QuantizationRecipe, ScheduleRecipe
from anchorsr.training.trainer import fit

INTEGER_FOLDER = "integer"

Network = TypeVar("Network", bound=IntegerNetwork)


@dataclass(frozen=True)
class QuantizedRun:
    """A training run as an integer graph.

    Attributes:
        run: The float run.
        graph: The integer graph; of a conditioned network, the one for clean images.
        qat_record: The content of run.json of quantization-aware training; None without it.
        conditioning: The table that makes the graphs for other strengths; None of a plain network.
    """

    run: TrainingRun
    graph: Graph
    qat_record: dict[str, Any] | None = None
    conditioning: Conditioning | None = None

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
    machine: Machine = Machine(),
    on_loading: Callable[[int, int], None] | None = None,
    on_progress: Callable[[TrainingProgress], None] | None = None,
) -> QuantizedRun:
    """Turn a training run into an integer graph.

    Activation ranges are calibrated on training images. Then the integers are trained, if the
    recipe has a `quantization.schedule`. That run is kept in the folder `integer` inside the
    run's, and resumed from there.

    Args:
        run: What `train` returned, or the folder of a run.
        qat: False stops after calibration (post-training quantization).
        unfinished: Whether to accept a run that has not taken all its steps.
        machine: What to compute on; mixed precision is never used.
        on_loading: As in `train`.
        on_progress: As in `train`.

    Raises:
        CheckpointError: There is no run, it is unfinished, or `integer` was made from weights or a
            calibration that have changed since.
        DataError: There are no training images.
        GraphError: The network cannot be quantized.
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
    settings = run.recipe.quantization
    training = settings.schedule if qat else None
    if isinstance(run.network, ConditionedABPN):
        pairs = _draw_pairs(run)
        conditioned = calibrate_conditioned(
            run.network,
            pairs,
            name=_name(run),
            degradation=run.recipe.degradation,
            settings=settings,
            seed=run.recipe.seed,
        )
        record = None
        if training is not None:
            digest = _digest(run.network, settings, [pair.lr for pair in pairs])
            conditioned, record = _train(
                conditioned, run, training, digest, machine, on_loading, on_progress
            )
        conditioned.avoid_ties()
        graph, conditioning = conditioned.to_conditioned_graph()
        return QuantizedRun(run, graph, record, conditioning)
    calibration = calibrate(run)
    graph = calibration.graph
    chosen = choose_quantization(graph, calibration.ranges)
    if training is None:
        return QuantizedRun(run, avoid_ties(apply_quantization(graph, chosen)))
    network, record = _train(
        IntegerNetwork(graph, chosen),
        run,
        training,
        calibration.digest,
        machine,
        on_loading,
        on_progress,
    )
    network.avoid_ties()
    return QuantizedRun(run, network.to_graph(), record)


def _train(
    network: Network,
    run: TrainingRun,
    schedule: ScheduleRecipe,
    digest: str,
    machine: Machine,
    on_loading: Callable[[int, int], None] | None,
    on_progress: Callable[[TrainingProgress], None] | None,
) -> tuple[Network, dict[str, Any]]:
    """Train the integers, in a folder inside the run's; returns them and the record."""
    settings = run.recipe.quantization
    recipe = dataclasses.replace(
        run.recipe,
        # Random patches: if chosen for their detail, flat areas would keep a wrong level.
        data=dataclasses.replace(run.recipe.data, candidates=1),
        schedule=schedule,
        optimizer=settings.optimizer,
        loss=settings.loss,
        # The integers of EMA weights are not those that were trained: 0.01 dB less.
        ema_decay=0.0,
    )
    # Integers need exact float32: no mixed precision, and no TF32 in cuDNN.
    torch.backends.cudnn.allow_tf32 = False
    return fit(
        network,
        recipe,
        run.folder / INTEGER_FOLDER,
        machine=dataclasses.replace(machine, mixed_precision=False),
        origin=digest,
        teacher=copy.deepcopy(run.network),
        on_loading=on_loading,
        on_progress=on_progress,
    )


def calibrate(run: TrainingRun) -> Calibration:
    """Lower the plain network of a run to a float graph and measure its activations.

    Raises:
        DataError: There are no training images.
    """
    settings = run.recipe.quantization
    images = [pair.lr for pair in _draw_pairs(run)]
    graph = lower(run.network, name=_name(run))
    if settings.equalize:
        graph = equalize(graph, images)
    ranges = observe_ranges(graph, images, settings.percentile)
    return Calibration(graph, ranges, _digest(run.network, settings, images))


def _draw_pairs(run: TrainingRun) -> list[Pair]:
    recipe = run.recipe
    folders = [Path(name) for name in recipe.data.folders]
    count = recipe.quantization.calibration
    factor = run.network.factor
    return list(draw_pairs(folders, factor, patch=recipe.data.patch, seed=recipe.seed, count=count))


def _name(run: TrainingRun) -> str:
    name = str(run.recipe.network["name"]).rpartition(":")[2]
    return f"{name}_x{run.network.factor}"


def _digest(
    network: RecipeNetwork, settings: QuantizationRecipe, images: Sequence[UInt8Array]
) -> str:
    digest = hashlib.sha256(repr((settings.percentile, settings.equalize)).encode())
    for _, tensor in sorted(network.state_dict().items()):
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    for image in images:
        digest.update(image.tobytes())
    return digest.hexdigest()
