"""The files that the page consists of."""

from __future__ import annotations

from pathlib import Path

from anchorsr.evaluation.compare import COMPARISON_FILES

PAGE = Path(__file__).with_name("page")
SHARED_FILES = COMPARISON_FILES  # which the page of `anchorsr compare` has too
_LEFT_OUT = ("kernel.json",)  # which tells the tests what the kernel was built from


def page_files() -> dict[str, Path]:
    """Return the files by their names in addresses."""
    own = [path for path in sorted(PAGE.iterdir()) if path.name not in _LEFT_OUT]
    return {path.name: path for path in [*own, *SHARED_FILES]}
