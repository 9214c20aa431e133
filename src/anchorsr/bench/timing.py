"""Time and memory: of calls that take turns, and of a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from anchorsr.errors import BenchmarkError

# The threads of an engine spin for a while after a call, on processors that the next call needs.
PAUSE_S = 0.05

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Times:
    """Seconds that one thing took, in the order of the rounds."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return float(np.median(self.seconds))

    @property
    def quartiles(self) -> tuple[float, float]:
        """The first and the third: half of all times lie between them."""
        low, high = np.percentile(self.seconds, (25, 75))
        return float(low), float(high)

    def relative_to(self, other: Times) -> float:
        """How many times as long the other took: the median over rounds that both were in."""
        pairs = zip(other.seconds, self.seconds, strict=True)
        return float(np.median([theirs / mine for theirs, mine in pairs]))


def take_turns(
    calls: Mapping[Key, Callable[[], object]],
    *,
    rounds: int,
    pause_s: float = PAUSE_S,
    on_call: Callable[[], None] | None = None,
) -> dict[Key, Times]:
    """The times of each call, once a round, every other round in reverse order.

    What changes on a machine while it is measured changes for all alike. One round before the
    first is dropped. Within a round each call is made twice and timed the second time, as it is
    in a row of its own kind. on_call: called once for each call and round, that one included.
    """
    seconds: dict[Key, list[float]] = {key: [] for key in calls}
    order = list(calls)
    for _ in range(rounds + 1):
        order.reverse()
        for key in order:
            time.sleep(pause_s)
            calls[key]()
            start = time.perf_counter()
            calls[key]()
            seconds[key].append(time.perf_counter() - start)
            if on_call is not None:
                on_call()
    return {key: Times(tuple(values[1:])) for key, values in seconds.items()}


@dataclass(frozen=True)
class Ended:
    """A process that ended well: its time, the most memory it had, and what it printed.

    peak_bytes is resident memory; None where the system does not tell it (Windows).
    """

    seconds: float
    peak_bytes: int | None
    output: str


# A process's peak starts at that of the one it is started from, which here holds engines: a
# small one stands between.
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


def run_process(command: Sequence[str]) -> Ended:
    """Run a command from start to end. Raises BenchmarkError when it fails."""
    watch = [sys.executable, "-I", "-S", "-c", _WATCH, *command]
    code, seconds, peak, output, errors = json.loads(subprocess.check_output(watch))
    if code < 0:
        raise BenchmarkError(
            f"the process that was measured was killed (signal {-code}): was there not enough"
            " memory for it?"
        )
    if code:
        raise BenchmarkError(f"the process that was measured failed: {_last_line(errors)}")
    return Ended(seconds, peak, output)


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it said nothing"])[-1].removeprefix("error: ")
