"""The training loop: it learns, resumes exactly, stops safely, and shares its work exactly."""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs anchorsr[train]")

import torch
from torch import nn

from anchorsr.cli import app
from anchorsr.data.pairs import load_training_pairs
from anchorsr.data.patches import PatchSampler
from anchorsr.errors import CheckpointError, DataError, ImageError, RecipeError, TrainingError
from anchorsr.images.io import RasterImage, write_image
from anchorsr.metrics import luma
from anchorsr.networks.inference import to_tensor
from anchorsr.networks.registry import build_network
from anchorsr.training import trainer
from anchorsr.training.checkpoint import (
    CHECKPOINT,
    RECORD,
    WEIGHTS,
    load_run,
    load_weights,
    read_content,
)
from anchorsr.training.losses import MeanAbsolute, measure_loss, to_luma
from anchorsr.training.machine import Machine
from anchorsr.training.optim import learning_rate
from anchorsr.training.progress import TrainingProgress
from anchorsr.training.recipe import Loss, Recipe, ScheduleRecipe
from anchorsr.training.trainer import train
from anchorsr.utils.config import parse_table
from helpers.examples import run_example
from helpers.two_processes import launch_two, train_until_terminated, train_with_two

ONE_THREAD = Machine(threads=1)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Smooth waves with edges, from which a little can be learned in a few steps."""
    folder = tmp_path_factory.mktemp("images")
    y, x = np.mgrid[0:72, 0:84]
    for number in range(3):
        waves = [127 + 120 * np.sin((x * (1 + c) + y * (number + 1)) / 9) for c in range(3)]
        rgb = np.stack(waves, axis=-1)
        rgb[:, 40:] = 255 - rgb[:, 40:]
        write_image(folder / f"{number}.png", RasterImage(rgb.astype(np.uint8)))
    return folder


def recipe(images: Path, **changes: Any) -> Recipe:
    table = {
        "network": {"name": "abpn", "channels": 6, "body": 1, "expansion": 8},
        "data": {"folders": [str(images)], "patch": 12, "batch": 4},
        "optimizer": {"name": "soap", "learning_rate": 3e-3, "betas": [0.95, 0.95]},
        "schedule": {"steps": 24, "warmup": 2},
        "validation": {"folders": [str(images)], "every": 12},
        "ema_decay": 0.9,
    }
    return parse_table(Recipe, {**table, **changes}, "")


def state_of(run: Path) -> dict[str, torch.Tensor]:
    return dict(load_weights(run).state_dict())


class StopAfter:
    """Stops the run as a user does, once a step is reached."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.sent = False

    def __call__(self, progress: TrainingProgress) -> None:
        if progress.step >= self.step and not self.sent:
            self.sent = True  # a second signal would stop at once
            signal.raise_signal(signal.SIGINT)  # here, not in a thread of some library


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adam", "soap"])
def test_a_resumed_run_equals_the_uninterrupted_one(
    images: Path, tmp_path: Path, optimizer: str
) -> None:
    noise = {"rounding_noise": True, "activation_noise": True}
    wanted = recipe(
        images,
        network={"name": "abpn", "channels": 6, "body": 1, "expansion": 8, "skip": True, **noise},
        optimizer={"name": optimizer, "learning_rate": 3e-3},
    )
    train(wanted, tmp_path / "whole", machine=ONE_THREAD)
    with pytest.raises(KeyboardInterrupt):
        train(wanted, tmp_path / "torn", machine=ONE_THREAD, on_progress=StopAfter(12))
    assert json.loads((tmp_path / "torn" / RECORD).read_text())["step"] < 24
    train(wanted, tmp_path / "torn", machine=ONE_THREAD)
    whole, torn = state_of(tmp_path / "whole"), state_of(tmp_path / "torn")
    assert all(torch.equal(whole[name], torn[name]) for name in whole)
    histories = [
        json.loads((tmp_path / run / RECORD).read_text())["history"][-1]
        for run in ("whole", "torn")
    ]
    assert histories[0].keys() == histories[1].keys()
    assert histories[0][images.name] == histories[1][images.name]


