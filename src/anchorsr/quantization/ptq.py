"""Post-training quantization (PTQ): a float graph and calibration images to an integer graph.

Activations are int8, per-tensor (`calibration`). Weights are int8, symmetric, per-channel, and
within ±64, so that no x86 kernel that adds pairs of products in 16 bits saturates
(255 · 64 · 2 < 2^15). Biases are int32 with scale input scale · weight scale. Input and output of
the graph are uint8.
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
    IMAGE_IO,
    KEEPS_VALUES,
    choose_quantization,
    observe_ranges,
)

# With a bias up to this, sums over 64 channels stay below 2^24, where float32 is exact.
BIAS_LIMIT = np.float32(2**22)


def quantize_graph(
    graph: Graph,
    images: Iterable[npt.NDArray[np.uint8]],
    *,
    percentile: float = 99.999,
    weight_limit: int = ops.WEIGHT_LIMIT,
) -> Graph:
    """Quantize a float graph.

    Args:
        graph: A float graph.
        images: LR images, (H, W, 3) uint8, on which activation ranges are measured.
        percentile: How much of an activation's values its range covers, above 50 and up to 100.
        weight_limit: The largest integer weight, up to 127.

    Raises:
        DataError: There are no images.
        GraphError: The graph is not a float graph, or cannot be quantized.
        ValueError: percentile or weight_limit is out of range.
    """
    if not 50 < percentile <= 100:
        raise ValueError(f"percentile is above 50 and up to 100, not {percentile}")
    if not 1 <= weight_limit <= 127:
        raise ValueError(f"weight_limit is from 1 to 127, not {weight_limit}")
    ranges = observe_ranges(graph, images, percentile)
    return apply_quantization(graph, choose_quantization(graph, ranges), weight_limit=weight_limit)


def apply_quantization(
    graph: Graph, chosen: Mapping[str, ops.Quantization], *, weight_limit: int = ops.WEIGHT_LIMIT
) -> Graph:
    """Quantize a float graph with chosen scales and zero points, uint8 in and out.

    Where scales differ around an operator that keeps values, a Requantize is put before it.

    Args:
        graph: A float graph.
        chosen: Scale and zero point of the output of every operator.
        weight_limit: The largest integer weight, up to 127.

    Raises:
        GraphError: The graph is not a float graph, or cannot be quantized.
    """
    if any(tensor.dtype != "float32" for tensor in graph.tensors.values()):
        raise GraphError(f"{graph.name} is quantized already")
    aliases: dict[str, str] = {graph.input: "image"}
    tensors = {
        graph.input: ops.TensorType(graph.tensors[graph.input].channels, "uint8", IMAGE_IO),
        "image": ops.TensorType(graph.tensors[graph.input].channels, "int8", IMAGE),
    }
    operators: list[ops.Operator] = [ops.Requantize(graph.input, "image")]
    for operator in graph.operators:
        sources = tuple(aliases[name] for name in operator.inputs)
        name = operator.output
        if isinstance(operator, ops.Clip):  # saturation at scale 1 does it
            saturates = name == graph.output or tensors[sources[0]].quantization == IMAGE
            if saturates and (operator.low, operator.high) == (0, 255):
                aliases[name] = sources[0]
                continue
            if saturates or operator.low not in (0, -np.inf):
                raise GraphError(
                    f"{name} clips to {operator.low:g}..{operator.high:g}, and integers clip images"
                    " to the range from black to white, and features at 0 from below: use"
                    " torch.clamp(x, 0, high)"
                )
        aliases[name] = name
        tensors[name] = ops.TensorType(graph.tensors[name].channels, "int8", chosen[name])
        if isinstance(operator, KEEPS_VALUES):
            for source in sorted({one for one in sources if not _same(tensors, one, name)}):
                again = f"{source}/{name}"
                tensors[again] = dataclasses.replace(tensors[source], quantization=chosen[name])
                operators.append(ops.Requantize(source, again))
                sources = tuple(again if one == source else one for one in sources)
        if isinstance(operator, ops.Clip):
            clips = _integer_clip(operator, sources[0], chosen[name])
            tensors.update({clip.output: tensors[name] for clip in clips})
            operators += clips
            aliases[name] = clips[-1].output if clips else sources[0]
            if not clips:
                del tensors[name]
            continue
        if isinstance(operator, ops.PReLU):
            operator = quantize_slopes(operator)
        elif isinstance(operator, ops.Convolution):
            source_type, target_type = tensors[sources[0]], tensors[name]
            operator = _quantize_conv(operator, source_type, target_type, weight_limit)
        operators.append(ops.with_inputs(operator, sources))
    channels, last = graph.tensors[graph.output].channels, aliases[graph.output]
    if tensors[last].quantization != IMAGE:
        tensors[f"{last}/image"] = ops.TensorType(channels, "int8", IMAGE)
        operators.append(ops.Requantize(last, f"{last}/image"))
        last = f"{last}/image"
    tensors["upscaled"] = ops.TensorType(channels, "uint8", IMAGE_IO)
    operators.append(ops.Requantize(last, "upscaled"))
    return Graph(graph.name, tensors, operators, graph.input, "upscaled")


def clip_limits(clip: ops.Clip, quantization: ops.Quantization) -> tuple[int, int]:
    """Return the least and the largest int8 of clipped features."""
    zero_point = quantization.zero_point
    low = zero_point if clip.low == 0 else -128
    if not np.isfinite(clip.high):
        return low, 127
    return low, min(round(clip.high / quantization.scale) + zero_point, 127)


def _integer_clip(
    clip: ops.Clip, source: str, quantization: ops.Quantization
) -> list[ops.ReLU | ops.Minimum]:
    """Return the operators that clip features beyond what saturation does; often none."""
    low, high = clip_limits(clip, quantization)
    minimum = [ops.Minimum(source, clip.output, high)] if high < 127 else []
    if low == -128:
        return [*minimum]
    if not minimum:
        return [ops.ReLU(source, clip.output)]
    positive = f"{clip.output}/positive"
    return [ops.ReLU(source, positive), ops.Minimum(positive, clip.output, high)]


def quantize_weights(
    weights: npt.NDArray[np.float32],
    bias: npt.NDArray[np.float32],
    input_scale: float,
    limit: int,
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """Quantize the weights of a convolution, symmetric and per-channel.

    A scale follows from the channel's largest weight, unless its bias would then exceed
    `BIAS_LIMIT`. `qat_network.IntegerNetwork` computes the same in torch, operation by operation.

    Args:
        weights: (C, ...) float32, output channels first.
        bias: (C,) float32.
        input_scale: The scale of the convolution's input.
        limit: The largest integer weight.

    Returns:
        Weights as int8, bias as int32 with scale input scale · weight scale, and the (C,) weight
        scales.
    """
    scale = np.float32(input_scale)
    largest = np.abs(weights).max(axis=(1, 2, 3))
    scales = np.maximum(largest / np.float32(limit), np.abs(bias) / (scale * BIAS_LIMIT))
    # A channel of zeros may have any scale; one that exists already keeps the range narrow.
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
            f"{conv.output} would need a multiplier of {largest:.3g}, and LiteRT accepts those"
            f" below {LARGEST_MULTIPLIER}: its activations are almost zero on the calibration"
            " images. The layer is inactive, or the images are unlike those it was trained on"
        )
    return quantized


def quantize_slopes(operator: ops.PReLU) -> ops.PReLU:
    """Quantize the slopes of a PReLU to int8, symmetric and per-tensor."""
    largest = np.abs(operator.slopes).max()
    scale = np.float32((largest if largest > 0 else 127) / 127)
    slopes = np.rint(operator.slopes / scale).astype(np.int8)
    return dataclasses.replace(operator, slopes=slopes, slope_scale=float(scale))
