"""The kinds of images that the Python interface takes: arrays, batches, Pillow images and paths."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from anchorsr.images.image import RasterImage, from_array, to_array
from anchorsr.images.io import read_image
from anchorsr.images.pillow import from_pillow, to_pillow


def upscale_any(image: Any, upscale: Callable[[RasterImage], RasterImage]) -> Any:
    """Convert an image or a batch to `RasterImage`, upscale it, and convert the result back."""
    check_kind(image)
    if isinstance(image, Image.Image):
        return to_pillow(upscale(from_pillow(image)), like=image)
    if isinstance(image, str | os.PathLike):
        return to_array(upscale(read_image(Path(image))))
    if image.ndim == 4 and image.size:
        return np.stack([upscale_any(entry, upscale) for entry in image])
    result = to_array(upscale(from_array(image)))
    if not result.flags.writeable or np.may_share_memory(result, image):
        result = result.copy()
    return result[:, :, None] if image.ndim == 3 and image.shape[2] == 1 else result


def check_kind(image: object) -> None:
    """Raise ValueError for anything else than an array, a Pillow image or a path."""
    if not isinstance(image, np.ndarray | Image.Image | str | os.PathLike):
        raise ValueError(
            f"an image is a numpy array, a PIL image or a path, not {type(image).__name__}"
        )
