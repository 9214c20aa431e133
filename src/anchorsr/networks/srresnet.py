"""SRResNet, the generator of "Photo-Realistic Single Image Super-Resolution Using a Generative
Adversarial Network" (arXiv 1609.04802).

A 9×9 convolution to 64 channels with PReLU; 16 residual blocks of convolution, batch
normalization, PReLU, convolution, batch normalization, and one more convolution with batch
normalization, around all of which the first one's output is added; then convolution,
depth-to-space and PReLU (twice for ×4), and a 9×9 convolution to RGB. The paper trains it at ×4
and gives no count; tables of later papers say 1,543K, which are the 1,542,528 weights of its
kernels. At ×3 there are 1,579,392, and 1,587,523 parameters in all.

Batch normalization follows convolutions only, so lowering folds it. Features are on the scale
of [0, 1], for which it was published. PReLU has a slope a channel.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from anchorsr.errors import RecipeError
from anchorsr.networks.layers import (
    BIAS_UNIT,
    Convolution,
    DepthToSpace,
    NetworkConfig,
    RecipeNetwork,
    sub_pixel_stages,
)


@dataclass(frozen=True)
class SRResNetConfig(NetworkConfig):
    """The shape. Defaults are the published one.

    channels: width; blocks: how many residual blocks.
    """

    channels: int = 64
    blocks: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.channels < 1 or self.blocks < 1:
            raise RecipeError("channels and blocks are at least 1")


class SRResNet(RecipeNetwork):
    """(N, 3, H, W) float RGB on [0, 255] to (N, 3, factor · H, factor · W), clipped."""

    def __init__(self, config: SRResNetConfig) -> None:
        super().__init__(config)
        width = config.channels
        self.first = nn.Sequential(
            Convolution(3, width, 9, gain=0.7, input_unit=BIAS_UNIT, output_unit=1),
            nn.PReLU(width),
        )
        self.body = nn.Sequential(*(_Block(width) for _ in range(config.blocks)))
        self.body.extend([_inner(width, width), _last_normalization(width)])
        self.tail = nn.Sequential()
        for block in sub_pixel_stages(config.factor):
            self.tail.extend(
                [_inner(width, width * block**2), DepthToSpace(block), nn.PReLU(width)]
            )
        self.tail.append(Convolution(width, 3, 9, gain=0.1, input_unit=1, output_unit=BIAS_UNIT))

    def forward_unclipped(self, images: Tensor) -> Tensor:
        first = self.first(images)
        unclipped: Tensor = self.tail(first + self.body(first))
        return unclipped


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _inner(width, width),
            nn.BatchNorm2d(width),
            nn.PReLU(width),
            _inner(width, width),
            _last_normalization(width),
        )

    def forward(self, features: Tensor) -> Tensor:
        made: Tensor = features + self.body(features)
        return made


def _inner(inputs: int, outputs: int) -> Convolution:
    return Convolution(inputs, outputs, 3, input_unit=1, output_unit=1)


def _last_normalization(width: int) -> nn.BatchNorm2d:
    """That of a residual, which starts small: 16 of them are added up."""
    normalization = nn.BatchNorm2d(width)
    nn.init.constant_(normalization.weight, 0.1)
    return normalization
