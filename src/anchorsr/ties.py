"""Weight scales with which few results of a convolution lie halfway between two integers.

The result is rint(sum · multiplier) in float32. An engine that multiplies and adds in another
order is off by the last bits of that, and rounds otherwise where it lies near enough to a tie: one
sum of 10,000 in the mean, one of 500 where the multiplier is near a fraction of small, even
denominator. A change of the scale in its fifth digit moves all ties and no picture.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from anchorsr.graph import Graph
from anchorsr.integer import Convolution, multipliers
from anchorsr.operators import Conv2D, Operator

# What results of up to some hundreds are off by in float32, after two or three roundings.
_NEAR = 6e-5
_STEP = 2e-6  # of a scale; moves a result of 60 by twice that
_CANDIDATES = 24  # at the last of them a result of 255 is larger by 0.012
_MOST_SUMS = 2**14  # small results are the most frequent


def keep_from_ties(graph: Graph) -> Graph:
    """The integer graph with the weight scale of each output channel, or one up to 5e-5 larger.

    It is the first of those with the smallest share of near ties; integers stay as they are.
    """
    operators: list[Operator] = []
    for operator in graph.operators:
        copies = isinstance(operator, Conv2D) and operator.copies_channels  # exactly, as it is
        if isinstance(operator, Convolution) and not copies:
            source, target = graph.tensors[operator.input], graph.tensors[operator.output]
            candidates = [_with_larger_scales(operator, step) for step in range(_CANDIDATES)]
            shares = [
                [near_ties(factor) for factor in multipliers(candidate, source, target)]
                for candidate in candidates
            ]
            scales = np.array([candidate.weight_scales for candidate in candidates])
            best = np.argmin(shares, axis=0)
            chosen = np.take_along_axis(scales, best[None], axis=0)[0]
            operator = dataclasses.replace(operator, weight_scales=chosen)
        operators.append(operator)
    return dataclasses.replace(graph, operators=operators)


def near_ties(multiplier: float) -> float:
    """The share of the sums whose results, up to 255, lie near the middle of two integers."""
    count = int(min(255 / multiplier, _MOST_SUMS))
    results = np.arange(1, count + 1) * float(multiplier)
    return float((np.abs(results % 1 - 0.5) < _NEAR).sum()) / max(count, 1)


def _with_larger_scales(conv: Convolution, step: int) -> Convolution:
    assert conv.weight_scales is not None  # every integer convolution has them
    scales = np.asarray(conv.weight_scales * (1 + step * _STEP), np.float32)
    return dataclasses.replace(conv, weight_scales=scales)
