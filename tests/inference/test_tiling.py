"""Tiles give the bytes of the whole image, whatever the sizes of image and tiles."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import anchorsr
from anchorsr.engines.runtimes import ENGINES, Engine, load_engine
from anchorsr.graph.executor import run_graph
from anchorsr.graph.graph import Graph
from anchorsr.inference import tiling
from anchorsr.inference.tiling import TILE, _spans, upscale_strips, upscale_tiled
from anchorsr.models.registry import model_path, read_model
from anchorsr.serialization.tflite.writer import write_tflite
from helpers.graphs import image, integer_graph

# Halos of 1 to 4 pixels, factors 2 to 4, zero points with and without a sign.
GRAPHS = (
    integer_graph(0, factor=3, depth=2),
    integer_graph(1, factor=2, depth=0),
    integer_graph(2, factor=4, depth=1, hidden_zero_point=-20),
    integer_graph(3, factor=3, depth=3, channels=5, quantize_last=False),
)


class Executor:
    """The integer arithmetic as an engine that records the shapes it is given."""

    name = "executor"

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, images: np.ndarray) -> np.ndarray:
        assert images.flags.c_contiguous
        self.shapes.append(images.shape)
        return run_graph(self._graph, images)


@functools.cache
def runtime(name: str, index: int) -> Engine:
    return load_engine(write_tflite(GRAPHS[index]), name=name, threads=1)


def test_the_graphs_have_the_halos_that_they_are_meant_to_have() -> None:
    assert [graph.halo for graph in GRAPHS] == [3, 1, 2, 4]


@pytest.mark.slow
@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    index=st.integers(0, len(GRAPHS) - 1),
    height=st.integers(1, 41),
    width=st.integers(1, 41),
    beyond_halo=st.integers(1, 40),
)
@example(index=0, height=1, width=1, beyond_halo=1)
@example(index=0, height=1, width=37, beyond_halo=1)
@example(index=3, height=31, width=1, beyond_halo=1)
@example(index=1, height=2, width=3, beyond_halo=1)
@example(index=2, height=37, width=41, beyond_halo=2)
def test_tiles_give_the_bytes_of_the_whole(
    index: int, height: int, width: int, beyond_halo: int
) -> None:
    graph = GRAPHS[index]
    tile = 2 * graph.halo + beyond_halo
    images = image(height * 100 + width, height, width)
    exact = run_graph(graph, images)[0]
    for engine in (Executor(graph), *(runtime(name, index) for name in ENGINES)):
        # OpenVINO rounds some ties differently, but consistently.
        whole = engine(images)[0] if engine.name == "openvino" else exact
        tiled = upscale_tiled(
            engine, images[0], factor=graph.factor, halo=graph.halo, tile=tile, threads=2
        )
        assert tiled.dtype == np.uint8
        np.testing.assert_array_equal(tiled, whole)
        strips = list(
            upscale_strips(engine, images[0], factor=graph.factor, halo=graph.halo, tile=tile)
        )
        assert {(strip.shape[1:], strip.dtype) for strip in strips} == {
            ((width * graph.factor, 3), np.dtype(np.uint8))
        }
        np.testing.assert_array_equal(np.concatenate(strips), whole)


@pytest.mark.slow
@settings(max_examples=60, deadline=None, derandomize=True)
@given(height=st.integers(1, 60), width=st.integers(1, 60), tile=st.integers(3, 70))
def test_all_tiles_of_an_image_have_one_shape(height: int, width: int, tile: int) -> None:
    graph = GRAPHS[1]
    engine = Executor(graph)
    upscale_tiled(engine, image(0, height, width)[0], factor=2, halo=graph.halo, tile=tile)
    (shape,) = set(engine.shapes)
    assert shape[1] <= min(height, tile)
    assert shape[2] <= min(width, tile)
    if height <= tile and width <= tile:
        assert engine.shapes == [(1, height, width, 3)]


def test_a_halo_that_is_too_small_leaves_seams() -> None:
    """Otherwise the property above could not fail."""
    graph = GRAPHS[0]
    images = image(5, 40, 40)
    tiled = upscale_tiled(
        Executor(graph), images[0], factor=graph.factor, halo=graph.halo - 1, tile=12
    )
    assert (tiled != run_graph(graph, images)[0]).any()


def test_an_image_within_one_tile_is_one_call() -> None:
    engine = Executor(GRAPHS[1])
    upscale_tiled(engine, image(0, 30, 20)[0], factor=2, halo=1, tile=30)
    assert engine.shapes == [(1, 30, 20, 3)]


def test_an_image_larger_than_the_usual_tile() -> None:
    graph = GRAPHS[1]
    images = image(6, 3, TILE + 89)
    engine = Executor(graph)
    tiled = upscale_tiled(engine, images[0], factor=2, halo=graph.halo)
    assert len(engine.shapes) == 2
    np.testing.assert_array_equal(tiled, run_graph(graph, images)[0])


def test_an_image_that_is_a_view_of_another_is_tiled_the_same() -> None:
    graph = GRAPHS[0]
    rgb = image(7, 34, 50)[0]
    turned = rgb[::-1, ::2]
    tiled = upscale_tiled(Executor(graph), turned, factor=3, halo=graph.halo, tile=11)
    np.testing.assert_array_equal(tiled, run_graph(graph, turned[None])[0])


@pytest.mark.parametrize("tile", [0, 1, 5, 6])
def test_a_tile_that_is_all_halo_is_refused(tile: int) -> None:
    with pytest.raises(ValueError, match="nothing but its halo of 3"):
        upscale_tiled(Executor(GRAPHS[0]), image(0, 9, 9)[0], factor=3, halo=3, tile=tile)


def test_strips_of_a_wide_image_have_fewer_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise one of a panorama has hundreds of megabytes."""
    graph = GRAPHS[0]
    images = image(8, 60, 50)
    monkeypatch.setattr(tiling, "_STRIP_BYTES", 1)
    few = 4 * graph.halo + 2
    strips = list(upscale_strips(Executor(graph), images[0], factor=3, halo=graph.halo, tile=40))
    assert max(map(len, strips)) <= 3 * few
    np.testing.assert_array_equal(np.concatenate(strips), run_graph(graph, images)[0])


