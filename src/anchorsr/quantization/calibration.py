"""Which scale and zero point each tensor of a float graph gets in integers.

- Images (the input, what only copies it, the output) have scale 1 and zero point -128, so
  that int8 saturation is the clip to 0..255. A residual that is added to an image has scale 1
  and zero point 0, so that the addition is exact. A sigmoid's output has scale 1/256.
- Tensors between which an operator only moves numbers share one scale. So do the summands and
  the sum of features, unless one of them is far smaller: then the addition is exact.
- All others take their range from calibration images. Zero is always in it, so after ReLU
  the zero point is -128, and saturation is the ReLU.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import numpy as np
import numpy.typing as npt

from anchorsr.errors import DataError
from anchorsr.graph import operators as ops
from anchorsr.graph.executor import run_graph
from anchorsr.graph.graph import Graph
from anchorsr.graph.verify import SIGMOID_OUTPUT

IMAGE = ops.Quantization(1.0, -128)
RESIDUAL = ops.Quantization(1.0, 0)

# Operators whose output has the scale and zero point of their inputs.
KEEPS_NUMBERS = ops.Move | ops.Clip | ops.Requantize

# How much narrower than the result an input may be that others read too, and still share its
# scale with it: those others then see it as coarsely.
_NARROW = {ops.Concat: 1 / 2, ops.Add: 1 / 8}

# How far from the middle between two integers a root stays.
_FROM_TIE = 1e-4

# What an input's scale (a product's: both) over the output's may be, twice as strict as
# XNNPACK's kernels are: beyond their limits LiteRT takes others, with another arithmetic.
_FACTORS: Mapping[type[ops.Operator], tuple[float, float]] = {
    ops.Add: (2**-9, 2**7),
    ops.Subtract: (2**-9, 2**7),
    ops.Multiply: (2**-15, 2**7),
    ops.LeakyReLU: (2**-7, 2**6),
    ops.PReLU: (2**-7, 2**6),
    ops.Concat: (2**-7, 2**6),
    ops.GlobalAveragePool: (2**-7, 2**6),
}

Ranges = Mapping[str, tuple[float, float]]


def observe_ranges(
    graph: Graph, images: Iterable[npt.NDArray[np.uint8]], percentile: float
) -> Ranges:
    """For each tensor, the widest over the images of its lower and upper percentile.

    The widest and not the mean: a range that cuts the largest activations of some images
    cost 0.06 dB where the widest cost 0.02 (docs/experiments.md).
    """
    seen: dict[str, tuple[float, float]] = {}

    def observe(name: str, values: ops.Array) -> None:
        low, high = np.percentile(values, (100 - percentile, percentile))
        widest = seen.get(name, (np.inf, -np.inf))
        seen[name] = (min(widest[0], float(low)), max(widest[1], float(high)))

    observe_tensors(graph, images, observe)
    return seen


def observe_tensors(
    graph: Graph,
    images: Iterable[npt.NDArray[np.uint8]],
    observe: Callable[[str, ops.Array], None],
) -> None:
    """Call `observe` with the name and value of each tensor that is made of each LR image.

    Images are (H, W, 3) uint8. Raises DataError without any.
    """
    count = 0
    for count, image in enumerate(images, 1):  # noqa: B007 (only the count is wanted)
        run_graph(graph, image[None].astype(np.float32), observe=observe)
    if not count:
        raise DataError("calibration needs at least one image")


def choose_quantization(graph: Graph, ranges: Ranges) -> dict[str, ops.Quantization]:
    """Scale and zero point of every tensor that an operator makes."""
    fixed = fixed_quantizations(graph)
    readers = _readers(graph)

    def shared(operator: ops.Operator, name: str) -> bool:
        if name in fixed or operator.output in fixed:
            return fixed.get(name) == fixed.get(operator.output)
        least = _NARROW.get(type(operator), 0) * _width(ranges, operator.output)
        return readers[name] == 1 or _width(ranges, name) >= least

    first = share(graph, shared)
    made = [operator.output for operator in graph.operators if operator.output not in fixed]
    low = {first[name]: 0.0 for name in made}
    high = dict(low)
    for name in made:
        low[first[name]] = min(low[first[name]], ranges[name][0])
        high[first[name]] = max(high[first[name]], ranges[name][1])
    scales = {name: (high[name] - low[name] or 255) / 255 for name in low}  # of zeros: any
    _keep_within_limits(graph, first, scales, fixed)
    chosen = {name: quantization_of(scales[name], low[name]) for name in scales}
    result: dict[str, ops.Quantization] = {}
    for operator in graph.operators:
        name = first[operator.output]
        if isinstance(operator, ops.SquareRoot) and operator.output not in fixed:
            chosen[name] = _away_from_ties(result[operator.input], chosen[name])
        result[operator.output] = fixed.get(operator.output) or chosen[name]
    return result


def _away_from_ties(before: ops.Quantization, after: ops.Quantization) -> ops.Quantization:
    """A scale, slightly larger if need be, at which no root lies halfway between two integers:
    the last bit of LiteRT's roots, which is not always right, would decide there."""
    roots = np.sqrt(np.arange(256) * before.scale)
    scale = after.scale
    while np.abs(roots / scale % 1 - 0.5).min() < _FROM_TIE:
        scale = float(np.float32(scale * 1.0005))
    return ops.Quantization(scale, after.zero_point)


