"""Damaged files of every kind give an error of our own or a result, and never anything else.

ANCHORSR_FUZZ_SECONDS is how long each kind is tried: a second by default, with the same files every
time; with more, the files are others each time.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import fuzz

SECONDS = float(os.environ.get("ANCHORSR_FUZZ_SECONDS", "1"))
NEEDS = {"videos": "av", "checkpoints": "torch"}


@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_damaged_files(kind: str, tmp_path: Path) -> None:
    if kind in NEEDS:
        pytest.importorskip(NEEDS[kind])
    seed = 0 if SECONDS <= 1 else random.randrange(2**32)
    ended = subprocess.run(
        [sys.executable, fuzz.__file__, kind, str(SECONDS), str(seed), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )
    assert ended.returncode == 0, f"seed {seed} in {tmp_path}: {ended.stderr[-3000:]}"
    count = int(ended.stdout.split()[-1])
    assert count > 0
    print(f"{kind}: {count} damaged files, seed {seed}")
