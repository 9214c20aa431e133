"""The residual forms that ABPN's paper compares (arXiv 2105.09750, section 3.2), with its body.

none              the convolutions compute the image itself
feature_space     the output of the first convolution is added to that of the body's last (FSRL)
nearest, bilinear the image is upscaled by this interpolation and added after depth-to-space (ISRL)
anchor            every input pixel is added to the block that it becomes, before
                  depth-to-space: ABPN itself (ABRL)

All have the same convolutions. The paper does not say between which layers its feature-space form
adds; here, it is around the whole body.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from anchorsr.errors import RecipeError
from anchorsr.networks.abpn import ABPN, ABPNConfig
from anchorsr.networks.layers import Interpolate

Form = Literal["none", "feature_space", "nearest", "bilinear", "anchor"]


@dataclass(frozen=True)
class ResidualFormConfig(ABPNConfig):
    """The options of ABPN, and which residual is added.

    Attributes:
        form: The residual form; see the module.
        clip: Whether the output is clipped to [0, 255].
    """

    form: Form = "anchor"
    clip: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.skip:
            raise RecipeError("skip is not an option here: use form = 'feature_space'")
        if self.form == "feature_space" and not self.body:
            raise RecipeError("a skip needs a body of at least one convolution")


class ResidualForm(ABPN):
    """ABPN with another residual: RGB (N, 3, H, W) to (N, 3, factor · H, factor · W)."""

    def __init__(self, config: ResidualFormConfig) -> None:
        super().__init__(config)
        self.config: ResidualFormConfig = config
        if config.form in ("nearest", "bilinear"):
            self.enlarge: nn.Module = Interpolate(config.factor, config.form)

    @property
    def has_skip(self) -> bool:
        """Whether the output of the first convolution is added to that of the body's last."""
        return self.config.form == "feature_space"

    def forward(self, images: Tensor) -> Tensor:
        """Upscale images; the output is clipped to [0, 255] if the config says so."""
        unclipped = self.forward_unclipped(images)
        return self.clip(unclipped) if self.config.clip else unclipped

    def forward_unclipped(self, images: Tensor) -> Tensor:
        """Return the output before it is clipped to [0, 255]."""
        form = self.config.form
        packed = self.residual(images)
        if form == "anchor":
            packed = packed + self.anchor(images)
        unpacked: Tensor = self.depth_to_space(packed)
        if form in ("nearest", "bilinear"):
            unpacked = unpacked + self.enlarge(images)
        return unpacked
