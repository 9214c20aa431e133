"""Folders of images as aligned low- and high-resolution pairs, and patches cut from them.

A training set is any number of folders, searched recursively: each image is decoded once,
cropped to a multiple of the factor, reduced with `resize.downscale`, and both are kept as
uint8 (195 megapixels take 0.65 GB at ×3). A test set is a folder with `HR/` and
`LR_bicubic/X<factor>/<name>x<factor>.png` (the layout of the benchmark sets), or a plain
folder of images, whose low-resolution side is then made here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from anchorsr.data.imresize import crop_to_multiple, downscale
from anchorsr.errors import DataError
from anchorsr.images.io import find_images, read_rgb

UInt8Array = npt.NDArray[np.uint8]

# Squared levels (35 dB), added to each: images without detail would weigh a thousandfold.
_ERROR_OF_ALL = 20.0


@dataclass(frozen=True, eq=False)
class Pair:
    """One image twice: `lr` (H, W, 3) and `hr` (factor · H, factor · W, 3), uint8 RGB."""

    name: str
    lr: UInt8Array
    hr: UInt8Array

    @cached_property
    def bicubic_error(self) -> float:
        """The mean squared error of bicubic enlargement, in squared levels."""
        height, width = self.hr.shape[:2]
        enlarged = Image.fromarray(self.lr).resize((width, height), Image.Resampling.BICUBIC)
        return float(np.square(np.asarray(enlarged, np.float32) - self.hr).mean())


class Patches(NamedTuple):
    """`lr` (N, patch, patch, 3) and `hr` (N, factor · patch, factor · patch, 3), uint8 RGB;
    `weights` (N,) float32, what the loss of each patch is multiplied by."""

    lr: UInt8Array
    hr: UInt8Array
    weights: npt.NDArray[np.float32]


def load_training_pairs(
    folders: Sequence[Path],
    factor: int,
    *,
    patch: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Pair]:
    """Every image below `folders` that is at least one patch large (`patch` LR pixels a side).

    on_progress is called with (images done, images in all). Raises DataError when a
    folder has no images, or none is large enough.
    """
    paths = find_training_images(folders)
    pairs = []
    for done, path in enumerate(paths, 1):
        pair = load_pair(path, factor, patch=patch)
        if pair is not None:
            pairs.append(pair)
        if on_progress is not None:
            on_progress(done, len(paths))
    if not pairs:
        raise DataError(
            f"none of the {len(paths)} images has {patch * factor} pixels a side,"
            f" which a patch of {patch} needs at x{factor}: take a smaller patch"
        )
    return pairs


def find_training_images(folders: Sequence[Path]) -> list[Path]:
    """Every image below the folders, in their order and sorted within each."""
    return [path for folder in folders for path in find_images(folder, recursive=True)]


def load_pair(path: Path, factor: int, *, patch: int) -> Pair | None:
    """One image, cropped to a multiple of the factor, and the same reduced.

    None for an image that is smaller than a patch, of `patch` LR pixels a side.
    """
    hr = np.ascontiguousarray(crop_to_multiple(read_rgb(path), factor))
    if min(hr.shape[:2]) < patch * factor:
        return None
    return Pair(path.stem, downscale(hr, factor), hr)


def draw_pairs(
    folders: Sequence[Path], factor: int, *, patch: int, seed: int, count: int
) -> Iterator[Pair]:
    """Up to `count` of the images that `load_training_pairs` would load, drawn at random."""
    paths = find_training_images(folders)
    order = np.random.default_rng(seed).permutation(len(paths))
    drawn = (load_pair(paths[i], factor, patch=patch) for i in order)
    return islice((pair for pair in drawn if pair is not None), count)


def load_test_pairs(folder: Path, factor: int) -> Iterator[Pair]:
    """The pairs of one test set, sorted by name, decoded one at a time.

    Raises DataError when a low-resolution image is missing or does not fit its HR image.
    """
    benchmark = (folder / "HR").is_dir()
    for path in find_images(folder / "HR" if benchmark else folder):
        hr = crop_to_multiple(read_rgb(path), factor)
        if not hr.size:
            raise DataError(f"{path} is smaller than {factor}x{factor} pixels")
        if benchmark:
            lr = _read_given_lr(folder / "LR_bicubic" / f"X{factor}", path.stem, factor)
        else:
            lr = downscale(hr, factor)
        if (lr.shape[0] * factor, lr.shape[1] * factor) != hr.shape[:2]:
            raise DataError(
                f"{path}: the x{factor} low-resolution image has shape {lr.shape[:2]},"
                f" which does not fit {hr.shape[:2]}"
            )
        yield Pair(path.stem, lr, hr)


class PatchSampler:
    """Random aligned patches, each a pure function of (seed, step, place in the batch).

    Images are drawn with a probability proportional to the number of patches they hold, or all
    equally often (`equal_pictures`), as a test set's mean counts them; a patch is flipped in both
    directions and transposed at random, and its colour channels are permuted when
    `channel_shuffle` is set. Of `candidates` drawn in this way the one with the most detail is
    taken: flat patches teach little. With `relative` a patch weighs the less the more bicubic errs
    on its whole image, and all patches together what they would without. Because no state is
    kept, a resumed run and one that is split over processes draw exactly what a single
    uninterrupted run would.
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
    ) -> None:
        self._pairs = pairs
        self._patch = patch
        self._seed = seed
        self._channel_shuffle = channel_shuffle
        self._candidates = candidates
        self._factor = pairs[0].hr.shape[0] // pairs[0].lr.shape[0]
        self._equal_pictures = equal_pictures
        places = [(p.lr.shape[0] - patch + 1) * (p.lr.shape[1] - patch + 1) for p in pairs]
        self._places = np.array(places)
        self._ends = np.cumsum(places)
        self._weights = np.ones(len(pairs), np.float32)
        if relative:
            self._weights = _weigh(pairs, np.ones(len(pairs)) if equal_pictures else self._places)

    def batch(self, step: int, places: range) -> Patches:
        """The patches number `places` of the batch of this step."""
        drawn = [self._choose(np.random.default_rng((self._seed, step, p))) for p in places]
        lr, hr, images = zip(*drawn, strict=True)
        return Patches(np.stack(lr), np.stack(hr), self._weights[list(images)])

    def _choose(self, generator: np.random.Generator) -> tuple[UInt8Array, UInt8Array, int]:
        if self._candidates == 1:
            return self._draw(generator)
        drawn = [self._draw(generator) for _ in range(self._candidates)]
        return max(drawn, key=lambda patch: _detail(patch[1], self._factor))

    def _draw(self, generator: np.random.Generator) -> tuple[UInt8Array, UInt8Array, int]:
        """A patch's two sides, and the number of its image."""
        if self._equal_pictures:
            index = int(generator.integers(len(self._pairs)))
            offset = int(generator.integers(self._places[index]))
        else:
            place = int(generator.integers(self._ends[-1]))
            index = int(np.searchsorted(self._ends, place, side="right"))
            offset = place - int(self._ends[index] - self._places[index])
        pair = self._pairs[index]
        top, left = divmod(offset, pair.lr.shape[1] - self._patch + 1)
        lr = _cut(pair.lr, top, left, self._patch)
        hr = _cut(pair.hr, top * self._factor, left * self._factor, self._patch * self._factor)
        vertical, horizontal, transpose = generator.integers(2, size=3)
        channels = generator.permutation(3) if self._channel_shuffle else None

        def augment(image: UInt8Array) -> UInt8Array:
            image = image[::-1] if vertical else image
            image = image[:, ::-1] if horizontal else image
            image = image.transpose(1, 0, 2) if transpose else image
            return image if channels is None else image[..., channels]

        return augment(lr), augment(hr), index


def _weigh(pairs: Sequence[Pair], shares: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """(images,) weights of images that are drawn in proportion to their shares.

    Where they multiply bicubic's squared error, its mean is kept.
    """
    errors = np.array([pair.bicubic_error + _ERROR_OF_ALL for pair in pairs])
    return np.asarray(np.average(errors, weights=shares) / errors, np.float32)


def _detail(hr: UInt8Array, factor: int) -> float:
    """How much the blocks that LR pixels become differ within: across both diagonals, summed."""
    corners = hr.astype(np.int16)
    last = factor - 1
    falling = corners[::factor, ::factor] - corners[last::factor, last::factor]
    rising = corners[::factor, last::factor] - corners[last::factor, ::factor]
    return float(np.abs(falling).sum() + np.abs(rising).sum())


def _cut(image: UInt8Array, top: int, left: int, size: int) -> UInt8Array:
    return image[top : top + size, left : left + size]


def _read_given_lr(folder: Path, stem: str, factor: int) -> UInt8Array:
    path = folder / f"{stem}x{factor}.png"
    if not path.is_file():
        raise DataError(f"{path} is missing: a benchmark folder has an LR image for each HR one")
    return read_rgb(path)
