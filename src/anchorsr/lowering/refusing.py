"""Errors of a layer as errors of the node that calls it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import fx

from anchorsr.errors import GraphError
from anchorsr.lowering.builder import Builder


@contextmanager
def refusing(builder: Builder, node: fx.Node) -> Iterator[None]:
    """Name the node in a GraphError, or an error of PyTorch's, that is raised inside."""
    try:
        yield
    except (GraphError, TypeError, ValueError) as error:
        raise builder.refusal(node, str(error)) from error
