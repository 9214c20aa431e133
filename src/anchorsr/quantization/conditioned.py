"""Quantize a conditioned network: one integer graph, and the table of its strengths.

Calibration runs images that are clean and degraded as in training, each through the network for
its own strengths. Activation scales are multiplied by exp(a · strengths); `a` is fitted to how much
the ranges of an image grow by its degradation. Then quantization-aware training learns all of it,
on patches that are degraded as well. Weights are those of the network for clean images: a gain
multiplies a filter, so it changes the filter's scale only.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from anchorsr.arrays import Array, Float64Array, UInt8Array
from anchorsr.data.degradation import DegradationRecipe, degrade, degrade_like
from anchorsr.data.pairs import Pair
from anchorsr.data.strengths import CLEAN, Strengths
from anchorsr.errors import DataError
from anchorsr.graph.conditioning import Conditioning, make_conditioning
from anchorsr.graph.graph import Graph
from anchorsr.graph.operators import Quantization
from anchorsr.lowering.trace import lower
from anchorsr.networks.conditioned_abpn import ConditionedABPN, bounded_exp
from anchorsr.networks.layers import BIAS_UNIT
from anchorsr.quantization.calibration import (
    Ranges,
    choose_quantization,
    observe_ranges,
    range_width,
    share,
)
from anchorsr.quantization.equalize import equalizing_factors, largest_of_channels, scale_channels
from anchorsr.quantization.qat_network import IntegerNetwork
from anchorsr.training.recipe import QuantizationRecipe

# LR pixels a side that are used of an image, which is run clean and degraded.
_SIDE = 128
# How often each is degraded.
_DEGRADATIONS = 3


class ConditionedIntegerNetwork(IntegerNetwork):
    """A trainable integer graph and the perceptron that modulates its convolutions.

    It computes what the exported file does, but for the file's table: that has the perceptron in
    fixed point, which changes an int32 bias or the last digits of a scale.

    Args:
        graph: The float graph for clean images.
        chosen: Scale and zero point of the output of each operator.
        network: Where the perceptron comes from.
        factors: Those by which equalization has scaled channels, by tensor.
        exponents: (K,) weights of the strengths in the exponents of the factors of activation
            scales, by tensor.
    """

    def __init__(
        self,
        graph: Graph,
        chosen: Mapping[str, Quantization],
        network: ConditionedABPN,
        factors: Mapping[str, Array],
        exponents: Mapping[str, Float64Array],
    ) -> None:
        super().__init__(graph, chosen)
        self.strengths = network.strengths
        self.modulator = copy.deepcopy(network.modulator)
        ones = [np.ones(width, np.float32) for width in self.modulator.widths]
        written = [factors.get(name, one) for name, one in zip(self.weights, ones, strict=True)]
        self.written = [torch.from_numpy(np.asarray(each, np.float32)) for each in written]
        self.exponents = nn.ParameterDict(
            {name: torch.from_numpy(exponents[name]).float() for name in self.log_scales}
        )

    def forward_conditioned(self, images: Tensor, strengths: Tensor) -> Tensor:
        """Compute the image without the last saturation, for the strengths of each image."""
        modulations = {
            name: (gains, shifts * written.to(shifts.device))
            for name, written, (gains, shifts) in zip(
                self.weights, self.written, self.modulator(strengths), strict=True
            )
        }
        learned = {
            name: bounded_exp(strengths @ each)[:, None] for name, each in self.exponents.items()
        }
        factors = {name: learned[first] for name, first in self._first.items() if first in learned}
        return self.compute(images, modulations, factors)

    def to_conditioned_graph(self) -> tuple[Graph, Conditioning]:
        """Return the integer graph for clean images, and the table for other strengths."""
        graph = self.to_graph()
        modulator = self.modulator
        exponents, shifts = _array(modulator.output.weight).reshape(2, sum(modulator.widths), -1)
        units = BIAS_UNIT * np.concatenate([_array(written) for written in self.written])
        conditioning = make_conditioning(
            graph,
            self.strengths,
            hidden=_array(modulator.hidden.weight),
            hidden_bias=_array(modulator.hidden.bias),
            exponents=exponents,
            shifts=shifts * units[:, None],
            biases=BIAS_UNIT * np.concatenate([_array(self.biases[name]) for name in self.weights]),
            scales=np.stack([self._exponents_of(name) for name in self.weights]),
        )
        # A bias without strengths is rounded as those with some are.
        return conditioning.apply(graph, {}), conditioning

    def _exponents_of(self, name: str) -> Float64Array:
        first = self._first[name]
        fixed = np.zeros(len(self.strengths))
        return _array(self.exponents[first]) if first in self.exponents else fixed


def calibrate_conditioned(
    network: ConditionedABPN,
    pairs: Sequence[Pair],
    *,
    name: str,
    degradation: DegradationRecipe | None,
    settings: QuantizationRecipe,
    seed: int,
) -> ConditionedIntegerNetwork:
    """Choose the activation scales of a conditioned network.

    Args:
        network: The trained network.
        pairs: Calibration images.
        name: The name of the graph.
        degradation: How the images are degraded; if None, to strengths drawn at random.
        settings: The percentile, and whether to equalize.
        seed: Of the degradation.

    Returns:
        The integer network before quantization-aware training.

    Raises:
        DataError: There are no images.
        GraphError: The network cannot be quantized.
    """
    clean = lower(network.fold({}), name=name)
    factors: dict[str, Array] = {}
    if settings.equalize:
        largest: Mapping[str, Array] = {}
        for graph, image, _ in _runs(network, pairs, degradation, seed, clean):
            found = largest_of_channels(graph, [image])
            largest = {key: np.maximum(largest.get(key, 0), found[key]) for key in found}
        factors = equalizing_factors(clean, largest)
        clean = scale_channels(clean, factors)
    every: list[tuple[Float64Array, Ranges]] = []
    for graph, image, strengths in _runs(network, pairs, degradation, seed, clean):
        scaled = graph if graph is clean else scale_channels(graph, factors)
        every.append((strengths, observe_ranges(scaled, [image], settings.percentile)))
    if not every:
        raise DataError("calibration needs at least one image")
    exponents = _fit_exponents(clean, every)
    ranges: Ranges = {}
    for strengths, found_ranges in every:
        relative = _divided(found_ranges, exponents, strengths)
        ranges = _widest(ranges, relative) if ranges else relative
    chosen = choose_quantization(clean, ranges)
    return ConditionedIntegerNetwork(clean, chosen, network, factors, exponents)


def _fit_exponents(
    graph: Graph, every: Sequence[tuple[Float64Array, Ranges]]
) -> dict[str, Float64Array]:
    """Fit how the range of each tensor grows with the strengths, (K,) by tensor.

    Args:
        graph: The float graph.
        every: Strengths and ranges; of each image, first without degradation.
    """
    names = [operator.output for operator in graph.operators]
    first = share(graph, lambda operator, name: True)
    rows = np.array([strengths for strengths, _ in every])
    numbers = np.arange(len(rows))
    clean = np.maximum.accumulate(np.where(rows.any(axis=1), 0, numbers))  # of the same image
    exponents: dict[str, Float64Array] = {}
    for one in dict.fromkeys(first[name] for name in names):
        members = [name for name in names if first[name] == one]
        widths = np.array([[range_width(ranges, name) for name in members] for _, ranges in every])
        widest = np.log(np.maximum(widths.max(axis=1), 1e-6))
        grown = widest - widest[clean]
        # Ridge regression: a strength that was not drawn gets nothing.
        normal = rows.T @ rows + 0.1 * np.eye(rows.shape[1])
        fitted = np.linalg.solve(normal, rows.T @ grown)
        exponents.update(dict.fromkeys(members, fitted))
    return exponents


def _divided(
    ranges: Ranges, exponents: Mapping[str, Float64Array], strengths: Float64Array
) -> Ranges:
    """Divide ranges by the factors that strengths give them."""
    factors = {
        name: float(bounded_exp(torch.tensor(strengths @ each))) for name, each in exponents.items()
    }
    return {
        name: (low / factors.get(name, 1.0), high / factors.get(name, 1.0))
        for name, (low, high) in ranges.items()
    }


def _runs(
    network: ConditionedABPN,
    pairs: Sequence[Pair],
    degradation: DegradationRecipe | None,
    seed: int,
    clean: Graph,
) -> Iterator[tuple[Graph, UInt8Array, Float64Array]]:
    """Yield `clean` with each image, and graphs for the strengths with which it was degraded."""
    random = np.random.default_rng(seed)
    for pair in map(_cut, pairs):
        yield clean, pair.lr, np.zeros(len(network.strengths))
        for _ in range(_DEGRADATIONS):
            lr, strengths = _degrade(pair, network, degradation, random)
            values = strengths.select(network.strengths).astype(np.float64)
            folded = network.fold(dict(zip(network.strengths, values.tolist(), strict=True)))
            yield lower(folded, name=clean.name), lr, values


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


def _array(tensor: Tensor) -> Float64Array:
    return np.asarray(tensor.detach().double().cpu().numpy())
