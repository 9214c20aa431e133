"""Quantization-aware training: the integer graph itself is trained, so that what was trained
is what is written.

`IntegerNetwork` computes in float32 tensors that hold integers, with the arithmetic of
`integer.run_graph`, bit for bit. Gradients pass through every rounding unchanged (the
straight-through estimator, arXiv 1308.3432) and stop at saturation; the scales of
activations are learned with the weights, as in LSQ (arXiv 1902.08153), but as logarithms.
Weight scales follow from the largest weight of each output channel.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from anchorsr.datasets import find_training_pictures, load_pair
from anchorsr.errors import GraphError
from anchorsr.graph import Graph
from anchorsr.lower import lower
from anchorsr.networks.layers import BIAS_UNIT, Trainable
from anchorsr.networks.layers import DepthToSpace as DepthToSpaceLayer
from anchorsr.operators import Add, Clip, Conv2D, DepthToSpace, Quantization
from anchorsr.quantize import BIAS_LIMIT, WEIGHT_LIMIT, apply_quantization
from anchorsr.runs import load_weights, read_record, read_run
from anchorsr.scales import PICTURE, choose_quantization, observe_ranges, tensor_roles
from anchorsr.tflite import write_tflite
from anchorsr.training import Machine, Progress, fit

INTEGER_FOLDER = "integer"


def quantize_run(
    folder: Path,
    *,
    train: bool = True,
    machine: Machine = Machine(),
    on_loading: Callable[[int, int], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Graph:
    """The integer graph of a finished run: calibrated, then trained as its recipe says.

    The integer run has a folder of its own, `integer` inside the run's; it is resumed from
    there, unless the float weights or the calibration have changed since, which is an error.
    train=False stops after the calibration.
    Raises CheckpointError for a folder without a run, and what `training.fit` raises.
    """
    recipe = read_run(folder)
    network = load_weights(folder)
    graph = lower(network, name=f"{recipe.network['name']}_x{network.factor}")
    settings = recipe.quantization
    paths = find_training_pictures([Path(name) for name in recipe.data.folders])
    order = np.random.default_rng(recipe.seed).permutation(len(paths))
    drawn = (load_pair(paths[i], network.factor, patch=recipe.data.patch) for i in order)
    pictures = islice((pair.lr for pair in drawn if pair is not None), settings.calibration)
    chosen = choose_quantization(graph, observe_ranges(graph, pictures, settings.percentile))
    calibrated = apply_quantization(graph, chosen)
    if settings.schedule is None or not train:
        return calibrated
    # Integers need float32 as it is: no mixed precision, and no TF32 in cuDNN.
    torch.backends.cudnn.allow_tf32 = False
    trained, _ = fit(
        IntegerNetwork(graph, chosen),
        dataclasses.replace(
            recipe, schedule=settings.schedule, optimizer=settings.optimizer, loss=settings.loss
        ),
        folder / INTEGER_FOLDER,
        machine=dataclasses.replace(machine, mixed_precision=False),
        origin=hashlib.sha256(write_tflite(calibrated)).hexdigest(),
        on_loading=on_loading,
        on_progress=on_progress,
    )
    return trained.to_graph()


def read_records(folder: Path, *, trained: bool) -> dict[str, Any]:
    """What run.json holds of the float run and, if the integers were trained, of theirs."""
    records = {"float": read_record(folder)}
    if trained and (folder / INTEGER_FOLDER).exists():
        records["integer"] = read_record(folder / INTEGER_FOLDER)
    return records


class IntegerNetwork(Trainable):
    """A trainable integer graph: (N, C, H, W) float32 holding 0..255 in and out.

    graph: the float graph to start from; chosen: scale and zero point of each tensor.
    """

    def __init__(self, graph: Graph, chosen: Mapping[str, Quantization]) -> None:
        super().__init__()
        self.source = graph
        self.factor = graph.factor
        self._chosen = dict(chosen)
        roles = tensor_roles(graph)
        self.weights = nn.ParameterDict()
        self.biases = nn.ParameterDict()
        self.log_scales = nn.ParameterDict()
        for operator in graph.operators:
            if not isinstance(operator, Conv2D) or operator.copies_channels:
                continue
            name = operator.output
            kernel = torch.from_numpy(operator.weights).permute(0, 3, 1, 2).contiguous()
            self.weights[name] = nn.Parameter(kernel)
            self.biases[name] = nn.Parameter(torch.from_numpy(operator.bias / BIAS_UNIT))
            if roles[name] == "features":
                scale = torch.tensor(chosen[name].scale, dtype=torch.float32)
                self.log_scales[name] = nn.Parameter(scale.log())

    def forward(self, images: Tensor) -> Tensor:
        """The picture that the exported file computes, every byte."""
        return self.forward_unclipped(images).clamp(0.0, 255.0)

    def forward_unclipped(self, images: Tensor) -> Tensor:
        """The same before the last saturation, which would stop gradients in training."""
        # Values are integers less their zero point, so that zero padding is zero.
        values = {self.source.input: images}
        for operator in self.source.operators:
            sources = [values[name] for name in operator.inputs]
            if isinstance(operator, Conv2D):
                value = self._convolve(operator, sources[0])
            elif isinstance(operator, Add):
                value = sources[0] + sources[1]
            elif isinstance(operator, DepthToSpace):
                value = DepthToSpaceLayer(operator.block)(sources[0])
            elif isinstance(operator, Clip):
                value = sources[0]
            else:
                raise GraphError(f"{type(operator).__name__} cannot be trained")
            values[operator.output] = value
        return values[self.source.output]

    def to_graph(self) -> Graph:
        """The integer graph with the present weights and scales."""
        return apply_quantization(self._present_source(), self._present_choice())

    def _convolve(self, conv: Conv2D, features: Tensor) -> Tensor:
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
        integer_bias = _round(bias / sum_scale)
        padding = (conv.weights.shape[1] // 2, conv.weights.shape[2] // 2)
        total = functional.conv2d(features, integers, integer_bias, padding=padding)
        multiplier = sum_scale / self._scale(name)
        scaled = _round(total * multiplier[:, None, None])
        zero_point = self._chosen[name].zero_point
        low = 0 if conv.relu else -128 - zero_point
        return scaled.clamp(low, 127 - zero_point)

    def _scale(self, name: str) -> Tensor:
        if name in self.log_scales:
            learned: Tensor = self.log_scales[name].exp()
            return learned
        scale = self._chosen[name].scale if name in self._chosen else PICTURE.scale
        return torch.tensor(scale, dtype=torch.float32, device=next(self.parameters()).device)

    def _present_source(self) -> Graph:
        operators = []
        for operator in self.source.operators:
            if isinstance(operator, Conv2D) and operator.output in self.weights:
                name = operator.output
                kernel = self.weights[name].detach().cpu().permute(0, 2, 3, 1).contiguous().numpy()
                bias = (self.biases[name].detach().cpu() * BIAS_UNIT).numpy()
                operator = Conv2D(operator.input, name, kernel, bias, relu=operator.relu)
            operators.append(operator)
        source = self.source
        return Graph(source.name, source.tensors, operators, source.input, source.output)

    def _present_choice(self) -> dict[str, Quantization]:
        return {
            name: Quantization(float(np.float32(self._scale(name).item())), entry.zero_point)
            for name, entry in self._chosen.items()
        }


def _weight_scale(weight: Tensor, bias: Tensor, input_scale: Tensor) -> Tensor:
    """The scales of `quantize.quantize_weights`, by the same operations."""
    largest = weight.abs().amax(dim=(1, 2, 3))
    scale = torch.maximum(largest / WEIGHT_LIMIT, bias.abs() / (input_scale * float(BIAS_LIMIT)))
    widest = scale.max()
    return torch.where(scale > 0, scale, torch.where(widest > 0, widest, 1.0))


class _Round(torch.autograd.Function):
    """Half to even; the gradient is that of the identity."""

    @staticmethod
    def forward(values: Tensor) -> Tensor:
        return values.round()

    @staticmethod
    def setup_context(context: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        """Nothing of the forward pass is needed again."""

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


def _round(values: Tensor) -> Tensor:
    rounded: Tensor = _Round.apply(values)  # type: ignore[no-untyped-call]
    return rounded
