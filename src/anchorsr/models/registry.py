"""Find the shipped models: `<name>_x<factor>.tflite`, each with its card beside it."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from anchorsr.errors import AnchorSRError, ModelError, unknown_choice
from anchorsr.graph.conditioning import Conditioning
from anchorsr.graph.graph import Graph
from anchorsr.models.card import ModelCard, read_card
from anchorsr.serialization.tflite.reader import read_tflite
from anchorsr.serialization.tflite.summary import read_metadata
from anchorsr.utils.files import cannot_read

# The model for clean images, the one that takes strengths of damage, and the fast one for films,
# which takes strengths, too.
DEFAULT = "quality"
CONDITIONED = "photo"
VIDEO = "video"
# In place of a model's name: the one that fits the image (`inference.automatic`).
AUTO_MODEL = "auto"
DEFAULT_FACTOR = 3
# The metadata of a `.tflite` that holds the table of a conditioned network.
CONDITIONING = "anchorsr.conditioning"
_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Model:
    """A shipped model.

    Attributes:
        name: Its name without the factor, such as `quality`.
        factor: Its super-resolution factor.
        path: Its `.tflite` file.
    """

    name: str
    factor: int
    path: Path

    @functools.cached_property
    def card(self) -> ModelCard:
        """Its model card, read when it is first asked for: a name is looked up for every image."""
        return read_card(self.path)


def list_models() -> list[Model]:
    """List the shipped models by name and factor.

    Examples:
        >>> list_models()[0].path.stem
        'abpn_x3'
    """
    models = []
    for path in sorted(_FOLDER.glob("*.tflite")):
        name, _, factor = path.stem.rpartition("_x")
        models.append(Model(name, int(factor), path))
    return models


def model_path(model: str | Path, factor: int | None = None) -> Path:
    """Return the `.tflite` file of a shipped model's name or of a path.

    Args:
        model: A name (`abpn`, `abpn_x3`), or the path of a `.tflite` file.
        factor: The factor, for a name without one; 3 by default.

    Raises:
        ModelError: If no model has this name and factor; the message lists the models.
    """
    if Path(model).suffix.lower() == ".onnx":
        raise ModelError(
            f"{model} is an ONNX file: give the .tflite file that it was exported from"
            f" (`anchorsr evaluate` measures .onnx files)"
        )
    if isinstance(model, Path) or Path(model).suffix.lower() == ".tflite":
        return Path(model)
    shipped = list_models()
    for entry in shipped:
        whole_name = model == entry.path.stem and factor in (None, entry.factor)
        if whole_name or (entry.name, entry.factor) == (model, factor or DEFAULT_FACTOR):
            return entry.path
        if model == entry.path.stem:
            raise ModelError(f"{model} upscales {entry.factor} times, not {factor}")
    names = [entry.path.stem for entry in shipped]
    condition = f"for factor {factor or DEFAULT_FACTOR}"
    raise ModelError(unknown_choice("model", model, names, condition=condition))


def read_model(path: Path) -> tuple[bytes, Graph]:
    """Read a `.tflite` file written by anchorsr.

    Returns:
        The bytes of the file, and its graph.

    Raises:
        ModelError: If the file cannot be read, or is no model.
        GraphError: If its graph is not supported.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} {cannot_read(error)}") from error
    try:
        return data, read_tflite(data, name=path.stem)
    except AnchorSRError as error:
        raise type(error)(f"{path}: {error}") from error


def read_conditioning(data: bytes) -> Conditioning | None:
    """Read the table of strengths in a `.tflite` file; None for a model that takes none.

    Args:
        data: The bytes of the file, as `read_model` returns them.

    Raises:
        ModelError: If the table is damaged.
    """
    table = read_metadata(data, CONDITIONING)
    return None if table is None else Conditioning.from_bytes(table)


@functools.cache
def _has_table(path: Path, modified_ns: int) -> bool:
    return read_metadata(read_model(path)[0], CONDITIONING) is not None


def takes_strengths(path: Path) -> bool:
    """Return whether a `.tflite` file is that of a conditioned network.

    Raises:
        ModelError: If the file cannot be read, or is no model.
    """
    return _has_table(path, path.stat().st_mtime_ns if path.exists() else 0)


def apply_strengths(data: bytes, graph: Graph, strengths: Mapping[str, float]) -> Graph:
    """Return the graph of a model for images of given strengths.

    Args:
        data: The bytes of the file.
        graph: Its graph, which is that for clean images.
        strengths: By name; those that are zero need not be named.

    Raises:
        ModelError: If the model takes no such strength, or one is out of range.
    """
    given = {name: value for name, value in strengths.items() if value}
    conditioning = read_conditioning(data)
    if conditioning is not None:
        return conditioning.apply(graph, given)
    if given:
        raise ModelError(f"{graph.name} takes no strengths: it is one network for all images")
    return graph
