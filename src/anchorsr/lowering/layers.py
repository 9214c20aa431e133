"""PyTorch layers as the operators that compute the same over (N, H, W, C).

Each function takes a layer and the names of the input and output tensors, and raises a GraphError
that says why the layer cannot be converted.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from anchorsr.arrays import Array
from anchorsr.errors import GraphError
from anchorsr.graph import operators as ops
from anchorsr.networks import layers


class Settings(NamedTuple):
    """How a convolution is applied, as `torch.nn.functional.conv2d` takes it."""

    stride: Any = 1
    padding: Any = 0
    dilation: Any = 1
    groups: int = 1


def convolution(conv: nn.Conv2d, source: str, name: str) -> ops.Conv2D | ops.DepthwiseConv2D:
    """Convert a convolution; one with as many groups as channels becomes depthwise."""
    if conv.padding_mode != "zeros":
        raise GraphError(
            f"it pads with {conv.padding_mode!r} pixels, and devices with zeros: use"
            " padding_mode='zeros'"
        )
    settings = Settings(conv.stride, conv.padding, conv.dilation, conv.groups)
    kernel, bias = _parameters(conv)
    return convolve(to_array(kernel), bias, settings, source, name)


def convolve(
    kernel: Array, bias: Array, settings: Settings, source: str, name: str
) -> ops.Conv2D | ops.DepthwiseConv2D:
    """Convert a convolution with the kernel (out, in / groups, H, W) and the bias (out,).

    Dilated kernels get zeros in between. So do those with a stride at their end, where that is
    what makes the padding equal on all sides.
    """
    stride = _one(settings.stride, "strides")
    kernel = _dilated(kernel, settings.dilation)
    padding = settings.padding
    if padding == "valid":
        padding = 0
    elif padding == "same":
        padding = tuple(side // 2 for side in kernel.shape[2:])
    for axis, before in enumerate(_pair(padding)):
        kernel = _centred(kernel, axis + 2, stride, before)
    outputs, inputs = kernel.shape[0], kernel.shape[1] * settings.groups
    if 1 < settings.groups == inputs == outputs and stride == 1:
        weights = np.ascontiguousarray(kernel[:, 0].transpose(1, 2, 0))
        return ops.DepthwiseConv2D(source, name, weights, bias)
    weights = np.ascontiguousarray(kernel.transpose(0, 2, 3, 1))
    return ops.Conv2D(source, name, weights, bias, groups=settings.groups, stride=stride)


def _dilated(kernel: Array, dilation: Any) -> Array:
    rows, columns = _pair(dilation)
    if (rows, columns) == (1, 1):
        return kernel
    height, width = kernel.shape[2:]
    shape = (*kernel.shape[:2], (height - 1) * rows + 1, (width - 1) * columns + 1)
    result = np.zeros(shape, kernel.dtype)
    result[:, :, ::rows, ::columns] = kernel
    return result


def _centred(kernel: Array, axis: int, stride: int, padding: int) -> Array:
    """Add zeros to a kernel so that it is padded equally on both sides."""
    side = kernel.shape[axis]
    if stride == 1:
        if side % 2 == 0 or padding != side // 2:
            raise GraphError(
                f"a kernel of {side} pixels with padding {padding} changes the size of the image:"
                " use an odd kernel, padded by half of it"
            )
        return kernel
    if not 0 <= stride - side + 2 * padding < stride:
        raise GraphError(
            f"a kernel of {side} pixels with stride {stride} and padding {padding} does not make"
            f" the image exactly {stride} times smaller"
        )
    # The operator starts (whole - stride) / 2 pixels before the first, PyTorch `padding` before it.
    whole = stride
    while (whole - stride) // 2 < padding or side + (whole - stride) // 2 - padding > whole:
        whole += 2
    front = (whole - stride) // 2 - padding
    added = [(0, 0)] * 4
    added[axis] = (front, whole - side - front)
    return np.pad(kernel, added)


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


def pool(
    module: nn.MaxPool2d | nn.AvgPool2d, source: str, name: str, channels: int
) -> ops.Pool2D | ops.Conv2D:
    """Convert a pooling that keeps the size, or one of blocks; a mean of blocks is a convolution.

    Padding is ignored by maxima, and has to be by averages.
    """
    sides = (module.kernel_size, module.padding, module.stride)
    size, padding, stride = (
        side if isinstance(side, int) else side[0] if len(set(side)) == 1 else 0 for side in sides
    )
    plain = not module.ceil_mode
    average = isinstance(module, nn.AvgPool2d)
    if isinstance(module, nn.AvgPool2d):
        plain &= not (module.count_include_pad and padding) and not module.divisor_override
    else:
        plain &= module.dilation in (1, (1, 1)) and not module.return_indices
    if plain and size > 1 and (padding, stride) == (0, size):
        if not average:
            return ops.Pool2D(source, name, "max", size, size)
        kernel = np.full((channels, 1, size, size), 1 / size**2, np.float32)
        settings = Settings(size, 0, 1, channels)
        mean = convolve(kernel, np.zeros(channels, np.float32), settings, source, name)
        assert isinstance(mean, ops.Conv2D)
        return mean
    if not plain or size % 2 == 0 or padding != size // 2 or stride != 1:
        raise GraphError(
            "only blocks (a stride equal to the size, no padding) are supported, and stride 1 with"
            " an odd size, padded by half of it, averages without the padding"
        )
    return ops.Pool2D(source, name, "average" if average else "max", size)


def copies(indices: Array, channels: int, source: str, name: str) -> ops.Conv2D:
    """Make a 1×1 convolution whose output channels are copies of these input channels."""
    weights = np.eye(channels, dtype=np.float32)[indices]
    return ops.Conv2D(source, name, weights[:, None, None], np.zeros(len(weights), np.float32))


def unshuffle(block: int, channels: int, source: str, name: str) -> ops.Conv2D:
    """Make the convolution that moves each block of pixels into channels, in PyTorch's order."""
    moved = np.zeros((channels, block, block, block, block, channels), np.float32)
    for channel, row, column in np.ndindex(channels, block, block):
        moved[channel, row, column, row, column, channel] = 1
    weights = moved.reshape(-1, block, block, channels)
    return ops.Conv2D(source, name, weights, np.zeros(len(weights), np.float32), stride=block)


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


def _pair(value: Any) -> tuple[int, int]:
    first, second = value if isinstance(value, tuple | list) else (value, value)
    return int(first), int(second)


def _one(value: Any, what: str) -> int:
    first, second = _pair(value)
    if first != second:
        raise GraphError(f"its {what} differ")
    return first
