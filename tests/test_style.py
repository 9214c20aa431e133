"""The linter, the formatter, the type checker and the import linter have nothing to say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "check"],
        ["ruff", "format", "--check"],
        pytest.param(["mypy"], marks=pytest.mark.slow),
        ["lint-imports"],
    ],
    ids=["ruff check", "ruff format", "mypy", "import-linter"],
)
def test_style_checker_is_content(command: list[str]) -> None:
    program = Path(sys.executable).with_name(command[0])
    if not program.exists():
        pytest.skip("needs anchorsr[dev]")
    ended = subprocess.run(
        [program, *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
