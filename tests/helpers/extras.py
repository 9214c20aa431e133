"""A pytest plugin: what needs an extra that is not installed is skipped, with the extra's name.

Mark a test `torch`, `openvino` or `onnxruntime` if it needs one of them without importing it (a
command that exports to ONNX, say). A module or test that imports a missing package is skipped
without a mark. Where everything is installed, as with `anchorsr[dev]`, nothing is skipped.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable
from importlib.util import find_spec
from typing import Any

import pytest

from anchorsr.errors import MissingDependencyError

# Optional packages, by the name they are imported by, and the extra that installs each.
EXTRAS = {
    "torch": "train",
    "pytorch_optimizer": "train",
    "openvino": "fast",
    "onnx": "onnx",
    "onnxruntime": "onnx",
    "pillow_heif": "heic",
    "av": "video",
    "cv2": "opencv",
    "matplotlib": "plots",
    "watchfiles": "watch",
    "starlette": "web",
    "uvicorn": "web",
    "python_multipart": "web",
    "pyarrow": "cluster",
    "ray": "cluster",
    "litert_quantizer": "dev",
    "axe_playwright_python": "dev",
    "huggingface_hub": "dev",
    "hypothesis": "dev",
    "playwright": "dev",
    "tifffile": "dev",
}
MARKERS = ("torch", "openvino", "onnxruntime")


def missing_extra(package: str) -> str | None:
    """The extra that installs a package; None if it is installed, or no extra does."""
    try:
        missing = find_spec(package) is None
    except ImportError:  # hidden on purpose
        missing = True
    return EXTRAS.get(package) if missing else None


def skip_reason(error: BaseException | str) -> str | None:
    """Why to skip for this error, skip or text; None if it is not about a missing extra."""
    package = error.name if isinstance(error, ModuleNotFoundError) else None
    text = str(error)
    if isinstance(error, MissingDependencyError | pytest.skip.Exception | str):
        named = re.search(r"pip install 'anchorsr\[(\w+)\]'", text)
        if named and any(missing_extra(name) == named[1] for name in EXTRAS):
            return f"needs anchorsr[{named[1]}]"
        found = re.search(r"No module named '(\w+)", text)
        package = found[1] if found else None
    extra = missing_extra(package.partition(".")[0]) if package else None
    return f"needs anchorsr[{extra}]" if extra else None


def pytest_runtest_setup(item: pytest.Item) -> None:
    for package in MARKERS:
        extra = missing_extra(package) if item.get_closest_marker(package) else None
        if extra:
            pytest.skip(f"needs anchorsr[{extra}]")


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, Any, Any]:
    """Skip a module that imports what is not installed, with the extra's name."""
    report = yield
    reason = skip_reason(str(report.longrepr)) if report.outcome != "passed" else None
    if reason is not None:
        report.outcome = "skipped"
        report.longrepr = (str(collector.path), 1, f"Skipped: {reason}")
    return report


_MISSING = (ModuleNotFoundError, MissingDependencyError, pytest.skip.Exception)


def _skip_if_missing(outcome: BaseException) -> None:
    reason = skip_reason(outcome)
    if reason is not None:
        pytest.skip(reason)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup() -> Generator[None, Any, Any]:
    """Skip a test whose fixture imports what is not installed."""
    try:
        return (yield)
    except _MISSING as error:
        _skip_if_missing(error)
        raise


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call() -> Generator[None, Any, Any]:
    """Skip a test that imports what is not installed."""
    try:
        return (yield)
    except _MISSING as error:
        _skip_if_missing(error)
        raise


_HIDE = """
import sys

class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {packages!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Hide())
"""


def hiding(packages: Iterable[str]) -> str:
    """A `sitecustomize.py` with which Python does not find these packages."""
    return _HIDE.format(packages=sorted(packages))
