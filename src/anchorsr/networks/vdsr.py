"""VDSR, "Accurate Image Super-Resolution Using Very Deep Convolutional Networks" (arXiv
1511.04587).

The image is enlarged first; twenty 3×3 convolutions of 64 channels, ReLU between them, make
what is added to it. Tables of later papers count 665K parameters for one colour channel: the
664,704 weights of the kernels, without 1,217 biases. On RGB: 667,008 and 1,219.

What is changed: the image is enlarged by bilinear interpolation, because no runtime for phones
has the paper's bicubic; three colours instead of luma unless `colors` says 1.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from anchorsr.errors import RecipeError
from anchorsr.networks.layers import Convolution, Enlarge, LumaConfig, RecipeNetwork


@dataclass(frozen=True)
class VDSRConfig(LumaConfig):
    """The shape. Defaults are the published one, on RGB.

    channels: width; depth: convolutions in all.
    """

    channels: int = 64
    depth: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.channels < 1 or self.depth < 2:
            raise RecipeError("channels is at least 1 and depth at least 2")


class VDSR(RecipeNetwork):
    """(N, colors, H, W) float on [0, 255] to (N, colors, factor · H, factor · W), clipped."""

    def __init__(self, config: VDSRConfig) -> None:
        super().__init__(config)
        width = config.channels
        self.enlarge = Enlarge(config.factor, "bilinear")
        self.body = nn.Sequential(Convolution(config.colors, width, 3), nn.ReLU())
        for _ in range(config.depth - 2):
            self.body.extend([Convolution(width, width, 3), nn.ReLU()])
        # The residual starts small: an untrained network is close to bilinear interpolation.
        self.body.append(Convolution(width, config.colors, 3, gain=0.1))

    def forward_unclipped(self, images: Tensor) -> Tensor:
        enlarged = self.enlarge(images)
        unclipped: Tensor = enlarged + self.body(enlarged)
        return unclipped
