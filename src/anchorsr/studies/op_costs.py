"""Which graphs are timed for what an operator costs, and how their times are summed.

From the time of a graph that holds an operator alone, that of the empty graph is taken off:

- Where the operator's output can be its input, what stands for the empty graph is the one that
  applies it once, and against that one that applies it four times is held. What an engine does
  at the edges of a graph, changes of layout above all, is the same in both.
- The edges of another convolution are found by such pairs as well, of 1×1 convolutions: half of
  those with the input's shape, half of those with the output's.
- Other operators have no edges but what a call takes whatever it does: a graph over one pixel.

A residual is what a graph takes longer than the same without it. A cost is a difference of medians,
and may come out below zero where it drowns in their spread.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from anchorsr.bench.timing import Times
from anchorsr.graph.graph import Graph
from anchorsr.studies.op_graphs import (
    IMAGE,
    OperatorClass,
    Precision,
    Tail,
    operator_graph,
    tail_graph,
)

_REPEATS = 4


@dataclass(frozen=True)
class Residual:
    """A residual form at a width."""

    form: Tail
    channels: int

    @property
    def label(self) -> str:
        return f"{self.form.replace('_', ' ')}; {self.channels}"


@dataclass(frozen=True)
class Probe:
    """A graph to be timed: an operator so many times in a row, or a residual's tail.

    file_edges: takes and gives what a network's file does, uint8 and not int8.
    """

    of: OperatorClass | Residual
    count: int = 1
    file_edges: bool = False

    def graph(self, precision: Precision) -> Graph:
        if isinstance(self.of, Residual):
            return tail_graph(self.of.form, self.of.channels, precision)
        return operator_graph(self.of, precision, count=self.count, file_edges=self.file_edges)

    @property
    def extent(self) -> int:
        return 1 if isinstance(self.of, Residual) else self.of.extent


# A cost as a sum of times, each with what it is multiplied by.
Terms = Mapping[Probe, float]
# What every call takes: a graph over one pixel.
CALL: Terms = {Probe(OperatorClass("Add", IMAGE, IMAGE, extent=0)): 1.0}


def cost_terms(of: OperatorClass | Residual) -> Terms:
    """What is to be timed for the cost of one operator, and how it is summed."""
    if isinstance(of, Residual):
        return {Probe(of): 1.0, Probe(Residual("none", of.channels)): -1.0}
    if of.repeats:
        return {Probe(of, _REPEATS): 1 / (_REPEATS - 1), Probe(of): -1 / (_REPEATS - 1)}
    alone = {Probe(of): 1.0}
    if not of.convolves:
        return combine([(alone, 1.0), (CALL, -1.0)])
    edges = [edge_terms(of.inputs, of.extent), edge_terms(of.outputs, of.output_extent)]
    return combine([(alone, 1.0), *((terms, -0.5) for terms in edges)])


def edge_terms(channels: int, extent: int) -> Terms:
    """The edges of a graph of convolutions: one that keeps the shape, less what that takes."""
    keeps = OperatorClass("Conv2D", channels, channels, extent)
    return combine([({Probe(keeps): 1.0}, 1.0), (cost_terms(keeps), -1.0)])


def file_terms(factor: int) -> Terms:
    """What it takes that an image enters and leaves in integers as uint8, and is worked on in
    int8: half of that of a graph as large as the input, half of one as large as the output."""
    parts: list[tuple[Terms, float]] = []
    for extent in (1, factor):
        keeps = OperatorClass("Add", IMAGE, IMAGE, extent)
        parts += [({Probe(keeps, file_edges=True): 1.0}, 0.5), (cost_terms(keeps), -0.5)]
    return combine(parts)


def combine(parts: Iterable[tuple[Terms, float]]) -> Terms:
    """The sum of several, each so many times."""
    total: dict[Probe, float] = {}
    for terms, times in parts:
        for probe, factor in terms.items():
            total[probe] = total.get(probe, 0.0) + times * factor
    return total


class Span(NamedTuple):
    """Milliseconds: a median, and how far from it half of all figures lie at most."""

    median: float
    half: float


def sum_terms(terms: Terms, times: Mapping[Any, Times]) -> Span:
    """A sum of medians. Its spread is that of a sum of numbers that vary independently.

    Not the median of each round's sum: on a machine that does other things too, one call in a
    few is interrupted, and in most rounds that is one of many.
    """
    median = squares = 0.0
    for probe, factor in terms.items():
        low, high = times[probe].quartiles
        median += factor * 1000 * times[probe].median
        squares += (factor * 1000 * (high - low) / 2) ** 2
    return Span(median, math.sqrt(squares))
