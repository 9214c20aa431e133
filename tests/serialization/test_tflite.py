"""The `.tflite` writer and reader: LiteRT gives the bytes that the arithmetic gives."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.compiled_model import CompiledModel, CpuOptions, Environment, Options
from hypothesis import given, settings
from hypothesis import strategies as st

from anchorsr.errors import AnchorSRError, GraphError, ModelError
from anchorsr.graph import operators as ops
from anchorsr.graph.graph import Graph
from anchorsr.serialization.tflite.reader import read_tflite
from anchorsr.serialization.tflite.schema import INPUT_NAME, OUTPUT_NAME, SIGNATURE
from anchorsr.serialization.tflite.writer import write_tflite
from helpers.graphs import (
    SIZES,
    assert_equal_graphs,
    float_graph,
    image,
    integer_graph,
    reference_run,
    run_litert,
    with_power_of_two_scales,
)
from helpers.single import FIXED, INTEGER_MAKERS, MAKERS, Maker


def run_compiled(model: CompiledModel, images: np.ndarray) -> np.ndarray:
    """Through CompiledModel, whose buffers hold no shape."""
    inputs, outputs = model.create_input_buffers(0), model.create_output_buffers(0)
    inputs[0].write(images)
    model.run_by_index(0, inputs, outputs)
    shape = model.get_output_tensor_details(SIGNATURE)[OUTPUT_NAME]["shape"]
    return outputs[0].read(int(np.prod(shape)), images.dtype.type).reshape(shape)


@pytest.fixture(scope="module")
def environment() -> Environment:
    return Environment.create()


@pytest.mark.slow
@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_interpreter_reproduces_the_arithmetic(seed: int, factor: int) -> None:
    graph = integer_graph(seed, factor=factor)
    free = write_tflite(graph)
    for size in SIZES:
        images = image(seed, *size)
        expected = reference_run(graph, images)
        np.testing.assert_array_equal(run_litert(free, images), expected)
        np.testing.assert_array_equal(run_litert(write_tflite(graph, size=size), images), expected)


@pytest.mark.slow
@pytest.mark.parametrize("size", [None, (31, 17)])
def test_the_compiled_model_reproduces_the_arithmetic(
    environment: Environment, size: tuple[int, int] | None
) -> None:
    graph = integer_graph(5)
    options = Options(cpu_options=CpuOptions(num_threads=2))
    data = write_tflite(graph, size=size)
    model = CompiledModel.from_buffer(data, environment=environment, options=options)
    for height, width in [*SIZES, *reversed(SIZES)] if size is None else [size]:
        images = image(5, height, width)
        if size is None:
            model.resize_input_tensor_by_name(SIGNATURE, INPUT_NAME, images.shape)
        np.testing.assert_array_equal(run_compiled(model, images), reference_run(graph, images))


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"quantize_last": False},
        {"hidden_zero_point": -20},
        {"hidden_zero_point": 127},
        {"colors": 1},
        {"factor": 1},
        {"depth": 0},
        {"channels": 28, "depth": 4},
        {"channels": 1, "weight_limit": 1},
    ],
    ids=str,
)
def test_other_forms_of_the_network_are_exact_too(changes: dict[str, Any]) -> None:
    graph = integer_graph(7, **changes)
    images = image(7, 31, 17, graph.tensors["images"].channels)
    np.testing.assert_array_equal(
        run_litert(write_tflite(graph), images), reference_run(graph, images)
    )


def test_ties_round_to_even() -> None:
    graph = with_power_of_two_scales(integer_graph(3))
    images = image(3, 64, 48)
    np.testing.assert_array_equal(
        run_litert(write_tflite(graph), images), reference_run(graph, images)
    )


@pytest.mark.parametrize("size", SIZES)
def test_a_float_graph_runs_as_float(size: tuple[int, int]) -> None:
    graph = float_graph(0)
    images = image(0, *size).astype(np.float32)
    result = run_litert(write_tflite(graph), images)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, reference_run(graph, images), rtol=0, atol=1e-3)
    assert result.min() >= 0
    assert result.max() <= 255


@pytest.mark.parametrize("size", [None, (13, 11)])
@pytest.mark.parametrize(
    "graph",
    [integer_graph(1), integer_graph(2, factor=4, quantize_last=False), float_graph(3)],
    ids=lambda graph: graph.name,
)
def test_reading_returns_what_was_written(graph: Graph, size: tuple[int, int] | None) -> None:
    data = write_tflite(graph, size=size, description="words")
    found = read_tflite(data)
    assert_equal_graphs(found, graph)
    assert write_tflite(found, size=size, description="words") == data
    assert read_tflite(data, name="another").name == "another"


def test_a_free_file_says_that_it_is_free() -> None:
    model = unpacked(write_tflite(integer_graph(0), description="words"))
    tensors = {tensor.name: tensor for tensor in model.subgraphs[0].tensors}
    assert tensors[b"images"].shape.tolist() == [1, 1, 1, 3]
    assert tensors[b"images"].shapeSignature.tolist() == [1, -1, -1, 3]
    assert tensors[b"upscaled"].shape.tolist() == [1, 3, 3, 3]
    assert model.description == b"words"
    assert model.signatureDefs[0].signatureKey == SIGNATURE.encode()


def test_a_fixed_file_holds_the_size_of_every_tensor() -> None:
    tensors = unpacked(write_tflite(integer_graph(0), size=(36, 64))).subgraphs[0].tensors
    shapes = {tensor.name: tensor.shape.tolist() for tensor in tensors}
    assert shapes[b"residual"] == [1, 36, 64, 27]
    assert shapes[b"upscaled"] == [1, 108, 192, 3]
    assert all(tensor.shapeSignature is None for tensor in tensors)


def test_the_first_buffer_is_empty_and_the_others_are_aligned() -> None:
    data = write_tflite(integer_graph(0))
    root = schema.Model.GetRootAs(data)
    assert root.Buffers(0).DataIsNone()
    for index in range(1, root.BuffersLength()):
        start = root.Buffers(index).DataAsNumpy().ctypes.data
        assert (start - np.frombuffer(data, np.uint8).ctypes.data) % 16 == 0


def test_only_the_smallest_sufficient_operator_versions_are_asked_for() -> None:
    codes = unpacked(write_tflite(integer_graph(0))).operatorCodes
    builtin = schema.BuiltinOperator
    assert {code.builtinCode: code.version for code in codes} == {
        builtin.QUANTIZE: 1,
        builtin.CONV_2D: 3,
        builtin.ADD: 2,
        builtin.DEPTH_TO_SPACE: 2,
    }
    assert all(code.builtinCode == code.deprecatedBuiltinCode for code in codes)


def test_a_convolution_over_uint8_is_refused() -> None:
    image_type = ops.TensorType(1, "uint8", ops.Quantization(1.0, 0))
    conv = ops.Conv2D(
        "images",
        "upscaled",
        np.ones((1, 1, 1, 1), np.int8),
        np.zeros(1, np.int32),
        np.ones(1, np.float32),
    )
    tensors = {"images": image_type, "upscaled": image_type}
    with pytest.raises(GraphError, match="insert a Requantize before it"):
        write_tflite(Graph("plain", tensors, (conv,), "images", "upscaled"))


def test_an_impossible_size_is_refused() -> None:
    with pytest.raises(GraphError, match="positive"):
        write_tflite(integer_graph(0), size=(0, 5))


def unpacked(data: bytes) -> Any:
    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(data))


def changed(
    change: Any, graph: Graph | None = None, *, size: tuple[int, int] | None = None
) -> bytes:
    """A file in which `change(model, subgraph)` was done to the unpacked model."""
    import flatbuffers

    model = unpacked(write_tflite(graph or integer_graph(0), size=size))
    change(model, model.subgraphs[0])
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def of_kind(model: Any, kind: str) -> Any:
    """The first operator of a kind."""
    code = getattr(schema.BuiltinOperator, kind)
    return next(
        operator
        for operator in model.subgraphs[0].operators
        if model.operatorCodes[operator.opcodeIndex].builtinCode == code
    )


def set_code(model: Any, kind: str) -> None:
    code = getattr(schema.BuiltinOperator, kind)
    model.operatorCodes[0].builtinCode = code
    model.operatorCodes[0].deprecatedBuiltinCode = min(code, 127)


def set_weights(model: Any, **fields: Any) -> None:
    weights = model.subgraphs[0].tensors[of_kind(model, "CONV_2D").inputs[1]]
    for name, value in fields.items():
        setattr(weights.quantization, name, value)


def set_concatenation(model: Any, **options: Any) -> Any:
    """Make the addition a concatenation, and return it."""
    operator = of_kind(model, "ADD")
    code = model.operatorCodes[operator.opcodeIndex]
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CONCATENATION
    operator.builtinOptionsType = schema.BuiltinOptions.ConcatenationOptions
    operator.builtinOptions = schema.ConcatenationOptionsT(**{"axis": 3, **options})
    return operator


FOREIGN = {
    "operator TRANSPOSE": lambda model, _: set_code(model, "TRANSPOSE"),
    "operator GELU": lambda model, _: set_code(model, "GELU"),
    "CUSTOM 'Magic'": lambda model, _: (
        set_code(model, "CUSTOM"),
        setattr(model.operatorCodes[0], "customCode", "Magic"),
    ),
    "operator number 9999": lambda model, _: setattr(model.operatorCodes[0], "builtinCode", 9999),
    "one subgraph": lambda model, subgraph: model.subgraphs.append(subgraph),
    "one input and one output": lambda _, subgraph: setattr(subgraph, "inputs", [0, 1]),
    "CONV_2D has two strides": lambda model, _: setattr(
        of_kind(model, "CONV_2D").builtinOptions, "strideW", 2
    ),
    "CONV_2D has a fused": lambda model, _: setattr(
        of_kind(model, "CONV_2D").builtinOptions, "fusedActivationFunction", 3
    ),
    "ADD has a fused": lambda model, _: setattr(
        of_kind(model, "ADD").builtinOptions, "fusedActivationFunction", 1
    ),
    "CONV_2D with 2 inputs": lambda model, _: setattr(
        of_kind(model, "CONV_2D"), "inputs", of_kind(model, "CONV_2D").inputs[:2]
    ),
    "not in the file": lambda model, _: setattr(of_kind(model, "ADD"), "inputs", [-1, 3]),
    "weights without per-channel scales": lambda model, _: set_weights(
        model, scale=[0.5], zeroPoint=[0]
    ),
    "per-channel scales and zero point 0": lambda model, _: set_weights(
        model, quantizedDimension=3
    ),
    "weights that are not constant": lambda model, subgraph: setattr(
        subgraph.tensors[of_kind(model, "CONV_2D").inputs[1]], "buffer", 0
    ),
    "bias scale": lambda model, _: set_weights(model, scale=[0.5] * 8),
    "of type int16": lambda _, subgraph: setattr(subgraph.tensors[0], "type", 7),
    r"not float32, uint8 or int8 \(1, H, W, C\)": lambda _, subgraph: setattr(
        subgraph.tensors[0], "shape", [2, 1, 1, 3]
    ),
    "without a per-tensor scale and zero point": lambda _, subgraph: setattr(
        subgraph.tensors[0], "quantization", None
    ),
    "CONCATENATION is not along the channels": lambda model, _: set_concatenation(model, axis=1),
    "channels, or has a fused activation": lambda model, _: set_concatenation(
        model, fusedActivationFunction=1
    ),
    "CONCATENATION with 0 inputs": lambda model, _: setattr(
        set_concatenation(model, axis=3), "inputs", []
    ),
    "with a scale along an axis": lambda _, subgraph: setattr(
        subgraph.tensors[0].quantization, "quantizedDimension", 3
    ),
    "sparse or variable": lambda _, subgraph: setattr(subgraph.tensors[0], "isVariable", True),
    "two tensors have the name": lambda _, subgraph: setattr(subgraph.tensors[1], "name", "images"),
}


@pytest.mark.slow
@pytest.mark.parametrize("message", FOREIGN)
def test_a_file_that_no_graph_can_hold_is_refused_in_one_line(message: str) -> None:
    with pytest.raises(GraphError, match=message) as caught:
        read_tflite(changed(FOREIGN[message]))
    assert "\n" not in str(caught.value)


def options_of(kind: str, **options: Any) -> Any:
    """Sets options of the first operator of a kind."""

    def change(model: Any, _: Any) -> None:
        for name, value in options.items():
            setattr(of_kind(model, kind).builtinOptions, name, value)

    return change


def constant_of(kind: str, place: int, values: list[int]) -> Any:
    """Changes the int32 numbers of a constant of the first operator of a kind."""

    def change(model: Any, subgraph: Any) -> None:
        tensor = subgraph.tensors[of_kind(model, kind).inputs[place]]
        tensor.shape = [len(values)]
        model.buffers[tensor.buffer].data = np.array(values, np.int32).view(np.uint8)

    return change


def without_its_floats(model: Any, subgraph: Any) -> None:
    """SQRT reads and makes integers."""
    operators = subgraph.operators
    place = operators.index(of_kind(model, "SQRT"))
    before, root, after = operators[place - 1 : place + 2]
    root.inputs, root.outputs = before.inputs, after.outputs
    operators.remove(before)
    operators.remove(after)


def quantization_of(kind: str, place: int, **fields: Any) -> Any:
    def change(model: Any, subgraph: Any) -> None:
        tensor = subgraph.tensors[of_kind(model, kind).inputs[place]]
        for name, value in fields.items():
            setattr(tensor.quantization, name, value)

    return change


# By the message: an operator of `single`, and what is changed in its file.
FOREIGN_OPERATORS = {
    "DEPTHWISE_CONV_2D has two strides": (
        "depthwise 3x3",
        options_of("DEPTHWISE_CONV_2D", strideH=2),
    ),
    "DEPTHWISE_CONV_2D has a channel multiplier": (
        "depthwise 3x3",
        options_of("DEPTHWISE_CONV_2D", depthMultiplier=2),
    ),
    "DEPTHWISE_CONV_2D has weights without per-channel scales": (
        "depthwise 3x3",
        quantization_of("DEPTHWISE_CONV_2D", 1, quantizedDimension=0),
    ),
    "TRANSPOSE_CONV has VALID": ("transposed 9x9, 3", options_of("TRANSPOSE_CONV", padding=1)),
    "TRANSPOSE_CONV has VALID padding or two": (
        "transposed 9x9, 3",
        options_of("TRANSPOSE_CONV", strideW=2),
    ),
    "TRANSPOSE_CONV has a fused": (
        "transposed 9x9, 3",
        options_of("TRANSPOSE_CONV", fusedActivationFunction=1),
    ),
    r"TRANSPOSE_CONV resizes \[5, 7\] to \[15, 14\]": (
        "transposed 9x9, 3",
        constant_of("TRANSPOSE_CONV", 0, [1, 15, 14, 5]),
    ),
    "SUB has a fused": ("subtract", options_of("SUB", fusedActivationFunction=1)),
    "MUL has a fused": ("multiply", options_of("MUL", fusedActivationFunction=1)),
    "SLICE of anything but channels": ("slice", constant_of("SLICE", 1, [0, 1, 0, 3])),
    "SLICE .* but channels": ("slice", constant_of("SLICE", 2, [-1, 2, -1, 4])),
    "TILE of anything but channels": ("tile", constant_of("TILE", 1, [1, 3, 1, 1])),
    "PRELU has slopes without a per-tensor scale": (
        "PReLU",
        quantization_of("PRELU", 1, zeroPoint=[1]),
    ),
    "AVERAGE_POOL_2D has two strides": (
        "average pool 3",
        options_of("AVERAGE_POOL_2D", strideW=2),
    ),
    "MAX_POOL_2D has two strides, two sizes": (
        "max pool 3",
        options_of("MAX_POOL_2D", filterWidth=5),
    ),
    "MEAN is not over height and width": ("global pool", constant_of("MEAN", 1, [2, 3])),
    "MEAN .* drops them": ("global pool", options_of("MEAN", keepDims=False)),
    "RESIZE_BILINEAR without half-pixel centres": (
        "bilinear x2",
        options_of("RESIZE_BILINEAR", halfPixelCenters=False),
    ),
    "RESIZE_NEAREST_NEIGHBOR without half-pixel centres": (
        "nearest",
        options_of("RESIZE_NEAREST_NEIGHBOR", alignCorners=True),
    ),
    r"RESIZE_NEAREST_NEIGHBOR resizes .* to \[15, 28\]": (
        "nearest",
        constant_of("RESIZE_NEAREST_NEIGHBOR", 1, [15, 28]),
    ),
    "SQRT of integers": ("square root", without_its_floats),
    "SQRT is not followed by": (
        "square root",
        lambda _, subgraph: subgraph.operators.pop(),
    ),
}


@pytest.mark.parametrize("message", FOREIGN_OPERATORS)
def test_an_operator_that_no_graph_can_hold_is_refused(message: str) -> None:
    name, change = FOREIGN_OPERATORS[message]
    graph = MAKERS[name](Maker(0, integer=True))
    with pytest.raises(GraphError, match=message) as caught:
        read_tflite(changed(change, graph, size=(5, 7)))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["free", "other"])
@pytest.mark.parametrize("name", sorted(FIXED))
def test_stored_sizes_are_those_of_the_input(name: str, shape: str) -> None:
    def change(_: Any, subgraph: Any) -> None:
        tensor = subgraph.tensors[subgraph.inputs[0]]
        if shape == "free":
            tensor.shapeSignature = np.array([1, -1, -1, tensor.shape[3]], np.int32)
        else:
            tensor.shape = [1, 6, 7, tensor.shape[3]]

    graph = MAKERS[name](Maker(0, integer=True))
    with pytest.raises(
        GraphError, match=r"not a multiple of its input's|resizes .* not a multiple"
    ):
        read_tflite(changed(change, graph, size=(5, 7)))


@pytest.mark.parametrize("name", sorted(FIXED))
def test_an_operator_whose_output_size_is_stored_needs_a_size(name: str) -> None:
    for integer in (False, True):
        with pytest.raises(GraphError, match=r"give a fixed size \(size=\)"):
            write_tflite(MAKERS[name](Maker(0, integer=integer)))


@pytest.mark.slow
@pytest.mark.parametrize("name", INTEGER_MAKERS)
def test_integers_stay_integers_and_nothing_is_turned(name: str) -> None:
    """Only a square root is computed in floats, and that of 1x1 tensors."""
    graph = INTEGER_MAKERS[name](Maker(0, integer=True))
    model = unpacked(write_tflite(graph, size=graph.fit(5, 7)))
    kinds = {code: kind for kind, code in vars(schema.BuiltinOperator).items()}
    operators = {kinds[code.builtinCode] for code in model.operatorCodes}
    assert not operators & {"TRANSPOSE", "RESHAPE", "CUSTOM"}
    floats = [
        tensor.shape.tolist()
        for tensor in model.subgraphs[0].tensors
        if tensor.type == schema.TensorType.FLOAT32
    ]
    assert floats == ([[1, 1, 1, 8]] * 2 if name == "square root" else [])


@pytest.mark.parametrize("missing", ["MAXIMUM", "MINIMUM"])
def test_half_a_clip_is_refused(missing: str) -> None:
    def change(model: Any, subgraph: Any) -> None:
        gone = of_kind(model, missing)
        kept = of_kind(model, "MINIMUM" if missing == "MAXIMUM" else "MAXIMUM")
        if missing == "MAXIMUM":
            kept.inputs = [gone.inputs[0], kept.inputs[1]]
        subgraph.operators.remove(gone)

    with pytest.raises(GraphError, match="Clip"):
        read_tflite(changed(change, float_graph(0)))


@pytest.mark.parametrize("data", [b"", b"TFL3", b"\x89PNG\r\n\x1a\n" * 9, bytes(100)])
def test_other_bytes_are_not_a_tflite_file(data: bytes) -> None:
    with pytest.raises(ModelError, match=r"not a \.tflite file"):
        read_tflite(data)


SMALL = write_tflite(integer_graph(0, factor=2, channels=2, depth=1, colors=1))


def test_a_file_that_was_cut_short_is_refused() -> None:
    for length in [8, 9, 40, *range(100, len(SMALL) - 16, 97)]:
        with pytest.raises(AnchorSRError) as caught:
            read_tflite(SMALL[:length])
        assert "\n" not in str(caught.value)


@pytest.mark.slow
@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(8, len(SMALL) - 1), st.integers(0, 255)), min_size=1))
def test_a_damaged_file_is_read_or_refused(changes: list[tuple[int, int]]) -> None:
    data = bytearray(SMALL)
    for position, value in changes:
        data[position] = value
    try:
        read_tflite(bytes(data))
    except AnchorSRError as error:
        assert "\n" not in str(error)


@pytest.mark.slow
def test_importing_the_modules_imports_no_runtime() -> None:
    script = (
        "import sys, anchorsr.serialization.tflite, anchorsr.serialization.onnx;"
        "print([name for name in ('ai_edge_litert', 'flatbuffers', 'onnx') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert done.stdout.strip() == b"[]"
