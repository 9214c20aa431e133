"""The runs that a recipe is initialized from, as recipes: the whole sequence that makes a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from anchorsr.errors import DataError, RecipeError
from anchorsr.training.checkpoint import RECORD
from anchorsr.training.recipe import Recipe, read_recipe

# The last phase of a model that is called by its name, in the order in which they are looked for.
_LAST = ("_mean", "_films", "_wide", "_relative", "")
_FOLDER = Path("recipes")


@dataclass(frozen=True)
class Phase:
    """One run of a sequence.

    Attributes:
        path: Its recipe's file.
        recipe: Its recipe.
        folder: The folder of the run, as the recipes that are initialized from it name it.
    """

    path: Path
    recipe: Recipe
    folder: Path


def find_chain(recipe: Path, folder: Path | None = None) -> list[Phase]:
    """Find the runs that a recipe is initialized from, down to random weights or given files.

    A run `runs/NAME` is made by the recipe `NAME.toml` beside the one that names it.

    Args:
        recipe: A recipe, or a model's name, such as `quality_x3`, for its last phase in `recipes/`.
        folder: The folder of the last run; by default `runs/` and the recipe's name.

    Returns:
        The phases in the order in which they are trained; the recipe itself is the last.

    Raises:
        RecipeError: A recipe is missing or invalid, or a run is initialized from itself.
    """
    recipe = _last_phase(recipe)
    phases: dict[Path, Phase] = {}
    _add(recipe, folder or Path("runs", recipe.stem), phases, [])
    return list(phases.values())


def find_missing_data(phases: Sequence[Phase]) -> dict[Path, str]:
    """Find the folders of images that a sequence needs and that do not exist.

    Args:
        phases: The sequence.

    Returns:
        How each is made: the arguments of `anchorsr data` but for its output.

    Raises:
        DataError: A folder is missing, and no recipe says how it is made.
    """
    missing: dict[Path, str] = {}
    for phase in phases:
        data, validation = phase.recipe.data, phase.recipe.validation
        for name in (*data.folders, *data.pairs, *validation.folders):
            if Path(name).is_dir() or Path(name) in missing:
                continue
            if name not in data.make:
                raise DataError(f"{phase.path} needs the folder {name}, which does not exist")
            missing[Path(name)] = data.make[name]
    return missing


def _last_phase(recipe: Path) -> Path:
    if recipe.suffix or recipe.exists():
        return recipe
    candidates = [_FOLDER / f"{recipe}{ending}.toml" for ending in _LAST]
    for path in candidates:
        if path.exists():
            return path
    raise RecipeError(f"{recipe} is no recipe, and there is no {candidates[0]}")


def _add(path: Path, folder: Path, phases: dict[Path, Phase], waiting: Sequence[Path]) -> None:
    """Add a recipe, after those that it is initialized from."""
    if path in phases:
        return
    if path in waiting:
        raise RecipeError(f"{path} is initialized from itself, through {waiting[-1]}")
    recipe = read_recipe(path)
    for name in recipe.initial_weights:
        before = path.parent / f"{Path(name).name}.toml"
        if before.exists():
            _add(before, Path(name), phases, [*waiting, path])
        elif not Path(name).is_file() and not Path(name, RECORD).is_file():
            raise RecipeError(
                f"{path} is initialized from {name}, which does not exist, and neither does"
                f" {before}"
            )
    phases[path] = Phase(path, recipe, folder)
