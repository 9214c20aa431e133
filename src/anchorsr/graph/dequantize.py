"""Conversion of integer graphs to float graphs."""

from __future__ import annotations

import dataclasses

import numpy as np

from anchorsr.errors import GraphError
from anchorsr.graph import operators as ops
from anchorsr.graph.graph import Graph


def dequantize(graph: Graph) -> Graph:
    """Convert an integer graph to the float graph with the same real weights and biases.

    The results are equal up to the rounding and saturation of activations. Of the latter, only
    those of the output and of Minimum are kept, as Clip.

    Raises:
        GraphError: The graph is a float graph.
    """
    if not graph.is_integer:
        raise GraphError(f"{graph.name} is a float graph already")
    names = {graph.input: graph.input}
    tensors = {graph.input: ops.TensorType(graph.tensors[graph.input].channels, "float32")}
    operators: list[ops.Operator] = []
    for operator in graph.operators:
        inputs = tuple(names[name] for name in operator.inputs)
        names[operator.output] = operator.output
        source = graph.tensors[operator.inputs[0]]
        if isinstance(operator, ops.Requantize):  # keeps the real values
            names[operator.output] = inputs[0]
            continue
        operator = ops.with_inputs(operator, inputs)
        if isinstance(operator, ops.Convolution):
            operator = _dequantize_conv(operator, source)
        elif isinstance(operator, ops.PReLU):
            slopes = operator.slopes * np.float32(operator.slope_scale or 1)
            operator = dataclasses.replace(operator, slopes=slopes, slope_scale=None)
        elif isinstance(operator, ops.Minimum):
            low, _ = _real_limits(source)
            high = _real(operator.bound, source)
            operator = ops.Clip(operator.input, operator.output, low, high)
        operators.append(operator)
        channels = graph.tensors[operator.output].channels
        tensors[operator.output] = ops.TensorType(channels, "float32")
    last = graph.tensors[graph.output]
    output = f"{names[graph.output]}/clipped"
    operators.append(ops.Clip(names[graph.output], output, *_real_limits(last)))
    tensors[output] = ops.TensorType(last.channels, "float32")
    return Graph(graph.name, tensors, operators, graph.input, output)


def _dequantize_conv(conv: ops.Convolution, source: ops.TensorType) -> ops.Convolution:
    assert conv.weight_scales is not None
    assert source.quantization is not None
    scales = conv.weight_scales.astype(np.float64)
    weights = (ops.by_channel(conv) * scales[:, None, None, None]).astype(np.float32)
    bias = (conv.bias * scales * source.quantization.scale).astype(np.float32)
    return dataclasses.replace(
        conv, weights=ops.as_stored(conv, weights), bias=bias, weight_scales=None
    )


def _real(integer: int, tensor: ops.TensorType) -> float:
    assert tensor.quantization is not None
    return tensor.quantization.scale * (integer - tensor.quantization.zero_point)


def _real_limits(tensor: ops.TensorType) -> tuple[float, float]:
    info = np.iinfo(tensor.dtype)
    return _real(int(info.min), tensor), _real(int(info.max), tensor)
