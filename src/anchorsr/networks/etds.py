"""ETDS, "Equivalent Transformation and Dual Stream Network Construction for Mobile Image SR".

CVPR 2023; the title ends with "Image Super-Resolution". Two streams run through all 3×3
convolutions with ReLU: features, and a copy of the image, which the features read and which does
not read them. Side by side they are the channels of one plain network without any addition. ETDS-S
(M4C32: four convolutions of 32 channels between the first and the last, 3 of them the image's) has
45,691 parameters at ×3. Published are 46.8K: 1,101 more, of an unused channel at the end and of a
1×1 convolution that clips; here the integers clip. ETDS-T is M5C16, ETDS-M M6C32, ETDS-L M7C48.

Left out: the loss on the image's stream alone, and that it is fixed for the first 100,000 steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from anchorsr.errors import RecipeError
from anchorsr.networks.base import NetworkConfig, RecipeNetwork
from anchorsr.networks.layers import BIAS_UNIT, DepthToSpace

_COLORS = 3


@dataclass(frozen=True)
class ETDSConfig(NetworkConfig):
    """The options of ETDS.

    Attributes:
        channels: Width of both streams together, C.
        blocks: Convolutions between the first and the last, M.
        image_channels: Width of the image's stream.
    """

    channels: int = 32
    blocks: int = 4
    image_channels: int = _COLORS

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_at_least(1, "channels", "blocks")
        self._require_at_least(_COLORS, "image_channels")
        if self.channels <= self.image_channels:
            raise RecipeError(
                f"channels is more than image_channels, {self.image_channels}, not {self.channels}"
            )


class DualStreamConvolution(nn.Module):
    """A 3×3 convolution of both streams, the image's channels last; it starts by copying those.

    Args:
        inputs: Input channels.
        outputs: Output channels.
        image_inputs: How many of the input channels are the image's.
        image_outputs: How many of the output channels are; they read the image's only.
    """

    mask: Tensor

    def __init__(self, inputs: int, outputs: int, image_inputs: int, image_outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, 3, 3))
        self.bias = nn.Parameter(torch.zeros(outputs))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)  # PyTorch's default
        mask = torch.ones(outputs, inputs, 1, 1)
        first_in, first_out = inputs - image_inputs, outputs - image_outputs
        mask[first_out:, :first_in] = 0
        self.register_buffer("mask", mask, persistent=False)
        with torch.no_grad():
            self.weight[first_out:] = 0
            if first_in:  # features do not read the image at first
                self.weight[:first_out, first_in:] = 0
            for channel in range(min(image_inputs, image_outputs)):
                self.weight[first_out + channel, first_in + channel, 1, 1] = 1

    def forward(self, features: Tensor) -> Tensor:
        """Convolve both streams, (N, in, H, W) to (N, out, H, W)."""
        kernel = self.weight * self.mask
        return functional.conv2d(features, kernel, self.bias * BIAS_UNIT, padding=1)


class ETDS(RecipeNetwork):
    """ETDS: (N, 3, H, W) on [0, 255] to (N, 3, factor · H, factor · W)."""

    def __init__(self, config: ETDSConfig) -> None:
        super().__init__(config)
        width, own = config.channels, config.image_channels
        packed = _COLORS * config.factor**2
        self.body = nn.Sequential(DualStreamConvolution(_COLORS, width, _COLORS, own), nn.ReLU())
        for _ in range(config.blocks):
            self.body.extend([DualStreamConvolution(width, width, own, own), nn.ReLU()])
        self.last = DualStreamConvolution(width, packed, own, 0)
        with torch.no_grad():  # at first the image, repeated: the nearest pixels
            for place in range(packed):
                self.last.weight[place, width - own + place % _COLORS, 1, 1] = 1
        self.depth_to_space = DepthToSpace(config.factor)

    def forward_unclipped(self, images: Tensor) -> Tensor:
        """Return the output before it is clipped to [0, 255]."""
        unclipped: Tensor = self.depth_to_space(self.last(self.body(images)))
        return unclipped
