"""Find out what is to be done: which images there are, and which of them are done.

The images of a source are a folder's, or those that a list or a Parquet table names. They are kept
in a file of this machine until they are handed out, so their number is not limited by the memory.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from anchorsr.cluster.addresses import Address, check_name, parse_address
from anchorsr.cluster.manifest import FOLDER, Ended
from anchorsr.cluster.names import NameSet, digests, repeated
from anchorsr.cluster.rows import Task
from anchorsr.cluster.settings import Settings
from anchorsr.cluster.stores import list_folder, read_bytes
from anchorsr.errors import AnchorSRError, DataError
from anchorsr.images.formats import SUFFIXES, is_image_name, result_suffix
from anchorsr.images.io import list_images
from anchorsr.inference.books import is_book_name
from anchorsr.utils.files import reason

LISTS, TABLES = (".txt", ".lst"), (".parquet",)
# Tasks that are in memory at a time.
CHUNK = 100_000


@dataclass
class Found:
    """What there is beside images, as a source is listed.

    Attributes:
        others: The files of other kinds, by their suffix.
        problems: What could not be listed.
    """

    others: Counter[str] = field(default_factory=Counter)
    problems: list[AnchorSRError] = field(default_factory=list)


def list_tasks(settings: Settings, found: Found) -> Iterator[Task]:
    """Yield the images of a source, with the names of their results.

    In a folder, these are the relative names. Of an address in a list, the name is that behind the
    bucket or root, such as `photos/2024/1.jpg` of `s3://photos/2024/1.jpg`; a table can name them
    in a column `target`.

    Args:
        settings: Where the images are, and what their results are called.
        found: Takes what there is beside them.

    Raises:
        DataError: The source cannot be read.
    """
    suffix = Path(settings.source.path).suffix.lower()
    if suffix in LISTS:
        return _from_list(settings)
    if suffix in TABLES:
        return _from_table(settings)
    if is_image_name(Path(settings.source.path)) and not Path(settings.source.path).is_dir():
        raise DataError(f"{settings.source} is one image: use anchorsr upscale for it")
    return _from_folder(settings, found)


def chunks(tasks: Iterable[Task], size: int = CHUNK) -> Iterator[list[Task]]:
    """Yield tasks by the chunk."""
    rest = iter(tasks)
    while chunk := list(itertools.islice(rest, size)):
        yield chunk


class Sieve:
    """Sorts out the tasks that are done, or whose results would be those of another task.

    Args:
        ended: The tasks that need not be done again.
        again: Whether those that failed are to be tried again.
        twice: The results that several tasks would make; of these, the first one is done.

    Attributes:
        made: How many tasks were left out because their results are there.
        failed: How many were left out because they failed before.
    """

    def __init__(self, ended: Ended, twice: NameSet, *, again: bool = False) -> None:
        self._ended = ended
        self._again = again
        self._twice = twice
        self._firsts: dict[str, str] = {}
        self.made = 0
        self.failed = 0

    def __call__(self, tasks: Sequence[Task]) -> list[Task]:
        """Return what is to be done of some tasks; must see all of them, in order."""
        keys = digests(task.key for task in tasks)
        made = self._ended.made.contains_digests(keys)
        failed = self._ended.failed.contains_digests(keys)
        doubtful = self._twice.contains([task.target for task in tasks])
        kept = []
        for task, is_made, has_failed, is_doubtful in zip(
            tasks, made, failed, doubtful, strict=True
        ):
            if is_doubtful and not task.problem:
                first = self._firsts.setdefault(task.target, task.source)
                if first != task.source:
                    task = _refused(task, f"{first} has the same name in the target")
            if is_made:
                self.made += 1
            elif has_failed and not self._again:
                self.failed += 1
            else:
                kept.append(task)
        return kept


def twice_named(members: Sequence[Any]) -> NameSet:
    """Return the names that occur more than once in arrays of digests."""
    return repeated(np.concatenate(members)) if members else NameSet(digests([]))


def _from_folder(settings: Settings, found: Found) -> Iterator[Task]:
    source, target = settings.source, settings.target
    if (source.scheme, source.path) == (target.scheme, target.path) or source.name_in(target):
        raise DataError(f"{source} is in the target {target}: give another folder for the results")
    for address, name in _files(source, target, found):
        yield _task(str(address), _result_name(name, settings.suffix))


def _files(source: Address, target: Address, found: Found) -> Iterator[tuple[Address, str]]:
    if source.is_local:
        root = Path(source.path)
        if not root.is_dir():
            if not root.exists():
                raise DataError(f"{source} does not exist")
            raise DataError(
                f"{source} is no folder, no list (.txt) and no table (.parquet) of addresses"
            )
        paths, problems = list_images(
            root, leave_out=Path(target.path), is_wanted=_is_wanted, others=found.others
        )
        found.problems += [problem for _, problem in problems]
        for path in paths:
            try:
                str(path).encode()
            except UnicodeEncodeError:
                words = "a name that is not UTF-8 cannot be kept in a table: rename it"
                found.problems.append(DataError(f"{path}: {words}"))
                continue
            yield Address("", str(path)), path.relative_to(root).as_posix()
        return
    for name, _ in list_folder(source):
        address = source.below(name)
        if address.name_in(target) is not None:
            continue
        if _is_wanted(Path(name)):
            yield address, name
        else:
            found.others[Path(name).suffix.lower()] += 1


def _from_list(settings: Settings) -> Iterator[Task]:
    try:
        text = read_bytes(settings.source).decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{settings.source} is no list in UTF-8 ({reason(error)})") from error
    for line in text.splitlines():
        if line.strip():
            yield _listed(line.strip(), None, settings)


def _from_table(settings: Settings) -> Iterator[Task]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        data: Any = settings.source.path
        if not settings.source.is_local:
            data = pa.BufferReader(read_bytes(settings.source))
        with pq.ParquetFile(data) as file:
            columns = [name for name in ("source", "target") if name in file.schema_arrow.names]
            if "source" not in columns:
                names = ", ".join(file.schema_arrow.names)
                raise DataError(
                    f"{settings.source} has no column 'source' of addresses, but: {names}"
                )
            for batch in file.iter_batches(CHUNK, columns=columns):
                for row in batch.to_pylist():
                    yield _listed(row["source"], row.get("target"), settings)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{settings.source} cannot be read: {reason(error)}") from error


def _listed(text: object, name: object, settings: Settings) -> Task:
    """A task of a list or table; `name` is what it calls the result, if it does."""
    if not isinstance(text, str) or not isinstance(name, str | None):
        return Task(str(text), str(name or text), "the table has something else than text here")
    base = str(Path(settings.source.path).parent) if settings.source.is_local else "/"
    try:
        address = parse_address(text, base=base, options=False)
    except DataError as error:
        return Task(text, name or text, str(error))
    if name is None:
        given = address.path if "://" in text or Path(text).is_absolute() else text
        name = _result_name(given.lstrip("/"), settings.suffix)
    task = _task(str(address), name)
    if address.name_in(settings.target) is not None:
        return _refused(task, f"it is in the target {settings.target}")
    if not _is_wanted(Path(address.path)):
        kinds = ", ".join(SUFFIXES)
        return _refused(task, f"its name is not that of an image ({kinds})")
    return task


def _task(source: str, name: str) -> Task:
    task = Task(source, name)
    wrong = check_name(name)
    if wrong is None and name.split("/")[0] == FOLDER:
        wrong = "is where the manifest is"
    return task if wrong is None else _refused(task, f"the name {name!r} {wrong}")


def _refused(task: Task, why: str) -> Task:
    return replace(task, problem=f"{task.source}: {why}")


def _is_wanted(path: Path) -> bool:
    return is_image_name(path) or is_book_name(path)


def _result_name(name: str, suffix: str | None) -> str:
    """The name of a result: that of its image, with the suffix of its format."""
    path = Path(name)
    if is_book_name(path):
        return name
    return f"{name.removesuffix(path.suffix)}{suffix or result_suffix(path)}"
