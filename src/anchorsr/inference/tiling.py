"""Run an image of any size through an engine in bounded memory, tile by tile, without seams.

Each tile has a halo as wide as an output pixel's receptive field, so the result equals that of the
whole image bit for bit. Tiles at the image's edge end at that edge, where the network pads with
zeros as it does for the whole image. All tiles of an image have one shape, so that an engine
allocates once, and are as small as their number allows, so that they overlap by little more than
their halos.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from anchorsr.arrays import UInt8Array
from anchorsr.engines.runtimes import Engine

# Input pixels a side, including the halo.
TILE = 512
# A strip of a wide image has fewer rows than a tile, if it would have more bytes than this.
_STRIP_BYTES = 2**26
# Bytes of memory that are worth a thread to touch them.
_WORTH_A_THREAD = 2**25


def upscale_tiled(
    engine: Engine,
    rgb: UInt8Array,
    *,
    factor: int,
    halo: int,
    tile: int = TILE,
    multiple: int = 1,
    threads: int = 1,
) -> UInt8Array:
    """Upscale an image tile by tile; the result equals that of the whole image.

    Args:
        engine: What runs the model.
        rgb: uint8 (H, W, 3).
        factor: The model's factor.
        halo: Input pixels that an output pixel depends on, to each side.
        tile: The longest side of a tile, more than 2 · halo.
        multiple: What the sides of tiles are a multiple of. Other images are padded, at the bottom
            and on the right, with copies of their last pixels.
        threads: The number of threads that the engine uses.

    Returns:
        uint8 (factor · H, factor · W, 3).
    """
    wanted = [side * factor for side in rgb.shape[:2]]
    rgb = _padded(rgb, multiple)
    height, width = rgb.shape[:2]
    rows, columns = (_spans(side, tile, halo, multiple) for side in (height, width))
    if len(rows) == len(columns) == 1:
        whole: UInt8Array = engine(np.ascontiguousarray(rgb[None]))[0]
        return _cropped(whole, *wanted)
    output = _allocate((height * factor, width * factor, 3), threads)
    for row in rows:
        strip = output[row.first * factor : row.end * factor]
        _fill(strip, engine, rgb, row, columns, factor)
    return _cropped(output, *wanted)


def upscale_strips(
    engine: Engine,
    rgb: UInt8Array,
    *,
    factor: int,
    halo: int,
    tile: int = TILE,
    multiple: int = 1,
) -> Iterator[UInt8Array]:
    """Upscale an image in strips of rows, of which only one is in memory.

    Args:
        engine: What runs the model.
        rgb: uint8 (H, W, 3).
        factor: The model's factor.
        halo: Input pixels that an output pixel depends on, to each side.
        tile: The longest side of a tile, more than 2 · halo.
        multiple: As of `upscale_tiled`.

    Yields:
        uint8 (N, factor · W, 3), from top to bottom; N is less than factor · tile.
    """
    remaining, wanted_width = (side * factor for side in rgb.shape[:2])
    rgb = _padded(rgb, multiple)
    height, width = rgb.shape[:2]
    tall = tile
    if halo:
        few = max(4 * halo + 2 * multiple, _STRIP_BYTES // (3 * factor**2 * width))
        tall = min(tile, few)
    rows = _spans(height, tall, halo, multiple)
    columns = _spans(width, tile, halo, multiple)
    for row in rows:
        strip = np.empty(((row.end - row.first) * factor, width * factor, 3), np.uint8)
        _fill(strip, engine, rgb, row, columns, factor)
        strip = _cropped(strip, remaining, wanted_width)
        remaining -= len(strip)
        if len(strip):
            yield strip
        del strip  # freed before the next strip is made


def _allocate(shape: tuple[int, ...], threads: int) -> UInt8Array:
    """Allocate an array and touch its pages from several threads.

    Otherwise the system provides them one by one, as results are copied in one thread, which in a
    virtual machine can take as long as the network.
    """
    array = np.empty(shape, np.uint8)
    parts = min(threads, 1 + array.nbytes // _WORTH_A_THREAD)
    with ThreadPoolExecutor(parts) as pool:
        for part in np.array_split(array.reshape(-1)[:: mmap.PAGESIZE], parts):
            pool.submit(part.fill, 0)
    return array


def _padded(rgb: UInt8Array, multiple: int) -> UInt8Array:
    """Return the image with sides that are multiples, its last pixels repeated."""
    below, beside = (-side % multiple for side in rgb.shape[:2])
    if not (below or beside):
        return rgb
    return np.pad(rgb, ((0, below), (0, beside), (0, 0)), mode="edge")


def _cropped(rgb: UInt8Array, height: int, width: int) -> UInt8Array:
    """Return the image without what lies below and beside this size."""
    if rgb.shape[0] <= height and rgb.shape[1] <= width:
        return rgb
    return np.ascontiguousarray(rgb[:height, :width])


class _Span(NamedTuple):
    """A tile along one axis, from `start` to `stop`; the result keeps `first` to `end`."""

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
    """Upscale the tiles of a span of rows into a strip, (rows · factor, W · factor, 3)."""
    above, below = (row.first - row.start) * factor, (row.end - row.start) * factor
    for column in columns:
        cut = rgb[row.start : row.stop, column.start : column.stop]
        upscaled = engine(np.ascontiguousarray(cut[None]))[0]
        left, right = (column.first - column.start) * factor, (column.end - column.start) * factor
        place = slice(column.first * factor, column.end * factor)
        strip[:, place] = upscaled[above:below, left:right]


def _spans(size: int, tile: int, halo: int, multiple: int = 1) -> list[_Span]:
    """Cut an axis into the fewest tiles of one length, as short as possible.

    Tiles start and end at multiples, as the axis does, so their halos are that much wider.
    """
    halo = -(-halo // multiple) * multiple
    tile = tile // multiple * multiple
    if tile <= 2 * halo:
        raise ValueError(f"a tile of {tile} pixels holds nothing but its halo of {halo}")
    count = 1 if size <= tile else -(-(size - 2 * halo) // (tile - 2 * halo))
    length = -(-(size + 2 * halo * (count - 1)) // count)
    length = -(-length // multiple) * multiple
    spans: list[_Span] = []
    while not spans or spans[-1].end < size:
        done = spans[-1].end if spans else 0
        start = min(max(done - halo, 0), size - length)
        stop = start + length
        spans.append(_Span(start, stop, done, size if stop == size else stop - halo))
    return spans
