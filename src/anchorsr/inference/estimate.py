"""Estimate how damaged an image is: from what its file says, and from a measure on its pixels.

JPEG and WebP files tell their quality, and pixels that were JPEG once show it (`jpeg_traces`).
Noise, grain, blur and video have no such traces. They are measured by the spectra of 8×8 blocks:
the quietest blocks show noise, the sharpest blur, and small perceptrons turn the spectra into
strengths. `benchmarks/fit_estimator.py` fits it on training images.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from anchorsr.arrays import Float64Array, UInt8Array
from anchorsr.data.strengths import Strengths, jpeg_strength, webp_strength
from anchorsr.images.coding import SourceCoding
from anchorsr.inference.jpeg_traces import JPEGTraces, blocks_of, dct_matrix, find_grid, find_jpeg

FloatArray = npt.NDArray[np.float32]

# What the perceptron estimates, in the order of its outputs.
ESTIMATED = ("noise", "grain", "blur", "video")
CONSTANTS = Path(__file__).with_suffix(".json")

# Pixels a side below which nothing can be measured.
LEAST_SIDE = 24
# Below this many, chance deceives. With half as many, thresholds rise by these fractions, in the
# order of `ESTIMATED`: texture often looks like noise, and seldom like grain.
_ENOUGH_PIXELS = 128 * 128
_CAUTION = np.array([1.0, 0.2, 0.5, 0.5])
# Larger images are measured on this many squares a side, of this many pixels.
_SQUARES, _SQUARE = 4, 128
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
# Bands of frequencies, by the sum of row and column.
_BANDS = ((1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 14))
_QUANTILES = (0.02, 0.08, 0.3, 0.6, 0.92)
_COLOUR_QUANTILES = (0.08, 0.5)
# Which of the perceptron's inputs are differences of colour, and above which there is any.
_COLOUR, _LEAST_COLOUR = [2, 5], 0.0
# Added to energies, in squared levels, before their logarithm.
_LEAST_ENERGY = 0.01
# A coefficient below this is as good as zero.
_ZERO = 0.4


@dataclass(frozen=True)
class Estimate:
    """How damaged an image is.

    Attributes:
        strengths: The strengths of its damage, rounded, so that like images share a network.
        why: What they follow from, in words.
    """

    strengths: Strengths
    why: str


def estimate_damage(rgb: UInt8Array, coding: SourceCoding | None = None) -> Estimate:
    """Estimate the strengths of the damage of an image.

    Args:
        rgb: (H, W, 3) uint8.
        coding: What its file says, if it comes from one.
    """
    stored: dict[str, float] = {}
    said = []
    if coding is not None and coding.format == "WEBP":
        stored["webp"] = webp_strength(coding.quality)
        said.append(f"WebP quality {coding.quality} in the file")
    if min(rgb.shape[:2]) < LEAST_SIDE:
        if coding is not None and coding.format == "JPEG":
            stored["jpeg"] = jpeg_strength(coding.quality)
            said.append(f"JPEG quality {coding.quality} in the file")
        said.append("too small to be measured")
        return Estimate(_rounded(Strengths(**stored)), "; ".join(said))
    known = coding.quality if coding is not None and coding.format == "JPEG" else None
    traces, features = measure(rgb, stored, known=known)
    if traces is not None:
        where = "in the pixels" if known is None else "in the file"
        said.append(f"JPEG quality {traces.quality} {where}")
        if traces.earlier is not None:
            said.append(f"{traces.earlier} before that")
    doubt = float(np.clip(2 - 2 * rgb.shape[0] * rgb.shape[1] / _ENOUGH_PIXELS, 0, 1))
    measured = _Perceptron.load()(features, doubt)
    said.append("the rest measured")
    strengths = Strengths(**stored, **_strengths_of(traces), **measured)
    return Estimate(_rounded(strengths), "; ".join(said))


def measure(
    rgb: UInt8Array, stored: Mapping[str, float] = MappingProxyType({}), *, known: int | None = None
) -> tuple[JPEGTraces | None, Float64Array]:
    """Find the traces of JPEG, and measure what the perceptron sees.

    Args:
        rgb: (H, W, 3) uint8, at least `LEAST_SIDE` pixels a side.
        stored: Strengths that the file tells.
        known: The quality of the last JPEG, if the file tells it.

    Returns:
        The traces, or None; and the perceptron's inputs.
    """
    sample = _sample(rgb)
    luma = sample @ _LUMA
    grid = cache(partial(find_grid, luma))  # for both, and only if either needs it
    traces = find_jpeg(luma, known=known, grid=grid)
    every = {**stored, **_strengths_of(traces)}
    return traces, _features(sample, luma, every, (0, 0) if every else grid())


def _strengths_of(traces: JPEGTraces | None) -> dict[str, float]:
    if traces is None:
        return {}
    strengths = {"jpeg": jpeg_strength(traces.quality)}
    if traces.earlier is not None:
        strengths["earlier"] = jpeg_strength(traces.earlier)
    return strengths


def _features(
    sample: FloatArray, luma: FloatArray, stored: dict[str, float], grid: tuple[int, int]
) -> Float64Array:
    top, left = grid
    values: list[float] = []
    blocks = _usable(blocks_of(luma[top:, left:]))
    matrix = dct_matrix()
    coefficients = np.asarray(matrix @ blocks @ matrix.T, np.float32)
    for low, high in _BANDS:
        energy = _band(coefficients, low, high)
        values += np.quantile(energy, _QUANTILES).tolist()
    colours = []
    for difference in (sample[..., 0] - sample[..., 1], sample[..., 2] - sample[..., 1]):
        parts = _usable(blocks_of(difference[top:, left:]))
        colours.append(np.asarray(matrix @ parts @ matrix.T))
    for low, high in _BANDS:
        energy = _band(np.concatenate(colours, dtype=np.float32), low, high)
        values += np.quantile(energy, _COLOUR_QUANTILES).tolist()
    logarithms = np.log2(np.array(values) + _LEAST_ENERGY) / 4
    total = np.add.outer(np.arange(8), np.arange(8))
    zeros = [
        float((np.abs(coefficients[:, (total >= low) & (total <= high)]) < _ZERO).mean())
        for low, high in ((5, 8), (9, 14))
    ]
    files = [stored.get(name, 0.0) for name in ("jpeg", "earlier", "webp")]
    halved = _halved_colour(sample, luma)
    return np.array([*halved, *logarithms, *zeros, *files, float("jpeg" in stored)])


def has_colour(features: Float64Array) -> bool:
    """Whether an image with these inputs of the perceptron has more than a trace of colour."""
    return bool(features[_COLOUR].max() > _LEAST_COLOUR)


def _halved_colour(sample: FloatArray, luma: FloatArray) -> list[float]:
    """Measure whether colour was stored at half the resolution, as in most videos.

    Every second difference between neighbours then is smaller, or none, if colour was repeated;
    if it was interpolated, every second of the differences between differences is.

    Returns:
        For rows and columns, the logarithms of both ratios, and of the differences themselves.
    """
    colours = sample[..., ::2] - luma[..., None]
    values = []
    for axis in (0, 1):
        along = np.moveaxis(colours, axis, 0)
        for order in (1, 2):
            squares = np.square(np.diff(along, order, axis=0))
            parts = [np.log2(float(squares[first::2].mean()) + 0.1) / 4 for first in (0, 1)]
            values.append(abs(parts[0] - parts[1]))
        values.append(max(parts))
    return values


def _sample(rgb: UInt8Array) -> FloatArray:
    """Return the pixels that are measured: all, or squares that are spread over the image."""
    height, width = rgb.shape[:2]
    if height * width <= (_SQUARES * _SQUARE) ** 2 or min(height, width) < 2 * _SQUARE:
        side = (_SQUARES * _SQUARE) ** 2 // min(height, width)  # of a long strip, its beginning
        return rgb[:side, :side].astype(np.float32)
    # Multiples of 8 keep JPEG's blocks in one piece.
    tops, lefts = (
        (np.linspace(0, length - _SQUARE, _SQUARES) // 8 * 8).astype(int)
        for length in (height, width)
    )
    rows = [
        np.hstack([rgb[top : top + _SQUARE, left : left + _SQUARE] for left in lefts])
        for top in tops
    ]
    return np.vstack(rows).astype(np.float32)


def _usable(blocks: FloatArray) -> FloatArray:
    """Leave out blocks of one colour, which say nothing, unless there are no others."""
    varied = np.ptp(blocks.reshape(len(blocks), -1), axis=1) > 1
    return blocks[varied] if varied.sum() >= min(8, len(blocks)) else blocks


def _band(coefficients: FloatArray, low: int, high: int) -> FloatArray:
    """Return the mean square of the coefficients (N, 8, 8) of a band, (N,)."""
    total = np.add.outer(np.arange(8), np.arange(8))
    inside = (total >= low) & (total <= high)
    return np.asarray(np.square(coefficients[:, inside]).mean(axis=1))


def _rounded(strengths: Strengths) -> Strengths:
    values = {
        name: round(float(value) * 64) / 64 if name in ESTIMATED else value
        for name, value in dataclasses.asdict(strengths).items()
    }
    return Strengths(**values)


@dataclass(frozen=True)
class _Perceptron:
    """The mean of several perceptrons; an output below its threshold counts as nothing.

    Images without colour have thresholds of their own, since they lack the clearest sign of video.
    Thresholds rise with how much a measurement is doubted, from 0 to 1. Each perceptron is a list
    of fully connected layers, (weights, biases), with tanh between them.
    """

    mean: Float64Array
    deviation: Float64Array
    members: list[list[tuple[Float64Array, Float64Array]]]
    least: dict[bool, Float64Array]  # by whether there is colour

    @staticmethod
    @cache
    def load() -> _Perceptron:
        table = json.loads(CONSTANTS.read_text())
        return _Perceptron(
            mean=np.array(table["mean"]),
            deviation=np.array(table["deviation"]),
            members=[
                [(np.array(layer["weights"]), np.array(layer["biases"])) for layer in member]
                for member in table["members"]
            ],
            least={True: np.array(table["least"]), False: np.array(table["least_grey"])},
        )

    def __call__(self, features: Float64Array, doubt: float) -> dict[str, float]:
        scaled = np.clip((features - self.mean) / self.deviation, -4, 4)
        outputs = []
        for *hidden, (last, last_bias) in self.members:
            values = scaled
            for weights, bias in hidden:
                values = np.tanh(weights @ values + bias)
            outputs.append(np.clip(last @ values + last_bias, 0, 1))
        values = np.mean(outputs, axis=0)
        least = self.least[has_colour(features)] * (1 + doubt * _CAUTION)
        values = np.where(values < least, 0, values)
        return dict(zip(ESTIMATED, values.tolist(), strict=True))
