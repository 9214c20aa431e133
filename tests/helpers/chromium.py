"""Chromium for tests: one for a session, killed where a test hangs, and then started again."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
_FLAGS = [
    "--no-sandbox",  # there is none for root
    "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--force-color-profile=srgb",
]  # fmt: skip


class Chromium:
    """A browser that is started when it is first used."""

    def __init__(self, playwright: Any, folder: Path) -> None:
        self._playwright = playwright
        self._browser: Any = None
        # Playwright does not tell the process; this notes it and becomes the browser.
        self._process = folder / "process"
        self._program = folder / "chromium"
        self._program.write_text(f'#!/bin/sh\necho $$ > "{self._process}"\nexec {PROGRAM} "$@"\n')
        self._program.chmod(0o755)

    def new_context(self, **options: Any) -> Any:
        """A context of the running browser, with Playwright's options."""
        if self._browser is None or not self._browser.is_connected():
            self._browser = self._playwright.chromium.launch(
                executable_path=str(self._program), args=_FLAGS
            )
        return self._browser.new_context(**options)

    @contextlib.contextmanager
    def limit(self, seconds: float) -> Iterator[Chromium]:
        """Close all contexts at the end of the block, and kill the browser if that is late.

        Some of Playwright's calls, `evaluate` among them, have no limit of their own; they fail
        when the browser is gone. The next context is one of a new browser.
        """
        late = threading.Event()

        def end() -> None:
            late.set()
            self.kill()

        timer = threading.Timer(seconds, end)
        timer.start()
        try:
            yield self
        finally:
            if self._browser is not None:
                for context in list(self._browser.contexts):
                    with contextlib.suppress(Exception):  # the browser may be gone
                        context.close()
            timer.cancel()
            timer.join()
        if late.is_set():
            pytest.fail(f"Chromium took longer than {seconds:g} seconds, and was killed")

    def kill(self) -> None:
        """End the browser at once."""
        with contextlib.suppress(OSError, ValueError):
            os.kill(int(self._process.read_text()), signal.SIGKILL)

    def close(self) -> None:
        """End the browser in order."""
        if self._browser is not None:
            self._browser.close()


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Chromium]:
    """Yield a browser; skip the test, with a reason, where there is none.

    Args:
        folder: An empty one for its own files.
    """
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    if PROGRAM is None:
        pytest.skip("needs a browser: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        chromium = Chromium(driver, folder)
        yield chromium
        chromium.close()
