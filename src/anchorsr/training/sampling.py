"""The training data of a recipe: its images, and the sampler of its patches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from anchorsr.data.pairs import Pair, fingerprint, load_given_pairs, load_training_pairs
from anchorsr.data.patches import PatchSampler
from anchorsr.data.strengths import STRENGTHS
from anchorsr.errors import DataError, RecipeError, unknown_choice
from anchorsr.networks.base import Trainable
from anchorsr.training.recipe import Recipe


@dataclass(frozen=True)
class TrainingData:
    """The training images of a recipe, in memory.

    Attributes:
        pairs: Those of `data.folders`.
        sampler: Cuts patches from all images.
        fingerprint: Number, size and CRC-32 of all images (`data.pairs.fingerprint`).
    """

    pairs: list[Pair]
    sampler: PatchSampler
    fingerprint: dict[str, int]


def load_training_data(
    recipe: Recipe, factor: int, on_loading: Callable[[int, int], None] | None = None
) -> TrainingData:
    """Load the training images of a recipe.

    Args:
        recipe: The recipe.
        factor: The super-resolution factor.
        on_loading: Called with (images read, images in all) while `data.folders` are read.

    Raises:
        DataError: A folder is missing or has no images, none is large enough, or given pairs do
            not fit.
    """
    for name, arguments in recipe.data.make.items():
        if not Path(name).is_dir():
            raise DataError(how_to_make(name, arguments))
    patch = recipe.data.patch
    folders = [Path(name) for name in recipe.data.folders]
    pairs = load_training_pairs(folders, factor, patch=patch, on_progress=on_loading)
    given_folders = [Path(name) for name in recipe.data.pairs]
    given = load_given_pairs(given_folders, factor, patch=patch)
    sampler = PatchSampler(
        pairs,
        patch=patch,
        seed=recipe.seed,
        channel_shuffle=recipe.data.channel_shuffle,
        candidates=recipe.data.candidates,
        equal_pictures=recipe.data.equal_pictures,
        relative=recipe.loss == "relative_l2",
        degradation=recipe.degradation,
        given=given,
        given_share=recipe.data.pairs_share,
    )
    return TrainingData(pairs, sampler, fingerprint([*pairs, *given]))


def how_to_make(folder: str, arguments: str) -> str:
    """Say that a folder of images is missing, and which command makes it."""
    return f"{folder} does not exist: anchorsr data {arguments} -o {folder} makes it"


def check_strengths(network: Trainable, recipe: Recipe) -> None:
    """Check that the strengths of a conditioned network fit its recipe.

    Raises:
        RecipeError: A strength is unknown, or no patch is degraded or given.
    """
    unknown = sorted(set(network.strengths) - set(STRENGTHS))
    if unknown:
        raise RecipeError(f"network.strengths: {unknown_choice('strength', unknown[0], STRENGTHS)}")
    if network.strengths and recipe.degradation is None and not recipe.data.pairs:
        raise RecipeError(
            "network.strengths has no effect without [degradation] or data.pairs: all are zero"
        )
