"""A float network on images: what it makes of one, and its PSNR on the validation sets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from anchorsr.data.pairs import load_test_pairs
from anchorsr.errors import DataError, RecipeError
from anchorsr.metrics import psnr
from anchorsr.networks.layers import Trainable
from anchorsr.training.recipe import Recipe
from anchorsr.utils.files import reason


def to_tensor(images: npt.NDArray[np.uint8], device: str) -> Tensor:
    """(N, H, W, C) uint8 to (N, C, H, W) float32 in channels-last memory."""
    return torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float()


def upscale_float(network: nn.Module, lr: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """(H, W, 3) uint8 through a float network, rounded half to even to uint8."""
    device = next(network.parameters()).device
    with torch.no_grad():
        output = network(to_tensor(lr[None], str(device)))[0]
    return np.asarray(output.clamp(0, 255).round().byte().permute(1, 2, 0).cpu().numpy())


def validate(network: Trainable, recipe: Recipe) -> dict[str, float]:
    """PSNR over RGB of a network on each validation folder, by its name. Raises DataError."""
    factor = network.factor
    result = {}
    for name in recipe.validation.folders:
        values = []
        for pair in load_test_pairs(Path(name), factor):
            try:
                sr = upscale_float(network, pair.lr)
                values.append(psnr(sr, pair.hr, border=factor))
            except ValueError as error:
                raise DataError(f"{pair.name} in {name}: {reason(error)}") from error
        result[Path(name).name] = round(sum(values) / len(values), 4)
    return result


def check_validation(recipe: Recipe, factor: int) -> None:
    """What is wrong with the validation folders is told now, not hours later."""
    names = ["step", "loss", *(Path(name).name for name in recipe.validation.folders)]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise RecipeError(f"validation.folders: two figures would be named {twice[0]}")
    for folder in recipe.validation.folders:
        next(load_test_pairs(Path(folder), factor))
