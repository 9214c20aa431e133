"""A shipped model, or a `.tflite` file, as a PyTorch module."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from anchorsr.graph.dequantize import dequantize
from anchorsr.models.registry import DEFAULT, model_path, read_model

if TYPE_CHECKING:
    from torch import nn


def load_module(
    model: str | Path = DEFAULT, factor: int | None = None, *, maximum: float = 1.0
) -> nn.Module:
    """Load a model as a PyTorch module of plain layers, in floating point.

    It computes what the integers stand for, and differs from them by their rounding. Other
    exporters take it: `torch.export`, ExecuTorch, coremltools, pnnx.

    Args:
        model: The name of a shipped model, or the path of a `.tflite` file.
        factor: The super-resolution factor; by default that of the file, or 3.
        maximum: White in the module's input and output: 1, or 255.

    Returns:
        A module in eval mode: (N, 3, H, W) to (N, 3, factor · H, factor · W).

    Raises:
        ModelError: There is no such model, or the file is none.
        MissingDependencyError: PyTorch is not installed.

    Example:
        >>> network = anchorsr.load_module("quality", 3)
        >>> network(torch.zeros(1, 3, 24, 32)).shape
        torch.Size([1, 3, 72, 96])
    """
    from anchorsr.lowering.to_torch import GraphModule

    _, graph = read_model(model_path(model, factor))
    return GraphModule(dequantize(graph), maximum).eval()
