"""Weight scales with which no result of a convolution lies halfway between two integers.

The result is rint(sum · multiplier) in float32. An engine that multiplies and adds in another
order is off by the last bits of that, and rounds otherwise where it lies near enough to a tie: one
sum of 10,000 in the mean, one of q where the multiplier is near a fraction p/q of even q. A scale
that differs in the fifth digit has other ties, and results that differ by 0.012 at most.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from anchorsr.graph.executor import multipliers
from anchorsr.graph.graph import Graph
from anchorsr.graph.operators import Conv2D, Convolution, Operator

# What results of up to some hundreds are off by in float32, after two or three roundings.
_NEAR = 6e-5
_STEP = 2e-6  # of a scale; moves a result of 60 by 2 · _NEAR, out of the middle
_CANDIDATES = 24  # at the last of them a result of 255 is larger by 0.012
_MOST_SUMS = 2**17  # a channel whose multiplier is below 0.002 is searched in part


def keep_from_ties(graph: Graph) -> Graph:
    """The integer graph with the weight scale of each output channel, or one up to 5e-5 larger.

    It is the first of those where ties cost least; integers stay as they are.
    Raises GraphError for a float graph.
    """
    operators: list[Operator] = []
    for operator in graph.operators:
        # With another scale an anchor would be no copy.
        copies = isinstance(operator, Conv2D) and operator.copies_channels
        if isinstance(operator, Convolution) and not copies:
            source, target = graph.tensors[operator.input], graph.tensors[operator.output]
            candidates = [_with_larger_scales(operator, step) for step in range(_CANDIDATES)]
            costs = [
                [cost_of_ties(float(each)) for each in multipliers(candidate, source, target)]
                for candidate in candidates
            ]
            scales = np.array([candidate.weight_scales for candidate in candidates])
            best = np.argmin(costs, axis=0)
            chosen = np.take_along_axis(scales, best[None], axis=0)[0]
            operator = dataclasses.replace(operator, weight_scales=chosen)
        operators.append(operator)
    return dataclasses.replace(graph, operators=operators)


def cost_of_ties(multiplier: float) -> float:
    """How near the results of sums, up to 255, come to the middle between two integers.

    Each that is nearer than `_NEAR` counts with the square of what it lacks, in parts of that,
    over the result: small results are the most frequent.
    """
    count = int(255 / max(multiplier, 255 / _MOST_SUMS))
    results = np.arange(1, count + 1) * multiplier
    from_middle = 0.5 - np.abs(results - np.rint(results))
    near = from_middle < _NEAR
    return float(((1 - from_middle[near] / _NEAR) ** 2 / results[near]).sum())


def _with_larger_scales(conv: Convolution, step: int) -> Convolution:
    assert conv.weight_scales is not None  # every integer convolution has them
    scales = np.asarray(conv.weight_scales * (1 + step * _STEP), np.float32)
    return dataclasses.replace(conv, weight_scales=scales)
