"""Activation functions as operators: PyTorch's modules, functions and methods of tensors."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.nn import functional

from anchorsr.graph import operators as ops
from anchorsr.lowering.builder import Builder
from anchorsr.lowering.layers import to_array

Lowering = Callable[[Builder, fx.Node], None]


def relu(builder: Builder, node: fx.Node) -> None:
    """Fuse ReLU into the convolution before it if nothing else reads that."""
    before = builder.sole_producer(node)
    if isinstance(before, ops.Conv2D | ops.DepthwiseConv2D):
        builder.operators[before.output] = dataclasses.replace(before, relu=True)
        builder.names[node] = before.output
    else:
        source = builder.source(node)
        lowered = ops.ReLU(source, node.name)
        builder.append(node, lowered, builder.tensors[source].channels)


def clip(builder: Builder, node: fx.Node, low: Any, high: Any) -> None:
    """Clip to numbers; None for no limit on that side."""
    limits = (low, high)
    if not all(each is None or isinstance(each, int | float) for each in limits):
        raise builder.refusal(node, "only numbers are supported as limits")
    if limits == (0, None):
        relu(builder, node)
        return
    source = builder.source(node)
    unit = builder.units[source]
    least = -math.inf if low is None else low * unit
    most = math.inf if high is None else high * unit
    lowered = ops.Clip(source, node.name, least, most)
    builder.append(node, lowered, builder.tensors[source].channels)


def leaky_relu(builder: Builder, node: fx.Node, slope: float) -> None:
    """Multiply negative values by a slope."""
    source = builder.source(node)
    lowered = ops.LeakyReLU(source, node.name, float(slope))
    builder.append(node, lowered, builder.tensors[source].channels)


def prelu(builder: Builder, node: fx.Node, weight: Any) -> None:
    """Multiply negative values by learned slopes."""
    if not isinstance(weight, torch.Tensor):
        raise builder.refusal(node, "its slopes depend on the image")
    source = builder.source(node)
    channels = builder.tensors[source].channels
    slopes = np.broadcast_to(to_array(weight), channels).copy()
    builder.append(node, ops.PReLU(source, node.name, slopes), channels)


def sigmoid(builder: Builder, node: fx.Node) -> None:
    """Apply the sigmoid."""
    source = builder.with_unit(node, node.all_input_nodes[0], 1.0)
    lowered = ops.Sigmoid(source, node.name)
    builder.append(node, lowered, builder.tensors[source].channels, 1.0)


def silu(builder: Builder, node: fx.Node) -> None:
    """Multiply by the sigmoid."""
    tensor = node.all_input_nodes[0]
    source = builder.with_unit(node, tensor, 1.0)
    channels = builder.tensors[source].channels
    gate = builder.emit(node, ops.Sigmoid(source, f"{node.name}/gate"), channels, 1.0)
    name = builder.name(node, tensor)
    builder.append(node, ops.Multiply((name, gate), node.name), channels)


def hard_sigmoid(builder: Builder, node: fx.Node) -> None:
    """Apply clip(x / 6 + 1/2, 0, 1)."""
    builder.names[node] = _hard_gate(builder, node, node.name)


def hard_swish(builder: Builder, node: fx.Node) -> None:
    """Multiply by the hard sigmoid."""
    source = builder.source(node)
    gate = _hard_gate(builder, node, f"{node.name}/gate")
    product = ops.Multiply((source, gate), node.name)
    builder.append(node, product, builder.tensors[source].channels)


def _hard_gate(builder: Builder, node: fx.Node, name: str) -> str:
    source = builder.source(node)
    channels = builder.tensors[source].channels
    weights = np.full((1, 1, channels), 1 / (6 * builder.units[source]), np.float32)
    half = np.full(channels, 0.5, np.float32)
    line = ops.DepthwiseConv2D(source, f"{name}/line", weights, half)
    builder.emit(node, line, channels, 1.0)
    return builder.emit(node, ops.Clip(line.output, name, 0.0, 1.0), channels)


def _checked(lower: Lowering) -> Lowering:
    """Check the arguments of a function of one tensor, and whether it may work in place."""

    def checked(builder: Builder, node: fx.Node) -> None:
        _, inplace = builder.arguments(node, "input", "inplace")
        if inplace or (isinstance(node.target, str) and node.target.endswith("_")):
            builder.check_inplace(node)
        lower(builder, node)

    return checked


def _with(*names: str, lower: Callable[..., None], defaults: tuple[Any, ...]) -> Lowering:
    """Read further arguments of a function, and check whether it may work in place."""

    def checked(builder: Builder, node: fx.Node) -> None:
        _, *values = builder.constant(builder.arguments(node, "input", *names, "inplace"))
        *values, inplace = values
        if inplace or (isinstance(node.target, str) and node.target.endswith("_")):
            builder.check_inplace(node)
        given = [d if v is None else v for v, d in zip(values, defaults, strict=True)]
        lower(builder, node, *given)

    return checked


def _functions() -> Mapping[Any, Lowering]:
    groups: list[tuple[tuple[Any, ...], Lowering]] = [
        ((torch.relu, functional.relu, "relu", "relu_", functional.relu_), _checked(relu)),
        ((torch.sigmoid, functional.sigmoid, "sigmoid"), _checked(sigmoid)),
        ((functional.silu,), _checked(silu)),
        ((functional.hardswish,), _checked(hard_swish)),
        ((functional.hardsigmoid,), _checked(hard_sigmoid)),
        ((functional.relu6,), _checked(lambda builder, node: clip(builder, node, 0, 6))),
        (
            (torch.clamp, torch.clip, "clamp", "clip", "clamp_"),
            _with("min", "max", lower=clip, defaults=(None, None)),
        ),
        (
            (functional.hardtanh,),
            _with("min_val", "max_val", lower=clip, defaults=(-1.0, 1.0)),
        ),
        (
            (functional.leaky_relu, functional.leaky_relu_),
            _with("negative_slope", lower=leaky_relu, defaults=(0.01,)),
        ),
        ((functional.prelu, torch.prelu), _with("weight", lower=prelu, defaults=(None,))),
    ]
    return {target: lower for targets, lower in groups for target in targets}


FUNCTIONS = _functions()


MODULES: Mapping[type[nn.Module], Callable[[Builder, fx.Node, Any], None]] = {
    nn.ReLU: lambda builder, node, module: relu(builder, node),
    nn.ReLU6: lambda builder, node, module: clip(builder, node, 0, 6),
    nn.Hardtanh: lambda builder, node, module: clip(builder, node, module.min_val, module.max_val),
    nn.LeakyReLU: lambda builder, node, module: leaky_relu(builder, node, module.negative_slope),
    nn.PReLU: lambda builder, node, module: prelu(builder, node, module.weight),
    nn.Sigmoid: lambda builder, node, module: sigmoid(builder, node),
    nn.SiLU: lambda builder, node, module: silu(builder, node),
    nn.Hardswish: lambda builder, node, module: hard_swish(builder, node),
    nn.Hardsigmoid: lambda builder, node, module: hard_sigmoid(builder, node),
}
