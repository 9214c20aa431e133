"""Reading a graph from a `.tflite` file as the writer makes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple, cast

import numpy as np

from anchorsr.arrays import Array
from anchorsr.errors import AnchorSRError, GraphError, ModelError
from anchorsr.graph import operators as ops
from anchorsr.graph.graph import Graph
from anchorsr.serialization.tflite.schema import IDENTIFIER, schema_module


def read_tflite(data: bytes, *, name: str = "") -> Graph:
    """Read the graph from a `.tflite` file: the inverse of `write_tflite`.

    Args:
        data: The bytes of the file. A fixed size in it is dropped.
        name: The name of the graph; if empty, the name in the file.

    Raises:
        ModelError: The bytes are not a complete `.tflite` file.
        GraphError: The file has something that a graph cannot express; the message names the
            operator.
    """
    if data[4:8] != IDENTIFIER:
        raise ModelError("this is not a .tflite file: it lacks the identifier TFL3")
    schema = schema_module()
    try:
        model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(bytes(data)))
        return _Reader(schema, model).graph(name)
    except AnchorSRError:
        raise
    # The generated parser does not validate: damaged bytes raise many kinds of exceptions.
    except Exception as error:
        raise ModelError("this .tflite file is damaged or cut short") from error


class _FileOperator(NamedTuple):
    """One operator of the file: its kind, input tensors by index, output by name, options."""

    kind: str
    inputs: Sequence[int]
    target: str
    options: Any


class _Reader:
    """Converts one unpacked file to a graph."""

    def __init__(self, schema: ModuleType, model: Any) -> None:
        if len(model.subgraphs or []) != 1:
            raise GraphError("a .tflite file has exactly one subgraph")
        self._schema = schema
        self._model = model
        self._subgraph = model.subgraphs[0]
        self._kinds = {code: kind for kind, code in vars(schema.BuiltinOperator).items()}
        self._dtypes = {code: dtype.lower() for dtype, code in vars(schema.TensorType).items()}
        self._types: dict[str, ops.TensorType] = {}
        self._sizes: dict[str, list[int]] = {}  # output sizes that operators store
        # A Clip and an integer SquareRoot are several operators in the file. Of those not complete
        # yet: from the last output to its operator, the input of the first operator, and the lower
        # bound of a Clip.
        self._incomplete: dict[str, tuple[str, str, float]] = {}

    def graph(self, name: str) -> Graph:
        inputs, outputs = _list(self._subgraph.inputs), _list(self._subgraph.outputs)
        if len(inputs) != 1 or len(outputs) != 1:
            raise GraphError("a network has one input and one output")
        source = self._activation("the network", inputs[0])
        read = [self._operator(stored) for stored in self._subgraph.operators or []]
        for kind, _, _ in self._incomplete.values():
            raise GraphError(
                "MAXIMUM is not followed by the MINIMUM that completes a Clip"
                if kind == "MAXIMUM"
                else f"{kind} is not followed by the operators that complete an integer SquareRoot"
            )
        graph = Graph(
            name=name or _text(self._subgraph.name),
            tensors=self._types,
            operators=tuple(operator for operator in read if operator is not None),
            input=source,
            output=_text(self._tensor(outputs[0]).name),
        )
        self._check_stored_sizes(graph, inputs[0])
        return graph

    def _check_stored_sizes(self, graph: Graph, index: int) -> None:
        """Check that the sizes stored by operators fit the input size of the file."""
        if not self._sizes:
            return
        tensor = self._tensor(index)
        size = _list(tensor.shape)[1:3]
        free = -1 in _list(getattr(tensor, "shapeSignature", None))[1:3]
        expected = {name: [graph.extents[name] * side for side in size] for name in self._sizes}
        if free or self._sizes != expected:
            raise GraphError("the file resizes to a size that is not a multiple of its input's")

    def _operator(self, stored: Any) -> ops.Operator | None:
        """Convert an operator; None if it is part of one that a later operator completes."""
        kind = self._kind(stored)
        inputs, outputs = _list(stored.inputs), _list(stored.outputs)
        number, read = _READERS[kind]
        if (len(inputs), len(outputs)) != (number or max(len(inputs), 1), 1):
            raise GraphError(f"{kind} with {len(inputs)} inputs and {len(outputs)} outputs")
        target = self._activation(kind, outputs[0])
        return read(self, _FileOperator(kind, inputs, target, stored.builtinOptions))

    def _kind(self, stored: Any) -> str:
        code = self._model.operatorCodes[stored.opcodeIndex]
        number = max(code.builtinCode, code.deprecatedBuiltinCode)
        kind = str(self._kinds.get(number, f"number {number}"))
        if kind not in _READERS:
            custom = f" {_text(code.customCode)!r}" if code.customCode else ""
            raise GraphError(f"the .tflite has the operator {kind}{custom}, which is unsupported")
        return kind

    # One method per kind of operator, or per group of similar ones.

    def read_conv(self, stored: _FileOperator) -> ops.Operator:
        stride = self._check_steps(stored)
        source, weights, bias, scales = self._weighted(stored, axis=0)
        groups = self._types[source].channels // weights.shape[3] if weights.ndim == 4 else 1
        relu = self._fused_relu(stored)
        return ops.Conv2D(source, stored.target, weights, bias, scales, relu, groups, stride)

    def read_depthwise(self, stored: _FileOperator) -> ops.Operator:
        if self._check_steps(stored) != 1:
            raise GraphError(f"{stored.kind} has a stride: unsupported")
        source, weights, bias, scales = self._weighted(stored, axis=3)
        if stored.options.depthMultiplier != 1 or weights.ndim != 4 or weights.shape[0] != 1:
            raise GraphError("DEPTHWISE_CONV_2D has a channel multiplier: unsupported")
        relu = self._fused_relu(stored)
        return ops.DepthwiseConv2D(source, stored.target, weights[0], bias, scales, relu)

    def read_transposed(self, stored: _FileOperator) -> ops.Operator:
        options = stored.options
        if options.padding != self._schema.Padding.SAME or options.strideH != options.strideW:
            raise GraphError("TRANSPOSE_CONV has VALID padding or two strides: unsupported")
        self._check_not_fused(stored)
        size, weights, source, bias = stored.inputs
        read = self._weighted(stored._replace(inputs=(source, weights, bias)), axis=0)
        shape = self._constant(stored.kind, size)
        self._note_size(stored, source, options.strideH, shape[1:3])
        return ops.TransposedConv2D(read[0], stored.target, *read[1:3], options.strideH, read[3])

    def read_binary(self, stored: _FileOperator) -> ops.Operator:
        self._check_not_fused(stored)
        left, right = (self._activation(stored.kind, index) for index in stored.inputs)
        if stored.kind == "MUL":
            return ops.Multiply((left, right), stored.target)
        kind = ops.Add if stored.kind == "ADD" else ops.Subtract
        return kind((left, right), stored.target)

    def read_concat(self, stored: _FileOperator) -> ops.Operator:
        if stored.options.axis not in (3, -1) or stored.options.fusedActivationFunction:
            raise GraphError(
                "CONCATENATION is not along the channels, or has a fused activation: unsupported"
            )
        names = tuple(self._activation(stored.kind, index) for index in stored.inputs)
        return ops.Concat(names, stored.target)

    def read_depth_to_space(self, stored: _FileOperator) -> ops.Operator:
        return ops.DepthToSpace(self._source(stored), stored.target, stored.options.blockSize)

    def read_slice(self, stored: _FileOperator) -> ops.Operator:
        begin, size = (self._constant(stored.kind, index) for index in stored.inputs[1:])
        whole = [-1, -1, -1, self._types[stored.target].channels]
        if begin.shape != (4,) or begin[:3].any() or size.tolist() != whole:
            raise GraphError("SLICE of anything but channels: unsupported")
        return ops.Slice(self._source(stored), stored.target, int(begin[3]))

    def read_tile(self, stored: _FileOperator) -> ops.Operator:
        multiples = self._constant(stored.kind, stored.inputs[1]).tolist()
        if multiples[:3] != [1, 1, 1] or len(multiples) != 4:
            raise GraphError("TILE of anything but channels: unsupported")
        return ops.Tile(self._source(stored), stored.target, multiples[3])

    def read_relu(self, stored: _FileOperator) -> ops.Operator:
        return ops.ReLU(self._source(stored), stored.target)

    def read_leaky_relu(self, stored: _FileOperator) -> ops.Operator:
        return ops.LeakyReLU(self._source(stored), stored.target, float(stored.options.alpha))

    def read_prelu(self, stored: _FileOperator) -> ops.Operator:
        slopes, scale = self._constant(stored.kind, stored.inputs[1]), None
        if slopes.shape != (1, 1, slopes.size):
            raise GraphError("PRELU has slopes that are not per-channel")
        if slopes.dtype != np.float32:
            scales, zero_points = _quantization(self._tensor(stored.inputs[1]))
            if len(scales) != 1 or any(zero_points):
                raise GraphError("PRELU has slopes without a per-tensor scale and zero point 0")
            scale = scales[0]
        return ops.PReLU(self._source(stored), stored.target, slopes.reshape(-1), scale)

    def read_sigmoid(self, stored: _FileOperator) -> ops.Operator:
        return ops.Sigmoid(self._source(stored), stored.target)

    def read_pool(self, stored: _FileOperator) -> ops.Operator:
        options, stride = stored.options, stored.options.strideH
        unequal = (options.strideW - stride, options.filterHeight - options.filterWidth)
        if unequal != (0, 0) or options.padding != self._schema.Padding.SAME:
            raise GraphError(
                f"{stored.kind} has two strides, two sizes or VALID padding: unsupported"
            )
        self._check_not_fused(stored)
        source, size = self._source(stored), options.filterHeight
        if stored.kind == "AVERAGE_POOL_2D":
            return ops.Pool2D(source, stored.target, "average", size, stride)
        return ops.Pool2D(source, stored.target, "max", size, stride)

    def read_mean(self, stored: _FileOperator) -> ops.Operator:
        axes = self._constant(stored.kind, stored.inputs[1])
        if axes.tolist() != [1, 2] or not stored.options.keepDims:
            raise GraphError("MEAN is not over height and width, or drops them: unsupported")
        return ops.GlobalAveragePool(self._source(stored), stored.target)

    def read_resize(self, stored: _FileOperator) -> ops.Operator:
        if stored.options.alignCorners or not stored.options.halfPixelCenters:
            raise GraphError(f"{stored.kind} without half-pixel centres: unsupported")
        size = self._constant(stored.kind, stored.inputs[1])
        height = _list(self._tensor(stored.inputs[0]).shape)[1]
        factor = int(size[0]) // height
        self._note_size(stored, stored.inputs[0], factor, size)
        source = self._source(stored)
        if stored.kind == "RESIZE_BILINEAR":
            return ops.Resize(source, stored.target, factor, "bilinear")
        return ops.Resize(source, stored.target, factor, "nearest")

    def read_quantize(self, stored: _FileOperator) -> ops.Operator:
        source = self._source(stored)
        if source in self._incomplete and self._incomplete[source][0] == "SQRT":
            return ops.SquareRoot(self._complete(source), stored.target)
        return ops.Requantize(source, stored.target)

    def read_dequantize(self, stored: _FileOperator) -> None:
        self._incomplete[stored.target] = ("DEQUANTIZE", self._source(stored), 0.0)

    def read_square_root(self, stored: _FileOperator) -> ops.Operator | None:
        source = self._source(stored)
        if source in self._incomplete and self._incomplete[source][0] == "DEQUANTIZE":
            self._incomplete[stored.target] = ("SQRT", self._complete(source), 0.0)
            return None
        if self._types[source].dtype != "float32":
            raise GraphError(
                "SQRT of integers, which LiteRT truncates instead of rounding: unsupported"
            )
        return ops.SquareRoot(source, stored.target)

    def read_bound(self, stored: _FileOperator) -> ops.Operator | None:
        """Read MAXIMUM or MINIMUM: half of a Clip, or a Minimum."""
        kind, source = stored.kind, self._source(stored)
        bound = self._constant(kind, stored.inputs[1])
        if kind == "MINIMUM" and bound.size == 1 and self._types[source].dtype != "float32":
            return ops.Minimum(source, stored.target, int(bound.item()))
        if bound.shape != (1,) or bound.dtype != np.float32:
            raise GraphError(f"{kind} with anything but one float32 number: unsupported")
        if kind == "MAXIMUM":
            self._incomplete[stored.target] = (kind, source, float(bound[0]))
            return None
        if source not in self._incomplete or self._incomplete[source][0] != "MAXIMUM":
            raise GraphError("MINIMUM is not preceded by the MAXIMUM of a Clip")
        low = self._incomplete[source][2]
        return ops.Clip(self._complete(source), stored.target, low, float(bound[0]))

    # Helpers.

    def _source(self, stored: _FileOperator) -> str:
        return self._activation(stored.kind, stored.inputs[0])

    def _complete(self, name: str) -> str:
        """Drop the intermediate tensor of an incomplete operator; return the operator's input."""
        del self._types[name]
        return self._incomplete.pop(name)[1]

    def _check_steps(self, stored: _FileOperator) -> int:
        """Return the stride of a convolution without dilation."""
        options = stored.options
        steps = (
            options.strideH - options.strideW,
            options.dilationHFactor,
            options.dilationWFactor,
        )
        if steps != (0, 1, 1) or options.padding != self._schema.Padding.SAME:
            raise GraphError(
                f"{stored.kind} has two strides, a dilation or VALID padding: unsupported"
            )
        return int(options.strideH)

    def _check_not_fused(self, stored: _FileOperator) -> None:
        if stored.options is not None and stored.options.fusedActivationFunction:
            raise GraphError(f"{stored.kind} has a fused activation: unsupported")

    def _note_size(self, stored: _FileOperator, source: int, factor: int, size: Array) -> None:
        height_width = _list(self._tensor(source).shape)[1:3]
        stored_size = size[:4].tolist()
        if factor < 1 or size.size != 2 or stored_size != [factor * side for side in height_width]:
            raise GraphError(
                f"{stored.kind} resizes {height_width} to {stored_size}, which is not a multiple"
            )
        self._sizes[stored.target] = stored_size

    def _fused_relu(self, stored: _FileOperator) -> bool:
        activation = self._schema.ActivationFunctionType
        fused = stored.options.fusedActivationFunction
        if fused not in (activation.NONE, activation.RELU):
            raise GraphError(f"{stored.kind} has a fused activation other than RELU: unsupported")
        return bool(fused == activation.RELU)

    def _weighted(self, stored: _FileOperator, axis: int) -> tuple[str, Array, Array, Array | None]:
        """Source, weights, bias and weight scales of a convolution.

        axis: The output channels' axis of the weights.
        """
        kind, source = stored.kind, self._source(stored)
        weights, bias = (self._constant(kind, index) for index in stored.inputs[1:])
        quantization = self._types[source].quantization
        if quantization is None:
            return source, weights, bias, None
        scales = self._channel_scales(kind, stored.inputs[1], weights.shape[axis], axis)
        expected = quantization.scale * scales.astype(np.float64)
        found = self._channel_scales(kind, stored.inputs[2], bias.size, axis=0)
        # The runtimes ignore this scale, so other converters may round it differently.
        if not np.allclose(found, expected, rtol=1e-5):
            raise GraphError(f"{kind} has a bias scale that is not input scale * weight scale")
        return source, weights, bias, scales

    def _tensor(self, index: int) -> Any:
        # A negative index stands for an omitted tensor; Python would count it from the end.
        if not 0 <= index < len(self._subgraph.tensors):
            raise GraphError("an operator reads a tensor that is not in the file")
        tensor = self._subgraph.tensors[index]
        if tensor.sparsity or tensor.isVariable:
            raise GraphError(f"the tensor {_text(tensor.name)!r} is sparse or variable")
        return tensor

    def _activation(self, kind: str, index: int) -> str:
        """Return the name of an activation tensor, after recording its type."""
        tensor = self._tensor(index)
        name, shape = _text(tensor.name), _list(tensor.shape)
        dtype = self._dtypes.get(tensor.type)
        if dtype not in ("float32", "uint8", "int8") or len(shape) != 4 or shape[0] != 1:
            raise GraphError(
                f"{kind} has the tensor {name[:80]!r} of type {dtype} and shape {shape[:5]},"
                " not float32, uint8 or int8 (1, H, W, C)"
            )
        quantization = None
        if dtype != "float32":
            scales, zero_points = _quantization(tensor)
            if len(scales) != 1 or len(zero_points) != 1:
                raise GraphError(
                    f"{kind} has the tensor {name!r} without a per-tensor scale and zero point"
                )
            # XNNPACK leaves such a tensor to other kernels, which round differently.
            if getattr(tensor.quantization, "quantizedDimension", 0):
                raise GraphError(f"{kind} has the tensor {name!r} with a scale along an axis")
            quantization = ops.Quantization(scales[0], zero_points[0])
        found = ops.TensorType(shape[3], cast(ops.DType, dtype), quantization)
        if self._types.setdefault(name, found) != found:
            raise GraphError(f"two tensors have the name {name!r}")
        return name

    def _constant(self, kind: str, index: int) -> Array:
        tensor = self._tensor(index)
        dtype = self._dtypes.get(tensor.type)
        data = self._model.buffers[tensor.buffer].data
        if dtype not in ("float32", "uint8", "int8", "int32") or not isinstance(data, np.ndarray):
            raise GraphError(
                f"{kind} has weights of type {dtype}, or weights that are not constant"
            )
        return np.frombuffer(data.tobytes(), dtype).reshape(_list(tensor.shape)).copy()

    def _channel_scales(self, kind: str, index: int, channels: int, axis: int) -> Array:
        tensor = self._tensor(index)
        scales, zero_points = _quantization(tensor)
        # With one channel, the axis is meaningless.
        along = axis if channels == 1 else getattr(tensor.quantization, "quantizedDimension", axis)
        if len(scales) != channels or along != axis or any(zero_points):
            raise GraphError(f"{kind} has weights without per-channel scales and zero point 0")
        return np.array(scales, dtype=np.float32)


