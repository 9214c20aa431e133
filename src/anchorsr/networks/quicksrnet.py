"""QuickSRNet, "Plain Single-Image Super-Resolution Architecture for Faster Inference on Mobile".

arXiv 2303.04336; the title ends with "on Mobile Platforms". 3×3 convolutions whose results are
clipped to the range of images, and depth-to-space. There is no addition: where others add the
input, kernels start as that sum. Small has 32 channels and two convolutions between the first and
the last, 33.3K parameters at ×4; medium has five, 61.0K; large has eleven of 64 channels, 436K.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from anchorsr.networks.base import NetworkConfig, RecipeNetwork
from anchorsr.networks.layers import Clip, Convolution, DepthToSpace

_COLORS = 3


@dataclass(frozen=True)
class QuickSRNetConfig(NetworkConfig):
    """The options of QuickSRNet; by default the small one.

    Attributes:
        channels: Width of the features.
        blocks: Convolutions between the first and the last.
    """

    channels: int = 32
    blocks: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_at_least(_COLORS, "channels")
        self._require_at_least(1, "blocks")


class QuickSRNet(RecipeNetwork):
    """QuickSRNet: (N, 3, H, W) on [0, 255] to (N, 3, factor · H, factor · W)."""

    def __init__(self, config: QuickSRNetConfig) -> None:
        super().__init__(config)
        width, packed = config.channels, _COLORS * config.factor**2
        self.body = nn.Sequential(Convolution(_COLORS, width, 3, gain=0.3), Clip())
        for _ in range(config.blocks):
            self.body.extend([Convolution(width, width, 3, gain=0.3), Clip()])
        self.last = Convolution(width, packed, 3, gain=0.3)
        self.depth_to_space = DepthToSpace(config.factor)
        with torch.no_grad():
            for layer in self.body:
                if isinstance(layer, Convolution):
                    _add_identity(layer.weight, range(min(layer.weight.shape[:2])))
            _add_identity(self.last.weight, [place % _COLORS for place in range(packed)])

    def forward_unclipped(self, images: Tensor) -> Tensor:
        """Return the output before it is clipped to [0, 255]."""
        unclipped: Tensor = self.depth_to_space(self.last(self.body(images)))
        return unclipped


def _add_identity(kernel: Tensor, sources: list[int] | range) -> None:
    """Add to a kernel the copies of these input channels, one for each of the first outputs."""
    for output, source in enumerate(sources):
        kernel[output, source, 1, 1] += 1
