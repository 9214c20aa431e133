"""Many files made larger: which become which is settled before any work is done."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from anchorsr.errors import AnchorSRError, OutputError
from anchorsr.files import check_folder, check_free, make_folder
from anchorsr.images import (
    SUFFIXES,
    check_size,
    find_pictures,
    format_of,
    read_picture,
    write_picture,
)
from anchorsr.strips import is_for_strips, upscale_to_png
from anchorsr.upscale import Upscaler, upscale_picture


@dataclass(frozen=True)
class Job:
    """One file to be upscaled, and the name of its result."""

    source: Path
    target: Path


@dataclass(frozen=True)
class Done:
    """A job that ended: well, or with an error that the others did not suffer from."""

    job: Job
    error: AnchorSRError | None = None


def plan(
    inputs: Sequence[Path], output: Path | None, *, factor: int, overwrite: bool = False
) -> list[Job]:
    """Which files become which, before any work is done.

    inputs: pictures, and folders of pictures. output: a file name for a single picture; a
    folder, made by `upscale_files` if need be, in which the names stay the same; None: beside
    the original as `<name>_x<factor>`. Raises OutputError where a result would replace an
    input, another result or, without overwrite, a file that exists, or where the output's
    suffix or folder cannot be written. Results that an earlier run left beside the pictures of
    a folder are not upscaled again.
    """
    if not inputs:
        raise OutputError("nothing to do: name at least one picture or folder")
    sources = _sources(inputs, leave_out=None if output else f"_x{factor}")
    single_file = len(inputs) == 1 and not inputs[0].is_dir()
    to_file = output is not None and single_file and not output.is_dir() and output.suffix != ""
    if output is not None:
        if to_file:
            format_of(output)  # a suffix that cannot be written is told now
        else:
            check_folder(output)
    jobs = [Job(source, _target(source, output, to_file, factor)) for source in sources]
    # A name in other letters, or a second link, can be the same file.
    originals = {key for source in sources for key in (_real(source), _file_key(source))}
    results: set[Path] = set()
    for job in jobs:
        place = _real(job.target)
        if place in originals or (_file_key(job.target) or place) in originals:
            raise OutputError(f"{job.target} is an input: write to another name or folder")
        if place in results:
            raise OutputError(f"two pictures would become {job.target}: upscale them separately")
        results.add(place)
        if to_file or place.parent.exists():
            check_free(job.target, overwrite=overwrite)
    return jobs


def upscale_files(
    jobs: Sequence[Job], upscaler: Upscaler, *, quality: int = 92, overwrite: bool = False
) -> Iterator[Done]:
    """Do the jobs one after another; a bad file does not keep the others from being done."""
    for job in jobs:
        try:
            picture = read_picture(job.source)
            height, width = (side * upscaler.factor for side in picture.rgb.shape[:2])
            check_size(job.target, height, width)
            if is_for_strips(picture, job.target, upscaler.factor):
                make_folder(job.target.parent)
                upscale_to_png(picture, upscaler, job.target, overwrite=overwrite)
            else:
                larger = upscale_picture(picture, upscaler)
                make_folder(job.target.parent)
                write_picture(job.target, larger, quality=quality, overwrite=overwrite)
        except AnchorSRError as error:
            yield Done(job, error)
        except MemoryError:
            yield Done(job, OutputError(f"{job.source} is too large for this machine's memory"))
        else:
            yield Done(job)


def _sources(inputs: Sequence[Path], *, leave_out: str | None) -> list[Path]:
    """The pictures named, and those in the folders named, less results: stem and `leave_out`."""
    sources: list[Path] = []
    for given in inputs:
        found = find_pictures(given) if given.is_dir() else [given]
        if leave_out and given.is_dir():
            results = {p.with_name(f"{p.stem}{leave_out}{p.suffix}") for p in found}
            found = [path for path in found if path not in results]
        sources += found
    return sources


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))  # Path.resolve fails on a loop of links


def _target(source: Path, output: Path | None, to_file: bool, factor: int) -> Path:
    suffix = source.suffix if source.suffix.lower() in SUFFIXES else ".png"
    if output is None:
        return source.with_name(f"{source.stem}_x{factor}{suffix}")
    return output if to_file else output / f"{source.stem}{suffix}"


def _file_key(path: Path) -> tuple[int, int] | None:
    """Equal for two names of one file; None where there is no file."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino
