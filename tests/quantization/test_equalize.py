"""Equalization changes the ranges of channels, but not what a network computes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs anchorsr[train]")

import torch

from anchorsr.arrays import Array
from anchorsr.graph.executor import run_graph
from anchorsr.graph.graph import Graph
from anchorsr.graph.operators import Conv2D
from anchorsr.lowering.trace import lower
from anchorsr.networks.registry import build_network
from anchorsr.quantization.calibration import observe_tensors
from anchorsr.quantization.equalize import equalize
from anchorsr.quantization.ptq import quantize_graph
from helpers.graphs import image

IMAGES = [image(seed, 24, 20)[0] for seed in range(3)]

ABPN = {"name": "abpn", "channels": 6, "body": 2, "expansion": 0}
SKIP = ABPN | {"skip": True, "image_convolution": False, "tail_rank": 5}


def uneven(network: dict[str, object]) -> Graph:
    """A float graph whose six channels have different ranges and equal influence."""
    torch.manual_seed(1)
    built = build_network(network)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    graph = lower(built, name="uneven")
    sizes = np.geomspace(0.02, 1, 6, dtype=np.float32)
    operators = []
    for operator in graph.operators:
        if isinstance(operator, Conv2D):
            weights, bias = operator.weights, operator.bias
            if len(bias) == 6:
                weights, bias = weights * sizes[:, None, None, None], bias * sizes
            if weights.shape[3] == 6:
                weights = weights / sizes
            operator = dataclasses.replace(operator, weights=weights, bias=bias)
        operators.append(operator)
    return dataclasses.replace(graph, operators=operators)


def largest_of_channels(graph: Graph) -> dict[str, Array]:
    largest: dict[str, Array] = {}

    def observe(name: str, values: Array) -> None:
        found = np.abs(values).max(axis=(0, 1, 2))
        largest[name] = np.maximum(largest.get(name, 0), found)

    observe_tensors(graph, IMAGES, observe)
    return largest


@pytest.mark.parametrize("network", [ABPN, SKIP], ids=["plain", "skip"])
def test_the_network_computes_the_same(network: dict[str, object]) -> None:
    graph = uneven(network)
    images = image(9, 13, 11).astype(np.float32)
    expected = run_graph(graph, images)
    np.testing.assert_allclose(run_graph(equalize(graph, IMAGES), images), expected, atol=2e-3)


@pytest.mark.parametrize("network", [ABPN, SKIP], ids=["plain", "skip"])
def test_equalization_takes_the_root_of_what_a_channel_lacks(network: dict[str, object]) -> None:
    graph = uneven(network)
    before, after = largest_of_channels(graph), largest_of_channels(equalize(graph, IMAGES))
    for operator in graph.operators:
        if not isinstance(operator, Conv2D) or not operator.relu:
            continue
        if network is SKIP and operator.output in ("body_0", "body_2"):  # summands
            continue
        name = operator.output
        lacked, lacks = (found[name] / found[name].max() for found in (before, after))
        assert lacked[lacked > 0].min() < 0.5
        np.testing.assert_allclose(lacks, np.sqrt(lacked), rtol=1e-4)


def test_summands_and_their_sum_change_alike() -> None:
    graph = uneven(SKIP)
    before, after = largest_of_channels(graph), largest_of_channels(equalize(graph, IMAGES))
    (add,) = (op for op in graph.operators if len(op.inputs) == 2 and "body_0" in op.inputs)
    ratios = [after[name] / before[name] for name in (*add.inputs, add.output)]
    np.testing.assert_allclose(ratios[0], ratios[2], rtol=1e-4)
    np.testing.assert_allclose(ratios[1], ratios[2], rtol=1e-4)
    assert ratios[0].max() > 2


@pytest.mark.parametrize("dead", [slice(0, 1), slice(None)], ids=["one", "all"])
def test_a_channel_that_is_never_active_stays(dead: slice) -> None:
    graph = uneven(ABPN)
    first = graph.operators[0]
    assert isinstance(first, Conv2D)
    first.weights[dead], first.bias[dead] = 0, -1
    equal = equalize(graph, IMAGES).operators[0]
    assert isinstance(equal, Conv2D)
    assert (equal.bias[dead] == -1).all() and not equal.weights[dead].any()
    assert np.isfinite(equal.weights).all() and (abs(equal.bias) >= abs(first.bias)).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    "network",
    [{"name": "fsrcnn"}, {"name": "imdn"}, {"name": "edsr", "channels": 4, "blocks": 1}],
    ids=lambda network: str(network["name"]),
)
def test_other_operators_keep_their_channels(network: dict[str, object]) -> None:
    torch.manual_seed(2)
    graph = lower(build_network(network), name="other")
    images = image(8, 9, 8).astype(np.float32)
    expected = run_graph(graph, images)
    np.testing.assert_allclose(run_graph(equalize(graph, IMAGES), images), expected, atol=0.05)


def error_of(graph: Graph) -> float:
    images = image(7, 40, 40)
    expected = run_graph(graph, images.astype(np.float32))
    made = run_graph(quantize_graph(graph, IMAGES, percentile=100), images)
    return float(np.abs(made - expected).mean())


def test_integers_of_uneven_channels_are_nearer_to_the_float_network() -> None:
    graph = uneven(SKIP)
    assert error_of(equalize(graph, IMAGES)) < 0.7 * error_of(graph)
