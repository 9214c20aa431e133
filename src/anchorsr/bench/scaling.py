"""How time and memory grow with the image: each size in a process of its own."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from anchorsr.bench.timing import Ended, run_process
from anchorsr.inference.upscaler import Upscaler

# Height and width: from an icon to what a camera of 24 megapixels takes.
SIZES = ((64, 64), (256, 256), (360, 640), (1080, 1920), (2000, 3000), (4000, 6000))
_ROUNDS = 3
_LEAST_SECONDS = 0.5


@dataclass(frozen=True)
class Growth:
    """One model at one size: medians over processes.

    pictures_bytes: what the input and the output take as arrays, part of peak_bytes.
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


def count_growth_turns(models: Sequence[str], sizes: Sequence[tuple[int, int]] = SIZES) -> int:
    """How often `measure_growth` calls `on_call`."""
    return len(models) * len(sizes) * _ROUNDS


def measure_growth(
    models: Sequence[str],
    *,
    threads: int,
    factor: int = 3,
    sizes: Sequence[tuple[int, int]] = SIZES,
    on_call: Callable[[], None] | None = None,
) -> list[Growth]:
    """Upscale images of growing size, every model and size in turn, in several rounds.

    Raises BenchmarkError when a process fails.
    """
    cases = [(model, size) for model in models for size in sizes]
    ended: dict[tuple[str, tuple[int, int]], list[Ended]] = {case: [] for case in cases}
    for _ in range(_ROUNDS):
        for model, size in cases:
            arguments = json.dumps([model, factor, *size, threads])
            ended[model, size].append(run_process([sys.executable, "-c", _PROGRAM, arguments]))
            if on_call is not None:
                on_call()
    rows = []
    for (model, (height, width)), processes in ended.items():
        seconds = float(np.median([float(process.output) for process in processes]))
        pixels = height * width
        rows.append(
            Growth(
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
    """The median of the calls of an `Upscaler` that fit in half a second; of one at least.

    One call before is not counted, at any size: it brings the memory, which a virtual machine may
    first have to get back from its host.
    """
    upscaler = Upscaler(model, factor, threads=threads)
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    upscaler(image)
    seconds: list[float] = []
    while sum(seconds) < _LEAST_SECONDS:
        start = time.perf_counter()
        upscaler(image)
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))
