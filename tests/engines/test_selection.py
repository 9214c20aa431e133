"""Which engine is taken: none that is not exact enough, then the fastest, and it is remembered."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import anchorsr
from anchorsr.cli import app
from anchorsr.engines import selection
from anchorsr.engines.runtimes import _CALLS_BEFORE_COMPILING, ENGINES, Engine, load_engine
from anchorsr.engines.selection import Trial, choose_engine, installed_engines
from anchorsr.errors import MissingDependencyError, ModelError
from anchorsr.evaluation.evaluate import load_method
from anchorsr.graph import operators as ops
from anchorsr.graph.executor import multipliers, run_graph
from anchorsr.graph.graph import Graph
from anchorsr.inference.upscaler import Upscaler, ready_upscaler
from anchorsr.models.registry import model_path, read_model
from anchorsr.serialization.tflite.writer import write_tflite
from anchorsr.utils import cache
from helpers.graphs import image, integer_graph

GRAPH = integer_graph(0, depth=1)
DATA = write_tflite(GRAPH)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder for each test, which is not there yet."""
    monkeypatch.setenv("ANCHORSR_CACHE", str(tmp_path / "a" / "cache"))
    return tmp_path / "a" / "cache"


@pytest.fixture(autouse=True)
def without_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """The choice between the others: the kernel, where it is built, is taken before any of them."""

    def refuse(data: bytes, graph: Graph, threads: int) -> None:
        raise ModelError("not here")

    monkeypatch.setattr(selection, "_native", refuse)
    monkeypatch.setattr(selection, "_LONGEST", 60.0)  # on a busy machine as on an idle one


