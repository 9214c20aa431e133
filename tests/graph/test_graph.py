"""What a graph refuses, and what it says of itself: extents, reach, work and weights."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from anchorsr.errors import GraphError
from anchorsr.graph import operators as ops
from anchorsr.graph.executor import run_graph
from anchorsr.graph.graph import Graph
from helpers.graphs import IMAGE
from helpers.single import MAKERS, Maker


def floats(*channels: int) -> list[ops.TensorType]:
    return [ops.TensorType(count, "float32") for count in channels]


def int8(channels: int, scale: float = 1.0, zero_point: int = 0) -> ops.TensorType:
    return ops.TensorType(channels, "int8", ops.Quantization(scale, zero_point))


def chain(types: list[ops.TensorType], *operators: ops.Operator) -> Graph:
    """Tensors a, b, c and so on, the first of which is the input and the last the output."""
    names = "abcdefgh"[: len(types)]
    return Graph("chain", dict(zip(names, types, strict=True)), operators, names[0], names[-1])


def weights(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 1, shape).astype(np.float32)


def pooled(operator: ops.Operator, channels: int = 4, out: int = 4) -> Callable[[], Graph]:
    """An image a, its mean b, and an operator from there."""
    return lambda: chain(floats(channels, channels, out), ops.GlobalAveragePool("a", "b"), operator)


UINT8 = ops.TensorType(4, "uint8", IMAGE)

REFUSED: dict[str, Callable[[], Graph]] = {
    "3 groups do not divide 4 and 4": lambda: chain(
        floats(4, 4), ops.Conv2D("a", "b", weights(4, 3, 3, 4), weights(4), groups=3)
    ),
    "channels in 2 groups": lambda: chain(
        floats(4, 4), ops.Conv2D("a", "b", weights(4, 3, 3, 4), weights(4), groups=2)
    ),
    r"depthwise weights are \(odd, odd, channels\)": lambda: chain(
        floats(4, 4), ops.DepthwiseConv2D("a", "b", weights(3, 2, 4), weights(4))
    ),
    "do not map 4 to 8": lambda: chain(
        floats(4, 8), ops.DepthwiseConv2D("a", "b", weights(3, 3, 4), weights(8))
    ),
    "one number per output channel": lambda: chain(
        floats(4, 4), ops.DepthwiseConv2D("a", "b", weights(3, 3, 4), weights(3))
    ),
    "transposed weights .* do not map": lambda: chain(
        floats(4, 2), ops.TransposedConv2D("a", "b", weights(4, 3, 3, 2), weights(2), 3)
    ),
    "exceeds its stride 2 by an even": lambda: chain(
        floats(4, 2), ops.TransposedConv2D("a", "b", weights(2, 9, 9, 4), weights(2), 2)
    ),
    "exceeds its stride 4": lambda: chain(
        floats(4, 2), ops.TransposedConv2D("a", "b", weights(2, 2, 2, 4), weights(2), 4)
    ),
    "integer convolutions have weight scales": lambda: chain(
        [int8(4), int8(4)],
        ops.DepthwiseConv2D("a", "b", np.ones((1, 1, 4), np.int8), np.zeros(4, np.int32)),
    ),
    "Subtract takes two tensors": lambda: chain(floats(4, 2), ops.Subtract(("a", "a"), "b")),
    "Multiply takes two tensors of the same height": lambda: chain(
        floats(4, 1, 4, 4),
        ops.DepthToSpace("a", "b", 2),
        ops.Concat(("b", "b", "b", "b"), "c"),
        ops.Multiply(("a", "c"), "d"),
    ),
    "Concat takes tensors of the same height": lambda: chain(
        floats(4, 4, 8), ops.GlobalAveragePool("a", "b"), ops.Concat(("a", "b"), "c")
    ),
    "Concat reads nothing": lambda: chain(floats(4, 4), ops.Concat((), "b")),
    "Slice takes 3 channels from index 2": lambda: chain(floats(4, 3), ops.Slice("a", "b", 2)),
    "Slice takes 3 channels from index -1": lambda: chain(floats(4, 3), ops.Slice("a", "b", -1)),
    "Tile repeats 4 channels 2 times, which is not 12": lambda: chain(
        floats(4, 12), ops.Tile("a", "b", 2)
    ),
    "ReLU keeps the number of channels": lambda: chain(floats(4, 3), ops.ReLU("a", "b")),
    "slope is from 0 to below 1, not 1.5": lambda: chain(
        floats(4, 4), ops.LeakyReLU("a", "b", 1.5)
    ),
    "one float32 slope per channel": lambda: chain(floats(4, 4), ops.PReLU("a", "b", weights(3))),
    "one int8 slope per channel": lambda: chain(
        [int8(4), int8(4)], ops.PReLU("a", "b", weights(4), 1.0)
    ),
    "has a scale of its slopes": lambda: chain(
        [int8(4), int8(4)], ops.PReLU("a", "b", np.ones(4, np.int8))
    ),
    "scale 1/256 and zero point -128": lambda: chain(
        [int8(4), int8(4, 1 / 256)], ops.Sigmoid("a", "b")
    ),
    "Pool2D's size is odd, not 2": lambda: chain(floats(4, 4), ops.Pool2D("a", "b", "max", 2)),
    "Resize has a factor of at least 1": lambda: chain(
        floats(4, 4), ops.Resize("a", "b", 0, "nearest")
    ),
    "works on 1x1 tensors only": lambda: chain(floats(4, 4), ops.SquareRoot("a", "b")),
    "zero point -128, so that none is negative": lambda: chain(
        [int8(4), int8(4), int8(4)], ops.GlobalAveragePool("a", "b"), ops.SquareRoot("b", "c")
    ),
    "Conv2D over a 1x1 tensor": pooled(ops.Conv2D("b", "c", weights(4, 3, 3, 4), weights(4))),
    "DepthwiseConv2D over a 1x1 tensor": pooled(
        ops.DepthwiseConv2D("b", "c", weights(3, 3, 4), weights(4))
    ),
    "Resize works on images": pooled(ops.Resize("b", "c", 2, "nearest")),
    "DepthToSpace works on images": pooled(ops.DepthToSpace("b", "c", 2), out=1),
    "Pool2D works on images": pooled(ops.Pool2D("b", "c", "max", 3)),
    "TransposedConv2D works on images": pooled(
        ops.TransposedConv2D("b", "c", weights(4, 2, 2, 4), weights(4), 2)
    ),
    "Pool2D keeps the type": lambda: chain([int8(4), int8(4, 0.5)], ops.Pool2D("a", "b", "max", 3)),
    "Resize works on float32 and int8": lambda: chain(
        [UINT8, UINT8], ops.Resize("a", "b", 2, "nearest")
    ),
    "Add works on float32 and int8": lambda: chain([UINT8, UINT8], ops.Add(("a", "a"), "b")),
    "Multiply has inputs and an output of one data type": lambda: chain(
        [int8(4), *floats(4)], ops.Multiply(("a", "a"), "b")
    ),
    "Add has a scale 256 times": lambda: chain([int8(4, 256.0), int8(4)], ops.Add(("a", "a"), "b")),
    "Subtract has a scale 0.000977 times|Subtract has a scale 0.000488": lambda: chain(
        [int8(4, 2.0**-11), int8(4)], ops.Subtract(("a", "a"), "b")
    ),
    "Multiply has a scale 256 times": lambda: chain(
        [int8(4, 16.0), int8(4)], ops.Multiply(("a", "a"), "b")
    ),
    "LeakyReLU has a scale 256 times": lambda: chain(
        [int8(4, 256.0), int8(4)], ops.LeakyReLU("a", "b", 0.5)
    ),
    "LeakyReLU's slope has a scale 0.001 times": lambda: chain(
        [int8(4), int8(4)], ops.LeakyReLU("a", "b", 0.001)
    ),
    "PReLU has a scale 256 times": lambda: chain(
        [int8(4, 256.0), int8(4)], ops.PReLU("a", "b", np.ones(4, np.int8), 1.0)
    ),
    "PReLU's slopes has a scale 1e-10 times": lambda: chain(
        [int8(4), int8(4)], ops.PReLU("a", "b", np.ones(4, np.int8), float(np.float32(1e-10)))
    ),
    "Requantize has a scale 0.00195 times": lambda: chain(
        [int8(4, 2.0**-9), int8(4)], ops.Requantize("a", "b")
    ),
    "Conv2D has a multiplier of 300": lambda: chain(
        [int8(1), int8(1, 0.5)],
        ops.Conv2D(
            "a",
            "b",
            np.ones((1, 1, 1, 1), np.int8),
            np.zeros(1, np.int32),
            np.array([150], np.float32),
        ),
    ),
    "a scale is at least 1.18e-38": lambda: chain(
        [int8(4, 2.0**-140), int8(4, 2.0**-140)], ops.ReLU("a", "b")
    ),
    "Requantize from or to uint8 keeps the scale": lambda: chain(
        [UINT8, int8(4, 0.5)], ops.Requantize("a", "b")
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_does_not_fit_is_refused_in_one_line(message: str) -> None:
    with pytest.raises(GraphError, match=message) as caught:
        REFUSED[message]()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ratio", [2.0**-10, 2.0**-8, 2.0**7, 255.0])
def test_scales_at_the_edge_of_what_litert_takes_are_held(ratio: float) -> None:
    chain([int8(4, ratio), int8(4)], ops.Add(("a", "a"), "b"))
    if 2.0**-8 <= ratio <= 2.0**7:
        chain([int8(4, ratio), int8(4)], ops.Requantize("a", "b"))


def test_extents_follow_the_operators() -> None:
    types = floats(4, 4, 1, 4, 4, 4)
    graph = chain(
        types,
        ops.GlobalAveragePool("a", "b"),
        ops.DepthToSpace("a", "c", 2),
        ops.TransposedConv2D("c", "d", weights(4, 3, 3, 1), weights(4), 3),
        ops.Resize("d", "e", 4, "bilinear"),
        ops.Multiply(("b", "e"), "f"),
    )
    assert graph.extents == {"a": 1, "b": 0, "c": 2, "d": 6, "e": 24, "f": 24}
    assert graph.factor == 24
    with pytest.raises(GraphError, match="whole image at once"):
        _ = graph.halo


def upscaled(*operators: ops.Operator) -> Graph:
    return chain(floats(2, *([2] * len(operators))), *operators)


REACHES: dict[int, list[Graph]] = {
    0: [
        upscaled(ops.TransposedConv2D("a", "b", weights(2, 3, 3, 2), weights(2), 3)),
        upscaled(ops.Resize("a", "b", 3, "nearest")),
        upscaled(ops.Resize("a", "b", 1, "bilinear")),
    ],
    1: [
        upscaled(ops.DepthwiseConv2D("a", "b", weights(3, 3, 2), weights(2))),
        upscaled(ops.Pool2D("a", "b", "average", 3)),
        upscaled(ops.Resize("a", "b", 3, "bilinear")),
        upscaled(
            ops.Resize("a", "b", 2, "bilinear"),
            ops.Conv2D("b", "c", weights(2, 3, 3, 2), weights(2)),
        ),
        upscaled(ops.TransposedConv2D("a", "b", weights(2, 9, 9, 2), weights(2), 3)),
        upscaled(ops.TransposedConv2D("a", "b", weights(2, 4, 4, 2), weights(2), 2)),
        # Three convolutions over three times as many pixels reach one input pixel.
        upscaled(
            ops.Resize("a", "b", 3, "nearest"),
            *(
                ops.Conv2D(source, target, weights(2, 3, 3, 2), weights(2))
                for source, target in ("bc", "cd", "de")
            ),
        ),
    ],
    2: [
        upscaled(ops.TransposedConv2D("a", "b", weights(2, 11, 11, 2), weights(2), 3)),
        upscaled(ops.Pool2D("a", "b", "average", 5)),
        upscaled(
            ops.Resize("a", "b", 2, "bilinear"),
            ops.Conv2D("b", "c", weights(2, 5, 5, 2), weights(2)),
        ),
        upscaled(
            ops.TransposedConv2D("a", "b", weights(2, 9, 9, 2), weights(2), 3),
            ops.Conv2D("b", "c", weights(2, 3, 3, 2), weights(2)),
        ),
    ],
}


@pytest.mark.parametrize("halo", REACHES)
def test_the_halo_is_how_far_a_pixel_is_seen(halo: int) -> None:
    for graph in REACHES[halo]:
        assert graph.halo == halo
        middle, images = 6, np.random.default_rng(1).normal(0, 1, (1, 13, 13, 2))
        images = images.astype(np.float32)
        changed = images.copy()
        changed[0, middle, middle] += 100
        differs = (run_graph(graph, images) != run_graph(graph, changed)).any(axis=(0, 2, 3))
        rows = np.flatnonzero(differs) // graph.factor
        assert rows.min() == middle - halo
        assert rows.max() == middle + halo


def test_multiplications_are_those_for_an_input_pixel() -> None:
    graph = chain(
        floats(4, 4, 8, 4, 4, 4),
        ops.DepthwiseConv2D("a", "b", weights(3, 3, 4), weights(4)),
        ops.Conv2D("b", "c", weights(8, 3, 3, 2), weights(8), groups=2),
        ops.TransposedConv2D("c", "d", weights(4, 9, 9, 8), weights(4), 3),
        ops.Conv2D("d", "e", weights(4, 1, 1, 4), weights(4)),
        ops.PReLU("e", "f", weights(4)),
    )
    counts = [3 * 3 * 4, 8 * 9 * 2, 4 * 81 * 8, 9 * 16]
    assert graph.macs_per_pixel == sum(counts)
    assert graph.parameter_count == 36 + 4 + 144 + 8 + 2592 + 4 + 16 + 4 + 4


def test_zeros_that_even_an_overhang_are_not_counted() -> None:
    """A kernel of 9 at a stride of 2 is kept as one of 10, whose last row and column are zeros."""
    kernel = np.zeros((3, 10, 10, 4), np.float32)
    kernel[:, :9, :9] = weights(3, 9, 9, 4)
    graph = chain(floats(4, 3), ops.TransposedConv2D("a", "b", kernel, weights(3), 2))
    assert graph.macs_per_pixel == 3 * 81 * 4
    assert graph.parameter_count == 3 * 81 * 4 + 3


def test_what_is_done_once_for_an_image_costs_no_pixel_anything() -> None:
    graph = MAKERS["channel attention"](Maker(0, integer=False))
    assert graph.macs_per_pixel == 0
    assert graph.parameter_count == 16 + 2 + 16 + 8
