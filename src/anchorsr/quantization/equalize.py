"""Cross-layer equalization (arXiv 1906.04721): channels of one tensor made more alike.

An integer tensor has one scale, which the channel of the largest values decides; one of a tenth
of them has a tenth of the levels. Between convolutions, through ReLU and sums, a channel may be
made larger where it is written and smaller by as much where it is read: the network stays the
same, and no file is larger or slower for it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from anchorsr.graph import operators as ops
from anchorsr.graph.graph import Graph
from anchorsr.quantization.calibration import observe_tensors, share, tensor_roles

_UNCHANGED = np.ones(1, np.float32)


def equalize(graph: Graph, images: Iterable[npt.NDArray[np.uint8]]) -> Graph:
    """The float graph with each channel of features nearer to the largest of its tensor.

    A channel is enlarged by the root of what it lacks: in full, weights of one filter would differ
    so much that the small ones of them round to nothing. Channels are measured on LR images,
    (H, W, 3) uint8, and those that are never active stay as they are. Raises DataError without
    images.
    """
    largest: dict[str, ops.Array] = {}

    def observe(name: str, values: ops.Array) -> None:
        found = np.abs(values).max(axis=(0, 1, 2))
        largest[name] = np.maximum(largest.get(name, 0), found)

    observe_tensors(graph, images, observe)
    factors: dict[str, ops.Array] = {}
    for members in _scalable(graph):
        found = np.max([largest[name] for name in members], axis=0)
        most = found.max() or np.float32(1)
        factors.update(dict.fromkeys(members, np.sqrt(most / np.where(found > 0, found, most))))
    operators = [_scaled(operator, factors) for operator in graph.operators]
    return dataclasses.replace(graph, operators=operators)


def _scalable(graph: Graph) -> list[list[str]]:
    """Sets of tensors whose channels may be scaled together: written by convolutions, and read
    by convolutions or sums only."""
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


def _scaled(operator: ops.Operator, factors: dict[str, ops.Array]) -> ops.Operator:
    if not isinstance(operator, ops.Conv2D):
        return operator
    written = factors.get(operator.output, _UNCHANGED)
    read = factors.get(operator.input, _UNCHANGED)
    weights = operator.weights * written[:, None, None, None] / read
    return dataclasses.replace(operator, weights=weights, bias=operator.bias * written)
