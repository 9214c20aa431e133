"""Shipped models as PyTorch modules."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs anchorsr[train]")

import torch
from torch import nn

import anchorsr
from anchorsr.errors import GraphError, ModelError
from anchorsr.graph.dequantize import dequantize
from anchorsr.graph.executor import run_graph
from anchorsr.lowering.to_torch import GraphModule
from anchorsr.lowering.trace import lower
from anchorsr.models.registry import model_path, read_model
from helpers.single import MAKERS, Maker


def computed(network: nn.Module, images: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        made = network(torch.from_numpy(images).permute(0, 3, 1, 2))
    return made.permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize(("name", "factor"), [("fast", 2), ("quality", 3)])
def test_module_computes_what_the_integers_stand_for(
    name: str, factor: int, dog: np.ndarray
) -> None:
    images = dog[None, :24, :32]
    _, graph = read_model(model_path(name, factor))
    network = anchorsr.load_module(name, factor)
    made = computed(network, images.astype(np.float32) / 255) * 255
    real = run_graph(dequantize(graph), images.astype(np.float32))
    np.testing.assert_allclose(made, real, atol=0.01)
    assert np.abs(made - run_graph(graph, images)).max() < 8
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    kinds = [type(operator).__name__ for operator in graph.operators]
    assert len(layers) == kinds.count("Conv2D")  # none for the order of channels
    assert any(isinstance(module, nn.PixelShuffle) for module in network.modules())


@pytest.mark.parametrize("name", MAKERS)
def test_every_operator_has_a_module(name: str) -> None:
    maker = Maker(0, integer=False)
    graph = MAKERS[name](maker)
    images = maker.images(*graph.fit(13, 11))
    expected = run_graph(graph, images)
    made = computed(GraphModule(graph, 255), images)
    np.testing.assert_allclose(made, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_module_can_be_lowered_again() -> None:
    network = anchorsr.load_module("fast", 2, maximum=255)
    graph = lower(network, name="again")
    images = np.full((1, 8, 8, 3), 99, np.float32)
    np.testing.assert_allclose(run_graph(graph, images), computed(network, images), atol=1e-3)


@pytest.mark.slow
def test_module_is_exported_by_pytorch() -> None:
    network = anchorsr.load_module("fast", 2)
    program = torch.export.export(network, (torch.zeros(1, 3, 8, 8),))
    assert "pixel_shuffle" in str(program.graph)


def test_what_is_no_float_graph_or_model_is_refused() -> None:
    with pytest.raises(GraphError, match="is an integer graph"):
        GraphModule(read_model(model_path("fast", 2))[1])
    with pytest.raises(ModelError, match="no model 'best'"):
        anchorsr.load_module("best")
