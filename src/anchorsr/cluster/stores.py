"""Read and write files of this machine and of object stores, each whole or not at all.

A file of this machine is written beside its name and then moved. An object appears when its upload
is complete. What a store refuses for the moment is tried again (`retries`).
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from anchorsr.cluster.addresses import Address
from anchorsr.cluster.retries import retrying
from anchorsr.errors import AnchorSRError, DataError, StoreError, needs
from anchorsr.utils.files import make_folder, publish, reason

_Result = TypeVar("_Result")

# The store's own message, within what the libraries of Amazon, Google and Microsoft add.
_MESSAGES = (
    re.compile(r"When .*? bucket '[^']*': (AWS Error .*)"),
    re.compile(r"Status\((\w+): .*?with a last message of (.*?) error_info="),
    re.compile(r"Azure Error: (\[.*?\] .*?)(?: Request ?I[dD]:.*)?$"),
)
_REFUSED = re.compile(
    r"ACCESS_DENIED|INVALID_ACCESS_KEY|SIGNATURE_DOES_NOT|PERMISSION_DENIED|UNAUTHENTICATED"
    r"|\] 40[13] |Base64|Credential"
)
# Google's library tries again by itself, for so many seconds; its default is a quarter of an hour.
_GOOGLE_SECONDS = 5.0


def read_bytes(address: Address) -> bytes:
    """Return the contents of a file.

    Raises:
        StoreError: It cannot be read.
    """
    if address.is_local:
        return _reading(address, Path(address.path).read_bytes)

    def read() -> bytes:
        with _system(address).open_input_stream(address.path) as stream:
            return bytes(stream.read())

    return _reading(address, lambda: retrying(read))


def fetch(address: Address, path: Path) -> None:
    """Copy an object into a file of this machine.

    Raises:
        StoreError: The object cannot be read, or the file not be written.
    """

    def copy() -> None:
        with _system(address).open_input_stream(address.path) as stream, path.open("wb") as file:
            while data := stream.read(1 << 20):
                with _writing(path):  # a full disk here is no error of the store
                    file.write(data)

    _reading(address, lambda: retrying(copy))


def write_bytes(address: Address, data: Any, *, overwrite: bool = True) -> None:
    """Write a file, with its folders.

    Args:
        address: The file.
        data: Its contents, as bytes or a buffer.
        overwrite: Replace an existing file of this machine. Objects are always replaced.

    Raises:
        OutputError: The file exists and `overwrite` is false, or cannot be written.
        StoreError: The object cannot be written.
    """
    if address.is_local:
        path = Path(address.path)
        make_folder(path.parent)
        publish(data, path, overwrite=overwrite)
        return

    def write() -> None:
        with _system(address).open_output_stream(address.path) as stream:
            stream.write(data)

    with _writing(address):
        retrying(write)


def upload(path: Path, address: Address) -> None:
    """Copy a file of this machine into a store.

    Raises:
        StoreError: It cannot be read or written.
    """
    import pyarrow

    # Mapped, so that a failing read cannot end an upload before its end, as if it were complete.
    with _writing(address), pyarrow.memory_map(os.fspath(path)) as file:
        write_bytes(address, file.read_buffer())


def size_of(address: Address) -> int | None:
    """Return the size of a file in bytes; None if there is no such file.

    Raises:
        StoreError: The store cannot be asked.
    """
    if address.is_local:
        with contextlib.suppress(OSError, ValueError):
            return os.stat(address.path).st_size if os.path.isfile(address.path) else None
        return None
    info = _reading(address, lambda: retrying(lambda: _system(address).get_file_info(address.path)))
    return int(info.size) if info.is_file else None


def list_folder(address: Address) -> Iterator[tuple[str, int]]:
    """Yield the relative names and sizes in bytes of all files in a folder of a store.

    Hidden files and folders, whose names begin with a dot, are left out. One level is in memory at
    a time; of Google's store all of them, since pyarrow finds only those folders in a level that
    have objects of their own, which hardly any has.

    Raises:
        StoreError: The folder cannot be listed.
    """
    from pyarrow.fs import FileSelector

    system = _system(address)
    root = address.path.rstrip("/") + "/"
    at_once = address.scheme == "gs"
    folders = [address.path]
    while folders:
        folder = folders.pop()
        selector = FileSelector(folder, recursive=at_once)
        found = _reading(
            address, functools.partial(retrying, functools.partial(system.get_file_info, selector))
        )
        below = []
        for info in sorted(found, key=lambda info: str(info.path)):
            name = info.path.removeprefix(root)
            if any(part.startswith(".") for part in name.split("/")):
                continue
            if info.is_file:
                yield name, int(info.size or 0)
            elif not at_once:
                below.append(info.path)
        folders += reversed(below)


def list_names(address: Address) -> list[str]:
    """Return the names of the files in a folder; none if there is no such folder.

    Raises:
        StoreError: The folder cannot be listed.
    """
    if address.is_local:
        if not os.path.isdir(address.path):
            return []
        return _reading(address, lambda: sorted(os.listdir(address.path)))
    from pyarrow.fs import FileSelector

    selector = FileSelector(address.path, allow_not_found=True)
    found = _reading(address, lambda: retrying(lambda: _system(address).get_file_info(selector)))
    return sorted(info.base_name for info in found if info.is_file)


def _reading(address: Address, action: Callable[[], _Result]) -> _Result:
    try:
        return action()
    except AnchorSRError:
        raise
    except Exception as error:  # every store has exceptions of its own
        raise StoreError(f"{address} cannot be read: {_short(error)}") from error


@contextlib.contextmanager
def _writing(place: Address | Path) -> Iterator[None]:
    try:
        yield
    except AnchorSRError:
        raise
    except Exception as error:
        raise StoreError(f"{place} cannot be written ({_short(error)})") from error


def _short(error: BaseException) -> str:
    """What a store says of an error, without what its library adds, and what to do about keys."""
    text = reason(error).partition(". Detail:")[0]
    for pattern in _MESSAGES:
        if match := pattern.search(text):
            text = ": ".join(filter(None, match.groups()))
    if _REFUSED.search(text):
        text = f"{text.rstrip('.')}; are the keys of this store right?"
    return text


@functools.lru_cache(maxsize=16)
def _open_system(scheme: str, bucket: str, options: tuple[tuple[str, str], ...]) -> Any:
    given = dict(options)
    with needs("pyarrow", "cluster"):
        from pyarrow import fs
    try:
        if scheme == "s3":
            return fs.S3FileSystem(**_s3_options(given, bucket, fs))
        if scheme == "gs":
            seconds = float(given.pop("retry_time_limit", _GOOGLE_SECONDS))
            limit = datetime.timedelta(seconds=seconds)
            return fs.GcsFileSystem(retry_time_limit=limit, **_flags(given))
        if scheme == "az":
            account = given.pop("account_name", "") or os.environ.get(
                "AZURE_STORAGE_ACCOUNT_NAME", os.environ.get("AZURE_STORAGE_ACCOUNT", "")
            )
            key = os.environ.get("AZURE_STORAGE_KEY")
            return fs.AzureFileSystem(account, **{"account_key": key, **_flags(given)})
        return _other_system(scheme, given, fs)
    except (TypeError, ValueError, OSError, KeyError, AttributeError) as error:
        raise DataError(f"{scheme}://{bucket} cannot be opened: {_short(error)}") from error


def _system(address: Address) -> Any:
    """The file system of an address, which is kept for the next one."""
    return _open_system(address.scheme, address.path.partition("/")[0], address.options)


def _s3_options(given: dict[str, str], bucket: str, fs: Any) -> dict[str, Any]:
    options: dict[str, Any] = {"allow_delayed_open": True, **_flags(given)}  # one request a file
    endpoint = options.get("endpoint_override") or os.environ.get("AWS_ENDPOINT_URL_S3")
    endpoint = endpoint or os.environ.get("AWS_ENDPOINT_URL")
    scheme, separator, host = (endpoint or "").partition("://")
    if endpoint:
        # Other stores than Amazon's may not know the checksums that its library adds by default.
        os.environ.setdefault("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
        options["endpoint_override"] = host if separator else endpoint
        if separator:
            options.setdefault("scheme", scheme)
        options.setdefault("region", os.environ.get("AWS_REGION", "us-east-1"))
    elif "region" not in options and not os.environ.keys() & {"AWS_REGION", "AWS_DEFAULT_REGION"}:
        options["region"] = fs.resolve_s3_region(bucket)
    return options


def _flags(given: dict[str, str]) -> dict[str, Any]:
    """Options with their types: true, false, numbers and text."""
    words: dict[str, Any] = {"true": True, "false": False}
    return {key: words.get(text.lower(), text) for key, text in given.items()}


def _other_system(scheme: str, given: dict[str, str], fs: Any) -> Any:
    """A file system of fsspec, which knows many more kinds of stores."""
    with needs("fsspec", "cluster"):
        import fsspec
    try:
        system = fsspec.filesystem(scheme, **_flags(given))
    except ImportError as error:
        raise DataError(f"{scheme}:// needs another package: {reason(error)}") from error
    return fs.PyFileSystem(fs.FSSpecHandler(system))