class Double:
    """An engine that computes a graph in another way, and counts its calls."""

    def __init__(self, name: str, compute: Callable[[np.ndarray], np.ndarray]) -> None:
        self.name = name
        self.calls = 0
        self._compute = compute

    def __call__(self, images: np.ndarray) -> np.ndarray:
        self.calls += 1
        return self._compute(images)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What choosing gets as an engine by its name, in place of the runtimes, if it is put in.

    An exception is raised. `loads["loaded"]` are the names asked for.
    """
    doubles: dict[str, Any] = {"loaded": []}

    def load(data: bytes, *, name: str, threads: int | None = None) -> Engine:
        doubles["loaded"].append(name)
        double = doubles.get(name)
        if isinstance(double, Exception):
            raise double
        return double or load_engine(data, name=name, threads=1)

    monkeypatch.setattr(selection, "load_engine", load)
    monkeypatch.setattr(selection, "installed_engines", lambda: list(ENGINES))
    return doubles


def off_by(levels: int, share: float) -> Callable[[np.ndarray], np.ndarray]:
    """The arithmetic, but for the given share of the bytes."""

    def compute(images: np.ndarray) -> np.ndarray:
        made = run_graph(GRAPH, images)
        step = max(1, round(1 / share)) if share else made.size + 1
        flat = made.reshape(-1)
        wrong = flat[step - 1 :: step]
        wrong[:] = np.where(wrong > 127, wrong - levels, wrong + levels)
        return made

    return compute


# Exactness


@pytest.mark.slow
@pytest.mark.parametrize("name", ENGINES)
def test_a_named_engine_that_is_exact_enough_is_taken(name: str) -> None:
    choice = choose_engine(DATA, GRAPH, name=name, threads=1)
    assert choice.engine.name == name
    assert choice.why.startswith("as requested; it ")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("levels", "share", "accepted"),
    [
        (4, 0.0009, True),
        (5, 0.0009, False),
        (5, 0.00002, False),
        (1, 0.0012, False),
        (1, 0, True),
        (255, 0, True),
    ],
)
def test_more_than_4_levels_or_a_thousandth_of_the_bytes_is_refused(
    loads: dict[str, Any], levels: int, share: float, accepted: bool
) -> None:
    loads["openvino"] = Double("openvino", off_by(levels, share))
    if accepted:
        assert choose_engine(DATA, GRAPH, name="openvino").engine is loads["openvino"]
        return
    message = (
        f"openvino is not exact enough .* by up to {levels} levels?, in 0.* % of the bytes"
        r" \(allowed: 4 levels, 0.1 % of the bytes\); use another engine"
    )
    with pytest.raises(ModelError, match=message):
        choose_engine(DATA, GRAPH, name="openvino")


def test_a_refusal_is_remembered(loads: dict[str, Any]) -> None:
    loads["openvino"] = Double("openvino", off_by(9, 0.01))
    for _ in range(2):
        with pytest.raises(ModelError, match="up to 9 levels, in"):
            choose_engine(DATA, GRAPH, name="openvino")
        calls, loads["openvino"].calls = loads["openvino"].calls, 0
    assert calls == 0


def test_an_engine_that_crops_is_a_model_error(loads: dict[str, Any]) -> None:
    loads["openvino"] = Double("openvino", lambda images: run_graph(GRAPH, images)[:, 1:])
    with pytest.raises(ModelError, match="openvino returned"):
        choose_engine(DATA, GRAPH, name="openvino")


def test_a_program_that_an_engine_makes_for_a_size_that_comes_again_is_tried_too(
    loads: dict[str, Any],
) -> None:
    """OpenVINO does after some calls with one size."""
    seen: list[tuple[int, ...]] = []

    def compute(images: np.ndarray) -> np.ndarray:
        seen.append(images.shape)
        made = run_graph(GRAPH, images)
        return made if seen.count(images.shape) <= _CALLS_BEFORE_COMPILING else 255 - made

    loads["openvino"] = Double("openvino", compute)
    with pytest.raises(ModelError, match="openvino is not exact enough"):
        choose_engine(DATA, GRAPH, name="openvino")


def saturating_pairs(graph: Graph) -> Callable[[np.ndarray], np.ndarray]:
    """The graph as the instruction `vpmaddubsw` computes it: unsigned bytes times signed ones,
    two neighbouring products added in 16 bits that saturate."""

    def convolve(conv: ops.Conv2D, values: np.ndarray) -> np.ndarray:
        source, target = graph.tensors[conv.input], graph.tensors[conv.output]
        zero_point, goal = _quantization(source).zero_point, _quantization(target)
        out, tall, wide, inputs = conv.weights.shape
        _, height, width, _ = values.shape
        # int8 becomes unsigned by 128 more, which the weights' sum takes back.
        around = ((0, 0), (tall // 2, tall // 2), (wide // 2, wide // 2), (0, inputs % 2))
        unsigned = np.full(tuple(n + sum(a) for n, a in zip(values.shape, around, strict=True)), 0)
        unsigned += zero_point + 128
        unsigned[:, tall // 2 :, wide // 2 :][:, :height, :width, :inputs] = (
            values.astype(int) + 128
        )
        weights = np.pad(conv.weights.astype(int), ((0, 0), (0, 0), (0, 0), (0, inputs % 2)))
        sums = np.zeros((1, height, width, out), int) + conv.bias
        for row in range(tall):
            for column in range(wide):
                window = unsigned[:, row : row + height, column : column + width]
                products = window[..., None, :] * weights[:, row, column]
                pairs = products.reshape(1, height, width, out, -1, 2).sum(axis=-1)
                sums += np.clip(pairs, -(2**15), 2**15 - 1).sum(axis=-1)
        sums -= (zero_point + 128) * weights.sum(axis=(1, 2, 3))
        scaled = np.rint(sums.astype(np.float32) * multipliers(conv, source, target))
        low = goal.zero_point if conv.relu else -128
        return np.clip(scaled + goal.zero_point, low, 127).astype(np.int8)

    def compute(images: np.ndarray) -> np.ndarray:
        values = {graph.input: images}
        for operator in graph.operators:
            if isinstance(operator, ops.Conv2D):
                values[operator.output] = convolve(operator, values[operator.input])
                continue
            tensors = {name: graph.tensors[name] for name in (*operator.inputs, operator.output)}
            if len(operator.inputs) == 1:
                one = Graph("one", tensors, (operator,), operator.inputs[0], operator.output)
                values[operator.output] = run_graph(one, values[operator.inputs[0]])
            else:
                total = sum(values[name].astype(int) for name in operator.inputs)
                total = total - sum(_quantization(tensors[n]).zero_point for n in operator.inputs)
                total = total + _quantization(tensors[operator.output]).zero_point
                values[operator.output] = np.clip(total, -128, 127).astype(np.int8)
        return values[graph.output]

    return compute


def _quantization(tensor: Any) -> ops.Quantization:
    assert tensor.quantization is not None
    return tensor.quantization  # type: ignore[no-any-return]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_kernels_that_saturate_16_bits_are_refused_beyond_64_only(
    loads: dict[str, Any], seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selection, "_SIZES", ((13, 31), (24, 32)))
    for limit in (64, 127):
        graph = integer_graph(seed, channels=8, depth=1, weight_limit=limit)
        double = Double("openvino", saturating_pairs(graph))
        loads["openvino"] = double
        data = write_tflite(graph)
        if limit == 64:
            images = image(1, 9, 8)
            np.testing.assert_array_equal(double(images), run_graph(graph, images))
            choice = choose_engine(data, graph, name="openvino")
            assert choice.why == "as requested; it gives the bytes of the exact arithmetic"
        else:
            with pytest.raises(ModelError, match="openvino is not exact enough"):
                choose_engine(data, graph, name="openvino")


SATURATION = """
import sys
from pathlib import Path
from anchorsr.engines.selection import choose_engine
from anchorsr.errors import ModelError
from anchorsr.models.registry import read_model
for path in sys.argv[1:]:
    data, graph = read_model(Path(path))
    try:
        choose_engine(data, graph, name="openvino", threads=1)
        print("taken")
    except ModelError as error:
        print(error)
