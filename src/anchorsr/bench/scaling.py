"""How time and memory scale with the size of the image, each size in its own process."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from anchorsr.bench.process import ProcessResult, run_process
from anchorsr.inference.upscaler import Upscaler, ready_upscaler
from anchorsr.utils.timing import count_progress, time_interleaved

# Height and width: from an icon to the photograph of a 24-megapixel camera.
SIZES = ((64, 64), (256, 256), (360, 640), (1080, 1920), (2000, 3000), (4000, 6000))
_ROUNDS = 3
_TIMED_S = 0.5
_MOST_CALLS = 10_000


@dataclass(frozen=True)
class Scaling:
    """One model at one input size.

    Attributes:
        seconds: Of one call: the median over processes.
        peak_bytes: The most resident memory of the process; None on Windows.
        pictures_bytes: What the input and output arrays take of it.
    """

    model: str
    threads: int
    height: int
    width: int
    factor: int
    seconds: float
    ns_per_lr_pixel: float
    peak_bytes: int | None
    pictures_bytes: int


def measure_scaling(
    models: Sequence[str],
    *,
    threads: int,
    factor: int = 3,
    sizes: Sequence[tuple[int, int]] = SIZES,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Scaling]:
    """Measure every model at every size, interleaved, in several rounds.

    Args:
        models: Shipped models and `.tflite` files.
        threads: Processor threads.
        factor: The models' factor.
        sizes: Height and width of the inputs.
        on_progress: Called with (processes run, processes to run).

    Raises:
        BenchmarkError: A process failed.
        ModelError: An unknown model, or one of another factor.
    """
    for model in models:
        # Chosen and remembered here, so that no process measures the trials of the engines.
        ready_upscaler(model, factor, threads=threads)
    cases = [(model, size) for model in models for size in sizes]
    results: dict[tuple[str, tuple[int, int]], list[ProcessResult]] = {case: [] for case in cases}
    on_process = count_progress(on_progress, len(cases) * _ROUNDS)
    for _ in range(_ROUNDS):
        for model, size in cases:
            arguments = json.dumps([model, factor, *size, threads])
            results[model, size].append(run_process([sys.executable, "-c", _PROGRAM, arguments]))
            if on_process is not None:
                on_process()
    rows = []
    for (model, (height, width)), processes in results.items():
        seconds = float(np.median([float(process.output) for process in processes]))
        pixels = height * width
        rows.append(
            Scaling(
                model=model,
                threads=threads,
                height=height,
                width=width,
                factor=factor,
                seconds=seconds,
                ns_per_lr_pixel=seconds / pixels * 1e9,
                peak_bytes=max((p.peak_bytes for p in processes if p.peak_bytes), default=None),
                pictures_bytes=3 * pixels * (1 + factor**2),
            )
        )
    return rows


_PROGRAM = """
import json, sys
from anchorsr.bench.scaling import time_one_size
print(time_one_size(*json.loads(sys.argv[1])))
"""


def time_one_size(model: str, factor: int, height: int, width: int, threads: int) -> float:
    """Time an `Upscaler` on one size.

    The first call is not counted: it allocates memory, which a virtual machine may have to get
    back from its host.

    Returns:
        Seconds: the median of the calls that fit into half a second, of one at least.
    """
    upscaler = Upscaler(model, factor, threads=threads)
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    calls = {model: lambda: upscaler(image)}
    times = time_interleaved(calls, rounds=_MOST_CALLS, untimed=0, pause_s=0, budget_s=_TIMED_S)
    return times[model].median
