"""Plan which files become which, before any work is done.

Folders are searched recursively and mirrored in the output folder. Links to folders are followed,
and each folder is visited once. Left out are hidden files and folders, and the output folder if it
is inside an input. If results are written beside their originals, files named as results of an
earlier run are left out too; their jobs say so.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from anchorsr.errors import AnchorSRError, OutputError
from anchorsr.images.formats import SUFFIXES, format_of
from anchorsr.images.io import list_images, no_images
from anchorsr.inference.sizes import original_stem
from anchorsr.utils.files import check_folder, check_free, file_key


@dataclass(frozen=True)
class Job:
    """One file to upscale.

    Attributes:
        source: The image; or a folder that cannot be listed, which `problem` then says.
        target: The result; the source, if it is left out.
        problem: Why it cannot be done, if that is known already.
        left_out: Why it is not to be done; empty if it is.
    """

    source: Path
    target: Path
    problem: AnchorSRError | None = None
    left_out: str = ""


def plan_jobs(
    inputs: Sequence[Path],
    output: Path | None,
    *,
    label: str,
    suffix: str | None = None,
    overwrite: bool = False,
) -> list[Job]:
    """Plan which files become which, sorted within a folder.

    Args:
        inputs: Images and folders of images.
        output: A file name for a single image; a folder, made when it is needed, in which names
            stay the same (each of several input folders has its own in it); None to write beside
            the originals as `<name>_<label>`.
        label: What is appended to names beside the originals, such as `x3`.
        suffix: The suffix of the results, with its dot; by default that of the original.
        overwrite: Replace existing files.

    Returns:
        The jobs. If two images of a folder would become one file, the second has a problem.

    Raises:
        OutputError: If a result would replace an input, two named images would become one file, or
            the output cannot be written; for a single image also if its result exists.
        DataError: If a folder holds no image.
    """
    if not inputs:
        raise OutputError("nothing to do: name at least one image or folder")
    single = len(inputs) == 1 and not os.path.isdir(inputs[0])
    file = output if output and single and not output.is_dir() and output.suffix else None
    if file is not None:
        format_of(file)  # refuse an unknown suffix now
        if suffix is not None:
            raise OutputError(f"{file} names a format already: leave out --format, or the suffix")
    elif output is not None:
        check_folder(output)

    folders = sum(os.path.isdir(given) for given in inputs)
    jobs: list[Job] = []
    for given in inputs:
        if not os.path.isdir(given):
            jobs.append(Job(given, file or _target(given, output, label, suffix)))
            continue
        mirror = output / _real(given).name if output is not None and folders > 1 else output
        jobs += _plan_folder(given, output, mirror, label, suffix)
    jobs = _check_targets(jobs, set(inputs))
    if single and (file is not None or jobs[0].target.parent.exists()):
        check_free(jobs[0].target, overwrite=overwrite)
    return jobs


def _plan_folder(
    folder: Path, output: Path | None, mirror: Path | None, label: str, suffix: str | None
) -> list[Job]:
    """Plan a folder: `output` is not searched; `mirror` is its copy, None for itself."""
    found, problems = list_images(folder, leave_out=output)
    if not found and not problems:
        raise no_images(folder)
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


def _target(source: Path, folder: Path | None, label: str, suffix: str | None) -> Path:
    suffix = suffix or (source.suffix if source.suffix.lower() in SUFFIXES else ".png")
    if folder is None:
        return source.with_name(f"{source.stem}_{label}{suffix}")
    return folder / f"{source.stem}{suffix}"


def _check_targets(jobs: list[Job], named: set[Path]) -> list[Job]:
    """Return the jobs, with a problem for those whose result would replace another's."""
    # A name in other case, or a second link, can be the same file.
    sources = [job.source for job in jobs if not job.left_out]
    originals = {key for source in sources for key in (_real(source), file_key(source))}
    results: set[Path] = set()
    checked = []
    for job in jobs:
        place = _real(job.target)
        if job.problem is None and not job.left_out:
            if place in originals or (file_key(job.target) or place) in originals:
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


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))  # Path.resolve fails on a loop of links
