"""Model files for devices, written only if their own runtime reproduces the arithmetic.

The runtime (LiteRT for `.tflite`, ONNX Runtime for `.onnx`) has to give the bytes of
`graph.executor.run_graph` at every size that is tried: 1×1, odd, prime and larger ones.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from anchorsr.data.strengths import CLEAN, Strengths
from anchorsr.engines.runtimes import Engine, load_engine
from anchorsr.errors import ExactnessError, GraphError, OutputError
from anchorsr.graph.dequantize import dequantize
from anchorsr.graph.executor import run_graph
from anchorsr.graph.graph import Graph
from anchorsr.models.registry import apply_strengths, model_path, read_model
from anchorsr.serialization.onnx import DEFAULT_FORM, write_onnx
from anchorsr.serialization.onnx_integer import OnnxForm
from anchorsr.serialization.tflite.writer import write_tflite
from anchorsr.utils.files import check_free, check_not_input, publish
from anchorsr.utils.sample_image import sample_image

# Height and width: the smallest, a line, odd, prime, and one above the kernels' tile sizes.
SIZES = ((1, 1), (1, 9), (7, 2), (13, 31), (64, 96))


_SUFFIXES = (".tflite", ".onnx")
Precision: TypeAlias = Literal["int8", "float32", "float16"]

# Levels of 255 by which a runtime's floats may differ from numpy's.
_FLOAT32_TOLERANCE = 0.05
_FLOAT16_TOLERANCE = 2.0


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
    precision: Precision = "int8",
    onnx_form: OnnxForm = DEFAULT_FORM,
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
        precision: `int8`, or what the integers stand for in `float32` or `float16`. Float files
            take and give float32 on [0, 255]; float16 is that of weights, and in `.onnx` also of
            the computation.
        onnx_form: The form of an integer `.onnx`, as of `write_onnx`.
        overwrite: Whether to replace an existing file.

    Returns:
        What was written.

    Raises:
        ModelError: There is no such model, or the file is none, or takes no such strength.
        OutputError: `output` exists, is the model itself, or has another suffix.
        GraphError: The model is a float one and `precision` is `int8`, or it cannot have this size.
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
    if precision == "int8" and not graph.is_integer:
        raise GraphError(f"{graph.name} is a float graph: quantize it first, or say --float32")
    origin: dict[str, Any] = {"model": graph.name, "from_sha256": hashlib.sha256(data).hexdigest()}
    if strengths != CLEAN:
        origin["strengths"] = strengths.as_table()
    graph = apply_strengths(data, graph, strengths.as_table())
    exported = export_graph(
        dequantize(graph) if precision != "int8" and graph.is_integer else graph,
        target,
        size=size,
        description=json.dumps(origin),
        half=precision == "float16",
        onnx_form=onnx_form,
        overwrite=overwrite,
    )
    return ExportedModel(target, graph.factor, size, hashlib.sha256(exported).hexdigest())


def export_graph(
    graph: Graph,
    path: Path,
    *,
    size: tuple[int, int] | None = None,
    description: str = "",
    half: bool = False,
    onnx_form: OnnxForm = DEFAULT_FORM,
    overwrite: bool = False,
) -> bytes:
    """Export a graph as a file whose suffix is `.tflite` or `.onnx`.

    Args:
        graph: What to export.
        path: The file to write.
        size: Height and width, for a file that takes only this size; None for any size.
        description: Text to store in the file.
        half: Whether a float graph is stored in float16.
        onnx_form: The form of an integer `.onnx`, as of `write_onnx`.
        overwrite: Whether to replace an existing file.

    Returns:
        The bytes of the file.

    Raises:
        AnchorSRError: What `export_model` raises.
    """
    check_free(path, overwrite=overwrite)
    data = make_file(
        graph, path, size=size, description=description, half=half, onnx_form=onnx_form
    )
    publish(data, path, overwrite=overwrite)
    return data


def make_file(
    graph: Graph,
    path: Path,
    *,
    size: tuple[int, int] | None = None,
    description: str = "",
    metadata: Mapping[str, bytes] | None = None,
    half: bool = False,
    onnx_form: OnnxForm = DEFAULT_FORM,
) -> bytes:
    """Serialize a graph and verify the result, without writing it.

    Integers are compared byte for byte, floats within rounding.

    Args:
        graph: What to serialize.
        path: Its suffix, `.tflite` or `.onnx`, is the format.
        size: Height and width, for a file that takes only this size; None for any size.
        description: Text to store in the file.
        metadata: Further contents of a `.tflite` file, by name.
        half: Whether a float graph is stored in float16.
        onnx_form: The form of an integer `.onnx`, as of `write_onnx`.

    Raises:
        OutputError: Another suffix.
        GraphError: An impossible size, or integers in float16.
        ExactnessError: The runtime does not reproduce the arithmetic.
    """
    if half and graph.is_integer:
        raise GraphError(f"{graph.name} is an integer graph: dequantize it for float16")
    suffix = path.suffix.lower()
    if suffix not in _SUFFIXES:
        raise OutputError(f"{path} ends with none of: {', '.join(_SUFFIXES)}")
    if suffix == ".onnx":
        data = write_onnx(graph, size=size, description=description, half=half, form=onnx_form)
    else:
        data = write_tflite(graph, size=size, description=description, half=half, metadata=metadata)
    sizes = [size] if size else SIZES
    if graph.is_integer:
        check_exact(graph, load_engine(data), sizes=sizes)
    else:
        tolerance = _FLOAT16_TOLERANCE if half else _FLOAT32_TOLERANCE
        _check_close(graph, load_engine(data, dtype=np.float32), sizes, tolerance)
    return data


def _check_close(
    graph: Graph, engine: Engine, sizes: Sequence[tuple[int, int]], tolerance: float
) -> None:
    """Raise ExactnessError if an engine's floats differ by more than this, in levels of 255."""
    for index, (height, width) in enumerate(graph.fit(*side) for side in sizes):
        images = sample_image(height, width, seed=index)[None].astype(np.float32)
        largest = float(np.abs(run_graph(graph, images) - engine(images)).max())
        if not largest <= tolerance:
            raise ExactnessError(
                f"{engine.name} differs from the network by {largest:.3g} levels at"
                f" {height}x{width}, and {tolerance:g} are accepted"
            )


def check_exact(graph: Graph, engine: Engine, *, sizes: Sequence[tuple[int, int]] = SIZES) -> None:
    """Check that an engine gives the bytes of the integer arithmetic.

    Args:
        graph: An integer graph.
        engine: What runs the graph's file.
        sizes: Height and width of the images to try, enlarged where the graph needs multiples.

    Raises:
        ExactnessError: The engine's bytes differ.
    """
    for index, (height, width) in enumerate(graph.fit(*side) for side in sizes):
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
