"""A training recipe: a TOML file, read into frozen dataclasses that refuse unknown keys.

Relative folders in a recipe are relative to the folder that the command runs in, as they
are in every other path the user gives. A list of one name may be given as the name.
"""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from anchorsr.data.degradation import DegradationRecipe
from anchorsr.errors import RecipeError
from anchorsr.utils.config import parse_table, require

# More than anybody means: patches and images at once, and steps.
_MOST, _MOST_STEPS = 1_000_000, 10**12
Loss: TypeAlias = Literal["l1", "l2", "relative_l2"]  # `losses` tells what they are


@dataclass(frozen=True)
class DataRecipe:
    """Where pairs come from and how patches are cut.

    patch: LR pixels a side; candidates: each patch is the one with the most detail of so many
    (the integers are trained on patches as they come); equal_pictures: images are drawn equally
    often, not in proportion to their size; pairs: folders with `HR/` and `LR/`, which are trained
    on as they are (`data.pairs.load_given_pairs`), with pairs_share of the patches from them.
    """

    folders: tuple[str, ...]
    patch: int = 64
    batch: int = 16
    channel_shuffle: bool = False
    candidates: int = 1
    equal_pictures: bool = False
    pairs: tuple[str, ...] = ()
    pairs_share: float = 0.0

    def __post_init__(self) -> None:
        require(bool(self.folders), "folders names at least one folder")
        require(all(self.folders), "folders: an empty name would stand for all below this folder")
        require(8 <= self.patch <= _MOST, f"patch is from 8 to {_MOST:,}")
        require(1 <= self.batch <= _MOST, f"batch is from 1 to {_MOST:,}")
        require(1 <= self.candidates <= _MOST, f"candidates is from 1 to {_MOST:,}")
        require(all(self.pairs), "pairs: a name is empty")
        require(0 <= self.pairs_share <= 1, "pairs_share is in [0, 1]")
        require(
            bool(self.pairs) == (self.pairs_share > 0),
            "pairs and pairs_share are given together or not at all",
        )


@dataclass(frozen=True)
class OptimizerRecipe:
    """Adam (Kingma & Ba, the paper's) or SOAP (arXiv 2409.11321).

    gradient_clip limits the gradient's norm (0: off); precondition_every is SOAP's.
    """

    name: Literal["adam", "soap"] = "adam"
    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    precondition_every: int = 10
    gradient_clip: float = 0.0

    def __post_init__(self) -> None:
        require(0 < self.learning_rate <= 10, "learning_rate is positive and at most 10")
        require(all(0 <= beta < 1 for beta in self.betas), "betas are in [0, 1)")
        require(self.precondition_every >= 1, "precondition_every is at least 1")
        require(self.gradient_clip >= 0, "gradient_clip is not negative")


@dataclass(frozen=True)
class ScheduleRecipe:
    """Steps in all, linear warm-up, then cosine to zero or a halving every `halve_every`.

    No steps: what a run starts from is its result.
    """

    steps: int
    warmup: int = 0
    decay: Literal["cosine", "halving", "none"] = "cosine"
    halve_every: int = 0

    def __post_init__(self) -> None:
        require(0 <= self.steps <= _MOST_STEPS, f"steps is from 0 to {_MOST_STEPS:,}")
        require(0 <= self.warmup < max(self.steps, 1), "warmup is below steps")
        require(
            (self.decay == "halving") == (self.halve_every > 0),
            "halve_every is given with decay = 'halving' and only then",
        )


@dataclass(frozen=True)
class ValidationRecipe:
    """Test sets whose RGB PSNR (border = factor) is measured every `every` steps."""

    folders: tuple[str, ...] = ()
    every: int = 1000

    def __post_init__(self) -> None:
        require(all(self.folders), "folders: a name is empty")
        require(self.every >= 1, "every is at least 1")


@dataclass(frozen=True)
class QuantizationRecipe:
    """How a trained network becomes integers: calibration, then training of the integers.

    Ranges come from `calibration` training images; equalize: channels are made more alike before
    (`equalize`). Without a schedule nothing is trained after that.
    """

    schedule: ScheduleRecipe | None = None
    optimizer: OptimizerRecipe = field(
        default_factory=lambda: OptimizerRecipe(learning_rate=1e-4, gradient_clip=0.5)
    )
    loss: Loss = "l1"
    calibration: int = 32
    percentile: float = 99.999
    equalize: bool = False

    def __post_init__(self) -> None:
        require(1 <= self.calibration <= _MOST, f"calibration is from 1 to {_MOST:,}")
        require(50 < self.percentile <= 100, "percentile is in (50, 100]")


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a run computes; how fast it runs is decided elsewhere.

    `ema_decay` is that of the exponential moving average of the weights, which are what is
    validated and written (0: off). `luma` is the part of the loss that is of BT.601 luma, the rest
    being of the three colours. `initial_weights` names a run folder, or a `.tflite` with its
    card, whose convolutions are taken over where name and widths agree; of several, their mean.
    `degradation` is what is done to the LR side of patches.
    """

    network: Mapping[str, Any]
    data: DataRecipe
    schedule: ScheduleRecipe
    optimizer: OptimizerRecipe = field(default_factory=OptimizerRecipe)
    quantization: QuantizationRecipe = field(default_factory=QuantizationRecipe)
    validation: ValidationRecipe = field(default_factory=ValidationRecipe)
    loss: Loss = "l1"
    luma: float = 0.0
    ema_decay: float = 0.999
    seed: int = 0
    initial_weights: tuple[str, ...] = ()
    degradation: DegradationRecipe | None = None

    def __post_init__(self) -> None:
        require(0 <= self.luma <= 1, "luma is in [0, 1]")
        require(0 <= self.ema_decay < 1, "ema_decay is in [0, 1)")
        require(0 <= self.seed < 2**63, "seed is in [0, 2^63)")
        require(all(self.initial_weights), "initial_weights: a name is empty")

    def as_table(self) -> dict[str, Any]:
        """Plain nested tables and lists, as JSON gives them back, every default written out."""
        table: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return table


def read_recipe(path: Path) -> Recipe:
    """Read a recipe file. Raises RecipeError with the key that is wrong."""
    try:
        text = path.read_bytes().decode()
        table = tomllib.loads(text)
    except OSError as error:
        raise RecipeError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:  # neither UTF-8 nor TOML, or a number of thousands of digits
        raise RecipeError(f"{path} is not a TOML file: {error}") from error
    try:
        return parse_table(Recipe, table, "")
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from error
