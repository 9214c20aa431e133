"""Model files for devices, written only if their own runtime reproduces the integer arithmetic.

The runtime (LiteRT for `.tflite`, ONNX Runtime for `.onnx`) has to give the bytes of
`graph.executor.run_graph` at every size that is tried: 1×1, odd, prime and larger ones.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from anchorsr.data.strengths import CLEAN, Strengths
from anchorsr.engines.runtimes import Engine, load_engine
from anchorsr.errors import ExactnessError, GraphError, OutputError
from anchorsr.graph.executor import run_graph
from anchorsr.graph.graph import Graph
from anchorsr.models.registry import apply_strengths, model_path, read_model
from anchorsr.serialization.onnx import write_onnx
from anchorsr.serialization.tflite.writer import write_tflite
from anchorsr.utils.files import check_free, check_not_input, publish
from anchorsr.utils.sample_image import sample_image

# Height and width: the smallest, a line, odd, prime, and one above the kernels' tile sizes.
SIZES = ((1, 1), (1, 9), (7, 2), (13, 31), (64, 96))


@dataclass(frozen=True)
class ExportedModel:
    """A model file that was written.

    Attributes:
        path: The file.
        factor: The super-resolution ratio.
        size: Height and width of the only input that it takes; None for any size.
        sha256: The file's digest.
    """

    path: Path
    factor: int
    size: tuple[int, int] | None
    sha256: str


def export_model(
    model: str | Path,
    output: str | Path,
    *,
    factor: int | None = None,
    size: tuple[int, int] | None = None,
    strengths: Strengths = CLEAN,
    overwrite: bool = False,
) -> ExportedModel:
    """Export a shipped model or a `.tflite` file as `.tflite` or `.onnx`.

    Args:
        model: A shipped model's name, or a `.tflite` file.
        output: The file to write; its suffix is its format.
        factor: The super-resolution ratio; by default the model's, or 3.
        size: Height and width, for a file that takes only this size; None for any size.
        strengths: The degradation of the images that the file is for, for a model that takes
            strengths. The file holds the plain network for these.
        overwrite: Whether to replace an existing file.

    Returns:
        What was written.

    Raises:
        ModelError: There is no such model, or the file is none, or takes no such strength.
        OutputError: `output` exists, is the model itself, or has another suffix.
        GraphError: The model is not an integer one, or cannot have this size.
        ExactnessError: The runtime does not reproduce the integer arithmetic.
        MissingDependencyError: The runtime is not installed.

    Example:
        >>> from anchorsr.export.export import export_model
        >>> exported = export_model("abpn", "abpn.tflite", size=(24, 32))
        >>> exported.path.name, exported.factor, exported.size
        ('abpn.tflite', 3, (24, 32))
    """
    source, target = model_path(model, factor), Path(output)
    check_not_input(target, [source])
    data, graph = read_model(source)
    origin: dict[str, Any] = {"model": graph.name, "from_sha256": hashlib.sha256(data).hexdigest()}
    if strengths != CLEAN:
        origin["strengths"] = strengths.as_table()
    graph = apply_strengths(data, graph, strengths.as_table())
    exported = export_graph(
        graph, target, size=size, description=json.dumps(origin), overwrite=overwrite
    )
    return ExportedModel(target, graph.factor, size, hashlib.sha256(exported).hexdigest())


def export_graph(
    graph: Graph,
    path: Path,
    *,
    size: tuple[int, int] | None = None,
    description: str = "",
    overwrite: bool = False,
) -> bytes:
    """Export an integer graph as a file whose suffix is `.tflite` or `.onnx`.

    Args:
        graph: What to export.
        path: The file to write.
        size: Height and width, for a file that takes only this size; None for any size.
        description: Text to store in the file.
        overwrite: Whether to replace an existing file.

    Returns:
        The bytes of the file.

    Raises:
        AnchorSRError: What `export_model` raises.
    """
    check_free(path, overwrite=overwrite)
    data = make_file(graph, path, size=size, description=description)
    publish(data, path, overwrite=overwrite)
    return data


def make_file(
    graph: Graph,
    path: Path,
    *,
    size: tuple[int, int] | None = None,
    description: str = "",
    metadata: Mapping[str, bytes] | None = None,
) -> bytes:
    """Serialize an integer graph and verify the result, without writing it.

    Args:
        graph: What to serialize.
        path: Its suffix, `.tflite` or `.onnx`, is the format.
        size: Height and width, for a file that takes only this size; None for any size.
        description: Text to store in the file.
        metadata: Further contents of a `.tflite` file, by name.

    Raises:
        OutputError: Another suffix.
        GraphError: A float graph, or an impossible size.
        ExactnessError: The runtime does not reproduce the integer arithmetic.
    """
    if not graph.is_integer:
        raise GraphError(f"{graph.name} is a float graph: quantize it first")
    writers: dict[str, Callable[..., bytes]] = {
        ".tflite": partial(write_tflite, metadata=metadata),
        ".onnx": write_onnx,
    }
    if path.suffix.lower() not in writers:
        raise OutputError(f"{path} ends with none of: {', '.join(writers)}")
    data = writers[path.suffix.lower()](graph, size=size, description=description)
    check_exact(graph, load_engine(data), sizes=[size] if size else SIZES)
    return data


def check_exact(graph: Graph, engine: Engine, *, sizes: Sequence[tuple[int, int]] = SIZES) -> None:
    """Check that an engine gives the bytes of the integer arithmetic.

    Args:
        graph: An integer graph.
        engine: What runs the graph's file.
        sizes: Height and width of the images to try.

    Raises:
        ExactnessError: The engine's bytes differ.
    """
    for index, (height, width) in enumerate(sizes):
        images = sample_image(height, width, seed=index)[None]
        expected, actual = run_graph(graph, images), engine(images)
        different = int((expected != actual).sum()) if expected.shape == actual.shape else -1
        if different:
            largest = int(np.abs(expected.astype(int) - actual).max()) if different > 0 else 0
            raise ExactnessError(
                f"{engine.name} differs from the integer arithmetic at {height}x{width} in"
                f" {different} of {expected.size} bytes, by up to {largest} levels"
                if different > 0
                else f"{engine.name} returned shape {actual.shape}, not {expected.shape}"
            )
