"""Many files made another size: which become which, before any work is done.

Folders are taken with all that is below them and mirrored under the output folder. A link to a
folder is followed, and each folder taken once, so links may go round in circles. Left out are
hidden files and folders, the output folder where it is inside an input, and, where results are
written beside their originals, what is named as the result of an earlier run; of the last a job
says so.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from anchorsr.errors import AnchorSRError, DataError, OutputError
from anchorsr.images.formats import SUFFIXES, format_of
from anchorsr.inference.sizes import original_stem
from anchorsr.utils.files import check_folder, check_free, reason


@dataclass(frozen=True)
class Job:
    """One file to be made another size, and the name of its result.

    problem: why it cannot be done, when that is known already; a source that is a folder could
    not be listed. left_out: why it is not to be done; its target is then the source.
    """

    source: Path
    target: Path
    problem: AnchorSRError | None = None
    left_out: str = ""


def plan(
    inputs: Sequence[Path],
    output: Path | None,
    *,
    label: str,
    suffix: str | None = None,
    overwrite: bool = False,
) -> list[Job]:
    """Which files become which, sorted within a folder.

    inputs: images, and folders of images. output: a file name for a single image; a
    folder, made when it is needed, in which the names stay the same (with several folders,
    each has its own in it); None: beside the original as `<name>_<label>`. suffix: that of the
    results, with its dot, where it is not to be the original's.

    Raises OutputError where a result would replace an input, where two of the files named would
    become one, where the output's suffix or folder cannot be written and, without overwrite,
    for the result of a single image that exists; DataError for a folder without an image.
    Two images of a folder that would become one are a problem of the second alone.
    """
    if not inputs:
        raise OutputError("nothing to do: name at least one image or folder")
    single = len(inputs) == 1 and not os.path.isdir(inputs[0])
    file = output if output and single and not output.is_dir() and output.suffix else None
    if file is not None:
        format_of(file)  # a suffix that cannot be written is told now
        if suffix is not None:
            raise OutputError(f"{file} says its format already: leave one of the two out")
    elif output is not None:
        check_folder(output)

    folders = sum(os.path.isdir(given) for given in inputs)
    jobs: list[Job] = []
    for given in inputs:
        if not os.path.isdir(given):
            jobs.append(Job(given, file or _target(given, output, label, suffix)))
            continue
        mirror = output / _name(given) if output is not None and folders > 1 else output
        jobs += _jobs_of_folder(given, output, mirror, label, suffix)
    jobs = _checked(jobs, set(inputs))
    if single and (file is not None or jobs[0].target.parent.exists()):
        check_free(jobs[0].target, overwrite=overwrite)
    return jobs


def _jobs_of_folder(
    folder: Path, output: Path | None, mirror: Path | None, label: str, suffix: str | None
) -> list[Job]:
    """output is not looked into; mirror is what the folder becomes, None for itself."""
    found, problems = _walk(folder, leave_out=output)
    if not found and not problems:
        raise DataError(f"{folder} holds no image; expected files named {', '.join(SUFFIXES)}")
    stems = {(path.parent, path.stem) for path in found}
    jobs = []
    for path in found:
        if output is None and (path.parent, original_stem(path.stem)) in stems:
            jobs.append(Job(path, path, left_out="named as the result of an earlier run"))
            continue
        place = mirror / path.parent.relative_to(folder) if mirror is not None else None
        jobs.append(Job(path, _target(path, place, label, suffix)))
    jobs += [Job(path, mirror or path, problem) for path, problem in problems]
    return sorted(jobs, key=lambda job: job.source)


def _walk(
    folder: Path, *, leave_out: Path | None
) -> tuple[list[Path], list[tuple[Path, DataError]]]:
    """The images in a folder and below, and the folders that cannot be listed."""
    found: list[Path] = []
    problems: list[tuple[Path, DataError]] = []
    folders, links = [folder], list[Path]()
    seen = {_file_key(leave_out)} if leave_out is not None else set()
    seen -= {None, _file_key(folder)}
    while folders or links:  # links last: a folder's own place comes before those it is linked from
        place = folders.pop() if folders else links.pop(0)
        key = _file_key(place)
        if key in seen:
            continue
        seen.add(key)
        try:
            entries = [entry for entry in os.scandir(place) if not entry.name.startswith(".")]
        except OSError as error:
            problems.append((place, DataError(f"{place} cannot be listed: {reason(error)}")))
            continue
        for entry in entries:
            path = place / entry.name
            if os.path.isdir(path):
                (links if path.is_symlink() else folders).append(path)
            elif path.suffix.lower() in SUFFIXES:
                found.append(path)
    return found, problems


def _target(source: Path, folder: Path | None, label: str, suffix: str | None) -> Path:
    suffix = suffix or (source.suffix if source.suffix.lower() in SUFFIXES else ".png")
    if folder is None:
        return source.with_name(f"{source.stem}_{label}{suffix}")
    return folder / f"{source.stem}{suffix}"


def _checked(jobs: list[Job], named: set[Path]) -> list[Job]:
    """The jobs, with the problem of those whose result would replace another's."""
    # A name in other letters, or a second link, can be the same file.
    sources = [job.source for job in jobs if not job.left_out]
    originals = {key for source in sources for key in (_real(source), _file_key(source))}
    results: set[Path] = set()
    checked = []
    for job in jobs:
        place = _real(job.target)
        if job.problem is None and not job.left_out:
            if place in originals or (_file_key(job.target) or place) in originals:
                raise OutputError(f"{job.target} is an input: write to another name or folder")
            if place in results:
                problem = OutputError(
                    f"{job.source}: two images would become {job.target}: upscale them separately"
                )
                if job.source in named:
                    raise problem
                job = Job(job.source, job.target, problem)
            results.add(place)
        checked.append(job)
    return checked


def _name(folder: Path) -> str:
    return _real(folder).name


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))  # Path.resolve fails on a loop of links


def _file_key(path: Path) -> tuple[int, int] | None:
    """Equal for two names of one file; None where there is no file."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino
