"""Run the example in the docstring of a public function."""

from __future__ import annotations

import doctest
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any


def run_example(function: Callable[..., Any], name: str) -> None:
    """Run the docstring's example, in which the function is `anchorsr.<name>`."""
    names = {"anchorsr": SimpleNamespace(**{name: function})}
    (example,) = doctest.DocTestFinder(recurse=False).find(function, name, globs=names)
    failed, attempted = doctest.DocTestRunner(verbose=False).run(example)
    assert attempted > 0
    assert failed == 0
