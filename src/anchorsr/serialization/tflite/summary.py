"""What any `.tflite` file says about itself, without running or understanding all of it."""

from __future__ import annotations

from dataclasses import dataclass

from anchorsr.errors import ModelError
from anchorsr.serialization.tflite.schema import schema_module


@dataclass(frozen=True)
class Edge:
    """Number type and shape of a file's input or output; -1 stands for any height or width."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Summary:
    """What a `.tflite` file says about itself: operators by name, in the order they run."""

    operators: tuple[str, ...]
    dtypes: frozenset[str]
    input: Edge
    output: Edge


def summarize(data: bytes) -> Summary:
    """The summary of any `.tflite` file of one subgraph, one input and one output, also of one
    that `read_tflite` refuses. Raises ModelError for bytes that are not such a file.
    """
    schema = schema_module()
    try:
        model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(bytes(data)))
        (subgraph,) = model.subgraphs
        kinds = {code: kind for kind, code in vars(schema.BuiltinOperator).items()}
        dtypes = {code: dtype.lower() for dtype, code in vars(schema.TensorType).items()}
        codes = [model.operatorCodes[stored.opcodeIndex] for stored in subgraph.operators]
        edges = []
        for (index,) in (subgraph.inputs, subgraph.outputs):
            tensor = subgraph.tensors[index]
            stored = tensor.shape if tensor.shapeSignature is None else tensor.shapeSignature
            shape = tuple(int(side) for side in stored)
            edges.append(Edge(dtypes[tensor.type], shape))
        return Summary(
            tuple(kinds[max(code.builtinCode, code.deprecatedBuiltinCode)] for code in codes),
            frozenset(dtypes[tensor.type] for tensor in subgraph.tensors),
            *edges,
        )
    except Exception as error:  # as in read_tflite
        raise ModelError(
            f"not a .tflite file of one image network ({type(error).__name__})"
        ) from error


def fixed_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) of the only image that a file, which `read_tflite` reads, takes, or None
    where it takes every size."""
    subgraph = schema_module().Model.GetRootAs(data).Subgraphs(0)
    tensor = subgraph.Tensors(subgraph.Inputs(0))
    if tensor.ShapeSignatureLength() and -1 in tensor.ShapeSignatureAsNumpy().tolist():
        return None
    return tensor.Shape(1), tensor.Shape(2)