@pytest.mark.parametrize("tile", [0, 1, 5, 6])
def test_strips_of_tiles_that_are_all_halo_are_refused(tile: int) -> None:
    strips = upscale_strips(Executor(GRAPHS[0]), image(0, 9, 9)[0], factor=3, halo=3, tile=tile)
    with pytest.raises(ValueError, match="nothing but its halo of 3"):
        next(strips)


@pytest.mark.slow
@pytest.mark.parametrize("name", ENGINES)
def test_the_shipped_network_leaves_no_seam_in_a_photograph(name: str, dog: np.ndarray) -> None:
    data, graph = read_model(model_path("abpn"))
    engine = load_engine(data, name=name, threads=1)
    whole = engine(dog[None])[0]
    for tile in (73, 128):
        tiled = upscale_tiled(engine, dog, factor=3, halo=graph.halo, tile=tile)
        np.testing.assert_array_equal(tiled, whole)


@pytest.mark.slow
@settings(max_examples=300, deadline=None, derandomize=True)
@given(size=st.integers(1, 5000), halo=st.integers(0, 40), beyond_halo=st.integers(1, 600))
def test_tiles_are_as_few_and_as_small_as_can_be(size: int, halo: int, beyond_halo: int) -> None:
    tile = 2 * halo + beyond_halo
    spans = _spans(size, tile, halo)
    assert [span.first for span in spans] == [0, *(span.end for span in spans[:-1])]
    assert spans[-1].end == size
    for span in spans:
        assert 0 <= span.start <= span.first < span.end <= span.stop <= size
        assert span.start == 0 or span.first - span.start >= halo
        assert span.stop == size or span.stop - span.end >= halo
    lengths = {span.stop - span.start for span in spans}
    assert len(lengths) == 1
    assert max(lengths) <= tile

    def covered(count: int, length: int) -> int:
        return length if count == 1 else 2 * (length - halo) + (count - 2) * (length - 2 * halo)

    assert len(spans) == 1 or covered(len(spans) - 1, tile) < size
    assert covered(len(spans), max(lengths) - 1) < size


MEMORY = """
import sys
import numpy as np
from anchorsr import Upscaler
height, width = 2200, 3000
rgb = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
upscaler = Upscaler("fast", threads=2, engine=sys.argv[1])

def print_peak_beyond(held):
    status = open("/proc/self/status").read()  # what getrusage says begins with the parent's peak
    print((int(status.split("VmHWM:")[1].split()[0]) * 1024 - held) / 1e6)

for strip in upscaler.strips(rgb):
    del strip
print_peak_beyond(rgb.nbytes)
whole = upscaler(rgb)
print_peak_beyond(rgb.nbytes + whole.nbytes)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is measured as Linux does")
@pytest.mark.parametrize("name", ["litert", "openvino"])
def test_memory_stays_within_300_mb_of_input_and_output(name: str) -> None:
    """6.6 to 59 megapixels, 178 MB; the overhead does not grow with the image."""
    if name == "openvino":
        pytest.importorskip("openvino", reason="needs anchorsr[fast]")
    source = str(Path(anchorsr.__file__).parents[1])
    printed = subprocess.check_output(
        [sys.executable, "-c", MEMORY, name],
        env={**os.environ, "PYTHONPATH": source},
        text=True,
        stderr=subprocess.DEVNULL,
    )
    strips, whole = (float(number) for number in printed.split())
    assert 0 < strips < 300
    assert 0 < whole < 300
