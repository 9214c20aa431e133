"""Folders of images as aligned low- and high-resolution pairs, and patches cut from them.

A training set is any number of folders, searched recursively: each image is decoded once,
cropped to a multiple of the factor, reduced with `imresize.downscale`, and both are kept as
uint8 (195 megapixels take 0.65 GB at ×3). A test set is a folder with `HR/` and
`LR_bicubic/X<factor>/<name>x<factor>.png` (the layout of the benchmark sets), or a plain
folder of images that are reduced here.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from anchorsr.arrays import UInt8Array
from anchorsr.data.imresize import crop_to_multiple, downscale
from anchorsr.errors import DataError
from anchorsr.images.io import find_images, read_rgb
from anchorsr.images.resize import bicubic

# Squared levels (35 dB), added to each error: flat images would get a thousandfold weight.
_ERROR_FLOOR = 20.0


@dataclass(frozen=True, eq=False)
class Pair:
    """An image in two resolutions.

    Attributes:
        name: File name without suffix.
        lr: (H, W, 3) uint8 RGB.
        hr: (factor · H, factor · W, 3) uint8 RGB.
    """

    name: str
    lr: UInt8Array
    hr: UInt8Array

    @cached_property
    def bicubic_error(self) -> float:
        """Mean squared error of bicubic upscaling, in squared levels of 255."""
        height, width = self.hr.shape[:2]
        upscaled = bicubic(self.lr, height, width)
        return float(np.square(upscaled.astype(np.float32) - self.hr).mean())


class Patches(NamedTuple):
    """A batch of patches.

    Attributes:
        lr: (N, patch, patch, 3) uint8 RGB.
        hr: (N, factor · patch, factor · patch, 3) uint8 RGB.
        weights: (N,) float32 factors of the loss of each patch.
    """

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
    """Load every image below the folders that is at least one patch large.

    Args:
        folders: Searched recursively.
        factor: How many times larger the HR images are.
        patch: LR pixels a side that an image has at least.
        on_progress: Called with (images read, images in all).

    Raises:
        DataError: A folder has no images, or none is large enough.
    """
    paths = _find(folders, recursive=True)
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


def load_pair(path: Path, factor: int, *, patch: int) -> Pair | None:
    """Load an image, cropped to a multiple of the factor, and reduce it.

    Returns:
        The pair, or None for an image smaller than a patch of `patch` LR pixels a side.
    """
    rgb = read_rgb(path)
    hr = np.ascontiguousarray(crop_to_multiple(rgb, factor))
    if min(hr.shape[:2]) < patch * factor:
        return None
    return Pair(path.stem, downscale(hr, factor), hr)


def draw_pairs(
    folders: Sequence[Path], factor: int, *, patch: int, seed: int, count: int
) -> Iterator[Pair]:
    """Load up to `count` of the pairs of `load_training_pairs`, chosen at random by a seed."""
    paths = _find(folders, recursive=True)
    order = np.random.default_rng(seed).permutation(len(paths))
    drawn = (load_pair(paths[i], factor, patch=patch) for i in order)
    return islice((pair for pair in drawn if pair is not None), count)


def fingerprint(pairs: Sequence[Pair]) -> dict[str, int]:
    """Return the number of pairs, and the size and CRC-32 of their LR images."""
    digest = 0
    for pair in pairs:
        digest = zlib.crc32(pair.lr.tobytes(), digest)
    lr_pixels = sum(pair.lr.shape[0] * pair.lr.shape[1] for pair in pairs)
    return {"pictures": len(pairs), "lr_pixels": lr_pixels, "crc32": digest}


def load_test_pairs(folder: Path, factor: int) -> Iterator[Pair]:
    """Load the pairs of a test set one at a time, sorted by name.

    Args:
        folder: A folder of images, or one with `HR/` and `LR_bicubic/X<factor>/`.
        factor: How many times larger the HR images are.

    Raises:
        DataError: An LR image is missing or does not fit its HR image.
    """
    benchmark = (folder / "HR").is_dir()
    for path in _find([folder / "HR" if benchmark else folder], recursive=False):
        rgb = read_rgb(path)
        hr = crop_to_multiple(rgb, factor)
        if not hr.size:
            raise DataError(f"{path} is smaller than {factor}x{factor} pixels")
        if benchmark:
            lr = _read_given_lr(folder / "LR_bicubic" / f"X{factor}", path.stem, factor)
        else:
            lr = downscale(hr, factor)
        if (lr.shape[0] * factor, lr.shape[1] * factor) != hr.shape[:2]:
            raise DataError(
                f"{path} is {hr.shape[1]}x{hr.shape[0]}, which its LR image of"
                f" {lr.shape[1]}x{lr.shape[0]} does not fit at x{factor}"
            )
        yield Pair(path.stem, lr, hr)


def _find(folders: Sequence[Path], *, recursive: bool) -> list[Path]:
    """Find the images of folders, in their order and sorted within each."""
    return [path for folder in folders for path in find_images(folder, recursive=recursive)]


class PatchSampler:
    """Random aligned patches, each a pure function of (seed, step, index in the batch).

    No state is kept. So a resumed run, or one that is split over processes, draws exactly what a
    single uninterrupted run would. A patch is flipped in both directions and transposed at random.

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
            weight. The mean of the weighted error stays the same.
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
        """Return the patches with these indices of the batch of this step."""
        drawn = [self._choose(np.random.default_rng((self._seed, step, p))) for p in places]
        lr, hr, images = zip(*drawn, strict=True)
        return Patches(np.stack(lr), np.stack(hr), self._weights[list(images)])

    def _choose(self, generator: np.random.Generator) -> tuple[UInt8Array, UInt8Array, int]:
        if self._candidates == 1:
            return self._draw(generator)
        drawn = [self._draw(generator) for _ in range(self._candidates)]
        return max(drawn, key=lambda patch: _detail(patch[1], self._factor))

    def _draw(self, generator: np.random.Generator) -> tuple[UInt8Array, UInt8Array, int]:
        """Return the LR and HR side of a patch, and the index of its image."""
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
    """Return (images,) weights for images that are drawn in proportion to their shares.

    Multiplying the squared errors of bicubic upscaling by them keeps the mean of these.
    """
    errors = np.array([pair.bicubic_error + _ERROR_FLOOR for pair in pairs])
    return np.asarray(np.average(errors, weights=shares) / errors, np.float32)


def _detail(hr: UInt8Array, factor: int) -> float:
    """Sum the absolute differences across both diagonals of the HR block of each LR pixel."""
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
