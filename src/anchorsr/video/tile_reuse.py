"""Frames of a video through a network that computes only what has changed since the last frame.

An output pixel sees the input pixels within the halo around it and nothing else, so where those
are equal byte for byte, so is the output. Frames are compared tile by tile. Changed tiles are
gathered in rectangles, each computed with its halo, so that the result is bit for bit that of
the whole frame.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

UInt8Array = npt.NDArray[np.uint8]

# LR pixels a side. Smaller ones follow what moves more closely; gathering them in rectangles
# keeps the halos few.
TILE = 16

# What a call of an engine costs beside its pixels, in pixels: mostly the change to another shape,
# 1 to 3 ms at 0.15 µs a pixel.
_CALL = 10_000

# More rectangles than these are not worth sorting out: the whole frame is computed.
_MOST = 24


class Rectangle(NamedTuple):
    """Pixels from (top, left) up to and without (bottom, right)."""

    top: int
    left: int
    bottom: int
    right: int


class ReusingUpscaler:
    """The frames of one video, in their order, made larger.

    upscale: uint8 (H, W, 3) to (factor · H, factor · W, 3), where an output pixel depends on the
    input within `halo` pixels. `output` is the last result; `tiles` and `reused` count the tiles
    of all frames so far and those of them that were not computed again.
    """

    def __init__(
        self,
        upscale: Callable[[UInt8Array], UInt8Array],
        *,
        factor: int,
        halo: int,
        tile: int = TILE,
    ) -> None:
        self.tiles = 0
        self.reused = 0
        self.output: UInt8Array = np.empty((0, 0, 3), np.uint8)
        self._upscale = upscale
        self.factor = factor
        self._halo = halo
        self._tile = tile
        self._input: UInt8Array = np.empty((0, 0, 3), np.uint8)

    def update(self, rgb: UInt8Array) -> list[Rectangle]:
        """Make `output` that of the frame `rgb`, (H, W, 3); returns where in `rgb` it was computed.

        The rectangles hold every changed tile, may overlap, and are none for a frame that equals
        the last. `rgb` is kept until the next call and must not be written to.
        """
        height, width = rgb.shape[:2]
        whole = Rectangle(0, 0, height, width)
        rows, columns = -(-height // self._tile), -(-width // self._tile)
        self.tiles += rows * columns
        computed = [whole]
        if rgb.shape == self._input.shape:
            differs = rgb != self._input
            computed = self._gather(self._changed(differs), whole) if differs.any() else []
        # Of a frame that fails, nothing is kept.
        self._input = np.empty((0, 0, 3), np.uint8)
        if computed == [whole]:
            self.output = self._upscale(rgb)
        else:
            covered = np.zeros((rows, columns), np.bool_)
            for area in computed:
                self._compute(rgb, area)
                covered[
                    area.top // self._tile : -(-area.bottom // self._tile),
                    area.left // self._tile : -(-area.right // self._tile),
                ] = True
            self.reused += int(covered.size - covered.sum())
        self._input = rgb
        return computed

    def _changed(self, differs: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Which tiles, (rows, columns), see an input that differs, (H, W, 3), halo included."""
        values = differs.reshape(differs.shape[0], -1)
        rows = _any_within(values, self._tile, self._halo, 1, axis=0)
        return _any_within(rows, self._tile, self._halo, differs.shape[2], axis=1)

    def _gather(self, changed: npt.NDArray[np.bool_], whole: Rectangle) -> list[Rectangle]:
        """Few rectangles that hold all changed tiles; the whole frame where that costs less."""
        areas = [
            Rectangle(
                top * self._tile,
                left * self._tile,
                min(bottom * self._tile, whole.bottom),
                min(right * self._tile, whole.right),
            )
            for top, left, bottom, right in _runs(changed)
        ]
        if len(areas) > _MOST:
            return [whole]
        while (pair := self._best_pair(areas)) is not None:
            first, second = pair
            joined = _join(areas[first], areas[second])
            areas = [area for i, area in enumerate(areas) if i not in pair] + [joined]
        cost = sum(self._cost(area) for area in areas)
        return areas if cost < whole.bottom * whole.right + _CALL else [whole]

    def _best_pair(self, areas: list[Rectangle]) -> tuple[int, int] | None:
        """The two rectangles that save most when they are computed as one, if any do."""
        best, most = None, 0
        for i, first in enumerate(areas):
            for j in range(i):
                apart = self._cost(first) + self._cost(areas[j])
                saved = apart - self._cost(_join(first, areas[j]))
                if saved > most:
                    best, most = (j, i), saved
        return best

    def _cost(self, area: Rectangle) -> int:
        """Pixels that the engine computes, its call counted as some more."""
        height = area.bottom - area.top + 2 * self._halo
        return height * (area.right - area.left + 2 * self._halo) + _CALL

    def _compute(self, rgb: UInt8Array, area: Rectangle) -> None:
        """Write one rectangle of the output.

        Its halo is moved inside the frame at an edge, rather than cut: the network must see the
        edge as an edge, and rectangles of one size stay of one shape, which engines like.
        """
        height, width = rgb.shape[:2]
        top, bottom = _window(area.top, area.bottom, height, self._halo)
        left, right = _window(area.left, area.right, width, self._halo)
        larger = self._upscale(np.ascontiguousarray(rgb[top:bottom, left:right]))
        f = self.factor
        self.output[area.top * f : area.bottom * f, area.left * f : area.right * f] = larger[
            (area.top - top) * f : (area.bottom - top) * f,
            (area.left - left) * f : (area.right - left) * f,
        ]


