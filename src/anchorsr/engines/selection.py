"""Choose the engine for a model on this machine: the fastest that is exact enough.

Where our own kernel runs a model, it is taken at once: it is exact by construction, and with AVX2
none of the others was faster. They are for graphs that it does not run, and where it was not built.

Fast 8-bit kernels are not exact on every processor. Those for x86 without VNNI add two products in
16 bits, which saturates with weights beyond ±64. So each engine is tried once with a model, and is
refused if it differs from `graph.executor.run_graph` by more than 4 levels, or in more than 0.1 %
of the bytes. The results are cached by model, processor, number of threads and runtime versions.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import logging
import math
import os
import platform
import time
from dataclasses import dataclass
from importlib import util
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np

from anchorsr.arrays import UInt8Array
from anchorsr.engines.runtimes import ENGINES, NATIVE, Engine, default_threads, load_engine
from anchorsr.errors import AnchorSRError, ModelError
from anchorsr.graph.executor import run_graph
from anchorsr.graph.graph import Graph
from anchorsr.serialization.tflite.summary import fixed_size
from anchorsr.utils.cache import forget, recall, remember, remembered
from anchorsr.utils.sample_image import sample_image
from anchorsr.utils.system_info import package_version, processor_facts, processor_flags
from anchorsr.utils.timing import time_interleaved

_log = logging.getLogger(__name__)

AUTO = "auto"
MOST_LEVELS = 4
MOST_SHARE = 0.001

# One size seven times: OpenVINO compiles for a size that comes more than four times in a row, and
# both forms must be tried. Equal sizes have equal images, as the exact arithmetic takes long.
_SIZES = ((1, 1), (7, 2), (13, 31), *[(64, 96)] * 7)
_TIMED_SIZE = (256, 256)  # ONNX Runtime still fits the cache at 128x128, unlike with real tiles
_ROUNDS = 7
# The threads of an engine spin for a while afterwards, which slows down the next engine.
_PAUSE = 0.03
# Seconds for trials and timing; an engine whose trial is not over then is left for the next time.
# Loading it and one more round are not cut short, so the first run takes about two seconds.
_LONGEST = 1.5

# The modules that an engine imports, and the distribution that each comes from.
_PACKAGES = {
    "litert": {"ai_edge_litert": "ai-edge-litert"},
    "openvino": {"openvino": "openvino"},
    "onnxruntime": {"onnxruntime": "onnxruntime", "onnx": "onnx"},
}
# To be changed when an engine becomes faster, or when the trial images or the stored form change.
_FORMAT = 3


@dataclass(frozen=True)
class Choice:
    """The engine chosen for a model.

    Attributes:
        engine: The engine.
        why: One line that says how it compares with the others.
    """

    engine: Engine
    why: str


@dataclass(frozen=True)
class Trial:
    """The comparison of an engine with the exact arithmetic.

    Attributes:
        different: Number of bytes that differ.
        compared: Number of bytes compared.
        largest: Largest difference, in levels.
        failure: Why the engine could not run at all; empty if it did.
        milliseconds: Time for one image; 0 if it was not timed.
    """

    different: int = 0
    compared: int = 0
    largest: int = 0
    failure: str = ""
    milliseconds: float = 0.0

    @property
    def refusal(self) -> str:
        """Why the engine must not be used; empty if it may."""
        if self.failure:
            return self.failure
        if self.largest <= MOST_LEVELS and self.different <= MOST_SHARE * self.compared:
            return ""
        return (
            f"{self.deviation} (allowed: {MOST_LEVELS} levels, {100 * MOST_SHARE:g} % of the bytes)"
        )

    @property
    def deviation(self) -> str:
        """How far the engine is from the exact arithmetic, in words."""
        if not self.different:
            return "gives the bytes of the exact arithmetic"
        share = f"{100 * self.different / self.compared:.3f} % of the bytes"
        levels = f"{self.largest} level{'s' if self.largest > 1 else ''}"
        return f"differs from the exact arithmetic by up to {levels}, in {share}"


def choose_engine(
    data: bytes, graph: Graph, *, name: str = AUTO, threads: int | None = None
) -> Choice:
    """Choose the engine for a `.tflite` file, by trials made on this machine now or earlier.

    Args:
        data: The contents of the file.
        graph: The graph that `read_tflite` reads from it.
        name: `NATIVE`, one of `ENGINES`, or `auto` for the native kernel or, where it does not run
            the model, the fastest installed engine that passes.
        threads: Number of threads; by default all processors.

    Returns:
        The engine, and why it was chosen.

    Raises:
        ModelError: The named engine is not exact enough, or no engine runs the model.
        GraphError: The native kernel, asked for by name, does not run the model.
        MissingDependencyError: The named runtime is not installed.
    """
    count = threads or default_threads()
    if name == NATIVE:
        return _native(data, graph, count)
    if name == AUTO:
        try:
            return _native(data, graph, count)
        except AnchorSRError as error:
            choice = _tried(data, graph, name, count)
            return dataclasses.replace(choice, why=f"{choice.why}; not {NATIVE}: {error}")
    return _tried(data, graph, name, count)


def _native(data: bytes, graph: Graph, threads: int) -> Choice:
    engine = load_engine(data, name=NATIVE, threads=threads, graph=graph)
    return Choice(engine, f"it {Trial().deviation}, by construction")


def _tried(data: bytes, graph: Graph, name: str, count: int) -> Choice:
    key = _key(data, count)
    trials = _recall(key)
    if name == AUTO:
        return _fastest(data, graph, count, key, trials)
    engine = load_engine(data, name=name, threads=count)
    if name not in trials:
        _log.info("trying %s on this machine, once for each model", name)
        images = _images(data, graph)
        expected = _run_exactly(graph, images)
        trials[name] = _try(engine, images, expected)
        _remember(key, trials)
    if trials[name].refusal:
        raise ModelError(
            f"{name} is not exact enough for this model on this machine: it"
            f" {trials[name].refusal}; use another engine"
        )
    return Choice(engine, f"as requested; it {trials[name].deviation}")


def installed_engines() -> list[str]:
    """List the engines whose packages are installed, without importing them."""
    return [name for name in ENGINES if all(_spec(module) for module in _PACKAGES[name])]


def _fastest(
    data: bytes, graph: Graph, threads: int, key: dict[str, Any], trials: dict[str, Trial]
) -> Choice:
    """The fastest engine that passes; engines without an entry in `trials` are tried now.

    A failure is not cached: its cause (a full disk, a missing library) may be temporary.
    """
    names = installed_engines()
    unknown = [
        name
        for name in names
        if name not in trials or not (trials[name].refusal or trials[name].milliseconds)
    ]
    engines: dict[str, Engine] = {}
    end = time.monotonic() + _LONGEST
    if unknown:
        _log.info("trying %s on this machine, once for each model", " and ".join(unknown))
        trials = {**trials, **_try_all(unknown, engines, data, graph, threads, end)}
    names = [name for name in names if name in trials]
    passed = [name for name in names if not trials[name].refusal]
    if any(name in passed for name in unknown):
        for name in passed:
            with contextlib.suppress(AnchorSRError):
                engines[name] = engines.get(name) or load_engine(data, name=name, threads=threads)
        rivals = {name: engine for name, engine in engines.items() if name in passed}
        for name, milliseconds in _time(rivals, data, graph, end).items():
            trials[name] = dataclasses.replace(trials[name], milliseconds=milliseconds)
    if unknown:
        _remember(key, trials)
    left = [name for name in installed_engines() if name not in trials]
    later = f"; {' and '.join(left)} are tried next time" if left else ""
    passed.sort(key=lambda name: trials[name].milliseconds)
    for name in passed:
        with contextlib.suppress(AnchorSRError):  # it ran in the trial; the next one may still run
            engine = engines.get(name) or load_engine(data, name=name, threads=threads)
            return Choice(engine, f"{_comparison(name, trials)}{later}")
    reasons = "; ".join(f"{name} {trials[name].refusal}" for name in names)
    raise ModelError(f"no engine on this machine runs this model exactly: {reasons}")


def _try_all(
    names: list[str],
    engines: dict[str, Engine],
    data: bytes,
    graph: Graph,
    threads: int,
    end: float,
) -> dict[str, Trial]:
    """Load and try each engine until the end; those that load are added to `engines`."""
    images: list[UInt8Array] = []
    expected: list[UInt8Array] = []
    trials: dict[str, Trial] = {}
    for name in names:
        if trials and time.monotonic() > end:
            break
        try:
            engines[name] = load_engine(data, name=name, threads=threads)
            if not expected:
                images = _images(data, graph)
                expected = _run_exactly(graph, images)
            trials[name] = _try(engines[name], images, expected, end if trials else math.inf)
        except TimeoutError:
            del engines[name]
            break
        except AnchorSRError as error:
            if name == ENGINES[0]:  # always installed: if it fails, the model is at fault
                raise
            trials[name] = Trial(failure=f"fails: {error}")
    return trials


def _try(
    engine: Engine, images: list[UInt8Array], expected: list[UInt8Array], end: float = math.inf
) -> Trial:
    """Compare an engine with the exact arithmetic; TimeoutError once it is later than `end`."""
    different = compared = largest = 0
    for batch, wanted in zip(images, expected, strict=True):
        if time.monotonic() > end:
            raise TimeoutError
        made = engine(batch)
        if made.shape != wanted.shape:
            raise ModelError(f"{engine.name} returned {made.shape}, not {wanted.shape}")
        distance = np.abs(made.astype(np.int16) - wanted)
        different += int(np.count_nonzero(distance))
        largest = max(largest, int(distance.max()))
        compared += wanted.size
    return Trial(different, compared, largest)


def _images(data: bytes, graph: Graph) -> list[UInt8Array]:
    size = fixed_size(data)
    sides = [graph.fit(*side) for side in ([size] if size else _SIZES)]
    different = {side: sample_image(*side, seed=n)[None] for n, side in enumerate(sides)}
    return [different[side] for side in sides]


def _run_exactly(graph: Graph, images: list[UInt8Array]) -> list[UInt8Array]:
    """What the exact arithmetic makes of each image; it runs once for each that is different."""
    made: dict[int, UInt8Array] = {}
    for image in images:
        if id(image) not in made:
            made[id(image)] = run_graph(graph, image)
    return [made[id(image)] for image in images]


def _time(engines: dict[str, Engine], data: bytes, graph: Graph, end: float) -> dict[str, float]:
    """Milliseconds for one image: the shortest of some rounds in which each has its turn."""
    images = sample_image(*graph.fit(*(fixed_size(data) or _TIMED_SIZE)))[None]
    times = time_interleaved(
        {name: functools.partial(engine, images) for name, engine in engines.items()},
        rounds=_ROUNDS,
        pause_s=_PAUSE,
        # Before each timed call is an untimed one.
        budget_s=max(end - time.monotonic(), 0) / (2 * max(len(engines), 1)),
    )
    return {name: 1000 * min(taken.seconds) for name, taken in times.items()}


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
    return f"the fastest that is exact enough on this machine; {'; '.join(said)}"


@dataclass(frozen=True)
class Finding:
    """What was found out about the engines for one model.

    Attributes:
        model_sha256: Digest of the model's file.
        threads: Number of threads.
        applies: Whether this machine, and what is installed, are still as they were.
        trials: The trials of the engines by name.
    """

    model_sha256: str
    threads: int
    applies: bool
    trials: dict[str, Trial]


def findings() -> list[Finding]:
    """List what was found out about engines, by this user on this machine."""
    found = []
    for key in _remembered_keys():
        now = {**_key(b"", key["threads"]), "model_sha256": key["model_sha256"]}
        found.append(Finding(key["model_sha256"], key["threads"], key == now, _recall(key)))
    return found


def forget_findings() -> int:
    """Forget what was found out about engines; returns for how many models and threads.

    Raises:
        OutputError: It cannot be deleted.
    """
    keys = _remembered_keys()
    for key in keys:
        forget(key)
    return len(keys)


def _remembered_keys() -> list[dict[str, Any]]:
    return [
        key
        for key, _ in remembered()
        if isinstance(key.get("model_sha256"), str) and isinstance(key.get("threads"), int)
    ]


def installed_version(name: str) -> str | None:
    """Return the version of an engine's package; None if it is not installed."""
    packages = _PACKAGES[name]
    if not all(_spec(module) for module in packages):
        return None
    return _version(*next(iter(packages.items())))


