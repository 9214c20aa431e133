"""What an operator costs: which graphs are timed, and how their times are combined.

The cost is the time of a graph that holds nothing but the operator, less that of an empty graph:

- An operator whose output can be its own input is applied once in one graph and four times in
  another. What an engine does at the input and the output, above all changes of layout, is the same
  in both, so a third of the difference is the operator.
- For other convolutions, the cost of input and output is estimated from such pairs of 1×1
  convolutions: half of what it is at the input's shape, half of what it is at the output's.
- For other operators, the empty graph is one over a single pixel.

The cost of a residual is how much longer a graph takes with it. All costs are differences of
medians, and can be negative where they are smaller than the spread of the times.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from anchorsr.graph.graph import Graph
from anchorsr.studies.op_graphs import (
    IMAGE,
    OperatorClass,
    Precision,
    ResidualForm,
    operator_graph,
    residual_graph,
)
from anchorsr.utils.timing import Times

_REPEATS = 4


@dataclass(frozen=True)
class Residual:
    """A residual form at a number of channels."""

    form: ResidualForm
    channels: int

    @property
    def label(self) -> str:
        """Words for a table: the form, then channels."""
        return f"{self.form.replace('_', ' ')}; {self.channels}"


@dataclass(frozen=True)
class Probe:
    """A graph to be timed: an operator, or a residual with the convolutions around it.

    Attributes:
        count: How many times in a row the operator is applied.
        file_io: Whether the graph takes and gives uint8, as a network's file does, and not int8.
    """

    of: OperatorClass | Residual
    count: int = 1
    file_io: bool = False

    def graph(self, precision: Precision) -> Graph:
        """Build the graph."""
        if isinstance(self.of, Residual):
            return residual_graph(self.of.form, self.of.channels, precision)
        return operator_graph(self.of, precision, count=self.count, file_io=self.file_io)

    @property
    def extent(self) -> int:
        """The input's height over the image's."""
        return 1 if isinstance(self.of, Residual) else self.of.extent


# A cost as a weighted sum of times: the weight of each.
Terms = Mapping[Probe, float]
# The cost of a call that does nothing: a graph over one pixel.
CALL: Terms = {Probe(OperatorClass("Add", IMAGE, IMAGE, extent=0)): 1.0}


def cost_terms(of: OperatorClass | Residual) -> Terms:
    """Return the weighted sum of times that is the cost of one operator."""
    if isinstance(of, Residual):
        return {Probe(of): 1.0, Probe(Residual("none", of.channels)): -1.0}
    if of.repeats:
        return {Probe(of, _REPEATS): 1 / (_REPEATS - 1), Probe(of): -1 / (_REPEATS - 1)}
    alone = {Probe(of): 1.0}
    if not of.convolves:
        return combine([(alone, 1.0), (CALL, -1.0)])
    io = [io_terms(of.inputs, of.extent), io_terms(of.outputs, of.output_extent)]
    return combine([(alone, 1.0), *((terms, -0.5) for terms in io)])


def io_terms(channels: int, extent: int) -> Terms:
    """Return the cost of input and output of a graph of convolutions that keep the shape."""
    conv = OperatorClass("Conv2D", channels, channels, extent)
    return combine([({Probe(conv): 1.0}, 1.0), (cost_terms(conv), -1.0)])


def file_io_terms(factor: int) -> Terms:
    """Return the cost of input and output of an integer network's file.

    Such a file takes and gives uint8 and computes in int8. The cost is half of that at the input's
    size, plus half of that at the output's.
    """
    terms: list[tuple[Terms, float]] = []
    for extent in (1, factor):
        add = OperatorClass("Add", IMAGE, IMAGE, extent)
        terms += [({Probe(add, file_io=True): 1.0}, 0.5), (cost_terms(add), -0.5)]
    return combine(terms)


def combine(weighted: Iterable[tuple[Terms, float]]) -> Terms:
    """Return the weighted sum of several sums."""
    total: dict[Probe, float] = {}
    for terms, weight in weighted:
        for probe, factor in terms.items():
            total[probe] = total.get(probe, 0.0) + weight * factor
    return total


class Estimate(NamedTuple):
    """A cost in milliseconds: the median, and half the interquartile range."""

    median: float
    half: float


def sum_terms(terms: Terms, times: Mapping[Any, Times]) -> Estimate:
    """Add up medians; the spread is that of a sum of independent numbers.

    The median of the rounds' sums would be worse: on a busy machine, one call in a few is
    interrupted, and most rounds have such a call.
    """
    median = squares = 0.0
    for probe, factor in terms.items():
        low, high = times[probe].quartiles
        median += factor * 1000 * times[probe].median
        squares += (factor * 1000 * (high - low) / 2) ** 2
    return Estimate(median, math.sqrt(squares))
