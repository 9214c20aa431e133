"""A torch network as a float graph: traced, permuted to (N, H, W, C), fused where it can be.

Reads the network's own modules through `torch.fx`. Over-parametrized kernels are collapsed,
a ReLU is fused into the convolution before it, and the anchor becomes a 1×1 convolution with
0/1 weights, which costs less on every engine measured than copies in a concatenation
(docs/experiments.md). Anything else is an error that names the module.
"""

from __future__ import annotations

import dataclasses
import operator

import numpy as np
import torch
from torch import fx, nn

from anchorsr.errors import GraphError
from anchorsr.graph import Graph
from anchorsr.networks import layers
from anchorsr.operators import Add, Array, Clip, Conv2D, DepthToSpace, Operator, TensorType

_LEAVES = (layers.Conv3x3, layers.Anchor, layers.DepthToSpace, layers.Clip, nn.ReLU)


def lower(network: nn.Module, *, name: str, channels: int = 3) -> Graph:
    """The float graph of a network that takes (N, channels, H, W) on [0, 255].

    Raises GraphError, naming operator and module, for one that a graph cannot hold.
    """
    try:
        traced = _Tracer().trace(network)
    except fx.proxy.TraceError as error:
        raise GraphError(f"{type(network).__name__} cannot be lowered: {error}") from error
    builder = _Builder(network, channels)
    for node in traced.nodes:
        builder.add(node)
    return builder.graph(name)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        return isinstance(module, _LEAVES) or super().is_leaf_module(module, qualified_name)


class _Builder:
    def __init__(self, network: nn.Module, channels: int) -> None:
        self._network = network
        self._channels = channels
        self._operators: list[Operator] = []
        self._tensors: dict[str, TensorType] = {}
        self._names: dict[fx.Node, str] = {}
        self._output = ""

    def graph(self, name: str) -> Graph:
        return Graph(name, self._tensors, self._operators, "images", self._output)

    def add(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            if self._names:
                raise GraphError(f"a network takes one tensor, and {node.name} is another")
            self._make(node, "images", self._channels)
        elif node.op == "output":
            if not isinstance(node.args[0], fx.Node):
                raise GraphError(f"a network returns one tensor, not {node.args[0]}")
            self._output = self._source(node)
        elif node.op == "call_module":
            self._add_module(node, self._network.get_submodule(str(node.target)))
        elif node.op == "call_function" and node.target is operator.add:
            self._add_sum(node)
        else:
            target = getattr(node.target, "__name__", str(node.target))
            raise GraphError(f"the operator {target} ({node.name}) cannot be lowered")

    def _add_module(self, node: fx.Node, module: nn.Module) -> None:
        source = self._source(node)
        channels = self._tensors[source].channels
        if isinstance(module, nn.ReLU):
            self._fuse_relu(node, source)
        elif isinstance(module, layers.Conv3x3):
            kernel = module.kernel()
            bias = module.bias * layers.BIAS_UNIT
            conv = Conv2D(source, node.name, _to_nhwc(kernel), _to_array(bias))
            self._append(node, conv, kernel.shape[0])
        elif isinstance(module, layers.Anchor):
            copies = np.tile(np.eye(channels, dtype=np.float32), (module.factor**2, 1))
            bias_free = np.zeros(len(copies), np.float32)
            self._append(
                node, Conv2D(source, node.name, copies[:, None, None], bias_free), len(copies)
            )
        elif isinstance(module, layers.DepthToSpace):
            operation = DepthToSpace(source, node.name, module.block)
            self._append(node, operation, channels // module.block**2)
        elif isinstance(module, layers.Clip):
            self._append(node, Clip(source, node.name, 0.0, 255.0), channels)
        else:
            raise GraphError(
                f"the module {node.target} is a {type(module).__name__}, which cannot be lowered"
            )

    def _add_sum(self, node: fx.Node) -> None:
        terms = [self._names[term] for term in node.args if isinstance(term, fx.Node)]
        if len(terms) != 2:
            raise GraphError(f"the operator add ({node.name}) is lowered for two tensors only")
        left, right = terms
        self._append(node, Add((left, right), node.name), self._tensors[left].channels)

    def _fuse_relu(self, node: fx.Node, source: str) -> None:
        conv = self._operators[-1] if self._operators else None
        alone = len(node.all_input_nodes[0].users) == 1
        if not isinstance(conv, Conv2D) or conv.output != source or not alone:
            raise GraphError(f"the ReLU {node.target} does not follow a convolution directly")
        self._operators[-1] = dataclasses.replace(conv, relu=True)
        self._names[node] = source

    def _append(self, node: fx.Node, operation: Operator, channels: int) -> None:
        self._operators.append(operation)
        self._make(node, node.name, channels)

    def _make(self, node: fx.Node, name: str, channels: int) -> None:
        self._names[node] = name
        self._tensors[name] = TensorType(channels, "float32")

    def _source(self, node: fx.Node) -> str:
        return self._names[node.all_input_nodes[0]]


def _to_nhwc(kernel: torch.Tensor) -> Array:
    """(out, in, H, W) to (out, H, W, in)."""
    return np.ascontiguousarray(_to_array(kernel).transpose(0, 2, 3, 1))


def _to_array(tensor: torch.Tensor) -> Array:
    return tensor.detach().float().cpu().numpy()
