"""How fast the native kernel is: beside other engines, and beside the ceiling of its inner loop.

    python benchmarks/kernel_speed.py [quality fast] [--threads 1] [--size 640x360] [--seconds 60]

Everything takes its turn in every round, and ratios are medians over rounds, so that what else the
machine does meets all alike. The ceiling is what one more 3×3 convolution of 32 channels costs in
an image 48 pixels wide, where all that it touches stays in the first-level cache; a network's share
is its multiplications a second over the ceiling's, once as they are counted and once with those by
the zeros that fill channels up to the width of a register (`padded`).
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable

import numpy as np

from anchorsr.bench.samples import natural_image
from anchorsr.engines.native.library import Network, instruction_sets
from anchorsr.engines.native.packing import pack_graph
from anchorsr.engines.runtimes import NATIVE, load_engine
from anchorsr.engines.selection import installed_engines
from anchorsr.graph.graph import Graph
from anchorsr.graph.operators import Conv2D, Operator, Quantization, Requantize, TensorType
from anchorsr.models.registry import model_path, read_model
from exactness import exit_code

_CEILING_SIZE = (480, 48)
_CHANNELS = 32
_PAUSE_S = 0.03


def ceiling_graph(layers: int) -> Graph:
    """3 to 32 channels, some 3×3 convolutions, and back; weights are those of a trained network."""
    generator = np.random.default_rng(0)
    byte, signed = Quantization(1.0, 0), Quantization(1.0, -128)
    tensors = {"images": TensorType(3, "uint8", byte), "0": TensorType(3, "int8", signed)}
    operators: list[Operator] = [Requantize("images", "0")]
    widths = [3, *[_CHANNELS] * (layers + 1), 3]
    for number, (before, after) in enumerate(itertools.pairwise(widths)):
        size = 3 if before == after else 1
        drawn = np.rint(generator.normal(0, 15, (after, size, size, before)))
        weights = np.clip(drawn, -64, 64).astype(np.int8)
        scales = np.full(after, 1e-3, np.float32)
        name = str(number + 1)
        tensors[name] = TensorType(after, "int8", signed)
        operators.append(
            Conv2D(str(number), name, weights, np.zeros(after, np.int32), scales, relu=True)
        )
    tensors["upscaled"] = TensorType(3, "uint8", byte)
    operators.append(Requantize(name, "upscaled"))
    return Graph("ceiling", tensors, tuple(operators), "images", "upscaled")


def padded_macs(graph: Graph) -> int:
    """Multiplications for an input pixel with outputs in eights and inputs in fours."""
    total = 0
    for operator in graph.operators:
        if isinstance(operator, Conv2D) and not operator.copies_channels:
            outputs, height, width, inputs = operator.weights.shape
            total += -(-outputs // 8) * 8 * height * width * -(-inputs // 4) * 4
    return total


def kernel_call(graph: Graph, instructions: str, size: tuple[int, int]) -> Callable[[], object]:
    """One thread, without what surrounds the kernel."""
    network = Network(pack_graph(graph), graph.factor, instructions)
    image = natural_image(*size)
    upscaled = np.zeros((size[0] * graph.factor, size[1] * graph.factor, 3), np.uint8)
    workspace = network.workspace(size[1])
    return lambda: network.run(image, 0, size[0], upscaled, workspace)


def measure(options: argparse.Namespace) -> list[str]:
    width, height = (int(side) for side in options.size.split("x"))
    sets = [name for name, there in instruction_sets().items() if there and name != "portable"]
    calls: dict[tuple[str, str], Callable[[], object]] = {}
    graphs: dict[str, Graph] = {}
    for layers in (1, 9):
        for name in sets:
            call = kernel_call(ceiling_graph(layers), name, _CEILING_SIZE)
            calls[f"ceiling{layers}", name] = call
    for model in options.models:
        data, graphs[model] = read_model(model_path(model))
        images = natural_image(height, width)[None]
        for name in sets:
            calls[model, name] = kernel_call(graphs[model], name, (height, width))
        for engine in (NATIVE, *installed_engines()):
            loaded = load_engine(data, name=engine, threads=options.threads)
            calls[model, engine] = lambda loaded=loaded, images=images: loaded(images)
    taken: dict[tuple[str, str], list[float]] = {case: [] for case in calls}
    begun = time.monotonic()
    while time.monotonic() - begun < options.seconds:
        for case, call in calls.items():
            time.sleep(_PAUSE_S)
            call()
            start = time.perf_counter()
            call()
            taken[case].append(time.perf_counter() - start)
    times = {case: np.array(seconds) for case, seconds in taken.items()}
    print(f"{len(times[next(iter(times))])} rounds, {height} rows of {width}")
    pixels = _CEILING_SIZE[0] * _CEILING_SIZE[1]
    for name in sets:
        more = times["ceiling9", name] - times["ceiling1", name]
        ceiling = 8 * 9 * _CHANNELS**2 * pixels / np.maximum(more, 1e-9) / 1e9
        print(f"{name}: ceiling of a thread {np.median(ceiling):.1f} GMAC/s")
        for model, graph in graphs.items():
            rate = graph.macs_per_pixel * height * width / times[model, name] / 1e9
            share = float(np.median(rate / ceiling))
            padded = share * padded_macs(graph) / graph.macs_per_pixel
            print(
                f"  {model}: {np.median(rate):.1f} GMAC/s, {share:.2f} of it, {padded:.2f} padded"
            )
    for model in options.models:
        for engine in (NATIVE, *installed_engines()):
            mine, other = times[model, NATIVE], times[model, engine]
            print(
                f"{model}, {engine}, {options.threads} threads: {1000 * np.median(other):.1f} ms,"
                f" {np.median(other / mine):.2f} times as long as native"
            )
    return []


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("models", nargs="*", default=["quality", "fast"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--size", default="640x360", help="width x height")
    parser.add_argument("--seconds", type=float, default=60)
    options = parser.parse_args()
    return exit_code("kernel_speed", lambda: measure(options))


if __name__ == "__main__":
    sys.exit(main())
