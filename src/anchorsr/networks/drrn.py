"""DRRN, "Image Super-Resolution via Deep Recursive Residual Network" (CVPR 2017).

DRRN_B1U25: the image is enlarged first; a 3×3 convolution to 128 channels, then 25 residual
units that all run the same two convolutions and add the first one's output, and a convolution
that makes what is added to the enlarged image. The paper counts 297K parameters for one colour
channel: the 297,216 weights of the kernels, each once, without 385 biases. On RGB: 301,824 and
387. (A graph holds the shared kernels once for every unit that runs them.)

What is changed: the paper's batch normalizations, which its count leaves out too, are left out.
They stand before the ReLU of a sum, where none can be folded into a convolution, and would cost
two operators a unit. The image is enlarged by bilinear instead of bicubic interpolation;
three colours instead of luma unless `colors` says 1.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from anchorsr.errors import RecipeError
from anchorsr.networks.layers import Convolution, Enlarge, LumaConfig, RecipeNetwork


@dataclass(frozen=True)
class DRRNConfig(LumaConfig):
    """The shape. Defaults are the published DRRN_B1U25, on RGB.

    channels: width; units: U, how often the two shared convolutions run.
    """

    channels: int = 128
    units: int = 25

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.channels < 1 or self.units < 1:
            raise RecipeError("channels and units are at least 1")


class DRRN(RecipeNetwork):
    """(N, colors, H, W) float on [0, 255] to (N, colors, factor · H, factor · W), clipped."""

    def __init__(self, config: DRRNConfig) -> None:
        super().__init__(config)
        width = config.channels
        self.enlarge = Enlarge(config.factor, "bilinear")
        self.first = Convolution(config.colors, width, 3)
        # Small at first, as what 25 units add grows with every one of them.
        self.shared = nn.Sequential(
            nn.ReLU(),
            Convolution(width, width, 3),
            nn.ReLU(),
            Convolution(width, width, 3, gain=0.1),
        )
        self.relu = nn.ReLU()
        self.last = Convolution(width, config.colors, 3, gain=0.1)

    def forward_unclipped(self, images: Tensor) -> Tensor:
        enlarged = self.enlarge(images)
        first = features = self.first(enlarged)
        for _ in range(self.config.units):
            features = self.shared(features) + first
        unclipped: Tensor = self.last(self.relu(features)) + enlarged
        return unclipped
