"""Blurred training images: crops of photographs, upscaled a little with a bicubic filter.

Images on the web are reduced until every pixel is sharp; those of old cameras, scanners and
large sensors are not. docs/experiments.md says what training on both gains.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from anchorsr.data.folders import write_images
from anchorsr.images.io import read_rgb
from anchorsr.images.resize import bicubic

SIDE = 512  # limit of the results
_SCALES = (1.1, 1.6)


def write_blurred(
    images: Sequence[Path],
    folder: Path,
    *,
    seed: int = 0,
    overwrite: bool = False,
    on_image: Callable[[], None] | None = None,
) -> None:
    """Write a blurred crop of each image, as 0000_<name>.png and so on.

    Args:
        images: Files to read.
        folder: Where to write; made if missing.
        seed: Another seed gives other crops.
        overwrite: Whether to replace existing files.
        on_image: Called after each image.

    Raises:
        OutputError: A file exists or cannot be written.
        ImageError: A file cannot be read.
    """
    paths = [folder / f"{index:04}_{path.stem}.png" for index, path in enumerate(images)]
    blurred = (
        blur(read_rgb(path), np.random.default_rng((seed, index)))
        for index, path in enumerate(images)
    )
    write_images(paths, blurred, overwrite=overwrite, on_image=on_image)


def blur(rgb: npt.NDArray[np.uint8], random: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Return a random crop of an (H, W, 3) image, upscaled 1.1 to 1.6 times to at most 512×512."""
    scale = random.uniform(*_SCALES)
    height, width = (min(side, int(SIDE / scale)) for side in rgb.shape[:2])
    top = random.integers(rgb.shape[0] - height + 1)
    left = random.integers(rgb.shape[1] - width + 1)
    part = rgb[top : top + height, left : left + width]
    return bicubic(part, round(height * scale), round(width * scale))
