"""Layers of torch, each as the operator that computes the same over (N, H, W, C).

source, name: the tensors that the operator reads and makes. Raises GraphError that says why a layer
cannot be one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from anchorsr.errors import GraphError
from anchorsr.graph import operators as ops
from anchorsr.networks import layers


def convolution(conv: nn.Conv2d, source: str, name: str) -> ops.Conv2D | ops.DepthwiseConv2D:
    kept = tuple(side // 2 for side in conv.kernel_size)
    if conv.padding not in ("same", kept) or any(side % 2 == 0 for side in conv.kernel_size):
        raise GraphError("its kernel is not odd, or not padded by half of it")
    if conv.stride != (1, 1) or conv.dilation != (1, 1) or conv.padding_mode != "zeros":
        raise GraphError("it has a stride, a dilation, or padding other than zeros")
    kernel, bias = _running(conv)
    if 1 < conv.groups == conv.in_channels == conv.out_channels:
        weights = np.ascontiguousarray(to_array(kernel)[:, 0].transpose(1, 2, 0))
        return ops.DepthwiseConv2D(source, name, weights, bias)
    return ops.Conv2D(source, name, to_nhwc(kernel), bias, groups=conv.groups)


def transposed(conv: nn.ConvTranspose2d, source: str, name: str) -> ops.TransposedConv2D:
    stride, added = conv.stride[0], conv.output_padding
    cut: Any = conv.padding
    sides = zip(conv.kernel_size, cut, added, strict=True)
    if (
        conv.stride != (stride, stride)
        or any(side + add != stride + 2 * off for side, off, add in sides)
        or conv.dilation != (1, 1)
        or conv.groups != 1
    ):
        raise GraphError("its output is not stride times as large, or it has groups")
    kernel, bias = _running(conv)
    weights = to_array(kernel).transpose(1, 2, 3, 0)  # (in, out, H, W) to (out, H, W, in)
    # The operator cuts the same off on every side; where PyTorch cuts one less at the end,
    # a row and a column of zeros are there to be cut.
    weights = np.pad(weights, ((0, 0), (0, added[0]), (0, added[1]), (0, 0)))
    return ops.TransposedConv2D(source, name, weights, bias, stride)


def pool(module: nn.MaxPool2d | nn.AvgPool2d, source: str, name: str) -> ops.Pool2D:
    sides = (module.kernel_size, module.padding, module.stride)
    size, padding, stride = (
        side if isinstance(side, int) else side[0] if len(set(side)) == 1 else 0 for side in sides
    )
    plain = size % 2 == 1 and padding == size // 2 and stride == 1 and not module.ceil_mode
    average = isinstance(module, nn.AvgPool2d)
    if isinstance(module, nn.AvgPool2d):
        plain &= not (module.count_include_pad and padding) and not module.divisor_override
    else:
        plain &= module.dilation in (1, (1, 1)) and not module.return_indices
    if not plain:
        raise GraphError(
            "only stride 1, an odd size, half of it as padding, and a mean over what is inside"
            " the image can be"
        )
    return ops.Pool2D(source, name, "average" if average else "max", size)


def to_nhwc(kernel: torch.Tensor) -> ops.Array:
    """(out, in, H, W) to (out, H, W, in)."""
    return np.ascontiguousarray(to_array(kernel).transpose(0, 2, 3, 1))


def to_array(tensor: torch.Tensor) -> ops.Array:
    return tensor.detach().float().cpu().numpy().copy()


def _running(conv: nn.Conv2d | nn.ConvTranspose2d) -> tuple[torch.Tensor, ops.Array]:
    """The kernel, and the bias as an array, zeros where there is none."""
    if isinstance(conv, layers.Convolution | layers.TransposedConvolution):
        kernel, bias = conv.running()
        return kernel, to_array(bias)
    if conv.bias is None:
        return conv.weight, np.zeros(conv.out_channels, np.float32)
    return conv.weight, to_array(conv.bias)
