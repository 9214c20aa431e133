"""A graph published as a file: written, run in its own runtime, compared, then moved in place.

A file appears under its name only when its runtime (LiteRT for `.tflite`, ONNX Runtime for
`.onnx`) gave the bytes of `integer.run_graph` on every size tried: 1×1, odd, prime and larger.
A mismatch is an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from anchorsr.engines.runtimes import Engine, load_engine
from anchorsr.errors import ExactnessError, GraphError, OutputError
from anchorsr.graph.executor import run_graph
from anchorsr.graph.graph import Graph
from anchorsr.serialization.onnx import write_onnx
from anchorsr.serialization.tflite.writer import write_tflite
from anchorsr.utils.files import check_free, publish

# Height and width: the smallest, a line, odd, prime, and one above the kernels' tile sizes.
SIZES = ((1, 1), (1, 9), (7, 2), (13, 31), (64, 96))


def export(
    graph: Graph,
    path: Path,
    *,
    size: tuple[int, int] | None = None,
    description: str = "",
    overwrite: bool = False,
) -> None:
    """Publish an integer graph as `path`, whose suffix is .tflite or .onnx.

    Raises OutputError for an existing file, and what `make_file` raises.
    """
    check_free(path, overwrite=overwrite)
    data = make_file(graph, path, size=size, description=description)
    publish(data, path, overwrite=overwrite)


def make_file(
    graph: Graph, path: Path, *, size: tuple[int, int] | None = None, description: str = ""
) -> bytes:
    """What the file of an integer graph holds, whose suffix is .tflite or .onnx, once it is proven.

    size: (height, width) of a file of fixed size; None: every size.
    Raises OutputError for another suffix, ExactnessError when the runtime differs from the integer
    arithmetic, GraphError for a float graph.
    """
    if not graph.is_integer:
        raise GraphError(f"{graph.name} is a float graph: quantize it first")
    writers = {".tflite": write_tflite, ".onnx": write_onnx}
    if path.suffix.lower() not in writers:
        raise OutputError(f"{path} ends with none of: {', '.join(writers)}")
    data = writers[path.suffix.lower()](graph, size=size, description=description)
    check_exact(graph, load_engine(data), sizes=[size] if size else SIZES)
    return data


def check_exact(graph: Graph, engine: Engine, *, sizes: Sequence[tuple[int, int]] = SIZES) -> None:
    """Raise ExactnessError unless the engine gives the graph's bytes on images of these sizes."""
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


def sample_image(height: int, width: int, *, seed: int) -> npt.NDArray[np.uint8]:
    """(height, width, 3) with smooth parts, edges and noise, so that every range is visited."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    waves = [127 + 127 * np.sin(x * a + y * b) for a, b in generator.uniform(-0.5, 0.5, (3, 2))]
    image = np.stack(waves, axis=-1)
    noisy = generator.random((height, width)) < 0.3
    image[noisy] = generator.integers(0, 256, (int(noisy.sum()), 3))
    image[(x // 8 + y // 8) % 5 == 0] = generator.choice([0, 255], 3)
    return image.astype(np.uint8)
