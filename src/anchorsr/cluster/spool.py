"""Tasks in a file of this machine, from which they are handed out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from anchorsr.cluster.manifest import Ended
from anchorsr.cluster.names import digests
from anchorsr.cluster.plan import CHUNK, Found, Sieve, chunks, list_tasks, twice_named
from anchorsr.cluster.rows import Task
from anchorsr.cluster.settings import Settings
from anchorsr.errors import needs

_COLUMNS = ("source", "target", "problem")


class Spool:
    """What there is to do.

    Attributes:
        total: The number of tasks.
        made: How many others are left out because their results are there.
        failed: How many are left out because they failed before.
    """

    def __init__(self, path: Path, total: int, made: int, failed: int) -> None:
        self._path = path
        self.total = total
        self.made = made
        self.failed = failed

    def tables(self, rows: int) -> Iterator[Any]:
        """Yield the tasks as pyarrow tables of up to so many rows."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        with pq.ParquetFile(self._path) as file:
            for batch in file.iter_batches(rows):
                yield pa.Table.from_batches([batch])

    def sample(self, count: int) -> list[Task]:
        """Return so many tasks, evenly spread over all."""
        import pyarrow.parquet as pq

        wanted = {number * self.total // count for number in range(count)} if self.total else set()
        found, begin = [], 0
        with pq.ParquetFile(self._path) as file:
            for batch in file.iter_batches(CHUNK):
                inside = [n - begin for n in sorted(wanted) if begin <= n < begin + len(batch)]
                found += to_tasks(batch.take(inside)) if inside else []
                begin += len(batch)
        return found


def make_spool(
    settings: Settings, ended: Ended, folder: Path, found: Found, *, again: bool = False
) -> Spool:
    """List a source, leave out what is done, and keep the rest.

    Args:
        settings: Where the images are, and what their results are called.
        ended: The tasks that need not be done again.
        folder: An existing folder for the files.
        found: Takes what there is beside images.
        again: Whether tasks that failed are to be tried again.

    Raises:
        DataError: The source cannot be read.
        StoreError: The source's store cannot be read for now.
    """
    with needs("pyarrow", "cluster"):
        import pyarrow.parquet as pq

    every = folder / "listed.parquet"
    members = []
    with pq.ParquetWriter(every, _schema(), compression="zstd") as writer:
        for chunk in chunks(list_tasks(settings, found)):
            members.append(digests(task.target for task in chunk))
            writer.write_table(to_table(chunk))
    sieve = Sieve(ended, twice_named(members), again=again)
    del members
    total = 0
    path = folder / "tasks.parquet"
    with (
        pq.ParquetFile(every) as file,
        pq.ParquetWriter(path, _schema(), compression="zstd") as writer,
    ):
        for batch in file.iter_batches(CHUNK):
            kept = sieve(to_tasks(batch))
            total += len(kept)
            writer.write_table(to_table(kept))
    every.unlink()
    return Spool(path, total, sieve.made, sieve.failed)


def to_table(tasks: Iterable[Task]) -> Any:
    """Return tasks as a pyarrow table."""
    import pyarrow as pa

    rows = [{name: getattr(task, name) for name in _COLUMNS} for task in tasks]
    return pa.Table.from_pylist(rows, _schema())


def to_tasks(table: Any) -> list[Task]:
    """Return the tasks of a table that `to_table` made."""
    return [Task(**row) for row in table.to_pylist()]


def _schema() -> Any:
    import pyarrow as pa

    return pa.schema([pa.field(name, pa.string()) for name in _COLUMNS])
