"""The interface of networks and of their options."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor, nn

from anchorsr.errors import RecipeError
from anchorsr.networks.layers import Clip

# Of channels, blocks and the like: several times what any published network has.
_MOST = 4096


class Trainable(nn.Module):
    """A network that the trainer accepts.

    It maps RGB (N, 3, H, W) on [0, 255] to (N, 3, factor · H, factor · W) on [0, 255].

    Attributes:
        factor: The super-resolution factor.
        strengths: Names of the degradation strengths that a conditioned network takes
            (`conditioned_abpn`); none for other networks.
    """

    factor: int
    strengths: tuple[str, ...] = ()

    def forward_unclipped(self, images: Tensor) -> Tensor:
        """Return the output before it is clipped to [0, 255].

        Training uses it because clipping would stop the gradient.
        """
        raise NotImplementedError

    def forward_conditioned(self, images: Tensor, strengths: Tensor) -> Tensor:
        """Return the unclipped output for images of given strengths.

        Args:
            images: (N, 3, H, W) RGB on [0, 255].
            strengths: (N, len(self.strengths)).
        """
        return self.forward_unclipped(images)


@dataclass(frozen=True)
class NetworkConfig:
    """The options that all networks share.

    Attributes:
        factor: The super-resolution factor: 2, 3 or 4.
    """

    factor: int = 3

    def __post_init__(self) -> None:
        if self.factor not in (2, 3, 4):
            raise RecipeError(f"factor is 2, 3 or 4, not {self.factor}")
        for entry in fields(self):
            value = getattr(self, entry.name)
            for number in value if isinstance(value, tuple) else (value,):
                if isinstance(number, int) and number > _MOST:
                    raise RecipeError(f"{entry.name} is at most {_MOST}, not {number}")

    def _require_at_least(self, least: int, *names: str) -> None:
        """Raise RecipeError if one of the named options is smaller than `least`."""
        for name in names:
            value = getattr(self, name)
            if value < least:
                raise RecipeError(f"{name} is at least {least}, not {value}")


@dataclass(frozen=True)
class LumaConfig(NetworkConfig):
    """The options of networks that were published for luma only.

    Attributes:
        colors: The number of colour channels: 3 for RGB, or 1 as published.
    """

    colors: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.colors not in (1, 3):
            raise RecipeError(f"colors is 1 or 3, not {self.colors}")


class RecipeNetwork(Trainable):
    """A network that a recipe can name; its output is clipped to [0, 255].

    Attributes:
        config: The options, an instance of the network's own config class.
    """

    config: Any

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.factor = config.factor
        self.clip = Clip()

    def forward(self, images: Tensor) -> Tensor:
        """Upscale images; see the class for the tensor contract."""
        clipped: Tensor = self.clip(self.forward_unclipped(images))
        return clipped
