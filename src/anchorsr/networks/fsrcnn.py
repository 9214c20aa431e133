"""FSRCNN, "Accelerating the Super-Resolution Convolutional Neural Network" (arXiv 1608.00367).

FSRCNN(d, s, m) with the published d=56, s=12, m=4: a 5×5 convolution to d channels, a 1×1 to s,
m 3×3 convolutions, and a 1×1 back to d, each with PReLU; then a 9×9 transposed convolution to the
image. The paper counts 12,464 parameters for luma: the weights only; with 173 biases and 172 slopes
of PReLU there are 12,809. RGB: 24,336 and 24,683.

Changed: RGB instead of luma, unless `colors` is 1 (the paper upscales Cb and Cr by bicubic
interpolation). A 9×9 kernel cannot be centred on blocks of 2 or 4 pixels; its centre is then on the
last pixel before the middle of the block.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from anchorsr.networks.base import LumaConfig, RecipeNetwork
from anchorsr.networks.layers import Convolution, TransposedConvolution


@dataclass(frozen=True)
class FSRCNNConfig(LumaConfig):
    """The options of FSRCNN. Defaults are as published, on RGB.

    Attributes:
        channels: Width of the features, d.
        shrunk: Width of the mapping, s.
        mapping: The number of 3×3 convolutions of the mapping, m.
    """

    channels: int = 56
    shrunk: int = 12
    mapping: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_at_least(1, "channels", "shrunk")
        self._require_at_least(0, "mapping")


class FSRCNN(RecipeNetwork):
    """FSRCNN: (N, colors, H, W) on [0, 255] to (N, colors, factor · H, factor · W)."""

    def __init__(self, config: FSRCNNConfig) -> None:
        super().__init__(config)
        wide, narrow = config.channels, config.shrunk
        self.body = nn.Sequential(
            Convolution(config.colors, wide, 5),
            nn.PReLU(wide),
            Convolution(wide, narrow, 1),
            nn.PReLU(narrow),
        )
        for _ in range(config.mapping):
            self.body.extend([Convolution(narrow, narrow, 3), nn.PReLU(narrow)])
        self.body.extend([Convolution(narrow, wide, 1), nn.PReLU(wide)])
        self.last = TransposedConvolution(wide, config.colors, 9, config.factor)
        nn.init.normal_(self.last.weight, std=0.001)  # as in the paper; the others are He's

    def forward_unclipped(self, images: Tensor) -> Tensor:
        """Return the output before it is clipped to [0, 255]."""
        unclipped: Tensor = self.last(self.body(images))
        return unclipped
