"""ABPN, "Anchor-based Plain Net for Mobile Image Super-Resolution" (arXiv 2105.09750).

Published at ×3: a 3×3 convolution 3→28 and four 28→28, one 28→27, each with ReLU, one 27→27
in image space; the anchor (every input pixel nine times) is added, depth-to-space(3), clip.
42,539 parameters, 42,345 multiplications per input pixel (9.76 G at 360×640),
receptive field 15×15. Channels, depth and the image-space convolution are options,
because narrower and wider relatives are of use too. So is a skip around the body, the paper's
feature-space residual beside the anchor: it learns much faster (docs/experiments.md).

What is left out: the paper's other residual forms, which are studies and not this network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

from torch import Tensor, nn

from anchorsr.errors import RecipeError
from anchorsr.networks.activation_noise import ActivationNoise
from anchorsr.networks.layers import (
    Anchor,
    Conv3x3,
    Convolution,
    DepthToSpace,
    LowRankConv3x3,
    Modulation,
    NetworkConfig,
    RecipeNetwork,
)


@dataclass(frozen=True)
class ABPNConfig(NetworkConfig):
    """The shape. Defaults are the published network.

    channels: width of the body; body: convolutions of that width after the first;
    image_convolution: the last convolution is followed by ReLU and one more in image space;
    skip: the first convolution's output is added to that of the body's last;
    tail_rank: the last convolution is 3×3 to that many channels and 1×1 (0: one 3×3);
    expansion: filters of the over-parametrized kernels while training (0: plain kernels);
    rounding_noise: weights bear being rounded to integers better (`layers.Conv3x3`);
    activation_noise: so do activations (`activation_noise.ActivationNoise`).
    """

    channels: int = 28
    body: int = 4
    image_convolution: bool = True
    skip: bool = False
    tail_rank: int = 0
    expansion: int = 128
    rounding_noise: bool = False
    activation_noise: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.channels < 1 or min(self.body, self.tail_rank, self.expansion) < 0:
            raise RecipeError(
                "channels is at least 1; body, tail_rank and expansion are not negative"
            )
        if self.skip and not self.body:
            raise RecipeError("a skip is around at least one body convolution")
        if self.tail_rank > 3 * self.factor**2:
            raise RecipeError(
                f"tail_rank is at most 3 · factor² = {3 * self.factor**2}, not {self.tail_rank}"
            )


class ABPN(RecipeNetwork):
    """(N, 3, H, W) float RGB on [0, 255] to (N, 3, factor · H, factor · W), clipped."""

    def __init__(self, config: ABPNConfig) -> None:
        super().__init__(config)
        packed = 3 * config.factor**2
        widths = [3, *[config.channels] * (config.body + 1)]
        if config.image_convolution:
            widths.append(packed)
        convolution = partial(
            Conv3x3, expansion=config.expansion, rounding_noise=config.rounding_noise
        )
        self.body = nn.ModuleList(
            convolution(inputs, outputs) for inputs, outputs in pairwise(widths)
        )
        # The residual starts small (a tenth, a guess that was not tuned): an untrained network
        # is close to nearest-neighbour interpolation.
        self.last: nn.Module
        if config.tail_rank:
            self.last = LowRankConv3x3(
                widths[-1],
                packed,
                config.tail_rank,
                expansion=config.expansion,
                gain=0.1,
                rounding_noise=config.rounding_noise,
                activation_noise=config.activation_noise,
            )
        else:
            self.last = convolution(widths[-1], packed, gain=0.1)
        self.relu = nn.ReLU()
        noise = ActivationNoise if config.activation_noise else nn.Identity
        self.noise, self.first_noise = noise(), noise()
        self.anchor = Anchor(config.factor)
        self.depth_to_space = DepthToSpace(config.factor)

    @property
    def has_skip(self) -> bool:
        """Whether the first convolution's output is added to that of the body's last."""
        return bool(self.config.skip)

    @property
    def convolutions(self) -> list[Conv3x3 | Convolution]:
        """All in the order in which they run; one of low rank is two."""
        kinds = (Conv3x3, Convolution)
        return [module for module in self.modules() if isinstance(module, kinds)]

    def forward_unclipped(self, images: Tensor) -> Tensor:
        """The output before the clip, which would stop gradients in training."""
        return self.add_anchor(images, self.residual(images))

    def add_anchor(self, images: Tensor, residual: Tensor) -> Tensor:
        """The output of images and of what the convolutions made of them."""
        unpacked: Tensor = self.depth_to_space(residual + self.anchor(images))
        return unpacked

    def residual(self, images: Tensor, modulations: Sequence[Modulation] = ()) -> Tensor:
        """What the convolutions make, (N, 3 · factor², H, W).

        modulations: none, or one for each of `convolutions`.
        """
        given = iter(modulations)
        first = features = self.first_noise(self.relu(self.body[0](images, next(given, None))))
        for index, convolution in enumerate(self.body[1:], 1):
            features = self.relu(convolution(features, next(given, None)))
            if self.has_skip and index == self.config.body:
                features = features + first
                if self.training and isinstance(self.first_noise, ActivationNoise):
                    self.first_noise.share_scale_with(features)
            features = self.noise(features)
        packed: Tensor = self.last(features, *given)
        return packed
