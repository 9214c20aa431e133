"""Post-training quantization: a float graph and calibration pictures to an integer graph.

The numeric rules (docs/design.md):

- activations int8, one scale a tensor; weights int8, symmetric, one scale an output channel,
  within ±64, so that no x86 kernel that adds pairs of products in 16 bits saturates
  (255 · 64 · 2 < 2^15); biases int32 at scale input scale · weight scale;
- pictures (the input, its anchor, the output) have scale 1 and zero point -128, so that
  int8 saturation is the clip to 0..255; the residual that is added to the anchor has scale 1
  and zero point 0, so that the addition is exact;
- other activations take their range from the calibration pictures; after ReLU the zero point
  is -128, so that saturation is the ReLU.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Literal

import numpy as np
import numpy.typing as npt

from anchorsr.errors import DataError, GraphError
from anchorsr.graph import Graph
from anchorsr.integer import multipliers, run_graph
from anchorsr.operators import (
    Add,
    Array,
    Clip,
    Conv2D,
    DepthToSpace,
    Operator,
    Quantization,
    Requantize,
    TensorType,
)

WEIGHT_LIMIT = 64
# A bias within this and the products of 64 channels stay below 2^24, where float32 is exact.
BIAS_LIMIT = np.float32(2**22)
_LARGEST_MULTIPLIER = 256
PICTURE = Quantization(1.0, -128)
RESIDUAL = Quantization(1.0, 0)
_FILE_EDGE = Quantization(1.0, 0)  # uint8 pictures as files hold them

Ranges = Mapping[str, tuple[float, float]]


def quantize(
    graph: Graph,
    pictures: Iterable[npt.NDArray[np.uint8]],
    *,
    percentile: float = 99.999,
    weight_limit: int = WEIGHT_LIMIT,
) -> Graph:
    """The integer graph of a float graph, with ranges from LR pictures, (H, W, 3) uint8.

    percentile: how much of each activation's values its range covers, in percent.
    Raises DataError without pictures, GraphError for a graph that is not a float graph.
    """
    ranges = observe_ranges(graph, pictures, percentile)
    return apply_quantization(graph, choose_quantization(graph, ranges), weight_limit=weight_limit)


def dequantize(graph: Graph) -> Graph:
    """The float graph with the real values of an integer graph's weights and biases.

    It computes the same up to the rounding and saturation of activations: of these only the
    clip of the output is kept. Raises GraphError for a float graph.
    """
    if not graph.is_integer:
        raise GraphError(f"{graph.name} is a float graph already")
    names = {graph.input: graph.input}
    tensors = {graph.input: TensorType(graph.tensors[graph.input].channels, "float32")}
    operators: list[Operator] = []
    for operator in graph.operators:
        inputs = tuple(names[name] for name in operator.inputs)
        names[operator.output] = operator.output
        if isinstance(operator, Requantize):  # changes no real value
            names[operator.output] = inputs[0]
            continue
        if isinstance(operator, Conv2D):
            operators.append(_dequantize_conv(operator, inputs[0], graph.tensors[operator.input]))
        elif isinstance(operator, Add):
            operators.append(Add((inputs[0], inputs[1]), operator.output))
        elif isinstance(operator, DepthToSpace):
            operators.append(DepthToSpace(inputs[0], operator.output, operator.block))
        channels = graph.tensors[operator.output].channels
        tensors[operator.output] = TensorType(channels, "float32")
    last = graph.tensors[graph.output]
    assert last.quantization is not None
    scale, zero_point = last.quantization.scale, last.quantization.zero_point
    low, high = (scale * (int(n) - zero_point) for n in _limits(last))
    output = f"{names[graph.output]}/clipped"
    operators.append(Clip(names[graph.output], output, low, high))
    tensors[output] = TensorType(last.channels, "float32")
    return Graph(graph.name, tensors, operators, graph.input, output)


def _dequantize_conv(conv: Conv2D, source: str, kind: TensorType) -> Conv2D:
    assert conv.weight_scales is not None
    assert kind.quantization is not None
    scales = conv.weight_scales.astype(np.float64)
    weights = conv.weights * scales[:, None, None, None]
    bias = conv.bias * scales * kind.quantization.scale
    real = weights.astype(np.float32), bias.astype(np.float32)
    return Conv2D(source, conv.output, *real, relu=conv.relu)


def _limits(tensor: TensorType) -> tuple[int, int]:
    info = np.iinfo(tensor.dtype)
    return int(info.min), int(info.max)


def observe_ranges(
    graph: Graph, pictures: Iterable[npt.NDArray[np.uint8]], percentile: float
) -> Ranges:
    """For each tensor, the widest over the pictures of its lower and upper percentile.

    The widest and not the mean: a range that cuts the largest activations of some pictures
    cost 0.06 dB where the widest cost 0.02 (docs/experiments.md).
    """
    seen: dict[str, tuple[float, float]] = {}

    def observe(name: str, values: Array) -> None:
        low, high = np.percentile(values, (100 - percentile, percentile))
        widest = seen.get(name, (np.inf, -np.inf))
        seen[name] = (min(widest[0], float(low)), max(widest[1], float(high)))

    count = 0
    for count, picture in enumerate(pictures, 1):  # noqa: B007 (only the count is wanted)
        run_graph(graph, picture[None].astype(np.float32), observe=observe)
    if not count:
        raise DataError("calibration needs at least one picture")
    return seen


def choose_quantization(graph: Graph, ranges: Ranges) -> dict[str, Quantization]:
    """Scale and zero point of every tensor that an operator makes."""
    roles = tensor_roles(graph)
    fixed = {"picture": PICTURE, "residual": RESIDUAL}
    relu = {op.output for op in graph.operators if isinstance(op, Conv2D) and op.relu}
    return {
        operator.output: fixed.get(roles[operator.output])
        or _from_range(*ranges[operator.output], relu=operator.output in relu)
        for operator in graph.operators
    }


def apply_quantization(
    graph: Graph, chosen: Mapping[str, Quantization], *, weight_limit: int = WEIGHT_LIMIT
) -> Graph:
    """The integer graph whose tensors have these scales and zero points, uint8 in and out."""
    if any(tensor.dtype != "float32" for tensor in graph.tensors.values()):
        raise GraphError(f"{graph.name} is quantized already")
    aliases: dict[str, str] = {graph.input: "image"}
    tensors = {
        graph.input: TensorType(graph.tensors[graph.input].channels, "uint8", _FILE_EDGE),
        "image": TensorType(graph.tensors[graph.input].channels, "int8", PICTURE),
    }
    operators: list[Operator] = [Requantize(graph.input, "image")]
    for operator in graph.operators:
        sources = tuple(aliases[name] for name in operator.inputs)
        name = operator.output
        if isinstance(operator, Clip):  # saturation at scale 1 is this clip
            if tensors[sources[0]].quantization != PICTURE:
                raise GraphError("only the clip of a picture to 0..255 can be quantized")
            aliases[name] = sources[0]
            continue
        aliases[name] = name
        tensors[name] = TensorType(graph.tensors[name].channels, "int8", chosen[name])
        if isinstance(operator, Conv2D):
            source, target = tensors[sources[0]], tensors[name]
            operators.append(_quantize_conv(operator, sources[0], source, target, weight_limit))
        elif isinstance(operator, Add):
            operators.append(Add((sources[0], sources[1]), name))
        elif isinstance(operator, DepthToSpace):
            operators.append(dataclasses.replace(operator, input=sources[0]))
        else:
            raise GraphError(f"{type(operator).__name__} cannot be quantized")
    channels = graph.tensors[graph.output].channels
    tensors["upscaled"] = TensorType(channels, "uint8", _FILE_EDGE)
    operators.append(Requantize(aliases[graph.output], "upscaled"))
    return Graph(graph.name, tensors, operators, graph.input, "upscaled")


def quantize_weights(
    weights: npt.NDArray[np.float32],
    bias: npt.NDArray[np.float32],
    input_scale: float,
    limit: int,
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """Integers within ±limit, the bias at scale input scale · weight scale, and the weight
    scales, one an output channel (axis 0).

    A scale follows from the channel's largest weight, unless its bias would then exceed
    `BIAS_LIMIT`. `finetune.IntegerNetwork` computes the same in torch, operation by operation.
    """
    scale = np.float32(input_scale)
    largest = np.abs(weights).max(axis=(1, 2, 3))
    scales = np.maximum(largest / np.float32(limit), np.abs(bias) / (scale * BIAS_LIMIT))
    # A channel that is zero everywhere has any scale; that of another is an ordinary one.
    scales = np.where(scales > 0, scales, scales.max() or np.float32(1))
    integers = np.rint(weights / scales[:, None, None, None])
    integer_bias = np.rint(bias / (scale * scales))
    return integers.astype(np.int8), integer_bias.astype(np.int32), scales


def _quantize_conv(
    conv: Conv2D, source_name: str, source: TensorType, target: TensorType, limit: int
) -> Conv2D:
    assert source.quantization is not None  # every tensor of an integer graph has one
    weights, bias, scales = quantize_weights(
        conv.weights, conv.bias, source.quantization.scale, limit
    )
    quantized = dataclasses.replace(
        conv, input=source_name, weights=weights, bias=bias, weight_scales=scales
    )
    largest = multipliers(quantized, source, target).max()
    if largest >= _LARGEST_MULTIPLIER:
        raise GraphError(
            f"{conv.output} would need a multiplier of {largest:.3g}, and LiteRT takes those below"
            f" {_LARGEST_MULTIPLIER}: its activations are almost zero on the calibration pictures,"
            " so the layer is dead, or the pictures are unlike those it was trained on"
        )
    return quantized


def tensor_roles(graph: Graph) -> dict[str, Literal["picture", "residual", "features"]]:
    """Which tensors hold pictures on 0..255, which a residual that is added to one.

    Pictures are the input and what only copies it, and what leads to the output by
    depth-to-space, clip and the addition to a picture.
    """
    roles: dict[str, Literal["picture", "residual", "features"]] = {graph.input: "picture"}
    for operator in graph.operators:
        source = roles[operator.inputs[0]]
        copies = (
            operator.copies_channels
            if isinstance(operator, Conv2D)
            else isinstance(operator, DepthToSpace | Clip | Requantize)
        )
        roles[operator.output] = source if copies else "features"
    wanted = {graph.output}
    for operator in reversed(graph.operators):
        if operator.output not in wanted:
            continue
        roles[operator.output] = "picture"
        if isinstance(operator, Add):
            for name in operator.inputs:
                if roles[name] != "picture":
                    roles[name] = "residual"
        elif isinstance(operator, DepthToSpace | Clip | Requantize):
            wanted.add(operator.inputs[0])
    return roles


def _from_range(low: float, high: float, *, relu: bool) -> Quantization:
    if relu:
        return Quantization(_as_float32((high if high > 0 else 255) / 255), -128)
    low, high = min(low, 0.0), max(high, 0.0)
    high = high if high > low else 255.0  # of a tensor that is zero everywhere, any will do
    scale = _as_float32((high - low) / 255)
    return Quantization(scale, int(np.clip(np.rint(-128 - low / scale), -128, 127)))


def _as_float32(value: float) -> float:
    return float(np.float32(value))
