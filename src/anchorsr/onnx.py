"""A graph as an ONNX file, for ONNX Runtime on any machine and in the browser.

Tensors are (1, C, H, W), as ONNX convolutions want them. An integer graph becomes integer
operators only (QLinearConv, QLinearAdd, DepthToSpace), all of them over uint8: an int8
tensor with zero point z is stored as uint8 with zero point z + 128, which means the same
numbers and makes every conversion between the two types disappear. Equal graphs give equal
bytes.

QLinearAdd is ONNX Runtime's own (`com.microsoft`): ONNX itself has no integer addition of
this kind. Left out: quantize / dequantize pairs, and reading.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from anchorsr.errors import GraphError, needs
from anchorsr.graph import Graph
from anchorsr.operators import (
    Add,
    Array,
    Clip,
    Concat,
    Conv2D,
    DepthToSpace,
    Minimum,
    Operator,
    Quantization,
    ReLU,
    Requantize,
)

if TYPE_CHECKING:
    from onnx import NodeProto, TensorProto, ValueInfoProto

# Opset 13 is the first in which ONNX Runtime moves uint8 from depth to space; with format
# version 7 a file loads in ONNX Runtime from 1.7 (2021) on.
OPSET = 13
_FORMAT_VERSION = 7
_MICROSOFT_DOMAIN = "com.microsoft"


def write_onnx(
    graph: Graph, *, size: tuple[int, int] | None = None, description: str = ""
) -> bytes:
    """The graph as the bytes of an ONNX file, input and output (1, C, H, W).

    size: (height, width) of the input for a file of fixed size; None for a file that takes
    every size. Input and output keep the names that the graph gives them.
    Raises GraphError for a Requantize that changes more than the number type, and
    MissingDependencyError without the package `onnx`.
    """
    if size is not None and min(size) < 1:
        raise GraphError(f"height and width are positive, not {size}")
    with needs("onnx", "onnx"):
        from onnx import helper
    writer = _Writer(graph)
    for operator in graph.operators:
        writer.add(operator)
    model = helper.make_model(
        helper.make_graph(
            writer.nodes,
            graph.name or "network",
            [_picture(graph, graph.input, size, factor=1)],
            [_picture(graph, graph.output, size, factor=graph.factor)],
            writer.initializers,
        ),
        producer_name="anchorsr",
        doc_string=description,
        ir_version=_FORMAT_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(_MICROSOFT_DOMAIN, 1)],
    )
    return bytes(model.SerializeToString(deterministic=True))


def _picture(graph: Graph, name: str, size: tuple[int, int] | None, factor: int) -> ValueInfoProto:
    """The declaration of the network's input or output."""
    from onnx import TensorProto, helper

    tensor = graph.tensors[name]
    suffix = "" if factor == 1 else f"_x{factor}"
    shape: list[int | str] = [1, tensor.channels]
    shape += [f"height{suffix}", f"width{suffix}"] if size is None else [n * factor for n in size]
    kind = TensorProto.FLOAT if tensor.quantization is None else TensorProto.UINT8
    return helper.make_tensor_value_info(name, kind, shape)


def _unsigned(quantization: Quantization, dtype: str) -> Quantization:
    """The quantization of the uint8 tensor that means the same numbers."""
    shift = 128 if dtype == "int8" else 0
    return Quantization(quantization.scale, quantization.zero_point + shift)


