"""Lowering of PyTorch networks: traced by `torch.fx`, permuted to (N, H, W, C), and fused.

Over-parametrized kernels are collapsed. ReLU and batch normalization, with its running statistics,
are fused into the convolution before them if nothing else reads its output. The anchor becomes a
1×1 convolution with 0/1 weights, which is faster on every measured engine than copies and a
concatenation (docs/experiments.md). Unused results are dropped. Anything that cannot be lowered is
an error that names the operator and the module.
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

from anchorsr.arrays import Array
from anchorsr.errors import GraphError
from anchorsr.graph import operators as ops
from anchorsr.graph.graph import Graph
from anchorsr.graph.verify import check_operator, extent_of
from anchorsr.lowering.layers import convolution, pool, to_array, to_nhwc, transposed
from anchorsr.networks import layers
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
_RESERVED_NAMES = ("images", "image", "upscaled")

# Modules that are the identity in evaluation mode.
_IDENTITIES = (nn.Identity, ActivationNoise)


def lower(network: nn.Module, *, name: str, channels: int = 3) -> Graph:
    """Convert a network, in evaluation mode, to a float graph.

    Args:
        network: A network that takes (N, channels, H, W) on [0, 255].
        name: The name of the graph.
        channels: Input channels.

    Raises:
        GraphError: A part of the network cannot be lowered; the message names operator and module.
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
        if node.op == "call_module" and isinstance(network.get_submodule(node.target), _IDENTITIES):
            node.replace_all_uses_with(node.all_input_nodes[0])
        if not node.users and node.op not in ("placeholder", "output"):
            traced.erase_node(node)
    builder = _Builder(network, channels)
    for node in traced.nodes:
        if node.name in _RESERVED_NAMES:
            node.name = f"{node.name}/own"
        builder.add(node)
    return builder.graph(name)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        return isinstance(module, _LEAVES) or super().is_leaf_module(module, qualified_name)


