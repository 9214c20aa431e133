"""A float graph as a PyTorch module of plain layers, for the exporters of other runtimes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from anchorsr.errors import GraphError
from anchorsr.graph import operators as ops
from anchorsr.graph.graph import Graph
from anchorsr.lowering.fold import fold_orders
from anchorsr.lowering.layers import copies


class GraphModule(nn.Module):
    """The network of a float graph, as (N, C, H, W), on [0, maximum].

    It consists of PyTorch's own layers (Conv2d, PixelShuffle, ...), in their order of channels.

    Args:
        graph: The graph.
        maximum: White in the input and output: 1, or 255.

    Raises:
        GraphError: The graph is an integer graph.
    """

    def __init__(self, graph: Graph, maximum: float = 1.0) -> None:
        super().__init__()
        if graph.is_integer:
            raise GraphError(f"{graph.name} is an integer graph: dequantize it first")
        ordered = _in_order_of_pytorch(graph)
        self._unit = 255.0 / maximum
        self._input, self._output = ordered.input, ordered.output
        self.layers = nn.ModuleList()
        self._plan: list[tuple[tuple[str, ...], str]] = []
        for operator in ordered.operators:
            self.layers.append(_layer(operator, ordered))
            self._plan.append((operator.inputs, operator.output))

    def forward(self, images: Tensor) -> Tensor:
        """Upscale images, (N, 3, H, W) to (N, 3, factor · H, factor · W)."""
        values = {self._input: images if self._unit == 1 else images * self._unit}
        for layer, (sources, name) in zip(self.layers, self._plan, strict=True):
            values[name] = layer(*(values[source] for source in sources))
        result = values[self._output]
        return result if self._unit == 1 else result / self._unit


def _in_order_of_pytorch(graph: Graph) -> Graph:
    """Put channels before depth-to-space into the order of PixelShuffle, if possible for free."""
    operators: list[ops.Operator] = []
    tensors = dict(graph.tensors)
    for operator in graph.operators:
        if isinstance(operator, ops.DepthToSpace):
            channels = graph.tensors[operator.input].channels
            order = np.arange(channels).reshape(operator.block**2, -1).T.reshape(-1)
            name = f"{operator.output}/order"
            operators.append(copies(order, channels, operator.input, name))
            tensors[name] = graph.tensors[operator.input]
            operator = dataclasses.replace(operator, input=name)
        operators.append(operator)
    return fold_orders(Graph(graph.name, tensors, operators, graph.input, graph.output))


class _Function(nn.Module):
    """A function of tensors as a layer."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self._function = function

    def forward(self, *sources: Tensor) -> Tensor:
        """Compute the function."""
        return self._function(*sources)


def _layer(operator: ops.Operator, graph: Graph) -> nn.Module:
    channels = graph.tensors[operator.output].channels
    match operator:
        case ops.Conv2D() | ops.DepthwiseConv2D() | ops.TransposedConv2D():
            return _convolution(operator)
        case ops.DepthToSpace(block=block):
            return nn.PixelShuffle(block)
        case ops.ReLU():
            return nn.ReLU()
        case ops.LeakyReLU(slope=slope):
            return nn.LeakyReLU(slope)
        case ops.Sigmoid():
            return nn.Sigmoid()
        case ops.GlobalAveragePool():
            return nn.AdaptiveAvgPool2d(1)
        case ops.PReLU(slopes=slopes):
            prelu = nn.PReLU(len(slopes))
            prelu.weight = nn.Parameter(torch.from_numpy(slopes.copy()))
            return prelu
        case ops.Resize(factor=factor, mode="nearest"):
            return nn.Upsample(scale_factor=factor)
        case ops.Resize(factor=factor):
            return nn.Upsample(scale_factor=factor, mode="bilinear")
        case ops.Pool2D(kind="max", size=size, stride=stride):
            return nn.MaxPool2d(size, stride, (size - stride) // 2)
        case ops.Pool2D(size=size):
            return nn.AvgPool2d(size, 1, size // 2, count_include_pad=False)
        case ops.Clip(low=low, high=high):
            return _Function(lambda x: x.clamp(low, high))
        case ops.SquareRoot():
            return _Function(torch.sqrt)
        case ops.Add():
            return _Function(torch.add)
        case ops.Subtract():
            return _Function(torch.sub)
        case ops.Multiply():
            return _Function(torch.mul)
        case ops.Concat():
            return _Function(lambda *x: torch.cat(x, dim=1))
        case ops.Slice(start=start):
            return _Function(lambda x: x[:, start : start + channels])
        case ops.Tile(count=count):
            return _Function(lambda x: x.repeat(1, count, 1, 1))
        case _:
            raise GraphError(f"{type(operator).__name__} has no form in floating point")


def _convolution(conv: ops.Convolution) -> nn.Module:
    weights = torch.from_numpy(ops.by_channel(conv).transpose(0, 3, 1, 2).copy())
    outputs, inputs, *sides = weights.shape
    layer: nn.Conv2d | nn.ConvTranspose2d
    if isinstance(conv, ops.TransposedConv2D):
        rows, columns = ((side - conv.stride) // 2 for side in sides)
        layer = nn.ConvTranspose2d(
            inputs, outputs, (sides[0], sides[1]), conv.stride, (rows, columns)
        )
        weights = weights.transpose(0, 1).contiguous()
    else:
        stride = conv.stride if isinstance(conv, ops.Conv2D) else 1
        groups = conv.groups if isinstance(conv, ops.Conv2D) else outputs
        rows, columns = ((side - stride) // 2 for side in sides)
        size = (sides[0], sides[1])
        layer = nn.Conv2d(inputs * groups, outputs, size, stride, (rows, columns), groups=groups)
    layer.weight = nn.Parameter(weights)
    layer.bias = nn.Parameter(torch.from_numpy(conv.bias.copy()))
    relu = not isinstance(conv, ops.TransposedConv2D) and conv.relu
    return nn.Sequential(layer, nn.ReLU()) if relu else layer