def _recall(key: dict[str, Any]) -> dict[str, Trial]:
    """The cached trials; none if any of them is not as `_remember` writes them."""
    try:
        return {name: Trial(**_numbers(fields)) for name, fields in recall(key).items()}
    except (TypeError, ValueError):
        return {}


def _numbers(fields: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(fields, dict) or not all(
        type(n) in (int, float) and 0 <= n < math.inf for n in fields.values()
    ):
        raise ValueError("not the numbers of a trial")
    return fields


def _remember(key: dict[str, Any], trials: dict[str, Trial]) -> None:
    kept = {}
    for name, trial in trials.items():
        if not trial.failure:
            kept[name] = dataclasses.asdict(trial)
            del kept[name]["failure"]
    remember(key, kept)


def _key(data: bytes, threads: int) -> dict[str, Any]:
    """Everything that a trial depends on, as JSON."""
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


# With these, oneDNN inside OpenVINO uses the kernels of an older processor.
_LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")


def _spec(module: str) -> ModuleSpec | None:
    try:
        return util.find_spec(module)
    except (ImportError, ValueError):  # raised by what hides or replaces a module
        return None


def _version(module: str, distribution: str) -> str:
    """Of an installed package, or when it was installed if another distribution brought it."""
    version = package_version(distribution)
    if version is not None:
        return version
    spec = _spec(module)
    origin = Path(spec.origin) if spec and spec.origin else None
    return str(origin.stat().st_mtime_ns) if origin and origin.is_file() else "unknown"


def _processor() -> str:
    """The processor's name and its vector instructions, as Linux says them; elsewhere the name."""
    name = f"{platform.machine()} {platform.processor()}"
    facts = processor_facts()
    if not facts:
        return name
    vector = sorted(flag for flag in processor_flags() if flag.startswith(_VECTOR_FLAGS))
    models = [facts[key] for key in ("model name", "CPU implementer", "CPU part") if key in facts]
    return " ".join([name, *models, *vector])


_VECTOR_FLAGS = ("sse4", "ssse3", "avx", "amx", "fma", "asimd", "i8mm", "bf16", "sve")
