"""The waist of the system: one small graph that everything after training reads.

A `Graph` is a chain of frozen operators over named tensors in the layout (N, H, W, C), with
one picture tensor in and one out. The same classes describe

- a float graph: float32 tensors, float32 weights and biases, no quantization; and
- an integer graph: uint8 or int8 tensors with a scale and a zero point, int8 weights with one
  scale per output channel (zero point 0), int32 biases at scale `input scale * weight scale`.

Height and width are not part of a graph: convolutions pad to keep them, and depth-to-space
multiplies them, so every graph takes every size. Follows the TensorFlow Lite quantization
specification for what the numbers mean; training and file formats are elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from anchorsr.errors import GraphError
from anchorsr.operators import (
    Add,
    Clip,
    Concat,
    Conv2D,
    DepthToSpace,
    Minimum,
    Operator,
    ReLU,
    Requantize,
    TensorType,
)


@dataclass(frozen=True, eq=False)
class Graph:
    """Operators in the order they run, from the tensor `input` to the tensor `output`.

    Raises GraphError when a name is used before it is made or made twice, when a shape or
    number type does not fit, or when an integer graph lacks a scale.
    """

    name: str
    tensors: Mapping[str, TensorType]
    operators: Sequence[Operator]
    input: str
    output: str

    def __post_init__(self) -> None:
        if self.input not in self.tensors:
            raise GraphError(f"the input {self.input!r} has no type")
        made = {self.input}
        for operator in self.operators:
            for name in operator.inputs:
                if name not in made:
                    raise GraphError(f"{type(operator).__name__} reads {name!r} before it is made")
            if operator.output in made:
                raise GraphError(f"{operator.output!r} is made twice")
            if operator.output not in self.tensors:
                raise GraphError(f"{operator.output!r} has no type")
            _check_operator(operator, self.tensors)
            made.add(operator.output)
        if self.output not in made:
            raise GraphError(f"the output {self.output!r} is never made")
        if set(self.tensors) != made:
            raise GraphError(f"tensors that nothing makes: {sorted(set(self.tensors) - made)}")

    @property
    def is_integer(self) -> bool:
        """True when no tensor is float32."""
        return all(tensor.dtype != "float32" for tensor in self.tensors.values())

    @property
    def factor(self) -> int:
        """Output height over input height."""
        factors = {self.input: 1}
        for operator in self.operators:
            block = operator.block if isinstance(operator, DepthToSpace) else 1
            factors[operator.output] = factors[operator.inputs[0]] * block
        return factors[self.output]

    @property
    def halo(self) -> int:
        """How many input pixels on each side an output pixel can depend on."""
        reach = {self.input: 0}
        for operator in self.operators:
            own = max(operator.weights.shape[1:3]) // 2 if isinstance(operator, Conv2D) else 0
            reach[operator.output] = max(reach[name] for name in operator.inputs) + own
        return reach[self.output]

    @property
    def macs_per_pixel(self) -> int:
        """Multiplications for one input pixel. An anchor's copies are not counted."""
        return sum(int(conv.weights.size) for conv in self._convolutions())

    @property
    def parameter_count(self) -> int:
        """Weights and biases. An anchor, which has nothing to learn, is not counted."""
        return sum(int(conv.weights.size + conv.bias.size) for conv in self._convolutions())

    def _convolutions(self) -> list[Conv2D]:
        convolutions = [op for op in self.operators if isinstance(op, Conv2D)]
        return [conv for conv in convolutions if not conv.copies_channels]


def _check_operator(operator: Operator, tensors: Mapping[str, TensorType]) -> None:
    kind = type(operator).__name__
    sources = [tensors[name] for name in operator.inputs]
    target = tensors[operator.output]
    if isinstance(operator, Conv2D):
        _check_conv(operator, sources[0], target)
    elif isinstance(operator, Add):
        if len({tensor.channels for tensor in [*sources, target]}) != 1:
            raise GraphError("Add takes two tensors with the output's number of channels")
    elif isinstance(operator, DepthToSpace):
        if operator.block < 1 or sources[0].channels != target.channels * operator.block**2:
            raise GraphError(
                f"DepthToSpace({operator.block}) makes {sources[0].channels} channels from"
                f" {target.channels} times block squared, or none"
            )
    elif isinstance(operator, Concat):
        if sum(tensor.channels for tensor in sources) != target.channels:
            raise GraphError("Concat makes as many channels as its inputs have together")
    elif sources[0].channels != target.channels:
        raise GraphError(f"{kind} keeps the number of channels")
    if isinstance(operator, Requantize):
        if "float32" in (sources[0].dtype, target.dtype):
            raise GraphError("Requantize takes and makes integers")
    elif any(tensor.dtype != target.dtype for tensor in sources):
        raise GraphError(f"{kind} takes and makes the same number type")
    if isinstance(operator, DepthToSpace | Concat | Minimum | ReLU) and any(
        tensor.quantization != target.quantization for tensor in sources
    ):
        raise GraphError(f"{kind} does not change numbers: its types must be equal")
    if isinstance(operator, Clip) and target.dtype != "float32":
        raise GraphError("Clip is for float graphs; integers clip by saturation")
    if isinstance(operator, Minimum):
        if target.dtype == "float32":
            raise GraphError("Minimum is for integer graphs; Clip is for float ones")
        if not np.iinfo(target.dtype).min <= operator.bound <= np.iinfo(target.dtype).max:
            raise GraphError(f"Minimum's bound {operator.bound} is outside {target.dtype}")


def _check_conv(conv: Conv2D, source: TensorType, target: TensorType) -> None:
    weights, bias = conv.weights, conv.bias
    if weights.ndim != 4 or weights.shape[1] % 2 == 0 or weights.shape[2] % 2 == 0:
        raise GraphError(f"weights are (out, odd, odd, in), not {weights.shape}")
    if (weights.shape[0], weights.shape[3]) != (target.channels, source.channels):
        raise GraphError(
            f"weights {weights.shape} do not lead from {source.channels} to"
            f" {target.channels} channels"
        )
    if bias.shape != (target.channels,):
        raise GraphError(f"a bias has one number per output channel, not shape {bias.shape}")
    integer = target.dtype != "float32"
    expected = (np.dtype(np.int8), np.dtype(np.int32)) if integer else (np.dtype(np.float32),) * 2
    if (weights.dtype, bias.dtype) != expected:
        raise GraphError(f"weights and bias are {weights.dtype} and {bias.dtype}, not {expected}")
    scales = conv.weight_scales
    if integer != (scales is not None):
        raise GraphError("integer convolutions carry weight scales, float ones none")
    if scales is not None and (
        scales.shape != bias.shape
        or scales.dtype != np.float32
        or not ((scales > 0) & np.isfinite(scales)).all()
    ):
        raise GraphError("weight scales are positive float32, one per output channel")