def fixed_quantizations(graph: Graph) -> dict[str, ops.Quantization]:
    """The tensors whose scale and zero point do not depend on any data."""
    fixed = {
        name: IMAGE if role == "image" else RESIDUAL
        for name, role in tensor_roles(graph).items()
        if role != "features"
    }
    for operator in graph.operators:
        if isinstance(operator, ops.Sigmoid):
            fixed[operator.output] = SIGMOID_OUTPUT
    return fixed


def share(graph: Graph, shared: Callable[[ops.Operator, str], bool]) -> dict[str, str]:
    """For each tensor, the first of those that have one scale with it.

    A sum, or an operator that keeps numbers, joins its output to each input for which `shared`
    is true.
    """
    first = {graph.input: graph.input}
    for operator in graph.operators:
        first[operator.output] = operator.output
        if not isinstance(operator, KEEPS_NUMBERS | ops.Add):
            continue
        for name in operator.inputs:
            if shared(operator, name):
                one, other = first[name], first[operator.output]
                earlier = next(made for made in first if made in (one, other))
                first = {
                    member: earlier if of in (one, other) else of for member, of in first.items()
                }
    return first


def tensor_roles(graph: Graph) -> dict[str, Literal["image", "residual", "features"]]:
    """Which tensors hold images on 0..255, which a residual that is added to one.

    Images are the input and what only copies it, and what leads to the output alone by
    operators that keep numbers and by additions to an image.
    """
    roles: dict[str, Literal["image", "residual", "features"]] = {graph.input: "image"}
    for operator in graph.operators:
        copies = (
            operator.copies_channels
            if isinstance(operator, ops.Conv2D)
            else isinstance(operator, KEEPS_NUMBERS)
        )
        images = all(roles[name] == "image" for name in operator.inputs)
        roles[operator.output] = "image" if copies and images else "features"
    roles[graph.output] = "image"
    readers = _readers(graph)
    for operator in reversed(graph.operators):
        role = roles[operator.output]
        adds = isinstance(operator, ops.Add | ops.Subtract) and role == "image"
        if adds and any(roles[name] == "image" for name in operator.inputs):
            role = "residual"
        elif not isinstance(operator, KEEPS_NUMBERS):
            continue
        for name in operator.inputs:
            if roles[name] == "features" and readers[name] == 1:
                roles[name] = role
    return roles


def quantization_of(scale: float, low: float) -> ops.Quantization:
    """The one whose smallest int8 stands for `low`, as nearly as a zero point can say."""
    scale = float(np.float32(scale))
    return ops.Quantization(scale, int(np.clip(np.rint(-128 - low / scale), -128, 127)))


def _readers(graph: Graph) -> Counter[str]:
    return Counter(name for operator in graph.operators for name in set(operator.inputs))


def _width(ranges: Ranges, name: str) -> float:
    low, high = ranges[name]
    return max(high, 0.0) - min(low, 0.0)


def _keep_within_limits(
    graph: Graph,
    first: Mapping[str, str],
    scales: dict[str, float],
    fixed: Mapping[str, ops.Quantization],
) -> None:
    """Make scales larger until every pair of them is one that LiteRT's fast kernels take."""

    def scale(name: str) -> float:
        return fixed[name].scale if name in fixed else scales[first[name]]

    def at_least(name: str, least: float) -> bool:
        if name in fixed or scales[first[name]] >= least:
            return False
        scales[first[name]] = least
        return True

    for _ in graph.operators:
        changed = False
        for operator in graph.operators:
            smallest, largest = _FACTORS.get(type(operator), (0, np.inf))
            made = operator.output
            if isinstance(operator, ops.LeakyReLU):  # the limit is for the slope's factor too
                smallest /= max(operator.slope, 2**-12)
            if isinstance(operator, ops.Multiply):
                left, right = operator.inputs
                changed |= at_least(made, scale(left) * scale(right) / largest)
                continue
            for name in operator.inputs:
                changed |= at_least(made, scale(name) / largest)
                changed |= at_least(name, scale(made) * smallest)
        if not changed:
            return