class _Builder:
    def __init__(self, network: nn.Module, channels: int) -> None:
        self._network = network
        self._operators: dict[str, ops.Operator] = {}  # by output tensor
        self._tensors = {"images": ops.TensorType(channels, "float32")}
        self._extents = {"images": 1}
        self._names: dict[fx.Node, str] = {}
        self._chunks: dict[
            fx.Node, list[tuple[int, int]]
        ] = {}  # first channel and number of channels
        self._output = ""

    def graph(self, name: str) -> Graph:
        operators = list(self._operators.values())
        return Graph(name, self._tensors, operators, "images", self._output)

    def add(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            if self._names:
                raise GraphError(f"a network takes one tensor, but {node.name} is a second one")
            self._names[node] = "images"
        elif node.op == "output":
            result = node.args[0]
            if not isinstance(result, fx.Node) or result in self._chunks:
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
        """An error that names the operator and its place in the network."""
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
        lowered: ops.Operator
        if isinstance(module, nn.ReLU):
            self._add_relu(node)
        elif isinstance(module, Conv3x3):
            bias = module.bias * layers.BIAS_UNIT
            lowered = ops.Conv2D(source, node.name, to_nhwc(module.kernel()), to_array(bias))
            self._append(node, lowered, len(lowered.bias))
        elif isinstance(module, nn.Conv2d):
            self._append(node, self._layer(node, convolution, module), module.out_channels)
        elif isinstance(module, nn.ConvTranspose2d):
            if self._arguments(node, "input", "output_size")[1] is not None:
                raise self._refusal(node, "it is called with an output size")
            self._append(node, self._layer(node, transposed, module), module.out_channels)
        elif isinstance(module, nn.BatchNorm2d):
            self._add_normalization(node, module)
        elif isinstance(module, layers.Anchor):
            copies = np.tile(np.eye(channels, dtype=np.float32), (module.factor**2, 1))
            bias_free = np.zeros(len(copies), np.float32)
            lowered = ops.Conv2D(source, node.name, copies[:, None, None], bias_free)
            self._append(node, lowered, len(copies))
        elif isinstance(module, layers.DepthToSpace):
            lowered = ops.DepthToSpace(source, node.name, module.block)
            self._append(node, lowered, channels // module.block**2)
        elif isinstance(module, nn.MaxPool2d | nn.AvgPool2d):
            self._append(node, self._layer(node, pool, module), channels)
        else:
            self._append(node, self._channelwise(node, module), channels)

    def _channelwise(self, node: fx.Node, module: nn.Module) -> ops.Operator:
        """Lower a module that keeps the number of channels and has at most per-channel slopes."""
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
        if isinstance(module, layers.Interpolate):
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
            raise self._refusal(node, "it has no running statistics")
        scale = 1 / torch.sqrt(module.running_var + module.eps)
        shift = -module.running_mean * scale
        if module.affine:
            scale, shift = scale * module.weight, shift * module.weight + module.bias
        self._scale(node, to_array(scale), to_array(shift))

    # Functions and methods of tensors

    def _arguments(self, node: fx.Node, *names: str, other: str = "") -> list[Any]:
        """The arguments of a function call in this order; None for those that are not given.

        other: PyTorch's second name of the second argument.
        """
        named = {names[1] if name == other else name: value for name, value in node.kwargs.items()}
        if len(node.args) > len(names) or named.keys() - set(names):
            raise self._refusal(node, f"it has arguments other than {', '.join(names)}")
        given = dict(zip(names, node.args, strict=False)) | named
        return [given.get(name) for name in names]

    def _add_unary(self, node: fx.Node, kind: Callable[[str, str], ops.Operator]) -> None:
        self._arguments(node, "input")
        source = self._source(node)
        self._append(node, kind(source, node.name), self._tensors[source].channels)

    def _add_binary(self, node: fx.Node, kind: type[ops.Add | ops.Subtract | ops.Multiply]) -> None:
        left, right = self._arguments(node, "input", "other")
        if isinstance(left, fx.Node) and isinstance(right, fx.Node):
            names = (self._name(node, left), self._name(node, right))
            self._append(node, kind(names, node.name), self._tensors[names[0]].channels)
        elif kind is ops.Multiply:
            self._multiply(node, right if isinstance(left, fx.Node) else left)
        else:
            raise self._refusal(node, "only two tensors are supported")

    def _add_quotient(self, node: fx.Node) -> None:
        divided, number = self._arguments(node, "input", "other")
        if not isinstance(divided, fx.Node) or not isinstance(number, int | float) or not number:
            raise self._refusal(node, "only division of a tensor by a number is supported")
        self._multiply(node, 1 / number)

    def _multiply(self, node: fx.Node, number: Any) -> None:
        if not isinstance(number, int | float):
            raise self._refusal(node, "only tensors and numbers are supported")
        channels = self._tensors[self._source(node)].channels
        scale = np.full(channels, number, np.float32)
        self._scale(node, scale, np.zeros(channels, np.float32))

    def _add_square(self, node: fx.Node) -> None:
        _, exponent = self._arguments(node, "input", "exponent")
        if exponent != (None if node.target in (torch.square, "square") else 2):
            raise self._refusal(node, "only the exponent 2 is supported")
        source = self._source(node)
        lowered = ops.Multiply((source, source), node.name)
        self._append(node, lowered, self._tensors[source].channels)

    def _add_mean(self, node: fx.Node) -> None:
        _, dim, keepdim = self._arguments(node, "input", "dim", "keepdim")
        axes = sorted(axis % 4 for axis in dim) if isinstance(dim, list | tuple) else []
        if axes != [2, 3] or keepdim is not True:
            raise self._refusal(node, "only dimensions (2, 3) with keepdim=True are supported")
        source = self._source(node)
        lowered = ops.GlobalAveragePool(source, node.name)
        self._append(node, lowered, self._tensors[source].channels)

    def _add_concat(self, node: fx.Node) -> None:
        tensors, dim = self._arguments(node, "tensors", "dim")
        if not isinstance(tensors, list | tuple) or dim not in (1, -3):
            raise self._refusal(node, "only a list along dimension 1 is supported")
        names = tuple(self._name(node, tensor) for tensor in tensors)
        channels = sum(self._tensors[name].channels for name in names)
        self._append(node, ops.Concat(names, node.name), channels)

    def _add_chunks(self, node: fx.Node) -> None:
        """Note the chunks of chunk and split; reading one becomes a Slice."""
        chunks = node.target in (torch.chunk, "chunk")
        names = ("chunks",) if chunks else ("split_size_or_sections", "split_size")
        _, size, dim = self._arguments(node, "input", names[0], "dim", other=names[-1])
        channels = self._tensors[self._source(node)].channels
        if dim not in (1, -3) or not isinstance(size, int | list | tuple):
            raise self._refusal(node, "only dimension 1 is supported")
        if isinstance(size, int):
            if chunks:
                size = -(-channels // size)
            size = [min(size, channels - start) for start in range(0, channels, size)]
        starts = np.cumsum([0, *size[:-1]]).tolist()
        self._chunks[node] = list(zip(starts, size, strict=True))

    def _add_item(self, node: fx.Node) -> None:
        """Lower the choice of a chunk, or of a range of channels such as [:, 16:]."""
        holder, index = node.args
        chunks = self._chunks.get(holder) if isinstance(holder, fx.Node) else None
        if chunks is not None and isinstance(index, int):
            start, count = chunks[index]
            source = self._source(holder)  # type: ignore[arg-type]
        else:
            source = self._source(node)
            whole, wanted, *rest = index if isinstance(index, tuple) else (index, None)
            chosen = range(self._tensors[source].channels)
            if not isinstance(wanted, slice) or any(i != slice(None) for i in (whole, *rest)):
                raise self._refusal(node, "only a range of channels is supported")
            chosen = chosen[wanted]
            if chosen.step != 1 or not chosen:
                raise self._refusal(node, "only a range of channels is supported")
            start, count = chosen.start, len(chosen)
        self._append(node, ops.Slice(source, node.name, start), count)

    # Helpers of both

    def _check_inplace(self, node: fx.Node) -> None:
        """Refuse an in-place change of a tensor that is also read elsewhere."""
        changed = node.all_input_nodes[0]
        while True:
            chunks = self._chunks.get(changed, [])
            # Chunks do not overlap: changing one leaves the others as they are.
            indices = [user.args[1] for user in changed.users if chunks]
            readers = [index % len(chunks) for index in indices if isinstance(index, int)]
            if len(readers or changed.users) > max(len(set(readers)), 1):
                why = "it works in place on a tensor that is read elsewhere"
                raise self._refusal(node, why)
            if not chunks and changed.target is not operator.getitem:
                return
            changed = changed.all_input_nodes[0]

    def _add_relu(self, node: fx.Node) -> None:
        if node.kwargs.get("inplace"):
            self._check_inplace(node)
        before = self._sole_producer(node)
        if isinstance(before, ops.Conv2D | ops.DepthwiseConv2D):
            self._operators[before.output] = dataclasses.replace(before, relu=True)
            self._names[node] = before.output
        else:
            source = self._source(node)
            self._append(node, ops.ReLU(source, node.name), self._tensors[source].channels)

    def _scale(self, node: fx.Node, scale: Array, shift: Array) -> None:
        """Scale and shift each channel, fused into the convolution before it if possible."""
        before = self._sole_producer(node)
        if isinstance(before, ops.Conv2D | ops.DepthwiseConv2D) and not before.relu:
            of_outputs = scale[:, None, None, None] if isinstance(before, ops.Conv2D) else scale
            weights = before.weights * of_outputs
            self._operators[before.output] = dataclasses.replace(
                before, weights=weights, bias=before.bias * scale + shift
            )
            self._names[node] = before.output
        else:
            weights = np.ascontiguousarray(scale[None, None])
            lowered = ops.DepthwiseConv2D(self._source(node), node.name, weights, shift)
            self._append(node, lowered, len(scale))

    def _sole_producer(self, node: fx.Node) -> ops.Operator | None:
        """The operator that computes the node's input, if nothing else reads that."""
        source = node.all_input_nodes[0]
        return self._operators.get(self._names[source]) if len(source.users) == 1 else None

    def _append(self, node: fx.Node, lowered: ops.Operator, channels: int) -> None:
        self._operators[node.name] = lowered
        self._names[node] = node.name
        try:
            self._tensors[node.name] = ops.TensorType(channels, "float32")
            sources = [self._tensors[name] for name in lowered.inputs]
            check_operator(lowered, sources, self._tensors[node.name])
            extents = [self._extents[name] for name in lowered.inputs]
            self._extents[node.name] = extent_of(lowered, extents)
        except GraphError as error:
            raise self._refusal(node, str(error)) from error

    def _source(self, node: fx.Node) -> str:
        """The name of the first tensor that the node reads."""
        return self._name(node, next(iter(node.all_input_nodes), None))

    def _name(self, node: fx.Node, tensor: Any) -> str:
        if tensor not in self._names:
            raise self._refusal(node, "it reads something other than a single tensor")
        return self._names[tensor]


def _table() -> Mapping[Any, Callable[[_Builder, fx.Node], None]]:
    """The lowering of each function and tensor method."""

    def binary(
        kind: type[ops.Add | ops.Subtract | ops.Multiply],
    ) -> Callable[[_Builder, fx.Node], None]:
        return lambda builder, node: builder._add_binary(node, kind)

    def unary(kind: Callable[[str, str], ops.Operator]) -> Callable[[_Builder, fx.Node], None]:
        return lambda builder, node: builder._add_unary(node, kind)

    groups: list[tuple[tuple[Any, ...], Callable[[_Builder, fx.Node], None]]] = [
        ((operator.add, torch.add, "add"), binary(ops.Add)),
        ((operator.sub, torch.sub, "sub"), binary(ops.Subtract)),
        ((operator.mul, torch.mul, "mul"), binary(ops.Multiply)),
        ((operator.truediv, torch.div, "div"), _Builder._add_quotient),
        ((operator.pow, torch.pow, torch.square, "pow", "square"), _Builder._add_square),
        ((torch.mean, "mean"), _Builder._add_mean),
        ((torch.sqrt, "sqrt"), unary(ops.SquareRoot)),
        ((torch.sigmoid, functional.sigmoid, "sigmoid"), unary(ops.Sigmoid)),
        ((torch.relu, functional.relu, "relu"), _Builder._add_relu),
        ((torch.cat,), _Builder._add_concat),
        ((torch.chunk, torch.split, "chunk", "split"), _Builder._add_chunks),
        ((operator.getitem,), _Builder._add_item),
    ]
    return {target: add for targets, add in groups for target in targets}


_FUNCTIONS = _table()
