"""Remove the last depth-to-space from an OpenVINO model; numpy does it in a third of the time.

OpenVINO moves single bytes. numpy moves a row of a block at once, in the copy of the result that is
needed anyway.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from anchorsr.arrays import Array

_TO_CHANNELS_LAST = [0, 2, 3, 1]


def remove_depth_to_space(model: Any) -> int:
    """Remove the depth-to-space of a model in which only element-wise operators follow it.

    Args:
        model: An openvino.Model, modified in place: its result becomes (N, H, W, block² · C).

    Returns:
        The block; 1 for a model of another form, which stays as it is.
    """
    from openvino import opset13

    (result,) = model.get_results()
    chain = [result.input_value(0).get_node()]
    while chain[-1].get_type_name() in ("Convert", "FakeQuantize", "Transpose"):
        chain.append(chain[-1].input_value(0).get_node())
    *after, move = chain
    if move.get_type_name() != "DepthToSpace" or move.get_attributes()["mode"] != "blocks_first":
        return 1
    if result.get_element_type().to_dtype() != np.uint8:
        return 1
    transposes = [node for node in after if node.get_type_name() == "Transpose"]
    if [_constant(node.input_value(1)) for node in transposes] != [_TO_CHANNELS_LAST]:
        return 1
    others = [node for node in after if node not in transposes]
    bounds = [value for node in others for value in node.input_values()[1:]]
    if any(math.prod(value.get_shape()) != 1 for value in bounds):
        return 1
    for node in (*transposes, move):
        for target in node.output(0).get_target_inputs():
            target.replace_source_output(node.input_value(0))
    # A no-op between the last convolution and the transpose, which is then free: without it,
    # OpenVINO makes two copies there if it has fused an addition into the convolution.
    same = opset13.minimum(result.input_value(0), np.full((1, 1, 1, 1), 255, np.uint8))
    transposed = opset13.transpose(same, np.array(_TO_CHANNELS_LAST))
    result.input(0).replace_source_output(transposed.output(0))
    model.validate_nodes_and_infer_types()
    return int(move.get_attributes()["block_size"])


def depth_to_space(packed: Array, block: int) -> Array:
    """Rearrange (N, H, W, block² · C) into (N, block · H, block · W, C).

    Args:
        packed: The packed channels.
        block: Side of a block; 1 only copies.

    Returns:
        A new array.
    """
    if block == 1:
        return np.array(packed)
    count, height, width, channels = packed.shape
    row_of_block = np.dtype((np.void, channels // block * packed.itemsize))
    rows = np.empty((count, height, block, width), row_of_block)
    rows[:] = packed.view(row_of_block).swapaxes(2, 3)
    large = rows.view(packed.dtype)
    return large.reshape(count, height * block, width * block, channels // block**2)


def _constant(value: Any) -> list[int] | None:
    node = value.get_node()
    return node.data.tolist() if node.get_type_name() == "Constant" else None
