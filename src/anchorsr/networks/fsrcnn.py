"""FSRCNN, "Accelerating the Super-Resolution Convolutional Neural Network" (arXiv 1608.00367).

FSRCNN(d, s, m) as published, with d=56, s=12, m=4: a 5×5 convolution to d channels, 1×1 down
to s, m of 3×3, 1×1 back to d, each with PReLU, and a 9×9 transposed convolution that makes the
image. The paper counts 12,464 parameters for one colour channel: the kernels' weights alone,
without 173 biases and 172 slopes of PReLU, which make 12,809. On RGB: 24,336 and 24,683.

What is changed: three colours instead of luma unless `colors` says 1 (the paper enlarges Cb and
Cr by bicubic interpolation). A kernel of 9 cannot lie evenly on blocks of 2 or 4 pixels; its centre
is then on the last pixel before the block's middle.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from anchorsr.errors import RecipeError
from anchorsr.networks.layers import Convolution, LumaConfig, RecipeNetwork, TransposedConvolution


@dataclass(frozen=True)
class FSRCNNConfig(LumaConfig):
    """The shape. Defaults are the published one, on RGB.

    channels: d, width of the features; shrunk: s, width of the mapping; mapping: m, how many
    3×3 convolutions it has.
    """

    channels: int = 56
    shrunk: int = 12
    mapping: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.channels < 1 or self.shrunk < 1 or self.mapping < 0:
            raise RecipeError("channels and shrunk are at least 1; mapping is not negative")


class FSRCNN(RecipeNetwork):
    """(N, colors, H, W) float on [0, 255] to (N, colors, factor · H, factor · W), clipped."""

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
        nn.init.normal_(self.last.weight, std=0.001)  # the paper's; other kernels are He's

    def forward_unclipped(self, images: Tensor) -> Tensor:
        unclipped: Tensor = self.last(self.body(images))
        return unclipped
