"""Random patches cut from pairs, and degraded as a recipe says.

Each patch is a pure function of (seed, step, index in the batch). No state is kept. So a resumed
run, or one that is split over processes, draws exactly what a single uninterrupted run would.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from anchorsr.arrays import UInt8Array
from anchorsr.data.degradation import MARGIN, DegradationRecipe, degrade
from anchorsr.data.pairs import Pair
from anchorsr.data.strengths import CLEAN, Strengths
from anchorsr.errors import DataError

# Squared levels (35 dB), added to each error: flat images would get a thousandfold weight.
_ERROR_FLOOR = 20.0


class Patches(NamedTuple):
    """A batch of patches.

    Attributes:
        lr: (N, patch, patch, 3) uint8 RGB.
        hr: (N, factor · patch, factor · patch, 3) uint8 RGB.
        weights: (N,) float32 factors of the loss of each patch.
        strengths: The degradation of each patch.
    """

    lr: UInt8Array
    hr: UInt8Array
    weights: npt.NDArray[np.float32]
    strengths: tuple[Strengths, ...]


class _Patch(NamedTuple):
    lr: UInt8Array
    hr: UInt8Array
    weight: float
    strengths: Strengths


class PatchSampler:
    """Random aligned patches, flipped in both directions and transposed at random.

    Args:
        pairs: Where patches are cut from.
        patch: LR pixels a side.
        seed: Another seed gives other patches.
        channel_shuffle: Whether to permute the colour channels at random.
        candidates: Of this many patches the one with the most detail is taken: flat patches
            teach little.
        equal_pictures: Whether images are drawn equally often, as the mean of a test set counts
            them, and not in proportion to the number of patches in them.
        relative: Whether patches of images with a large error of bicubic upscaling get a small
            weight; the degradation of a patch adds to that error. Without degradation, the mean
            of the weighted error stays the same.
        degradation: How the LR side is degraded; None for not at all.
        given: Pairs whose LR side is used as it is.
        given_share: Fraction of the patches that is cut from those.

    Raises:
        DataError: No image is large enough for a patch and the margin that degrading needs.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        *,
        patch: int,
        seed: int,
        channel_shuffle: bool = False,
        candidates: int = 1,
        equal_pictures: bool = False,
        relative: bool = False,
        degradation: DegradationRecipe | None = None,
        given: Sequence[Pair] = (),
        given_share: float = 0.0,
    ) -> None:
        self._patch = patch
        self._seed = seed
        self._channel_shuffle = channel_shuffle
        self._candidates = candidates
        self._degradation = degradation
        self._given_share = given_share if given else 0.0
        margin = 0 if degradation is None else MARGIN
        self._reduced = _Images(pairs, patch + margin, equal_pictures)
        self._given = _Images(given, patch, equal_pictures) if given else None
        self._unit = self._reduced.mean_error() if relative else 0.0

    def batch(self, step: int, places: range) -> Patches:
        """Return the patches with these indices of the batch of this step."""
        drawn = [self._draw(np.random.default_rng((self._seed, step, p))) for p in places]
        lr, hr, weights, strengths = zip(*drawn, strict=True)
        return Patches(np.stack(lr), np.stack(hr), np.array(weights, np.float32), strengths)

    def _draw(self, random: np.random.Generator) -> _Patch:
        if self._given is not None and random.random() < self._given_share:
            pair, lr, hr = self._choose(self._given, random)
            return _Patch(lr, hr, self._weigh(pair, 0.0), pair.strengths)
        pair, lr, hr = self._choose(self._reduced, random)
        if self._degradation is None:
            return _Patch(lr, hr, self._weigh(pair, 0.0), CLEAN)
        lr, hr = np.ascontiguousarray(lr), np.ascontiguousarray(hr)
        damaged, strengths = degrade(lr, hr, self._degradation, random)
        # The position of a patch in the grid of JPEG blocks is random.
        top, left = (MARGIN // 2 + int(offset) for offset in random.integers(MARGIN // 2, size=2))
        factor = hr.shape[0] // lr.shape[0]
        damaged = _cut(damaged, top, left, self._patch)
        lr = _cut(lr, top, left, self._patch)
        hr = _cut(hr, top * factor, left * factor, self._patch * factor)
        added = float(np.square(damaged.astype(np.float32) - lr).mean())
        return _Patch(damaged, hr, self._weigh(pair, added), strengths)

    def _weigh(self, pair: Pair, added_error: float) -> float:
        """Return the weight of a patch whose degradation adds an error to that of bicubic."""
        if not self._unit:
            return 1.0
        return self._unit / (pair.bicubic_error + _ERROR_FLOOR + added_error)

    def _choose(
        self, images: _Images, random: np.random.Generator
    ) -> tuple[Pair, UInt8Array, UInt8Array]:
        drawn = [images.draw(random, self._channel_shuffle) for _ in range(self._candidates)]
        return max(drawn, key=lambda one: images.detail(one[2])) if len(drawn) > 1 else drawn[0]


class _Images:
    """The pairs that patches of one size are cut from."""

    def __init__(self, pairs: Sequence[Pair], side: int, equally: bool) -> None:
        # With the margin of a degradation, a patch does not fit into every image.
        self._pairs = [pair for pair in pairs if min(pair.lr.shape[:2]) >= side]
        if not self._pairs:
            raise DataError(
                f"no image has {side} LR pixels a side, which patches need: take a smaller patch"
            )
        self._side = side
        self._factor = self._pairs[0].hr.shape[0] // self._pairs[0].lr.shape[0]
        self._places = np.array(
            [(p.lr.shape[0] - side + 1) * (p.lr.shape[1] - side + 1) for p in self._pairs]
        )
        self._ends = np.cumsum(self._places)
        self._equally = equally

    def mean_error(self) -> float:
        """Return the mean error of bicubic upscaling over the patches that are drawn."""
        errors = np.array([pair.bicubic_error + _ERROR_FLOOR for pair in self._pairs])
        return float(np.average(errors, weights=None if self._equally else self._places))

    def draw(
        self, random: np.random.Generator, channel_shuffle: bool
    ) -> tuple[Pair, UInt8Array, UInt8Array]:
        """Return an image, and the LR and HR side of a patch of it."""
        if self._equally:
            index = int(random.integers(len(self._pairs)))
            offset = int(random.integers(self._places[index]))
        else:
            place = int(random.integers(self._ends[-1]))
            index = int(np.searchsorted(self._ends, place, side="right"))
            offset = place - int(self._ends[index] - self._places[index])
        pair = self._pairs[index]
        top, left = divmod(offset, pair.lr.shape[1] - self._side + 1)
        lr = _cut(pair.lr, top, left, self._side)
        hr = _cut(pair.hr, top * self._factor, left * self._factor, self._side * self._factor)
        vertical, horizontal, transpose = random.integers(2, size=3)
        channels = random.permutation(3) if channel_shuffle else None

        def augment(image: UInt8Array) -> UInt8Array:
            image = image[::-1] if vertical else image
            image = image[:, ::-1] if horizontal else image
            image = image.transpose(1, 0, 2) if transpose else image
            return image if channels is None else image[..., channels]

        return pair, augment(lr), augment(hr)

    def detail(self, hr: UInt8Array) -> float:
        """Sum the absolute differences across both diagonals of the HR block of each LR pixel."""
        corners = hr.astype(np.int16)
        step, last = self._factor, self._factor - 1
        falling = corners[::step, ::step] - corners[last::step, last::step]
        rising = corners[::step, last::step] - corners[last::step, ::step]
        return float(np.abs(falling).sum() + np.abs(rising).sum())


def _cut(image: UInt8Array, top: int, left: int, size: int) -> UInt8Array:
    return image[top : top + size, left : left + size]
