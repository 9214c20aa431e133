"""Damaged files of every kind give an error of our own or a result, and never anything else.

ANCHORSR_FUZZ_SECONDS is how long each kind is tried: half a second by default, with the same files
every time; with more than a second, the files are others each time.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import fuzz

SECONDS = float(os.environ.get("ANCHORSR_FUZZ_SECONDS", "0.5"))
NEEDS = {"videos": "av", "checkpoints": "torch"}
# Those that need little share a process.
GROUPS = ["images,tflite,cards,recipes", "videos", "checkpoints"]


def test_every_kind_is_tried() -> None:
    assert set(",".join(GROUPS).split(",")) == set(fuzz.KINDS)


@pytest.mark.slow
@pytest.mark.parametrize("kinds", GROUPS)
def test_damaged_files(kinds: str, tmp_path: Path) -> None:
    if kinds in NEEDS:
        pytest.importorskip(NEEDS[kinds])
    seed = 0 if SECONDS <= 1 else random.randrange(2**32)
    ended = subprocess.run(
        [sys.executable, fuzz.__file__, kinds, str(SECONDS), str(seed), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )
    assert ended.returncode == 0, f"seed {seed} in {tmp_path}: {ended.stderr[-3000:]}"
    lines = [line.split() for line in ended.stdout.splitlines()]
    counts = {words[0]: words[1] for words in lines if words and words[0] in fuzz.KINDS}
    assert counts.keys() == set(kinds.split(","))
    assert all(int(count) > 0 for count in counts.values())
    print(f"seed {seed}, damaged files: {counts}")
