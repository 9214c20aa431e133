"""The process that a command line runs in."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import anchorsr

PROGRAM = """
import os, sys
from anchorsr.__main__ import main
sys.argv = ["anchorsr", "models", "--json"]
try:
    main()
except SystemExit as ended:
    assert ended.code == 0
import numpy as np
square = np.ones((900, 900), np.float32)
square @ square
print(len(os.listdir("/proc/self/task")))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's list of threads")
def test_exact_arithmetic_does_not_wait_for_threads_of_its_own() -> None:
    """With several, processes beside each other spend their time in busy loops."""
    kept = {key: value for key, value in os.environ.items() if not key.endswith("_NUM_THREADS")}
    source = str(Path(anchorsr.__file__).parents[1])
    printed = subprocess.check_output(
        [sys.executable, "-c", PROGRAM], env={**kept, "PYTHONPATH": source}, text=True
    )
    assert printed.splitlines()[-1] == "1"
