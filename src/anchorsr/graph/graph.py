"""The graph: the intermediate representation that everything after training reads.

A `Graph` is a list of frozen operators over named tensors in the layout (N, H, W, C), with one
image input and one image output. The same classes describe

- a float graph: float32 tensors, weights and biases, without quantization; and
- an integer graph: uint8 or int8 tensors with per-tensor quantization, int8 weights with
  per-channel scales and zero point 0, and int32 biases at scale `input scale * weight scale`.

Height and width are not part of a graph: operators keep them, or multiply or divide them by an
integer. A graph without strides accepts every size, one with strides every multiple of a small
number. Quantization follows the TensorFlow Lite specification.
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
    """A valid graph: operators in execution order, from the tensor `input` to `output`.

    Raises:
        GraphError: A tensor is read before it is computed or computed twice, a shape or data type
            does not fit, or an integer graph lacks a scale.
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
        """Whether no tensor is float32."""
        return all(tensor.dtype != "float32" for tensor in self.tensors.values())

    @cached_property
    def extents(self) -> dict[str, Fraction]:
        """The height of each tensor relative to the input; 0 for tensors of 1×1 pixels."""
        extents = {self.input: Fraction(1)}
        for operator in self.operators:
            extents[operator.output] = extent_of(operator, [extents[n] for n in operator.inputs])
        return extents

    @property
    def factor(self) -> int:
        """The super-resolution factor: output height over input height.

        Raises:
            GraphError: The output is smaller than the input.
        """
        factor = self.extents[self.output]
        if factor.denominator > 1:
            raise GraphError(f"{self.name} makes images smaller, to {factor} of their height")
        return int(factor)

    @cached_property
    def multiple(self) -> int:
        """What the input's height and width must be a multiple of; 1 without strides."""
        return math.lcm(*(extent.denominator for extent in self.extents.values()))

    def fit(self, height: int, width: int) -> tuple[int, int]:
        """Return the smallest height and width, at least these, that the graph accepts."""
        fitting = (-(-side // self.multiple) * self.multiple for side in (height, width))
        return next(fitting), next(fitting)

    def check_size(self, height: int, width: int) -> None:
        """Raise GraphError unless the graph accepts images of this size."""
        if height % self.multiple or width % self.multiple:
            raise GraphError(
                f"{self.name} has strides: it takes heights and widths that are multiples of"
                f" {self.multiple}, not {width}x{height}"
            )

    @property
    def is_local(self) -> bool:
        """Whether the receptive field is bounded, so that the graph can run on tiles."""
        return not any(isinstance(operator, ops.GlobalAveragePool) for operator in self.operators)

    @property
    def halo(self) -> int:
        """The radius of the receptive field, in input pixels; with strides an upper bound.

        Raises:
            GraphError: Every output pixel depends on the whole image.
        """
        if not self.is_local:
            raise GraphError(
                f"{self.name} reads the whole image at once (GlobalAveragePool), so it has no halo"
                " and cannot run on tiles"
            )
        reach = {self.input: Fraction(0)}
        for operator in self.operators:
            # In input pixels: a pixel of a tensor that is three times as high is a third.
            own = _reach(operator) / self.extents[operator.inputs[0]]
            reach[operator.output] = max(reach[name] for name in operator.inputs) + own
        # An output pixel lies anywhere in the block of input pixels that a stride takes together.
        return math.ceil(reach[self.output]) + self.multiple - 1

    @property
    def macs_per_pixel(self) -> int:
        """Multiply-accumulates of the convolutions per input pixel.

        Anchors, which only copy, and operations on 1×1 tensors are not counted.
        """
        total = Fraction(0)
        for conv in self._convolutions():
            strided = isinstance(conv, ops.Conv2D) and conv.stride > 1
            pixels = self.extents[conv.output if strided else conv.input] ** 2
            total += _weight_count(conv) * pixels
        return round(total)

    @property
    def parameter_count(self) -> int:
        """The number of weights, biases and slopes, without those of anchors."""
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
    """The number of weights, without the zero row and column that pad a transposed kernel."""
    weights = conv.weights
    if isinstance(conv, ops.TransposedConv2D):
        for axis in (1, 2):
            last = weights.take(-1, axis)
            if weights.shape[axis] > conv.stride and not last.any():
                weights = weights.take(range(weights.shape[axis] - 1), axis)
    return int(weights.size)


def _reach(operator: ops.Operator) -> Fraction:
    """The radius of the receptive field of one operator, in pixels of its input."""
    if isinstance(operator, ops.Conv2D):
        return Fraction(max(operator.weights.shape[1:3]) - operator.stride, 2)
    if isinstance(operator, ops.DepthwiseConv2D):
        return Fraction(max(operator.weights.shape[:2]) // 2)
    # Operators that upscale: their radius in output pixels, over the factor.
    if isinstance(operator, ops.TransposedConv2D):
        overhang = max(operator.weights.shape[1:3]) - operator.stride
        return Fraction(overhang // 2, operator.stride)
    if isinstance(operator, ops.Resize) and operator.mode == "bilinear":
        return Fraction(operator.factor // 2, operator.factor)
    if isinstance(operator, ops.Pool2D) and operator.stride == 1:
        return Fraction(operator.size // 2)
    return Fraction(0)
