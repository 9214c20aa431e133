"""Requests to stop are handled alike, whichever signal they come by."""

import signal
import subprocess
import sys

import pytest

from anchorsr.utils.signals import held_interrupts

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
PROGRAM = """
import signal, sys, time
from anchorsr.utils import signals
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    signals.raise_interrupts()
    signal.raise_signal(int(sys.argv[1]))
    time.sleep(5)
except KeyboardInterrupt:
    signals.ignore_interrupts()
    signal.raise_signal(int(sys.argv[1]))
    sys.exit(signals.interrupted_code())
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS)
def test_each_raises_once_and_gives_the_code_that_shells_have(number: int) -> None:
    ended = subprocess.run([sys.executable, "-c", PROGRAM, str(int(number))], check=False)
    assert ended.returncode == 128 + number


@pytest.fixture
def usual() -> object:
    """Each signal raises, whatever the caller of these tests ignores."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in SIGNALS}
    yield stop
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_held_signals_do_not_raise(usual: object, number: int) -> None:
    with held_interrupts() as received:
        for _ in range(3):
            signal.raise_signal(number)
    assert received == [number] * 3
    assert all(signal.getsignal(each) is usual for each in SIGNALS)


def test_one_more_than_the_most_raises(usual: object) -> None:
    with held_interrupts(most=1) as received:
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert received == [signal.SIGTERM]


def test_the_second_hang_up_of_a_closed_terminal_is_ignored(usual: object) -> None:
    with held_interrupts(most=1) as received:
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGHUP)
    assert received == [signal.SIGHUP]


def test_what_the_caller_ignores_stays_ignored(usual: object) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with held_interrupts() as received:
        signal.raise_signal(signal.SIGHUP)
    assert received == []
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
