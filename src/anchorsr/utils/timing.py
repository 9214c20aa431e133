"""Interleaved timing of calls."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

# An engine's threads spin for a while after a call, on cores that the next call needs.
PAUSE_S = 0.05

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Times:
    """The seconds that one call took, round by round."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median in seconds."""
        return float(np.median(self.seconds))

    @property
    def quartiles(self) -> tuple[float, float]:
        """The first and the third quartile in seconds: the ends of the interquartile range."""
        low, high = np.percentile(self.seconds, (25, 75))
        return float(low), float(high)

    def speedup_over(self, other: Times) -> float:
        """Return how many times as long the other took: the median of the rounds' ratios.

        Raises:
            ValueError: The two were not timed in the same number of rounds.
        """
        pairs = zip(other.seconds, self.seconds, strict=True)
        return float(np.median([theirs / mine for theirs, mine in pairs]))


def time_interleaved(
    calls: Mapping[Key, Callable[[], object]],
    *,
    rounds: int,
    untimed: int = 1,
    pause_s: float | None = None,
    budget_s: float = math.inf,
    on_call: Callable[[], None] | None = None,
) -> dict[Key, Times]:
    """Time each call once per round, in an order that is reversed every round.

    Interleaved, whatever changes on the machine meanwhile affects all calls alike. The round
    before the first is a warm-up and is dropped.

    Args:
        calls: The functions to time.
        rounds: The rounds that count.
        untimed: Calls right before each timed one, so that it finds the caches as it would
            between calls of its own kind.
        pause_s: Seconds of sleep before each call; PAUSE_S by default.
        budget_s: A call whose timed calls have taken this long, the dropped one included, is not
            timed again, but is timed at least once after the warm-up.
        on_call: Called after each timed call, those of the warm-up included.

    Returns:
        The times of each call.
    """
    pause_s = PAUSE_S if pause_s is None else pause_s
    seconds: dict[Key, list[float]] = {key: [] for key in calls}
    order = list(calls)
    for _ in range(rounds + 1):
        order.reverse()
        for key in order:
            if len(seconds[key]) > 1 and sum(seconds[key]) >= budget_s:
                continue
            time.sleep(pause_s)
            for _ in range(untimed):
                calls[key]()
            start = time.perf_counter()
            calls[key]()
            seconds[key].append(time.perf_counter() - start)
            if on_call is not None:
                on_call()
    return {key: Times(tuple(values[1:])) for key, values in seconds.items()}


def count_progress(
    on_progress: Callable[[int, int], None] | None, total: int
) -> Callable[[], None] | None:
    """Turn a callback that takes (done, total) into one that is called once per step."""
    if on_progress is None:
        return None
    done = 0

    def on_step() -> None:
        nonlocal done
        done += 1
        on_progress(done, total)

    return on_step
