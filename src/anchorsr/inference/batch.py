"""Plan which files become which, before any work is done.

Folders are searched recursively and mirrored in the output folder. Links to folders are followed,
and each folder is visited once. Left out are hidden files and folders, and the output folder if it
is inside an input. If results are written beside their originals, files named as results of an
earlier run are left out too, also if they are named themselves, as by a glob; their jobs say so.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from anchorsr.errors import AnchorSRError, OutputError
from anchorsr.images.formats import format_of, is_image_name, result_suffix
from anchorsr.images.io import check_readable, list_images, no_images
from anchorsr.inference.books import is_book_name, open_book
from anchorsr.inference.sizes import original_stem
from anchorsr.utils.files import check_folder, check_free, file_key, input_first

_EARLIER = "named as the result of an earlier run"


@dataclass(frozen=True)
class Job:
    """One file to upscale.

    Attributes:
        source: The image; or a folder that cannot be listed, which `problem` then says.
        target: The result; the source, if it is left out.
        problem: Why it cannot be done, if that is known already.
        left_out: Why it is not to be done; empty if it is.
        page_suffix: The suffix of a comic book's pages; None for those that they have.
    """

    source: Path
    target: Path
    problem: AnchorSRError | None = None
    left_out: str = ""
    page_suffix: str | None = None


def plan_jobs(
    inputs: Sequence[Path],
    output: Path | None,
    *,
    label: str,
    suffix: str | None = None,
    overwrite: bool = False,
    is_folder: bool = False,
    others: Counter[str] | None = None,
) -> list[Job]:
    """Plan which files become which, sorted within a folder.

    Args:
        inputs: Images and folders of images.
        output: A file name for a single image; a folder, made when it is needed, in which names
            stay the same (each of several input folders has its own in it); None to write beside
            the originals as `<name>_<label>`.
        label: What is appended to names beside the originals, such as `x3`.
        suffix: The suffix of the results, with its dot; by default that of the original. Of a comic
            book, that of its pages.
        overwrite: Replace existing files.
        is_folder: Whether the output is a folder, whatever its name.
        others: Counts the files in folders that are of other kinds, by their suffix.

    Returns:
        The jobs. If two images of a folder would become one file, the second has a problem.

    Raises:
        OutputError: If a result would replace an input, two named images would become one file, or
            the output cannot be written; for a single image also if its result exists.
        ImageError: If a single image cannot be read either.
        DataError: If a folder holds no image.
    """
    if not inputs:
        raise OutputError("nothing to do: name at least one image or folder")
    single = len(inputs) == 1 and not os.path.isdir(inputs[0])
    with input_first(lambda: _check_readable(inputs[0]) if single else None):
        return _planned(inputs, output, label, suffix, overwrite, is_folder, others)


def _check_readable(path: Path) -> None:
    if is_book_name(path):
        open_book(path)
    else:
        check_readable(path)


def _planned(
    inputs: Sequence[Path],
    output: Path | None,
    label: str,
    suffix: str | None,
    overwrite: bool,
    is_folder: bool,
    others: Counter[str] | None,
) -> list[Job]:
    single = len(inputs) == 1 and not os.path.isdir(inputs[0])
    may_be_file = output is not None and not is_folder and not output.is_dir()
    file = output if single and may_be_file and output and output.suffix else None
    if file is not None:
        if is_book_name(inputs[0]) != is_book_name(file):
            raise OutputError(f"{file}: comic books stay .cbz files, and nothing else becomes one")
        if not is_book_name(file):
            format_of(file)  # refuse an unknown suffix now
        if suffix is not None and not is_book_name(file):
            raise OutputError(f"{file} names a format already: leave out --format, or the suffix")
    elif output is not None:
        if may_be_file and is_image_name(output):
            raise OutputError(
                f"{output} is the name of one image, and there are several: name a folder, "
                f"such as {output.stem}{os.sep}"
            )
        check_folder(output)

    folders = sum(os.path.isdir(given) for given in inputs)
    stems = {(given.parent, given.stem) for given in inputs}
    jobs: list[Job] = []
    for given in inputs:
        if not os.path.isdir(given):
            if output is None and _is_result(given, stems):
                jobs.append(Job(given, given, left_out=_EARLIER))
            else:
                target = file or _target(given, output, label, suffix)
                pages = suffix if is_book_name(given) else None
                jobs.append(Job(given, target, page_suffix=pages))
            continue
        mirror = output / _real(given).name if output is not None and folders > 1 else output
        jobs += _plan_folder(given, output, mirror, label, suffix, others)
    jobs = _check_targets(jobs, set(inputs))
    if single and (file is not None or jobs[0].target.parent.exists()):
        check_free(jobs[0].target, overwrite=overwrite)
    return jobs


def _plan_folder(
    folder: Path,
    output: Path | None,
    mirror: Path | None,
    label: str,
    suffix: str | None,
    others: Counter[str] | None,
) -> list[Job]:
    """Plan a folder: `output` is not searched; `mirror` is its copy, None for itself."""
    found, problems = list_images(folder, leave_out=output, is_wanted=_is_wanted, others=others)
    if not found and not problems:
        raise no_images(folder)
    stems = {(path.parent, path.stem) for path in found}
    jobs = []
    for path in found:
        if output is None and _is_result(path, stems):
            jobs.append(Job(path, path, left_out=_EARLIER))
            continue
        place = mirror / path.parent.relative_to(folder) if mirror is not None else None
        pages = suffix if is_book_name(path) else None
        jobs.append(Job(path, _target(path, place, label, suffix), page_suffix=pages))
    jobs += [Job(path, mirror or path, problem) for path, problem in problems]
    return sorted(jobs, key=lambda job: job.source)


def _is_wanted(path: Path) -> bool:
    return is_image_name(path) or is_book_name(path)


def _is_result(path: Path, stems: set[tuple[Path, str]]) -> bool:
    """Return whether a file is named as the result of another of these."""
    return (path.parent, original_stem(path.stem)) in stems


def _target(source: Path, folder: Path | None, label: str, suffix: str | None) -> Path:
    suffix = source.suffix if is_book_name(source) else suffix or result_suffix(source)
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
