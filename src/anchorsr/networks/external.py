"""Networks that are not anchorsr's own: any PyTorch module, as a network that recipes can name."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from anchorsr.errors import RecipeError
from anchorsr.networks.base import NetworkConfig, RecipeNetwork
from anchorsr.utils.config import parse_table, require

# Sides of the images with which a module is tried, over what they may have to be a multiple of.
_HEIGHT, _WIDTH = 7, 9
_MULTIPLES = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True)
class ExternalConfig(NetworkConfig):
    """The options of a module from elsewhere.

    Attributes:
        factor: The super-resolution factor; 0 to measure it.
        maximum: White in the module's input and output: 1, or 255.
        options: The arguments of its class.
    """

    factor: int = 0
    maximum: float = 1.0
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require(self.factor in (0, 2, 3, 4), f"factor is 2, 3 or 4, not {self.factor}")
        require(self.maximum > 0, f"maximum is 1 or 255, not {self.maximum:g}")


class ExternalNetwork(RecipeNetwork):
    """A PyTorch module that upscales RGB images, on [0, 255].

    Images whose sides the module does not take, because it has strides, are padded and cropped.

    Args:
        module: The module: (N, 3, H, W) to (N, 3, factor · H, factor · W), on [0, maximum].
        config: Its options; a factor of 0 is replaced by the measured one.

    Attributes:
        module: The module.
        multiple: What the sides of the module's input are a multiple of.

    Raises:
        RecipeError: It does not upscale such images 2, 3 or 4 times, or not as `config` says.
    """

    def __init__(self, module: nn.Module, config: ExternalConfig) -> None:
        factor, multiple = _measure(module)
        if config.factor not in (0, factor):
            raise RecipeError(
                f"{type(module).__name__} upscales {factor} times, not {config.factor}"
            )
        super().__init__(dataclasses.replace(config, factor=factor))
        self.module = module
        self.multiple = multiple

    def forward_unclipped(self, images: Tensor) -> Tensor:
        """Upscale images, (N, 3, H, W) on [0, 255]."""
        height, width = images.shape[2:]
        below, beside = -height % self.multiple, -width % self.multiple
        if below or beside:
            images = functional.pad(images, (0, beside, 0, below), mode="replicate")
        unit = 255.0 / self.config.maximum
        upscaled: Tensor = self.module(images / unit) * unit
        return upscaled[..., : height * self.factor, : width * self.factor]


def build_external(name: str, table: Mapping[str, Any]) -> ExternalNetwork:
    """Build the network of a recipe whose name is `package.module:Class`.

    Modules are also looked for in the current folder.

    Args:
        name: The name.
        table: The other keys of [network].

    Raises:
        RecipeError: There is no such class, it is no `nn.Module`, it does not take these options,
            or it does not upscale RGB images.
    """
    config = parse_table(ExternalConfig, table, "network")
    network_class = _load_class(name)
    try:
        module = network_class(**config.options)
    except Exception as error:  # the class may raise anything
        raise RecipeError(
            f"[network] {name} cannot be made with the options {dict(config.options)}:"
            f" {type(error).__name__}: {error}"
        ) from error
    return ExternalNetwork(module, config)


def _load_class(name: str) -> type[nn.Module]:
    place, _, attribute = name.partition(":")
    folder = os.getcwd()
    added = folder not in sys.path
    if added:
        sys.path.append(folder)
    try:
        found: Any = import_module(place)
    except Exception as error:  # the module may raise anything
        raise RecipeError(
            f"[network] {place} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    finally:
        if added:
            sys.path.remove(folder)
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise RecipeError(f"[network] {place} has no nn.Module of the name {attribute!r}")
    return found


def _measure(module: nn.Module) -> tuple[int, int]:
    """Return the factor of a module, and what the sides of its images are a multiple of."""
    name = type(module).__name__
    training = module.training
    module.eval()
    parameter = next(module.parameters(), None)
    device = None if parameter is None else parameter.device
    failure = ""
    try:
        for multiple in _MULTIPLES:
            images = torch.full((1, 3, _HEIGHT * multiple, _WIDTH * multiple), 0.5, device=device)
            try:
                with torch.no_grad():
                    shape = tuple(module(images).shape)
            except Exception as error:  # the module may raise anything
                failure = failure or f"{type(error).__name__}: {str(error).splitlines()[0]}"
                continue
            factor = shape[2] // images.shape[2] if len(shape) == 4 else 0
            if shape == (1, 3, *(side * factor for side in images.shape[2:])):
                require(factor in (2, 3, 4), f"{name} upscales {factor} times, not 2, 3 or 4 times")
                return factor, multiple
            failure = failure or f"it makes {shape} of {tuple(images.shape)}"
    finally:
        module.train(training)
    raise RecipeError(
        f"{name} does not take RGB images (N, 3, H, W) and upscale them by a whole number:"
        f" {failure}"
    )
