"""Post-training quantization: a float graph and calibration images to an integer graph.

Activations are int8 with one scale a tensor (`scales`). Weights are int8, symmetric, with one
scale an output channel, within ±64, so that no x86 kernel that adds pairs of products in 16
bits saturates (255 · 64 · 2 < 2^15); biases are int32 at scale input scale · weight scale.
Files take and give uint8.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from anchorsr.errors import GraphError
from anchorsr.graph import operators as ops
from anchorsr.graph.executor import multipliers
from anchorsr.graph.graph import Graph
from anchorsr.graph.verify import LARGEST_MULTIPLIER
from anchorsr.quantization.calibration import (
    IMAGE,
    KEEPS_NUMBERS,
    choose_quantization,
    observe_ranges,
)

WEIGHT_LIMIT = 64
# A bias within this and the products of 64 channels stay below 2^24, where float32 is exact.
BIAS_LIMIT = np.float32(2**22)
_FILE_EDGE = ops.Quantization(1.0, 0)  # uint8 images as files hold them


def quantize(
    graph: Graph,
    images: Iterable[npt.NDArray[np.uint8]],
    *,
    percentile: float = 99.999,
    weight_limit: int = WEIGHT_LIMIT,
) -> Graph:
    """The integer graph of a float graph, with ranges from LR images, (H, W, 3) uint8.

    percentile: how much of each activation's values its range covers, in percent; weight_limit:
    the largest weight, up to 127. Raises DataError without images, GraphError for a graph that
    is not a float graph, ValueError for a percentile or limit that cannot be.
    """
    if not 50 < percentile <= 100:
        raise ValueError(f"a percentile is above 50 and up to 100, not {percentile}")
    if not 1 <= weight_limit <= 127:
        raise ValueError(f"the largest weight is from 1 to 127, not {weight_limit}")
    ranges = observe_ranges(graph, images, percentile)
    return apply_quantization(graph, choose_quantization(graph, ranges), weight_limit=weight_limit)


def apply_quantization(
    graph: Graph, chosen: Mapping[str, ops.Quantization], *, weight_limit: int = WEIGHT_LIMIT
) -> Graph:
    """The integer graph whose tensors have these scales and zero points, uint8 in and out.

    An operator that keeps numbers gets a Requantize before it where the scales differ.
    """
    if any(tensor.dtype != "float32" for tensor in graph.tensors.values()):
        raise GraphError(f"{graph.name} is quantized already")
    aliases: dict[str, str] = {graph.input: "image"}
    tensors = {
        graph.input: ops.TensorType(graph.tensors[graph.input].channels, "uint8", _FILE_EDGE),
        "image": ops.TensorType(graph.tensors[graph.input].channels, "int8", IMAGE),
    }
    operators: list[ops.Operator] = [ops.Requantize(graph.input, "image")]
    for operator in graph.operators:
        sources = tuple(aliases[name] for name in operator.inputs)
        name = operator.output
        if isinstance(operator, ops.Clip):  # what saturation at scale 1 does
            saturates = name == graph.output or tensors[sources[0]].quantization == IMAGE
            if not saturates or (operator.low, operator.high) != (0, 255):
                raise GraphError("only the clip of an image to 0..255 can be quantized")
            aliases[name] = sources[0]
            continue
        aliases[name] = name
        tensors[name] = ops.TensorType(graph.tensors[name].channels, "int8", chosen[name])
        if isinstance(operator, KEEPS_NUMBERS):
            for source in sorted({one for one in sources if not _same(tensors, one, name)}):
                again = f"{source}/{name}"
                tensors[again] = dataclasses.replace(tensors[source], quantization=chosen[name])
                operators.append(ops.Requantize(source, again))
                sources = tuple(again if one == source else one for one in sources)
        operator = ops.with_inputs(operator, sources)
        if isinstance(operator, ops.Convolution):
            source_type, target_type = tensors[sources[0]], tensors[name]
            operator = _quantize_conv(operator, source_type, target_type, weight_limit)
        elif isinstance(operator, ops.PReLU):
            operator = quantize_slopes(operator)
        operators.append(operator)
    channels, last = graph.tensors[graph.output].channels, aliases[graph.output]
    if tensors[last].quantization != IMAGE:
        tensors[f"{last}/image"] = ops.TensorType(channels, "int8", IMAGE)
        operators.append(ops.Requantize(last, f"{last}/image"))
        last = f"{last}/image"
    tensors["upscaled"] = ops.TensorType(channels, "uint8", _FILE_EDGE)
    operators.append(ops.Requantize(last, "upscaled"))
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
    `BIAS_LIMIT`. `integer_network.IntegerNetwork` computes the same in torch, operation by
    operation.
    """
    scale = np.float32(input_scale)
    largest = np.abs(weights).max(axis=(1, 2, 3))
    scales = np.maximum(largest / np.float32(limit), np.abs(bias) / (scale * BIAS_LIMIT))
    # A channel that is zero everywhere has any scale; that of another is an ordinary one.
    scales = np.where(scales > 0, scales, scales.max() or np.float32(1))
    integers = np.rint(weights / scales[:, None, None, None])
    integer_bias = np.rint(bias / (scale * scales))
    return integers.astype(np.int8), integer_bias.astype(np.int32), scales


def _same(tensors: Mapping[str, ops.TensorType], one: str, other: str) -> bool:
    return tensors[one].quantization == tensors[other].quantization


def _quantize_conv(
    conv: ops.Convolution, source: ops.TensorType, target: ops.TensorType, limit: int
) -> ops.Convolution:
    assert source.quantization is not None  # every tensor of an integer graph has one
    weights, bias, scales = quantize_weights(
        ops.by_channel(conv), conv.bias, source.quantization.scale, limit
    )
    quantized = dataclasses.replace(
        conv, weights=ops.as_stored(conv, weights), bias=bias, weight_scales=scales
    )
    largest = multipliers(quantized, source, target).max()
    if largest >= LARGEST_MULTIPLIER:
        raise GraphError(
            f"{conv.output} would need a multiplier of {largest:.3g}, and LiteRT takes those below"
            f" {LARGEST_MULTIPLIER}: its activations are almost zero on the calibration images,"
            " so the layer is dead, or the images are unlike those it was trained on"
        )
    return quantized


def quantize_slopes(operator: ops.PReLU) -> ops.PReLU:
    """Slopes as int8, symmetric, with one scale."""
    largest = np.abs(operator.slopes).max()
    scale = np.float32((largest if largest > 0 else 127) / 127)
    slopes = np.rint(operator.slopes / scale).astype(np.int8)
    return dataclasses.replace(operator, slopes=slopes, slope_scale=float(scale))