def _any_within(
    values: npt.NDArray[np.bool_], tile: int, halo: int, channels: int, *, axis: int
) -> npt.NDArray[np.bool_]:
    """For each tile along an axis, whether any value within it or its halo is set."""
    size = values.shape[axis]
    starts = np.arange(0, size, tile * channels)
    ends = starts + (tile + halo) * channels
    # Pairs (start, end): every second reduction is a span; the others are nothing of use. A span
    # up to the end of the axis cannot be named by its end, so one row of nothing is added.
    pairs = np.stack((np.maximum(starts - halo * channels, 0), np.minimum(ends, size)), axis=1)
    shape = list(values.shape)
    shape[axis] = 1
    padded = np.concatenate((values, np.zeros(shape, np.bool_)), axis=axis)
    found = np.logical_or.reduceat(padded, pairs.ravel(), axis=axis)
    return np.asarray(found[::2] if axis == 0 else found[:, ::2], np.bool_)


def _runs(changed: npt.NDArray[np.bool_]) -> list[Rectangle]:
    """Runs of set tiles in each row, equal ones of rows that follow one another as one."""
    done: list[Rectangle] = []
    growing: dict[tuple[int, int], int] = {}  # (left, right) of a run to its first row
    for row in range(changed.shape[0] + 1):
        runs: set[tuple[int, int]] = set()
        if row < changed.shape[0]:
            steps = np.flatnonzero(np.diff(changed[row], prepend=False, append=False))
            runs = {(int(a), int(b)) for a, b in zip(steps[::2], steps[1::2], strict=True)}
        for run in sorted(growing.keys() - runs):
            done.append(Rectangle(growing.pop(run), run[0], row, run[1]))
        for run in runs - growing.keys():
            growing[run] = row
    return done


def _join(first: Rectangle, second: Rectangle) -> Rectangle:
    return Rectangle(
        min(first.top, second.top),
        min(first.left, second.left),
        max(first.bottom, second.bottom),
        max(first.right, second.right),
    )


def _window(start: int, end: int, size: int, halo: int) -> tuple[int, int]:
    """Where the tile with its halo lies along one axis."""
    length = min(end - start + 2 * halo, size)
    first = min(max(start - halo, 0), size - length)
    return first, first + length
