"""LatticeNet, "LatticeNet: Towards Lightweight Image Super-resolution with Lattice Block" (ECCV
2020, doi 10.1007/978-3-030-58542-6_17).

Two 3×3 convolutions to 64 channels; four lattice blocks, in which two chains of three
convolutions are combined crosswise, each sum weighed by coefficients that attention takes from
channels' means and standard deviations; the blocks' outputs are fused from the last to the first
by 1×1 convolutions of half the channels; two convolutions and depth-to-space make the image.
Published at ×3: 765K parameters, which are the 764,827 here (24 more are fixed, below).

What is changed: the standard deviation is that of the population, not of a sample. What is left
out: the fixed subtraction of the mean colour before the network and its addition after it,
which the biases of the first and the last convolution can learn. Attention works on the scale
of [0, 1], for which it was published.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from anchorsr.networks.layers import (
    Convolution,
    DepthToSpace,
    NetworkConfig,
    RecipeNetwork,
    SquareRoot,
)

_SLOPE = 0.05
_CHANNELS = 64
_NARROW = 48  # inside a chain
_HIDDEN = 4  # of the attention
_BLOCKS = 4


@dataclass(frozen=True)
class LatticeNetConfig(NetworkConfig):
    """The published shape."""


class LatticeNet(RecipeNetwork):
    """(N, 3, H, W) float RGB on [0, 255] to (N, 3, factor · H, factor · W), clipped."""

    def __init__(self, config: LatticeNetConfig) -> None:
        super().__init__(config)
        self.first = nn.Sequential(
            Convolution(3, _CHANNELS, 3, gain=0.7), Convolution(_CHANNELS, _CHANNELS, 3, gain=0.7)
        )
        self.blocks = nn.ModuleList(_Block() for _ in range(_BLOCKS))
        # What was fused so far, and the block before, are halved and joined.
        self.fused_halves = nn.ModuleList(_half() for _ in range(_BLOCKS - 1))
        self.earlier_halves = nn.ModuleList(_half() for _ in range(_BLOCKS - 1))
        self.relu = nn.ReLU()
        self.tail = nn.Sequential(
            Convolution(_CHANNELS, _CHANNELS, 3, gain=0.7),
            Convolution(_CHANNELS, 3 * config.factor**2, 3, gain=0.7),
            DepthToSpace(config.factor),
        )

    def forward_unclipped(self, images: Tensor) -> Tensor:
        first = features = self.first(images)
        made = []
        for block in self.blocks:
            features = block(features)
            made.append(features)
        fused = made[-1]
        pairs = zip(self.fused_halves, self.earlier_halves, strict=True)
        for (fused_half, earlier_half), earlier in zip(pairs, made[-2::-1], strict=True):
            halves = [self.relu(fused_half(fused)), self.relu(earlier_half(earlier))]
            fused = torch.cat(halves, 1)
        unclipped: Tensor = self.tail(fused + first)
        return unclipped


class _Block(nn.Module):
    """Two chains combined by two butterflies, and a 1×1 convolution of both results."""

    def __init__(self) -> None:
        super().__init__()
        self.upper = _chain()
        self.upper_weights = nn.ModuleList([_Coefficients(), _Coefficients()])
        self.lower = _chain()
        self.lower_weights = nn.ModuleList([_Coefficients(), _Coefficients()])
        self.compress = Convolution(2 * _CHANNELS, _CHANNELS, 1, gain=0.7)

    def forward(self, features: Tensor) -> Tensor:
        of_made, of_features = self.upper_weights
        made = self.upper(features)
        p = features + of_made(made) * made
        q = made + of_features(features) * features
        of_q, of_long = self.lower_weights
        long = self.lower(p)
        crossed = [long + of_q(q) * q, q + of_long(long) * long]
        compressed: Tensor = self.compress(torch.cat(crossed, 1))
        return compressed


class _Coefficients(nn.Module):
    """A number for each channel, (N, C, 1, 1) in (0, 1): the mean of what two gates say, of
    which one sees the channels' means and the other their standard deviations."""

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
