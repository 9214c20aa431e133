"""Check that a phone's processor gives the bytes of the integer arithmetic.

    python benchmarks/arm64.py [--model abpn_x3] [--image docs/dog.jpg] [--folder FOLDER]

LiteRT's ARM64 build runs under QEMU's user emulation, on cores with different instructions for
8-bit products, and every byte is compared with `anchorsr.graph.executor.run_graph`. The first run
downloads a small ARM64 system of 180 MB into --folder: Debian's Python from this machine's apt
sources, without installing anything, and LiteRT from pip, in the version that is installed here.
Exits with 1 on any difference. Needs qemu-user-static, apt-get and dpkg-deb, and no root. Times
under emulation mean nothing.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from anchorsr.bench.baselines import PUBLISHED
from anchorsr.engines.runtimes import LiteRT
from anchorsr.errors import BenchmarkError
from anchorsr.graph.executor import run_graph
from anchorsr.images.io import read_rgb
from anchorsr.models.registry import list_models
from anchorsr.serialization.tflite.summary import fixed_size
from anchorsr.utils.cache import cache_folder
from exactness import (
    PHOTOGRAPH,
    UInt8Array,
    crop,
    difference,
    downloaded,
    exit_code,
    load_models,
    run_command,
)

Job = tuple[bytes, UInt8Array]  # a `.tflite` file, and its input (1, H, W, 3)

SIZES = ((96, 128), (37, 53))

# Instructions that sum 8-bit products, as (mask, value) of their encodings.
INSTRUCTIONS = {
    "sdot": ((0xFFE0FC00, 0x4E809400), (0xFFC0F400, 0x4F80E000)),
    "smmla": ((0xFFE0FC00, 0x4E80A400),),
    "smopa": ((0xFFE0001C, 0xA0800000),),
}


@dataclass(frozen=True)
class Core:
    """A processor core that QEMU emulates.

    Attributes:
        cpu: QEMU's name for it.
        part: A part number that /proc/cpuinfo may have for it.
        instruction: The one of INSTRUCTIONS that LiteRT has to use on it; None if it has none.
        qemu: The first version of QEMU that is known to emulate it correctly.
    """

    name: str
    cpu: str
    part: str
    instruction: str | None
    qemu: tuple[int, int] = (7, 2)


# QEMU 7.2 has no phone core with smmla; `max`, which has everything that QEMU emulates, stands in.
# smopa gives wrong sums in 7.2.22 and right ones in 10.0.13; versions between were not tried.
CORES = (
    Core("cortex-a53", "cortex-a53", "0xd03", None),
    Core("cortex-a76", "cortex-a76", "0xd0b", "sdot"),
    Core("i8mm", "max,sme=off", "0xd0b", "smmla"),
    Core("sme", "max", "0xd0b", "smopa", qemu=(10, 0)),
)

# LiteRT's kernel library reads /proc/cpuinfo, and crashes on that of an x86 processor.
CPUINFO = """\
processor\t: 0
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: {part}
CPU revision\t: 1

"""

APT = """\
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Post-Invoke;
APT::Architecture "arm64";
APT::Architectures "arm64";
APT::Sandbox::User "root";
Dir::State "{folder}/state";
Dir::State::status "{folder}/status";
Dir::Cache "{folder}/cache";
"""

# Runs in the emulator, without anchorsr: N.tflite turns N.npy into N.result.npy.
INSIDE = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import numpy as np
from ai_edge_litert.interpreter import Interpreter
for number in range(int(sys.argv[3])):
    place = Path(sys.argv[2], str(number))
    images = np.load(place.with_suffix(".npy"))
    model = place.with_suffix(".tflite").read_bytes()
    interpreter = Interpreter(model_content=model, num_threads=1)
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
    if tuple(source["shape"]) != images.shape:
        interpreter.resize_tensor_input(source["index"], images.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(source["index"], images)
    interpreter.invoke()
    np.save(place.with_suffix(".result.npy"), interpreter.get_tensor(target["index"]))
"""


def default_folder() -> Path:
    return cache_folder() / "arm64"


def find_qemu(path: str | None = None) -> tuple[str, tuple[int, int]]:
    """Find QEMU's ARM64 user emulator and its version, or raise BenchmarkError."""
    qemu = path or shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
    if qemu is None:
        raise BenchmarkError(
            "qemu-aarch64-static is not installed: apt-get install qemu-user-static"
        )
    said = run_command([qemu, "--version"], f"{qemu} does not run")
    found = re.search(r"version (\d+)\.(\d+)", said)
    if found is None:
        raise BenchmarkError(f"{qemu} is not QEMU: {said.strip()[:80]!r}")
    return qemu, (int(found[1]), int(found[2]))


def system_in(folder: Path) -> Path:
    """Return the folder of the ARM64 system with this machine's version of LiteRT."""
    return folder / f"litert-{version('ai-edge-litert')}"


def prepare(folder: Path, qemu: str) -> Path:
    """Return the folder of the ARM64 system, which is downloaded if it is missing."""

    def make(system: Path, unfinished: Path) -> None:
        _unpack_debian(unfinished, system)
        _install_litert(system)
        emulate(system, CORES[0], [], qemu)  # compiles Python's modules, which are kept

    return downloaded(system_in(folder), "an ARM64 system", make)


