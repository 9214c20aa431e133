"""An integer graph in the form that the kernel loads (`load.c` says what it holds).

The kernel runs chains of 3×3 and 1×1 convolutions whose results may be added to what was made
before. Here a graph is brought into that form: numbers that only move get no layer of their own,
an addition becomes part of the convolution before it, and so does an anchor, which is a
convolution that copies the image's channels. A graph that has no such form is refused, and says
why; another engine runs it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import numpy as np

from anchorsr.arrays import Array
from anchorsr.errors import GraphError
from anchorsr.graph import operators as ops
from anchorsr.graph.executor import multipliers
from anchorsr.graph.graph import Graph

_MAGIC = b"ASR1"
_IMAGE = 0
_NOTHING = -1
_COLORS = 3
_MOST_LAYERS, _MOST_CHANNELS, _MOST_FACTOR = 64, 256, 8


@dataclass
class _Layer:
    """A convolution and what is added to it; numbers as in `kernel.h`."""

    conv: ops.Conv2D
    input: int
    multipliers: Array
    zero: int
    zero_point: int
    low: int
    high: int = 255
    added: int = _NOTHING
    added_offset: int = 0
    copied: list[int] = field(default_factory=list)

    def pack(self) -> bytes:
        weights = self.conv.weights
        numbers = (
            self.input,
            weights.shape[1],
            weights.shape[0],
            self.zero,
            self.zero_point,
            self.low,
            self.high,
            self.added,
            self.added_offset,
            bool(self.copied),
        )
        arrays = (
            weights.astype("<i1").tobytes(),
            self.conv.bias.astype("<i4").tobytes(),
            self.multipliers.astype("<f4").tobytes(),
            bytes(self.copied),
        )
        filled = (data + bytes(-len(data) % 4) for data in arrays)
        return struct.pack("<10i", *numbers) + b"".join(filled)


def pack_graph(graph: Graph) -> bytes:
    """Pack an integer graph for the kernel.

    Args:
        graph: an integer graph from uint8 RGB to uint8 RGB.

    Returns:
        The bytes that `load.c` reads.

    Raises:
        GraphError: for a graph that the kernel does not run, with the reason.
    """
    return _Packer(graph).pack()


class _Packer:
    """Walks through a graph once, from the image to the output."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._layers: list[_Layer] = []
        # Of each name the tensor that holds its bytes, and how often it is read.
        self._places: dict[str, int] = {graph.input: _IMAGE}
        self._uses: dict[str, int] = {}
        for operator in graph.operators:
            for name in operator.inputs:
                self._uses[name] = self._uses.get(name, 0) + 1
        # Anchors that wait for their addition: for each output the channel of the image.
        self._anchors: dict[str, tuple[ops.Conv2D, list[int]]] = {}
        self._factor = 1

    def pack(self) -> bytes:
        for name in (self._graph.input, self._graph.output):
            tensor = self._graph.tensors[name]
            if (tensor.dtype, tensor.channels) != ("uint8", _COLORS):
                raise GraphError(
                    f"the kernel takes and makes uint8 RGB: {name!r} is {tensor.dtype} with"
                    f" {tensor.channels} channels"
                )
        for operator in self._graph.operators:
            if self._factor > 1 and not isinstance(operator, ops.Requantize):
                raise GraphError("the kernel ends with depth-to-space, and this graph goes on")
            if isinstance(operator, ops.Conv2D):
                self._read_conv(operator)
            elif isinstance(operator, ops.Add):
                self._read_add(operator)
            elif isinstance(operator, ops.ReLU):
                self._read_relu(operator)
            elif isinstance(operator, ops.DepthToSpace):
                self._factor = operator.block
                self._places[operator.output] = self._place(operator.input)
            elif isinstance(operator, ops.Requantize):
                self._read_requantize(operator)
            else:
                raise GraphError(f"the kernel has no {type(operator).__name__}")
        return self._packed()

    def _packed(self) -> bytes:
        count = len(self._layers)
        if not 1 <= count <= _MOST_LAYERS or self._place(self._graph.output) != count:
            raise GraphError(f"the kernel ends with the last of 1 to {_MOST_LAYERS} layers")
        if self._factor > _MOST_FACTOR:
            raise GraphError(f"the kernel upscales up to {_MOST_FACTOR} times, not {self._factor}")
        if self._layers[-1].conv.weights.shape[0] > _MOST_CHANNELS:
            raise GraphError(f"the kernel takes up to {_MOST_CHANNELS} channels")
        zero = _zero_byte(self._graph.tensors[self._graph.input])
        head = _MAGIC + struct.pack("<3i", count, self._factor, zero)
        return head + b"".join(layer.pack() for layer in self._layers)

    def _read_conv(self, conv: ops.Conv2D) -> None:
        outputs, height, width, _ = conv.weights.shape
        if (conv.groups, conv.stride) != (1, 1) or (height, width) not in ((1, 1), (3, 3)):
            raise GraphError(
                "the kernel has 3x3 and 1x1 convolutions without groups and strides, not"
                f" {height}x{width} in {conv.groups} with stride {conv.stride}"
            )
        if outputs > _MOST_CHANNELS:
            raise GraphError(f"the kernel takes up to {_MOST_CHANNELS} channels, not {outputs}")
        source, target = self._graph.tensors[conv.input], self._graph.tensors[conv.output]
        factors = multipliers(conv, source, target)
        copied = self._copied_channels(conv, source, target, factors)
        if copied and self._uses.get(conv.output) == 1 and self._is_added(conv.output):
            self._anchors[conv.output] = (conv, copied)
            return
        self._add_layer(conv, self._place(conv.input), target, factors)

    def _add_layer(
        self, conv: ops.Conv2D, place: int, target: ops.TensorType, factors: Array
    ) -> None:
        zero = _zero_byte(target)
        low = zero if conv.relu else 0
        self._layers.append(_Layer(conv, place, factors, zero, zero, low))
        self._places[conv.output] = len(self._layers)

    def _copied_channels(
        self, conv: ops.Conv2D, source: ops.TensorType, target: ops.TensorType, factors: Array
    ) -> list[int]:
        """For each output the channel of the image that it equals; empty where one does not."""
        if not conv.copies_channels or self._places.get(conv.input) != _IMAGE:
            return []
        weights = conv.weights[:, 0, 0]
        channels = weights.argmax(axis=1)
        largest = weights.max(axis=1).astype(np.float32)
        if (largest * factors != 1).any() or _zero_byte(source) != _zero_byte(target):
            return []
        return [int(channel) for channel in channels]

    def _is_added(self, name: str) -> bool:
        return any(isinstance(op, ops.Add) and name in op.inputs for op in self._graph.operators)

    def _read_add(self, add: ops.Add) -> None:
        types = [self._graph.tensors[name] for name in (*add.inputs, add.output)]
        if len({_quantization(tensor).scale for tensor in types}) != 1:
            raise GraphError("the kernel adds tensors of one scale only")
        if any(self._graph.extents[name] != 1 for name in add.inputs):
            raise GraphError("the kernel adds tensors of the image's size only")
        last = len(self._layers)
        for one, other in (add.inputs, add.inputs[::-1]):
            layer = self._layers[-1] if self._layers else None
            is_last = one not in self._anchors and self._places.get(one) == last
            if layer is None or not is_last or one == other or self._uses[one] != 1:
                continue
            if layer.added != _NOTHING or layer.conv.output != one:
                continue
            if other in self._anchors:
                anchor, layer.copied = self._anchors.pop(other)
                layer.added = self._place(anchor.input)
            else:
                layer.added = self._place(other)
            self._finish_sum(add, layer)
            return
        raise GraphError("the kernel adds to the convolution that was just made, and to no other")

    def _finish_sum(self, add: ops.Add, layer: _Layer) -> None:
        summands = sum(_zero_byte(self._graph.tensors[name]) for name in add.inputs)
        layer.zero = _zero_byte(self._graph.tensors[add.output])
        layer.added_offset = layer.zero - summands
        self._places[add.output] = len(self._layers)

    def _read_relu(self, relu: ops.ReLU) -> None:
        layer = self._layers[-1] if self._layers else None
        if layer is None or layer.conv.output != relu.input or layer.added != _NOTHING:
            raise GraphError("the kernel has ReLU after a convolution only")
        if self._uses[relu.input] != 1:
            raise GraphError("the kernel does not keep what a ReLU reads")
        layer.low = max(layer.low, layer.zero_point)
        layer.conv = _renamed(layer.conv, relu.output)
        self._places[relu.output] = len(self._layers)

    def _read_requantize(self, requantize: ops.Requantize) -> None:
        before = self._graph.tensors[requantize.input]
        after = self._graph.tensors[requantize.output]
        same_scale = _quantization(before).scale == _quantization(after).scale
        if not same_scale or _zero_byte(before) != _zero_byte(after):
            raise GraphError("the kernel does not change scales between convolutions")
        self._places[requantize.output] = self._place(requantize.input)

    def _place(self, name: str) -> int:
        """The tensor of a name; an anchor that is not only added becomes a layer like others."""
        if name not in self._places:
            raise GraphError(f"the kernel has no tensor for {name!r}")
        return self._places[name]


def _renamed(conv: ops.Conv2D, output: str) -> ops.Conv2D:
    return ops.Conv2D(conv.input, output, conv.weights, conv.bias, conv.weight_scales, conv.relu)


def _quantization(tensor: ops.TensorType) -> ops.Quantization:
    if tensor.quantization is None:
        raise GraphError("the kernel computes in integers, and this graph holds float32")
    return tensor.quantization


def _zero_byte(tensor: ops.TensorType) -> int:
    """The zero point as the kernel stores it: int8 lies 128 higher."""
    return _quantization(tensor).zero_point + (128 if tensor.dtype == "int8" else 0)
