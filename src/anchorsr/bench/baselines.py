"""Networks that are not ours, to measure ours by: the published one, and wide convolutions.

The published network is ABPN as its authors' INT8 `.tflite` has it (Du et al., "Anchor-based
Plain Net for Mobile Image Super-Resolution", 2021): the anchor is a CONCAT of copies of the
input, and MINIMUM and RELU clip at full size. The weights are random, and every scale of a
image is 1 so that its bytes are exact here too: neither changes the time. Wide convolutions
show what an engine can do at best on a machine.
"""

from __future__ import annotations

import numpy as np

from anchorsr.graph import operators as ops
from anchorsr.graph.graph import Graph

PUBLISHED = "published"

BICUBIC = "bicubic"

# Mean PSNR over RGB at x3, border 3. The published network is its authors' file after
# quantization-aware training, which is not ours to ship: it was measured once, in LiteRT.
KNOWN_PSNR = {
    PUBLISHED: {"Set5": 31.471, "Set14": 27.830, "BSD100": 27.320},
    BICUBIC: {"Set5": 28.625, "Set14": 25.944, "BSD100": 25.884},
}
KNOWN_FACTOR = 3

_FILE = ops.Quantization(1.0, 0)
_IMAGE = ops.Quantization(1.0, -128)
_RESIDUAL = ops.Quantization(1.0, 0)
_FEATURES = ops.Quantization(1.0, -128)
_WEIGHT_LIMIT = 64


def published_graph(factor: int = 3, *, channels: int = 28, body: int = 4) -> Graph:
    """The published network's operators, in their order, with random weights; uint8 in and out."""
    colors = 3 * factor**2
    chain = _Chain(PUBLISHED)
    for _ in range(1 + body):
        chain.convolve(channels)
    chain.convolve(colors)
    chain.convolve(colors, relu=False, quantization=_RESIDUAL)
    residual = chain.last
    chain.add(ops.Concat(("image",) * factor**2, "anchor"), colors, _IMAGE)
    chain.add(ops.Add((residual, "anchor"), "sum"), colors, _IMAGE)
    chain.add(ops.DepthToSpace("sum", "large", factor), 3, _IMAGE)
    chain.add(ops.Minimum("large", "bounded", 127), 3, _IMAGE)
    chain.add(ops.ReLU("bounded", "clipped"), 3, _IMAGE)
    return chain.graph()


def wide_graph(channels: int, *, count: int = 2) -> Graph:
    """3×3 convolutions from `channels` to as many, between a first and a last of 1×1."""
    chain = _Chain(f"wide{channels}")
    chain.convolve(channels, kernel=1)
    for _ in range(count):
        chain.convolve(channels)
    chain.convolve(3, kernel=1, relu=False, quantization=_IMAGE)
    return chain.graph()


class _Chain:
    """Collects operators, each of which reads what the one before it made."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._generator = np.random.default_rng(0)
        self._tensors = {"images": ops.TensorType(3, "uint8", _FILE)}
        self._operators: list[ops.Operator] = []
        self.add(ops.Requantize("images", "image"), 3, _IMAGE)

    @property
    def last(self) -> str:
        return self._operators[-1].output

    def add(self, operator: ops.Operator, channels: int, quantization: ops.Quantization) -> None:
        self._tensors[operator.output] = ops.TensorType(channels, "int8", quantization)
        self._operators.append(operator)

    def convolve(
        self,
        channels: int,
        *,
        kernel: int = 3,
        relu: bool = True,
        quantization: ops.Quantization = _FEATURES,
    ) -> None:
        source = self.last
        shape = (channels, kernel, kernel, self._tensors[source].channels)
        weights = self._generator.integers(-_WEIGHT_LIMIT, _WEIGHT_LIMIT + 1, shape, np.int8)
        # He's initialization, which keeps the size of activations from layer to layer.
        deviation = _WEIGHT_LIMIT / np.sqrt(3)
        scale = np.sqrt(2 / np.prod(shape[1:])) / deviation
        scales = np.full(channels, scale, np.float32)
        name = f"conv{len(self._operators)}"
        bias = np.zeros(channels, np.int32)
        conv = ops.Conv2D(source, name, weights, bias, scales, relu)
        self.add(conv, channels, quantization)

    def graph(self) -> Graph:
        last = self._tensors[self.last]
        tensors = {**self._tensors, "upscaled": ops.TensorType(last.channels, "uint8", _FILE)}
        operators = (*self._operators, ops.Requantize(self.last, "upscaled"))
        return Graph(self._name, tensors, operators, "images", "upscaled")
