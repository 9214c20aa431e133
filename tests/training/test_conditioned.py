"""Training on degraded patches and given pairs: conditioned networks, and exact resuming."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs anchorsr[train]")

import torch

from anchorsr.cli import app
from anchorsr.data.imresize import downscale
from anchorsr.data.pairs import STRENGTHS_FILE
from anchorsr.data.strengths import jpeg_strength, noise_strength
from anchorsr.engines.runtimes import load_engine
from anchorsr.errors import CheckpointError, DataError, RecipeError
from anchorsr.graph.executor import run_graph
from anchorsr.images.io import RasterImage, write_image
from anchorsr.models.registry import apply_strengths, read_model
from anchorsr.networks.conditioned_abpn import ConditionedABPN
from anchorsr.networks.registry import build_network
from anchorsr.training.checkpoint import RECORD, load_weights
from anchorsr.training.initialize import load_matching_weights
from anchorsr.training.machine import Machine
from anchorsr.training.progress import TrainingProgress
from anchorsr.training.recipe import Recipe
from anchorsr.training.trainer import train
from anchorsr.utils.config import parse_table

ONE_THREAD = Machine(threads=1)
NETWORK = {
    "name": "conditioned_abpn",
    "channels": 6,
    "body": 1,
    "image_convolution": False,
    "skip": True,
    "expansion": 8,
    "rounding_noise": True,
    "strengths": ["jpeg", "noise", "video"],
    "hidden": 4,
}
DEGRADATION = {
    "clean": 0.2,
    "noise": {"probability": 0.5},
    "jpeg": {"probability": 0.6, "twice": 0.3},
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Waves with edges, and a folder of given pairs beside them."""
    folder = tmp_path_factory.mktemp("images")
    y, x = np.mgrid[0:120, 0:132]
    for part in ("photographs", "given/HR", "given/LR"):
        (folder / part).mkdir(parents=True)
    for number in range(3):
        waves = [127 + 120 * np.sin((x * (1 + c) + y * (number + 1)) / 9) for c in range(3)]
        rgb = np.stack(waves, axis=-1).astype(np.uint8)
        rgb[:, 40:] = 255 - rgb[:, 40:]
        write_image(folder / "photographs" / f"{number}.png", RasterImage(rgb))
    write_image(folder / "given" / "HR" / "a.png", RasterImage(rgb))
    write_image(folder / "given" / "LR" / "a.png", RasterImage(downscale(rgb, 3)))
    (folder / "given" / STRENGTHS_FILE).write_text(json.dumps({"a": {"video": 0.5}}))
    return folder


def recipe(images: Path, **changes: Any) -> Recipe:
    table = {
        "network": NETWORK,
        "loss": "relative_l2",
        "data": {
            "folders": [str(images / "photographs")],
            "patch": 12,
            "batch": 4,
            "pairs": [str(images / "given")],
            "pairs_share": 0.2,
        },
        "optimizer": {"learning_rate": 3e-3},
        "schedule": {"steps": 16, "warmup": 2},
        "validation": {"folders": [], "every": 8},
        "ema_decay": 0.9,
        "degradation": DEGRADATION,
    }
    return parse_table(Recipe, {**table, **changes}, "")


def conditioned(run: Path) -> ConditionedABPN:
    network = load_weights(run)
    assert isinstance(network, ConditionedABPN)
    return network


@pytest.mark.slow
def test_resumed_run_equals_the_uninterrupted_one(images: Path, tmp_path: Path) -> None:
    def stop(progress: TrainingProgress) -> None:
        if progress.step == 8:
            signal.raise_signal(signal.SIGINT)

    train(recipe(images), tmp_path / "whole", machine=ONE_THREAD)
    with pytest.raises(KeyboardInterrupt):
        train(recipe(images), tmp_path / "torn", machine=ONE_THREAD, on_progress=stop)
    assert json.loads((tmp_path / "torn" / RECORD).read_text())["step"] < 16
    train(recipe(images), tmp_path / "torn", machine=ONE_THREAD)
    whole, torn = (conditioned(tmp_path / name).state_dict() for name in ("whole", "torn"))
    assert all(torch.equal(whole[name], torn[name]) for name in whole)
    assert whole["modulator.output.weight"].any()  # what it is told has taught it something


