"""Pillow images to `RasterImage` and back."""

from __future__ import annotations

import numpy as np
from PIL import Image

from anchorsr.images.coding import coding_of
from anchorsr.images.decode import HANDLED_MODES, colours
from anchorsr.images.image import RasterImage, from_array, to_array

_SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")


def from_pillow(image: Image.Image) -> RasterImage:
    """Convert a Pillow image, as stored: an EXIF orientation is not applied.

    Palettes become RGB, a transparent colour becomes alpha, and CMYK becomes sRGB through the
    image's own profile.

    Raises:
        ValueError: For a mode that is neither 8-bit colour nor 16-bit grey.
    """
    if image.width < 1 or image.height < 1:
        raise ValueError(f"an image has at least one pixel, not {image.width}x{image.height}")
    if image.mode in _SIXTEEN_BITS:
        return from_array(np.asarray(image).astype(np.uint16))
    if image.mode not in HANDLED_MODES:
        raise ValueError(f"a PIL image of mode {image.mode} is not handled: convert it to RGB")
    rgb, alpha = colours(image.copy())  # which takes transparency out of the image's info
    grey = image.mode in ("1", "L", "LA")
    return RasterImage(rgb, alpha, grey=grey, coding=coding_of(None, image))


def to_pillow(image: RasterImage, like: Image.Image) -> Image.Image:
    """Convert to a Pillow image of mode L, LA, RGB, RGBA or I;16.

    Args:
        image: uint8, or grey uint16 without alpha.
        like: The image whose `info` (profile, EXIF, resolution) is copied, as `Image.resize` does.
    """
    array = to_array(image)
    result = Image.fromarray(np.ascontiguousarray(array))
    if image.grey and image.alpha is not None:
        result = result.convert("LA")
    left_out = {"transparency"} if like.mode != "CMYK" else {"transparency", "icc_profile"}
    result.info = {key: value for key, value in like.info.items() if key not in left_out}
    return result
