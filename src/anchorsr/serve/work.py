"""A worker: a process of its own that upscales one file after another.

The server starts it as `python -m anchorsr.serve.work MEMORY PIXELS`, writes a JSON object with
`source`, `folder`, `name` and `options` for each job, a line each, to its standard input, and reads
lines from its standard output: any number with `progress`, then one with `result` or `error`. If a
broken file makes it crash, only that job ends.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from anchorsr.data.strengths import CLEAN, parse_strengths
from anchorsr.errors import (
    AnchorSRError,
    MissingDependencyError,
    ModelError,
    OutputError,
    RequestError,
)
from anchorsr.images.animation import read_header
from anchorsr.images.formats import SUFFIXES, format_of, format_of_content
from anchorsr.inference.batch import Job
from anchorsr.inference.image_upscaler import ImageUpscaler
from anchorsr.inference.pipeline import FileOptions, upscale_files
from anchorsr.inference.upscaler import Upscaler, ready_upscaler
from anchorsr.models.registry import DEFAULT
from anchorsr.serve.options import Options, is_video_name, options_from_dict

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

Tell = Callable[[dict[str, Any]], None]
# One job after another has the model that an earlier one has loaded.
_upscaler = functools.lru_cache(maxsize=4)(Upscaler)
_SECONDS_BETWEEN_PROGRESS = 0.25


def upscale_file(
    source: Path, folder: Path, name: str, options: Options, *, pixels: int, tell: Tell
) -> dict[str, Any]:
    """Upscale a file of a client.

    Args:
        source: Where it is.
        folder: Where the result goes, as `result` and its suffix.
        name: What the client calls it: for the format, and for messages.
        options: What is asked for.
        pixels: The largest image that is accepted.
        tell: Takes progress.

    Returns:
        The result's file name and what it is called for the client; sizes as [width, height].

    Raises:
        RequestError: If that cannot be done, in words without paths of this machine.
    """
    try:
        if is_video_name(name):
            return _upscale_video(source, folder, name, options, tell)
        return _upscale_image(source, folder, name, options, pixels)
    except RequestError:
        raise
    except MissingDependencyError as error:
        raise RequestError(501, f"this server cannot do that: {error}") from error
    except ModelError as error:
        raise RequestError(400, str(error)) from error
    except AnchorSRError as error:
        words = str(error).replace(str(source), name).replace(str(folder) + os.sep, "")
        too_large = "too large" in words or "more than the limit" in words or "has more" in words
        raise RequestError(413 if too_large else 422, words) from error
    except MemoryError:
        raise RequestError(413, f"{name} is too large for this server's memory") from None


def _upscale_image(
    source: Path, folder: Path, name: str, options: Options, pixels: int
) -> dict[str, Any]:
    with source.open("rb") as file:
        kind = format_of_content(file.read(64))
    suffix = Path(name).suffix.lower()
    if kind is not None and (suffix not in SUFFIXES or format_of(Path(name)) != kind):
        suffix = next(each for each in SUFFIXES if format_of(Path(each[1:] + each)) == kind)
    size = read_header(source, max_pixels=pixels).size
    upscaler = ImageUpscaler(
        options.model,
        options.factor,
        options.target,
        strengths=parse_strengths(options.strength) if options.strength else CLEAN,
        wraps=options.wrap,
    )
    out = f".{options.format}" if options.format else suffix
    target = folder / f"result{out}"
    jobs = [Job(source, target)]
    files = FileOptions(options.quality, options.lossless, overwrite=True, max_pixels=pixels)
    (done,) = upscale_files(jobs, upscaler, files)
    if done.error is not None:
        raise done.error
    if done.skipped or done.target_size is None:
        raise OutputError(f"{name} was not upscaled: {done.skipped}")
    return {
        "file": target.name,
        "name": f"{Path(name).stem}_{upscaler.label}{out}",
        "size": list(size[::-1]),
        "target_size": list(done.target_size[::-1]),
        "notes": list(done.notes),
    }


def _upscale_video(
    source: Path, folder: Path, name: str, options: Options, tell: Tell
) -> dict[str, Any]:
    from anchorsr.video.upscale import VideoProgress, default_target, upscale_video

    if options != Options(options.model, options.factor):
        raise RequestError(400, "a video takes the parameters model and factor only")
    upscaler = _upscaler(options.model, options.factor)
    named = default_target(Path(name), upscaler.factor)
    target = folder / f"result{named.suffix}"
    last = 0.0

    def on_progress(progress: VideoProgress) -> None:
        nonlocal last
        if progress.total_seconds and time.monotonic() - last > _SECONDS_BETWEEN_PROGRESS:
            last = time.monotonic()
            tell({"progress": min(progress.seconds / progress.total_seconds, 1)})

    result = upscale_video(
        source, target, upscaler=upscaler, overwrite=True, on_progress=on_progress
    )
    return {"file": target.name, "name": named.name, "notes": list(result.problems)}


def _limit_memory(limit: int) -> None:
    if resource is not None and sys.platform == "linux":
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def main(memory: int, pixels: int) -> None:
    """Work until standard input ends."""
    _limit_memory(memory)
    # What libraries print must not be taken for answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def tell(row: dict[str, Any]) -> None:
        answers.write(json.dumps(row) + "\n")
        answers.flush()

    with contextlib.suppress(KeyboardInterrupt):
        ready_upscaler(DEFAULT)  # while nothing is asked for yet
        tell({"ready": True})
        for line in sys.stdin:
            job = json.loads(line)
            try:
                result = upscale_file(
                    Path(job["source"]),
                    Path(job["folder"]),
                    job["name"],
                    options_from_dict(job["options"]),
                    pixels=pixels,
                    tell=tell,
                )
                tell({"result": result})
            except RequestError as error:
                tell({"error": str(error), "status": error.status})


def order(source: Path, folder: Path, name: str, options: Options) -> bytes:
    """The line that asks a worker for a job."""
    table = {
        "source": str(source),
        "folder": str(folder),
        "name": name,
        "options": dataclasses.asdict(options),
    }
    return (json.dumps(table) + "\n").encode()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
