"""HEIC (HEIF with HEVC) through pillow-heif, an optional package.

8 bits stay 8; 10 and 12 bits, which phones take in HDR, become 16. pillow-heif turns the
image upright as it decodes. Of a file with several images the one that is shown is read.
"""

from __future__ import annotations

import io
from typing import Any, BinaryIO

import numpy as np

from anchorsr.errors import needs
from anchorsr.images.image import Pixels

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def open_heic(file: BinaryIO) -> Any:
    """The image that is shown, its pixels not decoded yet: size (W, H), mode and info."""
    with needs("pillow-heif", "heic"):
        import pillow_heif
    file.seek(0)
    images = pillow_heif.open_heif(file, convert_hdr_to_8bit=False)
    return images[images.primary_index]


def heic_pixels(image: Any) -> Pixels:
    """The pixels of an opened image, uint8 or uint16 (H, W, 1, 3 or 4)."""
    pixels: Pixels = np.array(image)  # a copy: the library's memory ends with the image
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.dtype == np.uint8:
        return pixels
    # They come in the high bits: 1023 as 65472. Over the whole range, white is 65535.
    depth = image.info["bit_depth"]
    highest = 2**depth - 1
    values = (pixels >> (16 - depth)).astype(np.uint32)
    scaled: Pixels = ((values * 65_535 + highest // 2) // highest).astype(np.uint16)
    return scaled


def encode_heic(pixels: Pixels, quality: int, about: dict[str, bytes]) -> bytes:
    """A HEIC of (H, W, 1, 3 or 4) at 8 bits, or, of uint16, 10; colour at half resolution.

    Half, because the decoders in phones read no other. about: exif, xmp, icc_profile.
    """
    with needs("pillow-heif", "heic"):
        import pillow_heif
    height, width, channels = pixels.shape
    mode = _MODES[channels]
    if pixels.dtype == np.uint16:
        mode += ";16"
        tens = (pixels.astype(np.uint32) * 1023 + 32_767) // 65_535
        pixels = (tens << 6).astype("<u2")
    buffer = io.BytesIO()
    pillow_heif.encode(mode, (width, height), pixels.tobytes(), buffer, quality=quality, **about)
    return buffer.getvalue()
