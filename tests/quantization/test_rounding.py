"""Tie-avoiding scales: no result depends on the last bits of a float."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from anchorsr.graph.executor import multipliers, run_graph
from anchorsr.graph.graph import Graph
from anchorsr.graph.operators import Conv2D
from anchorsr.quantization.ptq import quantize_graph
from anchorsr.quantization.rounding import avoid_ties, tie_cost
from helpers.graphs import convolutions, float_graph, image

UNLUCKY = 13 / 1438  # 719 times that is 6.5


def unlucky_graph() -> Graph:
    """An integer graph whose first convolution has that multiplier in every channel."""
    graph = quantize_graph(float_graph(0), [image(0, 24, 20)[0]])
    operators = list(graph.operators)
    place = next(n for n, operator in enumerate(operators) if isinstance(operator, Conv2D))
    conv = operators[place]
    assert isinstance(conv, Conv2D)
    assert conv.weight_scales is not None
    factors = multipliers(conv, graph.tensors[conv.input], graph.tensors[conv.output])
    scales = np.asarray(conv.weight_scales * (UNLUCKY / factors.astype(np.float64)), np.float32)
    operators[place] = dataclasses.replace(conv, weight_scales=scales)
    return dataclasses.replace(graph, operators=operators)


@pytest.mark.parametrize("multiplier", [1.0, 300.0, 0.0])
def test_integers_are_no_ties(multiplier: float) -> None:
    assert tie_cost(multiplier) == 0


def test_each_tie_counts_by_its_result() -> None:
    """Exact ties count in full, one at half the distance limit a quarter."""
    assert tie_cost(0.5) == pytest.approx(sum(1 / (n + 0.5) for n in range(255)))
    assert tie_cost(200.5) == pytest.approx(1 / 200.5)
    assert tie_cost(200.5 + 3e-5) == pytest.approx(1 / 4 / 200.5, rel=1e-4)
    assert tie_cost(200.5 + 7e-5) == 0
    assert tie_cost(UNLUCKY) > 1 / 6.5


@pytest.mark.slow
def test_scales_are_a_little_larger_and_integers_what_they_were() -> None:
    before = unlucky_graph()
    after = avoid_ties(before)
    first, *_ = convolutions(after)
    types = after.tensors[first.input], after.tensors[first.output]
    assert max(tie_cost(float(each)) for each in multipliers(first, *types)) < 0.01
    (anchor,) = (conv for conv in convolutions(before) if conv.copies_channels)
    (kept,) = (conv for conv in convolutions(after) if conv.copies_channels)
    assert np.array_equal(anchor.weight_scales, kept.weight_scales)
    for one, other in zip(convolutions(before), convolutions(after), strict=True):
        assert one.weight_scales is not None
        assert other.weight_scales is not None
        ratio = other.weight_scales / one.weight_scales
        assert ratio.min() >= 1
        assert ratio.max() <= 1.00005
        assert np.array_equal(one.weights, other.weights)
        assert np.array_equal(one.bias, other.bias)


@pytest.mark.slow
def test_an_image_hardly_changes() -> None:
    before, images = unlucky_graph(), image(1, 96, 96)
    expected = run_graph(before, images).astype(int)
    difference = np.abs(run_graph(avoid_ties(before), images) - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.01


@pytest.mark.slow
def test_another_order_of_operations_then_rounds_alike() -> None:
    """As engines compute: the bias after the multiplication, both in float32."""

    def share(graph: Graph) -> float:
        conv = convolutions(graph)[0]
        assert conv.weight_scales is not None
        factors = multipliers(conv, graph.tensors[conv.input], graph.tensors[conv.output])
        sums = np.arange(1, 2**14, dtype=np.float32)[:, None]
        bias = conv.bias.astype(np.float32)
        other = (sums - bias) * factors + bias * factors
        return float((np.rint(sums * factors) != np.rint(other)).mean())

    before = unlucky_graph()
    assert share(before) > 1e-4
    assert share(avoid_ties(before)) < share(before) / 5
