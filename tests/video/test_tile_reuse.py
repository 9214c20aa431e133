"""Frames computed in part have the bytes of frames computed as a whole."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from anchorsr.graph.executor import run_graph
from anchorsr.video.tile_reuse import Rectangle, ReusingUpscaler
from helpers.graphs import image, integer_graph

# Halos of 3, 1 and 2 pixels.
GRAPHS = (
    integer_graph(0, factor=3, depth=2),
    integer_graph(1, factor=2, depth=0),
    integer_graph(2, factor=4, depth=1, hidden_zero_point=-20),
)


class Counting:
    """The whole-frame computation, which remembers how many pixels it was given."""

    def __init__(self, graph: object) -> None:
        self.graph = graph
        self.shapes: list[tuple[int, int]] = []

    def __call__(self, rgb: np.ndarray) -> np.ndarray:
        assert rgb.flags.c_contiguous
        self.shapes.append(rgb.shape[:2])
        return run_graph(self.graph, rgb[None])[0].copy()


def reusing(index: int, tile: int) -> tuple[ReusingUpscaler, Counting]:
    graph = GRAPHS[index]
    counting = Counting(graph)
    return ReusingUpscaler(counting, factor=graph.factor, halo=graph.halo, tile=tile), counting


Change = tuple[int, int, int, int]
CHANGES = st.lists(
    st.tuples(st.integers(0, 49), st.integers(0, 69), st.integers(1, 12), st.integers(1, 12)),
    max_size=4,
)


@pytest.mark.slow
@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    index=st.integers(0, 2),
    height=st.integers(1, 50),
    width=st.integers(1, 70),
    tile=st.integers(2, 20),
    steps=st.lists(CHANGES, min_size=1, max_size=4),
)
@example(index=0, height=1, width=1, tile=8, steps=[[], [(0, 0, 1, 1)]])
@example(index=0, height=50, width=70, tile=2, steps=[[(20, 30, 1, 1)], [(0, 69, 1, 1)]])
@example(index=1, height=50, width=70, tile=4, steps=[[(r, r, 1, 1) for r in range(0, 50, 9)]])
def test_every_frame_has_the_bytes_of_the_whole(
    index: int, height: int, width: int, tile: int, steps: list[list[Change]]
) -> None:
    part, _ = reusing(index, tile)
    whole = Counting(GRAPHS[index])
    frame = image(height, height, width)[0]
    part.update(frame)
    for changes in steps:
        before, frame = frame, frame.copy()
        for top, left, rows, columns in changes:
            frame[top : top + rows, left : left + columns] ^= 255
        output = part.output.copy()
        areas = part.update(frame)
        expected = whole(frame)
        np.testing.assert_array_equal(part.output, expected)
        # Outside the rectangles nothing may have changed: others copy only those.
        f = GRAPHS[index].factor
        outside = np.ones(expected.shape[:2], np.bool_)
        for area in areas:
            outside[area.top * f : area.bottom * f, area.left * f : area.right * f] = False
        np.testing.assert_array_equal(part.output[outside], output[outside])
        assert bool(areas) == bool((before != frame).any())


def test_a_halo_that_is_too_small_is_noticed_by_this_comparison() -> None:
    graph = GRAPHS[0]
    part = ReusingUpscaler(Counting(graph), factor=3, halo=graph.halo - 1, tile=8)
    frame = image(1, 40, 40)[0]
    part.update(frame)
    differs = False
    for column in range(8, 16):
        frame = frame.copy()
        frame[20, column] ^= 255
        part.update(frame)
        differs |= bool((part.output != run_graph(graph, frame[None])[0]).any())
    assert differs


def test_after_a_frame_that_failed_nothing_is_reused() -> None:
    broken = False

    def repeat(rgb: np.ndarray) -> np.ndarray:
        if broken:
            raise MemoryError
        return rgb.repeat(2, axis=0).repeat(2, axis=1)

    reusing = ReusingUpscaler(repeat, factor=2, halo=0)
    frames = [image(seed, 40, 50)[0] for seed in range(2)]
    reusing.update(frames[0])
    broken = True
    with pytest.raises(MemoryError):
        reusing.update(frames[1])
    broken = False
    for frame in (frames[1], frames[0]):
        reusing.update(frame)
        np.testing.assert_array_equal(reusing.output, repeat(frame))


def test_an_equal_frame_costs_no_call_and_counts_as_reused() -> None:
    part, counting = reusing(0, 8)
    frame = image(2, 24, 40)[0]
    assert part.update(frame) == [Rectangle(0, 0, 24, 40)]
    assert part.update(frame.copy()) == []
    assert len(counting.shapes) == 1
    assert (part.tiles, part.reused) == (30, 15)


def test_one_changed_pixel_costs_the_tiles_that_see_it() -> None:
    part, counting = reusing(0, 16)
    frame = image(3, 160, 160)[0]
    part.update(frame)
    frame = frame.copy()
    frame[72, 72] ^= 1  # 8 pixels inside its tile, more than the halo
    assert part.update(frame) == [Rectangle(64, 64, 80, 80)]
    assert counting.shapes[1:] == [(16 + 2 * 3, 16 + 2 * 3)]
    assert part.reused == 99
    frame = frame.copy()
    frame[80, 80] ^= 1  # in the corner of a tile: four see it, and are computed as one
    assert part.update(frame) == [Rectangle(64, 64, 96, 96)]
    assert part.reused == 99 + 96


def test_rectangles_at_an_edge_have_the_shape_of_those_inside() -> None:
    part, counting = reusing(0, 16)
    frame = image(4, 160, 160)[0]
    part.update(frame)
    for row, column in ((8, 8), (72, 72), (152, 152)):
        frame = frame.copy()
        frame[row, column] ^= 1
        part.update(frame)
    assert set(counting.shapes[1:]) == {(22, 22)}


@pytest.mark.parametrize("change", [lambda f: f ^ 255, lambda f: f[:, :30], lambda f: f[::-1]])
def test_a_new_scene_or_size_is_computed_as_a_whole(change: Callable[..., np.ndarray]) -> None:
    part, counting = reusing(1, 8)
    frame = image(5, 31, 41)[0]
    part.update(frame)
    other = np.ascontiguousarray(change(frame))
    assert part.update(other) == [Rectangle(0, 0, *other.shape[:2])]
    assert counting.shapes[-1] == other.shape[:2]
    np.testing.assert_array_equal(part.output, run_graph(GRAPHS[1], other[None])[0])
    assert part.reused == 0


@pytest.mark.slow
def test_changes_everywhere_are_not_computed_one_by_one() -> None:
    part, counting = reusing(0, 8)
    frame = image(6, 200, 200)[0]
    part.update(frame)
    frame = frame.copy()
    frame[4::16, 4::16] ^= 1
    part.update(frame)
    assert len(counting.shapes) == 2
    np.testing.assert_array_equal(part.output, run_graph(GRAPHS[0], frame[None])[0])