"""


@pytest.mark.slow
@pytest.mark.openvino
@pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64"), reason="AVX2 is an instruction of x86"
)
def test_openvino_without_vnni_is_refused_beyond_64_only(tmp_path: Path) -> None:
    """For real: oneDNN is told to take the kernels of a processor with AVX2 and no more."""
    paths = []
    for limit in (64, 127):
        path = tmp_path / f"weights{limit}.tflite"
        path.write_bytes(write_tflite(integer_graph(0, channels=32, depth=1, weight_limit=limit)))
        paths.append(str(path))
    source = str(Path(anchorsr.__file__).parents[1])
    ended = subprocess.run(
        [sys.executable, "-c", SATURATION, *paths],
        env={**os.environ, "PYTHONPATH": source, "ONEDNN_MAX_CPU_ISA": "AVX2"},
        capture_output=True,
        text=True,
        check=True,
    )
    narrow, wide = ended.stdout.splitlines()
    assert narrow == "taken"
    assert "openvino is not exact enough for this model on this machine" in wide


# The fastest


def sleeping(name: str, seconds: float) -> Double:
    """An exact engine of a given pace."""
    wait = threading.Event()

    def compute(images: np.ndarray) -> np.ndarray:
        wait.wait(seconds)
        return run_graph(GRAPH, images)

    return Double(name, compute)


@pytest.fixture
def paced(loads: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Three exact engines, of which ONNX Runtime is the fastest and OpenVINO the next."""
    monkeypatch.setattr(selection, "_SIZES", ((5, 6),))
    monkeypatch.setattr(selection, "_TIMED_SIZE", (4, 4))
    monkeypatch.setattr(selection, "_PAUSE", 0.0)
    monkeypatch.setattr(selection, "_ROUNDS", 2)
    for name, seconds in (("litert", 0.02), ("openvino", 0.007), ("onnxruntime", 0.0)):
        loads[name] = sleeping(name, seconds)
    return loads


@pytest.mark.slow
def test_auto_takes_the_fastest_and_says_how_long_the_others_take(paced: dict[str, Any]) -> None:
    choice = choose_engine(DATA, GRAPH)
    assert choice.engine is paced["onnxruntime"]
    assert choice.why.startswith("the fastest that is exact enough on this machine; it gives")
    assert "litert takes " in choice.why
    assert "openvino takes " in choice.why
    assert choice.why.endswith(" times as long; not native: not here")


