"""Upscale only the tiles of a frame that differ from the previous frame, and reuse the others.

An output pixel depends on the input pixels within the halo around it and on nothing else, so where
those are byte-identical, so is the output. Changed tiles are merged into rectangles, each computed
with its halo: the result is bit-exact with upscaling the whole frame.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from anchorsr.arrays import UInt8Array

# LR pixels per side. Smaller tiles follow motion more closely; merging them into rectangles keeps
# the number of halos low.
TILE = 16

# Fixed cost of an engine call, in pixels: mostly the change of shape, 1 to 3 ms at 0.15 µs per
# pixel.
_CALL_COST = 10_000

# With more rectangles than this, the whole frame is computed.
_MAX_RECTANGLES = 24


class Rectangle(NamedTuple):
    """Pixels from (top, left) up to but excluding (bottom, right)."""

    top: int
    left: int
    bottom: int
    right: int


class ReusingUpscaler:
    """Upscales the frames of one video in order, reusing the tiles that have not changed.

    Args:
        upscale: Maps uint8 (H, W, 3) to (factor · H, factor · W, 3).
        factor: Upscaling factor.
        halo: An output pixel depends only on input pixels within this distance.
        tile: Side of a tile in input pixels.

    Attributes:
        output: The last upscaled frame, uint8.
        tiles: Number of tiles in all frames so far.
        reused: Number of those that were not computed again.
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
        """Upscale the next frame into `output`.

        Args:
            rgb: Uint8 (H, W, 3). It is kept until the next call and must not be modified.

        Returns:
            The rectangles of `rgb` that were computed. They cover every changed tile and may
            overlap; there are none for a frame equal to the previous one.
        """
        height, width = rgb.shape[:2]
        whole = Rectangle(0, 0, height, width)
        rows, columns = -(-height // self._tile), -(-width // self._tile)
        self.tiles += rows * columns
        computed = [whole]
        if rgb.shape == self._input.shape:
            differs = rgb != self._input
            computed = self._merge(self._changed(differs), whole) if differs.any() else []
        # If this frame fails, the next one is computed as a whole.
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

    @property
    def share_reused(self) -> float:
        """Share of all tiles so far that were reused, 0 to 1."""
        return self.reused / self.tiles if self.tiles else 0.0

    def _changed(self, differs: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Which tiles, (rows, columns), have a pixel that differs in them or their halo."""
        values = differs.reshape(differs.shape[0], -1)
        rows = _any_within(values, self._tile, self._halo, 1, axis=0)
        return _any_within(rows, self._tile, self._halo, differs.shape[2], axis=1)

    def _merge(self, changed: npt.NDArray[np.bool_], whole: Rectangle) -> list[Rectangle]:
        """Few rectangles that cover all changed tiles; the whole frame where that costs less."""
        areas = [
            Rectangle(
                top * self._tile,
                left * self._tile,
                min(bottom * self._tile, whole.bottom),
                min(right * self._tile, whole.right),
            )
            for top, left, bottom, right in _runs(changed)
        ]
        if len(areas) > _MAX_RECTANGLES:
            return [whole]
        while (pair := self._best_pair(areas)) is not None:
            first, second = pair
            joined = _join(areas[first], areas[second])
            areas = [area for i, area in enumerate(areas) if i not in pair] + [joined]
        cost = sum(self._cost(area) for area in areas)
        return areas if cost < whole.bottom * whole.right + _CALL_COST else [whole]

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
        """Cost of a rectangle in pixels: those that the engine computes, and the call itself."""
        height = area.bottom - area.top + 2 * self._halo
        return height * (area.right - area.left + 2 * self._halo) + _CALL_COST

    def _compute(self, rgb: UInt8Array, area: Rectangle) -> None:
        """Upscale one rectangle into the output.

        At an edge of the frame the halo is shifted inwards rather than cut: the network pads at
        the edge as it does for the whole frame, and equal rectangles keep one input shape.
        """
        height, width = rgb.shape[:2]
        top, bottom = _window(area.top, area.bottom, height, self._halo)
        left, right = _window(area.left, area.right, width, self._halo)
        upscaled = self._upscale(np.ascontiguousarray(rgb[top:bottom, left:right]))
        f = self.factor
        self.output[area.top * f : area.bottom * f, area.left * f : area.right * f] = upscaled[
            (area.top - top) * f : (area.bottom - top) * f,
            (area.left - left) * f : (area.right - left) * f,
        ]


def _any_within(
    values: npt.NDArray[np.bool_], tile: int, halo: int, channels: int, *, axis: int
) -> npt.NDArray[np.bool_]:
    """For each tile along an axis, tell whether any value in it or its halo is set."""
    size = values.shape[axis]
    starts = np.arange(0, size, tile * channels)
    ends = starts + (tile + halo) * channels
    # Pairs (start, end): every second reduction is a tile; the others are not used. As `reduceat`
    # takes no index past the end, one empty row is added.
    pairs = np.stack((np.maximum(starts - halo * channels, 0), np.minimum(ends, size)), axis=1)
    shape = list(values.shape)
    shape[axis] = 1
    padded = np.concatenate((values, np.zeros(shape, np.bool_)), axis=axis)
    found = np.logical_or.reduceat(padded, pairs.ravel(), axis=axis)
    return np.asarray(found[::2] if axis == 0 else found[:, ::2], np.bool_)


def _runs(changed: npt.NDArray[np.bool_]) -> list[Rectangle]:
    """Runs of set tiles in each row; equal runs in successive rows are one rectangle."""
    done: list[Rectangle] = []
    growing: dict[tuple[int, int], int] = {}  # (left, right) of a run → its first row
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
    """Start and end, along one axis, of a rectangle with its halo."""
    length = min(end - start + 2 * halo, size)
    first = min(max(start - halo, 0), size - length)
    return first, first + length
