"""IMDN, an information multi-distillation network (arXiv 1909.11856).

"Lightweight Image Super-Resolution with Information Multi-distillation Network": a 3×3 convolution
to 64 channels, then six blocks. A block three times keeps 16 of 64 channels and convolves the other
48, concatenates the kept ones, weights the channels by attention to their mean and contrast, and
adds its input after a 1×1 convolution. A 1×1 and a 3×3 convolution fuse the outputs of all blocks;
one more convolution and depth-to-space compute the image. Published at ×3: 703K parameters, the
703,059 here.

The contrast of a channel is its standard deviation over the whole image, as in the authors' code.
Attention works on the scale of [0, 1], for which it was published.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from anchorsr.errors import RecipeError
from anchorsr.networks.base import NetworkConfig, RecipeNetwork
from anchorsr.networks.layers import Convolution, DepthToSpace, SquareRoot

_SLOPE = 0.05
_REDUCTION = 16  # channels over those of the attention's hidden layer


@dataclass(frozen=True)
class IMDNConfig(NetworkConfig):
    """The options of IMDN. Defaults are as published.

    Attributes:
        channels: Width of the features, a multiple of 16.
        blocks: The number of distillation blocks.
    """

    channels: int = 64
    blocks: int = 6

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_at_least(1, "channels", "blocks")
        if self.channels % _REDUCTION:
            raise RecipeError(f"channels is a multiple of {_REDUCTION}, not {self.channels}")


class IMDN(RecipeNetwork):
    """IMDN: RGB (N, 3, H, W) on [0, 255] to (N, 3, factor · H, factor · W) on [0, 255]."""

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
        """Return the output before it is clipped to [0, 255]."""
        first = features = self.first(images)
        outputs = []
        for block in self.blocks:
            features = block(features)
            outputs.append(features)
        joined = self.join(torch.cat(outputs, 1)) + first
        unclipped: Tensor = self.depth_to_space(self.last(joined))
        return unclipped


class _Block(nn.Module):
    """Distillation in three steps, contrast-aware attention, and a skip."""

    def __init__(self, width: int) -> None:
        super().__init__()
        kept = width // 4
        self.split = [kept, width - kept]
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
            distilled, passed = self.leaky_relu(step(passed)).split(self.split, 1)
            kept.append(distilled)
        kept.append(self.last_step(passed))
        output: Tensor = self.fuse(self.attention(torch.cat(kept, 1))) + features
        return output


class _Attention(nn.Module):
    """Channel attention to the sum of mean and contrast."""

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
        weighted: Tensor = features * self.gate(contrast + mean)
        return weighted
