"""Writing a graph as a `.tflite` file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np

from anchorsr.arrays import Array
from anchorsr.errors import GraphError
from anchorsr.graph import operators as ops
from anchorsr.graph.graph import Graph
from anchorsr.serialization.tflite.schema import (
    IDENTIFIER,
    INPUT_NAME,
    OUTPUT_NAME,
    SCHEMA_VERSION,
    SIGNATURE,
    schema_module,
)

# The first version of each operator that accepts int8. Other types, and operators that are not
# listed, are version 1.
_INT8_VERSIONS = {
    "ADD": 2,
    "AVERAGE_POOL_2D": 2,
    "CONCATENATION": 2,
    "CONV_2D": 3,
    "DEPTHWISE_CONV_2D": 3,
    "DEPTH_TO_SPACE": 2,
    "LOGISTIC": 2,
    "MAX_POOL_2D": 2,
    "MEAN": 2,
    "MINIMUM": 2,
    "MUL": 2,
    "RELU": 2,
    "SLICE": 2,
    "SUB": 2,
    "TILE": 3,
}
_BUFFER_ALIGNMENT = 16


def write_tflite(
    graph: Graph,
    *,
    size: tuple[int, int] | None = None,
    description: str = "",
    metadata: Mapping[str, bytes] | None = None,
    half: bool = False,
) -> bytes:
    """Write a graph as a `.tflite` file with the signature `serving_default`.

    The bounds of a Clip are stored as float32.

    Args:
        graph: The graph.
        size: (height, width) of the input for a file of fixed size; None for a file that takes
            every size, whose input must be resized before it is run.
        description: The description in the file.
        metadata: Contents by name, which runtimes ignore.
        half: Whether the weights of a float graph are stored as float16.

    Returns:
        The bytes of the file.

    Raises:
        GraphError: The graph does not accept this size, has a convolution of uint8, which the
            format lacks, or a TransposedConv2D or Resize without `size`, because the format
            stores their output size.
    """
    if size is not None and min(size) < 1:
        raise GraphError(f"height and width are positive, not {size}")
    if size is not None:
        graph.check_size(*size)
    return _Writer(graph, size, half).file(description, metadata or {})


def needs_size(graph: Graph) -> bool:
    """Whether the graph can only be written for a fixed size, because the format stores sizes."""
    return any(isinstance(op, ops.TransposedConv2D | ops.Resize) for op in graph.operators)


def _packed(schema: ModuleType, model: Any) -> bytes:
    flatbuffers = import_module("flatbuffers")

    class AlignedBuilder(flatbuffers.Builder):  # type: ignore[misc, name-defined]
        """Aligns constants as the schema demands; the generated code aligns them to 4 bytes."""

        def CreateNumpyVector(self, x: Array) -> Any:
            self.Prep(_BUFFER_ALIGNMENT, x.nbytes)
            return super().CreateNumpyVector(x)

    builder = AlignedBuilder(1024)
    builder.Finish(model.Pack(builder), IDENTIFIER)
    return bytes(builder.Output())


class _Writer:
    """Collects the tensors, constants and operators of one file."""

    def __init__(self, graph: Graph, size: tuple[int, int] | None, half: bool) -> None:
        self._schema = schema_module()
        self._graph = graph
        self._size = size
        self._half = half
        self._buffers = [self._schema.BufferT()]  # buffer 0 is empty by convention
        self._codes: dict[tuple[str, int], int] = {}
        self._tensors: list[Any] = []
        self._operators: list[Any] = []
        self._index: dict[str, int] = {}

    def file(self, description: str, metadata: Mapping[str, bytes]) -> bytes:
        schema, graph = self._schema, self._graph
        source = self._add_activation(graph.input)
        for operator in graph.operators:
            _WRITERS[type(operator)](self, operator)
        target = self._index[graph.output]
        subgraph = schema.SubGraphT(self._tensors, [source], [target], self._operators, graph.name)
        signature = schema.SignatureDefT(
            inputs=[schema.TensorMapT(INPUT_NAME, source)],
            outputs=[schema.TensorMapT(OUTPUT_NAME, target)],
            signatureKey=SIGNATURE,
        )
        stored = []
        for name, content in metadata.items():
            stored.append(schema.MetadataT(name=name, buffer=len(self._buffers)))
            self._buffers.append(schema.BufferT(data=np.frombuffer(content, np.uint8)))
        model = schema.ModelT(
            version=SCHEMA_VERSION,
            operatorCodes=[self._operator_code(*key) for key in self._codes],
            subgraphs=[subgraph],
            description=description,
            buffers=self._buffers,
            signatureDefs=[signature],
            metadata=stored or None,
        )
        return _packed(schema, model)

    def _operator_code(self, kind: str, version: int) -> Any:
        code = getattr(self._schema.BuiltinOperator, kind)
        # Readers from before 2021 only know the deprecated field, of one byte.
        return self._schema.OperatorCodeT(min(code, 127), version=version, builtinCode=code)

    # One method per operator. Constants precede the output tensor.

    def write_conv(self, conv: ops.Conv2D) -> None:
        inputs = [self._index[conv.input], *self._add_weights(conv, conv.weights)]
        options = self._schema.Conv2DOptionsT(
            padding=self._schema.Padding.SAME,
            strideW=conv.stride,
            strideH=conv.stride,
            fusedActivationFunction=self._activation(conv.relu),
        )
        version = 6 if conv.groups > 1 else None
        self._emit("CONV_2D", inputs, self._add_activation(conv.output), options, version)

    def write_depthwise(self, conv: ops.DepthwiseConv2D) -> None:
        inputs = [self._index[conv.input], *self._add_weights(conv, conv.weights[None], axis=3)]
        options = self._schema.DepthwiseConv2DOptionsT(
            padding=self._schema.Padding.SAME,
            strideW=1,
            strideH=1,
            depthMultiplier=1,
            fusedActivationFunction=self._activation(conv.relu),
        )
        self._emit("DEPTHWISE_CONV_2D", inputs, self._add_activation(conv.output), options)

    def write_transposed(self, conv: ops.TransposedConv2D) -> None:
        shape = [1, *self._output_size(conv), self._graph.tensors[conv.output].channels]
        size = self._add_constant(f"{conv.output}/shape", np.array(shape, np.int32))
        weights, bias = self._add_weights(conv, conv.weights)
        # SAME crops kernel - stride, half of it on each side.
        options = self._schema.TransposeConvOptionsT(
            padding=self._schema.Padding.SAME, strideW=conv.stride, strideH=conv.stride
        )
        inputs = [size, weights, self._index[conv.input], bias]
        # Version 3 is the first that accepts a bias.
        self._emit("TRANSPOSE_CONV", inputs, self._add_activation(conv.output), options, version=3)

    def write_clip(self, clip: ops.Clip) -> None:
        low, high = np.array([[clip.low], [clip.high]], np.float32)
        inputs = [self._index[clip.input]]
        middle = self._add_activation(f"{clip.output}/middle", like=clip.output)
        inputs.append(self._add_constant(f"{clip.output}/low", low))
        self._emit("MAXIMUM", inputs, middle, self._schema.MaximumMinimumOptionsT())
        inputs = [middle, self._add_constant(f"{clip.output}/high", high)]
        output = self._add_activation(clip.output)
        self._emit("MINIMUM", inputs, output, self._schema.MaximumMinimumOptionsT())

    def write_minimum(self, minimum: ops.Minimum) -> None:
        dtype = self._graph.tensors[minimum.output].dtype
        bound = self._add_constant(f"{minimum.output}/bound", np.array([minimum.bound], dtype))
        # The bound has the quantization of the input.
        self._tensors[bound].quantization = self._tensors[self._index[minimum.input]].quantization
        self._write_single(minimum, "MINIMUM", self._schema.MaximumMinimumOptionsT(), bound)

    def write_multiply(self, multiply: ops.Multiply) -> None:
        scales = [
            np.float32(quantization.scale)
            for quantization in map(self._quantization_of, (*multiply.inputs, multiply.output))
            if quantization is not None
        ]
        # Multipliers of 1 or more need version 3.
        version = 3 if scales and scales[0] * scales[1] / scales[2] >= 1 else None
        self._write_single(multiply, "MUL", self._schema.MulOptionsT(), version=version)

    def write_prelu(self, prelu: ops.PReLU) -> None:
        scales = None if prelu.slope_scale is None else np.array([prelu.slope_scale], np.float32)
        slopes = self._add_constant(f"{prelu.output}/slopes", prelu.slopes[None, None], scales)
        self._write_single(prelu, "PRELU", None, slopes)

    def write_pool(self, pool: ops.Pool2D) -> None:
        options = self._schema.Pool2DOptionsT(
            padding=self._schema.Padding.SAME,
            strideW=pool.stride,
            strideH=pool.stride,
            filterWidth=pool.size,
            filterHeight=pool.size,
        )
        self._write_single(pool, f"{pool.kind.upper()}_POOL_2D", options)

    def write_global_pool(self, pool: ops.GlobalAveragePool) -> None:
        axes = self._add_constant(f"{pool.output}/axes", np.array([1, 2], np.int32))
        self._write_single(pool, "MEAN", self._schema.ReducerOptionsT(keepDims=True), axes)

    def write_resize(self, resize: ops.Resize) -> None:
        height_width = np.array(self._output_size(resize), np.int32)
        size = self._add_constant(f"{resize.output}/size", height_width)
        if resize.mode == "bilinear":
            options = self._schema.ResizeBilinearOptionsT(halfPixelCenters=True)
            self._write_single(resize, "RESIZE_BILINEAR", options, size, version=3)
        else:
            options = self._schema.ResizeNearestNeighborOptionsT(halfPixelCenters=True)
            self._write_single(resize, "RESIZE_NEAREST_NEIGHBOR", options, size, version=3)

    def write_slice(self, operator: ops.Slice) -> None:
        channels = self._graph.tensors[operator.output].channels
        begin, size = np.array([[0, 0, 0, operator.start], [-1, -1, -1, channels]], np.int32)
        constants = [
            self._add_constant(f"{operator.output}/begin", begin),
            self._add_constant(f"{operator.output}/size", size),
        ]
        self._write_single(operator, "SLICE", self._schema.SliceOptionsT(), *constants)

    def write_tile(self, tile: ops.Tile) -> None:
        repeats = np.array([1, 1, 1, tile.count], np.int32)
        multiples = self._add_constant(f"{tile.output}/multiples", repeats)
        self._write_single(tile, "TILE", self._schema.TileOptionsT(), multiples)

    def write_square_root(self, operator: ops.SquareRoot) -> None:
        target = self._graph.tensors[operator.output]
        if target.quantization is None:
            self._write_single(operator, "SQRT", None)
            return
        shape = [1, 1, 1, target.channels]
        real = self._add_tensor(f"{operator.output}/real", "float32", shape)
        options = self._schema.DequantizeOptionsT()
        self._emit("DEQUANTIZE", [self._index[operator.input]], real, options, version=2)
        root = self._add_tensor(f"{operator.output}/root", "float32", shape)
        self._emit("SQRT", [real], root, None)
        output = self._add_activation(operator.output)
        self._emit("QUANTIZE", [root], output, self._schema.QuantizeOptionsT())

    def write_add(self, add: ops.Add) -> None:
        self._write_single(add, "ADD", self._schema.AddOptionsT())

    def write_subtract(self, subtract: ops.Subtract) -> None:
        self._write_single(subtract, "SUB", self._schema.SubOptionsT())

    def write_concat(self, concat: ops.Concat) -> None:
        self._write_single(concat, "CONCATENATION", self._schema.ConcatenationOptionsT(axis=3))

    def write_depth_to_space(self, operator: ops.DepthToSpace) -> None:
        options = self._schema.DepthToSpaceOptionsT(operator.block)
        self._write_single(operator, "DEPTH_TO_SPACE", options)

    def write_requantize(self, operator: ops.Requantize) -> None:
        self._write_single(operator, "QUANTIZE", self._schema.QuantizeOptionsT())

    def write_relu(self, relu: ops.ReLU) -> None:
        self._write_single(relu, "RELU", None)

    def write_leaky_relu(self, operator: ops.LeakyReLU) -> None:
        options = self._schema.LeakyReluOptionsT(alpha=operator.slope)
        self._write_single(operator, "LEAKY_RELU", options)

    def write_sigmoid(self, sigmoid: ops.Sigmoid) -> None:
        self._write_single(sigmoid, "LOGISTIC", None)

    # Helpers.

    def _write_single(
        self,
        operator: ops.Operator,
        kind: str,
        options: Any,
        *constants: int,
        version: int | None = None,
    ) -> None:
        """Write an operator that is a single one in the file: its inputs, then constants."""
        inputs = [*(self._index[name] for name in operator.inputs), *constants]
        self._emit(kind, inputs, self._add_activation(operator.output), options, version)

    def _emit(
        self, kind: str, inputs: list[int], output: int, options: Any, version: int | None = None
    ) -> None:
        int8 = self._tensors[output].type == self._schema.TensorType.INT8
        version = version or (_INT8_VERSIONS.get(kind, 1) if int8 else 1)
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

    def _activation(self, relu: bool) -> Any:
        kinds = self._schema.ActivationFunctionType
        return kinds.RELU if relu else kinds.NONE

    def _quantization_of(self, name: str) -> ops.Quantization | None:
        return self._graph.tensors[name].quantization

    def _output_size(self, operator: ops.TransposedConv2D | ops.Resize) -> tuple[int, int]:
        if self._size is None:
            raise GraphError(
                f"a .tflite stores the output size of {type(operator).__name__}: give a fixed size"
                " (size=)"
            )
        extent = self._graph.extents[operator.output]
        return int(self._size[0] * extent), int(self._size[1] * extent)

    def _add_weights(self, conv: ops.Convolution, weights: Array, axis: int = 0) -> list[int]:
        """Add weights and bias of a convolution; axis: the output channels' axis of the weights."""
        source = self._graph.tensors[conv.input]
        names = f"{conv.output}/weights", f"{conv.output}/bias"
        if source.quantization is None or conv.weight_scales is None:
            return [self._add_real(names[0], weights), self._add_real(names[1], conv.bias)]
        if source.dtype != "int8":
            raise GraphError(
                f"{type(conv).__name__} reads {conv.input!r} as {source.dtype}, but a .tflite"
                " convolves int8: insert a Requantize before it"
            )
        bias_scales = np.float32(source.quantization.scale) * conv.weight_scales
        return [
            self._add_constant(names[0], weights, conv.weight_scales, axis),
            self._add_constant(names[1], conv.bias, bias_scales),
        ]

    def _add_real(self, name: str, values: Array) -> int:
        """Add float32 numbers, or float16 ones that the file converts when it is loaded."""
        if not self._half:
            return self._add_constant(name, values)
        stored = self._add_constant(f"{name}/half", values.astype(np.float16))
        real = self._add_tensor(name, "float32", list(values.shape))
        # Version 3 is the first that reads float16.
        self._emit("DEQUANTIZE", [stored], real, self._schema.DequantizeOptionsT(), version=3)
        return real

    def _add_constant(
        self, name: str, values: Array, scales: Array | None = None, axis: int = 0
    ) -> int:
        data = np.frombuffer(values.tobytes(), dtype=np.uint8)
        self._buffers.append(self._schema.BufferT(data))
        quantization = None
        if scales is not None:
            quantization = self._quantization_parameters(scales, [0] * scales.size)
            quantization.quantizedDimension = axis
        return self._add_tensor(
            name,
            str(values.dtype),
            list(values.shape),
            buffer=len(self._buffers) - 1,
            quantization=quantization,
        )

    def _add_activation(self, name: str, like: str = "") -> int:
        """Add the tensor `name`, with the type of the graph's tensor `like` if given."""
        tensor: ops.TensorType = self._graph.tensors[like or name]
        extent = self._graph.extents[like or name]
        height, width = self._size or (self._graph.multiple,) * 2
        quantization = None
        if tensor.quantization is not None:
            scale = np.array([tensor.quantization.scale])
            quantization = self._quantization_parameters(scale, [tensor.quantization.zero_point])
        self._index[name] = self._add_tensor(
            name,
            tensor.dtype,
            [1, int(height * extent) or 1, int(width * extent) or 1, tensor.channels],
            shapeSignature=[1, -1, -1, tensor.channels] if extent and not self._size else None,
            quantization=quantization,
        )
        return self._index[name]

    def _add_tensor(self, name: str, dtype: str, shape: list[int], **fields: Any) -> int:
        code = getattr(self._schema.TensorType, dtype.upper())
        tensor = self._schema.TensorT(name=name, type=code, shape=shape, hasRank=True, **fields)
        self._tensors.append(tensor)
        return len(self._tensors) - 1

    def _quantization_parameters(self, scales: Array, zero_points: list[int]) -> Any:
        return self._schema.QuantizationParametersT(scale=scales.tolist(), zeroPoint=zero_points)


_WRITERS: dict[type, Callable[[_Writer, Any], None]] = {
    ops.Conv2D: _Writer.write_conv,
    ops.DepthwiseConv2D: _Writer.write_depthwise,
    ops.TransposedConv2D: _Writer.write_transposed,
    ops.Add: _Writer.write_add,
    ops.Subtract: _Writer.write_subtract,
    ops.Multiply: _Writer.write_multiply,
    ops.DepthToSpace: _Writer.write_depth_to_space,
    ops.Requantize: _Writer.write_requantize,
    ops.Clip: _Writer.write_clip,
    ops.Concat: _Writer.write_concat,
    ops.Slice: _Writer.write_slice,
    ops.Tile: _Writer.write_tile,
    ops.Minimum: _Writer.write_minimum,
    ops.ReLU: _Writer.write_relu,
    ops.LeakyReLU: _Writer.write_leaky_relu,
    ops.PReLU: _Writer.write_prelu,
    ops.Sigmoid: _Writer.write_sigmoid,
    ops.SquareRoot: _Writer.write_square_root,
    ops.Pool2D: _Writer.write_pool,
    ops.GlobalAveragePool: _Writer.write_global_pool,
    ops.Resize: _Writer.write_resize,
}
