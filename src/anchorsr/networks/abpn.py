"""ABPN, "Anchor-based Plain Net for Mobile Image Super-Resolution" (arXiv 2105.09750).

Published at ×3: a 3×3 convolution 3→28, four 28→28 and one 28→27, each with ReLU, and one 27→27
in image space; the anchor (every input pixel nine times) is added, then depth-to-space(3) and clip.
42,539 parameters, 42,345 multiply-accumulates per input pixel (9.76 G at 640×360), receptive field
15×15. Channels, depth and the image-space convolution are options, because narrower and wider
variants are useful too. So is a skip around the body, the paper's feature-space residual, beside
the anchor: the network learns much faster with it (docs/experiments.md).

Left out: the paper's other residual forms, which are in `residual_form`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

from torch import Tensor, nn

from anchorsr.errors import RecipeError
from anchorsr.networks.base import NetworkConfig, RecipeNetwork
from anchorsr.networks.layers import Anchor, Convolution, DepthToSpace, Modulation
from anchorsr.networks.noise import ActivationNoise
from anchorsr.networks.reparameterized import Conv3x3, LowRankConv3x3


@dataclass(frozen=True)
class ABPNConfig(NetworkConfig):
    """The options of ABPN. Defaults are the published network.

    Attributes:
        channels: Width of the body.
        body: The number of convolutions of that width after the first.
        image_convolution: Whether the last convolution is followed by ReLU and one more in image
            space.
        skip: Whether the output of the first convolution is added to that of the body's last.
        tail_rank: The rank of the last convolution, which is then a 3×3 to that many channels and
            a 1×1; 0 for a single 3×3.
        expansion: Filters of the over-parametrized kernels in training; 0 for plain kernels.
        rounding_noise: Whether training adds noise like that of rounding to the weights, to which
            the network becomes tolerant (`noise.add_rounding_noise`).
        activation_noise: The same for activations (`noise.ActivationNoise`).
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
        self._require_at_least(1, "channels")
        self._require_at_least(0, "body", "tail_rank", "expansion")
        if self.skip and not self.body:
            raise RecipeError("a skip needs a body of at least one convolution")
        if self.tail_rank > 3 * self.factor**2:
            raise RecipeError(
                f"tail_rank is at most 3 · factor² = {3 * self.factor**2}, not {self.tail_rank}"
            )


class ABPN(RecipeNetwork):
    """ABPN: RGB (N, 3, H, W) on [0, 255] to (N, 3, factor · H, factor · W) on [0, 255]."""

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
        # The residual is initialized small (gain 0.1, not tuned): an untrained network is close to
        # nearest-neighbour upscaling.
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
        """Whether the output of the first convolution is added to that of the body's last."""
        return bool(self.config.skip)

    @property
    def convolutions(self) -> list[Conv3x3 | Convolution]:
        """All convolutions in the order in which they run; one of low rank is two."""
        kinds = (Conv3x3, Convolution)
        return [module for module in self.modules() if isinstance(module, kinds)]

    def forward_unclipped(self, images: Tensor) -> Tensor:
        """Return the output before it is clipped to [0, 255]."""
        return self.add_anchor(images, self.residual(images))

    def add_anchor(self, images: Tensor, residual: Tensor) -> Tensor:
        """Return the unclipped output for images and their residual."""
        unpacked: Tensor = self.depth_to_space(residual + self.anchor(images))
        return unpacked

    def residual(self, images: Tensor, modulations: Sequence[Modulation] = ()) -> Tensor:
        """Compute the output of the convolutions, (N, 3 · factor², H, W).

        Args:
            images: (N, 3, H, W) RGB on [0, 255].
            modulations: None, or one for each of `convolutions`.
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
