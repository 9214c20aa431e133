"""PSNR of a float network on the validation sets of a recipe."""

from __future__ import annotations

from pathlib import Path

from anchorsr.data.pairs import load_test_pairs
from anchorsr.errors import DataError, RecipeError
from anchorsr.metrics import psnr
from anchorsr.networks.base import Trainable
from anchorsr.networks.inference import upscale_float
from anchorsr.training.recipe import Recipe
from anchorsr.utils.files import reason


def validate(network: Trainable, recipe: Recipe) -> dict[str, float]:
    """Measure PSNR over RGB in dB, border = factor, on each validation folder, by its name.

    Raises:
        DataError: An image is missing, too small, or does not fit its LR image.
    """
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
    """Check the validation folders before training, not hours into it.

    Raises:
        RecipeError: Two figures would have one name.
        DataError: The first image of a folder cannot be read.
    """
    names = ["step", "loss", *(Path(name).name for name in recipe.validation.folders)]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise RecipeError(f"validation.folders: two figures would have the name {twice[0]}")
    for folder in recipe.validation.folders:
        next(load_test_pairs(Path(folder), factor))
