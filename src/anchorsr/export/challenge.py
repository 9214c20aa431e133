"""A submission to the Mobile AI challenge: three files, their rules, PSNR, time and score.

The challenge of 2021 is "Real-Time Quantized Image Super-Resolution on Mobile NPUs"
(arXiv 2105.07825). A submission holds `model.tflite`, 8-bit and of the fixed size that is timed,
`model_none.tflite`, the same for any size, and `model_none_float.tflite`, float32 for any size:
here with the dequantized weights. The constant of the score changes from year to year; only that
of 2021 is here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from anchorsr.data.pairs import load_test_pairs
from anchorsr.engines.runtimes import LiteRT, default_threads
from anchorsr.errors import DataError, ExactnessError, GraphError
from anchorsr.export.export import SIZES, check_exact
from anchorsr.graph.dequantize import dequantize
from anchorsr.graph.executor import run_graph
from anchorsr.graph.graph import Graph
from anchorsr.metrics import psnr
from anchorsr.serialization.tflite.summary import TensorInfo, summarize
from anchorsr.serialization.tflite.writer import write_tflite
from anchorsr.utils.files import check_folder, check_free, check_not_input, make_folder, publish
from anchorsr.utils.sample_image import sample_image
from anchorsr.utils.timing import time_interleaved

FIXED, FREE, FLOAT = "model.tflite", "model_none.tflite", "model_none_float.tflite"
FACTOR = 3
SIZE = (360, 640)  # height and width of the timed input; the output is Full HD
CONSTANT_2021 = 2.0**48
BORDER = 1

_INTEGER_TYPES = {"uint8", "int8", "int32"}
# In levels: float runtimes add in different orders.
_FLOAT_TOLERANCE = 0.05
_ROUNDS = 20


@dataclass(frozen=True)
class Check:
    """A rule of the challenge, what was found, and whether the files pass."""

    rule: str
    found: str
    passed: bool


@dataclass(frozen=True)
class Quality:
    """Mean PSNR over RGB in dB of the 8-bit and the float file, without BORDER pixels a side."""

    folder: str
    images: int
    psnr: float
    psnr_float: float


def build(graph: Graph, *, description: str = "") -> dict[str, bytes]:
    """Make the three files, and verify each in LiteRT.

    Args:
        graph: An integer graph.
        description: Text to store in the files.

    Returns:
        The files by name.

    Raises:
        GraphError: A float graph, or one of another factor.
        ExactnessError: LiteRT does not reproduce the graph.
    """
    if not graph.is_integer:
        raise GraphError(f"{graph.name} is a float graph: quantize it first")
    if graph.factor != FACTOR:
        raise GraphError(f"{graph.name} upscales {graph.factor} times; the challenge is x{FACTOR}")
    real = dequantize(graph)
    files = {
        FIXED: write_tflite(graph, size=SIZE, description=description),
        FREE: write_tflite(graph, description=description),
        FLOAT: write_tflite(real, description=description),
    }
    threads = default_threads()
    check_exact(graph, LiteRT(files[FIXED], threads), sizes=[SIZE])
    check_exact(graph, LiteRT(files[FREE], threads))
    _check_float(real, LiteRT(files[FLOAT], threads, np.float32))
    return files


def check_output(folder: Path, *, overwrite: bool, inputs: Collection[Path] = ()) -> None:
    """Check that the three files may be written.

    Args:
        folder: Where; it need not exist.
        overwrite: Whether existing files may be replaced.
        inputs: Files that none of the three may replace.

    Raises:
        OutputError: They may not.
    """
    check_folder(folder)
    for name in (FIXED, FREE, FLOAT):
        check_not_input(folder / name, inputs)
        if folder.is_dir():
            check_free(folder / name, overwrite=overwrite)


def write_files(files: Mapping[str, bytes], folder: Path, *, overwrite: bool = False) -> None:
    """Write the files into a folder, which is created if it is missing.

    Raises:
        OutputError: One of them exists; none is written then.
    """
    check_output(folder, overwrite=overwrite)
    make_folder(folder)
    for name, data in files.items():
        publish(data, folder / name, overwrite=overwrite)


def check_rules(files: Mapping[str, bytes]) -> list[Check]:
    """Check the three files against the rules of the challenge.

    Raises:
        ModelError: One is not a `.tflite` file.
    """
    fixed, free, real = (summarize(files[name]) for name in (FIXED, FREE, FLOAT))
    height, width = SIZE
    checks = [
        Check(
            f"{name}: 8-bit integers throughout",
            ", ".join(sorted(summary.dtypes)),
            summary.dtypes <= _INTEGER_TYPES,
        )
        for name, summary in ((FIXED, fixed), (FREE, free))
    ]
    expected = [
        (FIXED, "input", fixed.input, (height, width), {"uint8", "int8"}),
        (FIXED, "output", fixed.output, (height * FACTOR, width * FACTOR), {"uint8", "int8"}),
        (FREE, "input", free.input, (-1, -1), {"uint8", "int8"}),
        (FREE, "output", free.output, (-1, -1), {"uint8", "int8"}),
        (FLOAT, "input", real.input, (-1, -1), {"float32"}),
        (FLOAT, "output", real.output, (-1, -1), {"float32"}),
    ]
    checks += [_check_io(*each) for each in expected]
    same = fixed.operators == free.operators
    operators = " ".join(dict.fromkeys(free.operators))
    checks.append(Check(f"{FIXED} and {FREE}: the same operators", operators, same))
    return checks


def measure_quality(
    files: Mapping[str, bytes],
    images: Path,
    *,
    threads: int | None = None,
    on_image: Callable[[str], None] | None = None,
) -> Quality:
    """Measure the PSNR of the files for any size.

    Args:
        files: The three files by name.
        images: A folder of images, such as DIV2K_valid_HR, or a test set (see
            `data.pairs.load_test_pairs`).
        threads: Processor threads; by default all.
        on_image: Called with the name of each image that was measured.

    Raises:
        DataError: The folder holds no images, or images that are too small.
    """
    count = threads or default_threads()
    integer = LiteRT(files[FREE], count)
    real = LiteRT(files[FLOAT], count, np.float32)
    rows = []
    for pair in load_test_pairs(images, FACTOR):
        lr = pair.lr[None]
        outputs = integer(lr)[0], _as_image(real(lr.astype(np.float32))[0])
        try:
            rows.append([psnr(output, pair.hr, border=BORDER) for output in outputs])
        except ValueError as error:
            raise DataError(f"{pair.name} in {images}: {error}") from error
        if on_image is not None:
            on_image(pair.name)
    means = np.mean(rows, axis=0)
    return Quality(str(images), len(rows), float(means[0]), float(means[1]))


def measure_time(model: bytes, *, threads: int | None = None) -> float:
    """Time the file of fixed size in LiteRT on this machine's processor.

    Args:
        model: The file, which takes images of SIZE.
        threads: Processor threads; by default all.

    Returns:
        The median in milliseconds.
    """
    engine = LiteRT(model, threads or default_threads())
    images = sample_image(*SIZE)[None]
    times = time_interleaved({FIXED: lambda: engine(images)}, rounds=_ROUNDS)
    return 1000 * times[FIXED].median


def score(psnr: float, milliseconds: float, *, constant: float = CONSTANT_2021) -> float:
    """Compute the challenge's score, 2^(2 · PSNR) / (constant · milliseconds).

    1 dB is worth a factor of 4 in time.
    """
    return float(2 ** (2 * psnr - np.log2(constant)) / milliseconds)


def _check_io(
    name: str, side: str, edge: TensorInfo, sides: tuple[int, int], dtypes: set[str]
) -> Check:
    shape = (1, *sides, 3)
    rule = f"{name}: {side} {_shape_text(shape)} {' or '.join(sorted(dtypes))}"
    found = f"{_shape_text(edge.shape)} {edge.dtype}"
    return Check(rule, found, edge.shape == shape and edge.dtype in dtypes)


def _shape_text(shape: tuple[int, ...]) -> str:
    return "×".join("?" if side == -1 else str(side) for side in shape)


def _check_float(graph: Graph, engine: LiteRT) -> None:
    for index, (height, width) in enumerate(SIZES):
        images = sample_image(height, width, seed=index)[None].astype(np.float32)
        largest = float(np.abs(run_graph(graph, images) - engine(images)).max())
        if largest > _FLOAT_TOLERANCE:
            raise ExactnessError(
                f"{engine.name} differs from the float graph at {height}x{width} by {largest:.3f}"
                " levels"
            )


def _as_image(output: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    return np.asarray(np.rint(output), np.uint8)
