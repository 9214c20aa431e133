"""What a user waits for: one array, one file, and a whole process.

Each model runs as `anchorsr upscale` runs it. The file is a JPEG, and so is the result.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from anchorsr.bench.process import ProcessResult, run_process
from anchorsr.inference.batch import Job
from anchorsr.inference.image_upscaler import ImageUpscaler
from anchorsr.inference.pipeline import FileOptions, upscale_files
from anchorsr.inference.upscaler import ready_upscaler
from anchorsr.utils.sample_image import sample_image
from anchorsr.utils.temporary import temporary_folder
from anchorsr.utils.timing import count_progress, time_interleaved

# Processes take long to start, and their times vary little.
_MOST_STARTS = 5


@dataclass(frozen=True)
class EndToEnd:
    """Medians of one model.

    Attributes:
        engine: The one that `upscale` picks on this machine.
        frame_ms: From array to array: all of `Upscaler`.
        file_ms: From JPEG to JPEG in a warm process.
        cold_ms: All of the process `anchorsr upscale in.jpg`, imports included.
        peak_bytes: The most resident memory of that process; None on Windows.
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


def measure_end_to_end(
    models: Sequence[str],
    *,
    threads: int,
    factor: int = 3,
    size: tuple[int, int] = (360, 640),
    rounds: int = 10,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[EndToEnd]:
    """Measure models from array to array, from file to file and as a process.

    Args:
        models: Shipped models and `.tflite` files.
        threads: Processor threads.
        factor: The models' factor.
        size: Height and width of the input.
        rounds: Timed calls of each model; processes are started at most five times.
        on_progress: Called with (calls made, calls to make).

    Raises:
        BenchmarkError: A process failed.
        ModelError: An unknown model, or one of another factor.
    """
    upscalers = {model: ready_upscaler(model, factor, threads=threads) for model in models}
    starts = min(rounds, _MOST_STARTS)
    # One more round of each kind is a warm-up.
    on_call = count_progress(on_progress, len(models) * (2 * (rounds + 1) + starts + 1))
    image = sample_image(*size)
    with temporary_folder() as folder:
        source, target = folder / "in.jpg", folder / "out.jpg"
        Image.fromarray(image).save(source, quality=92)
        frames = time_interleaved(
            {model: partial(upscaler.upscale_rgb, image) for model, upscaler in upscalers.items()},
            rounds=rounds,
            on_call=on_call,
        )
        files = time_interleaved(
            {
                model: partial(
                    _upscale_file, ImageUpscaler(model, factor, threads=threads), source, target
                )
                for model in models
            },
            rounds=rounds,
            on_call=on_call,
        )
        engines = {model: upscaler.engine for model, upscaler in upscalers.items()}
        upscalers.clear()
        processes = _cold_starts(models, threads, factor, source, target, starts, on_call)
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
            cold_ms=float(np.median([each.seconds for each in processes[model]])) * 1000,
            peak_bytes=max((e.peak_bytes for e in processes[model] if e.peak_bytes), default=None),
        )
        for model in models
    ]


def _upscale_file(upscaler: ImageUpscaler, source: Path, target: Path) -> None:
    for done in upscale_files([Job(source, target)], upscaler, FileOptions(overwrite=True)):
        if done.error is not None:
            raise done.error


def _cold_starts(
    models: Sequence[str],
    threads: int,
    factor: int,
    source: Path,
    target: Path,
    starts: int,
    on_call: Callable[[], None] | None,
) -> dict[str, list[ProcessResult]]:
    """Start processes, interleaved; the first of each, which reads from the disk, is dropped."""
    program = [sys.executable, "-m", "anchorsr", "upscale", str(source), "-o", str(target)]
    options = ["--force", "--factor", str(factor), "--threads", str(threads), "--model"]
    results: dict[str, list[ProcessResult]] = {model: [] for model in models}
    for _ in range(starts + 1):
        for model in models:
            results[model].append(run_process([*program, *options, model]))
            if on_call is not None:
                on_call()
    return {model: each[1:] for model, each in results.items()}
