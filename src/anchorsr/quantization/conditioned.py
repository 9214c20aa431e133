"""Quantize a conditioned network: one integer graph, and the table of its strengths.

Activation scales have to serve all strengths, so ranges are the widest over images that are
degraded as in training, each through the network for its own strengths. Weights are those of the
network for clean images: a gain multiplies a filter, so it changes the filter's scale only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from torch import Tensor

from anchorsr.arrays import Array, Float64Array, UInt8Array
from anchorsr.data.degradation import DegradationRecipe, degrade, degrade_like
from anchorsr.data.pairs import Pair
from anchorsr.data.strengths import CLEAN, Strengths
from anchorsr.graph.conditioning import Conditioning, make_conditioning
from anchorsr.graph.graph import Graph
from anchorsr.graph.operators import Conv2D
from anchorsr.lowering.trace import lower
from anchorsr.networks.conditioned_abpn import ConditionedABPN
from anchorsr.networks.layers import BIAS_UNIT
from anchorsr.quantization.calibration import Ranges, choose_quantization, observe_ranges
from anchorsr.quantization.equalize import equalizing_factors, largest_of_channels, scale_channels
from anchorsr.quantization.ptq import apply_quantization
from anchorsr.quantization.rounding import avoid_ties
from anchorsr.training.recipe import QuantizationRecipe

# LR pixels a side that are used of an image, which is run clean and degraded.
_SIDE = 128


def quantize_conditioned(
    network: ConditionedABPN,
    pairs: Sequence[Pair],
    *,
    name: str,
    degradation: DegradationRecipe | None,
    settings: QuantizationRecipe,
    seed: int,
) -> tuple[Graph, Conditioning]:
    """Quantize a conditioned network by calibration (PTQ).

    Args:
        network: The trained network.
        pairs: Calibration images.
        name: The name of the graph.
        degradation: How the images are degraded; if None, to strengths drawn at random.
        settings: The percentile, and whether to equalize.
        seed: Of the degradation.

    Returns:
        The integer graph for clean images, and the table that makes those for other strengths.

    Raises:
        DataError: There are no images.
        GraphError: The network cannot be quantized.
    """
    clean = lower(network.fold({}), name=name)
    factors: dict[str, Array] = {}
    if settings.equalize:
        largest: Mapping[str, Array] = {}
        for graph, image in _runs(network, pairs, degradation, seed, clean):
            found = largest_of_channels(graph, [image])
            largest = {key: np.maximum(largest.get(key, 0), found[key]) for key in found}
        factors = equalizing_factors(clean, largest)
        clean = scale_channels(clean, factors)
    ranges: Ranges = {}
    for graph, image in _runs(network, pairs, degradation, seed, clean):
        scaled = graph if graph is clean else scale_channels(graph, factors)
        found_ranges = observe_ranges(scaled, [image], settings.percentile)
        ranges = _widest(ranges, found_ranges) if ranges else found_ranges
    chosen = choose_quantization(clean, ranges)
    graph = avoid_ties(apply_quantization(clean, chosen))
    conditioning = _conditioning(network, graph, factors)
    # A bias without strengths is rounded as those with some are.
    return conditioning.apply(graph, {}), conditioning


def _runs(
    network: ConditionedABPN,
    pairs: Sequence[Pair],
    degradation: DegradationRecipe | None,
    seed: int,
    clean: Graph,
) -> Iterator[tuple[Graph, UInt8Array]]:
    """Yield `clean` with each image, and the graph for its strengths with it degraded."""
    random = np.random.default_rng(seed)
    for pair in map(_cut, pairs):
        yield clean, pair.lr
        lr, strengths = _degrade(pair, network, degradation, random)
        values = strengths.select(network.strengths).tolist()
        folded = network.fold(dict(zip(network.strengths, values, strict=True)))
        yield lower(folded, name=clean.name), lr


def _cut(pair: Pair) -> Pair:
    height, width = (min(side, _SIDE) for side in pair.lr.shape[:2])
    top, left = (pair.lr.shape[0] - height) // 2, (pair.lr.shape[1] - width) // 2
    lr = np.ascontiguousarray(pair.lr[top : top + height, left : left + width])
    return pair.cut(lr, top, left, CLEAN)


def _degrade(
    pair: Pair,
    network: ConditionedABPN,
    degradation: DegradationRecipe | None,
    random: np.random.Generator,
) -> tuple[UInt8Array, Strengths]:
    if degradation is None:
        drawn = random.random(len(network.strengths)).tolist()
        strengths = Strengths(**dict(zip(network.strengths, drawn, strict=True)))
        return degrade_like(pair.lr, strengths, random), strengths
    lr, strengths = degrade(pair.lr, pair.hr, degradation, random)
    if strengths == CLEAN and "video" in network.strengths:  # `degrade` makes no frames of films
        strengths = Strengths(video=random.random())
        lr = degrade_like(pair.lr, strengths, random)
    return lr, strengths


def _widest(one: Ranges, other: Ranges) -> Ranges:
    return {
        name: (min(low, other[name][0]), max(high, other[name][1]))
        for name, (low, high) in one.items()
    }


def _conditioning(
    network: ConditionedABPN, graph: Graph, factors: Mapping[str, Array]
) -> Conditioning:
    """Make the table of the integer graph; `factors` are those of equalization."""
    modulator = network.modulator
    exponents, shifts = _array(modulator.output.weight).reshape(2, sum(modulator.widths), -1)
    biases = np.concatenate([_array(each.collapsed()[1]) for each in network.convolutions])
    written = [
        factors.get(operator.output, np.ones(len(operator.bias)))
        for operator in graph.operators
        if isinstance(operator, Conv2D) and not operator.copies_channels
    ]
    units = BIAS_UNIT * np.concatenate(written).astype(np.float64)
    return make_conditioning(
        graph,
        network.strengths,
        hidden=_array(modulator.hidden.weight),
        hidden_bias=_array(modulator.hidden.bias),
        exponents=exponents,
        shifts=shifts * units[:, None],
        biases=biases * units,
    )


def _array(tensor: Tensor) -> Float64Array:
    return np.asarray(tensor.detach().double().cpu().numpy())
