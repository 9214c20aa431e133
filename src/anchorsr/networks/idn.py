"""IDN, "Fast and Accurate Single Image Super-Resolution via Information Distillation Network"
(arXiv 1803.09454).

Two 3×3 convolutions to 64 channels; four blocks, each of two times three convolutions (the
middle ones in four groups) with a slice between them: 16 of the 64 channels skip the second
three and stand beside the block's input in what is added after them; a 1×1 convolution
compresses 80 channels to 64. A 17×17 transposed convolution makes what is added to the enlarged
image. LeakyReLU of slope 0.05. Published at ×3 for one colour channel: 553K parameters, which
are the 552,769 here. On RGB: 590,915.

What is changed: the image is enlarged by bilinear instead of bicubic interpolation; three
colours instead of luma unless `colors` says 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from anchorsr.networks.layers import (
    Convolution,
    Enlarge,
    LumaConfig,
    RecipeNetwork,
    TransposedConvolution,
)

_SLOPE = 0.05
_CHANNELS = 64
_KEPT = 16  # channels of a block that skip its second half
_GROUPS = 4


@dataclass(frozen=True)
class IDNConfig(LumaConfig):
    """The published shape, on RGB."""


class IDN(RecipeNetwork):
    """(N, colors, H, W) float on [0, 255] to (N, colors, factor · H, factor · W), clipped."""

    def __init__(self, config: IDNConfig) -> None:
        super().__init__(config)
        self.first = nn.Sequential(
            *_convolution(config.colors, _CHANNELS), *_convolution(_CHANNELS, _CHANNELS)
        )
        self.body = nn.Sequential(*(_Block() for _ in range(4)))
        self.last = TransposedConvolution(_CHANNELS, config.colors, 17, config.factor)
        nn.init.normal_(self.last.weight, std=0.001)  # small, as FSRCNN's
        self.enlarge = Enlarge(config.factor, "bilinear")

    def forward_unclipped(self, images: Tensor) -> Tensor:
        residual = self.last(self.body(self.first(images)))
        unclipped: Tensor = residual + self.enlarge(images)
        return unclipped


class _Block(nn.Module):
    """An enhancement unit and the compression unit after it."""

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
        made: Tensor = self.compress(torch.cat([features, kept], 1) + self.lower(passed))
        return made


def _convolution(inputs: int, outputs: int, *, size: int = 3, groups: int = 1) -> list[nn.Module]:
    return [Convolution(inputs, outputs, size, groups=groups), nn.LeakyReLU(_SLOPE)]
