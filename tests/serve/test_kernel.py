"""The kernel as WebAssembly, in Node: the bytes of the exact arithmetic, and the same packing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anchorsr.engines.native.packing import pack_graph
from anchorsr.errors import GraphError
from anchorsr.graph.executor import run_graph
from anchorsr.graph.graph import Graph
from anchorsr.models.registry import list_models, read_model
from anchorsr.serialization.tflite.writer import write_tflite
from helpers.graphs import float_graph, integer_graph, reference_run
from random_graphs import random_graph, random_image

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "src/anchorsr/serve/page"
SIZES = [(1, 1), (1, 2), (2, 1), (1, 97), (53, 1), (5, 4), (7, 8), (13, 11), (41, 37), (3, 211)]

sys.path.append(str(ROOT / "build_backend"))
import wasm  # noqa: E402

needs_node = pytest.mark.skipif(
    shutil.which("node") is None, reason="needs node: apt-get install nodejs"
)


def run_node(
    folder: Path, models: list[bytes], images: list[np.ndarray[Any, Any]]
) -> list[dict[str, Any]]:
    """What tests/serve/kernel.mjs makes of models and images; files are left in the folder."""
    cases = []
    for number, (model, image) in enumerate(zip(models, images, strict=True)):
        height, width = image.shape[1:3]
        opaque = np.full((height, width, 1), 255, np.uint8)
        (folder / f"{number}.tflite").write_bytes(model)
        (folder / f"{number}.rgba").write_bytes(np.concatenate((image[0], opaque), 2).tobytes())
        cases.append({"number": number, "width": width, "height": height})
    (folder / "cases.json").write_text(json.dumps(cases))
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True)
    # Until Node 21, relaxed SIMD is behind a flag.
    older = int(version.stdout.strip().removeprefix("v").split(".")[0]) < 21
    flags = ["--experimental-wasm-relaxed-simd"] if older else []
    script = str(Path(__file__).with_name("kernel.mjs"))
    done = subprocess.run(
        ["node", *flags, script, str(PAGE), str(folder)], capture_output=True, text=True, check=True
    )
    told: list[dict[str, Any]] = json.loads(done.stdout)
    return told


def check(folder: Path, graphs: list[Graph], models: list[bytes], *, shipped: bool) -> None:
    images = [random_image(seed, *SIZES[seed % len(SIZES)]) for seed in range(len(graphs))]
    told = run_node(folder, models, images)
    run = run_graph if shipped else reference_run
    for row, graph, image in zip(told, graphs, images, strict=True):
        assert "error" not in row, f"{graph.name}: {row}"
        number, sets = row["number"], row["made"]
        assert sets[:2] == ["portable", "simd128"] and len(sets) == 3, sets
        assert (folder / f"{number}.packed").read_bytes() == pack_graph(graph)
        assert row["halo"] == graph.halo
        expected = run(graph, image)
        for name in sets:
            made = np.frombuffer((folder / f"{number}.{name}").read_bytes(), np.uint8)
            rgba = made.reshape(*expected.shape[:3], 4)
            np.testing.assert_array_equal(rgba[..., :3], expected, f"{graph.name} {name}")
            assert (rgba[..., 3] == 255).all()


@pytest.mark.slow
@needs_node
def test_shipped_networks_give_the_bytes_of_the_arithmetic(tmp_path: Path) -> None:
    models = [read_model(model.path) for model in list_models()]
    check(tmp_path, [graph for _, graph in models], [data for data, _ in models], shipped=True)


@pytest.mark.slow
@needs_node
def test_random_networks_give_the_bytes_of_the_arithmetic(tmp_path: Path) -> None:
    graphs = [random_graph(seed) for seed in range(60)]
    graphs += [integer_graph(seed, channels=32, weight_limit=127) for seed in range(4)]
    check(tmp_path, graphs, [write_tflite(graph) for graph in graphs], shipped=False)


@pytest.mark.slow
@needs_node
def test_what_the_kernel_does_not_run_is_refused_in_words(tmp_path: Path) -> None:
    data, _ = read_model(list_models()[0].path)
    models = [write_tflite(float_graph(0)), b"no model at all", data[: len(data) // 2], data[:40]]
    told = run_node(tmp_path, models, [random_image(0, 4, 5)] * len(models))
    with pytest.raises(GraphError):
        pack_graph(float_graph(0))
    expected = ["the kernel takes", "lacks the identifier", "damaged or cut", "damaged or cut"]
    for row, words in zip(told, expected, strict=True):
        assert words in row["error"], row


def test_the_modules_are_made_of_these_sources() -> None:
    recorded = json.loads((PAGE / "kernel.json").read_text())
    assert recorded == wasm.record(), "run: python build_backend/wasm.py"
    assert sum((PAGE / name).stat().st_size for name in wasm.MODULES) < 75_000


@pytest.mark.slow
def test_building_the_modules_again_gives_the_same_bytes(tmp_path: Path) -> None:
    if find_spec("ziglang") is None:
        pytest.skip(f"needs the compiler: pip install ziglang=={wasm.ZIG}")
    wasm.build(tmp_path)
    for name in wasm.MODULES:
        assert (tmp_path / name).read_bytes() == (PAGE / name).read_bytes()
