"""OpenVINO's graph without its last depth-to-space, which numpy does in a third of the time.

OpenVINO's moves single bytes; numpy moves a row of a block at once, and that is the copy of the
result which is made in any case.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_TO_CHANNELS_LAST = [0, 2, 3, 1]


def leave_out_depth_to_space(model: Any) -> int:
    """Make the result of an openvino.Model (N, H, W, block² · C), if depth-to-space is the last
    thing but for what goes for every element alike; the block.

    Any other model stays as it is, and its block is 1."""
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
    turns = [node for node in after if node.get_type_name() == "Transpose"]
    if [_constant(node.input_value(1)) for node in turns] != [_TO_CHANNELS_LAST]:
        return 1
    bounds = [value for node in after if node not in turns for value in node.input_values()[1:]]
    if any(math.prod(value.get_shape()) != 1 for value in bounds):
        return 1
    for node in (*turns, move):
        for target in node.output(0).get_target_inputs():
            target.replace_source_output(node.input_value(0))
    # Between the last convolution and the turn, which costs nothing then: OpenVINO leaves two
    # copies there when an addition has become part of the convolution.
    same = opset13.minimum(result.input_value(0), np.full((1, 1, 1, 1), 255, np.uint8))
    turned = opset13.transpose(same, np.array(_TO_CHANNELS_LAST))
    result.input(0).replace_source_output(turned.output(0))
    model.validate_nodes_and_infer_types()
    return int(move.get_attributes()["block_size"])


def depth_to_space(packed: Array, block: int) -> Array:
    """(N, H, W, block² · C) to (N, block · H, block · W, C), an array of its own."""
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
