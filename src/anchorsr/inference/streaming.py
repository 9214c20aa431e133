"""An image upscaled straight into a PNG file, strip by strip, for results that memory cannot hold.

`upscale.upscale_image` and `images.write_image` have the whole result in memory, and more than
once while it is encoded. Here a strip of rows is upscaled, filtered, compressed and written before
the next one is begun. Left out: alpha, grey and 16 bits, which need the whole result.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from anchorsr.errors import ImageError
from anchorsr.images.encode import true_metadata
from anchorsr.images.image import RasterImage
from anchorsr.images.png import png_parts
from anchorsr.inference.upscaler import Upscaler
from anchorsr.utils.files import publishing

# The ordinary way holds the result, a copy that Pillow has of it, and the file, which can be as
# large and is copied once as it grows.
_SHARE_OF_MEMORY = 1 / 4
_UNKNOWN_MEMORY = 4 * 2**30


def is_for_strips(image: RasterImage, path: Path, factor: int) -> bool:
    """Whether `upscale_to_png` can write this result and the ordinary way might lack memory: an
    opaque 8-bit RGB image, a .png file, and more than a quarter of the memory that is free."""
    rgb = image.rgb
    if path.suffix.lower() != ".png" or not _is_plain(image):
        return False
    return rgb.nbytes * factor**2 > _SHARE_OF_MEMORY * _available_memory()


def upscale_to_png(
    image: RasterImage, upscaler: Upscaler, path: Path, *, overwrite: bool = False
) -> None:
    """Write the larger image as PNG, whole or not at all, with one strip of it in memory.

    Its pixels, profile, EXIF and resolution are those that `write_image` would write.
    Raises ImageError for an image with alpha or of one channel, and OutputError for an existing
    file unless `overwrite`, and for whatever else prevents writing.
    """
    if not _is_plain(image):
        raise ImageError("only an opaque 8-bit RGB image is written strip by strip")
    height, width = (side * upscaler.factor for side in image.size)
    metadata = true_metadata(image, height, width, grey=False)
    with publishing(path, overwrite=overwrite) as file:
        for part in png_parts(height, upscaler.strips(image.rgb), metadata):
            file.write(part)


def _is_plain(image: RasterImage) -> bool:
    return image.alpha is None and not image.grey and image.rgb.dtype == np.uint8


def _available_memory() -> int:
    """Bytes that this process can still have, as far as the system says."""
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
        pass  # there is none, or it says max
    return min(found, default=_UNKNOWN_MEMORY)