@pytest.mark.slow
def test_auto_remembers_and_then_loads_only_the_one_it_takes(paced: dict[str, Any]) -> None:
    first = choose_engine(DATA, GRAPH)
    assert sorted(paced["loaded"]) == sorted(ENGINES)
    paced["loaded"].clear()
    calls = [paced[name].calls for name in ENGINES]
    assert choose_engine(DATA, GRAPH) == first
    assert paced["loaded"] == ["onnxruntime"]
    assert [paced[name].calls for name in ENGINES] == calls


@pytest.mark.slow
def test_auto_takes_no_engine_that_is_refused_and_says_why(paced: dict[str, Any]) -> None:
    paced["onnxruntime"] = Double("onnxruntime", off_by(77, 0.01))
    for _ in range(2):
        choice = choose_engine(DATA, GRAPH)
        assert choice.engine is paced["openvino"]
        assert "onnxruntime is refused: it differs" in choice.why
        assert "up to 77 levels" in choice.why


@pytest.mark.slow
def test_auto_goes_on_without_an_engine_that_fails_and_tries_it_again(
    paced: dict[str, Any],
) -> None:
    works = paced["onnxruntime"]
    paced["onnxruntime"] = ModelError("libfast.so is missing")
    choice = choose_engine(DATA, GRAPH)
    assert choice.engine is paced["openvino"]
    assert "onnxruntime is refused: it fails: libfast.so is missing" in choice.why
    paced["onnxruntime"] = works
    assert choose_engine(DATA, GRAPH).engine is works


@pytest.mark.slow
def test_auto_takes_the_next_when_the_remembered_one_does_not_load(paced: dict[str, Any]) -> None:
    choose_engine(DATA, GRAPH)
    paced["onnxruntime"] = ModelError("no space left for its temporary file")
    assert choose_engine(DATA, GRAPH).engine is paced["openvino"]


def test_when_every_engine_is_refused_each_reason_is_told(paced: dict[str, Any]) -> None:
    for name in ENGINES:
        paced[name] = Double(name, off_by(6, 0.01))
    message = "no engine on this machine .* litert differs .*; openvino differs .*; onnxruntime dif"
    for _ in range(2):
        with pytest.raises(ModelError, match=message):
            choose_engine(DATA, GRAPH)
    assert [paced[name].calls for name in ENGINES] == [1, 1, 1]  # it is remembered


@pytest.mark.slow
def test_what_a_named_engine_was_found_to_be_is_not_found_again(paced: dict[str, Any]) -> None:
    for name in ENGINES:
        choose_engine(DATA, GRAPH, name=name)
    assert [paced[name].calls for name in ENGINES] == [1, 1, 1]
    assert choose_engine(DATA, GRAPH).engine is paced["onnxruntime"]
    rounds = selection._ROUNDS + 1
    assert [paced[name].calls for name in ENGINES] == [1 + 1 + 2 * rounds] * 3


def test_a_model_that_no_runtime_loads_is_the_error_of_litert() -> None:
    with pytest.raises(ModelError, match="LiteRT does not load this model"):
        choose_engine(DATA[:3000], GRAPH)


