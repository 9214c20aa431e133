"""The graph in the bytes of a `.tflite` file of the kind that the writer makes."""

from __future__ import annotations

from types import ModuleType
from typing import Any, cast

import numpy as np

from anchorsr.errors import AnchorSRError, GraphError, ModelError
from anchorsr.graph import Graph
from anchorsr.operators import (
    Add,
    Array,
    Clip,
    Concat,
    Conv2D,
    DepthToSpace,
    DType,
    Minimum,
    Operator,
    Quantization,
    ReLU,
    Requantize,
    TensorType,
)
from anchorsr.tflite.schema import IDENTIFIER, schema_module

# How many inputs each operator has, constants included; CONCATENATION has any number.
_INPUTS = {"CONV_2D": 3, "ADD": 2, "DEPTH_TO_SPACE": 1, "QUANTIZE": 1, "MAXIMUM": 2, "MINIMUM": 2}
_INPUTS |= {"CONCATENATION": 0, "RELU": 1}


def read_tflite(data: bytes, *, name: str = "") -> Graph:
    """The graph in the bytes of a `.tflite` file of the kind that `write_tflite` makes.

    name: of the graph; when empty, the name in the file. A fixed size in the file is dropped.
    Raises ModelError when the bytes are not a whole `.tflite` file, and GraphError when the
    file holds something that a graph cannot, naming the operator.
    """
    if data[4:8] != IDENTIFIER:
        raise ModelError("this is not a .tflite file: the identifier TFL3 is not there")
    schema = schema_module()
    try:
        model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(bytes(data)))
        return _Reader(schema, model).graph(name)
    except AnchorSRError:
        raise
    # The generated parser trusts the bytes: damaged ones fail in it in a dozen ways.
    except Exception as error:
        reason = type(error).__name__
        raise ModelError(f"this .tflite file is damaged or cut short ({reason})") from error


