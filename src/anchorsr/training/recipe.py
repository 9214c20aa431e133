"""Training recipes: TOML files, read into frozen dataclasses that refuse unknown keys.

Relative paths in a recipe are relative to the current folder, as on the command line. A list of
one name may be written as the name.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from anchorsr.data.degradation import DegradationRecipe
from anchorsr.errors import RecipeError
from anchorsr.utils.config import parse_table, require
from anchorsr.utils.files import cannot_read, reason
from anchorsr.utils.strict_json import check_depth

# Upper limits of patches and images, and of steps: a larger number is a typing error.
_MOST, _MOST_STEPS = 1_000_000, 10**12
Loss: TypeAlias = Literal["l1", "l2", "relative_l2"]  # see `losses`


@dataclass(frozen=True)
class DataRecipe:
    """Where pairs come from and how patches are cut.

    Attributes:
        folders: Folders of HR images, searched recursively.
        patch: LR pixels a side.
        batch: Patches per step.
        channel_shuffle: Whether to permute the colour channels of patches at random.
        candidates: Of this many random patches the one with the most detail is taken.
            Quantization-aware training ignores it.
        equal_pictures: Whether images are drawn equally often, not in proportion to their size.
        pairs: Folders with `HR/` and `LR/` images that are used as they are
            (`data.pairs.load_given_pairs`).
        pairs_share: Fraction of the patches that is cut from those.
        make: How folders of those above are made: the arguments of `anchorsr data`, without its
            output, by folder.
    """

    folders: tuple[str, ...]
    patch: int = 64
    batch: int = 16
    channel_shuffle: bool = False
    candidates: int = 1
    equal_pictures: bool = False
    pairs: tuple[str, ...] = ()
    pairs_share: float = 0.0
    make: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require(bool(self.folders), "folders names at least one folder")
        require(all(self.folders), "folders: an empty name would mean the current folder")
        require(8 <= self.patch <= _MOST, f"patch is from 8 to {_MOST:,}")
        require(1 <= self.batch <= _MOST, f"batch is from 1 to {_MOST:,}")
        require(1 <= self.candidates <= _MOST, f"candidates is from 1 to {_MOST:,}")
        require(all(self.pairs), "pairs: a name is empty")
        require(0 <= self.pairs_share <= 1, "pairs_share is in [0, 1]")
        require(
            bool(self.pairs) == (self.pairs_share > 0),
            "pairs and pairs_share are given together or not at all",
        )
        for folder, arguments in self.make.items():
            require(folder in self.folders + self.pairs, f"make: {folder} is not used")
            require(isinstance(arguments, str), f"make: {folder} is made by arguments in quotes")
            try:
                shlex.split(arguments)
            except ValueError as error:
                raise RecipeError(f"make: {folder}: {reason(error)}: {arguments}") from error


@dataclass(frozen=True)
class OptimizerRecipe:
    """Adam (arXiv 1412.6980, as in the ABPN paper) or SOAP (arXiv 2409.11321).

    Attributes:
        name: Which of them.
        learning_rate: The peak of the schedule.
        betas: Decay of the moving averages of the gradient and its square.
        precondition_every: Steps between updates of SOAP's preconditioner.
        gradient_clip: Limit of the gradient's norm; 0 for none.
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
    """Number of steps and learning rate schedule.

    Attributes:
        steps: Steps in all; with 0 the initial weights are the result.
        warmup: Steps of linear warm-up.
        decay: Cosine to zero, halving every `halve_every` steps, or none.
        halve_every: Steps between two halvings.
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
    """Test sets whose PSNR over RGB (border = factor) is measured during training.

    Attributes:
        folders: See `data.pairs.load_test_pairs`.
        every: Steps between two validations.
    """

    folders: tuple[str, ...] = ()
    every: int = 1000

    def __post_init__(self) -> None:
        require(all(self.folders), "folders: a name is empty")
        require(self.every >= 1, "every is at least 1")


@dataclass(frozen=True)
class QuantizationRecipe:
    """How a trained network is quantized: calibration, then quantization-aware training (QAT).

    Attributes:
        schedule: That of QAT; None for post-training quantization only.
        optimizer: That of QAT.
        loss: That of QAT.
        calibration: Number of training images on which activation ranges are measured.
        percentile: How much of an activation's values its range covers, in percent.
        equalize: Whether channels are equalized first (`quantization.equalize`).
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
    """Everything that decides what a run computes; `machine.Machine` decides how fast.

    Attributes:
        network: Name and options of the network (`networks.registry`); the name alone in a file
            stands for a network with its defaults.
        data: Training images.
        schedule: Steps and learning rate.
        optimizer: That of float training.
        quantization: How the trained network is quantized.
        validation: What is measured during training.
        loss: See `losses`.
        luma: Fraction of the loss that is on BT.601 luma; the rest is on RGB.
        ema_decay: Decay of the exponential moving average (EMA) of the weights, which is what is
            validated and written; 0 for none.
        seed: Seed of all random numbers.
        initial_weights: Folders of runs, or one `.tflite` with its card. The convolutions of the
            same name and widths are taken over; of several runs their mean.
        degradation: How the LR side of patches is degraded; None for not at all.
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
        """Convert to nested tables and lists, as JSON has them, with all defaults."""
        table: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return table


def read_recipe(path: Path) -> Recipe:
    """Read a recipe file.

    Raises:
        RecipeError: It cannot be read, or a key is unknown, missing or has an invalid value.
    """
    try:
        text = path.read_bytes().decode()
        table = tomllib.loads(text)
        check_depth(table)
    except OSError as error:
        raise RecipeError(f"{path} {cannot_read(error)}") from error
    except RecursionError:
        raise RecipeError(f"{path} is nested too deeply") from None
    except ValueError as error:  # neither UTF-8 nor TOML, or a number of thousands of digits
        raise RecipeError(f"{path} is not a TOML file: {reason(error)}") from error
    if isinstance(table.get("network"), str):
        table["network"] = {"name": table["network"]}
    try:
        return parse_table(Recipe, table, "")
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from error
