"""PyTorch's functions and methods of tensors as operators.

Each function here adds the operators of one node to a builder.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.nn import functional

from anchorsr.graph import operators as ops
from anchorsr.lowering import activations
from anchorsr.lowering.builder import Builder
from anchorsr.lowering.layers import Settings, convolve, copies, pool, to_array, unshuffle
from anchorsr.lowering.refusing import refusing

Lowering = Callable[[Builder, fx.Node], None]
_Binary = type[ops.Add | ops.Subtract | ops.Multiply]


# Arithmetic


def _binary(kind: _Binary) -> Lowering:
    def lower(builder: Builder, node: fx.Node) -> None:
        if node.target in _INPLACE:
            builder.check_inplace(node)
        left, right = builder.constant(builder.arguments(node, "input", "other"))
        if isinstance(left, fx.Node) and isinstance(right, fx.Node):
            _combine(builder, node, kind, left, right)
        elif isinstance(left, fx.Node):
            _with_constant(builder, node, kind, left, right)
        else:
            _with_constant(builder, node, kind, right, left, constant_first=True)

    return lower


def _combine(builder: Builder, node: fx.Node, kind: _Binary, left: fx.Node, right: fx.Node) -> None:
    names = [builder.name(node, left), builder.name(node, right)]
    units = [builder.units[name] for name in names]
    if kind is not ops.Multiply and units[0] != units[1]:
        if isinstance(builder.operators.get(names[0]), ops.Convolution):
            names[0] = builder.with_unit(node, left, units[1])
        else:
            names[1] = builder.with_unit(node, right, units[0])
    widths = [builder.tensors[name].channels for name in names]
    for which, other in ((0, 1), (1, 0)):
        if widths[which] == 1 < widths[other]:  # one channel is broadcast over all
            tile = ops.Tile(names[which], f"{node.name}/{names[which]}", widths[other])
            names[which] = builder.emit(node, tile, widths[other])
    units = [builder.units[name] for name in names]
    unit = units[0] * units[1] if kind is ops.Multiply else units[0]
    builder.append(node, kind((names[0], names[1]), node.name), max(widths), unit)


def _with_constant(
    builder: Builder,
    node: fx.Node,
    kind: _Binary,
    tensor: Any,
    number: Any,
    constant_first: bool = False,
) -> None:
    channels = builder.tensors[builder.name(node, tensor)].channels
    if not isinstance(number, int | float | torch.Tensor):
        raise builder.refusal(node, "only tensors and numbers are supported")
    values = builder.channelwise(node, number, channels)
    ones, zeros = np.ones(channels, np.float32), np.zeros(channels, np.float32)
    if kind is ops.Multiply:
        builder.scale(node, values, zeros)
    elif kind is ops.Add:
        builder.scale(node, ones, values)
    else:
        builder.scale(node, *((-ones, values) if constant_first else (ones, -values)))


def _divide(builder: Builder, node: fx.Node) -> None:
    divided, number = builder.constant(builder.arguments(node, "input", "other"))
    if not isinstance(divided, fx.Node) or not isinstance(number, int | float | torch.Tensor):
        raise builder.refusal(node, "only division of a tensor by a number is supported")
    channels = builder.tensors[builder.name(node, divided)].channels
    values = builder.channelwise(node, number, channels)
    if not values.all():
        raise builder.refusal(node, "it divides by zero")
    builder.scale(node, 1 / values, np.zeros(channels, np.float32))


def _negate(builder: Builder, node: fx.Node) -> None:
    channels = builder.tensors[builder.source(node)].channels
    builder.scale(node, np.full(channels, -1, np.float32), np.zeros(channels, np.float32))


def _square(builder: Builder, node: fx.Node) -> None:
    _, exponent = builder.arguments(node, "input", "exponent")
    if exponent != (None if node.target in (torch.square, "square") else 2):
        raise builder.refusal(node, "only the exponent 2 is supported")
    source = builder.source(node)
    squared = ops.Multiply((source, source), node.name)
    builder.append(node, squared, builder.tensors[source].channels, builder.units[source] ** 2)


def _square_root(builder: Builder, node: fx.Node) -> None:
    builder.arguments(node, "input")
    source = builder.source(node)
    root = ops.SquareRoot(source, node.name)
    builder.append(node, root, builder.tensors[source].channels, builder.units[source] ** 0.5)


def _mean(builder: Builder, node: fx.Node) -> None:
    _, dim, keepdim = builder.arguments(node, "input", "dim", "keepdim")
    axes = sorted(axis % 4 for axis in (dim if isinstance(dim, list | tuple) else [dim or 0]))
    source = builder.source(node)
    channels = builder.tensors[source].channels
    if keepdim is True and axes == [2, 3]:
        builder.append(node, ops.GlobalAveragePool(source, node.name), channels)
    elif keepdim is True and axes == [1]:
        weights = np.full((1, 1, 1, channels), 1 / channels, np.float32)
        mean = ops.Conv2D(source, node.name, weights, np.zeros(1, np.float32))
        builder.append(node, mean, 1)
    else:
        raise builder.refusal(
            node, "only dimensions (2, 3) or dimension 1, with keepdim=True, are supported"
        )


# Channels


def _concatenate(builder: Builder, node: fx.Node) -> None:
    tensors, dim = builder.arguments(node, "tensors", "dim")
    if not isinstance(tensors, list | tuple) or dim not in (1, -3):
        raise builder.refusal(node, "only a list along dimension 1 is supported")
    unit = builder.units[builder.name(node, tensors[0])]
    names = tuple(builder.with_unit(node, tensor, unit) for tensor in tensors)
    channels = sum(builder.tensors[name].channels for name in names)
    builder.append(node, ops.Concat(names, node.name), channels)


def _chunk(builder: Builder, node: fx.Node) -> None:
    """Note the chunks of chunk and split; reading one becomes a Slice."""
    is_chunk = node.target in (torch.chunk, "chunk")
    names = ("chunks",) if is_chunk else ("split_size_or_sections", "split_size")
    _, size, dim = builder.arguments(node, "input", names[0], "dim", other=names[-1])
    channels = builder.tensors[builder.source(node)].channels
    if dim not in (1, -3) or not isinstance(size, int | list | tuple):
        raise builder.refusal(node, "only dimension 1 is supported")
    if isinstance(size, int):
        if is_chunk:
            size = -(-channels // size)
        size = [min(size, channels - start) for start in range(0, channels, size)]
    starts = np.cumsum([0, *size[:-1]]).tolist()
    builder.chunks[node] = list(zip(starts, size, strict=True))


def _item(builder: Builder, node: fx.Node) -> None:
    """Lower the choice of a chunk, or of a range of channels such as [:, 16:]."""
    holder, index = node.args
    chunks = builder.chunks.get(holder) if isinstance(holder, fx.Node) else None
    if chunks is not None and isinstance(index, int):
        start, count = chunks[index]
        source = builder.source(holder)  # type: ignore[arg-type]
    else:
        source = builder.source(node)
        whole, wanted, *rest = index if isinstance(index, tuple) else (index, None)
        chosen = range(builder.tensors[source].channels)
        if not isinstance(wanted, slice) or any(i != slice(None) for i in (whole, *rest)):
            raise builder.refusal(node, "only a range of channels is supported")
        chosen = chosen[wanted]
        if chosen.step != 1 or not chosen:
            raise builder.refusal(node, "only a range of channels is supported")
        start, count = chosen.start, len(chosen)
    builder.append(node, ops.Slice(source, node.name, start), count)


def _repeat(builder: Builder, node: fx.Node) -> None:
    _, *counts = node.args
    if len(counts) == 1 and isinstance(counts[0], list | tuple):
        counts = list(counts[0])
    source = builder.source(node)
    channels = builder.tensors[source].channels
    if len(counts) != 4 or [*counts[:1], *counts[2:]] != [1, 1, 1] or node.kwargs:
        raise builder.refusal(node, "only channels are repeated: x.repeat(1, count, 1, 1)")
    indices = np.tile(np.arange(channels), counts[1])  # type: ignore[arg-type]
    builder.append(node, copies(indices, channels, source, node.name), len(indices))


def _repeat_interleave(builder: Builder, node: fx.Node) -> None:
    _, count, dim = builder.arguments(node, "input", "repeats", "dim")
    if not isinstance(count, int) or dim not in (1, -3):
        raise builder.refusal(node, "only channels are repeated, a number of times: dim=1")
    source = builder.source(node)
    channels = builder.tensors[source].channels
    indices = np.repeat(np.arange(channels), count)
    builder.append(node, copies(indices, channels, source, node.name), len(indices))


# Pixels


def pixel_shuffle(builder: Builder, node: fx.Node, block: int) -> None:
    """Lower PyTorch's PixelShuffle: channels are brought into TensorFlow's order first."""
    source = builder.source(node)
    channels = builder.tensors[source].channels
    if channels % block**2:
        raise builder.refusal(node, f"{channels} channels are not a multiple of {block}²")
    rest = channels // block**2
    order = np.arange(channels).reshape(rest, block**2).T.reshape(-1)
    ordered = builder.emit(node, copies(order, channels, source, f"{node.name}/channels"), channels)
    builder.append(node, ops.DepthToSpace(ordered, node.name, block), rest)


def pixel_unshuffle(builder: Builder, node: fx.Node, block: int) -> None:
    """Lower PyTorch's PixelUnshuffle."""
    source = builder.source(node)
    channels = builder.tensors[source].channels
    moved = unshuffle(block, channels, source, node.name)
    builder.append(node, moved, channels * block**2)


