"""How fast the native kernel is: beside other engines, and beside the ceiling of its inner loop.

    python benchmarks/kernel_speed.py [quality fast] [--threads 1] [--size 640x360] [--seconds 60]

Everything takes its turn in every round, and ratios are medians over rounds, so that what else the
machine does meets all alike. With one thread, the default, it is processor time that is measured.
The ceiling is what the inner loop does with 48 pixels of the network's second layer, again and
again, where all that it touches stays in the first-level cache (`kernel/ceiling.c`). A network's
share is its multiplications a second over the ceiling's, once as they are counted and once with
those by the zeros that fill channels up to the width of a register (`padded`). Needs gcc.
"""

from __future__ import annotations

import argparse
import ctypes
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from anchorsr.engines.native import library
from anchorsr.engines.native.library import Network, instruction_sets
from anchorsr.engines.native.packing import pack_graph
from anchorsr.engines.runtimes import NATIVE, load_engine
from anchorsr.engines.selection import installed_engines
from anchorsr.errors import BenchmarkError
from anchorsr.graph.graph import Graph
from anchorsr.graph.operators import Conv2D
from anchorsr.models.registry import model_path, read_model
from anchorsr.utils.sample_image import sample_image
from exactness import exit_code, run_command

_CEILING_PIXELS, _CEILING_TIMES, _CEILING_LAYER = 48, 500, 1
_FOLDER = Path(__file__).parent / "kernel"
_SOURCES = Path(library.__file__).parent
_FLAGS = ("-std=c11", "-O3", "-ffp-contract=off", "-fvisibility=hidden", "-shared", "-fPIC")
_PAUSE_S = 0.03


class Ceiling:
    """The inner loop of an instruction set on a network's second layer."""

    def __init__(self, built: ctypes.CDLL, graph: Graph, instructions: str) -> None:
        packed, self._built = pack_graph(graph), built
        self._network = ctypes.c_void_p()
        number = list(instruction_sets()).index(instructions)
        size = ctypes.c_size_t(len(packed))
        if built.anchorsr_load(packed, size, number, ctypes.byref(self._network)):
            raise BenchmarkError("the ceiling's library does not load this network")
        shapes = [op.weights.shape for op in graph.operators if isinstance(op, Conv2D)]
        outputs, height, width, inputs = shapes[_CEILING_LAYER]
        self.macs = outputs * height * width * inputs * _CEILING_PIXELS * _CEILING_TIMES
        padded = _padded(outputs, 8) * height * width * _padded(inputs, 4)
        self.padded_macs = padded * _CEILING_PIXELS * _CEILING_TIMES

    def __call__(self) -> None:
        self._built.ceiling(self._network, _CEILING_LAYER, _CEILING_TIMES)


def build_ceiling(folder: Path) -> ctypes.CDLL:
    """The kernel's sources and `ceiling.c` as a library of their own."""
    sources = [str(path) for path in sorted(_SOURCES.glob("*.c"))]
    output = str(folder / "ceiling.so")
    command = ["gcc", *_FLAGS, f"-I{_SOURCES}", *sources, str(_FOLDER / "ceiling.c"), "-o", output]
    run_command([*command, "-lm"], "the ceiling does not compile")
    return ctypes.CDLL(output)


def _padded(channels: int, to: int) -> int:
    return -(-channels // to) * to


def padded_macs(graph: Graph) -> int:
    """Multiplications for an input pixel with outputs in eights and inputs in fours."""
    total = 0
    for operator in graph.operators:
        if isinstance(operator, Conv2D) and not operator.copies_channels:
            outputs, height, width, inputs = operator.weights.shape
            total += _padded(outputs, 8) * height * width * _padded(inputs, 4)
    return total


def kernel_call(graph: Graph, instructions: str, size: tuple[int, int]) -> Callable[[], object]:
    """One thread, without what surrounds the kernel."""
    network = Network(pack_graph(graph), graph.factor, instructions)
    image = sample_image(*size)
    upscaled = np.zeros((size[0] * graph.factor, size[1] * graph.factor, 3), np.uint8)
    workspace = network.workspace(size[1])
    return lambda: network.run(image, 0, size[0], upscaled, workspace)


def measure(options: argparse.Namespace, built: ctypes.CDLL) -> list[str]:
    width, height = (int(side) for side in options.size.split("x"))
    sets = [name for name, there in instruction_sets().items() if there and name != "portable"]
    calls: dict[tuple[str, str], Callable[[], object]] = {}
    graphs: dict[str, Graph] = {}
    ceilings: dict[tuple[str, str], Ceiling] = {}
    for model in options.models:
        data, graphs[model] = read_model(model_path(model))
        images = sample_image(height, width)[None]
        for name in sets:
            ceilings[model, name] = Ceiling(built, graphs[model], name)
            calls[model, name] = kernel_call(graphs[model], name, (height, width))
            calls[model, f"{name} ceiling"] = ceilings[model, name]
        for engine in (NATIVE, *installed_engines()):
            loaded = load_engine(data, name=engine, threads=options.threads)
            calls[model, engine] = lambda loaded=loaded, images=images: loaded(images)
    taken: dict[tuple[str, str], list[float]] = {case: [] for case in calls}
    clock = time.process_time if options.threads == 1 else time.perf_counter
    begun = time.monotonic()
    while time.monotonic() - begun < options.seconds:
        for case, call in calls.items():
            time.sleep(_PAUSE_S)
            call()
            start = clock()
            call()
            taken[case].append(clock() - start)
    times = {case: np.array(seconds) for case, seconds in taken.items()}
    print(f"{len(times[next(iter(times))])} rounds, {height} rows of {width}")
    for (model, name), ceiling in ceilings.items():
        graph, seconds = graphs[model], times[model, name]
        rate = padded_macs(graph) * height * width / seconds / 1e9
        most = ceiling.padded_macs / times[model, f"{name} ceiling"] / 1e9
        real = graph.macs_per_pixel / padded_macs(graph)
        print(
            f"{model}, {name}, a thread: {np.median(rate) * real:.1f} GMAC/s, {np.median(rate):.1f}"
            f" padded; ceiling {np.median(most):.1f}; share {np.median(rate / most) * real:.2f},"
            f" {np.median(rate / most):.2f} padded"
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
    with tempfile.TemporaryDirectory() as folder:
        return exit_code("kernel_speed", lambda: measure(options, build_ceiling(Path(folder))))


if __name__ == "__main__":
    sys.exit(main())