@pytest.mark.slow
def test_a_killed_run_resumes_from_its_last_checkpoint(images: Path, tmp_path: Path) -> None:
    wanted = recipe(images)
    train(wanted, tmp_path / "whole", machine=ONE_THREAD)

    class KilledError(Exception):
        pass

    def kill(progress: TrainingProgress) -> None:
        if progress.step == 24:
            raise KilledError  # before the last checkpoint is written

    with pytest.raises(KilledError):
        train(wanted, tmp_path / "killed", machine=ONE_THREAD, on_progress=kill)
    assert json.loads((tmp_path / "killed" / RECORD).read_text())["step"] == 12
    train(wanted, tmp_path / "killed", machine=ONE_THREAD)
    whole, killed = state_of(tmp_path / "whole"), state_of(tmp_path / "killed")
    assert all(torch.equal(whole[name], killed[name]) for name in whole)


def test_the_quick_absolute_error_is_pytorchs() -> None:
    generator = torch.Generator().manual_seed(0)
    output = (torch.rand(2, 3, 50, 60, generator=generator) * 255).requires_grad_()
    target = torch.randint(0, 256, output.shape, generator=generator, dtype=torch.uint8)
    quick = MeanAbsolute.apply(output - target)
    (gradient,) = torch.autograd.grad(3 * quick, output)
    plain = (output - target).abs().mean()
    (expected,) = torch.autograd.grad(3 * plain, output)
    assert quick.item() == pytest.approx(plain.item(), rel=1e-5)
    beyond = (output - target).abs() > 1e-3
    torch.testing.assert_close(gradient[beyond], expected[beyond])


def test_the_relative_loss_weighs_the_squares_of_each_patch() -> None:
    error = torch.randn(3, 3, 1, 1).expand(3, 3, 8, 8)
    weights = torch.tensor([0.5, 1.0, 4.0])
    squares = error.square().mean(dim=(1, 2, 3))
    in_luma = to_luma(error).square().mean(dim=(1, 2))
    measure = partial(measure_loss, error, weights=weights, factor=2)
    torch.testing.assert_close(measure("relative_l2", luma=0), (squares * weights).mean())
    torch.testing.assert_close(measure("relative_l2", luma=1), (in_luma * weights).mean())
    torch.testing.assert_close(measure("l2", luma=0), squares.mean())
    torch.testing.assert_close(measure("l1", luma=0), error.abs().mean())


@pytest.mark.parametrize("kind", ["l1", "l2", "relative_l2"])
@pytest.mark.parametrize("luma", [0, 0.5])
def test_the_edge_of_a_patch_counts_a_twentieth(kind: Loss, luma: float) -> None:
    def loss(row: int, column: int) -> float:
        error = torch.zeros(1, 3, 12, 18)
        error[0, :, row, column] = 7
        return measure_loss(error, kind, torch.ones(1), factor=3, luma=luma).item()

    inner = loss(3, 3)
    assert loss(8, 14) == pytest.approx(inner)
    for row, column in [(2, 5), (5, 2), (9, 5), (5, 15), (0, 0), (11, 17)]:
        assert loss(row, column) == pytest.approx(0.05 * inner)


def test_the_relative_loss_of_a_run_is_that_of_its_patches(images: Path, tmp_path: Path) -> None:
    """Compare the first loss of a run with the untrained network on the first batch."""
    wanted = recipe(
        images,
        loss="relative_l2",
        schedule={"steps": 1},
        validation={"folders": [str(images)], "every": 1},
    )
    train(wanted, tmp_path, machine=ONE_THREAD)
    (report,) = json.loads((tmp_path / RECORD).read_text())["history"]
    torch.manual_seed(wanted.seed)
    network = build_network(wanted.network)
    data = wanted.data
    pairs = load_training_pairs([images], network.factor, patch=data.patch)
    sampler = PatchSampler(pairs, patch=data.patch, seed=wanted.seed, relative=True)
    lr, hr, weights, _ = sampler.batch(0, range(data.batch))
    assert weights.std() > 0
    with torch.no_grad():
        output = network.forward_unclipped(to_tensor(lr, "cpu"))
    shares = np.full(hr.shape[1:3], 0.05)
    inside = slice(network.factor, -network.factor)
    shares[inside, inside] = 1
    squares = (output - to_tensor(hr, "cpu")).square().mean(dim=1).numpy()
    expected = np.average((squares * weights[:, None, None]).mean(axis=0), weights=shares)
    assert report["loss"] == pytest.approx(expected, rel=1e-3)