def _shuffle(builder: Builder, node: fx.Node) -> None:
    _, block = builder.arguments(node, "input", "upscale_factor")
    pixel_shuffle(builder, node, block)


def _unshuffle(builder: Builder, node: fx.Node) -> None:
    _, block = builder.arguments(node, "input", "downscale_factor")
    pixel_unshuffle(builder, node, block)


def interpolate(
    builder: Builder, node: fx.Node, size: Any, scale: Any, mode: Any, align_corners: Any
) -> None:
    """Lower an interpolation; the nearest pixel is a copy of channels and depth-to-space."""
    scales = set(scale) if isinstance(scale, list | tuple) else {scale}
    if size is not None or len(scales) != 1 or scale is None:
        raise builder.refusal(
            node,
            "sizes are not part of a graph, which takes images of every size: give scale_factor,"
            " one whole number, in place of size",
        )
    (factor,) = scales
    if isinstance(factor, fx.Node) or factor != int(factor) or factor < 1:
        raise builder.refusal(
            node,
            "only whole numbers are supported as scale_factor: use a convolution with a stride, or"
            " nn.AvgPool2d, to make images smaller",
        )
    factor = int(factor)
    source = builder.source(node)
    channels = builder.tensors[source].channels
    if mode in (None, "nearest", "nearest-exact"):
        indices = np.tile(np.arange(channels), factor**2)
        copied = builder.emit(
            node, copies(indices, channels, source, f"{node.name}/copies"), len(indices)
        )
        builder.append(node, ops.DepthToSpace(copied, node.name, factor), channels)
    elif mode == "bilinear" and not align_corners:
        builder.append(node, ops.Resize(source, node.name, factor, "bilinear"), channels)
    else:
        raise builder.refusal(
            node,
            f"{mode} interpolation{' with align_corners' if align_corners else ''} has no 8-bit"
            " operator: use mode='nearest', or mode='bilinear' with align_corners=False",
        )


