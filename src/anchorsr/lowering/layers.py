"""PyTorch layers as the operators that compute the same over (N, H, W, C).

Each function takes a layer and the names of the input and output tensors, and raises a GraphError
that says why the layer cannot be converted.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from anchorsr.arrays import Array
from anchorsr.errors import GraphError
from anchorsr.graph import operators as ops
from anchorsr.networks import layers


def convolution(conv: nn.Conv2d, source: str, name: str) -> ops.Conv2D | ops.DepthwiseConv2D:
    """Convert a convolution; one with as many groups as channels becomes depthwise."""
    same = tuple(side // 2 for side in conv.kernel_size)
    if conv.padding not in ("same", same) or any(side % 2 == 0 for side in conv.kernel_size):
        raise GraphError("its kernel is not odd, or its padding is not half of it")
    if conv.stride != (1, 1) or conv.dilation != (1, 1) or conv.padding_mode != "zeros":
        raise GraphError("it has a stride, a dilation, or a padding mode other than zeros")
    kernel, bias = _parameters(conv)
    if 1 < conv.groups == conv.in_channels == conv.out_channels:
        weights = np.ascontiguousarray(to_array(kernel)[:, 0].transpose(1, 2, 0))
        return ops.DepthwiseConv2D(source, name, weights, bias)
    return ops.Conv2D(source, name, to_nhwc(kernel), bias, groups=conv.groups)


def transposed(conv: nn.ConvTranspose2d, source: str, name: str) -> ops.TransposedConv2D:
    """Convert a transposed convolution whose output is exactly `stride` times as large."""
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
    kernel, bias = _parameters(conv)
    weights = to_array(kernel).transpose(1, 2, 3, 0)  # (in, out, H, W) to (out, H, W, in)
    # The operator crops equally on all sides; where PyTorch crops one pixel less at the end, a row
    # and a column of zeros are added to be cropped.
    weights = np.pad(weights, ((0, 0), (0, added[0]), (0, added[1]), (0, 0)))
    return ops.TransposedConv2D(source, name, weights, bias, stride)


def pool(module: nn.MaxPool2d | nn.AvgPool2d, source: str, name: str) -> ops.Pool2D:
    """Convert a pooling of stride 1 that keeps the size and ignores the padding."""
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
            "only stride 1, an odd size padded by half of it, and averages without the padding are"
            " supported"
        )
    return ops.Pool2D(source, name, "average" if average else "max", size)


def to_nhwc(kernel: torch.Tensor) -> Array:
    """Convert a kernel (out, in, H, W) to an array (out, H, W, in)."""
    return np.ascontiguousarray(to_array(kernel).transpose(0, 2, 3, 1))


def to_array(tensor: torch.Tensor) -> Array:
    """Copy a tensor to a float32 array."""
    return tensor.detach().float().cpu().numpy().copy()


def _parameters(conv: nn.Conv2d | nn.ConvTranspose2d) -> tuple[torch.Tensor, Array]:
    """The kernel, and the bias as an array; zeros if there is none."""
    if isinstance(conv, layers.Convolution | layers.TransposedConvolution):
        kernel, bias = conv.scaled_parameters()
        return kernel, to_array(bias)
    if conv.bias is None:
        return conv.weight, np.zeros(conv.out_channels, np.float32)
    return conv.weight, to_array(conv.bias)
