"""Tie-avoiding weight scales: few results of a convolution lie halfway between two integers.

The result is rint(sum · multiplier) in float32. An engine that multiplies and adds in another
order differs in the last bits of the product, and rounds differently near a tie: one sum of
10,000 on average, but one of q where the multiplier is near a fraction p/q with even q. A scale
that differs in the fifth digit has other ties, and results that differ by at most 0.012.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from anchorsr.graph.executor import multipliers
from anchorsr.graph.graph import Graph
from anchorsr.graph.operators import Conv2D, Convolution, Operator

# Error of results up to a few hundred in float32, after two or three roundings.
_NEAR = 6e-5
_STEP = 2e-6  # relative; moves a result of 60 by 2 · _NEAR, away from a tie
_CANDIDATES = 24  # with the last of them a result of 255 grows by 0.012
_MOST_SUMS = 2**17  # channels with a multiplier below 0.002 are searched in part


def avoid_ties(graph: Graph) -> Graph:
    """Enlarge the weight scale of each output channel by up to 5e-5, to where ties cost least.

    The integers stay the same.

    Args:
        graph: An integer graph.

    Raises:
        GraphError: The graph is a float graph.
    """
    operators: list[Operator] = []
    for operator in graph.operators:
        # With another scale an anchor would not be a copy.
        copies = isinstance(operator, Conv2D) and operator.copies_channels
        if isinstance(operator, Convolution) and not copies:
            source, target = graph.tensors[operator.input], graph.tensors[operator.output]
            candidates = [_with_larger_scales(operator, step) for step in range(_CANDIDATES)]
            costs = [
                [tie_cost(float(each)) for each in multipliers(candidate, source, target)]
                for candidate in candidates
            ]
            scales = np.array([candidate.weight_scales for candidate in candidates])
            best = np.argmin(costs, axis=0)
            chosen = np.take_along_axis(scales, best[None], axis=0)[0]
            operator = dataclasses.replace(operator, weight_scales=chosen)
        operators.append(operator)
    return dataclasses.replace(graph, operators=operators)


def tie_cost(multiplier: float) -> float:
    """Rate how near results up to 255 come to the middle between two integers.

    A result whose distance d is below `_NEAR` adds (1 - d / _NEAR)² divided by the result, since
    small results are the most frequent.

    Args:
        multiplier: What integer sums are multiplied by.

    Returns:
        0 without ties.
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