def _interpolate(builder: Builder, node: fx.Node) -> None:
    named = ("input", "size", "scale_factor", "mode", "align_corners", "recompute_scale_factor")
    _, size, scale, mode, align_corners, _, _ = builder.arguments(node, *named, "antialias")
    interpolate(builder, node, size, scale, mode, align_corners)


# Convolutions and pools


def _convolve(builder: Builder, node: fx.Node) -> None:
    names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    arguments = builder.constant(builder.arguments(node, *names))
    kernel, bias, *settings = arguments[1:]
    if not isinstance(kernel, torch.Tensor) or isinstance(bias, fx.Node):
        raise builder.refusal(node, "its kernel depends on the image: use constant kernels")
    source = builder.source(node)
    given = {
        name: value
        for name, value in zip(Settings._fields, settings, strict=True)
        if value is not None
    }
    outputs = kernel.shape[0]
    stored = np.zeros(outputs, np.float32) if bias is None else to_array(bias)
    with refusing(builder, node):
        conv = convolve(to_array(kernel), stored, Settings(**given), source, node.name)
    add_convolution(builder, node, conv, outputs)


def add_convolution(builder: Builder, node: fx.Node, conv: ops.Convolution, channels: int) -> None:
    """Add a convolution, its bias in the unit of its input."""
    unit = np.float32(builder.units[conv.input])
    builder.append(node, dataclasses.replace(conv, bias=conv.bias * unit), channels)


