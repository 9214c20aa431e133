"""The whole run: list, leave out what is done, hand out, keep the manifest, count."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anchorsr.cluster.manifest import (
    begin,
    check_settings,
    end,
    nothing_ended,
    read_manifest,
    read_settings,
    to_rows,
    to_table,
    write_part,
)
from anchorsr.cluster.plan import Found
from anchorsr.cluster.ray_cluster import Cluster
from anchorsr.cluster.rows import Row, Status, Task
from anchorsr.cluster.settings import Settings
from anchorsr.cluster.spool import Spool, make_spool, to_tasks
from anchorsr.cluster.spool import to_table as spooled
from anchorsr.errors import AnchorSRError, StoreError

# Images that are in Ray's hands at a time, and in one block.
ROUND = 100_000
BLOCK = 32
# A part of the manifest is written after so many rows or seconds: what a killed run forgets.
_PART_ROWS = 10_000
_PART_SECONDS = 60.0
# After so many images in a row that a store or disk has refused, there is no use in going on.
_MOST_REFUSED = 200
# No rate is told of less.
_LEAST_SECONDS = 0.1


@dataclass
class Progress:
    """How far a run is.

    Attributes:
        total: The images to do.
        made: The images that were done before this run.
        failed: The images that failed before it, and are not tried again.
        counts: The images by how they ended.
        megapixels: Of the images that were upscaled, before it.
        busy: The seconds that workers took, together.
        bytes_out: The size of the results.
        notes: What was left out or repaired, and in how many images.
        begun: When the first worker took its first image, by `time.monotonic`; None before any has
            ended. The time that workers need to start is not part of the rate.
    """

    total: int
    made: int
    failed: int
    counts: Counter[Status] = field(default_factory=Counter)
    megapixels: float = 0.0
    busy: float = 0.0
    bytes_out: int = 0
    notes: Counter[str] = field(default_factory=Counter)
    begun: float | None = None

    def add(self, rows: Sequence[Row]) -> None:
        """Count images that a worker has just ended, one after another."""
        if self.begun is None:
            self.begun = time.monotonic() - sum(row.milliseconds for row in rows) / 1000
        for row in rows:
            self.counts[row.status] += 1
            self.megapixels += (row.width or 0) * (row.height or 0) / 1e6
            self.busy += row.milliseconds / 1000
            self.bytes_out += row.target_bytes or 0
            self.notes.update(row.notes)

    @property
    def ended(self) -> int:
        """How many images have ended."""
        return self.counts.total()

    @property
    def errors(self) -> int:
        """How many images could not be done."""
        return self.counts[Status.FAILED] + self.counts[Status.UNFINISHED]

    @property
    def images_per_second(self) -> float:
        """How many images end in a second, on the average of the run."""
        if self.begun is None:
            return 0.0
        return self.ended / max(time.monotonic() - self.begun, _LEAST_SECONDS)

    @property
    def seconds_left(self) -> float | None:
        """How long the rest will take at that rate; None before any image has ended."""
        rate = self.images_per_second
        return (self.total - self.ended) / rate if self.ended else None


def plan(settings: Settings, folder: Path, found: Found, *, again: bool = False) -> Spool:
    """Find out what is to be done.

    Args:
        settings: The options.
        folder: An existing folder for temporary files.
        found: Takes what there is beside images.
        again: Whether images that failed are to be tried again.

    Raises:
        DataError: The source or the manifest cannot be read.
        OutputError: The target was begun with other options.
        StoreError: A store cannot be read for now.
    """
    overwrite, target = settings.files.overwrite, settings.target
    check_settings(target, read_settings(target), settings.of_results(), overwrite=overwrite)
    ended = nothing_ended() if overwrite else read_manifest(target)
    return make_spool(settings, ended, folder, found, again=again)


def prepare(settings: Settings) -> None:
    """Note the options in the target, before workers are started.

    Raises:
        OutputError: The target was begun with other options, or cannot be written.
        StoreError: The target's store cannot be written for now.
    """
    begin(settings.target, settings.of_results(), overwrite=settings.files.overwrite)


def run(
    settings: Settings,
    spool: Spool,
    cluster: Cluster,
    on_rows: Callable[[list[Row], Progress], None],
) -> Progress:
    """Do what is to be done, and keep the manifest.

    When it is interrupted, the manifest has every image that has ended.

    Args:
        settings: The options.
        spool: The tasks.
        cluster: The workers.
        on_rows: Called with the images that have just ended.

    Returns:
        The counts.

    Raises:
        StoreError: A store or disk refuses everything, or the manifest cannot be written.
        ClusterError: The cluster cannot go on.
    """
    progress = Progress(spool.total, spool.made, spool.failed)
    refused = 0
    with _Manifest(settings) as manifest:
        for tables in _tables(settings, spool, cluster):
            rows = to_rows(tables)
            manifest.add(tables)
            progress.add(rows)
            for row in rows:
                refused = refused + 1 if row.status is Status.UNFINISHED else 0
            on_rows(rows, progress)
            if refused >= _MOST_REFUSED:
                raise StoreError(
                    f"stopped, as the last {refused} images could not be read or written; the"
                    f" same command goes on when they can: {rows[-1].error}"
                )
    if settings.files.overwrite and not progress.errors:
        end(settings.target, settings.of_results())
    return progress


def _tables(settings: Settings, spool: Spool, cluster: Cluster) -> Iterator[Any]:
    """Yield tables of the manifest, which in the end have each task once."""
    size = max(1, min(BLOCK, spool.total // (4 * cluster.workers)))
    for table in spool.tables(ROUND):
        lost = {task.key: task for task in to_tasks(table)}
        yield from _running(settings, cluster, table, size, lost)
        if not lost:
            continue
        # One of these images ends its worker, or machines are lost faster than a block is done.
        yield from _running(settings, cluster, spooled(lost.values()), 1, lost)
        if lost:
            yield to_table(_row_of_lost(task) for task in lost.values())


def _running(
    settings: Settings, cluster: Cluster, tasks: Any, size: int, lost: dict[str, Task]
) -> Iterator[Any]:
    """Do a table of tasks in blocks of a size, and strike off those that have ended."""
    blocks = [tasks.slice(start, size) for start in range(0, len(tasks), size)]
    for ended in cluster.run(settings, blocks):
        for row in zip(ended["source"].to_pylist(), ended["target"].to_pylist(), strict=True):
            lost.pop(Task(*row).key, None)
        yield ended


def _row_of_lost(task: Task) -> Row:
    words = "its worker ends whenever it does this image: is the memory too small for it?"
    return Row(task.source, task.target, Status.FAILED, f"{task.source}: {words}")


class _Manifest:
    """Writes parts of the manifest now and then, and what is left at the end, however it comes."""

    def __init__(self, settings: Settings) -> None:
        self._target = settings.target
        self._tables: list[Any] = []
        self._written = time.monotonic()

    def __enter__(self) -> _Manifest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        try:
            self._write()
        except AnchorSRError as second:
            if isinstance(error, AnchorSRError):  # most often with the same cause
                raise type(error)(f"{error}; {second}") from second
            raise

    def add(self, table: Any) -> None:
        self._tables.append(table)
        rows = sum(len(each) for each in self._tables)
        if rows >= _PART_ROWS or time.monotonic() - self._written >= _PART_SECONDS:
            self._write()

    def _write(self) -> None:
        if self._tables:
            write_part(self._target, self._tables)
        self._tables = []
        self._written = time.monotonic()
