"""Baselines: the published network, bicubic, and wide convolutions.

The published network is ABPN with the operators of its authors' INT8 `.tflite` (Du et al.,
"Anchor-based Plain Net for Mobile Image Super-Resolution", 2021): the anchor is a CONCAT of copies
of the input, and MINIMUM and RELU clip at full size. The weights are random, and every image has
scale 1, so that all engines give the same bytes; neither changes the time. Wide convolutions show
the best that an engine can do on a machine.
"""

from __future__ import annotations

import numpy as np

from anchorsr.graph import operators as ops
from anchorsr.graph.graph import Graph
from anchorsr.quantization.calibration import IMAGE, IMAGE_IO, RESIDUAL

PUBLISHED = "published"

BICUBIC = "bicubic"

# Mean PSNR over RGB at x3, border 3. That of the published network is of its authors' file after
# quantization-aware training, measured once in LiteRT; the file is not ours to ship.
KNOWN_PSNR = {
    PUBLISHED: {"Set5": 31.471, "Set14": 27.830, "BSD100": 27.320},
    BICUBIC: {"Set5": 28.625, "Set14": 25.944, "BSD100": 25.884},
}
KNOWN_FACTOR = 3

_FEATURES = ops.Quantization(1.0, -128)


def published_graph(factor: int = 3, *, channels: int = 28, body: int = 4) -> Graph:
    """Build the published network with random weights.

    Args:
        factor: The super-resolution ratio.
        channels: The width of the convolutions.
        body: How many convolutions there are between the first one and the last two.

    Returns:
        An integer graph that takes and gives uint8.
    """
    colors = 3 * factor**2
    chain = _Chain(PUBLISHED)
    for _ in range(1 + body):
        chain.convolve(channels)
    chain.convolve(colors)
    chain.convolve(colors, relu=False, quantization=RESIDUAL)
    residual = chain.last
    chain.add(ops.Concat(("image",) * factor**2, "anchor"), colors, IMAGE)
    chain.add(ops.Add((residual, "anchor"), "sum"), colors, IMAGE)
    chain.add(ops.DepthToSpace("sum", "large", factor), 3, IMAGE)
    chain.add(ops.Minimum("large", "bounded", 127), 3, IMAGE)
    chain.add(ops.ReLU("bounded", "clipped"), 3, IMAGE)
    return chain.graph()


def wide_graph(channels: int, *, count: int = 2) -> Graph:
    """Build a graph of 3×3 convolutions that keep the width, between 1×1 convolutions.

    Args:
        channels: The width.
        count: How many 3×3 convolutions there are.

    Returns:
        An integer graph that takes and gives uint8.
    """
    chain = _Chain(f"wide{channels}")
    chain.convolve(channels, kernel=1)
    for _ in range(count):
        chain.convolve(channels)
    chain.convolve(3, kernel=1, relu=False, quantization=IMAGE)
    return chain.graph()


class _Chain:
    """Builds a graph of operators, each of which reads the output of the one before it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._generator = np.random.default_rng(0)
        self._tensors = {"images": ops.TensorType(3, "uint8", IMAGE_IO)}
        self._operators: list[ops.Operator] = []
        self.add(ops.Requantize("images", "image"), 3, IMAGE)

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
        weights = self._generator.integers(-ops.WEIGHT_LIMIT, ops.WEIGHT_LIMIT + 1, shape, np.int8)
        # He's initialization, which keeps the size of activations from layer to layer.
        deviation = ops.WEIGHT_LIMIT / np.sqrt(3)
        scale = np.sqrt(2 / np.prod(shape[1:])) / deviation
        scales = np.full(channels, scale, np.float32)
        name = f"conv{len(self._operators)}"
        bias = np.zeros(channels, np.int32)
        conv = ops.Conv2D(source, name, weights, bias, scales, relu)
        self.add(conv, channels, quantization)

    def graph(self) -> Graph:
        last = self._tensors[self.last]
        tensors = {**self._tensors, "upscaled": ops.TensorType(last.channels, "uint8", IMAGE_IO)}
        operators = (*self._operators, ops.Requantize(self.last, "upscaled"))
        return Graph(self._name, tensors, operators, "images", "upscaled")
