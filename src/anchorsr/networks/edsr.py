"""EDSR, "Enhanced Deep Residual Networks for Single Image Super-Resolution" (arXiv 1707.02921).

The baseline: a 3×3 convolution to 64 channels; 16 residual blocks of convolution, ReLU,
convolution, and one more convolution, around all of which the first one's output is added;
then convolution and depth-to-space (twice for ×4), and a convolution to RGB. Published at ×3:
1,555K parameters, which are the 1,554,499 here and 24 that are fixed, below.

What is left out: the fixed subtraction of the mean colour before the network and its addition
after it, which the biases of the first and the last convolution can learn.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from anchorsr.errors import RecipeError
from anchorsr.networks.layers import (
    Convolution,
    DepthToSpace,
    NetworkConfig,
    RecipeNetwork,
    sub_pixel_stages,
)


@dataclass(frozen=True)
class EDSRConfig(NetworkConfig):
    """The shape. Defaults are the published baseline.

    channels: width; blocks: how many residual blocks.
    """

    channels: int = 64
    blocks: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.channels < 1 or self.blocks < 1:
            raise RecipeError("channels and blocks are at least 1")


class EDSR(RecipeNetwork):
    """(N, 3, H, W) float RGB on [0, 255] to (N, 3, factor · H, factor · W), clipped."""

    def __init__(self, config: EDSRConfig) -> None:
        super().__init__(config)
        width = config.channels
        self.first = Convolution(3, width, 3, gain=0.7)
        self.body = nn.Sequential(*(_Block(width) for _ in range(config.blocks)))
        self.body.append(Convolution(width, width, 3, gain=0.1))
        self.tail = nn.Sequential()
        for block in sub_pixel_stages(config.factor):
            self.tail.extend(
                [Convolution(width, width * block**2, 3, gain=0.7), DepthToSpace(block)]
            )
        self.tail.append(Convolution(width, 3, 3, gain=0.7))

    def forward_unclipped(self, images: Tensor) -> Tensor:
        first = self.first(images)
        unclipped: Tensor = self.tail(first + self.body(first))
        return unclipped


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            Convolution(width, width, 3), nn.ReLU(), Convolution(width, width, 3, gain=0.1)
        )

    def forward(self, features: Tensor) -> Tensor:
        made: Tensor = features + self.body(features)
        return made
