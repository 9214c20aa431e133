"""Fixtures of several test files: images that are part of the project, and test sets that are not.

What a test asserts about an image, it asserts about a generated one or `docs/dog.jpg`; the test
sets beside the project are further evidence.
"""

import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Before NumPy and PyTorch start their threads: two test processes on two cores, each with two
# threads that wait for each other in a loop, take several times as long as with one.
for _library in ("OMP", "OPENBLAS", "MKL"):
    os.environ.setdefault(f"{_library}_NUM_THREADS", "1")

# Compiled files are kept even where the environment says otherwise: without them, each worker
# compiles all tests, and each of hundreds of processes the project.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

import numpy as np
import pytest

from anchorsr.engines import selection
from anchorsr.images.io import read_rgb
from anchorsr.inference.upscaler import _ready
from helpers import chromium
from helpers.chromium import Chromium

pytest_plugins = ["helpers.extras"]  # what needs a missing extra is skipped, with its name

ROOT = Path(__file__).parents[1]
# Some tests import ONNX Runtime directly, which writes to the user's folder.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """With `-n`, give each worker tests that follow each other.

    Where two share a file, each starts its browser, its server or its training run.
    """
    if getattr(config.option, "numprocesses", None) and config.option.dist == "no":
        config.option.dist = "worksteal"


@pytest.fixture(scope="session", autouse=True)
def own_cache() -> Iterator[None]:
    """Tests neither read nor write the user's cache."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANCHORSR_CACHE", os.path.join(folder, "cache"))
        yield


@pytest.fixture(autouse=True)
def usual_signals() -> Iterator[None]:
    """Ctrl-C interrupts, also in tests that run in the background, where a shell has it ignored.

    A test does not change what a signal does in the next one.
    """
    names = ("SIGINT", "SIGTERM", "SIGHUP")
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module", autouse=True)
def one_engine(request: pytest.FixtureRequest, own_cache: None) -> Iterator[None]:
    """Make `auto` LiteRT, except where the choice is tested.

    Which engine is the fastest depends on the machine's load, and OpenVINO may round a tie
    differently.
    """
    with pytest.MonkeyPatch.context() as patch:
        if request.path.stem not in ("test_selection", "test_runtimes", "test_speed"):
            patch.setattr(selection, "installed_engines", lambda: ["litert"])
            # At the real sizes a trial of a shipped model takes seconds.
            patch.setattr(selection, "_SIZES", ((7, 9),))
            patch.setattr(selection, "_TIMED_SIZE", (8, 8))
        _ready.cache_clear()
        yield
        _ready.cache_clear()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of training and test images beside the project; skips if there is none."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs the test sets in ../shared/data, which are not part of the project")
    return folder


@pytest.fixture(scope="session")
def dog() -> np.ndarray:
    """A photograph, CC0, uint8 (288, 288, 3)."""
    return read_rgb(ROOT / "docs" / "dog.jpg")


@pytest.fixture(scope="module")
def running_browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    """A browser for the tests of a file; skips if there is none."""
    with chromium.running(tmp_path_factory.mktemp("chromium")) as started:
        yield started