def test_luma_is_the_metrics_but_for_its_range() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    mine = to_luma(torch.from_numpy(rgb).permute(2, 0, 1)[None].float())[0]
    np.testing.assert_allclose(mine, (luma(rgb) - 16) * 255 / 219, atol=0.01)


@pytest.mark.slow
def test_a_part_of_the_loss_is_of_luma(images: Path, tmp_path: Path) -> None:
    def first_loss(part: float) -> float:
        wanted = recipe(
            images,
            luma=part,
            schedule={"steps": 1},
            validation={"folders": [str(images)], "every": 1},
        )
        train(wanted, tmp_path / str(part), machine=ONE_THREAD)
        return float(read_history(tmp_path / str(part))[0]["loss"])

    colours, quarter, luma_alone = (first_loss(part) for part in (0.0, 0.25, 1.0))
    assert luma_alone < 0.98 * colours
    assert quarter == pytest.approx(0.75 * colours + 0.25 * luma_alone, abs=2e-4)


@pytest.mark.slow
def test_training_learns(images: Path, tmp_path: Path) -> None:
    wanted = recipe(
        images, schedule={"steps": 60}, validation={"folders": [str(images)], "every": 20}
    )
    history = train(wanted, tmp_path / "run", machine=ONE_THREAD).history
    assert history[-1][images.name] > history[0][images.name] + 0.5
    assert history[-1]["loss"] < history[0]["loss"]


@pytest.mark.slow
def test_a_finished_run_is_left_as_it_is(images: Path, tmp_path: Path) -> None:
    wanted = recipe(images)
    train(wanted, tmp_path, machine=ONE_THREAD)
    before = state_of(tmp_path)
    run = train(wanted, tmp_path, machine=ONE_THREAD)
    assert run.step == 24 and run.is_finished
    assert all(torch.equal(value, before[name]) for name, value in state_of(tmp_path).items())


@pytest.mark.slow
def test_a_termination_signal_saves_the_step_it_came_in(images: Path, tmp_path: Path) -> None:
    """In a process of its own: one that a signal ends would take other tests with it."""
    assert train_until_terminated(recipe(images), tmp_path / "run", step=12)
    record = json.loads((tmp_path / "run" / RECORD).read_text())
    assert record["step"] == 13  # stops after the next step
    assert not list((tmp_path / "run").glob(".*"))


@pytest.mark.slow
def test_a_finished_run_is_extended_by_raising_its_steps(images: Path, tmp_path: Path) -> None:
    def constant(steps: int) -> Recipe:  # the rate of a step does not depend on their number
        return recipe(images, schedule={"steps": steps, "decay": "none"})

    whole = train(constant(36), tmp_path / "whole", machine=ONE_THREAD)
    assert train(constant(24), tmp_path / "longer", machine=ONE_THREAD).is_finished
    longer = train(constant(36), tmp_path / "longer", machine=ONE_THREAD)
    assert (longer.step, longer.recipe.schedule.steps) == (36, 36)
    assert [entry["step"] for entry in longer.history] == [12, 24, 36]
    expected = whole.network.state_dict()
    for name, weight in longer.network.state_dict().items():
        assert torch.equal(weight, expected[name])


@pytest.mark.slow
def test_the_example_of_train_and_its_command_run(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a small recipe under its name; a recipe is read from a path as well."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes/abpn_x3.toml").write_text(
        f"""
        network = {{ name = "abpn", channels = 4, body = 1, expansion = 0 }}
        data = {{ folders = "{images.as_posix()}", patch = 12, batch = 1 }}
        schedule = {{ steps = 1 }}
        """
    )
    run_example(train, "train")
    assert load_run(Path("runs/abpn_x3")).step == 1
    assert app.run(["train", "recipes/abpn_x3.toml", "--runs", "others"]) == 0
    assert load_run(Path("others/abpn_x3")).is_finished


@pytest.mark.slow
def test_another_recipe_does_not_take_over_a_run(images: Path, tmp_path: Path) -> None:
    train(recipe(images), tmp_path, machine=ONE_THREAD)
    before = (tmp_path / CHECKPOINT).read_bytes()
    for schedule in ({"steps": 23, "warmup": 2}, {"steps": 48, "warmup": 3}):
        with pytest.raises(CheckpointError, match=r"schedule differ; only schedule\.steps may be"):
            train(recipe(images, schedule=schedule), tmp_path, machine=ONE_THREAD)
    with pytest.raises(CheckpointError, match=r"another recipe \(loss, seed differ;"):
        train(recipe(images, seed=1, loss="l2"), tmp_path, machine=ONE_THREAD)
    other = {"name": "abpn", "channels": 7, "body": 1, "expansion": 8}
    with pytest.raises(CheckpointError, match="network"):
        train(recipe(images, network=other), tmp_path, machine=ONE_THREAD)
    assert (tmp_path / CHECKPOINT).read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["empty", "cut", "text"])
def test_a_damaged_checkpoint_is_refused(images: Path, tmp_path: Path, damage: str) -> None:
    train(recipe(images), tmp_path, machine=ONE_THREAD)
    for name in (CHECKPOINT, WEIGHTS):
        data = (tmp_path / name).read_bytes()
        harmed = {"empty": b"", "cut": data[: len(data) // 2], "text": b"not a checkpoint"}
        (tmp_path / name).write_bytes(harmed[damage])
    with pytest.raises(CheckpointError, match="damaged"):
        train(recipe(images), tmp_path, machine=ONE_THREAD)
    with pytest.raises(CheckpointError, match="damaged"):
        load_weights(tmp_path)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from anchorsr.training import trainer

    def poisoned(batch: Any, device: str) -> torch.Tensor:
        tensor = torch.from_numpy(batch).permute(0, 3, 1, 2).float()
        poisoned.calls += 1  # type: ignore[attr-defined]
        return tensor * float("nan") if poisoned.calls > 40 else tensor  # type: ignore[attr-defined]

    poisoned.calls = 0  # type: ignore[attr-defined]
    monkeypatch.setattr(trainer, "to_tensor", poisoned)
    with pytest.raises(TrainingError, match="last good checkpoint is kept"):
        train(recipe(images), tmp_path, machine=ONE_THREAD)
    monkeypatch.undo()
    assert json.loads((tmp_path / RECORD).read_text())["step"] == 12
    assert all(bool(value.isfinite().all()) for value in state_of(tmp_path).values())


@pytest.mark.slow
def test_a_run_can_start_from_another_runs_weights(images: Path, tmp_path: Path) -> None:
    train(recipe(images), tmp_path / "x3", machine=ONE_THREAD)
    network = {"name": "abpn", "factor": 2, "channels": 6, "body": 1, "expansion": 8}
    follow = recipe(
        images,
        network=network,
        initial_weights=(str(tmp_path / "x3"),),
        schedule={"steps": 1, "decay": "none"},
    )
    follow = dataclasses.replace(
        follow, optimizer=dataclasses.replace(follow.optimizer, learning_rate=1e-9)
    )
    train(follow, tmp_path / "x2", machine=ONE_THREAD)
    after = state_of(tmp_path / "x2")
    old, new = load_weights(tmp_path / "x3").body[0], load_weights(tmp_path / "x2").body[0]
    torch.testing.assert_close(old.kernel(), new.kernel(), atol=1e-6, rtol=0)
    assert after["last.weight"].shape[0] == 12


@pytest.mark.slow
def test_a_run_without_steps_is_the_mean_of_what_it_starts_from(
    images: Path, tmp_path: Path
) -> None:
    schedule = {"steps": 12, "decay": "none"}
    train(recipe(images, schedule=schedule), tmp_path / "one", machine=ONE_THREAD)
    train(recipe(images, schedule=schedule, seed=2), tmp_path / "two", machine=ONE_THREAD)
    runs = [str(tmp_path / "one"), str(tmp_path / "two")]
    mean = recipe(images, initial_weights=runs, schedule={"steps": 0})
    for _ in range(2):  # again: it is finished
        record = train(mean, tmp_path / "mean", machine=ONE_THREAD).record
    assert (record["step"], record["recipe"]["initial_weights"]) == (0, runs)
    assert record["history"] == [{"step": 0, images.name: pytest.approx(20, abs=10)}]
    networks = [load_weights(tmp_path / name) for name in ("one", "two", "mean")]
    for name in ("body.0", "body.1", "last"):
        one, two, found = (network.get_submodule(name).kernel() for network in networks)
        torch.testing.assert_close(found, (one + two) / 2)
    assert not torch.equal(networks[0].last.kernel(), networks[1].last.kernel())


@pytest.mark.slow
@pytest.mark.parametrize("last", [False, True])
def test_what_cannot_be_measured_costs_no_steps_and_is_measured_later(
    images: Path, tmp_path: Path, last: bool
) -> None:
    (tmp_path / "set").mkdir()
    for name in ("0.png", "1.png"):
        write_image(tmp_path / "set" / name, RasterImage(np.zeros((30, 30, 3), np.uint8)))
    whole = (tmp_path / "set" / "1.png").read_bytes()
    (tmp_path / "set" / "1.png").write_bytes(whole[:60])
    every = 24 if last else 12
    wanted = recipe(images, validation={"folders": [str(tmp_path / "set")], "every": every})
    for _ in range(2):  # not stepped over by trying again
        with pytest.raises(ImageError, match=r"1\.png"):
            train(wanted, tmp_path / "run", machine=ONE_THREAD)
        assert json.loads((tmp_path / "run" / RECORD).read_text())["step"] == every
    (tmp_path / "set" / "1.png").write_bytes(whole)
    history = train(wanted, tmp_path / "run", machine=ONE_THREAD).history
    assert [(entry["step"], "set" in entry) for entry in history] == [
        (step, True) for step in range(every, 25, every)
    ]


def test_figures_have_names_of_their_own(images: Path, tmp_path: Path) -> None:
    for folders in (["a/Set", "b/Set"], ["a/loss"]):
        wanted = recipe(images, validation={"folders": folders})
        with pytest.raises(RecipeError, match="two figures would have the name"):
            train(wanted, tmp_path / "run", machine=ONE_THREAD)


@pytest.mark.slow
def test_a_checkpoint_of_an_old_version_is_resumed(images: Path, tmp_path: Path) -> None:
    """There, `initial_weights` was a string, and `luma` did not exist."""
    with pytest.raises(KeyboardInterrupt):
        train(recipe(images), tmp_path, machine=ONE_THREAD, on_progress=StopAfter(12))
    content = read_content(tmp_path / CHECKPOINT)
    content["recipe"]["initial_weights"] = ""
    content["recipe"]["validation"] = {"folders": ["a/Set", "b/Set"]}
    del content["recipe"]["luma"]
    torch.save(content, tmp_path / CHECKPOINT)
    assert train(recipe(images), tmp_path, machine=ONE_THREAD).step == 24
    for unknown in ({**content["recipe"], "newer": 1}, ["a list"]):
        torch.save({**content, "recipe": unknown}, tmp_path / CHECKPOINT)
        with pytest.raises(CheckpointError, match="is damaged or of another version"):
            train(recipe(images), tmp_path, machine=ONE_THREAD)


@pytest.mark.slow
def test_weights_that_are_not_finite_are_never_saved(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step can be infinite with a finite loss and gradient."""
    train(recipe(images, schedule={"steps": 12}), tmp_path / "good", machine=ONE_THREAD)

    def overflow(self: torch.optim.Adam) -> None:
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.fill_(float("inf"))

    monkeypatch.setattr(torch.optim.Adam, "step", overflow)
    wanted = recipe(images, optimizer={"name": "adam"}, schedule={"steps": 1})
    with pytest.raises(TrainingError, match="a weight is not finite"):
        train(wanted, tmp_path / "bad", machine=ONE_THREAD)
    assert not (tmp_path / "bad" / CHECKPOINT).exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "0.png").unlink(), "was trained on other images, 3 with"),
        (
            lambda folder: shutil.copy(folder / "1.png", folder / "0.png"),
            "was trained on other images",
        ),
    ],
    ids=["missing", "replaced"],
)
def test_a_run_is_not_resumed_with_other_images(
    images: Path, tmp_path: Path, change: Callable[[Path], None], message: str
) -> None:
    copied = tmp_path / "images"
    shutil.copytree(images, copied)
    wanted = recipe(copied)
    with pytest.raises(KeyboardInterrupt):
        train(wanted, tmp_path / "run", machine=ONE_THREAD, on_progress=StopAfter(12))
    change(copied)
    with pytest.raises(CheckpointError, match=message):
        train(wanted, tmp_path / "run", machine=ONE_THREAD)


@pytest.mark.slow
def test_the_loss_on_record_is_of_all_steps_since_the_last(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often the run has reported, and when it was stopped."""
    wanted = recipe(images)
    quick = train(wanted, tmp_path / "quick", machine=ONE_THREAD).history
    clock = itertools.count(0, 6)  # each call is followed by a report
    monkeypatch.setattr(trainer.time, "monotonic", lambda: next(clock))
    with pytest.raises(KeyboardInterrupt):
        train(wanted, tmp_path / "slow", machine=ONE_THREAD, on_progress=StopAfter(5))
    slow = train(wanted, tmp_path / "slow", machine=ONE_THREAD).history
    assert [entry["loss"] for entry in slow] == [entry["loss"] for entry in quick]


@pytest.mark.slow
def test_a_finished_run_keeps_the_machine_that_it_was_made_on(images: Path, tmp_path: Path) -> None:
    first = train(recipe(images), tmp_path, machine=ONE_THREAD).record
    looked_at = Machine(threads=1, mixed_precision=True)
    assert train(recipe(images), tmp_path, machine=looked_at).record == first


def test_processes_at_different_steps_do_not_train_together(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer.Processes, "gather", lambda _, value: [value, 9])
    with pytest.raises(CheckpointError, match=r"are at steps 0, 9: .* all machines share"):
        train(recipe(images), tmp_path / "run", machine=ONE_THREAD)
    assert not (tmp_path / "run").exists()


def test_an_incomplete_torchrun_environment_is_refused(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(RecipeError, match=r"WORLD_SIZE is set to 2, .* start with torchrun"):
        train(recipe(images), tmp_path / "run", machine=ONE_THREAD)


def test_a_missing_validation_folder_is_found_at_the_start(images: Path, tmp_path: Path) -> None:
    wanted = recipe(images, validation={"folders": [str(tmp_path / "nowhere")], "every": 12})
    with pytest.raises(DataError, match="nowhere"):
        train(wanted, tmp_path / "run", machine=ONE_THREAD)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_statistics_of_batch_normalization_are_those_of_training(
    images: Path, tmp_path: Path
) -> None:
    wanted = recipe(
        images,
        network={"name": "srresnet", "channels": 4, "blocks": 1},
        schedule={"steps": 4},
        validation={"folders": [str(images)], "every": 2},
    )
    train(wanted, tmp_path, machine=ONE_THREAD)
    network = load_weights(tmp_path)
    seen = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert seen
    for module in seen:  # validation has not changed them
        assert module.num_batches_tracked == 4
        assert module.running_mean.any()
        assert not module.training


def test_a_network_for_one_colour_is_refused(images: Path, tmp_path: Path) -> None:
    wanted = recipe(images, network={"name": "fsrcnn", "colors": 1})
    with pytest.raises(RecipeError, match=r"network\.colors is 3 in a recipe"):
        train(wanted, tmp_path, machine=ONE_THREAD)


@pytest.mark.slow
def test_the_record_holds_the_whole_recipe(images: Path, tmp_path: Path) -> None:
    wanted = recipe(images)
    train(wanted, tmp_path, machine=ONE_THREAD)
    held = load_run(tmp_path).recipe
    assert held.network["image_convolution"] is True  # a default, written out
    assert dataclasses.replace(held, network=wanted.network) == wanted
    with pytest.raises(CheckpointError, match="anchorsr train"):
        load_run(tmp_path / "nowhere")


def test_learning_rate_warms_up_and_decays() -> None:
    cosine = ScheduleRecipe(steps=110, warmup=10)
    rates = [learning_rate(cosine, 1.0, step) for step in range(110)]
    assert rates[0] == 0.1 and rates[9] == rates[10] == 1.0
    assert rates[60] == pytest.approx(0.5) and 0 < rates[-1] < 0.001
    halving = ScheduleRecipe(steps=100, decay="halving", halve_every=20)
    assert [learning_rate(halving, 1.0, step) for step in (0, 19, 20, 99)] == [1, 1, 0.5, 0.0625]
    constant = ScheduleRecipe(steps=5, decay="none")
    assert learning_rate(constant, 0.25, 4) == 0.25


FOR_TWO: dict[str, Any] = {
    "schedule": {"steps": 12},
    "optimizer": {"name": "adam", "learning_rate": 1e-3},
}


def check_curve(wanted: Recipe, run: Path) -> None:
    """Compare the losses of a run of two processes with those of one."""
    train(wanted, run.with_name("one"), machine=ONE_THREAD)
    one, two = read_history(run.with_name("one")), read_history(run)
    assert [each["step"] for each in one] == [each["step"] for each in two] == [*range(2, 13, 2)]
    for mine, theirs in zip(one, two, strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-3)
        (name,) = mine.keys() - {"step", "loss"}  # of the validation folder
        assert mine[name] == pytest.approx(theirs[name], abs=0.01)


@pytest.mark.slow
def test_two_processes_follow_the_curve_of_one(images: Path, tmp_path: Path) -> None:
    wanted = recipe(images, **FOR_TWO, validation={"folders": [str(images)], "every": 2})
    assert launch_two(wanted, tmp_path / "two")
    check_curve(wanted, tmp_path / "two")


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_two_processes_resume_after_one_is_killed(
    images: Path, tmp_path: Path, victim: int
) -> None:
    """By the same command, with the same curve."""
    wanted = recipe(images, **FOR_TWO, validation={"folders": [str(images)], "every": 2})
    assert not train_with_two(wanted, tmp_path / "two", victim=victim)
    assert json.loads((tmp_path / "two" / RECORD).read_text())["step"] in (6, 8)
    assert train_with_two(wanted, tmp_path / "two")
    check_curve(wanted, tmp_path / "two")


@pytest.mark.slow
def test_two_resumed_processes_equal_two_uninterrupted_ones(images: Path, tmp_path: Path) -> None:
    """Also with activation noise, whose range is part of the state."""
    network = {"name": "abpn", "channels": 6, "body": 1, "expansion": 8, "skip": True}
    wanted = recipe(
        images,
        network={**network, "rounding_noise": True, "activation_noise": True},
        schedule={"steps": 12},
        validation={"folders": [str(images)], "every": 2},
    )
    assert train_with_two(wanted, tmp_path / "whole")
    assert not train_with_two(wanted, tmp_path / "torn", victim=1)
    assert train_with_two(wanted, tmp_path / "torn")
    whole, torn = state_of(tmp_path / "whole"), state_of(tmp_path / "torn")
    assert all(torch.equal(whole[name], torn[name]) for name in whole)


def read_history(run: Path) -> list[dict[str, Any]]:
    history: list[dict[str, Any]] = json.loads((run / RECORD).read_text())["history"]
    return history


def test_a_batch_that_processes_cannot_share_is_refused(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from contextlib import contextmanager

    @contextmanager
    def three(device: str) -> Any:
        yield trainer.Processes(0, 3)

    monkeypatch.setattr(trainer, "join_processes", three)
    with pytest.raises(RecipeError, match="3 processes cannot share"):
        train(recipe(images), tmp_path, machine=ONE_THREAD)
