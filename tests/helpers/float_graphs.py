"""Random float graphs, an operator at a time."""

from __future__ import annotations

import numpy as np

from anchorsr.graph import operators as ops
from anchorsr.graph.graph import Graph


class FloatChain:
    """Collects operators; every method returns the name of the tensor that is made."""

    def __init__(self, seed: int = 0) -> None:
        self.generator = np.random.default_rng(seed)
        self.tensors = {"images": ops.TensorType(3, "float32")}
        self.operators: list[ops.Operator] = []

    def channels(self, name: str) -> int:
        return self.tensors[name].channels

    def add(self, operator: ops.Operator, channels: int | None = None) -> str:
        made = self.channels(operator.inputs[0]) if channels is None else channels
        self.tensors[operator.output] = ops.TensorType(made, "float32")
        self.operators.append(operator)
        return operator.output

    def normal(self, *shape: int, gain: float = 1.0) -> np.ndarray:
        return (self.generator.normal(0, gain, shape)).astype(np.float32)

    def convolve(
        self,
        source: str,
        name: str,
        channels: int,
        *,
        kernel: int = 3,
        relu: bool = False,
        groups: int = 1,
        gain: float = 1.0,
    ) -> str:
        inputs = self.channels(source) // groups
        gain /= np.sqrt(kernel * kernel * inputs)
        weights = self.normal(channels, kernel, kernel, inputs, gain=gain)
        bias = self.normal(channels, gain=5)
        return self.add(ops.Conv2D(source, name, weights, bias, None, relu, groups), channels)

    def anchor(self, source: str, name: str, factor: int) -> str:
        copies = np.tile(np.eye(3, dtype=np.float32), (factor**2, 1))[:, None, None]
        return self.add(
            ops.Conv2D(source, name, copies, np.zeros(len(copies), np.float32)), len(copies)
        )

    def graph(self, output: str) -> Graph:
        return Graph("chain", self.tensors, tuple(self.operators), "images", output)


def anchored(body: str, chain: FloatChain) -> Graph:
    """What `body` leads to, as the residual of an image twice as large, clipped."""
    residual = chain.convolve(body, "residual", 12, gain=0.2)
    chain.anchor("images", "anchor", 2)
    chain.add(ops.Add((residual, "anchor"), "sum"))
    chain.add(ops.DepthToSpace("sum", "large", 2), 3)
    chain.add(ops.Clip("large", "upscaled", 0.0, 255.0))
    return chain.graph("upscaled")


def with_every_operator(seed: int = 0, *, square_root: bool = True) -> Graph:
    """One of each operator that has a meaning in a float graph, none of them without effect."""
    chain = FloatChain(seed)
    chain.convolve("images", "first", 8)
    chain.add(ops.LeakyReLU("first", "leaky", 0.05))
    chain.convolve("leaky", "grouped", 8, groups=2)
    chain.add(ops.PReLU("grouped", "bent", chain.generator.uniform(0, 0.5, 8).astype(np.float32)))
    weights = chain.normal(3, 3, 8, gain=0.4)
    chain.add(ops.DepthwiseConv2D("bent", "single", weights, chain.normal(8), None, relu=True))
    chain.add(ops.Subtract(("leaky", "single"), "difference"))
    chain.add(ops.Slice("difference", "half", 4), 4)
    chain.add(ops.ReLU("half", "positive"))
    chain.add(ops.Pool2D("positive", "largest", "max", 3))
    chain.add(ops.Pool2D("half", "smooth", "average", 3))
    chain.add(ops.Concat(("largest", "smooth", "half"), "together"), 12)
    chain.add(ops.GlobalAveragePool("together", "mean"))
    gate_source = "mean"
    if square_root:
        chain.add(ops.Multiply(("mean", "mean"), "squared"))
        gate_source = chain.add(ops.SquareRoot("squared", "root"))
    chain.convolve(gate_source, "gate", 12, kernel=1, gain=0.3)
    chain.add(ops.Sigmoid("gate", "opened"))
    chain.add(ops.Multiply(("together", "opened"), "attended"))
    chain.convolve("attended", "narrow", 3, kernel=5)
    chain.add(ops.Tile("narrow", "tiled", 4), 12)
    chain.add(ops.Add(("tiled", "attended"), "features"))
    spread = chain.normal(3, 4, 4, 12, gain=0.02)
    chain.add(ops.TransposedConv2D("features", "transposed", spread, chain.normal(3), 2), 3)
    chain.add(ops.Resize("narrow", "blurred", 2, "bilinear"))
    chain.convolve("blurred", "again", 3, gain=0.3)
    chain.add(ops.Add(("transposed", "again"), "residual"))
    chain.add(ops.Resize("images", "enlarged", 2, "nearest"))
    chain.add(ops.Add(("enlarged", "residual"), "sum"))
    chain.add(ops.Clip("sum", "upscaled", 0.0, 255.0))
    return chain.graph("upscaled")
