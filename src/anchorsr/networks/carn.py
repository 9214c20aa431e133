"""CARN, a cascading residual network (arXiv 1803.08664).

"Fast, Accurate, and Lightweight Super-Resolution with Cascading Residual Network": three cascading
blocks of three residual blocks each, 64 channels. After every block, a 1×1 convolution reads its
output and all earlier features of the cascade; the three cascading blocks are connected in the same
way. Published: 1,592K parameters for one network with heads for ×2, ×3 and ×4: the 1,591,939 of
`multi_scale` and 24 fixed ones, left out here. With the head for ×3 only: 1,148,803.

Left out: subtracting the mean colour before the network and adding it afterwards, which the biases
of the first and the last convolution can learn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from anchorsr.networks.base import NetworkConfig, RecipeNetwork
from anchorsr.networks.layers import Convolution, upsampler


@dataclass(frozen=True)
class CARNConfig(NetworkConfig):
    """The options of CARN. Defaults are as published, but for one head.

    Attributes:
        channels: Width of the features.
        multi_scale: Whether there are heads for ×2, ×3 and ×4 as published; `factor`'s is run.
    """

    channels: int = 64
    multi_scale: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_at_least(1, "channels")


class CARN(RecipeNetwork):
    """CARN: RGB (N, 3, H, W) on [0, 255] to (N, 3, factor · H, factor · W) on [0, 255]."""

    def __init__(self, config: CARNConfig) -> None:
        super().__init__(config)
        width = config.channels
        self.first = Convolution(3, width, 3, gain=0.7)
        self.body = _Cascade(
            [_Cascade([_Residual(width) for _ in range(3)], width) for _ in range(3)], width
        )
        factors = (2, 3, 4) if config.multi_scale else (config.factor,)
        self.heads = nn.ModuleDict({f"x{factor}": _head(width, factor) for factor in factors})
        self.last = Convolution(width, 3, 3)

    def forward_unclipped(self, images: Tensor) -> Tensor:
        """Return the output before it is clipped to [0, 255]."""
        features = self.body(self.first(images))
        unclipped: Tensor = self.last(self.heads[f"x{self.factor}"](features))
        return unclipped


class _Cascade(nn.Module):
    """Blocks, each followed by a 1×1 convolution of its output and all earlier features."""

    def __init__(self, blocks: Sequence[nn.Module], width: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.merges = nn.ModuleList(
            Convolution(width * (index + 2), width, 1) for index in range(len(blocks))
        )
        self.relu = nn.ReLU()

    def forward(self, features: Tensor) -> Tensor:
        seen = features
        for block, merge in zip(self.blocks, self.merges, strict=True):
            seen = torch.cat([seen, block(features)], 1)
            features = self.relu(merge(seen))
        return features


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            Convolution(width, width, 3), nn.ReLU(), Convolution(width, width, 3, gain=0.1)
        )
        self.relu = nn.ReLU()

    def forward(self, features: Tensor) -> Tensor:
        output: Tensor = self.relu(self.body(features) + features)
        return output


def _head(width: int, factor: int) -> nn.Sequential:
    convolution = partial(Convolution, size=3)
    return upsampler(width, factor, convolution, before_shuffle=nn.ReLU)
