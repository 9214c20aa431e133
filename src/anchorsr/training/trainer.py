"""The training loop: a recipe in; weights, a checkpoint and a record of the run out.

A run lives in a folder (`checkpoint`). Several processes started by PyTorch's `torchrun` share
each batch and average their gradients, so the losses are those of one process with the same
batch. Two things look at a batch as a whole and are the exception: activation noise, whose range
is that of a process's share, and batch normalization. Printing is left to the caller's
`on_progress`.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from anchorsr.data.patches import Patches, PatchSampler
from anchorsr.errors import AnchorSRError, CheckpointError, DataError, RecipeError, TrainingError
from anchorsr.networks.abpn import ABPN
from anchorsr.networks.base import Trainable
from anchorsr.networks.inference import to_tensor
from anchorsr.networks.noise import ActivationNoise
from anchorsr.networks.registry import build_network
from anchorsr.training.checkpoint import (
    CHECKPOINT,
    Checkpoint,
    TrainingRun,
    check_same_data,
    check_same_run,
    read_checkpoint,
    write_run,
)
from anchorsr.training.distributed import Processes, join_processes
from anchorsr.training.initialize import (
    load_initial_networks,
    load_matching_weights,
    reinitialize_inactive_channels,
)
from anchorsr.training.losses import measure_loss
from anchorsr.training.machine import Machine, place
from anchorsr.training.optim import learning_rate, make_optimizer
from anchorsr.training.progress import TrainingProgress
from anchorsr.training.recipe import Recipe, read_recipe
from anchorsr.training.sampling import check_strengths, load_training_data
from anchorsr.training.validation import check_validation, validate
from anchorsr.utils.files import check_folder
from anchorsr.utils.signals import held_interrupts

Network = TypeVar("Network", bound=Trainable)


def train(
    recipe: Recipe | str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    machine: Machine = Machine(),
    on_loading: Callable[[int, int], None] | None = None,
    on_progress: Callable[[TrainingProgress], None] | None = None,
) -> TrainingRun:
    """Train a network by a recipe, resuming from the folder's checkpoint if there is one.

    A finished run is extended by raising `schedule.steps` of its recipe. An interrupt or a
    termination signal stops the run after the present step, writes a checkpoint, and raises
    KeyboardInterrupt.

    Args:
        recipe: A recipe, or the path of a TOML file.
        folder: Where the files of the run are kept; made if missing.
        machine: What to compute on.
        on_loading: Called with (images read, images in all) while training images are read.
        on_progress: Called every few seconds and after each validation.

    Returns:
        The finished run.

    Raises:
        RecipeError: The recipe is invalid.
        CheckpointError: The checkpoint is damaged or of another recipe, or the initial weights do
            not fit.
        DataError: There are no images that are large enough, or a validation image is unusable.
        OutputError: The folder cannot be written.
        TrainingError: A loss, gradient or weight is not finite.

    Example:
        >>> run = anchorsr.train("recipes/abpn_x3.toml", "runs/abpn_x3")
        >>> run.is_finished
        True
    """
    recipe = recipe if isinstance(recipe, Recipe) else read_recipe(Path(recipe))
    folder = Path(folder)
    is_new = not (folder / CHECKPOINT).exists()
    trained = load_initial_networks(recipe.initial_weights) if is_new else []
    torch.manual_seed(recipe.seed)
    network = build_network(recipe.network)
    if getattr(network.config, "colors", 3) != 3:
        raise RecipeError("network.colors is 3 in a recipe: images are RGB")
    # With every default written out, a run does not depend on what they become later.
    options = {"name": recipe.network["name"], **dataclasses.asdict(network.config)}
    recipe = dataclasses.replace(recipe, network=options)
    check_strengths(network, recipe)
    if trained:
        load_matching_weights(network, trained)
    averaged, record = fit(
        network, recipe, folder, machine=machine, on_loading=on_loading, on_progress=on_progress
    )
    return TrainingRun(folder, recipe, record, averaged)


def fit(
    network: Network,
    recipe: Recipe,
    folder: Path,
    *,
    machine: Machine = Machine(),
    origin: str = "",
    teacher: Trainable | None = None,
    on_loading: Callable[[int, int], None] | None = None,
    on_progress: Callable[[TrainingProgress], None] | None = None,
) -> tuple[Network, dict[str, Any]]:
    """Train any network on the images of a recipe.

    Args:
        network: The network to train; its weights are replaced by those of a checkpoint.
        recipe: What to train with.
        folder: Where the files of the run are kept; made if missing.
        machine: What to compute on.
        origin: Digest of what the network was made from, where the recipe does not say it all.
        teacher: A network; the targets are then the mean of its output and the HR images.
        on_loading: As in `train`.
        on_progress: As in `train`.

    Returns:
        The network with its EMA weights, and the content of run.json.

    Raises:
        CheckpointError: The folder's checkpoint is damaged, or of another recipe or network.
        DataError: There are no images that are large enough, or a validation image is unusable.
        OutputError: The folder cannot be written.
        TrainingError: A loss, gradient or weight is not finite.
    """
    with join_processes(machine.device) as processes:
        if recipe.data.batch % processes.count:
            raise RecipeError(
                f"data.batch is {recipe.data.batch}, which {processes.count} processes cannot"
                " share equally"
            )
        checkpoint = read_checkpoint(folder)
        check_folder(folder)
        step = 0
        if checkpoint is not None:
            check_same_run(checkpoint, recipe, origin, folder)
            step = checkpoint.step
        steps = processes.gather(step)
        if len(set(steps)) > 1:
            raise CheckpointError(
                f"the processes are at steps {', '.join(map(str, steps))}: {folder} must be one"
                " folder that all machines share"
            )
        check_validation(recipe, network.factor)
        data = {} if checkpoint is None else checkpoint.data
        sampler = None
        if step < recipe.schedule.steps:
            loaded = load_training_data(recipe, network.factor, on_loading)
            sampler = loaded.sampler
            before, data = data, loaded.fingerprint
            check_same_data(before, data, folder)
            if len(set(processes.gather(data["crc32"]))) > 1:
                raise DataError("the processes read different images: give all the same folders")
            is_new = checkpoint is None and bool(recipe.initial_weights)
            if is_new and isinstance(network, ABPN):
                reinitialize_inactive_channels(network, loaded.pairs, seed=recipe.seed)
        run = _Run(network, recipe, folder, machine, processes, origin, teacher, data)
        if checkpoint is not None:
            run.restore(checkpoint)
        run.catch_up()
        if sampler is not None:
            with held_interrupts(most=1) as requests:
                run.loop(sampler, requests, on_progress)
        return run.averaged, run.save()


class _Run(Generic[Network]):
    """The state of a run between two steps, and the folder it is kept in."""

    def __init__(
        self,
        network: Network,
        recipe: Recipe,
        folder: Path,
        machine: Machine,
        processes: Processes,
        origin: str,
        teacher: Trainable | None,
        data: dict[str, int],
    ) -> None:
        if machine.threads:
            torch.set_num_threads(machine.threads)
        self.recipe = recipe
        self.folder = folder
        self.machine = machine
        self.processes = processes
        self.origin = origin
        self.data = data
        self.network = place(network, machine.device)
        self.teacher = None if teacher is None else place(teacher, machine.device).eval()
        self.averaged: Network = copy.deepcopy(self.network).eval()
        self.parameters = list(self.network.parameters())
        self.ranges = [m.least for m in self.network.modules() if isinstance(m, ActivationNoise)]
        self.optimizer = make_optimizer(recipe.optimizer, self.parameters)
        self.step = 0
        self.resumed = False  # from a checkpoint, and no step taken since
        self.stopping = False  # agreed on by all processes
        self.seconds = 0.0
        self.made_on = self._present_machine()
        self.losses: list[float] = []  # since the last validation
        self.history: list[dict[str, Any]] = []

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take over the state of a checkpoint."""
        try:
            self.network.load_state_dict(checkpoint.state)
            self.averaged.load_state_dict(checkpoint.averaged)
            self.optimizer.load_state_dict(checkpoint.optimizer)
        except (AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
            raise self._damaged(error) from error
        self.resumed = True
        self.step = checkpoint.step
        self.seconds = checkpoint.seconds
        self.history = checkpoint.history
        self.made_on = checkpoint.made_on or self.made_on
        self.losses = list(checkpoint.losses)

    def catch_up(self) -> None:
        """Measure what is missing at this step, such as all of it in a run without steps."""
        if not self.recipe.schedule.steps and not self.history:
            self.history.append({"step": self.step})
        last = self.history[-1] if self.history else {}
        names = {Path(name).name for name in self.recipe.validation.folders}
        if last.get("step") == self.step and names - last.keys() and self.processes.rank == 0:
            last.update(validate(self.averaged, self.recipe))

    def loop(
        self,
        sampler: PatchSampler,
        requests: list[int],
        on_progress: Callable[[TrainingProgress], None] | None,
    ) -> None:
        """Take the remaining steps; validate, report and save on the way.

        Args:
            sampler: Where patches come from.
            requests: Filled by `held_interrupts`.
            on_progress: As in `train`.

        Raises:
            KeyboardInterrupt: The run was asked to stop; it is saved.
        """
        steps, every = self.recipe.schedule.steps, self.recipe.validation.every
        share = self.recipe.data.batch // self.processes.count
        places = range(self.processes.rank * share, (self.processes.rank + 1) * share)
        saved = reported = time.monotonic()
        losses: list[float] = []  # since the last report
        self.made_on = self._present_machine()
        with ThreadPoolExecutor(1) as executor:  # cuts the next batch while this one is used
            upcoming = executor.submit(sampler.batch, self.step, places)
            while self.step < steps:
                patches = upcoming.result()
                upcoming = executor.submit(sampler.batch, self.step + 1, places)
                losses.append(self._take_step(patches, requests))
                self.losses.append(losses[-1])
                now = time.monotonic()
                validating = self.step % every == 0 or self.step == steps
                overdue = now - saved > 60 * self.machine.checkpoint_minutes
                if validating or now - reported > 5 or self.stopping:
                    seconds, reported = now - reported, now
                    self.seconds += seconds
                    per_step, loss = seconds / len(losses), _mean(losses)
                    losses, validation = [], {}
                    if validating:
                        loss, self.losses = _mean(self.losses), []
                        validation = self._validate(loss)
                    if self.stopping:
                        self.save()  # before the report, for which there may be no terminal
                    if on_progress is not None and self.processes.rank == 0:
                        rate = float(self.optimizer.param_groups[0]["lr"])
                        on_progress(
                            TrainingProgress(self.step, steps, loss, rate, per_step, validation)
                        )
                if self.stopping:
                    raise KeyboardInterrupt
                if validating or overdue:
                    self.save()
                    reported = saved = time.monotonic()

    def save(self) -> dict[str, Any]:
        """Write the files of the run; returns the content of run.json."""
        tensors = [*self.network.parameters(), *self.averaged.parameters()]
        if not all(bool(tensor.isfinite().all()) for tensor in tensors):
            raise self._diverged("a weight is not finite")
        checkpoint = Checkpoint(
            recipe=self.recipe,
            origin=self.origin,
            data=self.data,
            state=self.network.state_dict(),
            averaged=self.averaged.state_dict(),
            optimizer=self.optimizer.state_dict(),
            step=self.step,
            seconds=self.seconds,
            made_on=self.made_on,
            losses=self.losses,
            history=self.history,
        )
        record = {
            "recipe": self.recipe.as_table(),
            "data": self.data,
            "step": self.step,
            "hours": round(self.seconds / 3600, 4),
            **self.made_on,
            "history": self.history,
        }
        if self.processes.rank == 0:
            write_run(self.folder, checkpoint, record, self.recipe.network)
        return record

    def _present_machine(self) -> dict[str, Any]:
        return {
            "processes": self.processes.count,
            "threads": torch.get_num_threads(),
            "device": self.machine.device,
            "mixed_precision": self.machine.mixed_precision,
            "torch": str(torch.__version__),
        }

    def _take_step(self, patches: Patches, requests: list[int]) -> float:
        """Take one step; returns the loss of the batch, in levels or their squares.

        A request to stop one process is passed on to all, so that none waits for another.
        """
        device = self.machine.device
        kind = torch.device(device).type
        # Random numbers of a step depend on the seed and its number alone, as patches do.
        seeds = np.random.SeedSequence((self.recipe.seed, self.step))
        torch.manual_seed(int(seeds.generate_state(1)[0]))
        images = to_tensor(patches.lr, device)
        with torch.autocast(kind, dtype=torch.bfloat16, enabled=self.machine.mixed_precision):
            output = _forward(self.network, images, patches)
        target = to_tensor(patches.hr, device)
        if self.teacher is not None:
            with torch.no_grad():
                target = torch.lerp(target, _forward(self.teacher, images, patches), 0.5)
        weights = torch.from_numpy(patches.weights).to(device)
        error = output.float() - target
        loss = measure_loss(
            error, self.recipe.loss, weights, factor=self.network.factor, luma=self.recipe.luma
        )
        self.optimizer.zero_grad()
        (loss / 255).backward()  # type: ignore[no-untyped-call]
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        mean_loss = loss.detach().reshape(1)
        stopping = torch.full_like(mean_loss, float(bool(requests)))
        self.processes.average([*gradients, mean_loss, stopping])
        self.stopping = bool(stopping.item())
        clip = self.recipe.optimizer.gradient_clip
        norm = float(nn.utils.clip_grad_norm_(self.parameters, clip or math.inf).item())
        value = float(mean_loss.item())
        if not (math.isfinite(value) and math.isfinite(norm)):
            raise self._diverged(f"the loss is {value} and the gradient's norm {norm}")
        peak = self.recipe.optimizer.learning_rate
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.recipe.schedule, peak, self.step)
        self._step_optimizer()
        # The checkpoint holds the ranges of one process, with which all resume.
        self.processes.largest(self.ranges)
        self.step += 1
        self._average()
        return value

    def _step_optimizer(self) -> None:
        """Take the optimizer's step; whether its restored state is sound shows only here."""
        try:
            self.optimizer.step()
        except Exception as error:  # PyTorch asserts what it expects of the options in a state
            if not self.resumed:
                raise
            raise self._damaged(error) from error
        self.resumed = False

    def _damaged(self, error: Exception) -> CheckpointError:
        said = str(error).splitlines() or [type(error).__name__]
        return CheckpointError(f"{self.folder / CHECKPOINT} is damaged: {said[0]}")

    def _diverged(self, what: str) -> TrainingError:
        kept = (self.folder / CHECKPOINT).exists()
        good = f" The last good checkpoint is kept in {self.folder};" if kept else ""
        return TrainingError(
            f"step {self.step}: {what}.{good} lower optimizer.learning_rate or set"
            " optimizer.gradient_clip"
        )

    @torch.no_grad()
    def _average(self) -> None:
        # A shorter memory at first, else the initial weights would stay in the average for long;
        # the ramp is that of TensorFlow's ExponentialMovingAverage.
        decay = min(self.recipe.ema_decay, (1 + self.step) / (10 + self.step))
        averaged: list[Tensor] = list(self.averaged.parameters())
        current: list[Tensor] = list(self.parameters)
        torch._foreach_lerp_(averaged, current, 1 - decay)
        # Statistics of batch normalization are averages already.
        for mine, latest in zip(self.averaged.buffers(), self.network.buffers(), strict=True):
            mine.copy_(latest)

    def _validate(self, loss: float) -> dict[str, float]:
        """Add an entry to the history; returns the PSNR of each validation set."""
        self.history.append({"step": self.step, "loss": round(loss, 4)})
        if self.processes.rank:
            return {}
        try:
            validation = validate(self.averaged, self.recipe)
        except AnchorSRError:
            self.save()  # an image that cannot be measured costs no steps
            raise
        self.history[-1].update(validation)
        return validation


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _forward(network: Trainable, images: Tensor, patches: Patches) -> Tensor:
    """Return the unclipped output, for the strengths of each patch if the network takes any."""
    if not network.strengths:
        return network.forward_unclipped(images)
    rows = [strengths.select(network.strengths) for strengths in patches.strengths]
    strengths = torch.from_numpy(np.stack(rows)).to(images.device)
    return network.forward_conditioned(images, strengths)
