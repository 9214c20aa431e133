"""Quantization of a run: QAT computes what the exported file computes, byte for byte."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs anchorsr[train]")

import torch

from anchorsr.cli import app
from anchorsr.engines.runtimes import load_engine
from anchorsr.errors import CheckpointError, DataError, ModelError, OutputError
from anchorsr.export.release import release
from anchorsr.graph.executor import run_graph
from anchorsr.graph.operators import Conv2D
from anchorsr.images.io import RasterImage, write_image
from anchorsr.lowering.trace import lower
from anchorsr.models.card import read_card
from anchorsr.networks.abpn import ABPN, ABPNConfig
from anchorsr.networks.inference import to_tensor
from anchorsr.quantization.calibration import choose_quantization, observe_ranges
from anchorsr.quantization.ptq import apply_quantization
from anchorsr.quantization.qat import QuantizedRun, calibrate, quantize
from anchorsr.quantization.qat_network import IntegerNetwork
from anchorsr.quantization.rounding import avoid_ties
from anchorsr.serialization.tflite.summary import fixed_size
from anchorsr.serialization.tflite.writer import write_tflite
from anchorsr.training.checkpoint import load_run
from anchorsr.training.machine import Machine
from anchorsr.training.progress import TrainingProgress
from anchorsr.training.recipe import Recipe
from anchorsr.training.trainer import train
from anchorsr.utils.config import parse_table
from helpers.examples import run_example
from helpers.graphs import convolutions, image


def integer_network(factor: int = 3, channels: int = 8) -> IntegerNetwork:
    torch.manual_seed(0)
    network = ABPN(ABPNConfig(factor, channels, 2, expansion=8))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    graph = lower(network, name="small")
    ranges = observe_ranges(graph, [image(0, 32, 32)[0]], 99.9)
    return IntegerNetwork(graph, choose_quantization(graph, ranges))


def train_a_little(network: IntegerNetwork, steps: int) -> list[float]:
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    lr = image(1, 16, 16)
    target = to_tensor(lr.repeat(network.factor, axis=1).repeat(network.factor, axis=2), "cpu")
    losses = []
    for _ in range(steps):
        loss = (network.forward_unclipped(to_tensor(lr, "cpu")) - target).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.slow
@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (31, 17)])
def test_training_forward_equals_executor_and_file_after_training(
    factor: int, size: tuple[int, int]
) -> None:
    network = integer_network(factor)
    train_a_little(network, 5)
    images = image(2, *size)
    with torch.no_grad():
        trained = network(to_tensor(images, "cpu")).permute(0, 2, 3, 1).numpy()
    graph = network.to_graph()
    executed = run_graph(graph, images)
    np.testing.assert_array_equal(trained, executed)
    np.testing.assert_array_equal(load_engine(write_tflite(graph))(images), executed)


@pytest.mark.slow
def test_the_network_avoids_ties_as_its_graph_would() -> None:
    network = integer_network()
    train_a_little(network, 5)
    trained = network.to_graph()
    network.avoid_ties()
    moved, wanted = network.to_graph(), avoid_ties(trained)
    three = zip(convolutions(trained), convolutions(wanted), convolutions(moved), strict=True)
    for before, same, after in three:
        np.testing.assert_allclose(after.weight_scales, same.weight_scales, rtol=3e-7)
        np.testing.assert_array_equal(after.weights, before.weights)
        if not before.copies_channels:
            assert np.mean(before.weight_scales != after.weight_scales) > 0.5
    images = image(2, 19, 13)
    with torch.no_grad():
        forward = network(to_tensor(images, "cpu")).permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(forward, run_graph(moved, images))


def test_before_training_it_is_the_calibrated_graph() -> None:
    network = integer_network()
    images = image(3, 13, 11)
    calibrated = apply_quantization(network.source, network._chosen)
    np.testing.assert_array_equal(
        run_graph(network.to_graph(), images), run_graph(calibrated, images)
    )


@pytest.mark.slow
def test_gradients_reach_every_parameter_and_the_loss_falls() -> None:
    network = integer_network()
    losses = train_a_little(network, 60)
    assert all(p.grad is not None and bool(p.grad.any()) for p in network.parameters())
    assert losses[-1] < 0.7 * losses[0]


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float run of four steps, whose recipe has eight steps of QAT."""
    root = tmp_path_factory.mktemp("runs")
    (root / "images").mkdir()
    for seed in range(3):
        write_image(root / f"images/{seed}.png", RasterImage(image(seed, 60, 72)[0]))
    table = {
        "network": {"name": "abpn", "channels": 6, "body": 1, "expansion": 4},
        "data": {"folders": [str(root / "images")], "patch": 12, "batch": 2},
        "schedule": {"steps": 4},
        "quantization": {"schedule": {"steps": 8}, "calibration": 2},
        "validation": {"folders": [str(root / "images")], "every": 4},
    }
    train(parse_table(Recipe, table, ""), root / "run", machine=Machine(threads=1))
    return root / "run"


