"""The waist of the system: one small graph that everything after training reads.

A `Graph` is a chain of frozen operators over named tensors in the layout (N, H, W, C), with
one image tensor in and one out. The same classes describe

- a float graph: float32 tensors, float32 weights and biases, no quantization; and
- an integer graph: uint8 or int8 tensors with a scale and a zero point, int8 weights with one
  scale per output channel (zero point 0), int32 biases at scale `input scale * weight scale`.

Height and width are not part of a graph: convolutions pad to keep them, and a few operators
multiply them, so every graph takes every size. Follows the TensorFlow Lite quantization
specification for what the numbers mean; training and file formats are elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from anchorsr.errors import GraphError
from anchorsr.graph import operators as ops
from anchorsr.graph.verify import check_operator, extent_of


@dataclass(frozen=True, eq=False)
class Graph:
    """Operators in the order they run, from the tensor `input` to the tensor `output`.

    Raises GraphError when a name is used before it is made or made twice, when a shape or
    number type does not fit, or when an integer graph lacks a scale.
    """

    name: str
    tensors: Mapping[str, ops.TensorType]
    operators: Sequence[ops.Operator]
    input: str
    output: str

    def __post_init__(self) -> None:
        if self.input not in self.tensors:
            raise GraphError(f"the input {self.input!r} has no type")
        made = {self.input}
        for operator in self.operators:
            if not operator.inputs:
                raise GraphError(f"{type(operator).__name__} reads nothing")
            for name in operator.inputs:
                if name not in made:
                    raise GraphError(f"{type(operator).__name__} reads {name!r} before it is made")
            if operator.output in made:
                raise GraphError(f"{operator.output!r} is made twice")
            if operator.output not in self.tensors:
                raise GraphError(f"{operator.output!r} has no type")
            sources = [self.tensors[name] for name in operator.inputs]
            check_operator(operator, sources, self.tensors[operator.output])
            made.add(operator.output)
        if self.output not in made:
            raise GraphError(f"the output {self.output!r} is never made")
        if set(self.tensors) != made:
            raise GraphError(f"tensors that nothing makes: {sorted(set(self.tensors) - made)}")
        _ = self.extents

    @property
    def is_integer(self) -> bool:
        """True when no tensor is float32."""
        return all(tensor.dtype != "float32" for tensor in self.tensors.values())

    @cached_property
    def extents(self) -> dict[str, int]:
        """The height of each tensor over the input's; 0 for one that is 1×1 whatever the input."""
        extents = {self.input: 1}
        for operator in self.operators:
            extents[operator.output] = extent_of(operator, [extents[n] for n in operator.inputs])
        return extents

    @property
    def factor(self) -> int:
        """Output height over input height."""
        return self.extents[self.output]

    @property
    def is_local(self) -> bool:
        """Whether an output pixel depends on input pixels up to some distance only."""
        return not any(isinstance(operator, ops.GlobalAveragePool) for operator in self.operators)

    @property
    def halo(self) -> int:
        """How many input pixels on each side an output pixel can depend on.

        Raises GraphError for a graph whose every output pixel depends on the whole image.
        """
        if not self.is_local:
            raise GraphError(
                f"{self.name} looks at the whole image at once (GlobalAveragePool), so it"
                " has no halo and cannot work in tiles"
            )
        reach = {self.input: Fraction(0)}
        for operator in self.operators:
            # In input pixels: one pixel of a tensor that is three times as high is a third.
            own = _reach(operator) / self.extents[operator.inputs[0]]
            reach[operator.output] = max(reach[name] for name in operator.inputs) + own
        return math.ceil(reach[self.output])

    @property
    def macs_per_pixel(self) -> int:
        """Multiplications of convolutions for one input pixel; an anchor's copies are not counted,
        nor what is done once for a whole image.
        """
        return sum(
            _weight_count(conv) * self.extents[conv.input] ** 2 for conv in self._convolutions()
        )

    @property
    def parameter_count(self) -> int:
        """Weights, biases and slopes. An anchor, which has nothing to learn, is not counted."""
        slopes = sum(int(op.slopes.size) for op in self.operators if isinstance(op, ops.PReLU))
        convolutions = self._convolutions()
        return slopes + sum(_weight_count(conv) + int(conv.bias.size) for conv in convolutions)

    def _convolutions(self) -> list[ops.Convolution]:
        convolutions = [op for op in self.operators if isinstance(op, ops.Convolution)]
        return [
            conv
            for conv in convolutions
            if not (isinstance(conv, ops.Conv2D) and conv.copies_channels)
        ]


def _weight_count(conv: ops.Convolution) -> int:
    """Weights, without the last row and column of zeros by which a transposed kernel is made to
    overhang evenly."""
    weights = conv.weights
    if isinstance(conv, ops.TransposedConv2D):
        for axis in (1, 2):
            last = weights.take(-1, axis)
            if weights.shape[axis] > conv.stride and not last.any():
                weights = weights.take(range(weights.shape[axis] - 1), axis)
    return int(weights.size)


def _reach(operator: ops.Operator) -> Fraction:
    """How many pixels of its input on each side an output pixel of one operator depends on."""
    if isinstance(operator, ops.Conv2D):
        return Fraction(max(operator.weights.shape[1:3]) // 2)
    if isinstance(operator, ops.DepthwiseConv2D):
        return Fraction(max(operator.weights.shape[:2]) // 2)
    # Those that enlarge reach so many of their own output's pixels.
    if isinstance(operator, ops.TransposedConv2D):
        overhang = max(operator.weights.shape[1:3]) - operator.stride
        return Fraction(overhang // 2, operator.stride)
    if isinstance(operator, ops.Resize) and operator.mode == "bilinear":
        return Fraction(operator.factor // 2, operator.factor)
    return Fraction(operator.size // 2 if isinstance(operator, ops.Pool2D) else 0)
