"""Running command lines in the process of the tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest

from anchorsr.cli import app


class Result(NamedTuple):
    code: int
    out: str
    err: str


Call = Callable[..., Result]


def run_app(capsys: pytest.CaptureFixture[str], *words: object) -> Result:
    """Run a command line; what it prints goes into the result."""
    code = app.run([str(word) for word in words])
    return Result(code, *capsys.readouterr())
