"""Folders of images as aligned low- and high-resolution pairs.

A training set is any number of folders, searched recursively: each image is decoded once,
cropped to a multiple of the factor, reduced with `imresize.downscale`, and both are kept as
uint8 (195 megapixels take 0.65 GB at ×3). A test set is a folder with `HR/` and
`LR_bicubic/X<factor>/<name>x<factor>.png` (the layout of the benchmark sets), or a plain
folder of images that are reduced here.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np

from anchorsr.arrays import UInt8Array
from anchorsr.data.imresize import crop_to_multiple, downscale
from anchorsr.data.strengths import CLEAN, Strengths
from anchorsr.errors import DataError, RecipeError
from anchorsr.images.io import find_images, read_rgb
from anchorsr.images.resize import bicubic
from anchorsr.utils.config import parse_table
from anchorsr.utils.files import reason
from anchorsr.utils.strict_json import parse_json

# Beside `HR/` and `LR/`: {"name without suffix": {"video": 0.5}}, as JSON.
STRENGTHS_FILE = "strengths.json"


@dataclass(frozen=True, eq=False)
class Pair:
    """An image in two resolutions.

    Attributes:
        name: File name without suffix.
        lr: (H, W, 3) uint8 RGB.
        hr: (factor · H, factor · W, 3) uint8 RGB.
        strengths: The degradation of `lr`.
    """

    name: str
    lr: UInt8Array
    hr: UInt8Array
    strengths: Strengths = CLEAN

    @cached_property
    def bicubic_error(self) -> float:
        """Mean squared error of bicubic upscaling, in squared levels of 255."""
        height, width = self.hr.shape[:2]
        upscaled = bicubic(self.lr, height, width)
        return float(np.square(upscaled.astype(np.float32) - self.hr).mean())

    def degraded(self, lr: UInt8Array, strengths: Strengths) -> Pair:
        """Return the pair with another LR image of the same size."""
        return Pair(self.name, lr, self.hr, strengths)

    def cut(self, lr: UInt8Array, top: int, left: int, strengths: Strengths) -> Pair:
        """Return the pair with another LR image, and the part of the HR image that it shows.

        Args:
            lr: (H', W', 3) uint8 RGB, at most as large as the present one.
            top: The row of the present LR image that it starts at.
            left: The column of the present LR image that it starts at.
            strengths: The degradation of `lr`.
        """
        factor = self.hr.shape[0] // self.lr.shape[0]
        height, width = (factor * side for side in lr.shape[:2])
        rows = self.hr[factor * top : factor * top + height]
        hr = np.ascontiguousarray(rows[:, factor * left : factor * left + width])
        return Pair(self.name, lr, hr, strengths)


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


def load_given_pairs(folders: Sequence[Path], factor: int, *, patch: int) -> list[Pair]:
    """Load pairs that are used as they are, such as photographs with two lenses.

    Args:
        folders: Each with `HR/` and `LR/`, whose images have the same names, and, where the
            degradation of these is known, a table of their `Strengths` in `STRENGTHS_FILE`.
        factor: How many times larger the HR images are.
        patch: LR pixels a side that an image has at least; others are left out.

    Raises:
        DataError: An LR image is missing or has another size, or the strengths cannot be read.
    """
    pairs = []
    for folder in folders:
        strengths = _read_strengths(folder / STRENGTHS_FILE)
        found: dict[str, list[Path]] = defaultdict(list)
        for path in find_images(folder / "LR"):
            found[path.stem].append(path)
        for path in find_images(folder / "HR"):
            same = found[path.stem]
            if len(same) != 1:
                raise DataError(
                    f"{folder / 'LR'} has {len(same)} images named {path.stem}, not one"
                )
            hr, lr = read_rgb(path), read_rgb(same[0])
            if (lr.shape[0] * factor, lr.shape[1] * factor) != hr.shape[:2]:
                raise DataError(
                    f"{path} is {hr.shape[1]}x{hr.shape[0]}, which its LR image of"
                    f" {lr.shape[1]}x{lr.shape[0]} does not fit at x{factor}"
                )
            if min(lr.shape[:2]) >= patch:
                pairs.append(Pair(path.stem, lr, hr, strengths.get(path.stem, CLEAN)))
    return pairs


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


def _read_given_lr(folder: Path, stem: str, factor: int) -> UInt8Array:
    path = folder / f"{stem}x{factor}.png"
    if not path.is_file():
        raise DataError(f"{path} is missing: a benchmark folder has an LR image for each HR one")
    return read_rgb(path)


def _read_strengths(path: Path) -> dict[str, Strengths]:
    """Return the strengths of images by name without suffix; none without the file."""
    if not path.exists():
        return {}
    try:
        table = parse_json(path.read_text())
        return {name: parse_table(Strengths, values, name) for name, values in table.items()}
    except (OSError, ValueError, AttributeError, TypeError, RecipeError) as error:
        raise DataError(f"{path} is not a table of strengths: {reason(error)}") from error
