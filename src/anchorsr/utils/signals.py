"""Signals that ask the process to stop, all handled as Ctrl-C is.

Python raises KeyboardInterrupt for SIGINT only. SIGTERM (`kill`, a shutdown, a stopped container)
and SIGHUP (a closed terminal) end a process on the spot, and what it was writing stays behind. A
signal that the caller ignores, as `nohup` does, stays ignored.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_HANG_UP = getattr(signal, "SIGHUP", None)  # Windows has none
_NUMBERS = [signal.SIGINT, signal.SIGTERM, *([] if _HANG_UP is None else [_HANG_UP])]
_received: list[int] = []


def raise_interrupts() -> None:
    """Raise KeyboardInterrupt for each of the signals, in the process of a command line."""
    for number in _handled():
        signal.signal(number, _raise)


def ignore_interrupts() -> None:
    """Ignore the signals, so that the process ends as it is about to, without a traceback."""
    for number in _handled():
        signal.signal(number, signal.SIG_IGN)


def interrupted_code() -> int:
    """Return the exit code of an interrupted command: 128 plus the number of the last signal."""
    return 128 + (_received[-1] if _received else signal.SIGINT)


@contextmanager
def held_interrupts(most: int | None = None) -> Iterator[list[int]]:
    """Note signals inside the `with` block instead of raising KeyboardInterrupt.

    Outside the main thread, where no signal is handled, the list stays empty.

    Args:
        most: After this many signals, the next one has its usual effect again; None for never.

    Yields:
        The numbers of the signals received so far.
    """
    noted: list[int] = []
    numbers = _handled()
    previous = {number: signal.getsignal(number) for number in numbers}

    def note(number: int, _: FrameType | None) -> None:
        _received.append(number)
        noted.append(number)
        if most is None or len(noted) < most:
            return
        for each in numbers:
            # A closed terminal sends the signal twice; the second one is ignored.
            again = signal.SIG_IGN if number == each == _HANG_UP else previous[each]
            signal.signal(each, again)

    try:
        for number in numbers:
            signal.signal(number, note)
    except ValueError:  # signals can be handled in the main thread only
        yield noted
        return
    try:
        yield noted
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def delayed_interrupts() -> Iterator[None]:
    """Raise KeyboardInterrupt at the end of the `with` block, for a signal that came inside it.

    For calls of C code that calls Python back: PyAV, for one, drops what is raised there.
    """
    with held_interrupts() as requests:
        yield
    if requests:
        raise KeyboardInterrupt


def _handled() -> list[signal.Signals]:
    """The signals that are neither ignored nor handled outside Python."""
    return [n for n in _NUMBERS if signal.getsignal(n) not in (signal.SIG_IGN, None)]


def _raise(number: int, _: FrameType | None) -> None:
    _received.append(number)
    raise KeyboardInterrupt
