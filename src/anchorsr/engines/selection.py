"""Which engine runs a model on this machine: the fastest that keeps to the integer arithmetic.

Fast 8-bit kernels are not exact on every processor. Those of x86 without VNNI add two products in
16 bits, which saturate with weights beyond ±64. So each engine is tried once with a model, and
refused where it differs from `integer.run_graph` by more than 4 levels, or on more than 0.1 %
of the bytes. What was found is remembered (`cache`) for this model, processor and number of
threads and these versions of the runtimes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import math
import os
import platform
import time
from dataclasses import dataclass
from importlib import metadata, util
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from anchorsr.engines.runtimes import ENGINES, Engine, default_threads, load_engine
from anchorsr.errors import AnchorSRError, ModelError
from anchorsr.graph.executor import run_graph
from anchorsr.graph.graph import Graph
from anchorsr.serialization.tflite.summary import fixed_size
from anchorsr.utils.cache import recall, remember

UInt8Array = npt.NDArray[np.uint8]

AUTO = "auto"
MOST_LEVELS = 4
MOST_SHARE = 0.001

# One size seven times: OpenVINO makes a program of its own for a size that comes more than four
# times in a row, and both are to be tried.
_SIZES = ((1, 1), (7, 2), (13, 31), *[(64, 96)] * 7)
_TIMED_SIZE = (256, 256)  # at 128 x 128 ONNX Runtime is still in the cache, as no tile is
_WARM_UP = 3
_ROUNDS = 5
# The threads of an engine go on spinning for a while, at the cost of the one that comes next.
_PAUSE = 0.03
_LONGEST_TIMING = 2.0  # seconds an engine; only a large model of fixed size needs more

# What an engine imports, and the distribution that has its version.
_PACKAGES = {
    "litert": {"ai_edge_litert": "ai-edge-litert"},
    "openvino": {"openvino": "openvino"},
    "onnxruntime": {"onnxruntime": "onnxruntime", "onnx": "onnx"},
}
# Another number when an engine becomes faster, other images are tried, or the trials are stored
# otherwise.
_FORMAT = 2


@dataclass(frozen=True)
class Choice:
    """An engine that passed, and a line that says how it compares."""

    engine: Engine
    why: str


@dataclass(frozen=True)
class Trial:
    """How many of the compared bytes differed, and by up to how many levels.

    failure: why the engine could not run the images at all. milliseconds: what it took for one
    image, where it was timed beside the others.
    """

    different: int = 0
    compared: int = 0
    largest: int = 0
    failure: str = ""
    milliseconds: float = 0.0

    @property
    def refusal(self) -> str:
        """Why the engine is not to be used; empty when it may be."""
        if self.failure:
            return self.failure
        if self.largest <= MOST_LEVELS and self.different <= MOST_SHARE * self.compared:
            return ""
        return (
            f"{self.deviation} (allowed: {MOST_LEVELS} levels, {100 * MOST_SHARE:g} % of the bytes)"
        )

    @property
    def deviation(self) -> str:
        """How far it is from the integer arithmetic, in words."""
        if not self.different:
            return "gives the bytes of the integer arithmetic"
        share = f"{100 * self.different / self.compared:.3f} % of the bytes"
        levels = f"{self.largest} grey level{'s' if self.largest > 1 else ''}"
        return f"differs from the integer arithmetic by up to {levels}, on {share}"


def choose_engine(
    data: bytes, graph: Graph, *, name: str = AUTO, threads: int | None = None
) -> Choice:
    """The engine for a `.tflite`, tried on this machine now or earlier.

    data, graph: the file, and what `read_tflite` reads in it. name: one of ENGINES, or `auto` for
    the fastest installed one that passes.
    Raises ModelError for an engine that is refused, with its figures, and for a model that does
    not run; MissingDependencyError where the named runtime is not installed.
    """
    count = threads or default_threads()
    key = _key(data, count)
    trials = _recall(key)
    if name == AUTO:
        return _fastest(data, graph, count, key, trials)
    engine = load_engine(data, name=name, threads=count)
    if name not in trials:
        images = _images(data)
        expected = [run_graph(graph, batch) for batch in images]
        trials[name] = _try(engine, images, expected)
        _remember(key, trials)
    if trials[name].refusal:
        raise ModelError(
            f"{name} is not exact enough for this model on this machine: it"
            f" {trials[name].refusal}; take another engine"
        )
    return Choice(engine, f"as asked; it {trials[name].deviation}")


def installed_engines() -> list[str]:
    """The engines whose packages are there; none is imported."""
    return [name for name in ENGINES if all(_spec(module) for module in _PACKAGES[name])]


def _fastest(
    data: bytes, graph: Graph, threads: int, key: dict[str, Any], trials: dict[str, Trial]
) -> Choice:
    """trials: those of an earlier time; the others are made now. A failure is not remembered, as
    its cause (a full disk, a missing library) may pass."""
    names = installed_engines()
    unknown = [
        name
        for name in names
        if name not in trials or not (trials[name].refusal or trials[name].milliseconds)
    ]
    engines: dict[str, Engine] = {}
    if unknown:
        trials = {**trials, **_try_all(unknown, engines, data, graph, threads)}
    passed = [name for name in names if not trials[name].refusal]
    if any(name in passed for name in unknown):
        for name in passed:
            with contextlib.suppress(AnchorSRError):
                engines[name] = engines.get(name) or load_engine(data, name=name, threads=threads)
        rivals = {name: engine for name, engine in engines.items() if name in passed}
        for name, milliseconds in _time(rivals, data).items():
            trials[name] = dataclasses.replace(trials[name], milliseconds=milliseconds)
    if unknown:
        _remember(key, trials)
    passed.sort(key=lambda name: trials[name].milliseconds)
    for name in passed:
        with contextlib.suppress(AnchorSRError):  # it ran when it was tried; the next may still
            engine = engines.get(name) or load_engine(data, name=name, threads=threads)
            return Choice(engine, _comparison(name, trials))
    reasons = "; ".join(f"{name} {trials[name].refusal}" for name in names)
    raise ModelError(f"no engine on this machine runs this model exactly: {reasons}")


def _try_all(
    names: list[str], engines: dict[str, Engine], data: bytes, graph: Graph, threads: int
) -> dict[str, Trial]:
    """Load and try each; those that load are put into `engines`."""
    images: list[UInt8Array] = []
    expected: list[UInt8Array] = []
    trials = {}
    for name in names:
        try:
            engines[name] = load_engine(data, name=name, threads=threads)
            if not expected:
                images = _images(data)
                expected = [run_graph(graph, batch) for batch in images]
            trials[name] = _try(engines[name], images, expected)
        except AnchorSRError as error:
            if name == ENGINES[0]:  # in the base install: where it fails, it is the model's fault
                raise
            trials[name] = Trial(failure=f"fails: {error}")
    return trials


def _try(engine: Engine, images: list[UInt8Array], expected: list[UInt8Array]) -> Trial:
    different = compared = largest = 0
    for batch, wanted in zip(images, expected, strict=True):
        made = engine(batch)
        if made.shape != wanted.shape:
            raise ModelError(f"{engine.name} returned {made.shape}, not {wanted.shape}")
        distance = np.abs(made.astype(np.int16) - wanted)
        different += int(np.count_nonzero(distance))
        largest = max(largest, int(distance.max()))
        compared += wanted.size
    return Trial(different, compared, largest)


def _images(data: bytes) -> list[UInt8Array]:
    size = fixed_size(data)
    return [_image(*side, seed)[None] for seed, side in enumerate([size] if size else _SIZES)]


def _image(height: int, width: int, seed: int) -> UInt8Array:
    """(height, width, 3) as photographs are: structure of every size, with a tenth each burnt out
    and black; in it a white and a black rectangle; and below an eighth of noise.

    Wide white areas make the largest sums. Noise is but a little of it, because it meets ties as
    photographs do not: OpenVINO differs there in 0.04 % of the bytes, in Set14 in 0.0003 %.
    """
    generator = np.random.default_rng(seed)
    total = np.zeros((height, width, 3))
    for cell in (2, 4, 8, 16, 32):
        shape = (height // cell + 2, width // cell + 2, 3)
        grid = Image.fromarray(generator.integers(0, 256, shape, np.uint8))
        total += cell * np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC), float)
    low, high = np.percentile(total, (10, 90))
    spread = np.clip((total - low) / max(high - low, 1) * 255, 0, 255)
    image: UInt8Array = spread.astype(np.uint8)
    image[height // 4 : height // 2, width // 4 : width // 2] = 255
    image[height // 2 : height * 3 // 4, width // 2 : width * 3 // 4] = 0
    noise = image[height - height // 8 :]
    noise[:] = generator.integers(0, 256, noise.shape, np.uint8)
    return image


def _time(engines: dict[str, Engine], data: bytes) -> dict[str, float]:
    """Milliseconds for one image: the shortest of some rounds in which each has its turn."""
    images = _image(*(fixed_size(data) or _TIMED_SIZE), 0)[None]
    times: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(_WARM_UP + _ROUNDS):
        for name, engine in engines.items():
            if sum(times[name]) < _LONGEST_TIMING or len(times[name]) < 2:
                time.sleep(_PAUSE)
                engine(images)
                start = time.perf_counter()
                engine(images)
                times[name].append(time.perf_counter() - start)
    return {name: 1000 * min(seconds) for name, seconds in times.items()}


def _comparison(chosen: str, trials: dict[str, Trial]) -> str:
    said = [f"it {trials[chosen].deviation}"]
    for name, trial in trials.items():
        if name == chosen:
            continue
        if trial.refusal:
            said.append(f"{name} is refused: it {trial.refusal}")
        else:
            ratio = trial.milliseconds / trials[chosen].milliseconds
            said.append(f"{name} takes {ratio:.2f} times as long")
    return f"the fastest that is exact enough here; {'; '.join(said)}"


def _recall(key: dict[str, Any]) -> dict[str, Trial]:
    """The trials of an earlier time; none where any of them is not what `_remember` writes."""
    try:
        return {name: Trial(**_numbers(fields)) for name, fields in recall(key).items()}
    except (TypeError, ValueError):
        return {}


def _numbers(fields: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(fields, dict) or not all(
        type(n) in (int, float) and 0 <= n < math.inf for n in fields.values()
    ):
        raise ValueError("not numbers of a trial")
    return fields


def _remember(key: dict[str, Any], trials: dict[str, Trial]) -> None:
    kept = {}
    for name, trial in trials.items():
        if not trial.failure:
            kept[name] = dataclasses.asdict(trial)
            del kept[name]["failure"]
    remember(key, kept)


def _key(data: bytes, threads: int) -> dict[str, Any]:
    """All that a trial depends on, in plain JSON."""
    return {
        "format": _FORMAT,
        "model_sha256": hashlib.sha256(data).hexdigest(),
        "threads": threads,
        "processor": _processor(),
        "instructions_limited_to": [os.environ.get(name, "") for name in _LIMITS],
        "versions": {
            name: [_version(*package) for package in _PACKAGES[name].items()]
            for name in installed_engines()
        },
    }


# With these, oneDNN inside OpenVINO takes the kernels of an older processor.
_LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")


def _spec(module: str) -> ModuleSpec | None:
    try:
        return util.find_spec(module)
    except (ImportError, ValueError):  # what hides a module, or has put another in its place
        return None


def _version(module: str, distribution: str) -> str:
    """Of an installed package, or when it was installed if another distribution brought it."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        spec = _spec(module)
        origin = Path(spec.origin) if spec and spec.origin else None
        return str(origin.stat().st_mtime_ns) if origin and origin.is_file() else "unknown"


def _processor() -> str:
    """The processor's name and its vector instructions, as Linux says them; elsewhere the name."""
    name = f"{platform.machine()} {platform.processor()}"
    try:
        first = Path("/proc/cpuinfo").read_text(errors="replace").split("\n\n")[0]
    except OSError:
        return name
    lines = dict(line.split(":", 1) for line in first.splitlines() if ":" in line)
    facts = {key.strip(): value.strip() for key, value in lines.items()}
    flags = (facts.get("flags") or facts.get("Features") or "").split()
    vector = sorted(flag for flag in flags if flag.startswith(_VECTOR_FLAGS))
    models = [facts[key] for key in ("model name", "CPU implementer", "CPU part") if key in facts]
    return " ".join([name, *models, *vector])


_VECTOR_FLAGS = ("sse4", "ssse3", "avx", "amx", "fma", "asimd", "i8mm", "bf16", "sve")
