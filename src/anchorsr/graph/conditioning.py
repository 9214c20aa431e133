"""Integer graphs for any strengths of degradation, computed without floating-point sums.

A conditioned network has one set of int8 weights. Strengths change only the scale of each filter,
by a gain, its int32 bias, and the scales of activations. A perceptron computes gains and biases
(`networks.conditioned_abpn`); here it is a table of integers, so that the same strengths give the
same graph on every machine:

- strengths are rounded to 1/1024, and sums are exact in 64 bits;
- SiLU and the gain, exp(b · tanh(x / b)), are tables with linear interpolation;
- a scale is one product of two float64 numbers that is exact before it is rounded to float32, and
  a bias is one division of integers.

Activations of damaged images have other ranges, up to half as wide again. The logarithm of the
factor of a scale is linear in the strengths.

Without strengths the result is the graph that the table belongs to.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, localcontext
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

from anchorsr.errors import ModelError
from anchorsr.graph.graph import Graph
from anchorsr.graph.operators import Conv2D, Operator, Quantization, TensorType

Integers = npt.NDArray[np.int64]

# Binary digits after the point.
_STRENGTH, _HIDDEN, _FEATURE, _GAIN, _BIAS = 10, 14, 15, 20, 8
_SUM = 20  # of exponents and bias shifts
_ONE = 1 << _GAIN  # the factor of a scale that stays
# Most of a strength; and of the absolute value of an int32 bias, so that sums stay below 2^24.
LARGEST_STRENGTH = 2.0
_LARGEST_BIAS = 2**22
# Knots of the tables per unit, and the end of their range on both sides of zero.
_SILU_KNOTS, _SILU_END = 64, 16
_GAIN_KNOTS, _GAIN_END = 256, 8
# Bound of the logarithm of a gain: gains from 0.22 to 4.5.
GAIN_BOUND = Decimal("1.5")


@dataclass(frozen=True, eq=False)
class Conditioning:
    """The table by which strengths change the convolutions of an integer graph.

    K strengths, H hidden units, L convolutions that are not anchors, in the order in which they
    run, and C output channels of all of these.

    Attributes:
        strengths: The names of the strengths, in the order of the columns of `hidden`.
        hidden: (H, K) weights, times 2^14.
        hidden_bias: (H,) times 2^24.
        outputs: (2·C, H) int16: of the exponents of all gains, then of all shifts of biases in
            units of the int32 bias.
        shifts: (2·C,) binary digits after the point in each row of `outputs`, from -16 to 40.
        biases: (C,) the biases without strengths, times 2^8.
        silu: The SiLU function at multiples of 1/64 from -16 to 16, times 2^15.
        gain: Gains at exponents of multiples of 1/256 from -8 to 8, times 2^20.
        scales: (L, K) weights, times 2^14, of the exponents by which the scale of each output is
            multiplied; zero where it is fixed.
    """

    strengths: tuple[str, ...]
    hidden: Integers
    hidden_bias: Integers
    outputs: npt.NDArray[np.int16]
    shifts: Integers
    biases: Integers
    silu: Integers
    gain: Integers
    scales: Integers

    def apply(self, graph: Graph, strengths: Mapping[str, float]) -> Graph:
        """Return the graph for images of given strengths.

        Args:
            graph: The graph without strengths.
            strengths: From 0 to 2, by name; those not named are zero.

        Raises:
            ModelError: There is no strength of such a name, or one is out of range, or the table
                does not fit the graph.
        """
        modulated = [operator for operator in graph.operators if _is_modulated(operator)]
        widths = [len(operator.bias) for operator in modulated]
        if sum(widths) != len(self.biases) or len(widths) != len(self.scales):
            raise ModelError(
                f"{graph.name} has {sum(widths)} filters, its table {len(self.biases)}"
            )
        values = self._round(strengths)
        written = self._factors(self.scales @ values)
        factors = _factors_of_tensors(graph, written.tolist())
        read = np.repeat([factors[operator.input] for operator in modulated], widths)
        gains, biases = self._modulate(values, read)
        operators: list[Operator] = []
        first = 0
        for operator in graph.operators:
            if _is_modulated(operator):
                end = first + len(operator.bias)
                operator = _modulated(operator, gains[first:end], biases[first:end])
                first = end
            operators.append(operator)
        tensors = {
            name: _with_scale(tensor, factors.get(name, _ONE))
            for name, tensor in graph.tensors.items()
        }
        return dataclasses.replace(graph, operators=operators, tensors=tensors)

    def _round(self, strengths: Mapping[str, float]) -> Integers:
        for name, value in strengths.items():
            if name not in self.strengths:
                raise ModelError(
                    f"the model takes no strength {name}; it takes {', '.join(self.strengths)}"
                )
            if not 0 <= value <= LARGEST_STRENGTH:
                raise ModelError(
                    f"the strength {name} is from 0 to {LARGEST_STRENGTH:g}, not {value}"
                )
        values = [strengths.get(name, 0.0) for name in self.strengths]
        return np.array([round(value * 2**_STRENGTH) for value in values], np.int64)

    def _factors(self, sums: Integers) -> Integers:
        """Return the factors of exponents with the digits of a strength and a weight."""
        exponents = _down(sums, _HIDDEN + _STRENGTH - _SUM)
        return _interpolate(self.gain, exponents, _GAIN_KNOTS, _GAIN_END)

    def _modulate(self, strengths: Integers, read: Integers) -> tuple[Integers, Integers]:
        """Return the gains (C,), times 2^20, and the int32 biases (C,).

        Args:
            strengths: (K,), times 2^10.
            read: (C,) the factor of the scale of each filter's input, times 2^20.
        """
        before = _down(self.hidden @ strengths + self.hidden_bias, _HIDDEN + _STRENGTH - _SUM)
        at_zero = _down(self.hidden_bias, _HIDDEN + _STRENGTH - _SUM)
        features = self._silu(before) - self._silu(at_zero)
        sums = self.outputs.astype(np.int64) @ features
        count = len(self.biases)
        # Sums have _FEATURE + shifts digits after the point.
        exponents = _to_digits(sums[:count], _FEATURE + self.shifts[:count], _SUM)
        gains = _interpolate(self.gain, exponents, _GAIN_KNOTS, _GAIN_END)
        moved = self.biases + _to_digits(sums[count:], _FEATURE + self.shifts[count:], _BIAS)
        biases = _divide(moved << (_GAIN - _BIAS), _down(gains * read, _GAIN))
        return gains, np.clip(biases, -_LARGEST_BIAS, _LARGEST_BIAS)

    def _silu(self, sums: Integers) -> Integers:
        inside = _interpolate(self.silu, sums, _SILU_KNOTS, _SILU_END)
        return np.where(sums >= _SILU_END << _SUM, _down(sums, _SUM - _FEATURE), inside)

    def to_bytes(self) -> bytes:
        """Serialize the table as an uncompressed `.npz`."""
        buffer = io.BytesIO()
        arrays: dict[str, Any] = {"strengths": np.array(self.strengths), "outputs": self.outputs}
        for field in dataclasses.fields(self):
            if field.name not in arrays:
                values: Integers = getattr(self, field.name)
                fits = np.abs(values).max(initial=0) < 2**31
                arrays[field.name] = values.astype(np.int32) if fits else values
        np.savez(buffer, **arrays)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Conditioning:
        """Read what `to_bytes` wrote.

        Raises:
            ModelError: The bytes are damaged.
        """
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            names = tuple(map(str, arrays.pop("strengths")))
            outputs = arrays.pop("outputs")
            table = cls(
                strengths=names,
                outputs=outputs,
                **{name: array.astype(np.int64) for name, array in arrays.items()},
            )
            count, hidden = len(table.biases), len(table.hidden_bias)
            expected = {
                "hidden": (hidden, len(names)),
                "outputs": (2 * count, hidden),
                "shifts": (2 * count,),
                "silu": (2 * _SILU_KNOTS * _SILU_END + 1,),
                "gain": (2 * _GAIN_KNOTS * _GAIN_END + 1,),
                "scales": (len(table.scales), len(names)),
            }
            if any(getattr(table, name).shape != shape for name, shape in expected.items()):
                raise ValueError
        except Exception as error:  # damaged archives raise many kinds
            raise ModelError("the table of strengths in the model is damaged") from error
        return table


def make_conditioning(
    graph: Graph,
    strengths: Sequence[str],
    *,
    hidden: npt.NDArray[np.floating[Any]],
    hidden_bias: npt.NDArray[np.floating[Any]],
    exponents: npt.NDArray[np.floating[Any]],
    shifts: npt.NDArray[np.floating[Any]],
    biases: npt.NDArray[np.floating[Any]],
    scales: npt.NDArray[np.floating[Any]],
) -> Conditioning:
    """Make the table of an integer graph out of a trained perceptron.

    Args:
        graph: The integer graph without strengths.
        strengths: Names of the K strengths.
        hidden: (H, K) weights of the hidden layer.
        hidden_bias: (H,).
        exponents: (C, H) weights from hidden units to the logarithms of gains.
        shifts: (C, H) weights from hidden units to additions to biases, as real numbers.
        biases: (C,) biases without strengths, as real numbers.
        scales: (L, K) weights of the exponents of the factors of activation scales.

    Raises:
        ModelError: The perceptron does not fit the graph.
    """
    units = np.concatenate([*_bias_units(graph)])
    if not len(units) == len(exponents) == len(shifts) == len(biases):
        raise ModelError(f"{graph.name} has {len(units)} filters, the perceptron {len(biases)}")
    rows = np.concatenate([exponents.astype(np.float64), shifts / units[:, None]])
    largest = np.abs(rows).max(axis=1)
    digits = np.full(len(rows), 40)
    some = largest > 0
    digits[some] = np.clip(np.floor(np.log2((2**15 - 1) / largest[some])), -16, 40)
    return Conditioning(
        strengths=tuple(strengths),
        hidden=_fixed(hidden, _HIDDEN),
        hidden_bias=_fixed(hidden_bias, _HIDDEN + _STRENGTH),
        outputs=np.rint(rows * np.exp2(digits)[:, None]).astype(np.int16),
        shifts=digits.astype(np.int64),
        biases=_fixed(biases / units, _BIAS),
        silu=_table(_silu, _SILU_KNOTS, _SILU_END, _FEATURE),
        gain=_table(_gain, _GAIN_KNOTS, _GAIN_END, _GAIN),
        scales=_fixed(scales, _HIDDEN),
    )


def _is_modulated(operator: Operator) -> TypeGuard[Conv2D]:
    return isinstance(operator, Conv2D) and not operator.copies_channels


def _factors_of_tensors(graph: Graph, written: Sequence[int]) -> dict[str, int]:
    """Return the factors, times 2^20, of the scales of tensors that operators write.

    Args:
        graph: The graph.
        written: The factor of the output of each convolution.

    Raises:
        ModelError: A table is damaged: summands would get different scales.
    """
    factors = {graph.input: _ONE}
    given = iter(written)
    for operator in graph.operators:
        if _is_modulated(operator):
            factors[operator.output] = next(given)
            continue
        found = {factors[name] for name in operator.inputs}
        if len(found) > 1:
            raise ModelError(f"the table of {graph.name} gives summands different scales")
        factors[operator.output] = found.pop()
    return factors


def _with_scale(tensor: TensorType, factor: int) -> TensorType:
    quantization = tensor.quantization
    if factor == _ONE or quantization is None:
        return tensor
    scale = float(np.float32(quantization.scale * (factor * 2.0**-_GAIN)))
    return dataclasses.replace(tensor, quantization=Quantization(scale, quantization.zero_point))


def _modulated(conv: Conv2D, gains: Integers, biases: Integers) -> Conv2D:
    assert conv.weight_scales is not None
    # A product of 24 and 23 bits is exact in float64.
    scales = conv.weight_scales.astype(np.float64) * (gains * 2.0**-_GAIN)
    return dataclasses.replace(
        conv, weight_scales=scales.astype(np.float32), bias=biases.astype(np.int32)
    )


def _bias_units(graph: Graph) -> list[npt.NDArray[np.float64]]:
    units = []
    for operator in graph.operators:
        if _is_modulated(operator):
            source = graph.tensors[operator.input].quantization
            if source is None or operator.weight_scales is None:
                raise ModelError(f"{graph.name} is not an integer graph")
            units.append(operator.weight_scales.astype(np.float64) * source.scale)
    return units


def _fixed(values: npt.NDArray[np.floating[Any]], digits: int) -> Integers:
    return np.asarray(np.rint(values.astype(np.float64) * 2**digits), np.int64)


def _down(values: Integers, digits: int) -> Integers:
    """Drop binary digits after the point, rounding halves up."""
    return (values + (1 << digits >> 1)) >> digits


def _to_digits(values: Integers, digits: Integers, wanted: int) -> Integers:
    """Change the number of binary digits after the point of each value."""
    fewer = np.maximum(digits - wanted, 0)
    shifted = ((values + (1 << fewer >> 1)) >> fewer) << np.maximum(wanted - digits, 0)
    return np.asarray(shifted)


def _divide(numerators: Integers, denominators: Integers | int) -> Integers:
    """Divide by positive integers, rounding halves up."""
    return np.asarray((2 * numerators + denominators) // (2 * denominators))


def _interpolate(table: Integers, values: Integers, knots: int, end: int) -> Integers:
    """Read a function at values with `_SUM` digits after the point; its ends outside the table."""
    step = (1 << _SUM) // knots
    offset = np.clip(values + (end << _SUM), 0, (2 * end << _SUM) - 1)
    index, rest = offset // step, offset % step
    return _divide(table[index] * (step - rest) + table[index + 1] * rest, step)


def _table(function: Any, knots: int, end: int, digits: int) -> Integers:
    """Tabulate a function. Decimals are rounded correctly on every machine, unlike libm's."""
    with localcontext() as context:
        context.prec = 28
        points = [Decimal(i) / knots for i in range(-end * knots, end * knots + 1)]
        return np.array([round(function(x) * 2**digits) for x in points], np.int64)


def _silu(x: Decimal) -> Decimal:
    return x / (1 + (-x).exp())


def _gain(x: Decimal) -> Decimal:
    doubled = (2 * x / GAIN_BOUND).exp()
    return (GAIN_BOUND * (doubled - 1) / (doubled + 1)).exp()
