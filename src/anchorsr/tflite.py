"""A graph as a `.tflite` file, and back: the stored form of every shipped network.

Follows the TensorFlow Lite schema (version 3) and its quantization specification. A file
holds one subgraph of CONV_2D, ADD, DEPTH_TO_SPACE and QUANTIZE, of CONCATENATION, MINIMUM and
RELU, and MAXIMUM + MINIMUM for a float graph's Clip; there is never a TRANSPOSE or a RESHAPE.
Equal graphs give equal bytes.

Left out: everything that other converters write and these networks do not need (other
operators, strides, dilation, per-tensor weights, several subgraphs, sparse tensors). Reading
such a file is refused, never approximated.
"""

from __future__ import annotations

from importlib import import_module
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

SIGNATURE = "serving_default"
INPUT_NAME = "images"
OUTPUT_NAME = "upscaled"

_IDENTIFIER = b"TFL3"
_SCHEMA_VERSION = 3
# The first version of each operator that takes int8; version 1 is enough for other types.
_INT8_VERSIONS = {"CONV_2D": 3, "ADD": 2, "DEPTH_TO_SPACE": 2}
_INT8_VERSIONS |= {"CONCATENATION": 2, "MINIMUM": 2, "RELU": 2}
# How many inputs each operator has, constants included; CONCATENATION has any number.
_INPUTS = {"CONV_2D": 3, "ADD": 2, "DEPTH_TO_SPACE": 1, "QUANTIZE": 1, "MAXIMUM": 2, "MINIMUM": 2}
_INPUTS |= {"CONCATENATION": 0, "RELU": 1}
_BUFFER_ALIGNMENT = 16


def write_tflite(
    graph: Graph, *, size: tuple[int, int] | None = None, description: str = ""
) -> bytes:
    """The graph as the bytes of a `.tflite` file with the signature `serving_default`.

    size: (height, width) of the input for a file of fixed size; None for a file that takes
    every size, whose input is to be resized from (1, 1, 1, C) before it runs.
    The bounds of a Clip are stored as float32.
    Raises GraphError for a convolution over uint8, which the format does not have.
    """
    if size is not None and min(size) < 1:
        raise GraphError(f"height and width are positive, not {size}")
    return _Writer(graph, size).file(description)


def read_tflite(data: bytes, *, name: str = "") -> Graph:
    """The graph in the bytes of a `.tflite` file of the kind that `write_tflite` makes.

    name: of the graph; when empty, the name in the file. A fixed size in the file is dropped.
    Raises ModelError when the bytes are not a whole `.tflite` file, and GraphError when the
    file holds something that a graph cannot, naming the operator.
    """
    if data[4:8] != _IDENTIFIER:
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


def schema_module() -> ModuleType:
    """The generated module of the `.tflite` schema, imported when it is first wanted."""
    return import_module("ai_edge_litert.schema_py_generated")


def _packed(schema: ModuleType, model: Any) -> bytes:
    flatbuffers = import_module("flatbuffers")

    class AlignedBuilder(flatbuffers.Builder):  # type: ignore[misc, name-defined]
        """Aligns constants as the schema asks; the generated code aligns them to 4 bytes."""

        def CreateNumpyVector(self, x: Array) -> Any:
            self.Prep(_BUFFER_ALIGNMENT, x.nbytes)
            return super().CreateNumpyVector(x)

    builder = AlignedBuilder(1024)
    builder.Finish(model.Pack(builder), _IDENTIFIER)
    return bytes(builder.Output())


