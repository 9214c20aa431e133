"""Write a folder of training images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from anchorsr.images.io import RasterImage, write_image
from anchorsr.utils.files import check_free, make_folder


def write_images(
    paths: Sequence[Path],
    images: Iterable[npt.NDArray[np.uint8]],
    *,
    overwrite: bool,
    on_image: Callable[[], None] | None = None,
) -> None:
    """Write each image, (H, W, 3) uint8, as its path; their folders are made if missing.

    All paths are checked before the first image is made.

    Raises:
        OutputError: A file exists and `overwrite` is false, or it cannot be written.
    """
    for folder in {path.parent for path in paths}:
        make_folder(folder)
    for path in paths:
        check_free(path, overwrite=overwrite)
    for path, image in zip(paths, images, strict=True):
        write_image(path, RasterImage(image), overwrite=overwrite)
        if on_image is not None:
            on_image()