def test_checkpoint_belongs_to_its_degradation(images: Path, tmp_path: Path) -> None:
    short = {"steps": 2}
    train(recipe(images, schedule=short), tmp_path / "run", machine=ONE_THREAD)
    with pytest.raises(CheckpointError, match=r"another recipe \(degradation differ"):
        other = recipe(images, schedule=short, degradation={"clean": 0.5})
        train(other, tmp_path / "run", machine=ONE_THREAD)


@pytest.mark.slow
def test_run_begins_with_what_another_was_told(images: Path, tmp_path: Path) -> None:
    train(recipe(images), tmp_path / "first", machine=ONE_THREAD)
    first = conditioned(tmp_path / "first")
    again = recipe(images, initial_weights=[str(tmp_path / "first")], schedule={"steps": 0})
    train(again, tmp_path / "again", machine=ONE_THREAD)
    lr, told = torch.rand(1, 3, 8, 8) * 255, torch.tensor([[0.5, 0.2, 0.1]])
    with torch.no_grad():
        made = [
            network.forward_conditioned(lr, told)
            for network in (first, conditioned(tmp_path / "again"))
        ]
    assert torch.allclose(*made, atol=1e-3)


def test_conditioned_network_starts_from_a_plain_one() -> None:
    torch.manual_seed(0)
    shape = {key: NETWORK[key] for key in NETWORK.keys() - {"name", "strengths", "hidden"}}
    plain = build_network({"name": "abpn", **shape}).eval()
    network = build_network({**NETWORK, "body": 3}).eval()
    load_matching_weights(network, [plain])
    lr = torch.rand(1, 3, 8, 8) * 255
    told = network.forward_conditioned(lr, torch.ones(1, 3))
    assert torch.allclose(told, plain.forward_unclipped(lr), atol=1e-3)


@pytest.mark.parametrize("more", [{"body": 3}, {"channels": 9}, {"tail_rank": 5}])
def test_a_larger_network_starts_modulated_as_the_one_that_it_grew_from(
    more: dict[str, Any],
) -> None:
    torch.manual_seed(0)
    options = {**NETWORK, "tail_rank": 4}
    small = build_network(options).eval()
    torch.nn.init.normal_(small.get_parameter("modulator.output.weight"), std=0.1)
    large = build_network({**options, **more}).eval()
    load_matching_weights(large, [small])
    lr, told = torch.rand(1, 3, 8, 8) * 255, torch.tensor([[0.5, 0.2, 0.1]])
    with torch.no_grad():
        made = [one.forward_conditioned(lr, told) for one in (small, large)]
    assert torch.allclose(*made, atol=1e-2)


@pytest.mark.parametrize("tail_rank", [0, 4])
def test_a_network_of_another_factor_starts_between_the_pixels(tail_rank: int) -> None:
    torch.manual_seed(0)
    options = {**NETWORK, "factor": 2, "tail_rank": tail_rank}
    two = build_network(options).eval()
    torch.nn.init.normal_(two.get_parameter("modulator.output.weight"), std=0.1)
    four = build_network({**options, "factor": 4}).eval()
    load_matching_weights(four, [two])
    lr, told = torch.rand(1, 3, 8, 8) * 255, torch.tensor([[0.5, 0.2, 0.1]])
    with torch.no_grad():
        small, large = (
            one.forward_conditioned(lr, told) - one.add_anchor(lr, torch.zeros_like(one.anchor(lr)))
            for one in (two, four)
        )
    # The residual at x4 is linear in the place within a block, and so has the means of that at x2.
    # In the kernels that is exact; gains are interpolated, too, and multiply them.
    error = torch.nn.functional.avg_pool2d(large, 2) - small
    assert float(error.abs().max()) < 0.1 * float(small.abs().max())


@pytest.mark.parametrize("options", [{"hidden": 5}, {"strengths": ["jpeg"]}])
def test_what_is_told_otherwise_is_no_start(options: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="with the same strengths and hidden width"):
        load_matching_weights(build_network({**NETWORK, **options}), [build_network(NETWORK)])