def _pool(kind: type[nn.MaxPool2d | nn.AvgPool2d]) -> Lowering:
    def lower(builder: Builder, node: fx.Node) -> None:
        _, *arguments = node.args
        options = {name: value for name, value in node.kwargs.items() if name != "input"}
        with refusing(builder, node):
            module = kind(*arguments, **options)  # type: ignore[arg-type]
        add_pool(builder, node, module)

    return lower


def add_pool(builder: Builder, node: fx.Node, module: nn.MaxPool2d | nn.AvgPool2d) -> None:
    """Add the operator of a pooling module."""
    source = builder.source(node)
    channels = builder.tensors[source].channels
    with refusing(builder, node):
        pooled = pool(module, source, node.name, channels)
    builder.append(node, pooled, channels)


def _adaptive_pool(builder: Builder, node: fx.Node) -> None:
    _, size = builder.arguments(node, "input", "output_size")
    add_global_pool(builder, node, size)


def add_global_pool(builder: Builder, node: fx.Node, size: Any) -> None:
    """Add the mean over the image; other sizes are refused."""
    if size not in (1, (1, 1), [1, 1]):
        raise builder.refusal(node, "only an output of 1x1 pixels is supported")
    source = builder.source(node)
    channels = builder.tensors[source].channels
    builder.append(node, ops.GlobalAveragePool(source, node.name), channels)


# Methods and functions that change their first argument.
_INPLACE = (operator.iadd, operator.isub, operator.imul, "add_", "sub_", "mul_")


def _table() -> Mapping[Any, Lowering]:
    """The lowering of each function and tensor method."""
    add, subtract, multiply = (_binary(kind) for kind in (ops.Add, ops.Subtract, ops.Multiply))
    groups: list[tuple[tuple[Any, ...], Lowering]] = [
        ((operator.add, operator.iadd, torch.add, "add", "add_"), add),
        ((operator.sub, operator.isub, torch.sub, "sub", "sub_"), subtract),
        ((operator.mul, operator.imul, torch.mul, "mul", "mul_"), multiply),
        ((operator.truediv, torch.div, "div"), _divide),
        ((operator.neg, torch.neg, "neg"), _negate),
        ((operator.pow, torch.pow, torch.square, "pow", "square"), _square),
        ((torch.mean, "mean"), _mean),
        ((torch.sqrt, "sqrt"), _square_root),
        ((torch.cat, torch.concat), _concatenate),
        ((torch.chunk, torch.split, "chunk", "split"), _chunk),
        ((operator.getitem,), _item),
        (("repeat",), _repeat),
        ((torch.repeat_interleave, "repeat_interleave"), _repeat_interleave),
        ((torch.pixel_shuffle, functional.pixel_shuffle), _shuffle),
        ((torch.pixel_unshuffle, functional.pixel_unshuffle), _unshuffle),
        ((functional.interpolate, functional.upsample), _interpolate),
        ((torch.conv2d, functional.conv2d), _convolve),
        ((functional.max_pool2d, torch.max_pool2d), _pool(nn.MaxPool2d)),
        ((functional.avg_pool2d,), _pool(nn.AvgPool2d)),
        ((functional.adaptive_avg_pool2d,), _adaptive_pool),
        ((functional.dropout, functional.dropout2d, torch.dropout), Builder.keep),
        (("contiguous", "clone", "detach", "float", "to", "type_as"), Builder.keep),
        ((torch.clone, torch.detach), Builder.keep),
    ]
    return {
        **{target: lower for targets, lower in groups for target in targets},
        **activations.FUNCTIONS,
    }


FUNCTIONS = _table()
