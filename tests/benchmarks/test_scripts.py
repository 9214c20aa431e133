"""Every script in benchmarks/ starts: no other check imports all of them."""

import subprocess
import sys
from pathlib import Path

import pytest

from helpers.extras import skip_reason

pytestmark = pytest.mark.slow

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SCRIPTS = sorted(path for path in BENCHMARKS.glob("*.py") if "__main__" in path.read_text())


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_prints_its_help(script: Path) -> None:
    command = [sys.executable, str(script), "--help"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if reason := skip_reason(ended.stderr):
        pytest.skip(reason)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "usage:" in ended.stdout