NETWORKS = {
    "feature_space": {"name": "residual_form", "form": "feature_space", "channels": 4, "body": 1},
    "bilinear": {"name": "residual_form", "form": "bilinear", "channels": 4, "body": 0},
    "fsrcnn": {"name": "fsrcnn"},
}


def run_of(network: dict[str, Any], finished_run: Path, folder: Path) -> Path:
    """Train another network as `finished_run`."""
    table = json.loads((finished_run / "run.json").read_text())["recipe"]
    table |= {"network": network, "schedule": {"steps": 1}}
    table["quantization"]["schedule"] = {"steps": 2}
    train(parse_table(Recipe, table, ""), folder, machine=Machine(threads=1))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_every_kind_of_network_is_quantized_to_a_file_that_is_exact(
    name: str, finished_run: Path, tmp_path: Path
) -> None:
    run = run_of(NETWORKS[name], finished_run, tmp_path / "run")
    graph = quantize(run, machine=Machine(threads=1)).graph
    images = image(4, 9, 13)
    engine = load_engine(write_tflite(graph, size=(9, 13)), threads=1)
    np.testing.assert_array_equal(engine(images), run_graph(graph, images))


@pytest.mark.slow
def test_a_network_that_needs_a_size_is_released_with_one(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(NETWORKS["bilinear"], finished_run, tmp_path / "run")
    monkeypatch.setattr("anchorsr.export.release.SIZE", (8, 12))
    scores = release(run, tmp_path / "model.tflite", machine=Machine(threads=1))
    assert fixed_size((tmp_path / "model.tflite").read_bytes()) == (8, 12)
    floating, integer = (score.psnr_rgb for score in scores)
    assert abs(floating - integer) < 0.5


@pytest.mark.slow
def test_a_network_with_global_pooling_is_released_and_measured(
    finished_run: Path, tmp_path: Path
) -> None:
    run = run_of({"name": "imdn", "blocks": 1}, finished_run, tmp_path / "run")
    scores = release(run, tmp_path / "model.tflite", qat=False)
    floating, integer = (score.psnr_rgb for score in scores)
    assert abs(floating - integer) < 1
    assert json.loads((tmp_path / "model.json").read_text())["receptive_field"] is None


@pytest.mark.slow
def test_what_cannot_be_measured_is_not_published(finished_run: Path, tmp_path: Path) -> None:
    shutil.copytree(finished_run, tmp_path / "run")
    record = json.loads((tmp_path / "run/run.json").read_text())
    record["recipe"]["validation"]["folders"] = ["nowhere"]
    (tmp_path / "run/run.json").write_text(json.dumps(record))
    with pytest.raises(DataError, match="nowhere"):
        release(tmp_path / "run", tmp_path / "model.tflite", qat=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


@pytest.mark.slow
def test_a_card_does_not_replace_the_record_of_a_run(finished_run: Path, tmp_path: Path) -> None:
    for name in ("run", "another"):
        shutil.copytree(finished_run, tmp_path / name)
        before = (tmp_path / name / "run.json").read_bytes()
        with pytest.raises(OutputError, match=r"run\.json is the record of a run"):
            release(tmp_path / "run", tmp_path / name / "run.tflite", qat=False, overwrite=True)
        assert (tmp_path / name / "run.json").read_bytes() == before


@pytest.mark.slow
def test_the_card_of_another_file_is_refused(finished_run: Path, tmp_path: Path) -> None:
    release(finished_run, tmp_path / "model.tflite", qat=False)
    assert read_card(tmp_path / "model.tflite").factor == 3
    (tmp_path / "model.tflite").write_bytes(b"another")
    with pytest.raises(ModelError, match="that of another file"):
        read_card(tmp_path / "model.tflite")


def quantized(run: Path, stop_at: int | None = None) -> QuantizedRun:
    sent: list[int] = []

    def stop(progress: TrainingProgress) -> None:
        if stop_at is not None and progress.step >= stop_at and not sent:
            sent.append(progress.step)  # a second signal would stop at once
            signal.raise_signal(signal.SIGINT)

    return quantize(run, machine=Machine(threads=1), on_progress=stop)


@pytest.mark.slow
def test_a_run_is_calibrated_then_trained_and_resumes_exactly(
    finished_run: Path, tmp_path: Path
) -> None:
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    for copy in (whole, torn):
        shutil.copytree(finished_run, copy)
    calibrated = quantize(whole, qat=False)
    expected = write_tflite(quantized(whole).graph)
    assert expected != write_tflite(calibrated.graph)
    with pytest.raises(KeyboardInterrupt):
        quantized(torn, stop_at=4)
    step = json.loads((torn / "integer" / "run.json").read_text())["step"]
    assert 4 <= step < 8
    assert write_tflite(quantized(torn).graph) == expected
    again = quantized(torn)  # finished: nothing is trained again
    assert write_tflite(again.graph) == expected
    assert again.records["integer"]["step"] == 8
    assert set(calibrated.records) == {"float"}


@pytest.mark.slow
def test_the_example_of_quantize_runs(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(finished_run, tmp_path / "runs/abpn_x3")
    monkeypatch.chdir(tmp_path)
    run_example(quantize, "quantize")


@pytest.mark.slow
def test_an_unfinished_run_is_quantized_only_if_asked(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished_run, tmp_path / "run")
    record = json.loads((tmp_path / "run/run.json").read_text())
    record["recipe"]["schedule"]["steps"] = 9
    (tmp_path / "run/run.json").write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match=r"taken 4 of 9 steps: .* with --unfinished"):
        quantize(tmp_path / "run", qat=False)
    assert quantize(tmp_path / "run", qat=False, unfinished=True).graph.is_integer
    output = tmp_path / "model.tflite"
    command = ["quantize", str(tmp_path / "run"), "-o", str(output), "--no-train"]
    assert app.run(command) == 1
    assert "--unfinished" in capsys.readouterr().err
    assert not output.exists()
    assert app.run([*command, "--unfinished"]) == 0
    assert output.exists()


@pytest.mark.slow
def test_half_of_the_target_of_qat_is_the_float_network(finished_run: Path, tmp_path: Path) -> None:
    """The other half is the images: noise, as far from its output as can be."""
    shutil.copytree(finished_run, tmp_path / "run")
    records = quantized(tmp_path / "run").records
    loss, of_integers = (records[of]["history"][-1]["loss"] for of in ("float", "integer"))
    assert loss > 20
    assert of_integers == pytest.approx(loss / 2, rel=0.1)


@pytest.mark.slow
def test_integers_of_weights_that_have_changed_since_are_refused(
    finished_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    quantized(run)
    weights = torch.load(run / "weights.pt", weights_only=True)
    weights["state"]["last.bias"] += 0.01
    torch.save(weights, run / "weights.pt")
    with pytest.raises(CheckpointError, match="have changed since: delete"):
        quantized(run)


@pytest.mark.slow
def test_scales_are_learned() -> None:
    network = integer_network()
    before = {name: value.item() for name, value in network.log_scales.items()}
    train_a_little(network, 5)
    assert all(network.log_scales[name].item() != value for name, value in before.items())


@pytest.mark.slow
def test_a_recipe_may_have_channels_equalized_before_calibration(
    finished_run: Path, tmp_path: Path
) -> None:
    table = json.loads((finished_run / "run.json").read_text())["recipe"]
    plain = calibrate(load_run(finished_run)).graph
    table["quantization"]["equalize"] = True
    run = train(parse_table(Recipe, table, ""), tmp_path, machine=Machine(threads=1))
    equal = calibrate(run).graph
    first, changed = plain.operators[0], equal.operators[0]
    assert isinstance(first, Conv2D) and isinstance(changed, Conv2D)
    assert (abs(changed.bias) >= abs(first.bias)).all() and (changed.bias != first.bias).any()
    images = image(4, 12, 9).astype(np.float32)
    np.testing.assert_allclose(run_graph(equal, images), run_graph(plain, images), atol=1e-3)
    assert quantize(run, machine=Machine(threads=1)).graph.is_integer
