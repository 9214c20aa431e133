"""Lowering of PyTorch networks: traced by `torch.fx`, permuted to (N, H, W, C), and fused.

Over-parametrized kernels are collapsed. ReLU and batch normalization, with its running statistics,
are fused into the convolution before them if nothing else reads its output. The anchor becomes a
1×1 convolution with 0/1 weights, which is faster on every measured engine than copies and a
concatenation (docs/experiments.md). What depends on parameters alone is computed, unused results
are dropped, and `fold` simplifies the rest. Anything that cannot be lowered is an error that names
the operator and the module, and what to use in its place where that is known.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import fx, nn

from anchorsr.errors import GraphError
from anchorsr.graph import operators as ops
from anchorsr.graph.graph import Graph
from anchorsr.lowering import functions
from anchorsr.lowering.activations import MODULES
from anchorsr.lowering.builder import INPUT, Builder
from anchorsr.lowering.fold import fold
from anchorsr.lowering.layers import convolution, copies, to_array, to_nhwc, transposed
from anchorsr.lowering.refusing import refusing
from anchorsr.networks import layers
from anchorsr.networks.external import ExternalNetwork
from anchorsr.networks.noise import ActivationNoise
from anchorsr.networks.reparameterized import Conv3x3

_LEAVES = (
    Conv3x3,
    layers.Convolution,
    layers.TransposedConvolution,
    layers.Anchor,
    layers.DepthToSpace,
    layers.Interpolate,
    layers.SquareRoot,
    layers.Clip,
    ActivationNoise,
)

# Names of tensors that lowering and quantization add themselves.
_RESERVED_NAMES = (INPUT, "image", "upscaled")

# Modules that are the identity in evaluation mode.
_IDENTITIES = (
    nn.Identity,
    nn.Dropout,
    nn.Dropout2d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
    ActivationNoise,
)


def lower(network: nn.Module, *, name: str, channels: int = 3, maximum: float = 255.0) -> Graph:
    """Convert a network, in evaluation mode, to a float graph over images on [0, 255].

    Args:
        network: A network that takes (N, channels, H, W).
        name: The name of the graph.
        channels: Input channels.
        maximum: White in the network's input and output: 255, or 1 for a network on [0, 1].

    Raises:
        GraphError: A part of the network cannot be lowered; the message names operator and module.
    """
    if isinstance(network, ExternalNetwork):
        graph = lower(network.module, name=name, maximum=network.config.maximum)
        return _clipped(graph)
    modes = {module: module.training for module in network.modules()}
    try:
        traced = _Tracer().trace(network.eval())
    except fx.proxy.TraceError as error:
        raise GraphError(
            f"{type(network).__name__} cannot be lowered: its forward method decides by values or"
            f" sizes of the image, and a graph is the same for all images: {error}"
        ) from error
    except Exception as error:  # the network's own code may raise anything on a symbol
        raise GraphError(
            f"{type(network).__name__} cannot be lowered: its forward method fails for an image of"
            f" unknown size: {type(error).__name__}: {error}"
        ) from error
    finally:
        for module, training in modes.items():
            module.training = training
    for node in reversed(list(traced.nodes)):
        if node.op == "call_module" and isinstance(network.get_submodule(node.target), _IDENTITIES):
            node.replace_all_uses_with(node.all_input_nodes[0])
        if not node.users and node.op not in ("placeholder", "output"):
            traced.erase_node(node)
    builder = Builder(network, channels, 255.0 / maximum)
    for node in traced.nodes:
        # Quantization-aware training keeps parameters by name, beside the attributes of a module.
        if node.name in _RESERVED_NAMES or hasattr(nn.ParameterDict, node.name):
            node.name = f"{node.name}/own"
        _add(builder, node)
    return fold(builder.graph(name))


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        return isinstance(module, _LEAVES) or super().is_leaf_module(module, qualified_name)


def _clipped(graph: Graph) -> Graph:
    """Return the graph with a clip to 0..255 at its end, as integers have it."""
    if isinstance(graph.operators[-1], ops.Clip):
        return graph
    name = f"{graph.output}/clipped"
    clip = ops.Clip(graph.output, name, 0.0, 255.0)
    tensors = {**graph.tensors, name: graph.tensors[graph.output]}
    return Graph(graph.name, tensors, [*graph.operators, clip], graph.input, name)


def _add(builder: Builder, node: fx.Node) -> None:
    if node.op == "placeholder":
        builder.take_input(node)
    elif node.op == "output":
        builder.give_output(node)
    elif node.op == "get_attr":
        builder.constants[node] = _attribute(builder.network, str(node.target))
    elif node.all_input_nodes and all(each in builder.constants for each in node.all_input_nodes):
        builder.constants[node] = _compute(builder, node)
    elif node.op == "call_module":
        _add_module(builder, node, builder.network.get_submodule(str(node.target)))
    elif node.op in ("call_function", "call_method") and node.target in functions.FUNCTIONS:
        functions.FUNCTIONS[node.target](builder, node)
    else:
        raise builder.refusal(node)


def _attribute(network: nn.Module, path: str) -> Any:
    value: Any = network
    for name in path.split("."):
        value = getattr(value, name)
    return value


def _compute(builder: Builder, node: fx.Node) -> Any:
    """Compute a node that depends on parameters alone."""
    arguments, options = builder.constant(node.args), builder.constant(node.kwargs)
    with torch.no_grad():
        if node.op == "call_module":
            return builder.network.get_submodule(str(node.target))(*arguments, **options)
        if node.op == "call_method":
            return getattr(arguments[0], str(node.target))(*arguments[1:], **options)
        assert callable(node.target)
        return node.target(*arguments, **options)


def _add_module(builder: Builder, node: fx.Node, module: nn.Module) -> None:
    source = builder.source(node)
    channels = builder.tensors[source].channels
    if getattr(module, "inplace", False):
        builder.check_inplace(node)
    if type(module) in MODULES:
        MODULES[type(module)](builder, node, module)
    elif isinstance(module, Conv3x3):
        bias = to_array(module.bias * layers.BIAS_UNIT)
        conv = ops.Conv2D(source, node.name, to_nhwc(module.kernel()), bias)
        functions.add_convolution(builder, node, conv, len(bias))
    elif isinstance(module, nn.Conv2d):
        with refusing(builder, node):
            lowered = convolution(module, source, node.name)
        functions.add_convolution(builder, node, lowered, module.out_channels)
    elif isinstance(module, nn.ConvTranspose2d):
        if builder.arguments(node, "input", "output_size")[1] is not None:
            raise builder.refusal(node, "it is called with an output size")
        with refusing(builder, node):
            large = transposed(module, source, node.name)
        functions.add_convolution(builder, node, large, module.out_channels)
    elif isinstance(module, nn.BatchNorm2d):
        _add_normalization(builder, node, module)
    elif isinstance(module, layers.Anchor):
        copied = copies(np.tile(np.arange(channels), module.factor**2), channels, source, node.name)
        builder.append(node, copied, len(copied.weights))
    elif isinstance(module, layers.DepthToSpace):
        moved = ops.DepthToSpace(source, node.name, module.block)
        builder.append(node, moved, channels // module.block**2)
    elif isinstance(module, nn.PixelShuffle):
        functions.pixel_shuffle(builder, node, module.upscale_factor)
    elif isinstance(module, nn.PixelUnshuffle):
        functions.pixel_unshuffle(builder, node, module.downscale_factor)
    elif isinstance(module, nn.Upsample):
        functions.interpolate(
            builder, node, module.size, module.scale_factor, module.mode, module.align_corners
        )
    elif isinstance(module, nn.MaxPool2d | nn.AvgPool2d):
        functions.add_pool(builder, node, module)
    elif isinstance(module, nn.AdaptiveAvgPool2d):
        functions.add_global_pool(builder, node, module.output_size)
    elif isinstance(module, layers.SquareRoot):
        unit = builder.units[source] ** 0.5
        builder.append(node, ops.SquareRoot(source, node.name), channels, unit)
    elif isinstance(module, layers.Interpolate):
        resized = ops.Resize(source, node.name, module.factor, module.mode)
        builder.append(node, resized, channels)
    elif isinstance(module, layers.Clip):
        most = 255.0 * builder.units[source]
        builder.append(node, ops.Clip(source, node.name, 0.0, most), channels)
    else:
        raise builder.refusal(node)


def _add_normalization(builder: Builder, node: fx.Node, module: nn.BatchNorm2d) -> None:
    if module.running_mean is None or module.running_var is None:
        raise builder.refusal(node, "it has no running statistics: use track_running_stats=True")
    scale = 1 / torch.sqrt(module.running_var + module.eps)
    shift = -module.running_mean * scale
    if module.affine:
        scale, shift = scale * module.weight, shift * module.weight + module.bias
    builder.scale(node, to_array(scale), to_array(shift))