# The number of inputs of each kind, constants included (0: any), and the method that reads it.
_READERS: dict[str, tuple[int, Callable[[_Reader, _FileOperator], ops.Operator | None]]] = {
    "ADD": (2, _Reader.read_binary),
    "AVERAGE_POOL_2D": (1, _Reader.read_pool),
    "CONCATENATION": (0, _Reader.read_concat),
    "CONV_2D": (3, _Reader.read_conv),
    "DEPTHWISE_CONV_2D": (3, _Reader.read_depthwise),
    "DEPTH_TO_SPACE": (1, _Reader.read_depth_to_space),
    "DEQUANTIZE": (1, _Reader.read_dequantize),
    "LEAKY_RELU": (1, _Reader.read_leaky_relu),
    "LOGISTIC": (1, _Reader.read_sigmoid),
    "MAXIMUM": (2, _Reader.read_bound),
    "MAX_POOL_2D": (1, _Reader.read_pool),
    "MEAN": (2, _Reader.read_mean),
    "MINIMUM": (2, _Reader.read_bound),
    "MUL": (2, _Reader.read_binary),
    "PRELU": (2, _Reader.read_prelu),
    "QUANTIZE": (1, _Reader.read_quantize),
    "RELU": (1, _Reader.read_relu),
    "RESIZE_BILINEAR": (2, _Reader.read_resize),
    "RESIZE_NEAREST_NEIGHBOR": (2, _Reader.read_resize),
    "SLICE": (3, _Reader.read_slice),
    "SQRT": (1, _Reader.read_square_root),
    "SUB": (2, _Reader.read_binary),
    "TILE": (2, _Reader.read_tile),
    "TRANSPOSE_CONV": (4, _Reader.read_transposed),
}


def _quantization(tensor: Any) -> tuple[list[float], list[int]]:
    """The scales and zero points of a tensor; empty if the file has none."""
    stored = tensor.quantization
    if stored is None:
        return [], []
    return _list(stored.scale), _list(stored.zeroPoint)


def _list(values: Any) -> list[Any]:
    """Convert a vector of the file to a list; absent or empty ones are None or 0 there."""
    return values.tolist() if isinstance(values, np.ndarray) else []


def _text(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value or "")
