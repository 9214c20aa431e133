"""DRRN, "Image Super-Resolution via Deep Recursive Residual Network" (CVPR 2017).

DRRN_B1U25: the image is upscaled first. A 3×3 convolution to 128 channels is followed by 25
residual units, which share two convolutions and each add the output of the first convolution; one
more convolution computes the residual of the upscaled image. The paper counts 297K parameters for
luma: 297,216 weights, the shared ones once, without 385 biases. RGB: 301,824 and 387. (A graph
repeats the shared kernels in every unit.)

Changed: no batch normalization, which the paper's count leaves out too. It precedes the ReLU of a
sum, so it cannot be folded into a convolution and would cost two operators per unit. Interpolation
is bilinear instead of bicubic. RGB instead of luma, unless `colors` is 1.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from anchorsr.networks.base import LumaConfig, RecipeNetwork
from anchorsr.networks.layers import Convolution, Interpolate


@dataclass(frozen=True)
class DRRNConfig(LumaConfig):
    """The options of DRRN. Defaults are the published DRRN_B1U25, on RGB.

    Attributes:
        channels: Width of the features.
        units: The number of residual units, U.
    """

    channels: int = 128
    units: int = 25

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_at_least(1, "channels", "units")


class DRRN(RecipeNetwork):
    """DRRN: (N, colors, H, W) on [0, 255] to (N, colors, factor · H, factor · W)."""

    def __init__(self, config: DRRNConfig) -> None:
        super().__init__(config)
        width = config.channels
        self.enlarge = Interpolate(config.factor, "bilinear")
        self.first = Convolution(config.colors, width, 3)
        # Initialized small, because the sum grows with each of the 25 units.
        self.shared = nn.Sequential(
            nn.ReLU(),
            Convolution(width, width, 3),
            nn.ReLU(),
            Convolution(width, width, 3, gain=0.1),
        )
        self.relu = nn.ReLU()
        self.last = Convolution(width, config.colors, 3, gain=0.1)

    def forward_unclipped(self, images: Tensor) -> Tensor:
        """Return the output before it is clipped to [0, 255]."""
        upscaled = self.enlarge(images)
        first = features = self.first(upscaled)
        for _ in range(self.config.units):
            features = self.shared(features) + first
        unclipped: Tensor = self.last(self.relu(features)) + upscaled
        return unclipped