class _Reader:
    """Turns one unpacked file into a graph."""

    def __init__(self, schema: ModuleType, model: Any) -> None:
        if len(model.subgraphs or []) != 1:
            raise GraphError("a .tflite file of one network has one subgraph")
        self._schema = schema
        self._model = model
        self._subgraph = model.subgraphs[0]
        self._kinds = {code: kind for kind, code in vars(schema.BuiltinOperator).items()}
        self._dtypes = {code: dtype.lower() for dtype, code in vars(schema.TensorType).items()}
        self._types: dict[str, TensorType] = {}
        # MAXIMUM's output to its input and bound, until the MINIMUM that completes a Clip.
        self._maxima: dict[str, tuple[str, float]] = {}

    def graph(self, name: str) -> Graph:
        inputs, outputs = _list(self._subgraph.inputs), _list(self._subgraph.outputs)
        if len(inputs) != 1 or len(outputs) != 1:
            raise GraphError("a network has one input and one output")
        source = self._activation("the network", inputs[0])
        read = [self._operator(stored) for stored in self._subgraph.operators or []]
        if self._maxima:
            raise GraphError("MAXIMUM is not followed by the MINIMUM that completes a Clip")
        return Graph(
            name=name or _text(self._subgraph.name),
            tensors=self._types,
            operators=tuple(operator for operator in read if operator is not None),
            input=source,
            output=_text(self._tensor(outputs[0]).name),
        )

    def _operator(self, stored: Any) -> Operator | None:
        """The operator, or None for the first half of a Clip."""
        kind = self._kind(stored)
        inputs, outputs = _list(stored.inputs), _list(stored.outputs)
        if (len(inputs), len(outputs)) != (_INPUTS[kind] or max(len(inputs), 1), 1):
            raise GraphError(f"{kind} with {len(inputs)} inputs and {len(outputs)} outputs")
        source, target = (self._activation(kind, index) for index in (inputs[0], outputs[0]))
        options = stored.builtinOptions
        if kind == "CONV_2D":
            return self._conv(source, target, inputs, options)
        if kind == "ADD":
            if options is not None and options.fusedActivationFunction:
                raise GraphError("ADD has a fused activation, which a graph does not hold")
            return Add((source, self._activation(kind, inputs[1])), target)
        if kind == "DEPTH_TO_SPACE":
            return DepthToSpace(source, target, options.blockSize)
        if kind == "QUANTIZE":
            return Requantize(source, target)
        if kind == "RELU":
            return ReLU(source, target)
        if kind == "CONCATENATION":
            if options.axis not in (3, -1) or options.fusedActivationFunction:
                raise GraphError("CONCATENATION along another axis than the channels, or fused")
            return Concat(tuple(self._activation(kind, index) for index in inputs), target)
        bound = self._constant(kind, inputs[1])
        if kind == "MINIMUM" and bound.size == 1 and self._types[source].dtype != "float32":
            return Minimum(source, target, int(bound.item()))
        if bound.shape != (1,) or bound.dtype != np.float32:
            raise GraphError(f"{kind} with something else than one float32 number")
        if kind == "MAXIMUM":
            self._maxima[target] = (source, float(bound[0]))
            return None
        if source not in self._maxima:
            raise GraphError("MINIMUM is not preceded by the MAXIMUM that begins a Clip")
        before, low = self._maxima.pop(source)
        del self._types[source]
        return Clip(before, target, low, float(bound[0]))

    def _kind(self, stored: Any) -> str:
        code = self._model.operatorCodes[stored.opcodeIndex]
        number = max(code.builtinCode, code.deprecatedBuiltinCode)
        kind = str(self._kinds.get(number, f"number {number}"))
        if kind not in _INPUTS:
            custom = f" {_text(code.customCode)!r}" if code.customCode else ""
            raise GraphError(f"the .tflite holds the operator {kind}{custom}, which is unsupported")
        return kind

    def _conv(self, source: str, target: str, inputs: list[int], options: Any) -> Conv2D:
        activation = self._schema.ActivationFunctionType
        fused = options.fusedActivationFunction
        steps = (options.strideH, options.strideW, options.dilationHFactor, options.dilationWFactor)
        if steps != (1, 1, 1, 1) or options.padding != self._schema.Padding.SAME:
            raise GraphError("CONV_2D has a stride, a dilation or VALID padding: unsupported")
        if fused not in (activation.NONE, activation.RELU):
            raise GraphError("CONV_2D has a fused activation other than RELU: unsupported")
        weights, bias = self._constant("CONV_2D", inputs[1]), self._constant("CONV_2D", inputs[2])
        scales = None
        quantization = self._types[source].quantization
        if quantization is not None:
            scales = self._channel_scales(inputs[1], weights.shape[0])
            expected = quantization.scale * scales.astype(np.float64)
            # The runtimes ignore this scale, so other converters may round it otherwise.
            if not np.allclose(self._channel_scales(inputs[2], bias.size), expected, rtol=1e-5):
                raise GraphError("CONV_2D has a bias scale that is not input scale * weight scale")
        return Conv2D(source, target, weights, bias, scales, relu=fused == activation.RELU)

    def _tensor(self, index: int) -> Any:
        # A negative index would count from the end, and stands for a tensor that is left out.
        if not 0 <= index < len(self._subgraph.tensors):
            raise GraphError("an operator reads a tensor that is not in the file")
        tensor = self._subgraph.tensors[index]
        if tensor.sparsity or tensor.isVariable:
            raise GraphError(f"the tensor {_text(tensor.name)!r} is sparse or variable")
        return tensor

    def _activation(self, kind: str, index: int) -> str:
        """The name of a tensor between operators, noted with its type."""
        tensor = self._tensor(index)
        name, shape = _text(tensor.name), _list(tensor.shape)
        dtype = self._dtypes.get(tensor.type)
        if dtype not in ("float32", "uint8", "int8") or len(shape) != 4 or shape[0] != 1:
            raise GraphError(
                f"{kind} has the tensor {name!r} of type {dtype} and shape {shape}, and not"
                " float32, uint8 or int8 (1, H, W, C)"
            )
        quantization = None
        if dtype != "float32":
            scales, zero_points = _quantization(tensor)
            if len(scales) != 1 or len(zero_points) != 1:
                raise GraphError(f"{kind} has the tensor {name!r} without one scale and zero point")
            quantization = Quantization(scales[0], zero_points[0])
        found = TensorType(shape[3], cast(DType, dtype), quantization)
        if self._types.setdefault(name, found) != found:
            raise GraphError(f"two tensors have the name {name!r}")
        return name

    def _constant(self, kind: str, index: int) -> Array:
        tensor = self._tensor(index)
        dtype = self._dtypes.get(tensor.type)
        data = self._model.buffers[tensor.buffer].data
        if dtype not in ("float32", "uint8", "int8", "int32") or not isinstance(data, np.ndarray):
            raise GraphError(f"{kind} has weights of type {dtype}, or made while it runs")
        return np.frombuffer(data.tobytes(), dtype).reshape(_list(tensor.shape)).copy()

    def _channel_scales(self, index: int, channels: int) -> Array:
        tensor = self._tensor(index)
        scales, zero_points = _quantization(tensor)
        if len(scales) != channels or tensor.quantization.quantizedDimension or any(zero_points):
            raise GraphError("CONV_2D has weights without one scale per output channel and zero 0")
        return np.array(scales, dtype=np.float32)


def _quantization(tensor: Any) -> tuple[list[float], list[int]]:
    """The scales and zero points of a tensor, empty where the file has none."""
    stored = tensor.quantization
    if stored is None:
        return [], []
    return _list(stored.scale), _list(stored.zeroPoint)


def _list(values: Any) -> list[Any]:
    """A vector of the file as a list; an absent or empty one is None or 0 there."""
    return values.tolist() if isinstance(values, np.ndarray) else []


def _text(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value or "")
