"""Writing a graph as an ONNX file, for ONNX Runtime on any machine and in the browser.

Tensors are (1, C, H, W), as ONNX demands. The tensors of an integer graph are uint8: an int8 tensor
with zero point z becomes uint8 with zero point z + 128, which represents the same values and makes
all conversions between the two types unnecessary. Equal graphs give equal bytes.

Convolutions are QLinearConv, which rounds as the exact arithmetic does; `onnx_integer` has the
other integer operators. Transposed convolution and bilinear resize, which have no integer form, are
computed in float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, assert_never

import numpy as np

from anchorsr.arrays import Array
from anchorsr.errors import GraphError, needs
from anchorsr.graph import operators as ops
from anchorsr.graph.executor import multipliers
from anchorsr.graph.graph import Graph
from anchorsr.serialization.onnx_half import to_half
from anchorsr.serialization.onnx_integer import MICROSOFT_DOMAIN, IntegerNodes, OnnxForm

if TYPE_CHECKING:
    from onnx import ValueInfoProto

# Opset 13 is the first in which DepthToSpace accepts uint8. ONNX Runtime implements that, which the
# shipped networks need, since 1.21, and all operators here for uint8 since 1.24.
OPSET = 13
_FORMAT_VERSION = 7
# What `export` writes: as fast as the other in ONNX Runtime, and OpenVINO reads it too.
DEFAULT_FORM: OnnxForm = "qdq"

# Operators that are a single node, over floats and over integers.
_FLOAT_KINDS: dict[type, str] = {
    ops.Add: "Add",
    ops.Subtract: "Sub",
    ops.Multiply: "Mul",
    ops.Sigmoid: "Sigmoid",
    ops.SquareRoot: "Sqrt",
    ops.ReLU: "Relu",
}


def write_onnx(
    graph: Graph,
    *,
    size: tuple[int, int] | None = None,
    description: str = "",
    half: bool = False,
    form: OnnxForm = "qlinear",
) -> bytes:
    """Write a graph as an ONNX file. Input and output keep their names.

    Args:
        graph: The graph.
        size: (height, width) of the input for a file of fixed size; None for a file that takes
            every size.
        description: The description in the file.
        half: Whether a float graph is computed in float16; its input and output stay float32.
        form: How an integer graph is written: `qlinear` as integer operators of ONNX Runtime;
            `qdq` as standard operators over floats between QuantizeLinear and DequantizeLinear,
            which runtimes fuse into integer ones.

    Returns:
        The bytes of the file.

    Raises:
        GraphError: The size is not positive.
        MissingDependencyError: The package `onnx` is not installed.
    """
    if size is not None and min(size) < 1:
        raise GraphError(f"height and width are positive, not {size}")
    if size is not None:
        graph.check_size(*size)
    with needs("onnx", "onnx"):
        from onnx import helper
    writer = _Writer(graph, form)
    for operator in graph.operators:
        writer.add(operator)
    if half:
        to_half(writer.nodes, writer.initializers, graph.input, graph.output)
    model = helper.make_model(
        helper.make_graph(
            writer.nodes,
            graph.name or "network",
            [_image(graph, graph.input, size, factor=1)],
            [_image(graph, graph.output, size, factor=graph.factor)],
            writer.initializers,
        ),
        producer_name="anchorsr",
        doc_string=description,
        ir_version=_FORMAT_VERSION,
        opset_imports=[
            helper.make_opsetid("", OPSET),
            *([helper.make_opsetid(MICROSOFT_DOMAIN, 1)] if form == "qlinear" else []),
        ],
    )
    return bytes(model.SerializeToString(deterministic=True))


def _image(graph: Graph, name: str, size: tuple[int, int] | None, factor: int) -> ValueInfoProto:
    """Declare the input or output of the network."""
    from onnx import TensorProto, helper

    tensor = graph.tensors[name]
    suffix = "" if factor == 1 else f"_x{factor}"
    shape: list[int | str] = [1, tensor.channels]
    if factor == 0:  # a 1×1 tensor
        shape += [1, 1]
    elif size is None:
        shape += [f"height{suffix}", f"width{suffix}"]
    else:
        shape += [side * factor for side in size]
    kind = TensorProto.FLOAT if tensor.quantization is None else TensorProto.UINT8
    return helper.make_tensor_value_info(name, kind, shape)


class _Writer(IntegerNodes):
    """Collects the nodes and constants of one file."""

    def add(self, operator: ops.Operator) -> None:
        inputs = [self._stored[name] for name in operator.inputs]
        output = self._stored[operator.output]
        integer = operator.output in self._quantization
        match operator:
            case ops.Conv2D():
                # ONNX stores (out, in, height, width).
                weights = operator.weights.transpose(0, 3, 1, 2)
                self._add_conv(operator, weights, operator.groups)
            case ops.DepthwiseConv2D():
                weights = operator.weights.transpose(2, 0, 1)[:, None]
                self._add_conv(operator, weights, len(weights))
            case ops.TransposedConv2D():
                self._add_transposed_conv(operator, output)
            case ops.Requantize():
                if not self._keeps_values(operator):
                    self._add_table(operator)
            case ops.LeakyReLU() | ops.PReLU() | ops.Sigmoid() | ops.SquareRoot() if integer:
                self._add_table(operator)
            case ops.ReLU() if integer:
                self._node("Max", [*inputs, self._zero_point(operator.output)], output)
            case ops.Add() | ops.Subtract() if integer:
                self._add_integer_sum(operator)
            case ops.Multiply() if integer:
                self._add_integer_product(operator)
            case ops.GlobalAveragePool() if integer:
                self._add_integer_mean(operator)
            case (
                ops.Add()
                | ops.Subtract()
                | ops.Multiply()
                | ops.Sigmoid()
                | ops.SquareRoot()
                | ops.ReLU()
            ):
                self._node(_FLOAT_KINDS[type(operator)], inputs, output)
            case ops.GlobalAveragePool():
                self._node("GlobalAveragePool", inputs, output)
            case ops.LeakyReLU():
                self._node("LeakyRelu", inputs, output, alpha=operator.slope)
            case ops.PReLU():
                slopes = self._constant(f"{output}/slopes", operator.slopes[:, None, None])
                self._node("PRelu", [*inputs, slopes], output)
            case ops.Pool2D():
                self._add_pool(operator, inputs, output)
            case ops.Resize():
                self._add_resize(operator, inputs[0], output)
            case ops.DepthToSpace():
                self._add_depth_to_space(operator, inputs, output)
            case ops.Clip():
                low = self._constant(f"{output}/low", np.float32(operator.low))
                high = self._constant(f"{output}/high", np.float32(operator.high))
                self._node("Clip", [*inputs, low, high], output)
            case ops.Concat():
                self._node("Concat", inputs, output, axis=1)
            case ops.Slice():
                end = operator.start + self._graph.tensors[operator.output].channels
                numbers = {"start": operator.start, "end": end, "axis": 1}
                constants = [
                    self._constant(f"{output}/{name}", np.array([number], np.int64))
                    for name, number in numbers.items()
                ]
                self._node("Slice", [*inputs, *constants], output)
            case ops.Tile():
                repeats = np.array([1, operator.count, 1, 1], np.int64)
                self._node("Tile", [*inputs, self._constant(f"{output}/repeats", repeats)], output)
            case ops.Minimum():
                shift = 128 if self._graph.tensors[operator.output].dtype == "int8" else 0
                bound = self._constant(f"{output}/bound", np.uint8(operator.bound + shift))
                self._node("Min", [*inputs, bound], output)
            case _:
                assert_never(operator)

    def _add_conv(
        self, conv: ops.Conv2D | ops.DepthwiseConv2D, weights: Array, groups: int
    ) -> None:
        """weights: in the layout of ONNX, (out, in / groups, height, width)."""
        source, output = self._stored[conv.input], self._stored[conv.output]
        height, width = weights.shape[2:]
        stride = conv.stride if isinstance(conv, ops.Conv2D) else 1
        attributes: dict[str, Any] = {
            "kernel_shape": [height, width],
            "pads": [(height - stride) // 2, (width - stride) // 2] * 2,
        }
        if stride > 1:
            attributes["strides"] = [stride, stride]
        if groups > 1:
            attributes["group"] = groups
        made = f"{output}/linear" if self._needs_relu(conv) else output
        if conv.weight_scales is None:
            stored_weights = self._constant(f"{output}/weights", weights)
            bias = self._constant(f"{output}/bias", conv.bias)
            self._node("Conv", [source, stored_weights, bias], made, **attributes)
            relu: list[str] = []
        elif self._form == "qdq":
            self._add_qdq_conv(conv, weights, made, attributes)
            relu = [self._quantization_constants(conv.output)[1]]
        else:
            stored_weights = self._constant(f"{output}/weights", weights)
            bias = self._constant(f"{output}/bias", conv.bias)
            zeros = np.zeros(conv.bias.shape, np.int8)
            scales = self._constant(f"{output}/weight_scales", conv.weight_scales)
            zero_points = self._constant(f"{output}/weight_zero_points", zeros)
            before = self._with_quantization(conv.input)
            weighted = [stored_weights, scales, zero_points]
            after = self._quantization_constants(conv.output)
            self._node("QLinearConv", [*before, *weighted, *after, bias], made, **attributes)
            relu = [after[1]]
        if made != output:
            self._node("Max" if relu else "Relu", [made, *relu], output)

    def _add_qdq_conv(
        self,
        conv: ops.Conv2D | ops.DepthwiseConv2D,
        weights: Array,
        output: str,
        attributes: dict[str, Any],
    ) -> None:
        """Convolve dequantized numbers; the bias has the scale of the sums."""
        assert conv.weight_scales is not None
        scale = np.float32(self._quantization[conv.input].scale)
        constants = {"weights": (weights, conv.weight_scales)}
        constants["bias"] = (conv.bias, np.asarray(scale * conv.weight_scales, np.float32))
        inputs = [self._dequantized(conv.input, output)]
        for name, (values, scales) in constants.items():
            stored = self._constant(f"{conv.output}/{name}/stored", values)
            zeros = np.zeros(scales.shape, values.dtype)
            types = [
                self._constant(f"{conv.output}/{name}/scales", scales),
                self._constant(f"{conv.output}/{name}/zero_points", zeros),
            ]
            real = f"{conv.output}/{name}/real"
            self._node("DequantizeLinear", [stored, *types], real, axis=0)
            inputs.append(real)
        self._node("Conv", inputs, f"{output}/convolved", **attributes)
        after = self._quantization_constants(conv.output)
        self._node("QuantizeLinear", [f"{output}/convolved", *after], output)

    def _needs_relu(self, conv: ops.Conv2D | ops.DepthwiseConv2D) -> bool:
        """Whether ReLU is a node: with zero point 0, uint8 saturates at zero anyway."""
        quantization = self._quantization.get(conv.output)
        return conv.relu and (quantization is None or quantization.zero_point != 0)

    def _add_transposed_conv(self, conv: ops.TransposedConv2D, output: str) -> None:
        _, height, width, _ = conv.weights.shape
        rows, columns = (height - conv.stride) // 2, (width - conv.stride) // 2
        attributes = {
            "kernel_shape": [height, width],
            "strides": [conv.stride, conv.stride],
            "pads": [rows, columns, rows, columns],
        }
        # (in, out, height, width). There is no integer operator, so integers are summed in float32.
        weights = conv.weights.transpose(3, 0, 1, 2).astype(np.float32)
        stored = [
            self._constant(f"{output}/weights", weights),
            self._constant(f"{output}/bias", conv.bias.astype(np.float32)),
        ]
        source = self._stored[conv.input]
        if conv.weight_scales is None:
            self._node("ConvTranspose", [source, *stored], output, **attributes)
            return
        types = [self._graph.tensors[name] for name in (conv.input, conv.output)]
        factors = multipliers(conv, *types)[:, None, None]
        one = self._constant(f"{output}/one", np.float32(1))
        centred, total, scaled = (f"{output}/{name}" for name in ("centred", "total", "scaled"))
        self._node("DequantizeLinear", [source, one, self._zero_point(conv.input)], centred)
        self._node("ConvTranspose", [centred, *stored], total, **attributes)
        self._node("Mul", [total, self._constant(f"{output}/multipliers", factors)], scaled)
        self._node("QuantizeLinear", [scaled, one, self._zero_point(conv.output)], output)

    def _add_pool(self, pool: ops.Pool2D, inputs: list[str], output: str) -> None:
        padding = (pool.size - pool.stride) // 2
        attributes = {"kernel_shape": [pool.size] * 2, "pads": [padding] * 4}
        if pool.stride > 1:
            attributes["strides"] = [pool.stride] * 2
        if pool.kind == "max":
            self._node("MaxPool", inputs, output, **attributes)
        elif pool.output in self._quantization and self._form == "qdq":
            real = self._dequantized(pool.input, output)
            self._node("AveragePool", [real], f"{output}/mean", **attributes)
            after = self._quantization_constants(pool.output)
            self._node("QuantizeLinear", [f"{output}/mean", *after], output)
        elif pool.output in self._quantization:
            self._add_integer("QLinearAveragePool", pool, channels_last=0, **attributes)
        else:
            self._node("AveragePool", inputs, output, **attributes)

    def _add_depth_to_space(self, move: ops.DepthToSpace, inputs: list[str], output: str) -> None:
        """Move channels; of numbers in the QDQ form, since Qualcomm's runtime needs a scale."""
        attributes = {"blocksize": move.block, "mode": "DCR"}
        if self._form == "qlinear" or move.output not in self._quantization:
            self._node("DepthToSpace", inputs, output, **attributes)
            return
        real = self._dequantized(move.input, output)
        self._node("DepthToSpace", [real], f"{output}/moved", **attributes)
        after = self._quantization_constants(move.output)
        self._node("QuantizeLinear", [f"{output}/moved", *after], output)

    def _add_resize(self, resize: ops.Resize, source: str, output: str) -> None:
        scales = np.array([1, 1, resize.factor, resize.factor], np.float32)
        rest = ["", self._constant(f"{output}/scales", scales)]
        if resize.mode == "nearest":
            nearest = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
            self._node("Resize", [source, *rest], output, mode="nearest", **nearest)
            return
        linear = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
        if resize.output not in self._quantization:
            self._node("Resize", [source, *rest], output, **linear)
            return
        # Over uint8, ONNX Runtime truncates and takes twice as long; it would do the same between
        # DequantizeLinear and QuantizeLinear, so these nodes are casts.
        from onnx import TensorProto

        real, large, moved = (f"{output}/{name}" for name in ("real", "large", "moved"))
        self._node("Cast", [source], real, to=TensorProto.FLOAT)
        self._node("Resize", [real, *rest], large, **linear)
        self._node("Add", [large, self._constant(f"{output}/half", np.float32(0.5))], moved)
        self._node("Cast", [moved], output, to=TensorProto.UINT8)
