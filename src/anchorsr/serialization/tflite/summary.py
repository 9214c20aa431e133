"""Summaries of `.tflite` files, including files that `read_tflite` refuses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from anchorsr.errors import ModelError
from anchorsr.serialization.tflite.schema import schema_module


@dataclass(frozen=True)
class TensorInfo:
    """Data type and shape of an input or output; -1 stands for any height or width."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Summary:
    """The operators of a `.tflite` file in execution order, its data types, input and output."""

    operators: tuple[str, ...]
    dtypes: frozenset[str]
    input: TensorInfo
    output: TensorInfo


def summarize(data: bytes) -> Summary:
    """Summarize a `.tflite` file of one subgraph with one input and one output.

    Raises:
        ModelError: The bytes are not such a file.
    """
    schema = schema_module()
    try:
        model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(bytes(data)))
        (subgraph,) = model.subgraphs
        kinds = {code: kind for kind, code in vars(schema.BuiltinOperator).items()}
        dtypes = {code: dtype.lower() for dtype, code in vars(schema.TensorType).items()}
        codes = [model.operatorCodes[stored.opcodeIndex] for stored in subgraph.operators]
        tensors = []
        for (index,) in (subgraph.inputs, subgraph.outputs):
            tensor = subgraph.tensors[index]
            stored = tensor.shape if tensor.shapeSignature is None else tensor.shapeSignature
            shape = tuple(int(side) for side in stored)
            tensors.append(TensorInfo(dtypes[tensor.type], shape))
        return Summary(
            tuple(kinds[max(code.builtinCode, code.deprecatedBuiltinCode)] for code in codes),
            frozenset(dtypes[tensor.type] for tensor in subgraph.tensors),
            *tensors,
        )
    except Exception as error:  # as in read_tflite
        raise ModelError(
            f"not a .tflite file of one image network ({type(error).__name__})"
        ) from error


def fixed_size(data: bytes) -> tuple[int, int] | None:
    """Return the input size of a `.tflite` file that `read_tflite` accepts.

    Returns:
        (height, width), or None for a file that takes every size.
    """
    subgraph = schema_module().Model.GetRootAs(data).Subgraphs(0)
    tensor = subgraph.Tensors(subgraph.Inputs(0))
    if tensor.ShapeSignatureLength() and -1 in tensor.ShapeSignatureAsNumpy().tolist():
        return None
    return tensor.Shape(1), tensor.Shape(2)


def read_metadata(data: bytes, name: str) -> bytes | None:
    """Return the content of this name in the metadata of a `.tflite` file that was read before.

    Args:
        data: The bytes of the file.
        name: The name that `write_tflite` was given.
    """
    model = schema_module().Model.GetRootAs(data)
    for index in range(model.MetadataLength()):
        stored = model.Metadata(index)
        if stored.Name() == name.encode():
            content = model.Buffers(stored.Buffer()).DataAsNumpy()
            return bytes(content) if isinstance(content, np.ndarray) else b""
    return None
