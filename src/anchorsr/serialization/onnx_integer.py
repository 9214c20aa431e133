"""The nodes of integer operators in an ONNX file, which compute what the exact arithmetic does.

ONNX Runtime's own integer operators (`com.microsoft`) round differently for leaky ReLU, sigmoid,
products and changes of scale, and a difference of one level grows in the layers that follow. So an
operator whose result depends on one byte is a table of 256 results, products and the global mean
are computed in float32 and integers, and a sum of two scales adds the entries of two tables.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from anchorsr.arrays import Array
from anchorsr.graph import fixed_point
from anchorsr.graph import operators as ops
from anchorsr.graph.executor import execute
from anchorsr.graph.graph import Graph

if TYPE_CHECKING:
    from onnx import NodeProto, TensorProto

MICROSOFT_DOMAIN = "com.microsoft"
OnnxForm: TypeAlias = Literal["qlinear", "qdq"]
# The values of a stored byte.
_BYTES = np.arange(256)
# Integer operators whose result depends on one byte.
_Unary: TypeAlias = ops.Requantize | ops.LeakyReLU | ops.PReLU | ops.Sigmoid | ops.SquareRoot


class IntegerNodes:
    """The nodes and constants of one file, and those that integer operators add to them."""

    def __init__(self, graph: Graph, form: OnnxForm = "qlinear") -> None:
        self._form = form
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = []
        self._graph = graph
        self._quantization = {
            name: _unsigned(tensor.quantization, tensor.dtype)
            for name, tensor in graph.tensors.items()
            if tensor.quantization is not None
        }
        # A Requantize that keeps the values becomes no node: its output is an alias of its input.
        # The output of the network must keep its name, so there the input is renamed.
        self._stored = {graph.input: graph.input}
        for operator in graph.operators:
            name = operator.output
            if isinstance(operator, ops.Requantize) and self._keeps_values(operator):
                name = self._stored[operator.input]
            self._stored[operator.output] = name
        last = self._stored[graph.output]
        if last != graph.input:
            self._stored = {
                name: graph.output if stored == last else stored
                for name, stored in self._stored.items()
            }
        elif graph.output != graph.input:
            self._node("Identity", [graph.input], graph.output)
        self._constants: set[str] = set()

    def _keeps_values(self, operator: ops.Requantize) -> bool:
        return self._quantization[operator.input] == self._quantization[operator.output]

    def _add_integer(self, kind: str, operator: ops.Operator, **attributes: Any) -> None:
        """Add one of ONNX Runtime's integer operators, which accept every scale and zero point."""
        inputs = [name for source in operator.inputs for name in self._with_quantization(source)]
        inputs += self._quantization_constants(operator.output)
        output = self._stored[operator.output]
        self._node(kind, inputs, output, domain=MICROSOFT_DOMAIN, **attributes)

    def _add_table(self, operator: _Unary) -> None:
        """Look up the result of each byte, which the exact arithmetic has computed beforehand.

        The table of PReLU has 256 results for each channel.
        """
        from onnx import TensorProto

        source, target = (self._graph.tensors[name] for name in (operator.input, operator.output))
        channels = source.channels if isinstance(operator, ops.PReLU) else 1
        stored = _BYTES if source.dtype == "uint8" else _BYTES - 128
        values = np.broadcast_to(stored.astype(source.dtype)[:, None], (1, 1, 256, channels))
        results = execute(operator, [values], [source], target)[0, 0].astype(np.int16)
        table = (results.T + (128 if target.dtype == "int8" else 0)).astype(np.uint8)
        output = self._stored[operator.output]
        index = f"{output}/index"
        self._node("Cast", [self._stored[operator.input]], index, to=TensorProto.INT32)
        if channels > 1:
            first = np.arange(channels, dtype=np.int32)[:, None, None] * 256
            offsets = self._constant(f"{output}/offsets", first)
            self._node("Add", [index, offsets], f"{output}/place")
            index = f"{output}/place"
        stored_table = self._constant(f"{output}/table", table.reshape(-1))
        self._node("Gather", [stored_table, index], output, axis=0)

    def _add_integer_sum(self, operator: ops.Add | ops.Subtract) -> None:
        """Add tensors of one scale by QLinearAdd, which is exact, and others by two tables.

        The tables hold float64 fractions whose sum, rounded down, is the result.
        """
        from onnx import TensorProto

        before = [self._quantization[name] for name in operator.inputs]
        after = self._quantization[operator.output]
        if isinstance(operator, ops.Add) and all(each.scale == after.scale for each in before):
            if self._form == "qdq":
                self._add_qdq_sum(operator)
            else:
                self._add_integer("QLinearAdd", operator)
            return
        first, second, shift = fixed_point.sum_multipliers(before, after)
        sign = -1 if isinstance(operator, ops.Subtract) else 1
        rounding = 2.0 ** (shift - 1)
        output = self._stored[operator.output]
        terms = []
        for which, multiplier, offset in (
            (0, first, rounding / 2.0**shift + after.zero_point),
            (1, sign * second, 0.0),
        ):
            centred = (_BYTES - before[which].zero_point).astype(np.float64)
            table = self._constant(
                f"{output}/table_{which}", centred * multiplier / 2.0**shift + offset
            )
            index, term = f"{output}/index_{which}", f"{output}/term_{which}"
            source = self._stored[operator.inputs[which]]
            self._node("Cast", [source], index, to=TensorProto.INT32)
            self._node("Gather", [table, index], term, axis=0)
            terms.append(term)
        self._node("Add", terms, f"{output}/sum")
        self._node("Floor", [f"{output}/sum"], f"{output}/floor")
        self._add_saturation(f"{output}/floor", output, np.float64)

    def _add_qdq_sum(self, add: ops.Add) -> None:
        """Add tensors of one scale, dequantized; a runtime makes one integer addition of it."""
        output = self._stored[add.output]
        summands = [
            self._dequantized(name, f"{output}/{which}") for which, name in enumerate(add.inputs)
        ]
        self._node("Add", summands, f"{output}/sum")
        after = self._quantization_constants(add.output)
        self._node("QuantizeLinear", [f"{output}/sum", *after], output)

    def _dequantized(self, name: str, reader: str) -> str:
        """Dequantize a tensor for one reader, as runtimes expect it."""
        real = f"{reader}/{self._stored[name]}/real"
        self._node("DequantizeLinear", self._with_quantization(name), real)
        return real

    def _add_integer_product(self, multiply: ops.Multiply) -> None:
        """Multiply in float32, where products of bytes are exact, and round half to even."""
        from onnx import TensorProto

        before = [self._quantization[name] for name in multiply.inputs]
        after = self._quantization[multiply.output]
        output = self._stored[multiply.output]
        factors = []
        for which, name in enumerate(multiply.inputs):
            real, centred = f"{output}/real_{which}", f"{output}/centred_{which}"
            zero_point = np.float32(before[which].zero_point)
            self._node("Cast", [self._stored[name]], real, to=TensorProto.FLOAT)
            constant = self._constant(f"{output}/zero_point_{which}", zero_point)
            self._node("Sub", [real, constant], centred)
            factors.append(centred)
        self._node("Mul", factors, f"{output}/product")
        multiplier = self._constant(
            f"{output}/multiplier", fixed_point.product_multiplier(before, after)
        )
        self._node("Mul", [f"{output}/product", multiplier], f"{output}/scaled")
        self._node("Round", [f"{output}/scaled"], f"{output}/rounded")
        shift = self._constant(f"{output}/shift", np.float32(after.zero_point))
        self._node("Add", [f"{output}/rounded", shift], f"{output}/moved")
        self._add_saturation(f"{output}/moved", output, np.float32)

    def _add_integer_mean(self, pool: ops.GlobalAveragePool) -> None:
        """Sum in int64, then scale and round in float32 as the exact arithmetic does."""
        from onnx import TensorProto

        before, after = self._quantization[pool.input], self._quantization[pool.output]
        source, output = self._stored[pool.input], self._stored[pool.output]

        def name(suffix: str) -> str:
            return f"{output}/{suffix}"

        axes = self._constant(name("axes"), np.array([2, 3], np.int64))
        self._node("Cast", [source], name("wide"), to=TensorProto.INT64)
        self._node("ReduceSum", [name("wide"), axes], name("total"), keepdims=1)
        self._node("Shape", [source], name("shape"))
        self._node("Gather", [name("shape"), axes], name("sides"), axis=0)
        self._node("ReduceProd", [name("sides")], name("count"), axes=[0], keepdims=1)
        zero_point = self._constant(name("zero_point_wide"), np.int64(before.zero_point))
        self._node("Mul", [name("count"), zero_point], name("bias"))
        self._node("Sub", [name("total"), name("bias")], name("centred"))
        self._node("Cast", [name("centred")], name("centred_real"), to=TensorProto.FLOAT)
        self._node("Cast", [name("count")], name("count_real"), to=TensorProto.FLOAT)
        ratio = self._constant(name("ratio"), np.float32(before.scale) / np.float32(after.scale))
        self._node("Div", [ratio, name("count_real")], name("multiplier"))
        self._node("Mul", [name("centred_real"), name("multiplier")], name("scaled"))
        # int8 zero points, as the exact arithmetic adds them before it rounds.
        low = self._constant(name("zero_point_int8"), np.float32(after.zero_point - 128))
        self._node("Add", [name("scaled"), low], name("moved"))
        self._node("Round", [name("moved")], name("rounded"))
        shift = self._constant(name("shift"), np.float32(128))
        self._node("Add", [name("rounded"), shift], name("unsigned"))
        self._add_saturation(name("unsigned"), output, np.float32)

    def _add_saturation(self, source: str, output: str, kind: type[np.floating[Any]]) -> None:
        """Clip whole numbers to uint8."""
        from onnx import TensorProto

        limits = [
            self._constant(f"{output}/{name}", kind(value))
            for name, value in (("low", 0), ("high", 255))
        ]
        self._node("Clip", [source, *limits], f"{output}/clipped")
        self._node("Cast", [f"{output}/clipped"], output, to=TensorProto.UINT8)

    def _with_quantization(self, name: str) -> list[str]:
        """The names of a tensor, its scale and its zero point."""
        return [self._stored[name], *self._quantization_constants(name)]

    def _quantization_constants(self, name: str) -> list[str]:
        """The names of the constants of a tensor's scale and zero point."""
        scale = np.float32(self._quantization[name].scale)
        stored_scale = self._constant(f"{self._stored[name]}/scale", scale)
        return [stored_scale, self._zero_point(name)]

    def _zero_point(self, name: str) -> str:
        zero_point = np.uint8(self._quantization[name].zero_point)
        return self._constant(f"{self._stored[name]}/zero_point", zero_point)

    def _node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> None:
        from onnx import helper

        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))

    def _constant(self, name: str, values: Array | np.generic) -> str:
        from onnx import numpy_helper

        if name not in self._constants:
            self._constants.add(name)
            self.initializers.append(numpy_helper.from_array(np.asarray(values), name))
        return name


def _unsigned(quantization: ops.Quantization, dtype: str) -> ops.Quantization:
    """The quantization of the uint8 tensor that represents the same values."""
    shift = 128 if dtype == "int8" else 0
    return ops.Quantization(quantization.scale, quantization.zero_point + shift)
