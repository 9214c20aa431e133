"""What a run is computed on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Machine:
    """What a run is computed on. It changes the speed, and results only by rounding.

    Attributes:
        device: A PyTorch device, such as `cpu` or `cuda`.
        threads: Processor threads; 0 leaves the number to PyTorch.
        mixed_precision: Whether to use bfloat16 where PyTorch's autocast does.
        checkpoint_minutes: The longest time between two checkpoints.
    """

    device: str = "cpu"
    threads: int = 0
    mixed_precision: bool = False
    checkpoint_minutes: float = 5.0


def place(network: Network, device: str) -> Network:
    """Move a network to a device, in the layout that is fastest for these widths.

    Channels last saves a quarter of the time on the CPUs that were measured.
    """
    placed: Network = network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return placed
