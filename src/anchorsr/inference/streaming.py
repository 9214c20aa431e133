"""Upscale an image straight into a PNG file, for results that do not fit in memory.

Everywhere else the whole result is in memory, more than once while it is encoded. Here a strip of
rows is upscaled, filtered, compressed and written before the next one. Not handled: alpha, grey and
16 bits, which need the whole result.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from anchorsr.errors import ImageError
from anchorsr.images.encode import resized_metadata
from anchorsr.images.image import RasterImage
from anchorsr.images.png import png_parts
from anchorsr.inference.upscaler import Upscaler
from anchorsr.utils.files import publishing

# Without streaming, memory holds the result, Pillow's copy of it, and the file, which can be as
# large and is copied once as it grows.
_SHARE_OF_MEMORY = 1 / 4
_UNKNOWN_MEMORY = 4 * 2**30


def should_stream(image: RasterImage, path: Path, factor: int) -> bool:
    """Return whether to use `upscale_to_png`.

    That is for opaque 8-bit RGB, a .png file, and a result of more than a quarter of the free
    memory.
    """
    rgb = image.rgb
    if path.suffix.lower() != ".png" or not _is_plain(image):
        return False
    return rgb.nbytes * factor**2 > _SHARE_OF_MEMORY * _available_memory()


def upscale_to_png(
    image: RasterImage, upscaler: Upscaler, path: Path, *, overwrite: bool = False
) -> None:
    """Upscale into a PNG atomically, with one strip of rows in memory.

    Pixels and metadata are those that `write_image` would write.

    Args:
        image: Opaque 8-bit RGB.
        upscaler: The model.
        path: The file to write; its folder must exist.
        overwrite: Replace an existing file.

    Raises:
        ImageError: If the image has alpha, is grey, or has 16 bits.
        OutputError: If the file exists and `overwrite` is false, or cannot be written.
    """
    if not _is_plain(image):
        raise ImageError("only opaque 8-bit RGB images can be streamed")
    height, width = (side * upscaler.factor for side in image.size)
    metadata = resized_metadata(image, height, width, grey=False)
    with publishing(path, overwrite=overwrite) as file:
        for part in png_parts(height, upscaler.strips(image.rgb), metadata):
            file.write(part)


def _is_plain(image: RasterImage) -> bool:
    return image.alpha is None and not image.grey and image.rgb.dtype == np.uint8


def _available_memory() -> int:
    """Return the bytes this process can still allocate, as far as the system tells."""
    found = [_UNKNOWN_MEMORY]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")]
    except (OSError, ValueError, LookupError):
        if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
            found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2]
    groups = Path("/sys/fs/cgroup")  # a container's limit
    try:
        used = int((groups / "memory.current").read_text())
        found.append(int((groups / "memory.max").read_text()) - used)
    except (OSError, ValueError):
        pass  # no limit: no such file, or `max`
    return min(found, default=_UNKNOWN_MEMORY)
