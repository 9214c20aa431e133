"""Post-training quantization: a float graph and calibration pictures to an integer graph.

Activations are int8 with one scale a tensor (`scales`). Weights are int8, symmetric, with one
scale an output channel, within ±64, so that no x86 kernel that adds pairs of products in 16
bits saturates (255 · 64 · 2 < 2^15); biases are int32 at scale input scale · weight scale.
Files take and give uint8.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from anchorsr.checks import LARGEST_MULTIPLIER
from anchorsr.errors import GraphError
from anchorsr.graph import Graph
from anchorsr.integer import multipliers
from anchorsr.operators import (
    Clip,
    Convolution,
    DepthwiseConv2D,
    Minimum,
    OneInput,
    Operator,
    PReLU,
    Quantization,
    Requantize,
    TensorType,
)
from anchorsr.scales import KEEPS_NUMBERS, PICTURE, choose_quantization, observe_ranges

WEIGHT_LIMIT = 64
# A bias within this and the products of 64 channels stay below 2^24, where float32 is exact.
BIAS_LIMIT = np.float32(2**22)
_FILE_EDGE = Quantization(1.0, 0)  # uint8 pictures as files hold them


def quantize(
    graph: Graph,
    pictures: Iterable[npt.NDArray[np.uint8]],
    *,
    percentile: float = 99.999,
    weight_limit: int = WEIGHT_LIMIT,
) -> Graph:
    """The integer graph of a float graph, with ranges from LR pictures, (H, W, 3) uint8.

    percentile: how much of each activation's values its range covers, in percent; weight_limit:
    the largest weight, up to 127. Raises DataError without pictures, GraphError for a graph that
    is not a float graph, ValueError for a percentile or limit that cannot be.
    """
    if not 50 < percentile <= 100:
        raise ValueError(f"a percentile is above 50 and up to 100, not {percentile}")
    if not 1 <= weight_limit <= 127:
        raise ValueError(f"the largest weight is from 1 to 127, not {weight_limit}")
    ranges = observe_ranges(graph, pictures, percentile)
    return apply_quantization(graph, choose_quantization(graph, ranges), weight_limit=weight_limit)


def apply_quantization(
    graph: Graph, chosen: Mapping[str, Quantization], *, weight_limit: int = WEIGHT_LIMIT
) -> Graph:
    """The integer graph whose tensors have these scales and zero points, uint8 in and out.

    An operator that keeps numbers gets a Requantize before it where the scales differ.
    """
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
        if isinstance(operator, Clip):  # what saturation at scale 1 does
            saturates = name == graph.output or tensors[sources[0]].quantization == PICTURE
            if not saturates or (operator.low, operator.high) != (0, 255):
                raise GraphError("only the clip of a picture to 0..255 can be quantized")
            aliases[name] = sources[0]
            continue
        aliases[name] = name
        tensors[name] = TensorType(graph.tensors[name].channels, "int8", chosen[name])
        if isinstance(operator, KEEPS_NUMBERS):
            for source in sorted({one for one in sources if not _same(tensors, one, name)}):
                again = f"{source}/{name}"
                tensors[again] = dataclasses.replace(tensors[source], quantization=chosen[name])
                operators.append(Requantize(source, again))
                sources = tuple(again if one == source else one for one in sources)
        operator = _reading(operator, sources)
        if isinstance(operator, Convolution):
            source_type, target_type = tensors[sources[0]], tensors[name]
            operator = _quantize_conv(operator, source_type, target_type, weight_limit)
        elif isinstance(operator, PReLU):
            operator = quantize_slopes(operator)
        operators.append(operator)
    channels, last = graph.tensors[graph.output].channels, aliases[graph.output]
    if tensors[last].quantization != PICTURE:
        tensors[f"{last}/picture"] = TensorType(channels, "int8", PICTURE)
        operators.append(Requantize(last, f"{last}/picture"))
        last = f"{last}/picture"
    tensors["upscaled"] = TensorType(channels, "uint8", _FILE_EDGE)
    operators.append(Requantize(last, "upscaled"))
    return Graph(graph.name, tensors, operators, graph.input, "upscaled")


def dequantize(graph: Graph) -> Graph:
    """The float graph with the real values of an integer graph's weights and biases.

    It computes the same up to the rounding and saturation of activations: of these only the
    clip of the output and what Minimum does are kept. Raises GraphError for a float graph.
    """
    if not graph.is_integer:
        raise GraphError(f"{graph.name} is a float graph already")
    names = {graph.input: graph.input}
    tensors = {graph.input: TensorType(graph.tensors[graph.input].channels, "float32")}
    operators: list[Operator] = []
    for operator in graph.operators:
        inputs = tuple(names[name] for name in operator.inputs)
        names[operator.output] = operator.output
        source = graph.tensors[operator.inputs[0]]
        if isinstance(operator, Requantize):  # changes no real value
            names[operator.output] = inputs[0]
            continue
        operator = _reading(operator, inputs)
        if isinstance(operator, Convolution):
            operator = _dequantize_conv(operator, source)
        elif isinstance(operator, PReLU):
            slopes = operator.slopes * np.float32(operator.slope_scale or 1)
            operator = dataclasses.replace(operator, slopes=slopes, slope_scale=None)
        elif isinstance(operator, Minimum):
            low, _ = _real_limits(source)
            high = _real(operator.bound, source)
            operator = Clip(operator.input, operator.output, low, high)
        operators.append(operator)
        channels = graph.tensors[operator.output].channels
        tensors[operator.output] = TensorType(channels, "float32")
    last = graph.tensors[graph.output]
    output = f"{names[graph.output]}/clipped"
    operators.append(Clip(names[graph.output], output, *_real_limits(last)))
    tensors[output] = TensorType(last.channels, "float32")
    return Graph(graph.name, tensors, operators, graph.input, output)


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


def _same(tensors: Mapping[str, TensorType], one: str, other: str) -> bool:
    return tensors[one].quantization == tensors[other].quantization


def _reading(operator: Operator, sources: tuple[str, ...]) -> Operator:
    """The operator with other inputs."""
    single = isinstance(operator, OneInput)
    changes: dict[str, Any] = {"input": sources[0]} if single else {"inputs": sources}
    return dataclasses.replace(operator, **changes)


def _quantize_conv(
    conv: Convolution, source: TensorType, target: TensorType, limit: int
) -> Convolution:
    assert source.quantization is not None  # every tensor of an integer graph has one
    weights, bias, scales = quantize_weights(
        by_channel(conv), conv.bias, source.quantization.scale, limit
    )
    quantized = dataclasses.replace(
        conv, weights=as_stored(conv, weights), bias=bias, weight_scales=scales
    )
    largest = multipliers(quantized, source, target).max()
    if largest >= LARGEST_MULTIPLIER:
        raise GraphError(
            f"{conv.output} would need a multiplier of {largest:.3g}, and LiteRT takes those below"
            f" {LARGEST_MULTIPLIER}: its activations are almost zero on the calibration pictures,"
            " so the layer is dead, or the pictures are unlike those it was trained on"
        )
    return quantized


def _dequantize_conv(conv: Convolution, source: TensorType) -> Convolution:
    assert conv.weight_scales is not None
    assert source.quantization is not None
    scales = conv.weight_scales.astype(np.float64)
    weights = (by_channel(conv) * scales[:, None, None, None]).astype(np.float32)
    bias = (conv.bias * scales * source.quantization.scale).astype(np.float32)
    return dataclasses.replace(
        conv, weights=as_stored(conv, weights), bias=bias, weight_scales=None
    )


def by_channel(conv: Convolution) -> npt.NDArray[np.float32]:
    """Weights with the output channels first, (out, height, width, in)."""
    if isinstance(conv, DepthwiseConv2D):
        return np.asarray(conv.weights.transpose(2, 0, 1)[..., None])
    return conv.weights


def as_stored(
    conv: Convolution, weights: npt.NDArray[np.float32 | np.int8]
) -> npt.NDArray[np.float32 | np.int8]:
    if isinstance(conv, DepthwiseConv2D):
        return np.ascontiguousarray(weights[..., 0].transpose(1, 2, 0))
    return weights


def quantize_slopes(operator: PReLU) -> PReLU:
    """Slopes as int8, symmetric, with one scale."""
    largest = np.abs(operator.slopes).max()
    scale = np.float32((largest if largest > 0 else 127) / 127)
    slopes = np.rint(operator.slopes / scale).astype(np.int8)
    return dataclasses.replace(operator, slopes=slopes, slope_scale=float(scale))


def _real(integer: int, tensor: TensorType) -> float:
    assert tensor.quantization is not None
    return tensor.quantization.scale * (integer - tensor.quantization.zero_point)


def _real_limits(tensor: TensorType) -> tuple[float, float]:
    info = np.iinfo(tensor.dtype)
    return _real(int(info.min), tensor), _real(int(info.max), tensor)
