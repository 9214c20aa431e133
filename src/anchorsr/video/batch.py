"""Upscale several videos and folders of videos, by the rules that images have.

Folders are searched recursively and mirrored in the output folder; hidden files and the output
folder itself are left out. Existing results are skipped, so the same command goes on after an
interrupt. A bad video does not stop the others.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from anchorsr.errors import AnchorSRError, DataError, InUseError, OutputError
from anchorsr.images.io import list_images
from anchorsr.inference.sizes import original_stem
from anchorsr.utils.files import check_folder, file_key, make_folder
from anchorsr.video.codecs import READ_SUFFIXES, SUFFIXES
from anchorsr.video.upscale import VideoResult, default_target
from anchorsr.video.workfiles import remove_finished


@dataclass(frozen=True)
class VideoJob:
    """One video to upscale.

    Attributes:
        source: The video.
        target: The result.
        skipped: Why it is not to be done; empty if it is.
    """

    source: Path
    target: Path
    skipped: str = ""


@dataclass(frozen=True)
class VideoOutcome:
    """How a job ended: done, skipped or failed.

    Attributes:
        job: The job.
        result: What was written, if it was.
        error: Why it failed.
        skipped: Why it was skipped; empty if it was not.
    """

    job: VideoJob
    result: VideoResult | None = None
    error: AnchorSRError | None = None
    skipped: str = ""


def plan_videos(
    inputs: Sequence[Path], output: Path | None, *, factor: int, is_folder: bool = False
) -> tuple[list[VideoJob], int]:
    """Plan which videos become which, sorted within a folder.

    Args:
        inputs: Videos and folders of videos; a single video is left to `upscale_video`.
        output: A folder, made if need be, in which names stay the same; None to write beside the
            originals as `default_target` names them.
        factor: Upscaling factor.
        is_folder: Whether the output is a folder, whatever its name.

    Returns:
        The jobs, and how many files in the folders are not named as videos.

    Raises:
        OutputError: The output is a file, two videos would become one, or a result would replace
            an input.
        DataError: A folder holds no video or cannot be listed.
    """
    if output is not None:
        if not is_folder and not output.is_dir() and output.suffix.lower() in SUFFIXES:
            raise OutputError(
                f"{output} is the name of one video, and there may be several: name a folder, such"
                f" as {output.stem}{os.sep}"
            )
        check_folder(output)
    others = 0
    found: list[tuple[Path, Path | None]] = []  # videos, and the folders of their results
    folders = sum(given.is_dir() for given in inputs)
    for given in inputs:
        if not given.is_dir():
            found.append((given, output))
            continue
        videos, count = find_videos(given, leave_out=output)
        if not videos:
            raise DataError(
                f"{given} holds no video: the names end with {', '.join(READ_SUFFIXES)}"
            )
        others += count
        mirror = output / given.resolve().name if output is not None and folders > 1 else output
        for path in videos:
            place = None if mirror is None else mirror / path.parent.relative_to(given)
            found.append((path, place))
    jobs = [_job(path, place, factor) for path, place in found]
    return _check(jobs, output), others


def find_videos(folder: Path, *, leave_out: Path | None = None) -> tuple[list[Path], int]:
    """List the files of a folder that are named as videos.

    Links to folders are followed, and each folder is visited once.

    Args:
        folder: The folder, which is searched recursively.
        leave_out: A folder below it to leave out.

    Returns:
        The sorted files, and the number of all others; hidden ones are not counted.

    Raises:
        DataError: A folder cannot be listed.
    """
    others: Counter[str] = Counter()
    found, problems = list_images(
        folder, leave_out=leave_out, is_wanted=_is_video_name, others=others
    )
    for _, problem in problems:
        raise problem
    del others[".resume"]
    return found, others.total()


def _is_video_name(path: Path) -> bool:
    return path.suffix.lower() in READ_SUFFIXES


def run_videos(
    jobs: Sequence[VideoJob],
    upscale: Callable[[VideoJob], VideoResult],
    *,
    overwrite: bool = False,
) -> Iterator[VideoOutcome]:
    """Run the jobs; a bad video does not stop the others.

    Args:
        jobs: The jobs, as `plan_videos` returns them.
        upscale: Upscales one video.
        overwrite: Whether to replace existing results.

    Yields:
        One outcome per job, in the order of the jobs.
    """
    for job in jobs:
        skipped = job.skipped
        if skipped or overwrite or not os.path.exists(job.source):
            pass  # what is missing is told when it is read
        elif os.path.lexists(job.target):
            remove_finished(job.target)
            skipped = "already exists"
        if skipped:
            yield VideoOutcome(job, skipped=skipped)
            continue
        try:
            make_folder(job.target.parent)
            yield VideoOutcome(job, result=upscale(job))
        except InUseError:
            yield VideoOutcome(job, skipped="being written by another process")
        except AnchorSRError as error:
            yield VideoOutcome(job, error=error)


def _job(source: Path, folder: Path | None, factor: int) -> VideoJob:
    target = default_target(source, factor)
    if folder is not None:
        return VideoJob(source, folder / f"{source.stem}{target.suffix}")
    return VideoJob(source, target)


def _check(jobs: list[VideoJob], output: Path | None) -> list[VideoJob]:
    """Return the jobs, of which those of earlier results are skipped.

    Raises OutputError if a result would replace an input or another result.
    """
    if output is None:
        stems = {(job.source.parent, job.source.stem) for job in jobs}
        jobs = [
            VideoJob(job.source, job.target, "named as the result of an earlier run")
            if (job.source.parent, original_stem(job.source.stem)) in stems
            else job
            for job in jobs
        ]
    sources = {file_key(job.source) for job in jobs} - {None}
    targets: set[Path] = set()
    for job in jobs:
        if job.skipped:
            continue
        if output is not None and file_key(job.target) in sources:
            raise OutputError(f"{job.target} is an input: write to another folder")
        place = Path(os.path.realpath(job.target))
        if place in targets:
            raise OutputError(
                f"{job.source}: two videos would become {job.target}: upscale them separately"
            )
        targets.add(place)
    return jobs