@pytest.mark.slow
def test_blind_network_is_trained_on_the_same_patches(images: Path, tmp_path: Path) -> None:
    told = NETWORK.keys() - {"strengths", "hidden"}
    network = {**{key: NETWORK[key] for key in told}, "name": "abpn"}
    blind = recipe(images, network=network, schedule={"steps": 2})
    assert train(blind, tmp_path / "blind", machine=ONE_THREAD).step == 2


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"network": {**NETWORK, "strengths": ["dust"]}}, "no strength 'dust'"),
        ({"degradation": None, "data": {"folders": ["x"]}}, "has no effect without"),
    ],
)
def test_strengths_that_tell_nothing_are_refused(
    images: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(RecipeError, match=said):
        train(recipe(images, **changes), tmp_path / "run", machine=ONE_THREAD)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"pairs": ["x"]}, "given together"),
        ({"pairs_share": 0.5}, "given together"),
        ({"pairs": ["x"], "pairs_share": 1.5}, "pairs_share is in"),
        ({"pairs": ["x", ""], "pairs_share": 0.5}, "a name is empty"),
    ],
)
def test_hostile_pairs_are_refused(images: Path, data: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        recipe(images, data={"folders": ["x"], **data})


def test_images_too_small_for_degraded_patches_are_told(images: Path, tmp_path: Path) -> None:
    data = {"folders": [str(images / "photographs")], "patch": 32, "batch": 2}
    with pytest.raises(DataError, match="no image has 48 LR pixels a side"):
        train(recipe(images, data=data), tmp_path / "run", machine=ONE_THREAD)


@pytest.mark.slow
def test_blind_run_has_no_strengths(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = NETWORK.keys() - {"strengths", "hidden"}
    network = {**{key: NETWORK[key] for key in told}, "name": "abpn"}
    blind = recipe(images, network=network, schedule={"steps": 1})
    train(blind, tmp_path / "blind", machine=ONE_THREAD)
    options = ["-o", str(tmp_path / "blind.tflite"), "--strength", "jpeg=50"]
    assert app.run(["quantize", str(tmp_path / "blind"), *options]) == 1
    assert "takes no strength jpeg" in capsys.readouterr().err


@pytest.mark.slow
def test_command_writes_a_file_for_strengths(images: Path, tmp_path: Path) -> None:
    validation = {"folders": [str(images / "photographs")], "every": 100}
    train(recipe(images, validation=validation), tmp_path / "run", machine=ONE_THREAD)
    options = ["-o", str(tmp_path / "photo.tflite"), "--strength", "jpeg=30"]
    assert app.run(["quantize", str(tmp_path / "run"), *options]) == 0
    card = json.loads((tmp_path / "photo.json").read_text())
    assert {figure["damage"] for figure in card["figures"]} == {f"jpeg {jpeg_strength(30):.2f}"}
    assert app.run(["quantize", str(tmp_path / "run"), *options[:-1], "dust=1"]) == 1


@pytest.mark.slow
@pytest.mark.torch
@pytest.mark.onnxruntime
@pytest.mark.parametrize("quantization", [{}, {"schedule": {"steps": 3}}])
def test_one_file_serves_all_strengths(
    images: Path, tmp_path: Path, quantization: dict[str, Any]
) -> None:
    train(recipe(images, quantization=quantization), tmp_path / "run", machine=ONE_THREAD)
    model = tmp_path / "photo_x3.tflite"
    assert app.run(["quantize", str(tmp_path / "run"), "-o", str(model)]) == 0
    data, graph = read_model(model)
    rgb = np.random.default_rng(0).integers(0, 256, (1, 13, 11, 3), np.uint8)
    for suffix in (".tflite", ".onnx"):
        plain = tmp_path / f"plain{suffix}"
        export = ["export", str(model), "-o", str(plain), "--strength", "jpeg=30,noise=10"]
        assert app.run(export) == 0
        expected = run_graph(apply_strengths(data, graph, GIVEN), rgb)
        assert np.array_equal(load_engine(plain.read_bytes())(rgb), expected)
    assert (expected != run_graph(graph, rgb)).any()
    assert app.run([*export[:-1], "grain=3", "--force"]) == 1


GIVEN = {"jpeg": jpeg_strength(30), "noise": noise_strength(10)}
