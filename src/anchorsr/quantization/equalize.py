"""Cross-layer equalization (arXiv 1906.04721): bring the ranges of a tensor's channels together.

The scale of a tensor follows from the channel with the largest values; a channel with a tenth of
them has a tenth of the levels. Between convolutions, through ReLU and sums, a channel may be
multiplied by a factor where it is written and divided by it where it is read. The network computes
the same, and its file is no larger or slower.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from anchorsr.arrays import Array
from anchorsr.graph import operators as ops
from anchorsr.graph.graph import Graph
from anchorsr.quantization.calibration import observe_tensors, share, tensor_roles

_UNCHANGED = np.ones(1, np.float32)


def equalize(graph: Graph, images: Iterable[npt.NDArray[np.uint8]]) -> Graph:
    """Multiply each channel of features by sqrt(largest of its tensor / largest of the channel).

    Without the root, weights of one filter would differ so much that the small ones round to zero.
    Channels that are never active are left as they are.

    Args:
        graph: A float graph.
        images: LR images, (H, W, 3) uint8, on which channels are measured.

    Raises:
        DataError: There are no images.
    """
    return scale_channels(graph, equalizing_factors(graph, largest_of_channels(graph, images)))


def largest_of_channels(
    graph: Graph, images: Iterable[npt.NDArray[np.uint8]]
) -> Mapping[str, Array]:
    """Measure the largest absolute value of each channel, (C,), of each tensor of a float graph.

    Args:
        graph: A float graph.
        images: LR images, (H, W, 3) uint8.

    Raises:
        DataError: There are no images.
    """
    largest: dict[str, Array] = {}

    def observe(name: str, values: Array) -> None:
        found = np.abs(values).max(axis=(0, 1, 2))
        largest[name] = np.maximum(largest.get(name, 0), found)

    observe_tensors(graph, images, observe)
    return largest


def equalizing_factors(graph: Graph, largest: Mapping[str, Array]) -> dict[str, Array]:
    """Return the factors (C,) of the tensors whose channels may be scaled, as of `equalize`.

    Args:
        graph: A float graph.
        largest: The largest absolute values of its channels.
    """
    factors: dict[str, Array] = {}
    for members in _scalable(graph):
        found = np.max([largest[name] for name in members], axis=0)
        most = found.max() or np.float32(1)
        factors.update(dict.fromkeys(members, np.sqrt(most / np.where(found > 0, found, most))))
    return factors


def scale_channels(graph: Graph, factors: Mapping[str, Array]) -> Graph:
    """Multiply channels by factors where they are written, and divide by them where read."""
    operators = [_scaled(operator, factors) for operator in graph.operators]
    return dataclasses.replace(graph, operators=operators)


def _scalable(graph: Graph) -> list[list[str]]:
    """Group the tensors whose channels may be scaled together.

    They are written by convolutions or sums, and read by convolutions or sums only.
    """
    first = share(graph, lambda operator, name: isinstance(operator, ops.Add | ops.ReLU))
    roles = tensor_roles(graph)
    kept = {first[name] for name, role in roles.items() if role != "features"}
    for operator in graph.operators:
        if isinstance(operator, ops.Add | ops.ReLU):
            continue
        if not isinstance(operator, ops.Conv2D) or operator.groups > 1 or operator.copies_channels:
            kept |= {first[name] for name in (*operator.inputs, operator.output)}
    members: dict[str, list[str]] = {}
    for name, one in first.items():
        if one not in kept:
            members.setdefault(one, []).append(name)
    return list(members.values())


def _scaled(operator: ops.Operator, factors: Mapping[str, Array]) -> ops.Operator:
    if not isinstance(operator, ops.Conv2D):
        return operator
    written = factors.get(operator.output, _UNCHANGED)
    read = factors.get(operator.input, _UNCHANGED)
    weights = operator.weights * written[:, None, None, None] / read
    return dataclasses.replace(operator, weights=weights, bias=operator.bias * written)
