"""A float32 ONNX file as one that computes in float16."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from onnx import NodeProto, TensorProto

# These keep their float32 numbers: the scales of a Resize are float32 in every file.
_KEPT = "/scales"


def to_half(
    nodes: list[NodeProto], initializers: list[TensorProto], source: str, target: str
) -> None:
    """Let nodes and constants compute in float16, between casts of the input and the output.

    Args:
        nodes: The nodes, changed in place.
        initializers: The constants, changed in place.
        source: The name of the float32 input.
        target: The name of the float32 output.
    """
    from onnx import TensorProto, helper, numpy_helper

    for index, stored in enumerate(initializers):
        if stored.data_type == TensorProto.FLOAT and not stored.name.endswith(_KEPT):
            values = numpy_helper.to_array(stored).astype(np.float16)
            initializers[index] = numpy_helper.from_array(values, stored.name)
    halves = {source: f"{source}/half", target: f"{target}/half"}
    for node in nodes:
        for names in (node.input, node.output):
            names[:] = [halves.get(name, name) for name in names]
    first = helper.make_node("Cast", [source], [halves[source]], to=TensorProto.FLOAT16)
    last = helper.make_node("Cast", [halves[target]], [target], to=TensorProto.FLOAT)
    nodes.insert(0, first)
    nodes.append(last)
