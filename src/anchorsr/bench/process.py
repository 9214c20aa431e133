"""Time and peak memory of a whole process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from anchorsr.errors import BenchmarkError


@dataclass(frozen=True)
class ProcessResult:
    """A process that exited with 0.

    Attributes:
        seconds: From its start to its end.
        peak_bytes: The most resident memory it had; None on Windows, which does not report it.
        output: What it printed.
    """

    seconds: float
    peak_bytes: int | None
    output: str


# A process's peak starts at that of the process it was forked from, which holds engines here. So a
# small process stands between.
_WATCH = """
import json, subprocess, sys, time
start = time.perf_counter()
try:
    done = subprocess.run(sys.argv[1:], capture_output=True, text=True, errors="replace")
except OSError as error:
    print(json.dumps([1, 0, None, "", f"{sys.argv[1]}: {error.strerror}"]))
    sys.exit()
seconds = time.perf_counter() - start
try:
    import resource
except ImportError:
    peak = None
else:
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit
print(json.dumps([done.returncode, seconds, peak, done.stdout, done.stderr]))
"""


def run_process(command: Sequence[str]) -> ProcessResult:
    """Run a command and measure it.

    Raises:
        BenchmarkError: It failed, was killed or could not be started.
    """
    watch = [sys.executable, "-I", "-S", "-c", _WATCH, *command]
    code, seconds, peak, output, errors = json.loads(subprocess.check_output(watch))
    if code < 0:
        raise BenchmarkError(
            f"the measured process was killed by signal {-code}; it may have run out of memory"
        )
    if code:
        raise BenchmarkError(f"the measured process failed: {_last_line(errors)}")
    return ProcessResult(seconds, peak, output)


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it printed nothing"])[-1].removeprefix("error: ")
