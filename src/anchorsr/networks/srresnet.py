"""SRResNet, the generator of SRGAN (arXiv 1609.04802).

"Photo-Realistic Single Image Super-Resolution Using a Generative Adversarial Network": a 9×9
convolution to 64 channels with PReLU, 16 residual blocks of convolution, batch normalization,
PReLU, convolution and batch normalization, and one more convolution with batch normalization, with
a skip around the blocks; then convolution, depth-to-space and PReLU (twice for ×4), and a 9×9
convolution to RGB. The paper trains at ×4 and gives no count; later papers say 1,543K: the
1,542,528 weights of the kernels. At ×3: 1,579,392, and 1,587,523 parameters in all.

Every batch normalization follows a convolution, so lowering folds it. Features are on the scale of
[0, 1], for which the network was published. PReLU has one slope per channel.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from anchorsr.networks.base import NetworkConfig, RecipeNetwork
from anchorsr.networks.layers import BIAS_UNIT, Convolution, upsampler


@dataclass(frozen=True)
class SRResNetConfig(NetworkConfig):
    """The options of SRResNet. Defaults are as published.

    Attributes:
        channels: Width of the features.
        blocks: The number of residual blocks.
    """

    channels: int = 64
    blocks: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_at_least(1, "channels", "blocks")


class SRResNet(RecipeNetwork):
    """SRResNet: RGB (N, 3, H, W) on [0, 255] to (N, 3, factor · H, factor · W) on [0, 255]."""

    def __init__(self, config: SRResNetConfig) -> None:
        super().__init__(config)
        width = config.channels
        self.first = nn.Sequential(
            Convolution(3, width, 9, gain=0.7, input_unit=BIAS_UNIT, output_unit=1),
            nn.PReLU(width),
        )
        self.body = nn.Sequential(*(_Block(width) for _ in range(config.blocks)))
        self.body.extend([_convolution(width, width), _last_normalization(width)])
        self.tail = upsampler(
            width, config.factor, _convolution, after_shuffle=partial(nn.PReLU, width)
        )
        self.tail.append(Convolution(width, 3, 9, gain=0.1, input_unit=1, output_unit=BIAS_UNIT))

    def forward_unclipped(self, images: Tensor) -> Tensor:
        """Return the output before it is clipped to [0, 255]."""
        first = self.first(images)
        unclipped: Tensor = self.tail(first + self.body(first))
        return unclipped


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _convolution(width, width),
            nn.BatchNorm2d(width),
            nn.PReLU(width),
            _convolution(width, width),
            _last_normalization(width),
        )

    def forward(self, features: Tensor) -> Tensor:
        output: Tensor = features + self.body(features)
        return output


def _convolution(inputs: int, outputs: int) -> Convolution:
    return Convolution(inputs, outputs, 3, input_unit=1, output_unit=1)


def _last_normalization(width: int) -> nn.BatchNorm2d:
    """The last one of a residual, initialized small because 16 residuals are summed."""
    normalization = nn.BatchNorm2d(width)
    nn.init.constant_(normalization.weight, 0.1)
    return normalization
