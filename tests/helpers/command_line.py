"""Running command lines in the process of the tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest

from anchorsr.cli import app
from helpers.extras import skip_reason


class Result(NamedTuple):
    code: int
    out: str
    err: str


Call = Callable[..., Result]


def run_app(capsys: pytest.CaptureFixture[str], *words: object) -> Result:
    """Run a command line; what it prints goes into the result.

    Skips if an extra is missing that the command needs.
    """
    code = app.run([str(word) for word in words])
    result = Result(code, *capsys.readouterr())
    if reason := skip_reason(result.err):
        pytest.skip(reason)
    return result
