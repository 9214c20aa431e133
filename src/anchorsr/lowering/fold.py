"""Simplification of float graphs: fewer and cheaper operators that compute the same.

- Sums of convolutions of one tensor become one convolution, as in re-parametrized networks.
- A sum of two tensors after depth-to-space is computed before it, where it costs less, and where
  an image that is upscaled by copies becomes an anchor.
- Channels that are only put into another order, for PyTorch's PixelShuffle, are computed in that
  order. A factor that follows depth-to-space becomes part of the convolution before it.
- Pixels that are moved into channels (PixelUnshuffle) are read by convolutions with strides.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np

from anchorsr.arrays import Array
from anchorsr.graph import operators as ops
from anchorsr.graph.graph import Graph

# Operators that compute each channel alone.
_CHANNELWISE = (
    ops.ReLU
    | ops.LeakyReLU
    | ops.Clip
    | ops.Sigmoid
    | ops.SquareRoot
    | ops.GlobalAveragePool
    | ops.Pool2D
    | ops.Resize
)


def fold(graph: Graph) -> Graph:
    """Simplify a float graph as far as possible."""
    folder = _Folder(graph)
    for step in (
        folder.merge,
        folder.fuse_relu,
        folder.scale,
        folder.add_packed,
        folder.order,
        folder.read_moved,
    ):
        while any(step(operator) for operator in list(folder.operators.values())):
            pass
    return folder.graph()


def fold_orders(graph: Graph) -> Graph:
    """Compute channels in the order into which convolutions put them, where that is possible."""
    folder = _Folder(graph)
    while any(folder.order(operator) for operator in list(folder.operators.values())):
        pass
    return folder.graph()


class _Folder:
    """The operators of a graph by their outputs, while they are changed.

    Each step takes an operator and returns whether it changed the graph.
    """

    def __init__(self, graph: Graph) -> None:
        self._source = graph
        self.operators = {operator.output: operator for operator in graph.operators}
        self._channels = {name: tensor.channels for name, tensor in graph.tensors.items()}
        self._output = graph.output
        self._merged: set[str] = set()

    def graph(self) -> Graph:
        """Return the graph in its present form, in the order of execution."""
        ordered: list[ops.Operator] = []
        made = {self._source.input}
        waiting = list(self.operators.values())
        while waiting:
            ready = [each for each in waiting if set(each.inputs) <= made]
            ordered.append(ready[0])
            made.add(ready[0].output)
            waiting.remove(ready[0])
        tensors = {name: ops.TensorType(self._channels[name], "float32") for name in made}
        return Graph(self._source.name, tensors, ordered, self._source.input, self._output)

    # Steps

    def merge(self, add: ops.Operator) -> bool:
        """Make one convolution of a sum of two, or of one that was made so and its input."""
        if not isinstance(add, ops.Add) or add.inputs[0] == add.inputs[1]:
            return False
        left, right = (self._alone(name) for name in add.inputs)
        merged = None
        if _is_linear(left) and _is_linear(right):
            merged = _sum_of_two(left, right, add.output)  # type: ignore[arg-type]
        else:
            for conv, other in ((left, add.inputs[1]), (right, add.inputs[0])):
                if _is_linear(conv) and conv.output in self._merged and conv.input == other:  # type: ignore[union-attr]
                    channels = self._channels[other]
                    identity = ops.DepthwiseConv2D(
                        other,
                        "",
                        np.ones((1, 1, channels), np.float32),
                        np.zeros(channels, np.float32),
                    )
                    merged = _sum_of_two(conv, identity, add.output)  # type: ignore[arg-type]
        if merged is None:
            return False
        for name in add.inputs:
            if name != merged.input:
                self._remove(name)
        self.operators[add.output] = merged
        self._merged.add(add.output)
        return True

    def fuse_relu(self, relu: ops.Operator) -> bool:
        """Fuse a ReLU into the convolution before it."""
        if not isinstance(relu, ops.ReLU):
            return False
        conv = self._alone(relu.input)
        if (
            not isinstance(conv, ops.Conv2D | ops.DepthwiseConv2D)
            or conv.output not in self._merged
        ):
            return False
        self._remove(conv.output)
        self.operators[relu.output] = dataclasses.replace(conv, output=relu.output, relu=True)
        return True

    def scale(self, scaling: ops.Operator) -> bool:
        """Put one factor for all channels into the convolution before depth-to-space."""
        if not isinstance(scaling, ops.DepthwiseConv2D) or scaling.relu or scaling.bias.any():
            return False
        factor = scaling.weights.flat[0]
        if scaling.weights.shape[:2] != (1, 1) or (scaling.weights != factor).any():
            return False
        move = self._alone(scaling.input)
        if not isinstance(move, ops.DepthToSpace):
            return False
        conv = self._alone(move.input)
        if not isinstance(conv, ops.Conv2D) or conv.relu:
            return False
        weights, bias = conv.weights * factor, conv.bias * factor
        self.operators[conv.output] = dataclasses.replace(conv, weights=weights, bias=bias)
        self._remove(move.output)
        self.operators[scaling.output] = dataclasses.replace(move, output=scaling.output)
        return True

    def add_packed(self, add: ops.Operator) -> bool:
        """Move a sum of two tensors that were both made by depth-to-space before it."""
        if not isinstance(add, ops.Add | ops.Subtract) or add.inputs[0] == add.inputs[1]:
            return False
        moves = [self._alone(name) for name in add.inputs]
        if not all(isinstance(move, ops.DepthToSpace) for move in moves):
            return False
        blocks = {move.block for move in moves}  # type: ignore[union-attr]
        if len(blocks) != 1:
            return False
        packed = f"{add.output}/packed"
        sources = tuple(move.inputs[0] for move in moves)  # type: ignore[union-attr]
        self._channels[packed] = self._channels[sources[0]]
        for name in add.inputs:
            self._remove(name)
        self.operators[packed] = type(add)((sources[0], sources[1]), packed)
        self.operators[add.output] = ops.DepthToSpace(packed, add.output, blocks.pop())
        return True

    def order(self, conv: ops.Operator) -> bool:
        """Compute the channels that a convolution only puts into another order in that order."""
        if not isinstance(conv, ops.Conv2D) or not conv.copies_channels:
            return False
        indices = conv.weights[:, 0, 0].argmax(axis=1)
        identity = np.arange(self._channels[conv.input])
        if not np.array_equal(np.sort(indices), identity) or conv.output == self._output:
            return False
        if not (np.array_equal(indices, identity) or self._can_order(conv.input)):
            return False
        if not np.array_equal(indices, identity):
            self._order(conv.input, indices)
        self._remove(conv.output)
        self._rename(conv.output, conv.input)
        return True

    def read_moved(self, unshuffle: ops.Operator) -> bool:
        """Read pixels that were moved into channels by convolutions with strides."""
        if not isinstance(unshuffle, ops.Conv2D) or not _moves_pixels(unshuffle):
            return False
        readers = self._readers(unshuffle.output)
        if unshuffle.output == self._output or not all(
            isinstance(each, ops.Conv2D) and (each.groups, each.stride) == (1, 1)
            for each in readers
        ):
            return False
        for reader in readers:
            self.operators[reader.output] = _compose(unshuffle, reader)  # type: ignore[arg-type]
        self._remove(unshuffle.output)
        return True

    # Helpers

    def _readers(self, name: str) -> list[ops.Operator]:
        return [each for each in self.operators.values() if name in each.inputs]

    def _alone(self, name: str) -> ops.Operator | None:
        """Return the operator that makes a tensor if it has one reader."""
        reads = sum(each.inputs.count(name) for each in self.operators.values())
        return self.operators.get(name) if reads == 1 and name != self._output else None

    def _remove(self, name: str) -> None:
        del self.operators[name]
        if not any(name in each.inputs for each in self.operators.values()):
            self._channels.pop(name, None)

    def _rename(self, old: str, new: str) -> None:
        """Let what reads one tensor read another."""
        for reader in self._readers(old):
            sources = tuple(new if name == old else name for name in reader.inputs)
            self.operators[reader.output] = ops.with_inputs(reader, sources)

    def _can_order(self, name: str) -> bool:
        made = self._alone(name)
        if isinstance(made, ops.Conv2D):
            return made.groups == 1
        if isinstance(made, ops.TransposedConv2D):
            return True
        ordered = _CHANNELWISE | ops.DepthwiseConv2D | ops.PReLU
        if isinstance(made, ordered | ops.Add | ops.Subtract | ops.Multiply):
            return all(self._can_order(source) for source in made.inputs)
        return False

    def _order(self, name: str, indices: Array) -> None:
        made = self.operators[name]
        changes: dict[str, Array] = {}
        if isinstance(made, ops.Conv2D | ops.TransposedConv2D):
            changes = {"weights": made.weights[indices], "bias": made.bias[indices]}
        elif isinstance(made, ops.DepthwiseConv2D):
            changes = {"weights": made.weights[..., indices], "bias": made.bias[indices]}
        elif isinstance(made, ops.PReLU):
            changes = {"slopes": made.slopes[indices]}
        contiguous = {key: np.ascontiguousarray(value) for key, value in changes.items()}
        self.operators[name] = dataclasses.replace(made, **contiguous)  # type: ignore[arg-type]
        if not isinstance(made, ops.Conv2D | ops.TransposedConv2D):
            for source in made.inputs:
                self._order(source, indices)


def _is_linear(operator: ops.Operator | None) -> bool:
    """Whether it is a convolution that can be added to another: not an anchor."""
    if isinstance(operator, ops.Conv2D):
        plain = (operator.groups, operator.stride) == (1, 1) and not operator.relu
        return plain and not operator.copies_channels
    return isinstance(operator, ops.DepthwiseConv2D) and not operator.relu


def _sum_of_two(
    left: ops.Conv2D | ops.DepthwiseConv2D, right: ops.Conv2D | ops.DepthwiseConv2D, name: str
) -> ops.Conv2D | ops.DepthwiseConv2D | None:
    if left.input != right.input:
        return None
    if isinstance(left, ops.DepthwiseConv2D) and isinstance(right, ops.DepthwiseConv2D):
        first, second = _of_one_size(left.weights, right.weights, (0, 1))
        return ops.DepthwiseConv2D(left.input, name, first + second, left.bias + right.bias)
    first, second = _of_one_size(_dense(left), _dense(right), (1, 2))
    return ops.Conv2D(left.input, name, first + second, left.bias + right.bias)


def _dense(conv: ops.Conv2D | ops.DepthwiseConv2D) -> Array:
    """Return the weights as those of a Conv2D."""
    if isinstance(conv, ops.Conv2D):
        return conv.weights
    rows, columns, channels = conv.weights.shape
    dense = np.zeros((channels, rows, columns, channels), np.float32)
    every = np.arange(channels)
    dense[every, :, :, every] = conv.weights.transpose(2, 0, 1)
    return dense


def _of_one_size(left: Array, right: Array, axes: Iterable[int]) -> tuple[Array, Array]:
    """Put zeros around the smaller of two kernels."""
    for axis in axes:
        missing = (left.shape[axis] - right.shape[axis]) // 2
        added = [(0, 0)] * left.ndim
        added[axis] = (abs(missing), abs(missing))
        left, right = (left, np.pad(right, added)) if missing > 0 else (np.pad(left, added), right)
    return left, right


def _moves_pixels(conv: ops.Conv2D) -> bool:
    """Whether a convolution moves each block of pixels into channels, in any order."""
    outputs, rows, columns, inputs = conv.weights.shape
    if conv.stride < 2 or conv.relu or conv.bias.any() or conv.groups > 1:
        return False
    if (rows, columns, outputs) != (conv.stride, conv.stride, conv.stride**2 * inputs):
        return False
    flat = conv.weights.reshape(outputs, -1)
    return bool(((flat == 0) | (flat == 1)).all() and (flat.sum(axis=0) == 1).all())


def _compose(unshuffle: ops.Conv2D, reader: ops.Conv2D) -> ops.Conv2D:
    """Return the convolution with a stride that reads the pixels where they are."""
    block = unshuffle.stride
    outputs, rows, columns, _ = reader.weights.shape
    inputs = unshuffle.weights.shape[3]
    # (out, rows, columns, moved channel) by (moved channel, dy, dx, channel).
    weights = np.tensordot(reader.weights, unshuffle.weights, axes=(3, 0))
    weights = weights.transpose(0, 1, 3, 2, 4, 5).reshape(
        outputs, rows * block, columns * block, inputs
    )
    return dataclasses.replace(
        reader, input=unshuffle.input, weights=np.ascontiguousarray(weights), stride=block
    )
