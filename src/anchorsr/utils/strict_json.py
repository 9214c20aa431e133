"""JSON that every parser reads: numbers that are not finite become null."""

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


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
