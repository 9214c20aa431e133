"""The float graph of a network under construction, and how it is read node by node.

A tensor of the graph may hold the network's numbers times a factor, its unit. A network on [0, 1]
then reads and writes images on [0, 255] without a multiplication: convolutions, ReLU, sums and
moves keep the unit, and what is not homogeneous, such as a sigmoid, asks for unit 1. A change of
unit goes into the convolution before it where that is possible.
"""

from __future__ import annotations

import dataclasses
import operator
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from anchorsr.arrays import Array
from anchorsr.errors import GraphError
from anchorsr.graph import operators as ops
from anchorsr.graph.graph import Graph
from anchorsr.graph.verify import check_operator, extent_of
from anchorsr.lowering.replacements import replacement

INPUT = "images"


class Builder:
    """Collects the operators of a network and remembers the tensor of each node.

    Args:
        network: The network.
        channels: Channels of its input.
        unit: What the network's input is multiplied by to be on [0, 255].
    """

    def __init__(self, network: nn.Module, channels: int, unit: float) -> None:
        self.network = network
        self.unit = unit
        self.operators: dict[str, ops.Operator] = {}  # by output tensor
        self.tensors = {INPUT: ops.TensorType(channels, "float32")}
        self.units = {INPUT: unit}
        self.names: dict[fx.Node, str] = {}
        self.constants: dict[fx.Node, Any] = {}
        # Of chunk and split: first channel and number of channels of each.
        self.chunks: dict[fx.Node, list[tuple[int, int]]] = {}
        self._extents = {INPUT: Fraction(1)}
        self._output = ""

    def graph(self, name: str) -> Graph:
        """Return the graph of the nodes so far."""
        return Graph(name, self.tensors, list(self.operators.values()), INPUT, self._output)

    def take_input(self, node: fx.Node) -> None:
        """Note that a node is the network's input."""
        if self.names:
            raise GraphError(f"a network takes one tensor, but {node.name} is a second one")
        self.names[node] = INPUT

    def give_output(self, node: fx.Node) -> None:
        """Note that a node returns the network's output."""
        result = node.args[0]
        if not isinstance(result, fx.Node) or result in self.chunks:
            raise GraphError(f"a network returns one tensor, not {result}")
        self._output = self.with_unit(node, result, self.unit)

    def refusal(self, node: fx.Node, why: str = "") -> GraphError:
        """Make an error that names the operator, its place in the network and a replacement."""
        if node.op == "call_module":
            module = self.network.get_submodule(str(node.target))
            kind = type(module).__name__
            what = f"the module {node.target} ({kind})"
        else:
            kind = str(getattr(node.target, "__name__", node.target))
            what = f"the operator {kind} ({node.name})"
            paths = [path for path, _ in node.meta.get("nn_module_stack", {}).values() if path]
            what += f" in the module {paths[-1]}" if paths else ""
        why = why or replacement(kind)
        return GraphError(f"{what} cannot be lowered" + (f": {why}" if why else ""))

    # What a node reads

    def arguments(self, node: fx.Node, *names: str, other: str = "") -> list[Any]:
        """Return the arguments of a function call in this order; None for those not given.

        Args:
            node: The call.
            names: PyTorch's names of the arguments.
            other: PyTorch's second name of the second argument.
        """
        named = {names[1] if name == other else name: value for name, value in node.kwargs.items()}
        if len(node.args) > len(names) or named.keys() - set(names):
            raise self.refusal(node, f"it has arguments other than {', '.join(names)}")
        given = dict(zip(names, node.args, strict=False)) | named
        return [given.get(name) for name in names]

    def source(self, node: fx.Node) -> str:
        """Return the name of the first tensor that the node reads."""
        inputs = (each for each in node.all_input_nodes if each not in self.constants)
        return self.name(node, next(inputs, None))

    def name(self, node: fx.Node, tensor: Any) -> str:
        """Return the name of a tensor that the node reads."""
        if tensor not in self.names:
            raise self.refusal(node, "it reads something other than a single tensor")
        return self.names[tensor]

    def with_unit(self, node: fx.Node, tensor: Any, unit: float) -> str:
        """Return the name of a tensor that the node reads, brought to another unit."""
        name = self.name(node, tensor)
        if self.units[name] == unit:
            return name
        ratio = np.float32(unit / self.units[name])
        before = self.operators.get(name)
        if isinstance(before, ops.Convolution) and set(tensor.users) == {node}:
            weights, bias = before.weights * ratio, before.bias * ratio
            self.operators[name] = dataclasses.replace(before, weights=weights, bias=bias)
            self.units[name] = unit
            return name
        channels = self.tensors[name].channels
        weights = np.full((1, 1, channels), ratio, np.float32)
        scaled = ops.DepthwiseConv2D(
            name, f"{name}/{node.name}/unit", weights, np.zeros(channels, np.float32)
        )
        return self.emit(node, scaled, channels, unit)

    def constant(self, value: Any) -> Any:
        """Return a value with its constant nodes replaced by what they hold."""
        return fx.node.map_arg(value, lambda node: self.constants.get(node, node))

    def channelwise(self, node: fx.Node, value: Any, channels: int) -> Array:
        """Return a number, or a constant of one number a channel, as an array (channels,)."""
        array = np.asarray(torch.as_tensor(value).detach().float().cpu())
        if array.size == 1:
            return np.full(channels, array.item(), np.float32)
        if array.ndim not in (3, 4) or array.size != channels or array.shape[-3] != channels:
            raise self.refusal(
                node,
                f"a constant is a number or has the shape (1, {channels}, 1, 1), one number a"
                f" channel, not {tuple(array.shape)}",
            )
        return np.asarray(array.reshape(-1), np.float32)

    # What a node makes

    def append(
        self, node: fx.Node, lowered: ops.Operator, channels: int, unit: float | None = None
    ) -> None:
        """Add the operator that computes a node.

        Args:
            node: The node.
            lowered: The operator.
            channels: Channels of its output.
            unit: The unit of its output; by default that of its first input.
        """
        self.names[node] = self.emit(node, lowered, channels, unit)

    def emit(
        self, node: fx.Node, lowered: ops.Operator, channels: int, unit: float | None = None
    ) -> str:
        """Add one of several operators that compute a node; returns its output's name."""
        name = lowered.output
        self.operators[name] = lowered
        self.units[name] = self.units[lowered.inputs[0]] if unit is None else unit
        try:
            self.tensors[name] = ops.TensorType(channels, "float32")
            sources = [self.tensors[each] for each in lowered.inputs]
            check_operator(lowered, sources, self.tensors[name])
            extents = [self._extents[each] for each in lowered.inputs]
            self._extents[name] = extent_of(lowered, extents)
        except GraphError as error:
            raise self.refusal(node, str(error)) from error
        return name

    def keep(self, node: fx.Node) -> None:
        """Note that a node is the tensor that it reads."""
        self.names[node] = self.source(node)

    def scale(self, node: fx.Node, scale: Array, shift: Array) -> None:
        """Scale and shift each channel, fused into the convolution before it if possible."""
        shift = np.asarray(shift * np.float32(self.units[self.source(node)]), np.float32)
        before = self.sole_producer(node)
        if isinstance(before, ops.Conv2D | ops.DepthwiseConv2D) and not before.relu:
            of_outputs = scale[:, None, None, None] if isinstance(before, ops.Conv2D) else scale
            weights = before.weights * of_outputs
            self.operators[before.output] = dataclasses.replace(
                before, weights=weights, bias=before.bias * scale + shift
            )
            self.names[node] = before.output
        else:
            weights = np.ascontiguousarray(scale[None, None])
            lowered = ops.DepthwiseConv2D(self.source(node), node.name, weights, shift)
            self.append(node, lowered, len(scale))

    def sole_producer(self, node: fx.Node) -> ops.Operator | None:
        """Return the operator that computes the node's input, if nothing else reads that."""
        sources = [each for each in node.all_input_nodes if each not in self.constants]
        only = len(sources) == 1 and len(sources[0].users) == 1
        return self.operators.get(self.names[sources[0]]) if only else None

    def check_inplace(self, node: fx.Node) -> None:
        """Refuse an in-place change of a tensor that is read elsewhere afterwards."""
        order = {each: place for place, each in enumerate(node.graph.nodes)}
        reader, changed = node, node.all_input_nodes[0]
        while True:
            count = len(self.chunks.get(changed, []))
            for other in changed.users:
                is_view = other.target is operator.getitem
                earlier = order[other] < order[node] and not is_view
                if other is reader or earlier:
                    continue
                places = [each.args[1] for each in (reader, other) if count and is_view]
                numbers = {place % count for place in places if isinstance(place, int)}
                # Chunks do not overlap: changing one leaves the others as they are.
                if len(numbers) < 2:
                    raise self.refusal(node, "it works in place on a tensor that is read elsewhere")
            if not count and changed.target is not operator.getitem:
                return
            reader, changed = changed, changed.all_input_nodes[0]
