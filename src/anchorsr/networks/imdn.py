"""IMDN, "Lightweight Image Super-Resolution with Information Multi-distillation Network"
(arXiv 1909.11856).

A 3×3 convolution to 64 channels; six blocks that three times set 16 of 64 channels aside and
convolve the other 48, join what was set aside, weigh the channels by attention to their mean
and contrast, and add the input after a 1×1 convolution; all blocks' outputs are joined by a 1×1
and a 3×3 convolution, and a last one and depth-to-space make the image. Published at ×3: 703K
parameters, which are the 703,059 here.

The contrast of a channel is its standard deviation over the whole image, as in the authors'
code. Attention works on the scale of [0, 1], for which it was published.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from anchorsr.errors import RecipeError
from anchorsr.networks.layers import (
    Convolution,
    DepthToSpace,
    NetworkConfig,
    RecipeNetwork,
    SquareRoot,
)

_SLOPE = 0.05
_REDUCTION = 16  # of the attention's hidden layer


@dataclass(frozen=True)
class IMDNConfig(NetworkConfig):
    """The shape. Defaults are the published one.

    channels: width, a multiple of 16; blocks: how many distillation blocks.
    """

    channels: int = 64
    blocks: int = 6

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.channels < 1 or self.channels % _REDUCTION or self.blocks < 1:
            raise RecipeError("channels is a multiple of 16 and blocks at least 1")


class IMDN(RecipeNetwork):
    """(N, 3, H, W) float RGB on [0, 255] to (N, 3, factor · H, factor · W), clipped."""

    def __init__(self, config: IMDNConfig) -> None:
        super().__init__(config)
        width = config.channels
        self.first = Convolution(3, width, 3, gain=0.7)
        self.blocks = nn.ModuleList(_Block(width) for _ in range(config.blocks))
        self.join = nn.Sequential(
            Convolution(width * config.blocks, width, 1),
            nn.LeakyReLU(_SLOPE),
            Convolution(width, width, 3, gain=0.1),
        )
        self.last = Convolution(width, 3 * config.factor**2, 3, gain=0.7)
        self.depth_to_space = DepthToSpace(config.factor)

    def forward_unclipped(self, images: Tensor) -> Tensor:
        first = features = self.first(images)
        made = []
        for block in self.blocks:
            features = block(features)
            made.append(features)
        joined = self.join(torch.cat(made, 1)) + first
        unclipped: Tensor = self.depth_to_space(self.last(joined))
        return unclipped


class _Block(nn.Module):
    """Distillation in three steps, contrast-aware attention, and the residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        kept = width // 4
        self.parts = [kept, width - kept]
        self.steps = nn.ModuleList(
            Convolution(inputs, width, 3) for inputs in (width, width - kept, width - kept)
        )
        self.last_step = Convolution(width - kept, kept, 3)
        self.leaky_relu = nn.LeakyReLU(_SLOPE)
        self.attention = _Attention(width)
        self.fuse = Convolution(width, width, 1, gain=0.1)

    def forward(self, features: Tensor) -> Tensor:
        kept = []
        passed = features
        for step in self.steps:
            one, passed = self.leaky_relu(step(passed)).split(self.parts, 1)
            kept.append(one)
        kept.append(self.last_step(passed))
        made: Tensor = self.fuse(self.attention(torch.cat(kept, 1))) + features
        return made


class _Attention(nn.Module):
    """Channels weighed by the sum of their mean and their contrast."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mean = nn.AdaptiveAvgPool2d(1)
        self.square_root = SquareRoot()
        hidden = width // _REDUCTION
        self.gate = nn.Sequential(
            Convolution(width, hidden, 1, output_unit=1),
            nn.ReLU(),
            Convolution(hidden, width, 1, input_unit=1, output_unit=1),
            nn.Sigmoid(),
        )

    def forward(self, features: Tensor) -> Tensor:
        mean = self.mean(features)
        contrast = self.square_root(self.mean((features - mean).square()))
        weighed: Tensor = features * self.gate(contrast + mean)
        return weighed
