"""The residual forms that ABPN's paper compares (arXiv 2105.09750, section 3.2), on its own body.

none              the image is what the convolutions make
feature_space     the first convolution's output is added to the last one's of the body (FSRL)
nearest, bilinear the image is enlarged in that way and added after depth-to-space (ISRL)
anchor            every input pixel is added to the block that it becomes, before
                  depth-to-space: ABPN itself (ABRL)

All have the same convolutions. What is left out: the paper does not say between which layers
its feature-space form adds; here it is around all of the body.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from anchorsr.errors import RecipeError
from anchorsr.networks.abpn import ABPN, ABPNConfig
from anchorsr.networks.layers import Enlarge

Form = Literal["none", "feature_space", "nearest", "bilinear", "anchor"]


@dataclass(frozen=True)
class ResidualFormConfig(ABPNConfig):
    """ABPN's shape, and which residual is added; with clip=False values leave [0, 255]."""

    form: Form = "anchor"
    clip: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.skip:
            raise RecipeError("a skip is the form 'feature_space': leave skip out")
        if self.form == "feature_space" and not self.body:
            raise RecipeError("a skip is around at least one body convolution")


class ResidualForm(ABPN):
    """(N, 3, H, W) float RGB on [0, 255] to (N, 3, factor · H, factor · W)."""

    def __init__(self, config: ResidualFormConfig) -> None:
        super().__init__(config)
        self.config: ResidualFormConfig = config
        if config.form in ("nearest", "bilinear"):
            self.enlarge: nn.Module = Enlarge(config.factor, config.form)

    @property
    def has_skip(self) -> bool:
        return self.config.form == "feature_space"

    def forward(self, images: Tensor) -> Tensor:
        unclipped = self.forward_unclipped(images)
        return self.clip(unclipped) if self.config.clip else unclipped

    def forward_unclipped(self, images: Tensor) -> Tensor:
        form = self.config.form
        packed = self.residual(images)
        if form == "anchor":
            packed = packed + self.anchor(images)
        unpacked: Tensor = self.depth_to_space(packed)
        if form in ("nearest", "bilinear"):
            unpacked = unpacked + self.enlarge(images)
        return unpacked
