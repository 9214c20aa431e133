"""The pairs that a recipe names, and the sampler that cuts patches from them as it says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from anchorsr.data.pairs import Pair, load_given_pairs, load_training_pairs
from anchorsr.data.patches import PatchSampler
from anchorsr.data.strengths import STRENGTHS
from anchorsr.errors import RecipeError
from anchorsr.networks.base import Trainable
from anchorsr.training.recipe import Recipe


def load_pairs(
    recipe: Recipe, factor: int, on_loading: Callable[[int, int], None] | None = None
) -> tuple[list[Pair], list[Pair]]:
    """Load the pairs that a recipe reduces itself, and those that it is given.

    Raises:
        DataError: A folder has no images, or none is large enough.
    """
    patch = recipe.data.patch
    folders = [Path(name) for name in recipe.data.folders]
    pairs = load_training_pairs(folders, factor, patch=patch, on_progress=on_loading)
    given_folders = [Path(name) for name in recipe.data.pairs]
    return pairs, load_given_pairs(given_folders, factor, patch=patch)


def make_sampler(recipe: Recipe, pairs: list[Pair], given: list[Pair]) -> PatchSampler:
    """Return the sampler of a recipe over what `load_pairs` has loaded."""
    return PatchSampler(
        pairs,
        patch=recipe.data.patch,
        seed=recipe.seed,
        channel_shuffle=recipe.data.channel_shuffle,
        candidates=recipe.data.candidates,
        equal_pictures=recipe.data.equal_pictures,
        relative=recipe.loss == "relative_l2",
        degradation=recipe.degradation,
        given=given,
        given_share=recipe.data.pairs_share,
    )


def check_strengths(network: Trainable, recipe: Recipe) -> None:
    """Refuse a recipe whose network is told what no patch has been through.

    Raises:
        RecipeError: The network asks for a strength that there is not, or for any where patches
            are neither degraded nor given; or it trains integers for one strength.
    """
    unknown = sorted(set(network.strengths) - set(STRENGTHS))
    if unknown:
        raise RecipeError(
            f"network.strengths: there is no {unknown[0]}; there are: {', '.join(STRENGTHS)}"
        )
    if network.strengths and recipe.quantization.schedule is not None:
        raise RecipeError(
            "quantization.schedule: integers of a network that is told strengths are not trained,"
            " because all strengths share them"
        )
    if network.strengths and recipe.degradation is None and not recipe.data.pairs:
        raise RecipeError(
            "network.strengths tells nothing without [degradation] or data.pairs: all are zero"
        )
