"""Photographs made softer for training: parts of them, enlarged a little with a bicubic filter.

Images on the web are reduced until every pixel is sharp; those of old cameras, of scanners and of
large sensors are not. What it is worth to train on both is in docs/experiments.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from anchorsr.images.io import RasterImage, read_rgb, write_image
from anchorsr.utils.files import check_free, make_folder

SIDE = 512  # of the results, at most
_SCALES = (1.1, 1.6)


def write_soft(
    images: Sequence[Path],
    folder: Path,
    *,
    seed: int = 0,
    overwrite: bool = False,
    on_image: Callable[[], None] | None = None,
) -> None:
    """Write a soft part of each image into the folder, as 0000_<name>.png and so on.

    Raises OutputError for a file that exists, unless `overwrite`, or cannot be written, and
    ImageError for a file that cannot be read.
    """
    make_folder(folder)
    paths = [folder / f"{index:04}_{path.stem}.png" for index, path in enumerate(images)]
    for path in paths:
        check_free(path, overwrite=overwrite)
    for index, (source, path) in enumerate(zip(images, paths, strict=True)):
        soft = soften(read_rgb(source), np.random.default_rng((seed, index)))
        write_image(path, RasterImage(soft), overwrite=overwrite)
        if on_image is not None:
            on_image()


def soften(rgb: npt.NDArray[np.uint8], random: np.random.Generator) -> npt.NDArray[np.uint8]:
    """A part of an image (H, W, 3), 1.1 to 1.6 times larger, up to 512×512."""
    scale = random.uniform(*_SCALES)
    height, width = (min(side, int(SIDE / scale)) for side in rgb.shape[:2])
    top = random.integers(rgb.shape[0] - height + 1)
    left = random.integers(rgb.shape[1] - width + 1)
    part = Image.fromarray(rgb[top : top + height, left : left + width])
    size = (round(width * scale), round(height * scale))
    return np.asarray(part.resize(size, Image.Resampling.BICUBIC))
