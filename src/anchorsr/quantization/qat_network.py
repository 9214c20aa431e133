"""The integer graph as a trainable network, for quantization-aware training (QAT).

`IntegerNetwork` computes in float32 tensors that hold integers, bit for bit as
`executor.run_graph` does: convolutions, sums at one scale and moves in PyTorch, everything else by
the executor itself. Gradients pass through rounding unchanged (the straight-through estimator,
arXiv 1308.3432) and stop at saturation. Activation scales are learned with the weights, as in LSQ
(arXiv 1902.08153), but as logarithms. Weight scales follow from the largest weight of each output
channel. SquareRoot is not supported: its gradient has no bound at zero.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from anchorsr.errors import GraphError
from anchorsr.graph import operators as ops
from anchorsr.graph.executor import execute
from anchorsr.graph.graph import Graph
from anchorsr.networks.base import Trainable
from anchorsr.networks.layers import BIAS_UNIT, Modulation
from anchorsr.networks.layers import DepthToSpace as DepthToSpaceLayer
from anchorsr.quantization.calibration import IMAGE, KEEPS_VALUES, fixed_quantizations, share
from anchorsr.quantization.ptq import (
    BIAS_LIMIT,
    apply_quantization,
    clip_limits,
    quantize_slopes,
)
from anchorsr.quantization.rounding import avoid_ties


class IntegerNetwork(Trainable):
    """A trainable integer graph: (N, C, H, W) float32 with integers in 0..255 in and out.

    Args:
        graph: The float graph to start from.
        chosen: Scale and zero point of the output of each operator.

    Raises:
        GraphError: The graph does not end in an image.
    """

    def __init__(self, graph: Graph, chosen: Mapping[str, ops.Quantization]) -> None:
        super().__init__()
        self.source = graph
        self.factor = graph.factor
        self._chosen = {graph.input: IMAGE, **chosen}
        self._fixed = fixed_quantizations(graph)
        if self._fixed.get(graph.output, IMAGE) != IMAGE:
            raise GraphError(
                f"{graph.name} does not end in an image: quantization-aware training needs an"
                " addition, a convolution or a clip last"
            )
        self._first = share(
            graph,
            lambda operator, name: (
                self._fixed.get(name) == self._fixed.get(operator.output)
                and self._chosen[name] == self._chosen[operator.output]
            ),
        )
        self._output_stage = _saturated_last(graph)
        self.weights = nn.ParameterDict()
        self.biases = nn.ParameterDict()
        self.slopes = nn.ParameterDict()
        self.log_scales = nn.ParameterDict()
        for operator in graph.operators:
            name = operator.output
            if isinstance(operator, ops.Convolution) and not self._is_anchor(operator):
                kernel = torch.from_numpy(ops.by_channel(operator)).permute(0, 3, 1, 2).contiguous()
                self.weights[name] = nn.Parameter(kernel)
                self.biases[name] = nn.Parameter(torch.from_numpy(operator.bias / BIAS_UNIT))
            elif isinstance(operator, ops.PReLU):
                self.slopes[name] = nn.Parameter(torch.from_numpy(operator.slopes.copy()))
            if name not in self._fixed and self._first[name] == name:
                scale = torch.tensor(chosen[name].scale, dtype=torch.float32)
                self.log_scales[name] = nn.Parameter(scale.log())

    def forward(self, images: Tensor) -> Tensor:
        """Compute the image, equal to that of the exported file in every byte."""
        return self.forward_unclipped(images).clamp(0.0, 255.0)

    def forward_unclipped(self, images: Tensor) -> Tensor:
        """Compute the image without the last saturation, which would stop gradients."""
        return self.compute(images, {}, {})

    def compute(
        self,
        images: Tensor,
        modulations: Mapping[str, Modulation],
        factors: Mapping[str, Tensor],
    ) -> Tensor:
        """Compute the image without the last saturation.

        Args:
            images: (N, 3, H, W) integers in 0..255.
            modulations: Gains and bias shifts of convolutions, by the name of their output.
            factors: (N, 1) factors of the scales of tensors, by their names, of a graph of
                convolutions, exact sums and moves. Tensors that share a scale share a factor.
        """
        self.source.check_size(*images.shape[2:])
        # Values are integers minus their zero point, so that zero padding is zero.
        values = {self.source.input: images}
        for operator in self.source.operators:
            names = operator.inputs
            sources = [values[name] for name in names]
            if isinstance(operator, KEEPS_VALUES):
                sources = [
                    value
                    if self._first[name] == self._first[operator.output]
                    else self._execute(ops.Requantize(name, operator.output), [value])
                    for name, value in zip(names, sources, strict=True)
                ]
                names = (operator.output,) * len(sources)
            if isinstance(operator, ops.Convolution):
                modulation = modulations.get(operator.output)
                value = self._convolve(operator, sources[0], modulation, factors)
            elif isinstance(operator, ops.Clip) and operator.output not in self._fixed:
                chosen = self._present(operator.output)
                low, high = (limit - chosen.zero_point for limit in clip_limits(operator, chosen))
                value = sources[0].clamp(low, high)
            elif isinstance(operator, ops.Add) and self._adds_exactly(operator):
                value = self._saturate(operator.output, sources[0] + sources[1])
            else:
                moved = _move(operator, sources, self.source.tensors[operator.output].channels)
                value = self._execute(operator, sources, names) if moved is None else moved
            values[operator.output] = value
        return values[self.source.output]

    def to_graph(self) -> Graph:
        """Return the integer graph with the present weights and scales."""
        return apply_quantization(self._present_source(), self._present_choice())

    @torch.no_grad()
    def avoid_ties(self) -> None:
        """Enlarge filters and biases by up to 5e-5, for the tie-avoiding scales of `rounding`."""
        graph = self.to_graph()
        for before, after in zip(graph.operators, avoid_ties(graph).operators, strict=True):
            if isinstance(after, ops.Convolution) and after.output in self.weights:
                assert isinstance(before, ops.Convolution)
                assert before.weight_scales is not None and after.weight_scales is not None
                ratio = torch.from_numpy(after.weight_scales / before.weight_scales)
                for each in (self.weights[after.output], self.biases[after.output]):
                    each.mul_(ratio.to(each).view(-1, *[1] * (each.dim() - 1)))

    def _is_anchor(self, conv: ops.Convolution) -> bool:
        """Tell whether a convolution copies an image; copies of features may change the scale."""
        is_image = self._fixed.get(conv.input) == self._fixed.get(conv.output) == IMAGE
        return is_image and isinstance(conv, ops.Conv2D) and conv.copies_channels

    def _convolve(
        self,
        conv: ops.Convolution,
        features: Tensor,
        modulation: Modulation | None,
        factors: Mapping[str, Tensor],
    ) -> Tensor:
        name = conv.output
        if name not in self.weights:  # an anchor: exact copies
            copies = torch.from_numpy(conv.weights).permute(0, 3, 1, 2).to(features.device)
            return functional.conv2d(features, copies)
        weight = self.weights[name]
        bias = self.biases[name] * BIAS_UNIT
        input_scale = self._scale(conv.input)
        weight_scale = _weight_scale(weight.detach(), bias.detach(), input_scale.detach())
        integers = _round(weight / weight_scale[:, None, None, None])
        sum_scale = input_scale * weight_scale
        if modulation is None:
            total = _sum_of_products(conv, features, integers, _round(bias / sum_scale))
        else:  # (N, C) scales and biases
            gains, shifts = modulation
            sum_scale = sum_scale * gains * factors.get(conv.input, 1.0)
            biases = _round((bias + shifts * BIAS_UNIT) / sum_scale)
            total = _sum_of_products(conv, features, integers, None) + biases[:, :, None, None]
        multiplier = sum_scale / (self._scale(name) * factors.get(name, 1.0))
        scaled = _round(total * multiplier[..., None, None])
        relu = not isinstance(conv, ops.TransposedConv2D) and conv.relu
        return self._saturate(name, scaled.relu() if relu else scaled)

    def _execute(
        self, operator: ops.Operator, sources: list[Tensor], names: tuple[str, ...] = ()
    ) -> Tensor:
        """Run the executor on the integers, with the gradient of real arithmetic.

        Args:
            operator: The operator to execute.
            sources: Its inputs, integers minus their zero point.
            names: Tensors of the types of the inputs; the operator's own inputs by default.
        """
        name, names = operator.output, names or operator.inputs
        reals = [v * self._scale(of) for v, of in zip(sources, names, strict=True)]
        slopes = self.slopes.get(name)
        real = self._saturate(name, _real(operator, reals, slopes) / self._scale(name))
        if isinstance(operator, ops.PReLU):
            operator = quantize_slopes(self._present_slopes(operator))
        channels = [self.source.tensors[of].channels for of in operator.inputs]
        types = [
            ops.TensorType(width, "int8", self._present(of))
            for width, of in zip(channels, names, strict=True)
        ]
        zero_points = [self._chosen[of].zero_point for of in names]
        stored = [v.detach() + zero for v, zero in zip(sources, zero_points, strict=True)]
        if isinstance(operator, _ELEMENTWISE):
            exact = _look_up(_tabulate(operator, types, self._type(name)), stored)
        else:
            arrays = [v.to(torch.int8).permute(0, 2, 3, 1).cpu().numpy() for v in stored]
            made = torch.from_numpy(execute(operator, arrays, types, self._type(name)))
            exact = made.to(real.device).permute(0, 3, 1, 2).float()
        return _substitute(real, exact - self._chosen[name].zero_point)

    def _adds_exactly(self, add: ops.Add) -> bool:
        fixed, first = self._fixed, self._first
        names = (*add.inputs, add.output)
        return len({fixed[name].scale if name in fixed else first[name] for name in names}) == 1

    def _saturate(self, name: str, values: Tensor) -> Tensor:
        zero_point = self._chosen[name].zero_point
        return (
            values
            if name in self._output_stage
            else values.clamp(-128 - zero_point, 127 - zero_point)
        )

    def _scale(self, name: str) -> Tensor:
        first = self._first[name]
        if first in self.log_scales:
            learned: Tensor = self.log_scales[first].exp()
            return learned
        device = next(self.parameters()).device
        return torch.tensor(self._chosen[name].scale, dtype=torch.float32, device=device)

    def _type(self, name: str) -> ops.TensorType:
        return ops.TensorType(self.source.tensors[name].channels, "int8", self._present(name))

    def _present(self, name: str) -> ops.Quantization:
        scale = float(np.float32(self._scale(name).item()))
        return ops.Quantization(scale, self._chosen[name].zero_point)

    def _present_choice(self) -> dict[str, ops.Quantization]:
        return {name: self._present(name) for name in self._chosen}

    def _present_source(self) -> Graph:
        operators = []
        for operator in self.source.operators:
            if isinstance(operator, ops.Convolution) and operator.output in self.weights:
                name = operator.output
                kernel = self.weights[name].detach().cpu().permute(0, 2, 3, 1).contiguous().numpy()
                bias = (self.biases[name].detach().cpu() * BIAS_UNIT).numpy()
                kernel = ops.as_stored(operator, kernel)
                operator = dataclasses.replace(operator, weights=kernel, bias=bias)
            elif isinstance(operator, ops.PReLU):
                operator = self._present_slopes(operator)
            operators.append(operator)
        source = self.source
        return Graph(source.name, source.tensors, operators, source.input, source.output)

    def _present_slopes(self, prelu: ops.PReLU) -> ops.PReLU:
        slopes = self.slopes[prelu.output].detach().cpu().numpy()
        return dataclasses.replace(prelu, slopes=slopes.copy())


# Operators whose results depend on one value of each input (PReLU: and on the channel).
_ELEMENTWISE = (
    ops.Add | ops.Subtract | ops.Multiply | ops.LeakyReLU | ops.PReLU | ops.Sigmoid | ops.Requantize
)


def _saturated_last(graph: Graph) -> set[str]:
    """Return the output and tensors only moved on the way to it: one clip is enough for all."""
    names = {graph.output}
    for operator in reversed(graph.operators):
        if operator.output in names and isinstance(operator, ops.Clip | ops.DepthToSpace):
            names.add(operator.input)
    return names


def _sum_of_products(
    conv: ops.Convolution, features: Tensor, weights: Tensor, bias: Tensor | None
) -> Tensor:
    if isinstance(conv, ops.TransposedConv2D):
        height, width = ((side - conv.stride) // 2 for side in weights.shape[2:])
        return functional.conv_transpose2d(
            features, weights.transpose(0, 1), bias, conv.stride, (height, width)
        )
    groups = features.shape[1] if isinstance(conv, ops.DepthwiseConv2D) else conv.groups
    stride = conv.stride if isinstance(conv, ops.Conv2D) else 1
    padding = ((weights.shape[2] - stride) // 2, (weights.shape[3] - stride) // 2)
    return functional.conv2d(features, weights, bias, stride, padding, groups=groups)


def _move(operator: ops.Operator, sources: list[Tensor], channels: int) -> Tensor | None:
    """Compute an operator that only moves values; None for another operator."""
    source = sources[0]
    match operator:
        case ops.Clip():
            return source
        case ops.Concat():
            return torch.cat(sources, dim=1)
        case ops.DepthToSpace():
            moved: Tensor = DepthToSpaceLayer(operator.block)(source)
            return moved
        case ops.Pool2D(kind="max"):
            padding = (operator.size - operator.stride) // 2
            return functional.max_pool2d(source, operator.size, operator.stride, padding)
        case ops.ReLU():
            return source.relu()
        case ops.Resize(mode="nearest"):
            return functional.interpolate(source, scale_factor=operator.factor)
        case ops.Slice():
            return source[:, operator.start : operator.start + channels]
        case ops.Tile():
            return source.repeat(1, operator.count, 1, 1)
        case _:
            return None


def _tabulate(
    operator: ops.Operator, types: list[ops.TensorType], target: ops.TensorType
) -> Tensor:
    """Run the executor on every int8, or pair of them; (rows, channels or 1) float32."""
    every = np.arange(-128, 128, dtype=np.int8)
    pairs = np.meshgrid(every, every, indexing="ij")
    columns = [every] if len(types) == 1 else [values.ravel() for values in pairs]
    channels = target.channels if isinstance(operator, ops.PReLU) else 1
    arrays = [np.tile(column[None, None, :, None], (1, 1, 1, channels)) for column in columns]
    return torch.from_numpy(execute(operator, arrays, types, target)[0, 0]).float()


def _look_up(table: Tensor, stored: list[Tensor]) -> Tensor:
    """Look up int8 values, (N, C, H, W) in float32, in a table of `_tabulate`."""
    row = stored[0] + 128
    for values in stored[1:]:
        row = row * 256 + (values + 128)
    rows, channels = table.shape
    if channels > 1:
        start = torch.arange(channels, device=row.device) * rows
        row = row + start[:, None, None]
    return table.t().flatten().to(row.device)[row.long()]


def _real(operator: ops.Operator, sources: list[Tensor], slopes: Tensor | None) -> Tensor:
    """Compute the operator in real numbers, for the gradient of the integer operator."""
    source = sources[0]
    match operator:
        case ops.Add():
            return source + sources[1]
        case ops.Subtract():
            return source - sources[1]
        case ops.Multiply():
            return source * sources[1]
        case ops.Requantize():
            return source
        case ops.LeakyReLU():
            return functional.leaky_relu(source, operator.slope)
        case ops.PReLU():
            assert slopes is not None
            return functional.prelu(source, slopes)
        case ops.Sigmoid():
            return source.sigmoid()
        case ops.Resize():
            return functional.interpolate(source, scale_factor=operator.factor, mode="bilinear")
        case ops.Pool2D():
            size = operator.size
            return functional.avg_pool2d(source, size, 1, size // 2, count_include_pad=False)
        case ops.GlobalAveragePool():
            return source.mean(dim=(2, 3), keepdim=True)
        case _:
            raise GraphError(f"{type(operator).__name__} cannot be trained")


def _weight_scale(weight: Tensor, bias: Tensor, input_scale: Tensor) -> Tensor:
    """Compute the scales of `ptq.quantize_weights`, by the same operations."""
    largest = weight.abs().amax(dim=(1, 2, 3))
    scale = torch.maximum(
        largest / ops.WEIGHT_LIMIT, bias.abs() / (input_scale * float(BIAS_LIMIT))
    )
    widest = scale.max()
    return torch.where(scale > 0, scale, torch.where(widest > 0, widest, 1.0))


class _Round(torch.autograd.Function):
    """Round half to even; the gradient is that of the identity."""

    @staticmethod
    def forward(values: Tensor) -> Tensor:
        return values.round()

    @staticmethod
    def setup_context(context: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        """Save nothing: the backward pass needs no values."""

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


def _round(values: Tensor) -> Tensor:
    rounded: Tensor = _Round.apply(values)  # type: ignore[no-untyped-call]
    return rounded


class _Substitute(torch.autograd.Function):
    """Replace a computed value by another and keep the gradient of the first."""

    @staticmethod
    def forward(computed: Tensor, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(context: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        """Save nothing: the backward pass needs no values."""

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def _substitute(computed: Tensor, value: Tensor) -> Tensor:
    substituted: Tensor = _Substitute.apply(computed, value)  # type: ignore[no-untyped-call]
    return substituted
