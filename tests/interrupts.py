"""An interrupt of the process that tests run in."""

from __future__ import annotations

import signal


def interrupt() -> None:
    """Do what Python does in an interrupt, without the signal.

    The libraries of other tests can leave this process a stack for signals that is not there any
    more: the kernel then ends it without a word. `test_training` sends one to another process.
    """
    handler = signal.getsignal(signal.SIGINT)
    assert callable(handler)
    handler(signal.SIGINT, None)