def _unpack_debian(folder: Path, system: Path) -> None:
    """Unpack Python and its dependencies, without installing packages on this machine."""
    for part in ("state/lists/partial", "cache/archives/partial"):
        (folder / part).mkdir(parents=True)
    (folder / "status").touch()
    settings = folder / "apt.conf"
    settings.write_text(APT.format(folder=folder))
    apt = ["apt-get", "-c", str(settings), "-qq"]
    failure = "apt-get cannot download ARM64 packages (no network, or sources without arm64?)"
    run_command([*apt, "update"], failure)
    get = ["install", "-y", "--download-only", "--no-install-recommends"]
    run_command([*apt, *get, "python3", "libstdc++6"], failure)
    for package in sorted(folder.glob("cache/archives/*.deb")):
        run_command(
            ["dpkg-deb", "-x", str(package), str(system)], f"{package.name} cannot be unpacked"
        )
    if not (system / "lib").exists():  # from Debian 13 on, base-files makes it
        (system / "lib").symlink_to("usr/lib")


def _install_litert(system: Path) -> None:
    python = next(system.glob("usr/lib/python3.*"), None)
    if python is None:
        raise BenchmarkError("apt-get downloaded no Python 3")
    command = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    command += ["--target", str(system / "site"), "--no-compile", "--only-binary=:all:"]
    command += ["--implementation", "cp", "--python-version", python.name.removeprefix("python")]
    for platform in ("manylinux2014", *(f"manylinux_2_{minor}" for minor in range(17, 36))):
        command += ["--platform", f"{platform}_aarch64"]
    command.append(f"ai-edge-litert=={version('ai-edge-litert')}")
    run_command(command, "pip cannot download LiteRT for ARM64")


def emulate(
    system: Path, core: Core, jobs: Sequence[Job], qemu: str
) -> tuple[list[UInt8Array], set[str]]:
    """Run the jobs on a core; returns the results and the INSTRUCTIONS that were used."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        # Whatever path a program opens, QEMU looks below the root of -L first.
        root = folder / "root"
        (root / "proc").mkdir(parents=True)
        (root / "proc" / "cpuinfo").write_text(CPUINFO.format(part=core.part))
        for entry in system.iterdir():
            (root / entry.name).symlink_to(entry.absolute())
        for number, (model, images) in enumerate(jobs):
            (folder / f"{number}.tflite").write_bytes(model)
            np.save(folder / f"{number}.npy", images)
        log = folder / "instructions"
        command = [qemu, "-cpu", core.cpu, "-d", "in_asm", "-D", str(log), "-L", str(root)]
        command += [str(system / "usr" / "bin" / "python3"), "-I", "-S", "-c", INSIDE]
        command += [str(system / "site"), temporary, str(len(jobs))]
        run_command(command, f"LiteRT cannot run on an emulated {core.name}", environment={})
        results = [np.load(folder / f"{number}.result.npy") for number in range(len(jobs))]
        return results, _instructions(log)


def _instructions(log: Path) -> set[str]:
    seen = set()
    with log.open(encoding="utf-8", errors="replace") as lines:
        words = {line.split()[1] for line in lines if line.startswith("0x")}
    for word in words:
        code = int(word, 16)
        for name, encodings in INSTRUCTIONS.items():
            if any(code & mask == value for mask, value in encodings):
                seen.add(name)
    return seen


def wrong_instructions(core: Core, seen: set[str]) -> list[str]:
    """Say why a run does not show what the core's instructions compute, if it does not."""
    if core.instruction is None:
        return [f"{core.name} has no {name}, but ran it" for name in sorted(seen)]
    return [] if core.instruction in seen else [f"{core.name} ran no {core.instruction}"]


def check(options: argparse.Namespace) -> list[str]:
    """Print the table, and return what is wrong."""
    models = load_models(options.model)
    photograph = read_rgb(options.image)
    qemu, release = find_qemu(options.qemu)
    folder = (options.folder or default_folder()).absolute()  # for apt
    system = prepare(folder, qemu)
    titles, jobs, expected = [], [], []
    for name, data, graph in models:
        size = fixed_size(data)
        for height, width in [size] if size else SIZES:
            images = crop(photograph, height, width)
            titles.append(f"{name} {width}x{height}")
            jobs.append((data, images))
            expected.append(run_graph(graph, images))
    print(f"LiteRT {version('ai-edge-litert')}, QEMU {release[0]}.{release[1]}")
    columns = {"here": [LiteRT(data, 1)(images) for data, images in jobs]}
    faults = []
    for core in CORES:
        if release < core.qemu:
            print(f"{core.name} is skipped: it needs QEMU {core.qemu[0]}.{core.qemu[1]}")
            continue
        columns[core.name], seen = emulate(system, core, jobs, qemu)
        print(
            f"{core.name} uses {', '.join(sorted(seen)) or 'plain NEON'}",
            flush=True,
        )
        faults += wrong_instructions(core, seen)
    print(f"{'':22}", *(f"{name:>12}" for name in columns))
    for row, title in enumerate(titles):
        found = {name: difference(each[row], expected[row]) for name, each in columns.items()}
        print(
            f"{title:22}", *(f"{'differs' if each else 'the same':>12}" for each in found.values())
        )
        faults += [f"{title}, {name}: {each}" for name, each in found.items() if each]
    return faults


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    shipped = [model.path.stem for model in list_models()]
    parser.add_argument(
        "--model",
        action="append",
        help=f"a shipped model, a .tflite file, or {PUBLISHED!r}; by default all; repeatable",
    )
    parser.add_argument("--image", type=Path, default=PHOTOGRAPH)
    parser.add_argument("--folder", type=Path, help="where to keep the ARM64 system")
    parser.add_argument("--qemu", help="the qemu-aarch64 to use")
    options = parser.parse_args(arguments)
    options.model = options.model or [*shipped, PUBLISHED]
    return exit_code("arm64.py", lambda: check(options))


if __name__ == "__main__":
    sys.exit(main())
