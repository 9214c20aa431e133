"""The shipped networks: `<name>_x<factor>.tflite`, each with its card, a JSON file beside it.

A card says how the file came to be: the recipe with every default, the data, the hours, the
figures in float and in integers, its size and its SHA-256.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anchorsr.errors import AnchorSRError, ModelError
from anchorsr.graph.graph import Graph
from anchorsr.serialization.tflite.reader import read_tflite
from anchorsr.utils.files import publish, reason
from anchorsr.utils.strict_json import to_json

DEFAULT = "quality"
DEFAULT_FACTOR = 3
_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Model:
    """A shipped network: `path` is its `.tflite`, `card` what its JSON file says."""

    name: str
    factor: int
    path: Path
    card: dict[str, Any]


def list_models() -> list[Model]:
    """All shipped networks, by name and factor."""
    models = []
    for path in sorted(_FOLDER.glob("*.tflite")):
        name, _, factor = path.stem.rpartition("_x")
        models.append(Model(name, int(factor), path, read_card(path)))
    return models


def model_path(model: str | Path, factor: int | None = None) -> Path:
    """The `.tflite` that a shipped network's name (`abpn`, `abpn_x3`) or a path stands for.

    factor: 3 for a name that does not say it, unless it is given.
    Raises ModelError that lists what there is.
    """
    if isinstance(model, Path) or Path(model).suffix.lower() == ".tflite":
        return Path(model)
    shipped = list_models()
    for entry in shipped:
        whole_name = model == entry.path.stem and factor in (None, entry.factor)
        if whole_name or (entry.name, entry.factor) == (model, factor or DEFAULT_FACTOR):
            return entry.path
        if model == entry.path.stem:
            raise ModelError(f"{model} enlarges {entry.factor} times, not {factor}")
    there = ", ".join(entry.path.stem for entry in shipped)
    raise ModelError(
        f"no model {model!r} for factor {factor or DEFAULT_FACTOR}; there are: {there}"
    )


def read_model(path: Path) -> tuple[bytes, Graph]:
    """The bytes and the graph of a `.tflite` file of ours. Raises ModelError or GraphError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"the model {path} cannot be read: {reason(error)}") from error
    try:
        return data, read_tflite(data, name=path.stem)
    except AnchorSRError as error:
        raise type(error)(f"{path}: {error}") from error


def read_card(path: Path) -> dict[str, Any]:
    """The card beside a `.tflite` file. Raises ModelError where there is none, or another's."""
    try:
        card = json.loads(path.with_suffix(".json").read_text())
    except OSError as error:
        if not path.exists():
            raise ModelError(f"the model {path} does not exist") from error
        raise ModelError(f"{path} has no card beside it: {reason(error)}") from error
    except ValueError as error:
        raise ModelError(f"the card of {path} is damaged: {reason(error)}") from error
    if not isinstance(card, dict):
        raise ModelError(f"the card of {path} is damaged: it holds no table")
    digest = card.get("sha256")
    try:
        same = hashlib.sha256(path.read_bytes()).hexdigest() == digest
    except OSError:  # the card alone
        return card
    if digest and not same:
        raise ModelError(f"the card beside {path} is that of another file: move it away")
    return card


def write_card(
    path: Path,
    data: bytes,
    graph: Graph,
    *,
    figures: list[dict[str, Any]],
    runs: dict[str, Any],
    overwrite: bool,
) -> None:
    """Write the card of a model file's bytes.

    figures: scores on test sets, in float and in integers; runs: the records of the training
    runs that made it, by name.
    """
    card = {
        "model": graph.name,
        "factor": graph.factor,
        "size_bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "macs_per_lr_pixel": graph.macs_per_pixel,
        "parameters": graph.parameter_count,
        "receptive_field": 2 * graph.halo + 1 if graph.is_local else None,
        "figures": figures,
        "runs": runs,
    }
    publish((to_json(card, indent=1) + "\n").encode(), path, overwrite=overwrite)
