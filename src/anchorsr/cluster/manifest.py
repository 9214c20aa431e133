"""The manifest: Parquet files in the target that say what became of each image.

`TARGET/_manifest/` has parts of some thousand rows each, which only the process that started the
command writes, whole or not at all, and `settings.json`, the options that all results share. An
image can have several rows, as when it failed and was done later: the last one counts.
"""

from __future__ import annotations

import dataclasses
import io
import json
import uuid
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from anchorsr import __version__
from anchorsr.cluster.addresses import Address
from anchorsr.cluster.names import NameSet, digests
from anchorsr.cluster.rows import Row, Status, Task
from anchorsr.cluster.stores import list_names, read_bytes, write_bytes
from anchorsr.errors import DataError, OutputError, needs
from anchorsr.utils.files import reason

FOLDER = "_manifest"
_SETTINGS = "settings.json"
_PART = ".parquet"
_READERS = 8
# In the settings, while results are being made again.
_REPLACING = "replacing"


def schema() -> Any:
    """Return the schema of the manifest, of pyarrow's kind."""
    with needs("pyarrow", "cluster"):
        import pyarrow as pa
    types = {
        "str": pa.string(),
        "str | None": pa.string(),
        "int": pa.int64(),
        "int | None": pa.int64(),
        "Status": pa.string(),
        "tuple[str, ...]": pa.list_(pa.string()),
        "datetime.datetime": pa.timestamp("ms", tz="UTC"),
    }
    fields = [pa.field(each.name, types[str(each.type)]) for each in dataclasses.fields(Row)]
    return pa.schema(fields, {"anchorsr": __version__})


def to_table(rows: Iterable[Row]) -> Any:
    """Return rows as a pyarrow table."""
    import pyarrow as pa

    names = [each.name for each in dataclasses.fields(Row)]
    table = [{name: getattr(row, name) for name in names} for row in rows]
    for row in table:
        row.update(status=str(row["status"]), notes=list(row["notes"]))
    return pa.Table.from_pylist(table, schema())


def to_rows(table: Any) -> list[Row]:
    """Return the rows of a table that `to_table` made."""
    return [
        Row(**{**row, "status": Status(row["status"]), "notes": tuple(row["notes"])})
        for row in table.to_pylist()
    ]


def write_part(target: Address, tables: Sequence[Any]) -> None:
    """Write one more part.

    Args:
        target: The folder of the results.
        tables: Its rows, as pyarrow tables.

    Raises:
        OutputError: It cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(pa.concat_tables(tables).cast(schema()), buffer, compression="zstd")
    name = f"{FOLDER}/part-{uuid.uuid4().hex}{_PART}"
    write_bytes(target.below(name), buffer.getvalue())


@dataclass(frozen=True)
class Ended:
    """The tasks (`rows.Task.key`) that need not be done again, by the manifest.

    Attributes:
        made: Those whose results are there.
        failed: Those whose images cannot be upscaled.
    """

    made: NameSet
    failed: NameSet


def nothing_ended() -> Ended:
    """Return what the manifest of a new target says."""
    return Ended(NameSet(digests([])), NameSet(digests([])))


def read_manifest(target: Address) -> Ended:
    """Read which tasks need not be done again.

    Args:
        target: The folder of the results.

    Raises:
        DataError: A part is damaged.
        StoreError: A part cannot be read for now.
    """
    parts = [name for name in list_names(target.below(FOLDER)) if name.endswith(_PART)]
    with ThreadPoolExecutor(_READERS) as pool:
        found = list(pool.map(lambda name: _read(target.below(f"{FOLDER}/{name}")), parts))
    if not found:
        return nothing_ended()
    names, times, states = (np.concatenate([part[i] for part in found]) for i in range(3))
    order = np.lexsort((times, names))
    names, states = names[order], states[order]
    last = np.append(names[1:] != names[:-1], True)
    made = np.isin(states, [Status.DONE, Status.PRESENT])
    return Ended(NameSet(names[last & made]), NameSet(names[last & (states == Status.FAILED)]))


def begin(target: Address, settings: dict[str, Any], *, overwrite: bool) -> None:
    """Check that a target was begun with these options, and note them in it.

    Args:
        target: The folder of the results.
        settings: The options that all results have in common.
        overwrite: Whether the results are made again. Until `end` is called, the target then only
            takes another such run, as it can hold results of both.

    Raises:
        OutputError: It was begun with others, or cannot be written.
        DataError: The options that it was begun with cannot be read.
    """
    before = read_settings(target)
    check_settings(target, before, settings, overwrite=overwrite)
    if before is not None and before != settings:
        settings = {**settings, _REPLACING: True}
    if before != settings:
        _write_settings(target, settings)


def end(target: Address, settings: dict[str, Any]) -> None:
    """Note that all results in a target were made with these options.

    Raises:
        OutputError: It cannot be written.
        DataError: The options that it was begun with cannot be read.
    """
    if read_settings(target) != settings:
        _write_settings(target, settings)


def check_settings(
    target: Address, before: dict[str, Any] | None, settings: dict[str, Any], *, overwrite: bool
) -> None:
    """Raise OutputError if a target was begun with other options than these."""
    if before is None or overwrite:
        return
    if _REPLACING in before:
        raise OutputError(
            f"{target} holds results of two runs, as one with --force was stopped: run it again"
            f" with --force, to its end"
        )
    names = [name for name in settings if before.get(name) != settings[name]]
    if names:
        words = ", ".join(f"{name} {_shown(before.get(name))}" for name in names)
        raise OutputError(
            f"{target} was begun with other options ({words}): use the same, another target, or"
            f" --force to make all results again"
        )


def _write_settings(target: Address, settings: dict[str, Any]) -> None:
    text = json.dumps(settings, indent=1) + "\n"
    write_bytes(target.below(f"{FOLDER}/{_SETTINGS}"), text.encode())


def read_settings(target: Address) -> dict[str, Any] | None:
    """Return the options that a target was begun with; None if it is new.

    Raises:
        DataError: They cannot be read.
    """
    place = target.below(f"{FOLDER}/{_SETTINGS}")
    if _SETTINGS not in list_names(target.below(FOLDER)):
        return None
    try:
        table: dict[str, Any] = json.loads(read_bytes(place))
    except ValueError as error:
        raise DataError(f"{place} is damaged ({reason(error)}): remove it") from error
    return table


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return " ".join(f"{key}={item}" for key, item in value.items() if item) or "of the model"
    return "of each image" if value is None else str(value)


def _read(part: Address) -> tuple[Any, Any, Any]:
    """The digests of a part's tasks, when each ended, and how."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = read_bytes(part)
    try:
        columns = ["source", "target", "status", "finished"]
        table = pq.read_table(pa.BufferReader(data), columns=columns)
        times = table["finished"].cast(pa.int64()).to_numpy()
    except (pa.ArrowException, OSError, KeyError) as error:
        raise DataError(
            f"{part} is no part of a manifest ({reason(error)}): remove it, and what it tells"
            f" is found out again"
        ) from error
    names = zip(table["source"].to_pylist(), table["target"].to_pylist(), strict=True)
    states = np.array(table["status"].to_pylist(), "U10")
    return digests(Task(*name).key for name in names), times, states
