"""Tiles give the bytes of the whole picture, whatever its size and theirs."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from anchorsr.engines import Engine, load_engine
from anchorsr.graph import Graph
from anchorsr.integer import run_graph
from anchorsr.tflite import write_tflite
from anchorsr.tiling import TILE, upscale_tiled
from graphs import integer_graph, picture

# Halos of 1 to 4 pixels, factors 2 to 4, zero points with and without a sign.
GRAPHS = (
    integer_graph(0, factor=3, depth=2),
    integer_graph(1, factor=2, depth=0),
    integer_graph(2, factor=4, depth=1, hidden_zero_point=-20),
    integer_graph(3, factor=3, depth=3, channels=5, quantize_last=False),
)


class Executor:
    """The integer arithmetic as an engine that remembers the shapes it was given."""

    name = "executor"

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, images: np.ndarray) -> np.ndarray:
        assert images.flags.c_contiguous
        self.shapes.append(images.shape)
        return run_graph(self._graph, images)


@functools.cache
def litert(index: int) -> Engine:
    return load_engine(write_tflite(GRAPHS[index]), threads=1)


def test_the_graphs_have_the_halos_that_they_are_meant_to_have() -> None:
    assert [graph.halo for graph in GRAPHS] == [3, 1, 2, 4]


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
    images = picture(height * 100 + width, height, width)
    whole = run_graph(graph, images)[0]
    for engine in (Executor(graph), litert(index)):
        tiled = upscale_tiled(engine, images[0], factor=graph.factor, halo=graph.halo, tile=tile)
        assert tiled.dtype == np.uint8
        np.testing.assert_array_equal(tiled, whole)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(height=st.integers(1, 60), width=st.integers(1, 60), tile=st.integers(3, 70))
def test_all_tiles_of_a_picture_have_one_shape(height: int, width: int, tile: int) -> None:
    graph = GRAPHS[1]
    engine = Executor(graph)
    upscale_tiled(engine, picture(0, height, width)[0], factor=2, halo=graph.halo, tile=tile)
    (shape,) = set(engine.shapes)
    assert shape[1] <= min(height, tile)
    assert shape[2] <= min(width, tile)
    if height <= tile and width <= tile:
        assert engine.shapes == [(1, height, width, 3)]


def test_a_halo_that_is_too_small_leaves_seams() -> None:
    """Were this to pass, the property above could not fail."""
    graph = GRAPHS[0]
    images = picture(5, 40, 40)
    tiled = upscale_tiled(
        Executor(graph), images[0], factor=graph.factor, halo=graph.halo - 1, tile=12
    )
    assert (tiled != run_graph(graph, images)[0]).any()


def test_a_picture_within_one_tile_is_one_call() -> None:
    engine = Executor(GRAPHS[1])
    upscale_tiled(engine, picture(0, 30, 20)[0], factor=2, halo=1, tile=30)
    assert engine.shapes == [(1, 30, 20, 3)]


def test_a_picture_larger_than_the_usual_tile() -> None:
    graph = GRAPHS[1]
    images = picture(6, 3, TILE + 89)
    engine = Executor(graph)
    tiled = upscale_tiled(engine, images[0], factor=2, halo=graph.halo)
    assert len(engine.shapes) == 2
    np.testing.assert_array_equal(tiled, run_graph(graph, images)[0])


def test_a_picture_that_is_a_view_of_another_is_tiled_the_same() -> None:
    graph = GRAPHS[0]
    rgb = picture(7, 34, 50)[0]
    turned = rgb[::-1, ::2]
    tiled = upscale_tiled(Executor(graph), turned, factor=3, halo=graph.halo, tile=11)
    np.testing.assert_array_equal(tiled, run_graph(graph, turned[None])[0])


@pytest.mark.parametrize("tile", [0, 1, 5, 6])
def test_a_tile_that_is_all_halo_is_refused(tile: int) -> None:
    with pytest.raises(ValueError, match="nothing but its halo of 3"):
        upscale_tiled(Executor(GRAPHS[0]), picture(0, 9, 9)[0], factor=3, halo=3, tile=tile)
