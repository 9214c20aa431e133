"""Whether the native kernel gives the bytes of the exact arithmetic everywhere.

    python benchmarks/kernel_checks.py here --graphs 5000
    python benchmarks/kernel_checks.py address thread arm64 --graphs 300 --fuzz 200

`here` runs the installed library through Python, on every instruction set of this processor. The
others compile the C files with a driver (`kernel/check.c`): `address` and `thread` with the
sanitizers of that name and that for undefined behaviour; `arm64` for ARM64, run by QEMU as cores
without and with dot products and I8MM; `x86` by QEMU as a processor with AVX2, and as one without;
`vnni` with the instructions of AVX-VNNI and AVX-512 VNNI written in C (`kernel/emulated.h`), which
this QEMU does not know.
--fuzz damages each network so many times and runs those that still load. Exits with 1 on any
difference. Needs gcc; for `arm64` gcc-aarch64-linux-gnu and qemu-user, for `x86` qemu-user.
"""

from __future__ import annotations

import argparse
import struct
import sys
import tempfile
from pathlib import Path

import numpy as np

from anchorsr.arrays import UInt8Array
from anchorsr.engines.native.library import Network, instruction_sets
from anchorsr.engines.native.packing import pack_graph
from anchorsr.errors import BenchmarkError
from anchorsr.graph.executor import run_graph
from anchorsr.graph.graph import Graph
from anchorsr.models.registry import list_models, read_model
from exactness import exit_code, run_command
from random_graphs import random_graph, random_image

SOURCES = Path(__file__).parents[1] / "src" / "anchorsr" / "engines" / "native"
DRIVER = Path(__file__).parent / "kernel" / "check.c"
SIZES = ((1, 1), (1, 7), (5, 1), (13, 11), (7, 53), (31, 17), (3, 97))

FLAGS = ("-std=c11", "-O2", "-ffp-contract=off", "-pthread", "-Wall", "-Wextra", "-Werror")
SANITIZED = ("-g", "-fno-omit-frame-pointer", "-fno-sanitize-recover=all")
# Of each check: the compiler with its flags, and the commands in front of the program.
CHECKS: dict[str, tuple[list[str], list[list[str]]]] = {
    "address": (["gcc", *SANITIZED, "-fsanitize=address,undefined"], [[]]),
    "thread": (["gcc", *SANITIZED, "-fsanitize=thread,undefined"], [[]]),
    "arm64": (
        ["aarch64-linux-gnu-gcc", "-static"],
        [["qemu-aarch64-static", "-cpu", core] for core in ("cortex-a53", "cortex-a76", "max")],
    ),
    "vnni": (["gcc", "-Wno-psabi", "-include", str(DRIVER.with_name("emulated.h"))], [[]]),
    "x86": (
        ["gcc", "-static"],
        [["qemu-x86_64-static", "-cpu", core] for core in ("max", "Nehalem")],
    ),
}


def cases(graphs: int) -> list[tuple[Graph, UInt8Array]]:
    """The shipped networks, and random ones, each with an image."""
    networks = [read_model(model.path)[1] for model in list_models()]
    networks += [random_graph(seed) for seed in range(graphs)]
    sizes = [SIZES[number % len(SIZES)] for number in range(len(networks))]
    return [(graph, random_image(i, *sizes[i])) for i, graph in enumerate(networks)]


def check_here(graphs: int) -> str:
    """Compare what the library makes, through Python. Raises BenchmarkError on a difference."""
    sets = [name for name, there in instruction_sets().items() if there]
    for number, (graph, images) in enumerate(cases(graphs)):
        expected = run_graph(graph, images)[0]
        packed = pack_graph(graph)
        _, height, width, _ = images.shape
        for name in sets:
            network = Network(packed, graph.factor, name)
            made = np.zeros_like(expected)
            network.run(images[0], 0, height, made, network.workspace(width))
            if not np.array_equal(made, expected):
                raise BenchmarkError(f"case {number} ({graph.name}) differs with {name}")
    return f"instruction sets: {' '.join(sets)}\n{number + 1} networks, 0 different"


def write_cases(path: Path, graphs: int) -> None:
    """Write what the driver reads."""
    made = cases(graphs)
    with path.open("wb") as file:
        file.write(struct.pack("<i", len(made)))
        for graph, images in made:
            packed = pack_graph(graph)
            _, height, width, _ = images.shape
            file.write(struct.pack("<4i", len(packed), height, width, graph.factor))
            file.write(packed + images.tobytes() + run_graph(graph, images).tobytes())


def check_compiled(name: str, stored: Path, fuzz: int, folder: Path) -> str:
    """Compile and run the driver. Raises BenchmarkError where it says that anything is wrong."""
    compiler, runners = CHECKS[name]
    program = folder / name
    sources = [str(path) for path in sorted(SOURCES.glob("*.c"))]
    command = [*compiler, *FLAGS, f"-I{SOURCES}", *sources, str(DRIVER), "-o", str(program), "-lm"]
    run_command(command, f"{name}: the kernel does not compile")
    said = []
    for runner in runners:
        where = " ".join(runner) or name
        printed = run_command([*runner, str(program), str(stored), str(fuzz)], f"{where}: failed")
        said.append(f"{where}: {printed.strip()}")
    return "\n".join(said)


def check(options: argparse.Namespace) -> list[str]:
    """Run the checks that are asked for, and print what each says; they raise what is wrong."""
    with tempfile.TemporaryDirectory() as folder:
        stored = Path(folder, "cases")
        if set(options.checks) - {"here"}:
            write_cases(stored, options.graphs)
        for name in options.checks:
            if name == "here":
                print(check_here(options.graphs), flush=True)
            else:
                print(check_compiled(name, stored, options.fuzz, Path(folder)), flush=True)
    return []


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("checks", nargs="+", choices=["here", *CHECKS])
    parser.add_argument("--graphs", type=int, default=200)
    parser.add_argument("--fuzz", type=int, default=0)
    options = parser.parse_args()
    return exit_code("kernel_checks", lambda: check(options))


if __name__ == "__main__":
    sys.exit(main())
