"""VDSR, a very deep network (arXiv 1511.04587).

"Accurate Image Super-Resolution Using Very Deep Convolutional Networks": the image is upscaled
first; twenty 3×3 convolutions of 64 channels with ReLU between them compute its residual. Later
papers count 665K parameters for luma: 664,704 weights, without 1,217 biases. RGB: 667,008 and
1,219.

Changed: interpolation is bilinear, because no runtime for phones has the paper's bicubic. RGB
instead of luma, unless `colors` is 1.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from anchorsr.networks.base import LumaConfig, RecipeNetwork
from anchorsr.networks.layers import Convolution, Interpolate


@dataclass(frozen=True)
class VDSRConfig(LumaConfig):
    """The options of VDSR. Defaults are as published, on RGB.

    Attributes:
        channels: Width of the features.
        depth: The number of convolutions.
    """

    channels: int = 64
    depth: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_at_least(1, "channels")
        self._require_at_least(2, "depth")


class VDSR(RecipeNetwork):
    """VDSR: (N, colors, H, W) on [0, 255] to (N, colors, factor · H, factor · W)."""

    def __init__(self, config: VDSRConfig) -> None:
        super().__init__(config)
        width = config.channels
        self.enlarge = Interpolate(config.factor, "bilinear")
        self.body = nn.Sequential(Convolution(config.colors, width, 3), nn.ReLU())
        for _ in range(config.depth - 2):
            self.body.extend([Convolution(width, width, 3), nn.ReLU()])
        # The residual is initialized small: an untrained network is close to bilinear upscaling.
        self.body.append(Convolution(width, config.colors, 3, gain=0.1))

    def forward_unclipped(self, images: Tensor) -> Tensor:
        """Return the output before it is clipped to [0, 255]."""
        upscaled = self.enlarge(images)
        unclipped: Tensor = upscaled + self.body(upscaled)
        return unclipped
