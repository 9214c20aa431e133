"""Model cards: the JSON file beside a `.tflite` that says how the model was made and measured.

A card is read strictly: a missing key or a value of the wrong type is an error. Unknown keys, which
a later version may add, are ignored.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from anchorsr.errors import ModelError
from anchorsr.graph.graph import Graph
from anchorsr.metrics import Score
from anchorsr.utils.files import publish, reason
from anchorsr.utils.strict_json import parse_json, to_json

Value = TypeVar("Value", bound=int | str)


@dataclass(frozen=True)
class ModelCard:
    """What a card says about a model file.

    Attributes:
        model: The model's name, such as `quality_x3`.
        factor: The super-resolution factor.
        size_bytes: The size of the file.
        sha256: The SHA-256 digest of the file, in hexadecimal.
        macs_per_lr_pixel: Multiply-accumulate operations per input pixel.
        parameters: Trained weights and biases.
        receptive_field: Side of the input area that an output pixel depends on; None for a model
            that sees the whole image.
        figures: Scores on test sets: method `float` before quantization, `int8` after.
        runs: The records of the training runs, by name: `float` and, after quantization-aware
            training, `integer`. Each holds the recipe with all defaults, and the history.
    """

    model: str
    factor: int
    size_bytes: int
    sha256: str
    macs_per_lr_pixel: int
    parameters: int
    receptive_field: int | None = None
    figures: tuple[Score, ...] = ()
    runs: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of_file(
        cls, data: bytes, graph: Graph, *, figures: Sequence[Score], runs: Mapping[str, Any]
    ) -> ModelCard:
        """Describe a model file.

        Args:
            data: The bytes of the file.
            graph: Its graph.
            figures: Scores on test sets.
            runs: The records of the training runs, by name.
        """
        return cls(
            model=graph.name,
            factor=graph.factor,
            size_bytes=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
            macs_per_lr_pixel=graph.macs_per_pixel,
            parameters=graph.parameter_count,
            receptive_field=2 * graph.halo + 1 if graph.is_local else None,
            figures=tuple(figures),
            runs=runs,
        )

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> ModelCard:
        """Build a card from its JSON object.

        Raises:
            ModelError: If a key is missing, or a value has the wrong type.
        """
        receptive_field = table.get("receptive_field")
        return cls(
            model=_read(table, "model", str),
            factor=_read(table, "factor", int),
            size_bytes=_read(table, "size_bytes", int),
            sha256=_read(table, "sha256", str),
            macs_per_lr_pixel=_read(table, "macs_per_lr_pixel", int),
            parameters=_read(table, "parameters", int),
            receptive_field=None
            if receptive_field is None
            else _read(table, "receptive_field", int),
            figures=tuple(_read_score(row) for row in _read_list(table, "figures")),
            runs=_check_table(table.get("runs", {}), "runs"),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the card's JSON object; a PSNR may be infinite in it."""
        table = {entry.name: getattr(self, entry.name) for entry in dataclasses.fields(self)}
        return {**table, "figures": [_score_row(score) for score in self.figures]}


def read_card(path: Path) -> ModelCard:
    """Read the card beside a `.tflite` file.

    Args:
        path: The `.tflite` file. It may be missing if its card exists.

    Raises:
        ModelError: If there is no card, or it is damaged or belongs to another file.
    """
    try:
        table = parse_json(path.with_suffix(".json").read_text())
    except OSError as error:
        if not path.exists():
            raise ModelError(f"the model {path} does not exist") from error
        raise ModelError(f"{path} has no card beside it: {reason(error)}") from error
    except ValueError as error:
        raise ModelError(f"the card of {path} is damaged: {reason(error)}") from error
    try:
        card = ModelCard.from_dict(_check_table(table, "it"))
    except ModelError as error:
        raise ModelError(f"the card of {path} is damaged: {error}") from error
    try:
        data = path.read_bytes()
    except OSError:  # the card alone
        return card
    if hashlib.sha256(data).hexdigest() != card.sha256:
        raise ModelError(f"the card beside {path} is that of another file: move it away")
    return card


def write_card(path: Path, card: ModelCard, *, overwrite: bool) -> None:
    """Write a card as JSON, atomically.

    Args:
        path: The `.json` file.
        card: The card. An infinite PSNR is written as null.
        overwrite: Replace an existing file.

    Raises:
        OutputError: If the file exists and `overwrite` is false, or cannot be written.
    """
    data = (to_json(card.to_dict(), indent=1) + "\n").encode()
    publish(data, path, overwrite=overwrite)


def _read(table: Mapping[str, Any], key: str, kind: type[Value]) -> Value:
    if key not in table:
        raise ModelError(f"{key} is missing")
    value = table[key]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ModelError(f"{key} is {kind.__name__}, not {reprlib.repr(value)}")
    return value


def _read_list(table: Mapping[str, Any], key: str) -> Sequence[Any]:
    value = table.get(key, [])
    if not isinstance(value, list):
        raise ModelError(f"{key} is a list, not {reprlib.repr(value)}")
    return value


def _check_table(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ModelError(f"{name} holds no table")
    return value


def _read_score(row: Any) -> Score:
    row = _check_table(row, "an entry of figures")
    return Score(
        method=_read(row, "method", str),
        test_set=_read(row, "test_set", str),
        images=_read(row, "pictures", int),  # the key of every card so far
        psnr_rgb=_read_number(row, "psnr_rgb"),
        psnr_y=_read_number(row, "psnr_y"),
        ssim_y=_read_number(row, "ssim_y"),
        damage=_read(row, "damage", str) if "damage" in row else "clean",
    )


def _read_number(row: Mapping[str, Any], key: str) -> float:
    """Read a float; JSON has no infinity, so null is the PSNR of equal images."""
    if key not in row:
        raise ModelError(f"{key} is missing in figures")
    value = row[key]
    if value is None:
        return math.inf
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ModelError(f"{key} is a number, not {reprlib.repr(value)}")
    try:
        return float(value)
    except OverflowError:
        raise ModelError(f"{key} is out of range") from None


def _score_row(score: Score) -> dict[str, Any]:
    row = dataclasses.asdict(score)
    del row["seconds"], row["macs_per_lr_pixel"]  # those of a card are above, and of no machine
    if score.damage == "clean":
        del row["damage"]  # as cards had it before there were others
    return {"pictures" if key == "images" else key: value for key, value in row.items()}
