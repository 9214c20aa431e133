"""Addresses of files and folders: paths of this machine, and those of object stores."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl

from anchorsr.errors import DataError

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://(.*)", re.DOTALL)
# Names by which people know one and the same kind of store.
_SAME = {"s3a": "s3", "s3n": "s3", "gcs": "gs", "abfs": "az", "abfss": "az"}


@dataclass(frozen=True)
class Address:
    """Where a file or folder is.

    Attributes:
        scheme: The kind of store, such as `s3`; empty for a path of this machine.
        path: BUCKET/KEY, or an absolute path.
        options: Options of the store, such as its endpoint, that stood behind a question mark.
    """

    scheme: str
    path: str
    options: tuple[tuple[str, str], ...] = ()

    @property
    def is_local(self) -> bool:
        """Whether it is a path of this machine."""
        return not self.scheme

    def below(self, name: str) -> Address:
        """Return the address of what has this relative name in it."""
        return Address(self.scheme, f"{self.path.rstrip('/')}/{name}", self.options)

    def name_in(self, folder: Address) -> str | None:
        """Return the relative name of what is in a folder; None if it is elsewhere."""
        inside = folder.path.rstrip("/") + "/"
        if self.scheme != folder.scheme or not self.path.startswith(inside):
            return None
        return self.path.removeprefix(inside)

    def __str__(self) -> str:
        return self.path if self.is_local else f"{self.scheme}://{self.path}"


def parse_address(text: str, *, base: str | None = None, options: bool = True) -> Address:
    """Parse a path, or an address such as `s3://BUCKET/FOLDER?endpoint_override=HOST:PORT`.

    Args:
        text: The path or address. `file://` is a path.
        base: The folder of relative paths; by default the current one.
        options: Whether there can be options. In a list of addresses a question mark is a
            letter of the name.

    Raises:
        DataError: If it is empty, or holds a password.
    """
    match = _SCHEME.fullmatch(text)
    if not text.strip() or "\0" in text:
        raise DataError(f"{text!r} is no path and no address")
    if match is None or match[1].lower() == "file":
        path = text if match is None else match[2]
        return Address("", os.path.abspath(os.path.join(base or os.getcwd(), path)))
    scheme = match[1].lower()
    path, _, query = match[2].partition("?") if options else (match[2], "", "")
    bucket, _, key = path.partition("/")
    if "@" in bucket:
        raise DataError(
            f"an address of {scheme}:// holds no keys or passwords, as it is printed and stored:"
            f" give them as the store's own tools take them, in the environment or a file"
        )
    if not bucket:
        raise DataError(f"{text} names no bucket: expected {scheme}://BUCKET/FOLDER")
    path = f"{bucket}/{key.rstrip('/') if options else key}"
    return Address(_SAME.get(scheme, scheme), path.rstrip("/"), tuple(parse_qsl(query)))


def check_name(name: str) -> str | None:
    """Return why a relative name cannot be one in a target; None if it can."""
    parts = name.split("/")
    if not name or any(part in ("", ".", "..") for part in parts) or "\0" in name:
        return "has parts that are empty or lead out of the folder"
    if os.sep != "/" and (os.sep in name or Path(name).drive):
        return "is not a relative name on this system"
    return None
