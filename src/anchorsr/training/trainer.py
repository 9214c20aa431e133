"""The float loop: a recipe in; weights, a checkpoint and a record of the run out.

A run lives in a folder (`runs`). Several processes started by PyTorch's `torchrun` share each
batch and average their gradients, so that the losses are those of one process with the same
batch, but for what looks at a batch as a whole: noise on activations, whose range is that of a
process's share, and batch normalization. What this file leaves out: printing (the caller's
`on_progress` does that) and quantization (`finetune`).
"""

from __future__ import annotations

import copy
import dataclasses
import math
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from anchorsr.data.pairs import Pair
from anchorsr.data.patches import Patches, PatchSampler
from anchorsr.errors import AnchorSRError, CheckpointError, DataError, RecipeError, TrainingError
from anchorsr.networks.activation_noise import ActivationNoise
from anchorsr.networks.layers import Trainable
from anchorsr.networks.registry import build_network
from anchorsr.training.checkpoint import CHECKPOINT, RECORD, WEIGHTS, read_content, write_content
from anchorsr.training.distributed import Processes, join_processes, stop_requests
from anchorsr.training.initialize import start_from_trained
from anchorsr.training.losses import measure_loss
from anchorsr.training.optim import learning_rate, make_optimizer
from anchorsr.training.recipe import Recipe
from anchorsr.training.sampling import check_strengths, load_pairs, make_sampler
from anchorsr.training.validation import check_validation, to_tensor, validate
from anchorsr.utils.config import parse_table
from anchorsr.utils.files import check_folder, make_folder, publish, reason
from anchorsr.utils.strict_json import to_json

Network = TypeVar("Network", bound=Trainable)


@dataclass(frozen=True)
class Progress:
    """Where a run stands. `loss` is averaged since the last report, with a validation since the
    last validation, in levels (L1) or their squares (L2)."""

    step: int
    steps: int
    loss: float
    learning_rate: float
    seconds_per_step: float
    validation: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Machine:
    """How a run is computed: changes its speed, and its numbers only by rounding."""

    device: str = "cpu"
    threads: int = 0  # 0: PyTorch's own choice
    mixed_precision: bool = False  # bfloat16 where PyTorch's autocast uses it
    checkpoint_minutes: float = 5.0