@pytest.mark.slow
def test_only_what_is_installed_is_tried(
    loads: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("openvino", "onnx"):  # without onnx, ONNX Runtime has nothing to read
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(selection, "installed_engines", installed_engines)
    assert installed_engines() == ["litert"]
    choice = choose_engine(DATA, GRAPH, threads=1)
    assert choice.engine.name == "litert"
    assert set(loads["loaded"]) == {"litert"}
    with pytest.raises(MissingDependencyError, match=r"anchorsr\[fast\]"):
        choose_engine(DATA, GRAPH, name="openvino", threads=1)


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(ModelError, match="no engine 'fast'; choose from: native, litert"):
        choose_engine(DATA, GRAPH, name="fast")


# What is remembered


def kept(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


@pytest.mark.slow
def test_each_model_processor_version_limit_and_number_of_threads_is_tried(
    paced: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose_engine(DATA, GRAPH, name="litert", threads=1)
    choose_engine(DATA, GRAPH, name="litert", threads=1)
    assert len(kept(folder)) == 1
    choose_engine(write_tflite(GRAPH, description="other bytes"), GRAPH, name="litert", threads=1)
    choose_engine(DATA, GRAPH, name="litert", threads=2)
    for name, value in (("_processor", lambda: "another"), ("_version", lambda *_: "0.0")):
        with monkeypatch.context() as patch:
            patch.setattr(selection, name, value)
            choose_engine(DATA, GRAPH, name="litert", threads=1)
    with monkeypatch.context() as patch:
        patch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
        choose_engine(DATA, GRAPH, name="litert", threads=1)
    assert len(kept(folder)) == 6
    assert all(json.loads(path.read_bytes())["value"]["litert"] for path in kept(folder))


@pytest.mark.slow
def test_an_engine_for_which_there_is_no_time_is_tried_in_the_next_run(
    paced: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(selection, "_LONGEST", -1.0)
    with caplog.at_level(logging.INFO, "anchorsr.engines"):
        choice = choose_engine(DATA, GRAPH)
    assert choice.engine is paced["litert"]
    assert "openvino and onnxruntime are tried next time" in choice.why
    assert caplog.messages == [
        "trying litert and openvino and onnxruntime on this machine, once for each model"
    ]
    assert choose_engine(DATA, GRAPH).engine is paced["openvino"]
    assert choose_engine(DATA, GRAPH).engine is paced["onnxruntime"]
    caplog.clear()
    choice = choose_engine(DATA, GRAPH)
    assert choice.engine is paced["onnxruntime"]
    assert "next time" not in choice.why
    assert caplog.messages == []


@pytest.mark.slow
def test_a_trial_that_lasts_too_long_is_left_for_the_next_run(
    paced: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless it is the first: otherwise a slow engine would never be tried."""
    slow = SimpleNamespace(monotonic=lambda: 100.0 * paced["openvino"].calls)
    monkeypatch.setattr(selection, "time", slow)
    monkeypatch.setattr(selection, "_SIZES", ((5, 6),) * 3)
    choice = choose_engine(DATA, GRAPH)
    assert choice.engine is paced["litert"]
    assert "openvino and onnxruntime are tried next time" in choice.why
    assert choose_engine(DATA, GRAPH).engine is paced["openvino"]


def test_equal_images_go_through_the_exact_arithmetic_once(
    loads: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []

    def count(graph: Graph, images: np.ndarray) -> np.ndarray:
        sizes.append(images.shape[1:3])
        return run_graph(graph, images)

    monkeypatch.setattr(selection, "_SIZES", ((3, 4), *[(5, 6)] * 7))
    monkeypatch.setattr(selection, "run_graph", count)
    loads["litert"] = Double("litert", off_by(0, 0))
    choose_engine(DATA, GRAPH, name="litert", threads=1)
    assert sizes == [(3, 4), (5, 6)]
    assert loads["litert"].calls == 8


@pytest.mark.slow
def test_findings_are_shown_and_forgotten(
    paced: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert app.run(["engines"]) == 0
    out, err = capsys.readouterr()
    assert [name for name in ("native", *ENGINES) if name not in out] == []
    assert "nothing was found out so far" in err
    paced["openvino"] = Double("openvino", off_by(9, 0.01))
    choose_engine(DATA, GRAPH, threads=2)
    assert app.run(["engines", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [row["engine"] for row in told["engines"]] == ["native", *ENGINES]
    (row,) = told["findings"]
    assert (row["threads"], row["outdated"]) == (2, False)
    assert row["model"] == hashlib.sha256(DATA).hexdigest()[:12]
    assert row["trials"]["litert"]["different"] == 0
    assert row["trials"]["openvino"]["largest"] == 9
    assert app.run(["engines"]) == 0
    assert "refused" in capsys.readouterr().out
    with monkeypatch.context() as patch:
        patch.setattr(selection, "_processor", lambda: "another")
        assert app.run(["engines"]) == 0
        assert "(outdated)" in " ".join(capsys.readouterr().out.split())
    (folder / "other.json").write_text("{}")
    assert app.run(["engines", "--forget"]) == 0
    assert "1 finding is forgotten" in capsys.readouterr().err
    assert kept(folder) == [folder / "other.json"]
    assert app.run(["engines", "--forget"]) == 0
    assert "nothing was found out so far" in capsys.readouterr().err


DAMAGE = [
    b"",
    b"{",
    b"[]",
    b"null",
    b"\xff\xfe",
    b"[" * 100_000,
    b'{"key": 1, "value": {}}',
    b'{"value": {}}',
]
WRONG = [
    [],
    {"litert": 3},
    {"litert": {"different": "none"}},
    {"litert": {"different": -1}},
    {"litert": {"milliseconds": float("nan")}},
    {"litert": {"different": True}},
    {"litert": {"unknown": 1}},
    {"litert": {"failure": "anything"}},
]


@pytest.mark.slow
@pytest.mark.parametrize("damage", [*DAMAGE, *WRONG], ids=lambda damage: str(damage)[:40])
def test_a_damaged_memory_is_none_and_is_replaced(
    paced: dict[str, Any], folder: Path, damage: Any
) -> None:
    choose_engine(DATA, GRAPH)
    (place,) = kept(folder)
    whole = json.loads(place.read_bytes())
    if not isinstance(damage, bytes):
        damage = json.dumps({**whole, "value": damage}).encode()
    place.write_bytes(damage)
    before = paced["litert"].calls
    assert choose_engine(DATA, GRAPH).engine is paced["onnxruntime"]
    assert paced["litert"].calls > before
    assert kept(folder) == [place]
    assert json.loads(place.read_bytes())["value"].keys() == set(ENGINES)


@pytest.mark.slow
def test_a_folder_that_cannot_be_written_is_done_without(
    paced: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    for place in (str(tmp_path / "file"), str(tmp_path / "file" / "deeper"), "bad\0name"):
        monkeypatch.setattr(cache, "cache_folder", lambda place=place: Path(place))
        assert choose_engine(DATA, GRAPH).engine is paced["onnxruntime"]
    assert (tmp_path / "file").read_text() == "no folder"


@pytest.mark.slow
def test_a_user_without_a_home_is_done_without(
    paced: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for variable in ("ANCHORSR_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    assert choose_engine(DATA, GRAPH).engine is paced["onnxruntime"]


@pytest.mark.parametrize(
    ("system", "variables", "expected"),
    [
        ("linux", {"ANCHORSR_CACHE": "/c", "XDG_CACHE_HOME": "/x"}, "/c"),
        ("linux", {"XDG_CACHE_HOME": "/x"}, "/x/anchorsr"),
        ("linux", {"ANCHORSR_CACHE": "", "XDG_CACHE_HOME": ""}, "/home/me/.cache/anchorsr"),
        ("darwin", {"XDG_CACHE_HOME": "/x"}, "/home/me/Library/Caches/anchorsr"),
        ("win32", {"LOCALAPPDATA": "/l"}, "/l/anchorsr"),
        ("win32", {}, "/home/me/AppData/Local/anchorsr"),
    ],
)
def test_the_folder_is_where_the_system_keeps_caches(
    system: str, variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ANCHORSR_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(Path, "home", lambda: Path("/home/me"))
    assert cache.cache_folder() == Path(expected)


@pytest.mark.slow
def test_many_that_remember_at_once_leave_one_whole_file(folder: Path) -> None:
    key = {"threads": 1}
    values = [{"litert": {"compared": n, "padding": list(range(2000))}} for n in range(8)]
    failures: list[object] = []

    def work(value: dict[str, Any]) -> None:
        for _ in range(20):
            cache.remember(key, value)
            if cache.recall(key) not in values:
                failures.append(cache.recall(key))

    threads = [threading.Thread(target=work, args=[value]) for value in values]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(kept(folder)) == 1  # and no temporary file


def test_a_trial_is_refused_by_its_figures() -> None:
    assert Trial(different=10, compared=10_000, largest=4).refusal == ""
    assert "0.110 % of the bytes" in Trial(different=11, compared=10_000, largest=1).refusal
    assert "up to 5 levels" in Trial(different=1, compared=10_000, largest=5).refusal


def test_the_processor_is_named_by_what_kernels_are_chosen_by() -> None:
    named = selection._processor()
    assert platform.machine() in named
    if Path("/proc/cpuinfo").exists() and "avx2" in Path("/proc/cpuinfo").read_text():
        assert " avx2" in named


# The faces


@pytest.fixture
def short_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real engines, tried on less: the exact arithmetic takes seconds for a shipped model."""
    monkeypatch.setattr(selection, "_SIZES", ((7, 9),))
    monkeypatch.setattr(selection, "_TIMED_SIZE", (16, 16))
    monkeypatch.setattr(selection, "_PAUSE", 0.0)


@pytest.mark.slow
def test_an_upscaler_says_which_engine_it_has(short_trials: None) -> None:
    for name in ENGINES:
        upscaler = Upscaler(threads=1, engine=name)
        assert upscaler.engine == name
        assert upscaler.why
        assert ready_upscaler("abpn", threads=1, engine=name).engine == name
    assert Upscaler(threads=1).engine in ENGINES


@pytest.mark.slow
def test_the_shipped_model_is_exact_enough_on_a_photograph_in_every_engine(dog: np.ndarray) -> None:
    data, graph = read_model(model_path("abpn"))
    images = dog[None, 100:196, 100:228]
    expected = run_graph(graph, images)
    for name in ENGINES:
        distance = np.abs(
            choose_engine(data, graph, name=name, threads=1).engine(images).astype(int) - expected
        )
        assert distance.max() <= selection.MOST_LEVELS
        assert (distance > 0).mean() <= selection.MOST_SHARE


@pytest.mark.slow
def test_figures_are_of_litert_unless_another_is_asked_for(short_trials: None) -> None:
    for options, engine in (({}, "litert"), ({"engine": "openvino"}, "openvino")):
        method = load_method("abpn", 3, threads=1, **options)
        assert method.__self__.engine == engine  # type: ignore[attr-defined]


@pytest.mark.onnxruntime
def test_verbose_says_on_standard_error_which_engine_is_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], short_trials: None
) -> None:
    from PIL import Image

    source = tmp_path / "a.png"
    Image.fromarray(image(0, 6, 5)[0]).save(source)
    asked = ["--engine", "onnxruntime", "--threads", "1"]
    assert app.run(["upscale", str(source), *asked, "--verbose"]) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{tmp_path / 'a_x3.png'}\n"
    assert printed.err.startswith("note: engine onnxruntime: as requested; it gives the bytes of")
    assert app.run(["upscale", str(source), *asked, "--force"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("command", [["upscale", "a.png"], ["evaluate", "Set5"]])
def test_an_unknown_engine_is_wrong_usage(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.run([*command, "--engine", "ncnn"]) == 2
    printed = capsys.readouterr()
    assert (
        "no engine 'ncnn'; choose from: auto, native, litert, openvino, onnxruntime" in printed.err
    )
    assert printed.err.count("\n") == 1


START = """
import sys
from anchorsr import Upscaler
from anchorsr.engines import selection
selection._SIZES, selection._TIMED_SIZE = ((7, 9),), (16, 16)  # to be quick
upscaler = Upscaler(threads=1, engine=sys.argv[1])
print(upscaler.engine, *(m for m in sys.argv[2:] if m in sys.modules))
"""


@pytest.mark.slow
def test_only_the_runtime_that_is_taken_is_imported() -> None:
    runtimes = ["openvino", "onnxruntime", "onnx"]
    source = str(Path(anchorsr.__file__).parents[1])
    for engine in ("auto", "auto"):  # tried, then remembered
        printed = subprocess.check_output(
            [sys.executable, "-c", START, engine, *runtimes],
            env={**os.environ, "PYTHONPATH": source},
            text=True,
            stderr=subprocess.DEVNULL,
        )
        taken, *imported = printed.split()
    needed = {
        "native": [],
        "litert": [],
        "openvino": ["openvino"],
        "onnxruntime": ["onnxruntime", "onnx"],
    }
    assert imported == needed[taken]
