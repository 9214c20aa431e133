"""IDN, an information distillation network (arXiv 1803.09454).

"Fast and Accurate Single Image Super-Resolution via Information Distillation Network": two 3×3
convolutions to 64 channels, then four blocks of two times three convolutions, the middle ones in
four groups. Of the 64 channels between the two, 16 skip the second three; concatenated with the
input of the block, they are added to its output, and a 1×1 convolution compresses 80 channels to
64. A 17×17 transposed convolution computes the residual of the upscaled image. LeakyReLU has slope
0.05. Published at ×3 for luma: 553K parameters, the 552,769 here. RGB: 590,915.

Changed: interpolation is bilinear instead of bicubic. RGB instead of luma, unless `colors` is 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from anchorsr.networks.base import LumaConfig, RecipeNetwork
from anchorsr.networks.layers import Convolution, Interpolate, TransposedConvolution

_SLOPE = 0.05
_CHANNELS = 64
_KEPT = 16  # channels of a block that skip its second half
_GROUPS = 4


@dataclass(frozen=True)
class IDNConfig(LumaConfig):
    """The options of IDN, which are those of every network for luma; the rest is as published."""


class IDN(RecipeNetwork):
    """IDN: (N, colors, H, W) on [0, 255] to (N, colors, factor · H, factor · W)."""

    def __init__(self, config: IDNConfig) -> None:
        super().__init__(config)
        self.first = nn.Sequential(
            *_convolution(config.colors, _CHANNELS), *_convolution(_CHANNELS, _CHANNELS)
        )
        self.body = nn.Sequential(*(_Block() for _ in range(4)))
        self.last = TransposedConvolution(_CHANNELS, config.colors, 17, config.factor)
        nn.init.normal_(self.last.weight, std=0.001)  # small, as in FSRCNN
        self.enlarge = Interpolate(config.factor, "bilinear")

    def forward_unclipped(self, images: Tensor) -> Tensor:
        """Return the output before it is clipped to [0, 255]."""
        residual = self.last(self.body(self.first(images)))
        unclipped: Tensor = residual + self.enlarge(images)
        return unclipped


class _Block(nn.Module):
    """An enhancement unit followed by a compression unit."""

    def __init__(self) -> None:
        super().__init__()
        self.upper = nn.Sequential(
            *_convolution(_CHANNELS, 48),
            *_convolution(48, 32, groups=_GROUPS),
            *_convolution(32, _CHANNELS),
        )
        self.lower = nn.Sequential(
            *_convolution(_CHANNELS - _KEPT, 64),
            *_convolution(64, 48, groups=_GROUPS),
            *_convolution(48, _CHANNELS + _KEPT),
        )
        self.compress = nn.Sequential(*_convolution(_CHANNELS + _KEPT, _CHANNELS, size=1))

    def forward(self, features: Tensor) -> Tensor:
        kept, passed = self.upper(features).split([_KEPT, _CHANNELS - _KEPT], 1)
        output: Tensor = self.compress(torch.cat([features, kept], 1) + self.lower(passed))
        return output


def _convolution(inputs: int, outputs: int, *, size: int = 3, groups: int = 1) -> list[nn.Module]:
    return [Convolution(inputs, outputs, size, groups=groups), nn.LeakyReLU(_SLOPE)]
