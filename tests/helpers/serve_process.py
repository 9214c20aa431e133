"""A server on a port of its own, in a process of its own, for tests of it and of its page."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass
class Server:
    """A running `anchorsr serve`."""

    address: str
    process: subprocess.Popen[str]

    def stop(self) -> int:
        """Stop it as Ctrl-C does; returns its exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.end()

    def end(self) -> int:
        """Wait for its end; returns its exit code."""
        assert self.process.stdout is not None
        self.process.stdout.close()
        return self.process.wait(20)


def start(cache: Path, *options: str) -> Server:
    pytest.importorskip("starlette")
    pytest.importorskip("uvicorn")
    process = subprocess.Popen(
        [sys.executable, "-m", "anchorsr", "serve", "--no-open", "--port", "0", *options],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "ANCHORSR_CACHE": str(cache)},
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("http://"):
            return Server(line.split()[0], process)
    raise AssertionError(f"the server ended with {process.wait()}")