def train(
    recipe: Recipe,
    folder: Path,
    *,
    machine: Machine = Machine(),
    on_loading: Callable[[int, int], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> dict[str, Any]:
    """Run a recipe to its end in `folder`, going on from its checkpoint if there is one.

    Returns what run.json holds. Raises what `fit` raises, and DataError for a folder without
    images that are large enough.
    """
    torch.manual_seed(recipe.seed)
    network = build_network(recipe.network)
    if getattr(network.config, "colors", 3) != 3:
        raise RecipeError("network.colors is 3 in a recipe: images are RGB")
    # With every default written out, a run does not depend on what they become later.
    options = {"name": recipe.network["name"], **dataclasses.asdict(network.config)}
    recipe = dataclasses.replace(recipe, network=options)
    check_strengths(network, recipe)
    if recipe.initial_weights and not (folder / CHECKPOINT).exists():
        start_from_trained(network, recipe)
    _, record = fit(
        network, recipe, folder, machine=machine, on_loading=on_loading, on_progress=on_progress
    )
    return record


def fit(
    network: Network,
    recipe: Recipe,
    folder: Path,
    *,
    machine: Machine = Machine(),
    origin: str = "",
    teacher: Trainable | None = None,
    on_loading: Callable[[int, int], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> tuple[Network, dict[str, Any]]:
    """Train any network on a recipe's images, in `folder`; the averaged network and the record.

    origin: a digest of what the network was made from, where the recipe does not tell it all.
    teacher: a network; the targets then lie halfway between what it makes and the HR images.
    An interrupt or a termination signal writes a checkpoint after the next step, together in
    all processes, and raises KeyboardInterrupt. Raises CheckpointError when the folder's
    checkpoint belongs to another recipe or network, OutputError when the folder cannot be
    written, and TrainingError when a loss or gradient is not finite.
    """
    check_folder(folder)
    with join_processes(machine.device) as processes:
        run = _Run(network, recipe, folder, machine, processes, origin, teacher)
        run.load()
        steps = processes.gather(run.step)
        if len(set(steps)) > 1:
            raise CheckpointError(
                f"the processes stand at steps {', '.join(map(str, steps))}: {folder} must be one"
                " folder that all machines share"
            )
        check_validation(recipe, network.factor)
        if run.step < recipe.schedule.steps:
            pairs, given = load_pairs(recipe, network.factor, on_loading)
            run.use([*pairs, *given])
            if len(set(processes.gather(run.data["crc32"]))) > 1:
                raise DataError("the processes read other images: give all the same folders")
            make_folder(folder)
            run.catch_up()
            sampler = make_sampler(recipe, pairs, given)
            with stop_requests() as requests:
                run.loop(sampler, requests, on_progress)
        else:
            make_folder(folder)
            run.catch_up()
            run.save()  # what may change between runs is recorded as it is now
        return run.averaged, run.record()


class _Run(Generic[Network]):
    """The state of a run, and the folder that it is kept in."""

    def __init__(
        self,
        network: Network,
        recipe: Recipe,
        folder: Path,
        machine: Machine,
        processes: Processes,
        origin: str,
        teacher: Trainable | None,
    ) -> None:
        if recipe.data.batch % processes.count:
            raise RecipeError(
                f"data.batch is {recipe.data.batch}, which {processes.count} processes cannot"
                " share equally"
            )
        if machine.threads:
            torch.set_num_threads(machine.threads)
        self.recipe = recipe
        self.folder = folder
        self.machine = machine
        self.processes = processes
        self.origin = origin
        self.data: dict[str, int] = {}
        self.network = _placed(network, machine.device)
        self.teacher = None if teacher is None else _placed(teacher, machine.device).eval()
        self.averaged: Network = copy.deepcopy(self.network).eval()
        self.parameters = list(self.network.parameters())
        self.ranges = [m.least for m in self.network.modules() if isinstance(m, ActivationNoise)]
        self.optimizer = make_optimizer(recipe.optimizer, self.parameters)
        self.step = 0
        self.stopping = False  # agreed on by all processes
        self.seconds = 0.0
        self.made_on = self._present_machine()
        self.losses: list[float] = []  # since the last validation
        self.history: list[dict[str, Any]] = []

    def load(self) -> None:
        """Go on from the folder's checkpoint, if it has one."""
        path = self.folder / CHECKPOINT
        if not path.exists():
            return
        content = read_content(path)
        mine = self.recipe.as_table()
        # What is measured on the way, and what is done afterwards, may change between runs.
        free = {key: mine[key] for key in ("validation", "quantization")}
        try:  # with what was written otherwise in earlier versions
            theirs = parse_table(Recipe, {**content["recipe"], **free}, "").as_table()
        except (KeyError, TypeError, RecipeError) as error:
            raise CheckpointError(
                f"{path} is damaged or of another version: {reason(error)}"
            ) from error
        if content.get("origin", "") != self.origin:
            raise CheckpointError(
                f"{path} is of an earlier version, or goes on from other weights or another"
                f" calibration, which have changed since: delete {self.folder} to begin anew"
            )
        different = sorted(key for key in mine if mine[key] != theirs[key])
        if different:
            raise CheckpointError(
                f"{path} belongs to another recipe ({', '.join(different)} differ):"
                f" delete {self.folder} to begin anew, or give this run another output folder"
            )
        try:
            self.network.load_state_dict(content["state"])
            self.averaged.load_state_dict(content["averaged"])
            self.optimizer.load_state_dict(content["optimizer"])
            self.step = content["step"]
            self.seconds = content["seconds"]
            self.history = content["history"]
            self.data = content["data"]
            self.made_on = content.get("made_on", self.made_on)
            self.losses = content.get("losses", [])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"{path} is damaged: {str(error).splitlines()[0]}") from error

    def use(self, pairs: list[Pair]) -> None:
        """Note what is trained on. Raises CheckpointError when a resumed run had other data."""
        lr_pixels = sum(pair.lr.shape[0] * pair.lr.shape[1] for pair in pairs)
        digest = 0
        for pair in pairs:
            digest = zlib.crc32(pair.lr.tobytes(), digest)
        data = {"pictures": len(pairs), "lr_pixels": lr_pixels, "crc32": digest}
        if self.data != {key: data.get(key) for key in self.data}:  # earlier versions had no CRC
            raise CheckpointError(
                f"{self.folder} was trained on other images, {self.data['pictures']} with"
                f" {self.data['lr_pixels']} LR pixels, not on these {len(pairs)} with {lr_pixels}:"
                " give this run another output folder"
            )
        self.data = data

    def loop(
        self,
        sampler: PatchSampler,
        requests: list[int],
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        """Take the steps that remain; save, validate and report on the way."""
        steps = self.recipe.schedule.steps
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
                validating = self.step % self.recipe.validation.every == 0 or self.step == steps
                now = time.monotonic()
                if validating or now - reported > 5 or self.stopping:
                    seconds, reported = now - reported, now
                    self.seconds += seconds
                    progress = self._report(losses, seconds, validating)
                    if self.stopping:
                        self.save()  # before the report, for which there may be no terminal
                    if on_progress is not None and self.processes.rank == 0:
                        on_progress(progress)
                    losses = []
                overdue = now - saved > 60 * self.machine.checkpoint_minutes
                if (validating or overdue) and not self.stopping:
                    self.save()
                    reported = saved = time.monotonic()
                if self.stopping:
                    raise KeyboardInterrupt

    def save(self) -> None:
        """Write the checkpoint, the averaged weights and the record, each whole or not at all."""
        tensors = [*self.network.parameters(), *self.averaged.parameters()]
        if not all(bool(tensor.isfinite().all()) for tensor in tensors):
            raise self._diverged("a weight is not finite")
        if self.processes.rank:
            return
        recipe = self.recipe.as_table()
        checkpoint = {
            "recipe": recipe,
            "origin": self.origin,
            "data": self.data,
            "state": self.network.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "made_on": self.made_on,
            "losses": self.losses,
            "history": self.history,
        }
        write_content(self.folder / CHECKPOINT, checkpoint)
        weights = {"network": recipe["network"], "state": self.averaged.state_dict()}
        write_content(self.folder / WEIGHTS, weights)
        record = to_json(self.record(), indent=1) + "\n"
        publish(record.encode(), self.folder / RECORD, overwrite=True)

    def record(self) -> dict[str, Any]:
        """What run.json holds."""
        return {
            "recipe": self.recipe.as_table(),
            "data": self.data,
            "step": self.step,
            "hours": round(self.seconds / 3600, 4),
            **self.made_on,
            "history": self.history,
        }

    def _present_machine(self) -> dict[str, Any]:
        return {
            "processes": self.processes.count,
            "threads": torch.get_num_threads(),
            "device": self.machine.device,
            "mixed_precision": self.machine.mixed_precision,
            "torch": str(torch.__version__),
        }

    def _take_step(self, patches: Patches, requests: list[int]) -> float:
        """One step; returns the batch's loss, in levels or their squares.

        A stop that was asked of one process is passed on to all, so that none waits for another.
        """
        device = self.machine.device
        kind = torch.device(device).type
        # What is random in a step depends on nothing but the seed and its number, as patches do.
        seeds = np.random.SeedSequence((self.recipe.seed, self.step))
        torch.manual_seed(int(seeds.generate_state(1)[0]))
        images = to_tensor(patches.lr, device)
        with torch.autocast(kind, dtype=torch.bfloat16, enabled=self.machine.mixed_precision):
            output = self._forward(self.network, images, patches)
        target = to_tensor(patches.hr, device)
        if self.teacher is not None:
            with torch.no_grad():
                target = torch.lerp(target, self._forward(self.teacher, images, patches), 0.5)
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
        self.optimizer.step()
        # The checkpoint holds that of one process, with which all go on.
        self.processes.largest(self.ranges)
        self.step += 1
        self._average()
        return value

    def _forward(self, network: Trainable, images: Tensor, patches: Patches) -> Tensor:
        """What a network makes of images, told what it asks for about each."""
        if not network.strengths:
            return network.forward_unclipped(images)
        rows = [strengths.select(network.strengths) for strengths in patches.strengths]
        strengths = torch.from_numpy(np.stack(rows)).to(images.device)
        return network.forward_conditioned(images, strengths)

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
        # What batch normalization has seen is an average already.
        for mine, latest in zip(self.averaged.buffers(), self.network.buffers(), strict=True):
            mine.copy_(latest)

    def _report(self, losses: list[float], seconds: float, validating: bool) -> Progress:
        loss = sum(losses) / len(losses)
        if validating:
            loss = sum(self.losses) / len(self.losses)
            self.losses = []
        rate = float(self.optimizer.param_groups[0]["lr"])
        validation = {}
        if validating:
            self.history.append({"step": self.step, "loss": round(loss, 4)})
            validation = self._measure()
        steps = self.recipe.schedule.steps
        return Progress(self.step, steps, loss, rate, seconds / len(losses), validation)

    def catch_up(self) -> None:
        """Measure what is still to be measured at this step: a run without steps, for instance."""
        if not self.recipe.schedule.steps and not self.history:
            self.history.append({"step": self.step})
        last = self.history[-1] if self.history else {}
        names = {Path(name).name for name in self.recipe.validation.folders}
        if last.get("step") == self.step and names - last.keys():
            self._measure()

    def _measure(self) -> dict[str, float]:
        """The validation, and into the last entry of the history with it."""
        if self.processes.rank:
            return {}
        try:
            validation = validate(self.averaged, self.recipe)
        except AnchorSRError:
            self.save()  # an image that cannot be measured costs no steps
            raise
        self.history[-1].update(validation)
        return validation


def _placed(network: Network, device: str) -> Network:
    # Channels last is the faster layout for these widths, by a quarter on the CPUs measured.
    placed: Network = network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return placed
