"""A network as the Mobile AI challenges take it: three files, their rules, PSNR, time, score.

The challenge of 2021: "Real-Time Quantized Image Super-Resolution on Mobile NPUs"
(arXiv 2105.07825). Submissions hold `model.tflite`, 8-bit and of the fixed size that is timed,
`model_none.tflite`, the same of free size, and `model_none_float.tflite`, float32 of free size:
here with the real values of the integer weights. The constant of the score changes from year
to year; only that of 2021 is here.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from anchorsr.data.pairs import load_test_pairs
from anchorsr.engines.runtimes import LiteRT, default_threads
from anchorsr.errors import DataError, ExactnessError, GraphError
from anchorsr.export.export import SIZES, check_exact, sample_image
from anchorsr.graph.dequantize import dequantize
from anchorsr.graph.executor import run_graph
from anchorsr.graph.graph import Graph
from anchorsr.metrics import psnr
from anchorsr.serialization.tflite.summary import Edge, summarize
from anchorsr.serialization.tflite.writer import write_tflite
from anchorsr.utils.files import check_folder, check_free, check_not_input, make_folder, publish

FIXED, FREE, FLOAT = "model.tflite", "model_none.tflite", "model_none_float.tflite"
FACTOR = 3
SIZE = (360, 640)  # height and width of what is timed; the result is Full HD
CONSTANT_2021 = 2.0**48
BORDER = 1

_INTEGER_TYPES = {"uint8", "int8", "int32"}
# Grey levels. Float runtimes add in different orders.
_FLOAT_TOLERANCE = 0.05
_WARM_UP, _TIMED = 3, 20


@dataclass(frozen=True)
class Check:
    """One rule: what is asked, what was found, and whether that is enough."""

    rule: str
    found: str
    kept: bool


@dataclass(frozen=True)
class Quality:
    """Mean PSNR in dB over RGB, less BORDER pixels a side, of the 8-bit and the float file."""

    folder: str
    images: int
    psnr: float
    psnr_float: float


def build(graph: Graph, *, description: str = "") -> dict[str, bytes]:
    """The three files by name, each compared with the graph in LiteRT.

    Raises GraphError for a graph that is not of 8-bit integers or of another factor,
    ExactnessError when LiteRT computes something else.
    """
    if not graph.is_integer:
        raise GraphError(f"{graph.name} is a float graph: quantize it first")
    if graph.factor != FACTOR:
        raise GraphError(f"{graph.name} enlarges {graph.factor} times; the challenge is x{FACTOR}")
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
    """Raise OutputError unless the three files may be written in the folder, or it be made.

    inputs: what none of them may take the place of.
    """
    check_folder(folder)
    for name in (FIXED, FREE, FLOAT):
        check_not_input(folder / name, inputs)
        if folder.is_dir():
            check_free(folder / name, overwrite=overwrite)


def write(files: Mapping[str, bytes], folder: Path, *, overwrite: bool = False) -> None:
    """Write the files in a folder, made if need be. Raises OutputError before the first if one
    of them exists, unless overwrite.
    """
    check_output(folder, overwrite=overwrite)
    make_folder(folder)
    for name, data in files.items():
        publish(data, folder / name, overwrite=overwrite)


def check_rules(files: Mapping[str, bytes]) -> list[Check]:
    """What the challenge asks of the three files. Raises ModelError for bytes that are none."""
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
    edges = [
        (FIXED, "input", fixed.input, (height, width), {"uint8", "int8"}),
        (FIXED, "output", fixed.output, (height * FACTOR, width * FACTOR), {"uint8", "int8"}),
        (FREE, "input", free.input, (-1, -1), {"uint8", "int8"}),
        (FREE, "output", free.output, (-1, -1), {"uint8", "int8"}),
        (FLOAT, "input", real.input, (-1, -1), {"float32"}),
        (FLOAT, "output", real.output, (-1, -1), {"float32"}),
    ]
    checks += [_check_edge(*edge) for edge in edges]
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
    """PSNR of the free files on a folder of images, such as DIV2K_valid_HR, or a test set (see
    `datasets.load_test_pairs`). Raises DataError for a folder that holds none.
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
    """Milliseconds for one image of SIZE through LiteRT on this processor: the median."""
    engine = LiteRT(model, threads or default_threads())
    images = sample_image(*SIZE, seed=0)[None]
    times = []
    for _ in range(_WARM_UP + _TIMED):
        started = time.perf_counter()
        engine(images)
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times[_WARM_UP:])


def score(psnr: float, milliseconds: float, *, constant: float = CONSTANT_2021) -> float:
    """2^(2 · PSNR) / (constant · milliseconds): 1 dB more is worth a quarter of the time."""
    return float(2 ** (2 * psnr - np.log2(constant)) / milliseconds)


def _check_edge(
    name: str, side: str, edge: Edge, sides: tuple[int, int], dtypes: set[str]
) -> Check:
    shape = (1, *sides, 3)
    asked = f"{name}: {side} {_shape_text(shape)} {' or '.join(sorted(dtypes))}"
    found = f"{_shape_text(edge.shape)} {edge.dtype}"
    return Check(asked, found, edge.shape == shape and edge.dtype in dtypes)


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
