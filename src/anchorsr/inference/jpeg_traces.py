"""Find traces of JPEG compression in pixels: the quality, also where no file tells it.

Coefficients of decoded blocks lie near multiples of the table's steps (as in Fan and de Queiroz,
IEEE TIP 12(2), 2003), and a compression before the last one leaves gaps and doubles among those
multiples. Only tables of libjpeg are recognized; other software's are close to one of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from anchorsr.arrays import Float64Array
from anchorsr.images.coding import jpeg_luma_table

FloatArray = npt.NDArray[np.float32]

_SIDE = 8
# Pixels a side of the part in which the grid of blocks is looked for.
_GRID_PART = 128
# Blocks that are looked at: those with the most detail.
_MOST_BLOCKS = 384
_LEAST_COEFFICIENTS = 100
# Frequencies that are looked at, by the sum of row and column; the lowest is the block's mean.
_LOWEST, _HIGHEST = 1, 5
# Standard deviation of a coefficient by the rounding of pixels to 8 bits.
_ROUNDING = 0.45
# Gains are per coefficient: the least that one adds, and the least mean that is believed.
_LEAST_GAIN, _BELIEVED = -3.0, 0.35
# The qualities of an earlier compression that are tried, and the least gain that is believed.
_EARLIER = tuple(range(20, 98, 3))
_BELIEVED_EARLIER = 0.008


@dataclass(frozen=True)
class JPEGTraces:
    """JPEG compressions that an image went through.

    Attributes:
        quality: Of the last one.
        earlier: Of the one before it; None if there are no traces of one.
    """

    quality: int
    earlier: int | None = None


def find_jpeg(
    luma: FloatArray,
    *,
    known: int | None = None,
    grid: Callable[[], tuple[int, int]] | None = None,
) -> JPEGTraces | None:
    """Find the JPEG compressions that an image went through.

    Args:
        luma: (H, W) on 0 to 255, of an image that was not resized since.
        known: The last quality, if a file tells it.
        grid: What `find_grid` returns for the image, for a caller that needs it too.

    Returns:
        The qualities; None without traces, or where the image is too small or too flat to tell.
    """
    coefficients = _coefficients(luma)
    if known is not None:
        # An image that was turned has another grid, and no multiples to look at.
        fits = _gain_of_quality(coefficients, known) > _BELIEVED
        return JPEGTraces(known, _earlier_quality(coefficients, known) if fits else None)
    quality = _last_quality(coefficients)
    if quality is None:
        top, left = find_grid(luma) if grid is None else grid()
        if (top, left) != (0, 0):
            coefficients = _coefficients(luma[top:, left:])
            quality = _last_quality(coefficients)
    if quality is None:
        return None
    return JPEGTraces(quality, _earlier_quality(coefficients, quality))


def find_grid(luma: FloatArray) -> tuple[int, int]:
    """Return the row and column below 8 at which blocks begin: where most coefficients are zero."""
    part = luma[: _GRID_PART + _SIDE - 1, : _GRID_PART + _SIDE - 1]
    if min(part.shape) < 3 * _SIDE:
        return 0, 0
    matrix = dct_matrix()[_SIDE // 2 :]
    zeros = np.zeros((_SIDE, _SIDE))
    for top in range(_SIDE):
        for left in range(_SIDE):
            high = matrix @ blocks_of(part[top:, left:]) @ matrix.T
            zeros[top, left] = (np.abs(high) < 1).mean()
    top, left = divmod(int(zeros.argmax()), _SIDE)
    return top, left


@cache
def _frequencies() -> npt.NDArray[np.bool_]:
    total = np.add.outer(np.arange(_SIDE), np.arange(_SIDE))
    return (total >= _LOWEST) & (total <= _HIGHEST)


@cache
def _tables() -> FloatArray:
    """Return the steps of all qualities at the frequencies, (100, F)."""
    tables = [jpeg_luma_table(quality)[_frequencies()] for quality in range(1, 101)]
    return np.array(tables, np.float32)


@cache
def dct_matrix(side: int = _SIDE) -> FloatArray:
    """Return the orthonormal discrete cosine transform, (side, side)."""
    angles = np.outer(np.arange(side), 2 * np.arange(side) + 1) * np.pi / (2 * side)
    matrix = np.sqrt(2 / side) * np.cos(angles)
    matrix[0] /= np.sqrt(2)
    return np.asarray(matrix, np.float32)


def blocks_of(plane: FloatArray) -> FloatArray:
    """Cut (H, W) into blocks (N, 8, 8); what is left at the right and the bottom is dropped."""
    rows, columns = (side // _SIDE for side in plane.shape)
    cut = plane[: rows * _SIDE, : columns * _SIDE]
    return cut.reshape(rows, _SIDE, columns, _SIDE).swapaxes(1, 2).reshape(-1, _SIDE, _SIDE)


def _coefficients(luma: FloatArray) -> FloatArray:
    """Return the coefficients (F, N) of the most detailed blocks that were not clipped."""
    blocks = blocks_of(luma)
    if not len(blocks):
        return np.zeros((int(_frequencies().sum()), 0), np.float32)
    low, high = blocks.min(axis=(1, 2)), blocks.max(axis=(1, 2))
    usable = np.flatnonzero((low > 4) & (high < 251) & (high > low))
    order = np.argsort(low[usable] - high[usable], kind="stable")
    chosen = usable[order[:_MOST_BLOCKS]]
    matrix = dct_matrix()
    return np.ascontiguousarray((matrix @ blocks[chosen] @ matrix.T)[:, _frequencies()].T)


def _last_quality(coefficients: FloatArray) -> int | None:
    """Return the quality whose steps explain the coefficients best, if they do so well."""
    gains = [_gain_of_quality(coefficients, quality) for quality in range(1, 101)]
    best = int(np.argmax(gains))
    return best + 1 if gains[best] > _BELIEVED else None


def _gain_of_quality(coefficients: FloatArray, quality: int) -> float:
    """Return the mean log-likelihood that a quality adds per coefficient; -inf for too few."""
    steps = _tables()[quality - 1][:, None]
    multiples = np.rint(coefficients / steps)
    some = multiples != 0
    if some.sum() < _LEAST_COEFFICIENTS:
        return -np.inf
    error = np.square(coefficients - multiples * steps) / (2 * _ROUNDING**2)
    gain = np.log(steps / (_ROUNDING * np.sqrt(2 * np.pi))) - error
    return float(np.maximum(gain, _LEAST_GAIN)[some].mean())


def _earlier_quality(coefficients: FloatArray, quality: int) -> int | None:
    """Return the quality of a compression before the last one, by the frequency of multiples.

    With an earlier step, some multiples of the last step are reached from more of the earlier
    one's multiples than others, and some from none.
    """
    steps = _tables()[quality - 1]
    multiples = np.rint(np.abs(coefficients) / steps[:, None]).astype(np.int64)
    some = (multiples > 0) & (multiples < _MOST_MULTIPLES)
    if some.sum() < _LEAST_COEFFICIENTS:
        return None
    rows, columns = np.nonzero(some)
    seen = multiples[rows, columns]
    # Multiples without an earlier compression: geometric, with a ratio for each frequency.
    numbers = np.bincount(rows, minlength=len(steps))
    means = np.bincount(rows, seen, minlength=len(steps)) / np.maximum(numbers, 1)
    shrinking = 1 - 1 / np.maximum(means, 1.05)
    gains = []
    for earlier in _EARLIER:
        if abs(earlier - quality) < 2:
            gains.append(0.0)
            continue
        gains.append(_gain_of(_counts(quality, earlier), rows, seen, shrinking))
    best = int(np.argmax(gains))
    return _EARLIER[best] if gains[best] > _BELIEVED_EARLIER else None


_MOST_MULTIPLES = 24


def _gain_of(
    counts: Float64Array,
    rows: npt.NDArray[np.intp],
    seen: npt.NDArray[np.int64],
    ratios: Float64Array,
) -> float:
    """Return the mean log-likelihood of multiples by these counts, less that without them."""
    powers = ratios[:, None] ** np.arange(_MOST_MULTIPLES - 1) * (1 - ratios[:, None])
    normal = (counts[:, 1:] * powers).sum(axis=1) / powers.sum(axis=1)
    return float(np.log(counts[rows, seen] / normal[rows]).mean())


@cache
def _counts(quality: int, earlier: int) -> Float64Array:
    """Return how often each multiple of the last steps is reached from those of the earlier."""
    result = []
    for last, first in zip(_tables()[quality - 1], _tables()[earlier - 1], strict=True):
        # Rounding of the pixels in between spreads the earlier multiples a little.
        reached = np.arange(1, int(_MOST_MULTIPLES * last / first) + 3) * first
        counts = np.zeros(_MOST_MULTIPLES)
        for shift in (-0.5, 0.0, 0.5):
            bins = np.rint((reached + shift) / last).astype(int)
            counts += np.bincount(bins[bins < _MOST_MULTIPLES], minlength=_MOST_MULTIPLES) / 3
        result.append(np.maximum(counts * first / last, 0.03))
    return np.array(result)
