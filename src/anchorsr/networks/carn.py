"""CARN, "Fast, Accurate, and Lightweight Super-Resolution with Cascading Residual Network"
(arXiv 1803.08664).

Three cascading blocks of three residual blocks each, 64 channels: after every block a 1×1
convolution reads its output and everything that the cascade held before it, and so again for
the three cascading blocks among themselves. Published: 1,592K parameters for one network with
the heads of ×2, ×3 and ×4, which are the 1,591,939 of `multi_scale` and 24 that are fixed,
below. With the head of ×3 alone, which is all that runs: 1,148,803.

What is left out: the fixed subtraction of the mean colour before the network and its addition
after it, which the biases of the first and the last convolution can learn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from anchorsr.errors import RecipeError
from anchorsr.networks.layers import (
    Convolution,
    DepthToSpace,
    NetworkConfig,
    RecipeNetwork,
    sub_pixel_stages,
)


@dataclass(frozen=True)
class CARNConfig(NetworkConfig):
    """The shape. Defaults are the published one, with one head.

    channels: width; multi_scale: heads of all factors as published, of which `factor`'s runs.
    """

    channels: int = 64
    multi_scale: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.channels < 1:
            raise RecipeError("channels is at least 1")


class CARN(RecipeNetwork):
    """(N, 3, H, W) float RGB on [0, 255] to (N, 3, factor · H, factor · W), clipped."""

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
        features = self.body(self.first(images))
        unclipped: Tensor = self.last(self.heads[f"x{self.factor}"](features))
        return unclipped


class _Cascade(nn.Module):
    """Blocks, and after each a 1×1 convolution of its output and all that came before."""

    def __init__(self, blocks: Sequence[nn.Module], width: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.merges = nn.ModuleList(
            Convolution(width * (index + 2), width, 1) for index in range(len(blocks))
        )
        self.relu = nn.ReLU()

    def forward(self, features: Tensor) -> Tensor:
        kept = features
        for block, merge in zip(self.blocks, self.merges, strict=True):
            kept = torch.cat([kept, block(features)], 1)
            features = self.relu(merge(kept))
        return features


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            Convolution(width, width, 3), nn.ReLU(), Convolution(width, width, 3, gain=0.1)
        )
        self.relu = nn.ReLU()

    def forward(self, features: Tensor) -> Tensor:
        made: Tensor = self.relu(self.body(features) + features)
        return made


def _head(width: int, factor: int) -> nn.Sequential:
    head = nn.Sequential()
    for block in sub_pixel_stages(factor):
        head.extend([Convolution(width, width * block**2, 3), nn.ReLU(), DepthToSpace(block)])
    return head
