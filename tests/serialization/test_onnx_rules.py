"""The rules that other runtimes state for QDQ files, which cannot all be run here.

Qualcomm, through ONNX Runtime: fixed sizes (onnxruntime.ai/docs/execution-providers/
QNN-ExecutionProvider.html), and every operator between DequantizeLinear and QuantizeLinear: its
emulator refuses others (benchmarks/runtimes.py). TensorRT:
symmetric int8, which is zero point 0 (docs.nvidia.com/deeplearning/tensorrt, "Working with
Quantized Types").
"""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("onnx", reason="needs anchorsr[onnx]")

import onnx
from onnx import numpy_helper

from anchorsr.models.registry import model_path, read_model
from anchorsr.serialization.onnx import write_onnx

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
NAMES = ["abpn_x3", "fast_x2", "fast_x3", "fast_x4", "quality_x2", "quality_x3", "quality_x4"]


@pytest.fixture(params=NAMES)
def model(request: pytest.FixtureRequest) -> onnx.ModelProto:
    _, graph = read_model(model_path(request.param))
    return onnx.load_from_string(write_onnx(graph, size=(24, 40), form="qdq"))


def constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}


def test_every_operator_stands_between_dequantize_and_quantize(model: onnx.ModelProto) -> None:
    made_by = {name: node.op_type for node in model.graph.node for name in node.output}
    readers: dict[str, list[str]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node.op_type)
    computing = [node for node in model.graph.node if node.op_type not in (QUANTIZE, DEQUANTIZE)]
    assert {node.op_type for node in computing} == {"Conv", "Add", "DepthToSpace"}
    for node in computing:
        assert [made_by[name] for name in node.input] == [DEQUANTIZE] * len(node.input)
        assert readers[node.output[0]] == [QUANTIZE]


def test_sizes_are_fixed(model: onnx.ModelProto) -> None:
    for value in (*model.graph.input, *model.graph.output):
        sides = [side.dim_value for side in value.type.tensor_type.shape.dim]
        assert all(side > 0 for side in sides), value.name


def test_depth_to_space_keeps_scale_and_zero_point(model: onnx.ModelProto) -> None:
    stored = constants(model)
    by_output = {node.output[0]: node for node in model.graph.node}
    (move,) = (node for node in model.graph.node if node.op_type == "DepthToSpace")
    before = by_output[move.input[0]]
    (after,) = (node for node in model.graph.node if move.output[0] in node.input)
    for one, other in zip(before.input[1:], after.input[1:], strict=True):
        assert stored[one] == stored[other]


def test_weights_are_symmetric_by_channel_and_biases_have_the_scale_of_sums(
    model: onnx.ModelProto,
) -> None:
    stored = constants(model)
    by_output = {node.output[0]: node for node in model.graph.node}
    for conv in (node for node in model.graph.node if node.op_type == "Conv"):
        source, weights, bias = (by_output[name].input for name in conv.input)
        assert stored[weights[0]].dtype == np.int8
        assert stored[weights[0]].min() >= -127
        assert stored[bias[0]].dtype == np.int32
        for kind in (weights, bias):
            assert stored[kind[1]].shape == stored[kind[2]].shape == (len(stored[weights[0]]),)
            assert not stored[kind[2]].any()
            (axis,) = by_output[conv.input[1]].attribute
            assert (axis.name, axis.i) == ("axis", 0)
        np.testing.assert_array_equal(stored[bias[1]], stored[source[1]] * stored[weights[1]])


def test_activations_are_not_what_tensorrt_takes(model: onnx.ModelProto) -> None:
    """The guide says so: uint8 after ReLU, with a zero point that TensorRT does not have."""
    stored = constants(model)
    points = [stored[node.input[2]] for node in model.graph.node if node.op_type == QUANTIZE]
    assert {point.dtype for point in points} == {np.dtype(np.uint8)}
    assert any(point for point in points)
