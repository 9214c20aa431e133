"""JSON that every parser reads: numbers that are not finite become null, and nesting is limited."""

from __future__ import annotations

import json
import math
from typing import Any


def to_json(value: Any, *, indent: int | None = None) -> str:
    """Encode as JSON, with null for NaN and infinity (the PSNR of equal images).

    Args:
        value: What `json.dumps` takes.
        indent: Spaces per level; None for one line.
    """
    text = json.dumps(_finite(value), indent=indent, allow_nan=False)
    return text.replace("\x7f", "\\u007f")  # the one control character that JSON allows


def parse_json(text: str | bytes) -> Any:
    """Decode JSON, and refuse what is nested so deeply that code which follows it would fail.

    Raises:
        ValueError: The text is not JSON, not UTF-8, or nested more than 100 levels deep.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    check_depth(value)
    return value


def check_depth(value: Any) -> None:
    """Raise ValueError if dictionaries and lists are nested more than 100 levels deep."""
    level = [value]
    for _ in range(_MOST_LEVELS + 1):
        level = [
            inner
            for each in level
            if isinstance(each, dict | list | tuple)
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return
    raise ValueError(_TOO_DEEP)


_MOST_LEVELS = 100
_TOO_DEEP = f"it is nested more than {_MOST_LEVELS} levels deep"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
