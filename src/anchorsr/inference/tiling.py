"""An image of any size through an engine in bounded memory, tile by tile, without seams.

Each tile is cut with a halo of as many pixels as an output pixel can see, so that the result
is bit for bit that of the whole image. Tiles at the image's edge end at that edge, where
the network pads with zeros just as it does for the whole image. All tiles of an image have
one shape, so that an engine prepares itself once, and they are as small as their number allows,
so that they overlap by little more than their halos.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from anchorsr.engines.runtimes import Engine

UInt8Array = npt.NDArray[np.uint8]

# LR pixels a side, halo included.
TILE = 512
# Bytes of memory that a thread of its own is started to touch.
_WORTH_A_THREAD = 2**25


def upscale_tiled(
    engine: Engine,
    rgb: UInt8Array,
    *,
    factor: int,
    halo: int,
    tile: int = TILE,
    threads: int = 1,
) -> UInt8Array:
    """(H, W, 3) uint8 to (factor · H, factor · W, 3), equal to the engine's own whole output.

    tile: the longest side of what the engine sees, more than 2 · halo. threads: those that the
    engine has.
    """
    height, width = rgb.shape[:2]
    rows, columns = _spans(height, tile, halo), _spans(width, tile, halo)
    if len(rows) == len(columns) == 1:
        whole: UInt8Array = engine(np.ascontiguousarray(rgb[None]))[0]
        return whole
    output = _touched((height * factor, width * factor, 3), threads)
    for row in rows:
        strip = output[row.first * factor : row.end * factor]
        _fill(strip, engine, rgb, row, columns, factor)
    return output


def upscale_strips(
    engine: Engine, rgb: UInt8Array, *, factor: int, halo: int, tile: int = TILE
) -> Iterator[UInt8Array]:
    """The same result in strips of rows, (some, factor · W, 3), from the top to the bottom.

    Only one strip, of less than factor · tile rows, is in memory; each is an array of its own.
    """
    height, width = rgb.shape[:2]
    rows, columns = _spans(height, tile, halo), _spans(width, tile, halo)
    for row in rows:
        strip = np.empty(((row.end - row.first) * factor, width * factor, 3), np.uint8)
        _fill(strip, engine, rgb, row, columns, factor)
        yield strip
        del strip  # before the next one is made


def _touched(shape: tuple[int, ...], threads: int) -> UInt8Array:
    """An array whose memory the system has provided already, to several threads at once.

    Else it provides it page by page as results are copied, in one thread, which in a virtual
    machine can take as long as the network.
    """
    array = np.empty(shape, np.uint8)
    parts = min(threads, 1 + array.nbytes // _WORTH_A_THREAD)
    with ThreadPoolExecutor(parts) as pool:
        for part in np.array_split(array.reshape(-1)[:: mmap.PAGESIZE], parts):
            pool.submit(part.fill, 0)
    return array


class _Span(NamedTuple):
    """Along one axis: the tile from `start` to `stop`, of which `first` to `end` are taken."""

    start: int
    stop: int
    first: int
    end: int


def _fill(
    strip: UInt8Array,
    engine: Engine,
    rgb: UInt8Array,
    row: _Span,
    columns: list[_Span],
    factor: int,
) -> None:
    """Write the rows of a span, (some · factor, W · factor, 3), from left to right."""
    above, below = (row.first - row.start) * factor, (row.end - row.start) * factor
    for column in columns:
        cut = rgb[row.start : row.stop, column.start : column.stop]
        upscaled = engine(np.ascontiguousarray(cut[None]))[0]
        left, right = (column.first - column.start) * factor, (column.end - column.start) * factor
        place = slice(column.first * factor, column.end * factor)
        strip[:, place] = upscaled[above:below, left:right]


def _spans(size: int, tile: int, halo: int) -> list[_Span]:
    """As few tiles as cover the size, as small as they can be, all equally long."""
    if tile <= 2 * halo:
        raise ValueError(f"a tile of {tile} holds nothing but its halo of {halo}")
    count = 1 if size <= tile else -(-(size - 2 * halo) // (tile - 2 * halo))
    length = -(-(size + 2 * halo * (count - 1)) // count)
    spans: list[_Span] = []
    while not spans or spans[-1].end < size:
        done = spans[-1].end if spans else 0
        start = min(max(done - halo, 0), size - length)
        stop = start + length
        spans.append(_Span(start, stop, done, size if stop == size else stop - halo))
    return spans
