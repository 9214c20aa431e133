"""A torch network as a float graph: traced, permuted to (N, H, W, C), fused where it can be.

Reads the network's own modules through `torch.fx`. Over-parametrized kernels are collapsed,
a ReLU goes into the convolution before it where nothing else reads that, and batch normalization
too, with the statistics that it has learned; the anchor becomes a 1×1 convolution with 0/1
weights, which costs less on every engine measured than copies in a concatenation
(docs/experiments.md). What nothing reads is left away. Anything else is an error that names the
operator and the module.
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

from anchorsr.errors import GraphError
from anchorsr.graph import operators as ops
from anchorsr.graph.graph import Graph
from anchorsr.graph.verify import check_operator, extent_of
from anchorsr.lowering.layers import convolution, pool, to_array, to_nhwc, transposed
from anchorsr.networks import layers
from anchorsr.networks.activation_noise import ActivationNoise

_LEAVES = (
    layers.Conv3x3,
    layers.Convolution,
    layers.TransposedConvolution,
    layers.Anchor,
    layers.DepthToSpace,
    layers.Enlarge,
    layers.SquareRoot,
    layers.Clip,
    ActivationNoise,
)

# Tensors that graphs have whatever the network is: here, and once it is quantized.
_OWN_NAMES = ("images", "image", "upscaled")

# Modules that do nothing once a network is trained.
_NOTHING = (nn.Identity, ActivationNoise)


def lower(network: nn.Module, *, name: str, channels: int = 3) -> Graph:
    """The float graph of a network that takes (N, channels, H, W) on [0, 255], as it evaluates.

    Raises GraphError, naming operator and module, for one that a graph cannot hold.
    """
    modes = {module: module.training for module in network.modules()}
    try:
        traced = _Tracer().trace(network.eval())
    except fx.proxy.TraceError as error:
        raise GraphError(f"{type(network).__name__} cannot be lowered: {error}") from error
    finally:
        for module, training in modes.items():
            module.training = training
    for node in reversed(list(traced.nodes)):
        if node.op == "call_module" and isinstance(network.get_submodule(node.target), _NOTHING):
            node.replace_all_uses_with(node.all_input_nodes[0])
        if not node.users and node.op not in ("placeholder", "output"):
            traced.erase_node(node)
    builder = _Builder(network, channels)
    for node in traced.nodes:
        if node.name in _OWN_NAMES:
            node.name = f"{node.name}/own"
        builder.add(node)
    return builder.graph(name)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        return isinstance(module, _LEAVES) or super().is_leaf_module(module, qualified_name)


class _Builder:
    def __init__(self, network: nn.Module, channels: int) -> None:
        self._network = network
        self._operators: dict[str, ops.Operator] = {}  # by the tensor that each makes
        self._tensors = {"images": ops.TensorType(channels, "float32")}
        self._extents = {"images": 1}
        self._names: dict[fx.Node, str] = {}
        self._parts: dict[fx.Node, list[tuple[int, int]]] = {}  # first channel and how many
        self._output = ""

    def graph(self, name: str) -> Graph:
        operators = list(self._operators.values())
        return Graph(name, self._tensors, operators, "images", self._output)

    def add(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            if self._names:
                raise GraphError(f"a network takes one tensor, and {node.name} is another")
            self._names[node] = "images"
        elif node.op == "output":
            result = node.args[0]
            if not isinstance(result, fx.Node) or result in self._parts:
                raise GraphError(f"a network returns one tensor, not {result}")
            self._output = self._names[result]
        elif node.op == "call_module":
            self._add_module(node, self._network.get_submodule(str(node.target)))
        elif node.op in ("call_function", "call_method") and node.target in _FUNCTIONS:
            add_function = _FUNCTIONS[node.target]
            add_function(self, node)
        else:
            raise self._refusal(node)

    def _refusal(self, node: fx.Node, why: str = "") -> GraphError:
        """An error that tells what stands where in the network."""
        if node.op == "call_module":
            module = self._network.get_submodule(str(node.target))
            what = f"the module {node.target} ({type(module).__name__})"
        else:
            what = f"the operator {getattr(node.target, '__name__', node.target)} ({node.name})"
            paths = [path for path, _ in node.meta.get("nn_module_stack", {}).values() if path]
            what += f" in the module {paths[-1]}" if paths else ""
        return GraphError(f"{what} cannot be lowered" + (f": {why}" if why else ""))

    # Modules

    def _add_module(self, node: fx.Node, module: nn.Module) -> None:
        source = self._source(node)
        channels = self._tensors[source].channels
        if getattr(module, "inplace", False):
            self._check_inplace(node)
        made: ops.Operator
        if isinstance(module, nn.ReLU):
            self._add_relu(node)
        elif isinstance(module, layers.Conv3x3):
            bias = module.bias * layers.BIAS_UNIT
            made = ops.Conv2D(source, node.name, to_nhwc(module.kernel()), to_array(bias))
            self._append(node, made, len(made.bias))
        elif isinstance(module, nn.Conv2d):
            self._append(node, self._layer(node, convolution, module), module.out_channels)
        elif isinstance(module, nn.ConvTranspose2d):
            if self._arguments(node, "input", "output_size")[1] is not None:
                raise self._refusal(node, "it is told the size of its output")
            self._append(node, self._layer(node, transposed, module), module.out_channels)
        elif isinstance(module, nn.BatchNorm2d):
            self._add_normalization(node, module)
        elif isinstance(module, layers.Anchor):
            copies = np.tile(np.eye(channels, dtype=np.float32), (module.factor**2, 1))
            bias_free = np.zeros(len(copies), np.float32)
            made = ops.Conv2D(source, node.name, copies[:, None, None], bias_free)
            self._append(node, made, len(copies))
        elif isinstance(module, layers.DepthToSpace):
            made = ops.DepthToSpace(source, node.name, module.block)
            self._append(node, made, channels // module.block**2)
        elif isinstance(module, nn.MaxPool2d | nn.AvgPool2d):
            self._append(node, self._layer(node, pool, module), channels)
        else:
            self._append(node, self._channelwise(node, module), channels)

    def _channelwise(self, node: fx.Node, module: nn.Module) -> ops.Operator:
        """What keeps the number of channels and has no weights but a slope a channel."""
        source = self._source(node)
        if isinstance(module, nn.LeakyReLU):
            return ops.LeakyReLU(source, node.name, float(module.negative_slope))
        if isinstance(module, nn.PReLU):
            slopes = to_array(module.weight)
            channels = self._tensors[source].channels
            return ops.PReLU(source, node.name, np.broadcast_to(slopes, channels).copy())
        if isinstance(module, nn.Sigmoid):
            return ops.Sigmoid(source, node.name)
        if isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size in (1, (1, 1)):
            return ops.GlobalAveragePool(source, node.name)
        if isinstance(module, layers.Enlarge):
            return ops.Resize(source, node.name, module.factor, module.mode)
        if isinstance(module, layers.SquareRoot):
            return ops.SquareRoot(source, node.name)
        if isinstance(module, layers.Clip):
            return ops.Clip(source, node.name, 0.0, 255.0)
        raise self._refusal(node)

    def _layer(
        self, node: fx.Node, make: Callable[[Any, str, str], ops.Operator], module: nn.Module
    ) -> ops.Operator:
        try:
            return make(module, self._source(node), node.name)
        except GraphError as error:
            raise self._refusal(node, str(error)) from error

    def _add_normalization(self, node: fx.Node, module: nn.BatchNorm2d) -> None:
        if module.running_mean is None or module.running_var is None:
            raise self._refusal(node, "it has no statistics of its own")
        scale = 1 / torch.sqrt(module.running_var + module.eps)
        shift = -module.running_mean * scale
        if module.affine:
            scale, shift = scale * module.weight, shift * module.weight + module.bias
        self._scale(node, to_array(scale), to_array(shift))

    # Functions and methods of tensors

    def _arguments(self, node: fx.Node, *names: str, other: str = "") -> list[Any]:
        """What the function is called with, in this order; None where that is not said.

        other: one more name that PyTorch has for the second.
        """
        named = {names[1] if name == other else name: value for name, value in node.kwargs.items()}
        if len(node.args) > len(names) or named.keys() - set(names):
            raise self._refusal(node, f"it is given more than {', '.join(names)}")
        given = dict(zip(names, node.args, strict=False)) | named
        return [given.get(name) for name in names]

    def _add_alone(self, node: fx.Node, kind: Callable[[str, str], ops.Operator]) -> None:
        self._arguments(node, "input")
        source = self._source(node)
        self._append(node, kind(source, node.name), self._tensors[source].channels)

    def _add_pair(self, node: fx.Node, kind: type[ops.Add | ops.Subtract | ops.Multiply]) -> None:
        left, right = self._arguments(node, "input", "other")
        if isinstance(left, fx.Node) and isinstance(right, fx.Node):
            names = (self._name(node, left), self._name(node, right))
            self._append(node, kind(names, node.name), self._tensors[names[0]].channels)
        elif kind is ops.Multiply:
            self._multiply(node, right if isinstance(left, fx.Node) else left)
        else:
            raise self._refusal(node, "only two tensors can be")

    def _add_quotient(self, node: fx.Node) -> None:
        divided, number = self._arguments(node, "input", "other")
        if not isinstance(divided, fx.Node) or not isinstance(number, int | float) or not number:
            raise self._refusal(node, "only a tensor by a number can be")
        self._multiply(node, 1 / number)

    def _multiply(self, node: fx.Node, number: Any) -> None:
        if not isinstance(number, int | float):
            raise self._refusal(node, "only tensors and numbers can be")
        channels = self._tensors[self._source(node)].channels
        scale = np.full(channels, number, np.float32)
        self._scale(node, scale, np.zeros(channels, np.float32))

    def _add_square(self, node: fx.Node) -> None:
        _, exponent = self._arguments(node, "input", "exponent")
        if exponent != (None if node.target in (torch.square, "square") else 2):
            raise self._refusal(node, "only the exponent 2 can be")
        source = self._source(node)
        made = ops.Multiply((source, source), node.name)
        self._append(node, made, self._tensors[source].channels)

    def _add_mean(self, node: fx.Node) -> None:
        _, dim, keepdim = self._arguments(node, "input", "dim", "keepdim")
        axes = sorted(axis % 4 for axis in dim) if isinstance(dim, list | tuple) else []
        if axes != [2, 3] or keepdim is not True:
            raise self._refusal(node, "only over (2, 3) with keepdim=True can it be")
        source = self._source(node)
        made = ops.GlobalAveragePool(source, node.name)
        self._append(node, made, self._tensors[source].channels)

    def _add_concat(self, node: fx.Node) -> None:
        tensors, dim = self._arguments(node, "tensors", "dim")
        if not isinstance(tensors, list | tuple) or dim not in (1, -3):
            raise self._refusal(node, "only a list along dimension 1 can be")
        names = tuple(self._name(node, tensor) for tensor in tensors)
        channels = sum(self._tensors[name].channels for name in names)
        self._append(node, ops.Concat(names, node.name), channels)

    def _add_parts(self, node: fx.Node) -> None:
        """chunk and split: nothing is done until a part is read."""
        chunks = node.target in (torch.chunk, "chunk")
        names = ("chunks",) if chunks else ("split_size_or_sections", "split_size")
        _, size, dim = self._arguments(node, "input", names[0], "dim", other=names[-1])
        channels = self._tensors[self._source(node)].channels
        if dim not in (1, -3) or not isinstance(size, int | list | tuple):
            raise self._refusal(node, "only along dimension 1 can it be")
        if isinstance(size, int):
            if chunks:
                size = -(-channels // size)
            size = [min(size, channels - start) for start in range(0, channels, size)]
        starts = np.cumsum([0, *size[:-1]]).tolist()
        self._parts[node] = list(zip(starts, size, strict=True))

    def _add_item(self, node: fx.Node) -> None:
        """A part of what was split, or a range of channels such as [:, 16:]."""
        holder, index = node.args
        parts = self._parts.get(holder) if isinstance(holder, fx.Node) else None
        if parts is not None and isinstance(index, int):
            start, count = parts[index]
            source = self._source(holder)  # type: ignore[arg-type]
        else:
            source = self._source(node)
            whole, wanted, *rest = index if isinstance(index, tuple) else (index, None)
            taken = range(self._tensors[source].channels)
            if not isinstance(wanted, slice) or any(i != slice(None) for i in (whole, *rest)):
                raise self._refusal(node, "only a range of channels can be")
            taken = taken[wanted]
            if taken.step != 1 or not taken:
                raise self._refusal(node, "only a range of channels can be")
            start, count = taken.start, len(taken)
        self._append(node, ops.Slice(source, node.name, start), count)

    # What both have in common

    def _check_inplace(self, node: fx.Node) -> None:
        """What is changed in place, or is a part of, must not be read elsewhere."""
        changed = node.all_input_nodes[0]
        while True:
            parts = self._parts.get(changed, [])
            # Parts of one tensor lie apart, so that only the same one is changed with it.
            indices = [user.args[1] for user in changed.users if parts]
            readers = [index % len(parts) for index in indices if isinstance(index, int)]
            if len(readers or changed.users) > max(len(set(readers)), 1):
                why = "inplace, and its input, or what that is a part of, is read elsewhere"
                raise self._refusal(node, why)
            if not parts and changed.target is not operator.getitem:
                return
            changed = changed.all_input_nodes[0]

    def _add_relu(self, node: fx.Node) -> None:
        if node.kwargs.get("inplace"):
            self._check_inplace(node)
        before = self._sole_maker(node)
        if isinstance(before, ops.Conv2D | ops.DepthwiseConv2D):
            self._operators[before.output] = dataclasses.replace(before, relu=True)
            self._names[node] = before.output
        else:
            source = self._source(node)
            self._append(node, ops.ReLU(source, node.name), self._tensors[source].channels)

    def _scale(self, node: fx.Node, scale: ops.Array, shift: ops.Array) -> None:
        """Each channel times its scale plus its shift, in the convolution before if there is one
        that does nothing else."""
        before = self._sole_maker(node)
        if isinstance(before, ops.Conv2D | ops.DepthwiseConv2D) and not before.relu:
            of_outputs = scale[:, None, None, None] if isinstance(before, ops.Conv2D) else scale
            weights = before.weights * of_outputs
            self._operators[before.output] = dataclasses.replace(
                before, weights=weights, bias=before.bias * scale + shift
            )
            self._names[node] = before.output
        else:
            weights = np.ascontiguousarray(scale[None, None])
            made = ops.DepthwiseConv2D(self._source(node), node.name, weights, shift)
            self._append(node, made, len(scale))

    def _sole_maker(self, node: fx.Node) -> ops.Operator | None:
        """The operator whose output the node reads, if nothing else reads it."""
        source = node.all_input_nodes[0]
        return self._operators.get(self._names[source]) if len(source.users) == 1 else None

    def _append(self, node: fx.Node, operation: ops.Operator, channels: int) -> None:
        self._operators[node.name] = operation
        self._names[node] = node.name
        try:
            self._tensors[node.name] = ops.TensorType(channels, "float32")
            sources = [self._tensors[name] for name in operation.inputs]
            check_operator(operation, sources, self._tensors[node.name])
            extents = [self._extents[name] for name in operation.inputs]
            self._extents[node.name] = extent_of(operation, extents)
        except GraphError as error:
            raise self._refusal(node, str(error)) from error

    def _source(self, node: fx.Node) -> str:
        """The first tensor that the node reads."""
        return self._name(node, next(iter(node.all_input_nodes), None))

    def _name(self, node: fx.Node, tensor: Any) -> str:
        if tensor not in self._names:
            raise self._refusal(node, "it reads what is not one tensor")
        return self._names[tensor]


def _table() -> Mapping[Any, Callable[[_Builder, fx.Node], None]]:
    """What is done for each function and method of tensors."""

    def pair(
        kind: type[ops.Add | ops.Subtract | ops.Multiply],
    ) -> Callable[[_Builder, fx.Node], None]:
        return lambda builder, node: builder._add_pair(node, kind)

    def alone(kind: Callable[[str, str], ops.Operator]) -> Callable[[_Builder, fx.Node], None]:
        return lambda builder, node: builder._add_alone(node, kind)

    groups: list[tuple[tuple[Any, ...], Callable[[_Builder, fx.Node], None]]] = [
        ((operator.add, torch.add, "add"), pair(ops.Add)),
        ((operator.sub, torch.sub, "sub"), pair(ops.Subtract)),
        ((operator.mul, torch.mul, "mul"), pair(ops.Multiply)),
        ((operator.truediv, torch.div, "div"), _Builder._add_quotient),
        ((operator.pow, torch.pow, torch.square, "pow", "square"), _Builder._add_square),
        ((torch.mean, "mean"), _Builder._add_mean),
        ((torch.sqrt, "sqrt"), alone(ops.SquareRoot)),
        ((torch.sigmoid, functional.sigmoid, "sigmoid"), alone(ops.Sigmoid)),
        ((torch.relu, functional.relu, "relu"), _Builder._add_relu),
        ((torch.cat,), _Builder._add_concat),
        ((torch.chunk, torch.split, "chunk", "split"), _Builder._add_parts),
        ((operator.getitem,), _Builder._add_item),
    ]
    return {target: add for targets, add in groups for target in targets}


_FUNCTIONS = _table()
