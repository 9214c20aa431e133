"""Conditioned ABPN: what it computes, and that it folds to the plain network."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs anchorsr[train]")

import torch

from anchorsr.errors import RecipeError
from anchorsr.graph.operators import Conv2D
from anchorsr.lowering.trace import lower
from anchorsr.networks.registry import build_network
from anchorsr.quantization.ptq import quantize_graph
from helpers.conditioned import SHAPE, conditioned_network

STRENGTHS = {"jpeg": 0.3, "noise": 0.7}


trained = partial(conditioned_network, spread=0.1)


@pytest.fixture
def images() -> torch.Tensor:
    torch.manual_seed(1)
    return torch.rand(2, 3, 9, 10) * 255


@pytest.mark.parametrize("options", [{}, {"tail_rank": 0}, {"image_convolution": True}])
def test_folded_network_computes_what_the_conditioned_one_does(
    images: torch.Tensor, options: dict[str, Any]
) -> None:
    network = trained(**options)
    told = network.forward_conditioned(images, torch.tensor([[0.3, 0.7]] * 2))
    folded = network.fold(STRENGTHS).forward_unclipped(images)
    assert torch.allclose(told, folded, atol=1e-3)
    assert (told - network.forward_unclipped(images)).abs().mean() > 1


def test_no_strength_is_the_plain_network(images: torch.Tensor) -> None:
    network = trained()
    plain = network.forward_unclipped(images)
    zeros = network.forward_conditioned(images, torch.zeros(2, 2))
    assert torch.allclose(zeros, plain, atol=1e-3)
    assert torch.allclose(network.fold({}).forward_unclipped(images), plain, atol=1e-3)


def test_each_image_has_strengths_of_its_own(images: torch.Tensor) -> None:
    network = trained()
    both = network.forward_conditioned(images, torch.tensor([[0.3, 0.7], [1.0, 0.0]]))
    alone = network.forward_conditioned(images[1:], torch.tensor([[1.0, 0.0]]))
    assert torch.allclose(both[1:], alone, atol=1e-3)


def test_strengths_mean_nothing_at_first(images: torch.Tensor) -> None:
    network = build_network({"name": "conditioned_abpn", **SHAPE})
    told = network.forward_conditioned(images, torch.ones(2, 2))
    assert torch.allclose(told, network.forward_unclipped(images), atol=1e-3)


def test_integer_weights_are_the_same_for_all_strengths() -> None:
    """A gain changes the scale of a filter only."""
    network = trained()
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    weights = []
    scales = []
    for strengths in ({}, STRENGTHS, {"noise": 1.0}):
        graph = quantize_graph(lower(network.fold(strengths), name="folded"), [image])
        convolutions = [op for op in graph.operators if isinstance(op, Conv2D)]
        weights.append([op.weights for op in convolutions])
        scales.append(np.concatenate([np.ravel(op.weight_scales) for op in convolutions]))
    for others in weights[1:]:
        for mine, other in zip(weights[0], others, strict=True):
            # A weight may lie halfway between two integers, to the last bit of float32.
            assert np.abs(mine.astype(int) - other).max() <= 1
            assert (mine != other).mean() < 0.001
    assert not np.allclose(scales[0], scales[1])


def test_every_parameter_is_trained(images: torch.Tensor) -> None:
    network = trained().train()
    network.forward_conditioned(images, torch.rand(2, 2)).sub(100).square().mean().backward()
    filters = {name for name, _ in network.named_parameters() if name.endswith("filters")}
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        # K of W + P·K has a gradient once P is not zero any more.
        assert name in filters or parameter.grad.any(), name


@pytest.mark.parametrize(
    "options",
    [{"hidden": 0}, {"strengths": []}, {"strengths": ["jpeg", "jpeg"]}, {"strengths": [""]}],
)
def test_options_that_make_no_network_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(RecipeError):
        build_network({"name": "conditioned_abpn", **SHAPE, **options})


def test_unknown_strength_is_refused() -> None:
    with pytest.raises(RecipeError, match="takes no strength dust; it takes jpeg, noise"):
        trained().fold({"dust": 1.0})
