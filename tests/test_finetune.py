"""The trainable integer network computes what its exported file computes, byte for byte."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from anchorsr.engines import load_engine
from anchorsr.finetune import IntegerNetwork
from anchorsr.integer import run_graph
from anchorsr.lower import lower
from anchorsr.networks import ABPN, ABPNConfig
from anchorsr.quantize import assign, choose, observe_ranges
from anchorsr.tflite import write_tflite
from anchorsr.training import to_tensor
from graphs import picture


def integer_network(factor: int = 3, channels: int = 8) -> IntegerNetwork:
    torch.manual_seed(0)
    network = ABPN(ABPNConfig(factor, channels, 2, expansion=8))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    graph = lower(network, name="small")
    ranges = observe_ranges(graph, [picture(0, 32, 32)[0]], 99.9)
    return IntegerNetwork(graph, choose(graph, ranges))


def train_a_little(network: IntegerNetwork, steps: int) -> list[float]:
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    lr = picture(1, 16, 16)
    target = to_tensor(lr.repeat(network.factor, axis=1).repeat(network.factor, axis=2), "cpu")
    losses = []
    for _ in range(steps):
        loss = (network.residual_form(to_tensor(lr, "cpu")) - target).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (31, 17)])
def test_training_forward_equals_executor_and_file_after_training(
    factor: int, size: tuple[int, int]
) -> None:
    network = integer_network(factor)
    train_a_little(network, 5)
    images = picture(2, *size)
    with torch.no_grad():
        trained = network(to_tensor(images, "cpu")).permute(0, 2, 3, 1).numpy()
    graph = network.to_graph()
    executed = run_graph(graph, images)
    np.testing.assert_array_equal(trained, executed)
    np.testing.assert_array_equal(load_engine(write_tflite(graph))(images), executed)


def test_before_training_it_is_the_calibrated_graph() -> None:
    network = integer_network()
    images = picture(3, 13, 11)
    calibrated = assign(network.source, network._chosen)
    np.testing.assert_array_equal(
        run_graph(network.to_graph(), images), run_graph(calibrated, images)
    )


def test_gradients_reach_every_parameter_and_the_loss_falls() -> None:
    network = integer_network()
    losses = train_a_little(network, 60)
    assert all(p.grad is not None and bool(p.grad.any()) for p in network.parameters())
    assert losses[-1] < 0.7 * losses[0]


def test_scales_are_learned() -> None:
    network = integer_network()
    before = {name: value.item() for name, value in network.log_scales.items()}
    train_a_little(network, 5)
    assert all(network.log_scales[name].item() != value for name, value in before.items())
