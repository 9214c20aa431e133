"""What people wait for: from array to array, from file to file, and a process from its start.

Each model runs as `anchorsr upscale` runs it. The file is a JPEG, as is the result.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from anchorsr.bench.samples import natural_image
from anchorsr.bench.timing import Ended, Times, run_process, take_turns
from anchorsr.inference.batch import Job
from anchorsr.inference.pipeline import upscale_files
from anchorsr.inference.upscaler import Enlarger, ready_upscaler

# Starts are slow and spread little.
_START_ROUNDS = 5


@dataclass(frozen=True)
class EndToEnd:
    """Medians of one model, in milliseconds where the name says so.

    engine: the one that `upscale` takes of its own accord on this machine.
    frame_ms: from array to array, all of `Upscaler`. file_ms: from JPEG to JPEG in a process
    that has done it before. cold_ms: the whole process `anchorsr upscale in.jpg`, imports
    included, from its start to its end. peak_bytes: the most resident memory of that process.
    """

    model: str
    engine: str
    threads: int
    height: int
    width: int
    factor: int
    frame_ms: float
    frames_per_s: float
    file_ms: float
    files_per_s: float
    cold_ms: float
    peak_bytes: int | None


def count_end_to_end_turns(models: Sequence[str], rounds: int) -> int:
    """How often `measure_end_to_end` calls `on_call`."""
    return len(models) * (2 * (rounds + 1) + min(rounds, _START_ROUNDS) + 1)


def measure_end_to_end(
    models: Sequence[str],
    *,
    threads: int,
    factor: int = 3,
    size: tuple[int, int] = (360, 640),
    rounds: int = 10,
    on_call: Callable[[], None] | None = None,
) -> list[EndToEnd]:
    """Measure shipped models and `.tflite` files. Raises BenchmarkError when a process fails."""
    upscalers = {model: ready_upscaler(model, factor, threads=threads) for model in models}
    image = natural_image(*size)
    with tempfile.TemporaryDirectory(prefix="anchorsr-benchmark-") as folder:
        source, target = Path(folder, "in.jpg"), Path(folder, "out.jpg")
        Image.fromarray(image).save(source, quality=92)
        frames = take_turns(
            {model: _bound(upscaler, image) for model, upscaler in upscalers.items()},
            rounds=rounds,
            on_call=on_call,
        )
        files = take_turns(
            {
                model: _bound(
                    _file_to_file, Enlarger(model, factor, threads=threads), source, target
                )
                for model in models
            },
            rounds=rounds,
            on_call=on_call,
        )
        engines = {model: upscaler.engine for model, upscaler in upscalers.items()}
        upscalers.clear()
        starts = _cold_starts(models, threads, factor, source, target, rounds, on_call)
    return [
        EndToEnd(
            model=model,
            engine=engines[model],
            threads=threads,
            height=size[0],
            width=size[1],
            factor=factor,
            frame_ms=frames[model].median * 1000,
            frames_per_s=1 / frames[model].median,
            file_ms=files[model].median * 1000,
            files_per_s=1 / files[model].median,
            cold_ms=Times(tuple(ended.seconds for ended in starts[model])).median * 1000,
            peak_bytes=max((e.peak_bytes for e in starts[model] if e.peak_bytes), default=None),
        )
        for model in models
    ]


def _bound(function: Callable[..., object], *arguments: object) -> Callable[[], object]:
    return lambda: function(*arguments)


def _file_to_file(enlarger: Enlarger, source: Path, target: Path) -> None:
    for done in upscale_files([Job(source, target)], enlarger, overwrite=True):
        if done.error is not None:
            raise done.error


def _cold_starts(
    models: Sequence[str],
    threads: int,
    factor: int,
    source: Path,
    target: Path,
    rounds: int,
    on_call: Callable[[], None] | None,
) -> dict[str, list[Ended]]:
    """In turns; those of the first round, which read programs from the disk, are dropped."""
    program = [sys.executable, "-m", "anchorsr", "upscale", str(source), "-o", str(target)]
    options = ["--force", "--factor", str(factor), "--threads", str(threads), "--model"]
    starts: dict[str, list[Ended]] = {model: [] for model in models}
    for _ in range(min(rounds, _START_ROUNDS) + 1):
        for model in models:
            starts[model].append(run_process([*program, *options, model]))
            if on_call is not None:
                on_call()
    return {model: ended[1:] for model, ended in starts.items()}
