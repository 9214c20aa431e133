"""JSON as others read it: figures that are not finite have no number there."""

from __future__ import annotations

import json
import math
from typing import Any


def to_json(figures: Any, *, indent: int | None = None) -> str:
    """As JSON, which has no infinity, which the PSNR of equal images is: null there."""
    return json.dumps(_finite(figures), indent=indent, allow_nan=False)


def _finite(figures: Any) -> Any:
    if isinstance(figures, dict):
        return {key: _finite(value) for key, value in figures.items()}
    if isinstance(figures, list | tuple):
        return [_finite(value) for value in figures]
    return None if isinstance(figures, float) and not math.isfinite(figures) else figures