class _Writer:
    """Collects the tensors, constants and operators of one file."""

    def __init__(self, graph: Graph, size: tuple[int, int] | None) -> None:
        self._schema = schema_module()
        self._graph = graph
        self._size = size
        self._buffers = [self._schema.BufferT()]  # buffer 0 is empty by convention
        self._codes: dict[tuple[str, int], int] = {}
        self._tensors: list[Any] = []
        self._operators: list[Any] = []
        self._index: dict[str, int] = {}

    def file(self, description: str) -> bytes:
        schema, graph = self._schema, self._graph
        source = self._add_activation(graph.input, graph.tensors[graph.input], factor=1)
        factors = {graph.input: 1}
        for operator in graph.operators:
            block = operator.block if isinstance(operator, DepthToSpace) else 1
            factors[operator.output] = factors[operator.inputs[0]] * block
            self._add_operator(operator, factors[operator.output])
        target = self._index[graph.output]
        subgraph = schema.SubGraphT(self._tensors, [source], [target], self._operators, graph.name)
        signature = schema.SignatureDefT(
            inputs=[schema.TensorMapT(INPUT_NAME, source)],
            outputs=[schema.TensorMapT(OUTPUT_NAME, target)],
            signatureKey=SIGNATURE,
        )
        model = schema.ModelT(
            version=_SCHEMA_VERSION,
            operatorCodes=[self._operator_code(*key) for key in self._codes],
            subgraphs=[subgraph],
            description=description,
            buffers=self._buffers,
            signatureDefs=[signature],
        )
        return _packed(schema, model)

    def _operator_code(self, kind: str, version: int) -> Any:
        # Readers from before 2021 know only the deprecated field; all codes here fit in it.
        code = getattr(self._schema.BuiltinOperator, kind)
        return self._schema.OperatorCodeT(code, version=version, builtinCode=code)

    def _add_operator(self, operator: Operator, factor: int) -> None:
        schema, output = self._schema, operator.output
        target = self._graph.tensors[output]
        inputs = [self._index[name] for name in operator.inputs]
        if isinstance(operator, Clip):
            low, high = np.array([[operator.low], [operator.high]], np.float32)
            middle = self._add_activation(f"{output}/middle", target, factor)
            inputs.append(self._add_constant(f"{output}/low", low))
            self._emit("MAXIMUM", inputs, middle, schema.MaximumMinimumOptionsT())
            inputs = [middle, self._add_constant(f"{output}/high", high)]
        elif isinstance(operator, Conv2D):
            inputs += self._add_conv_constants(operator)
        elif isinstance(operator, Minimum):
            inputs.append(self._add_bound(operator, target))
        made = self._add_activation(output, target, factor)
        if isinstance(operator, Conv2D):
            self._emit("CONV_2D", inputs, made, _conv_options(schema, operator))
        elif isinstance(operator, Add):
            self._emit("ADD", inputs, made, schema.AddOptionsT())
        elif isinstance(operator, DepthToSpace):
            options = schema.DepthToSpaceOptionsT(operator.block)
            self._emit("DEPTH_TO_SPACE", inputs, made, options)
        elif isinstance(operator, Requantize):
            self._emit("QUANTIZE", inputs, made, schema.QuantizeOptionsT())
        elif isinstance(operator, Concat):
            self._emit("CONCATENATION", inputs, made, schema.ConcatenationOptionsT(axis=3))
        elif isinstance(operator, ReLU):
            self._emit("RELU", inputs, made, None)
        elif isinstance(operator, Clip | Minimum):
            self._emit("MINIMUM", inputs, made, schema.MaximumMinimumOptionsT())
        else:
            raise GraphError(f"{type(operator).__name__} has no .tflite form here")

    def _emit(self, kind: str, inputs: list[int], output: int, options: Any) -> None:
        int8 = self._tensors[output].type == self._schema.TensorType.INT8
        version = _INT8_VERSIONS.get(kind, 1) if int8 else 1
        # The generated classes are named after the tables, with a T: AddOptionsT.
        table = "NONE" if options is None else type(options).__name__.removesuffix("T")
        operator = self._schema.OperatorT(
            opcodeIndex=self._codes.setdefault((kind, version), len(self._codes)),
            inputs=inputs,
            outputs=[output],
            builtinOptionsType=getattr(self._schema.BuiltinOptions, table),
            builtinOptions=options,
        )
        self._operators.append(operator)

    def _add_conv_constants(self, conv: Conv2D) -> list[int]:
        source = self._graph.tensors[conv.input]
        weights, bias = f"{conv.output}/weights", f"{conv.output}/bias"
        if source.quantization is None or conv.weight_scales is None:
            return [self._add_constant(weights, conv.weights), self._add_constant(bias, conv.bias)]
        if source.dtype != "int8":
            raise GraphError(
                f"Conv2D reads {conv.input!r} as {source.dtype}, and a .tflite convolves int8:"
                " put a Requantize before it"
            )
        bias_scales = np.float32(source.quantization.scale) * conv.weight_scales
        return [
            self._add_constant(weights, conv.weights, conv.weight_scales),
            self._add_constant(bias, conv.bias, bias_scales),
        ]

    def _add_bound(self, minimum: Minimum, target: TensorType) -> int:
        index = self._add_constant(
            f"{minimum.output}/bound", np.array([minimum.bound], target.dtype)
        )
        # The same meaning as the numbers it is compared with.
        self._tensors[index].quantization = self._tensors[self._index[minimum.input]].quantization
        return index

    def _add_constant(self, name: str, values: Array, scales: Array | None = None) -> int:
        data = np.frombuffer(values.tobytes(), dtype=np.uint8)
        self._buffers.append(self._schema.BufferT(data))
        return self._add_tensor(
            name,
            str(values.dtype),
            list(values.shape),
            buffer=len(self._buffers) - 1,
            quantization=None if scales is None else self._quantization(scales, [0] * scales.size),
        )

    def _add_activation(self, name: str, tensor: TensorType, factor: int) -> int:
        height, width = self._size or (1, 1)
        quantization = None
        if tensor.quantization is not None:
            scale = np.array([tensor.quantization.scale])
            quantization = self._quantization(scale, [tensor.quantization.zero_point])
        self._index[name] = self._add_tensor(
            name,
            tensor.dtype,
            [1, height * factor, width * factor, tensor.channels],
            shapeSignature=None if self._size else [1, -1, -1, tensor.channels],
            quantization=quantization,
        )
        return self._index[name]

    def _add_tensor(self, name: str, dtype: str, shape: list[int], **fields: Any) -> int:
        code = getattr(self._schema.TensorType, dtype.upper())
        tensor = self._schema.TensorT(name=name, type=code, shape=shape, hasRank=True, **fields)
        self._tensors.append(tensor)
        return len(self._tensors) - 1

    def _quantization(self, scales: Array, zero_points: list[int]) -> Any:
        return self._schema.QuantizationParametersT(scale=scales.tolist(), zeroPoint=zero_points)


def _conv_options(schema: ModuleType, conv: Conv2D) -> Any:
    activation = schema.ActivationFunctionType
    return schema.Conv2DOptionsT(
        padding=schema.Padding.SAME,
        strideW=1,
        strideH=1,
        fusedActivationFunction=activation.RELU if conv.relu else activation.NONE,
    )


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
