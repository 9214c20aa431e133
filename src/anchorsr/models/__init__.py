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

from anchorsr.errors import ModelError
from anchorsr.files import publish, reason
from anchorsr.graph import Graph

DEFAULT = "abpn"
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
        card = json.loads(path.with_suffix(".json").read_text())
        models.append(Model(name, int(factor), path, card))
    return models


def find_model(name: str, factor: int) -> Path:
    """The file of a shipped network. Raises ModelError that lists what there is."""
    shipped = list_models()
    for model in shipped:
        if (model.name, model.factor) == (name, factor):
            return model.path
    there = ", ".join(f"{model.name} x{model.factor}" for model in shipped)
    raise ModelError(f"no model {name!r} for factor {factor}; there are: {there}")


def write_card(
    path: Path, data: bytes, graph: Graph, runs: dict[str, Any], *, overwrite: bool
) -> None:
    """Write the card of a model file's bytes. runs: the records it was made by, by name."""
    card = {
        "model": graph.name,
        "factor": graph.factor,
        "size_bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "macs_per_lr_pixel": graph.macs_per_pixel,
        "parameters": graph.parameter_count,
        "receptive_field": 2 * graph.halo + 1,
        **runs,
    }
    publish((json.dumps(card, indent=1) + "\n").encode(), path, overwrite=overwrite)


def read_card(path: Path) -> dict[str, Any]:
    """The card beside a model file, empty if it has none."""
    beside = path.with_suffix(".json")
    try:
        card = json.loads(beside.read_text()) if beside.exists() else {}
        if not isinstance(card, dict):
            raise ValueError("it is JSON, but not an object")
        return card
    except (OSError, ValueError) as error:
        raise ModelError(f"{beside} is not a model's card: {reason(error)}") from error
