"""LatticeNet (ECCV 2020, doi 10.1007/978-3-030-58542-6_17).

"LatticeNet: Towards Lightweight Image Super-resolution with Lattice Block": two 3×3 convolutions to
64 channels, then four lattice blocks. A block combines two chains of three convolutions crosswise;
each sum is weighted by attention to the means and standard deviations of the channels. The outputs
of the blocks are fused from the last to the first by 1×1 convolutions to half the channels. Two
convolutions and depth-to-space compute the image. Published at ×3: 765K parameters: the 764,827
here and 24 fixed ones, left out here.

Changed: the standard deviation is that of the population, not of a sample. Left out: subtracting
the mean colour before the network and adding it afterwards, which the biases of the first and the
last convolution can learn. Attention works on the scale of [0, 1], for which it was published.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from anchorsr.networks.base import NetworkConfig, RecipeNetwork
from anchorsr.networks.layers import Convolution, DepthToSpace, SquareRoot

_SLOPE = 0.05
_CHANNELS = 64
_NARROW = 48  # channels inside a chain
_HIDDEN = 4  # channels inside the attention
_BLOCKS = 4


@dataclass(frozen=True)
class LatticeNetConfig(NetworkConfig):
    """The options of LatticeNet, which are those of every network; the rest is as published."""


class LatticeNet(RecipeNetwork):
    """LatticeNet: RGB (N, 3, H, W) on [0, 255] to (N, 3, factor · H, factor · W) on [0, 255]."""

    def __init__(self, config: LatticeNetConfig) -> None:
        super().__init__(config)
        self.first = nn.Sequential(
            Convolution(3, _CHANNELS, 3, gain=0.7), Convolution(_CHANNELS, _CHANNELS, 3, gain=0.7)
        )
        self.blocks = nn.ModuleList(_Block() for _ in range(_BLOCKS))
        # The fused features and the output of the block before are each halved, and concatenated.
        self.fused_halves = nn.ModuleList(_half() for _ in range(_BLOCKS - 1))
        self.earlier_halves = nn.ModuleList(_half() for _ in range(_BLOCKS - 1))
        self.relu = nn.ReLU()
        self.tail = nn.Sequential(
            Convolution(_CHANNELS, _CHANNELS, 3, gain=0.7),
            Convolution(_CHANNELS, 3 * config.factor**2, 3, gain=0.7),
            DepthToSpace(config.factor),
        )

    def forward_unclipped(self, images: Tensor) -> Tensor:
        """Return the output before it is clipped to [0, 255]."""
        first = features = self.first(images)
        outputs = []
        for block in self.blocks:
            features = block(features)
            outputs.append(features)
        fused = outputs[-1]
        pairs = zip(self.fused_halves, self.earlier_halves, strict=True)
        for (fused_half, earlier_half), earlier in zip(pairs, outputs[-2::-1], strict=True):
            halves = [self.relu(fused_half(fused)), self.relu(earlier_half(earlier))]
            fused = torch.cat(halves, 1)
        unclipped: Tensor = self.tail(fused + first)
        return unclipped


class _Block(nn.Module):
    """Two chains combined by two butterfly structures, and a 1×1 convolution of both results."""

    def __init__(self) -> None:
        super().__init__()
        self.upper = _chain()
        self.upper_weights = nn.ModuleList([_Coefficients(), _Coefficients()])
        self.lower = _chain()
        self.lower_weights = nn.ModuleList([_Coefficients(), _Coefficients()])
        self.compress = Convolution(2 * _CHANNELS, _CHANNELS, 1, gain=0.7)

    def forward(self, features: Tensor) -> Tensor:
        weigh_upper, weigh_features = self.upper_weights
        upper = self.upper(features)
        p = features + weigh_upper(upper) * upper
        q = upper + weigh_features(features) * features
        weigh_q, weigh_lower = self.lower_weights
        lower = self.lower(p)
        crossed = [lower + weigh_q(q) * q, q + weigh_lower(lower) * lower]
        compressed: Tensor = self.compress(torch.cat(crossed, 1))
        return compressed


class _Coefficients(nn.Module):
    """One coefficient per channel, (N, C, 1, 1) in (0, 1).

    It is the mean of two gates, one of the channels' means and one of their standard deviations.
    """

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.AdaptiveAvgPool2d(1)
        self.square_root = SquareRoot()
        self.of_mean = _gate()
        self.of_deviation = _gate()

    def forward(self, features: Tensor) -> Tensor:
        mean = self.mean(features)
        deviation = self.square_root(self.mean((features - mean).square()))
        coefficients: Tensor = (self.of_mean(mean) + self.of_deviation(deviation)) / 2
        return coefficients


def _chain() -> nn.Sequential:
    widths = [_CHANNELS, _NARROW, _NARROW, _CHANNELS]
    chain = nn.Sequential()
    for inputs, outputs in pairwise(widths):
        chain.extend([Convolution(inputs, outputs, 3), nn.LeakyReLU(_SLOPE)])
    return chain


def _gate() -> nn.Sequential:
    return nn.Sequential(
        Convolution(_CHANNELS, _HIDDEN, 1, output_unit=1),
        nn.ReLU(),
        Convolution(_HIDDEN, _CHANNELS, 1, input_unit=1, output_unit=1),
        nn.Sigmoid(),
    )


def _half() -> Convolution:
    return Convolution(_CHANNELS, _CHANNELS // 2, 1)
