"""Quantizing a conditioned network for all strengths at once."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs anchorsr[train]")

import torch

from anchorsr.data.degradation import DegradationRecipe, NoiseRecipe
from anchorsr.data.imresize import downscale
from anchorsr.data.pairs import Pair
from anchorsr.graph.conditioning import Conditioning
from anchorsr.graph.executor import run_graph
from anchorsr.graph.graph import Graph
from anchorsr.graph.operators import Conv2D
from anchorsr.networks.inference import to_tensor, upscale_float
from anchorsr.quantization.conditioned import ConditionedIntegerNetwork, calibrate_conditioned
from anchorsr.training.recipe import QuantizationRecipe
from helpers.conditioned import conditioned_network

pytestmark = pytest.mark.slow

NOISE = DegradationRecipe(noise=NoiseRecipe(probability=0.7))


network = partial(conditioned_network, spread=0.05)


def pair(number: int) -> Pair:
    y, x = np.mgrid[0:72, 0:84]
    waves = [127 + 100 * np.sin((x * (1 + c) + y * (number + 1)) / 9) for c in range(3)]
    hr = np.stack(waves, axis=-1).astype(np.uint8)
    return Pair(str(number), downscale(hr, 3), hr)


def calibrated(
    degradation: DegradationRecipe | None = NOISE, **settings: Any
) -> ConditionedIntegerNetwork:
    return calibrate_conditioned(
        network(),
        [pair(0), pair(1)],
        name="small",
        degradation=degradation,
        settings=QuantizationRecipe(**settings),
        seed=4,
    )


def quantized(*args: Any, **settings: Any) -> tuple[Graph, Conditioning]:
    return calibrated(*args, **settings).to_conditioned_graph()


@pytest.mark.parametrize("equalize", [False, True])
@pytest.mark.parametrize("strengths", [{}, {"jpeg": 0.6}, {"jpeg": 0.3, "noise": 0.9}])
def test_integers_approximate_the_float_network(
    equalize: bool, strengths: dict[str, float]
) -> None:
    graph, table = quantized(equalize=equalize)
    lr = pair(2).lr
    made = run_graph(table.apply(graph, strengths), lr[None])[0].astype(int)
    expected = upscale_float(network().fold(strengths), lr)
    assert np.abs(made - expected).mean() < 1.5
    assert np.abs(made - upscale_float(network().fold({"noise": 1.0}), lr)).mean() > 2


def test_weights_are_the_same_for_all_strengths() -> None:
    graph, table = quantized(degradation=None)
    changed = table.apply(graph, {"jpeg": 1.0, "noise": 1.0})
    for one, other in zip(graph.operators, changed.operators, strict=True):
        if isinstance(one, Conv2D) and isinstance(other, Conv2D):
            assert one.weights is other.weights
            assert np.abs(one.weights).max() <= 64


def test_calibration_depends_on_the_seed_alone() -> None:
    assert quantized()[1].to_bytes() == quantized()[1].to_bytes()


@pytest.mark.parametrize("equalize", [False, True])
@pytest.mark.parametrize("values", [(0.0, 0.0), (0.625, 0.0), (0.25, 0.875)])
def test_what_is_trained_is_what_is_written(equalize: bool, values: tuple[float, float]) -> None:
    network = calibrated(equalize=equalize)
    network.avoid_ties()
    graph, table = network.to_conditioned_graph()
    lr = pair(2).lr
    with torch.no_grad():
        output = network.forward_conditioned(to_tensor(lr[None], "cpu"), torch.tensor([values]))
    trained = output.clamp(0, 255)[0].permute(1, 2, 0).numpy()
    strengths = dict(zip(("jpeg", "noise"), values, strict=True))
    written = run_graph(table.apply(graph, strengths), lr[None])[0].astype(np.float32)
    # The table has the perceptron in fixed point: a tie may fall on the other side.
    assert np.abs(trained - written).max() <= 1
    assert (trained != written).mean() < 0.02


def test_gradients_reach_every_parameter() -> None:
    network = calibrated()
    images = to_tensor(np.stack([pair(0).lr, pair(1).lr]), "cpu")
    network.forward_conditioned(
        images, torch.tensor([[0.2, 0.7], [0.9, 0.1]])
    ).square().sum().backward()
    assert all(bool(parameter.grad.abs().sum() > 0) for parameter in network.parameters())
