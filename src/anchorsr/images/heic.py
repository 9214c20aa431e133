"""HEIC (HEIF with HEVC) through pillow-heif, an optional package.

8 bits stay 8; the 10 and 12 bits of HDR photos become 16. pillow-heif turns the image upright
while decoding. Of a file with several images the primary one is read.
"""

from __future__ import annotations

import io
from typing import Any, BinaryIO

import numpy as np

from anchorsr.errors import needs
from anchorsr.images.image import Pixels

_LOSSLESS = {"quality": -1, "matrix_coefficients": 0, "chroma": 444}
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def open_heic(file: BinaryIO) -> Any:
    """Open the primary image without decoding its pixels; it has size (W, H), mode and info.

    Raises:
        MissingDependencyError: If pillow-heif is not installed.
    """
    with needs("pillow-heif", "heic"):
        import pillow_heif
    file.seek(0)
    images = pillow_heif.open_heif(file, convert_hdr_to_8bit=False)
    return images[images.primary_index]


def heic_attachments(image: Any) -> list[str]:
    """Name what an opened image has beside its pixels and is not read: depth, gain map, mattes."""
    found = ["depth map"] if image.info.get("depth_images") else []
    for name in image.info.get("aux") or {}:
        found.append("gain map" if "gainmap" in str(name) else str(name).rpartition(":")[2])
    return list(dict.fromkeys(found))


def heic_pixels(image: Any) -> Pixels:
    """Decode the pixels of an opened image: uint8 or uint16 (H, W, C), C of 1, 3 or 4."""
    pixels: Pixels = np.array(image)  # a copy: the library's memory ends with the image
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.dtype == np.uint8:
        return pixels
    # The library stores them in the high bits, 1023 as 65472; over the full range, white is 65535.
    depth = image.info["bit_depth"]
    highest = 2**depth - 1
    values = (pixels >> (16 - depth)).astype(np.uint32)
    scaled: Pixels = ((values * 65_535 + highest // 2) // highest).astype(np.uint16)
    return scaled


def encode_heic(pixels: Pixels, quality: int | None, metadata: dict[str, bytes]) -> bytes:
    """Encode as HEIC, with 4:2:0 chroma, the only kind that the decoders of phones read.

    Args:
        pixels: (H, W, C), C of 1, 3 or 4: uint8 for 8 bits, uint16 for 10 bits.
        quality: 1 to 100; None for no loss, in RGB, which the decoders of phones may not read.
        metadata: The blocks `exif`, `xmp` and `icc_profile`, as far as there are any.

    Raises:
        MissingDependencyError: If pillow-heif is not installed.
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
    options: dict[str, int] = {"quality": quality} if quality is not None else _LOSSLESS
    pillow_heif.encode(mode, (width, height), pixels.tobytes(), buffer, **options, **metadata)
    return buffer.getvalue()
