"""The order and the number of timed calls; never how long they take."""

from __future__ import annotations

import pytest

from anchorsr.utils import timing
from anchorsr.utils.timing import Times, time_interleaved


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "PAUSE_S", 0.0)


def test_median_quartiles_and_ratio_of_times() -> None:
    mine = Times((1.0, 2.0, 3.0, 4.0, 100.0))
    assert mine.median == 3.0
    assert mine.quartiles == (2.0, 4.0)
    # The ratios are 2, 2, 2, 2 and 0.01: a single disturbed round does not count.
    assert mine.speedup_over(Times((2.0, 4.0, 6.0, 8.0, 1.0))) == 2.0
    with pytest.raises(ValueError, match="zip"):
        mine.speedup_over(Times((1.0,)))


def test_calls_are_interleaved_and_every_other_round_is_reversed() -> None:
    made: list[str] = []
    ticks: list[int] = []
    calls = {name: lambda name=name: made.append(name) for name in "abc"}
    times = time_interleaved(calls, rounds=3, on_call=lambda: ticks.append(1))
    # Each call twice, in the warm-up too.
    assert "".join(made) == "ccbbaa" + "aabbcc" + "ccbbaa" + "aabbcc"
    assert len(ticks) == 12
    assert {name: len(taken.seconds) for name, taken in times.items()} == dict.fromkeys("abc", 3)


def test_only_the_second_of_two_calls_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])
    durations = iter([50.0, 9.0, 40.0, 1.0, 30.0, 2.0])

    def call() -> None:
        clock[0] += next(durations)

    assert time_interleaved({"only": call}, rounds=2)["only"].seconds == (1.0, 2.0)


def test_a_call_that_used_up_its_budget_is_not_timed_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])

    def lasting(seconds: float) -> None:
        clock[0] += seconds

    calls = {"slow": lambda: lasting(9.0), "fast": lambda: lasting(2.0)}
    times = time_interleaved(calls, rounds=10, untimed=0, budget_s=5.0)
    assert times["slow"].seconds == (9.0,)  # once after the warm-up, whatever it takes
    assert times["fast"].seconds == (2.0, 2.0)
