"""A per-user cache of small JSON values.

Its folder is $ANCHORSR_CACHE, else `anchorsr` in the system's cache folder ($XDG_CACHE_HOME or
~/.cache; ~/Library/Caches on macOS, %LOCALAPPDATA% on Windows). Nothing depends on it: an
unreadable entry is a miss, and a failure to write is ignored.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from anchorsr.errors import OutputError
from anchorsr.utils.files import make_folder, publish, reason


def recall(key: dict[str, Any]) -> dict[str, Any]:
    """Return the value stored under an equal key, or an empty dictionary."""
    try:
        kept = json.loads(_place(key).read_bytes())
        return dict(kept["value"]) if kept["key"] == key else {}
    except (OSError, ValueError, LookupError, TypeError, RuntimeError, RecursionError):
        return {}


def remember(key: dict[str, Any], value: dict[str, Any]) -> None:
    """Store a value atomically, replacing an earlier one. Key and value must be plain JSON."""
    data = json.dumps({"key": key, "value": value}, indent=1).encode()
    with contextlib.suppress(OutputError, OSError, ValueError, RuntimeError):
        place = _place(key)
        make_folder(place.parent)
        publish(data, place, overwrite=True)


def remembered() -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return all keys and values."""
    found = []
    with contextlib.suppress(OSError, RuntimeError):
        for path in sorted(cache_folder().glob("*.json")):
            with contextlib.suppress(OSError, ValueError, LookupError, TypeError, RecursionError):
                kept = json.loads(path.read_bytes())
                if path == _place(kept["key"]):
                    found.append((dict(kept["key"]), dict(kept["value"])))
    return found


def forget(key: dict[str, Any]) -> None:
    """Delete the value stored under an equal key.

    Raises:
        OutputError: It cannot be deleted.
    """
    path = _place(key)
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{path} cannot be deleted ({reason(error)})") from error


def cache_folder() -> Path:
    """Return the folder of the cache.

    Raises:
        RuntimeError: If the user has no home folder.
    """
    given = os.environ.get("ANCHORSR_CACHE")
    if given:
        return Path(given)
    if sys.platform == "win32":
        caches = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        caches = Path.home() / "Library" / "Caches"
    else:
        caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches, "anchorsr")


def _place(key: dict[str, Any]) -> Path:
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return cache_folder() / f"{digest[:32]}.json"
