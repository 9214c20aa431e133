"""A small conditioned network whose strengths do something, as after training."""

from __future__ import annotations

from typing import Any

import torch

from anchorsr.networks.conditioned_abpn import ConditionedABPN, ConditionedABPNConfig

SHAPE = {"channels": 8, "body": 2, "image_convolution": False, "skip": True, "expansion": 8}


def conditioned_network(*, spread: float, **options: Any) -> ConditionedABPN:
    """Make it.

    Args:
        spread: The standard deviation of what strengths change.
        options: Of the network, over `SHAPE`.
    """
    torch.manual_seed(0)
    config = ConditionedABPNConfig(**{**SHAPE, "tail_rank": 6, "hidden": 5, **options})
    network = ConditionedABPN(config)
    with torch.no_grad():
        network.modulator.output.weight.normal_(std=spread)
        for parameter in network.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.02 * torch.randn_like(parameter))
    return network.eval()
