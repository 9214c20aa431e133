"""Memory for the pixels of a Pillow image, given back to the system band by band.

Pillow stores four bytes a pixel and frees all of them at once, so while an image becomes an array,
both are in memory: of 100 megapixels, 700 MB. Here the decoder writes into a mapping, whose pages
are released as they are copied.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import Any

import numpy as np
import PIL._imaging
from PIL import ImageFile

from anchorsr.arrays import UInt8Array
from anchorsr.images.formats import tiff_tag

# Modes of four bytes a pixel. LA is stored as L, L, L, A.
_MODES = ("RGB", "RGBA", "LA", "CMYK")
_MOST_BYTES = 2**31 - 1  # Pillow counts in signed 32 bits
_BAND_BYTES = 1 << 24
# Pillow maps uncompressed files by this function, which is not public.
_IS_POSSIBLE = hasattr(mmap, "MADV_DONTNEED") and hasattr(PIL._imaging, "map_buffer")


class PixelMemory:
    """The memory that a decoder writes pixels into."""

    def __init__(self, image: ImageFile.ImageFile, pages: mmap.mmap, core: Any) -> None:
        """Use `lend` instead."""
        self._image, self._pages, self._core = image, pages, core
        self._shape = (image.height, image.width, 4)

    @classmethod
    def lend(cls, image: ImageFile.ImageFile) -> PixelMemory | None:
        """Give an image that is not decoded yet the memory for its pixels.

        Args:
            image: The image, opened.

        Returns:
            The memory; None where the system or the kind of pixels does not allow it.
        """
        size = image.width * image.height * 4
        if image.mode not in _MODES or size > _MOST_BYTES or not _IS_POSSIBLE:
            return None
        if image.format == "TIFF" and tiff_tag(image, 0x0112, 1) != 1:  # turned while it is decoded
            return None
        pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        core = PIL._imaging.map_buffer(pages, image.size, "raw", 0, (image.mode, 0, 1))
        image.im = core
        return cls(image, pages, core)

    @property
    def is_in_use(self) -> bool:
        """Whether the image has its pixels here: some decoders bring their own memory."""
        return self._image.im is self._core

    def bands(self) -> Iterator[tuple[int, UInt8Array]]:
        """Yield the first row and the pixels, (N, W, 4), of each band; the one before is released.

        The image has no pixels afterwards.
        """
        height, width, _ = self._shape
        pixels = np.frombuffer(self._pages, np.uint8).reshape(self._shape)
        rows = max(1, _BAND_BYTES // (4 * width))
        released = 0
        for top in range(0, height, rows):
            yield top, pixels[top : top + rows]
            end = 4 * width * min(top + rows, height) // mmap.PAGESIZE * mmap.PAGESIZE
            if end > released:
                self._pages.madvise(mmap.MADV_DONTNEED, released, end - released)
                released = end
