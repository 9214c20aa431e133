"""EDSR, "Enhanced Deep Residual Networks for Single Image Super-Resolution" (arXiv 1707.02921).

The baseline: a 3×3 convolution to 64 channels, 16 residual blocks of convolution, ReLU and
convolution, and one more convolution, with a skip around the blocks; then convolution and
depth-to-space (twice for ×4), and a convolution to RGB. Published at ×3: 1,555K parameters: the
1,554,499 here and 24 fixed ones, left out here.

Left out: subtracting the mean colour before the network and adding it afterwards, which the biases
of the first and the last convolution can learn.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from anchorsr.networks.base import NetworkConfig, RecipeNetwork
from anchorsr.networks.layers import Convolution, upsampler


@dataclass(frozen=True)
class EDSRConfig(NetworkConfig):
    """The options of EDSR. Defaults are the published baseline.

    Attributes:
        channels: Width of the features.
        blocks: The number of residual blocks.
    """

    channels: int = 64
    blocks: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_at_least(1, "channels", "blocks")


class EDSR(RecipeNetwork):
    """EDSR: RGB (N, 3, H, W) on [0, 255] to (N, 3, factor · H, factor · W) on [0, 255]."""

    def __init__(self, config: EDSRConfig) -> None:
        super().__init__(config)
        width = config.channels
        self.first = Convolution(3, width, 3, gain=0.7)
        self.body = nn.Sequential(*(_Block(width) for _ in range(config.blocks)))
        self.body.append(Convolution(width, width, 3, gain=0.1))
        self.tail = upsampler(width, config.factor, partial(Convolution, size=3, gain=0.7))
        self.tail.append(Convolution(width, 3, 3, gain=0.7))

    def forward_unclipped(self, images: Tensor) -> Tensor:
        """Return the output before it is clipped to [0, 255]."""
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
        output: Tensor = features + self.body(features)
        return output
