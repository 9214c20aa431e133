"""Choose the scale and zero point of each tensor of a float graph.

- Images (the input, copies of it, the output) have scale 1 and zero point -128, so int8 saturation
  is the clip to 0..255. A residual that is added to an image has scale 1 and zero point 0, so the
  addition is exact. The output of a sigmoid has scale 1/256.
- Tensors between which an operator only moves values share one scale. So do the summands and the
  sum of features, which makes the addition exact, unless a summand has a far smaller range.
- All others get their range from calibration images. It always includes zero, so after ReLU the
  zero point is -128, and saturation is the ReLU.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import numpy as np
import numpy.typing as npt

from anchorsr.arrays import Array
from anchorsr.errors import DataError
from anchorsr.graph import operators as ops
from anchorsr.graph.executor import run_graph
from anchorsr.graph.graph import Graph
from anchorsr.graph.verify import SIGMOID_OUTPUT

# Of images as int8 inside a graph, of residuals added to them, and of uint8 input and output.
IMAGE = ops.Quantization(1.0, -128)
RESIDUAL = ops.Quantization(1.0, 0)
IMAGE_IO = ops.Quantization(1.0, 0)

# Operators whose output has the scale and zero point of their inputs.
KEEPS_VALUES = ops.Move | ops.Clip | ops.Requantize

# An input with other readers shares the scale of the result only if its range is at least this
# fraction of the result's: the other readers get the coarser scale too.
_NARROW = {ops.Concat: 1 / 2, ops.Add: 1 / 8}

# Least distance of a square root from the middle between two integers.
_FROM_TIE = 1e-4

# Limits of the input's scale (for a product, of both) over the output's, twice as strict as those
# of XNNPACK's kernels. Beyond them LiteRT uses other kernels, with different arithmetic.
_SCALE_RATIOS: Mapping[type[ops.Operator], tuple[float, float]] = {
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
    """Measure the range of each tensor: its lower and upper percentile, the widest over images.

    The mean over images would clip the largest activations of some, and cost 0.06 dB where the
    widest cost 0.02 (docs/experiments.md).

    Args:
        graph: A float graph.
        images: LR images, (H, W, 3) uint8.
        percentile: Above 50 and up to 100.

    Raises:
        DataError: There are no images.
    """
    seen: dict[str, tuple[float, float]] = {}

    def observe(name: str, values: Array) -> None:
        low, high = np.percentile(values, (100 - percentile, percentile))
        widest = seen.get(name, (np.inf, -np.inf))
        seen[name] = (min(widest[0], float(low)), max(widest[1], float(high)))

    observe_tensors(graph, images, observe)
    return seen


def observe_tensors(
    graph: Graph,
    images: Iterable[npt.NDArray[np.uint8]],
    observe: Callable[[str, Array], None],
) -> None:
    """Run a float graph on images and call `observe` with the name and value of each tensor.

    Args:
        graph: A float graph.
        images: LR images, (H, W, 3) uint8.
        observe: Called with each tensor's name and (1, H, W, C) float32 value.

    Raises:
        DataError: There are no images.
    """
    count = 0
    for count, image in enumerate(images, 1):  # noqa: B007 (only the count is wanted)
        below, beside = np.subtract(graph.fit(*image.shape[:2]), image.shape[:2])
        fitting = np.pad(image, ((0, below), (0, beside), (0, 0)), mode="edge")
        run_graph(graph, fitting[None].astype(np.float32), observe=observe)
    if not count:
        raise DataError("calibration needs at least one image")


def choose_quantization(graph: Graph, ranges: Ranges) -> dict[str, ops.Quantization]:
    """Choose the scale and zero point of the output of every operator."""
    fixed = fixed_quantizations(graph)
    readers = _readers(graph)
    ranges = _clipped(graph, ranges)

    def shared(operator: ops.Operator, name: str) -> bool:
        if name in fixed or operator.output in fixed:
            return fixed.get(name) == fixed.get(operator.output)
        least = _NARROW.get(type(operator), 0) * range_width(ranges, operator.output)
        return readers[name] == 1 or range_width(ranges, name) >= least

    first = share(graph, shared)
    made = [operator.output for operator in graph.operators if operator.output not in fixed]
    low = {first[name]: 0.0 for name in made}
    high = dict(low)
    for name in made:
        low[first[name]] = min(low[first[name]], ranges[name][0])
        high[first[name]] = max(high[first[name]], ranges[name][1])
    scales = {name: (high[name] - low[name] or 255) / 255 for name in low}  # all zeros: any scale
    _keep_within_limits(graph, first, scales, fixed)
    chosen = {name: quantization_of(scales[name], low[name]) for name in scales}
    result: dict[str, ops.Quantization] = {}
    for operator in graph.operators:
        name = first[operator.output]
        if isinstance(operator, ops.SquareRoot) and operator.output not in fixed:
            chosen[name] = _tie_avoiding(result[operator.input], chosen[name])
        result[operator.output] = fixed.get(operator.output) or chosen[name]
    return result


def _clipped(graph: Graph, ranges: Ranges) -> Ranges:
    """Limit the ranges of tensors that only a clip reads: saturation then is the clip."""
    readers = _readers(graph)
    clipped = dict(ranges)
    for operator in reversed(graph.operators):
        if isinstance(operator, ops.Clip) and readers[operator.input] == 1:
            low, high = ranges.get(operator.input, (0.0, 0.0))
            clipped[operator.input] = (max(low, operator.low), min(high, operator.high))
    return clipped


def _tie_avoiding(before: ops.Quantization, after: ops.Quantization) -> ops.Quantization:
    """Enlarge a scale slightly, if necessary, until no square root is a rounding tie.

    A tie would be decided by the last bit of LiteRT's square root, which is not always right.
    """
    roots = np.sqrt(np.arange(256) * before.scale)
    scale = after.scale
    while np.abs(roots / scale % 1 - 0.5).min() < _FROM_TIE:
        scale = float(np.float32(scale * 1.0005))
    return ops.Quantization(scale, after.zero_point)


def fixed_quantizations(graph: Graph) -> dict[str, ops.Quantization]:
    """Return the scale and zero point of tensors for which they do not depend on data."""
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
    """Group the tensors that share one scale.

    Args:
        graph: A float graph.
        shared: Whether the output of an operator shares the scale of one of its inputs. It is
            asked for sums and for operators that keep values.

    Returns:
        For each tensor, the first of its group.
    """
    first = {graph.input: graph.input}
    for operator in graph.operators:
        first[operator.output] = operator.output
        if not isinstance(operator, KEEPS_VALUES | ops.Add):
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
    """Tell which tensors are images on 0..255, and which are residuals added to one.

    Images are the input and copies of it, and tensors that only lead to the output, through
    operators that keep values and additions to an image.
    """
    roles: dict[str, Literal["image", "residual", "features"]] = {graph.input: "image"}
    for operator in graph.operators:
        copies = (
            operator.copies_channels
            if isinstance(operator, ops.Conv2D)
            else isinstance(operator, KEEPS_VALUES)
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
        elif not isinstance(operator, KEEPS_VALUES):
            continue
        for name in operator.inputs:
            if roles[name] == "features" and readers[name] == 1:
                roles[name] = role
    return roles


def quantization_of(scale: float, low: float) -> ops.Quantization:
    """Return the quantization of this scale whose smallest int8 is nearest to `low`."""
    scale = float(np.float32(scale))
    return ops.Quantization(scale, int(np.clip(np.rint(-128 - low / scale), -128, 127)))


def _readers(graph: Graph) -> Counter[str]:
    return Counter(name for operator in graph.operators for name in set(operator.inputs))


def range_width(ranges: Ranges, name: str) -> float:
    """Return the width of a tensor's range, zero included."""
    low, high = ranges[name]
    return max(high, 0.0) - min(low, 0.0)


def _keep_within_limits(
    graph: Graph,
    first: Mapping[str, str],
    scales: dict[str, float],
    fixed: Mapping[str, ops.Quantization],
) -> None:
    """Enlarge scales until LiteRT's fast kernels accept the ratios of all operators."""

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
            smallest, largest = _SCALE_RATIOS.get(type(operator), (0, np.inf))
            made = operator.output
            if isinstance(operator, ops.LeakyReLU):  # limits ratio · slope too
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