class _Writer:
    """Collects the nodes and constants of one file."""

    def __init__(self, graph: Graph) -> None:
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = []
        self._graph = graph
        self._quantization = {
            name: _unsigned(tensor.quantization, tensor.dtype)
            for name, tensor in graph.tensors.items()
            if tensor.quantization is not None
        }
        # A Requantize is no node: its output is another name of its input. The network's
        # own output must keep its name, so there the input takes the name of the output.
        self._stored = {graph.input: graph.input}
        for operator in graph.operators:
            name = operator.output
            if isinstance(operator, Requantize):
                self._check_requantize(operator)
                name = self._stored[operator.input]
            self._stored[operator.output] = name
        last = self._stored[graph.output]
        if last == graph.input:
            raise GraphError("a network that only passes its input on has no ONNX form")
        self._stored = {
            name: graph.output if stored == last else stored
            for name, stored in self._stored.items()
        }
        self._constants: set[str] = set()

    def _check_requantize(self, operator: Requantize) -> None:
        before, after = (self._quantization[name] for name in (operator.input, operator.output))
        if before != after:
            raise GraphError(
                f"Requantize to {operator.output!r} changes the scale or the zero point,"
                " and ONNX has no integer operator for that"
            )

    def add(self, operator: Operator) -> None:
        if isinstance(operator, Requantize):
            return
        inputs = [self._stored[name] for name in operator.inputs]
        output = self._stored[operator.output]
        if isinstance(operator, Conv2D):
            self._add_conv(operator, inputs[0], output)
        elif isinstance(operator, DepthToSpace):
            self._node("DepthToSpace", inputs, output, blocksize=operator.block, mode="DCR")
        elif isinstance(operator, Clip):
            low = self._constant(f"{output}/low", np.float32(operator.low))
            high = self._constant(f"{output}/high", np.float32(operator.high))
            self._node("Clip", [*inputs, low, high], output)
        elif isinstance(operator, Concat):
            self._node("Concat", inputs, output, axis=1)
        elif isinstance(operator, Minimum):
            shift = 128 if self._graph.tensors[operator.output].dtype == "int8" else 0
            bound = self._constant(f"{output}/bound", np.uint8(operator.bound + shift))
            self._node("Min", [*inputs, bound], output)
        elif isinstance(operator, ReLU):
            integer = operator.output in self._quantization
            zero = self._meaning(operator.output)[1:] if integer else []
            self._node("Max" if integer else "Relu", [*inputs, *zero], output)
        elif not isinstance(operator, Add):
            raise GraphError(f"{type(operator).__name__} has no ONNX form here")
        elif self._graph.tensors[operator.output].quantization is None:
            self._node("Add", inputs, output)
        else:
            self._add_integer_sum(operator, output)

    def _add_conv(self, conv: Conv2D, source: str, output: str) -> None:
        _, height, width, _ = conv.weights.shape
        attributes = {
            "kernel_shape": [height, width],
            "pads": [height // 2, width // 2, height // 2, width // 2],
        }
        made = f"{output}/linear" if self._needs_relu(conv) else output
        # ONNX wants (out, in, height, width).
        weights = np.ascontiguousarray(conv.weights.transpose(0, 3, 1, 2))
        stored_weights = self._constant(f"{output}/weights", weights)
        bias = self._constant(f"{output}/bias", conv.bias)
        if conv.weight_scales is None:
            self._node("Conv", [source, stored_weights, bias], made, **attributes)
            relu: list[str] = []
        else:
            zeros = np.zeros(conv.bias.shape, np.int8)
            scales = self._constant(f"{output}/weight_scales", conv.weight_scales)
            zero_points = self._constant(f"{output}/weight_zero_points", zeros)
            before = [source, *self._meaning(conv.input)]
            weighted = [stored_weights, scales, zero_points]
            after = self._meaning(conv.output)
            self._node("QLinearConv", [*before, *weighted, *after, bias], made, **attributes)
            relu = [after[1]]
        if made != output:
            self._node("Max" if relu else "Relu", [made, *relu], output)

    def _needs_relu(self, conv: Conv2D) -> bool:
        """Whether ReLU takes a node: with zero point 0, uint8 is cut there anyway."""
        quantization = self._quantization.get(conv.output)
        return conv.relu and (quantization is None or quantization.zero_point != 0)

    def _add_integer_sum(self, add: Add, output: str) -> None:
        inputs: list[str] = []
        for name in add.inputs:
            inputs += [self._stored[name], *self._meaning(name)]
        inputs += self._meaning(add.output)
        self._node("QLinearAdd", inputs, output, domain=_MICROSOFT_DOMAIN)

    def _meaning(self, name: str) -> list[str]:
        """The names of the constants that hold a tensor's scale and zero point."""
        quantization, stored = self._quantization[name], self._stored[name]
        return [
            self._constant(f"{stored}/scale", np.float32(quantization.scale)),
            self._constant(f"{stored}/zero_point", np.uint8(quantization.zero_point)),
        ]

    def _node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> None:
        from onnx import helper

        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))

    def _constant(self, name: str, values: Array | np.generic) -> str:
        from onnx import numpy_helper

        if name not in self._constants:
            self._constants.add(name)
            self.initializers.append(numpy_helper.from_array(np.asarray(values), name))
        return name
