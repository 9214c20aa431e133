"""What an image is inside: upright arrays, and what a file said besides them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from anchorsr.errors import ImageError

# uint8 or uint16: what numpy's types cannot say without a union that no expression can use.
Pixels = npt.NDArray[Any]


@dataclass(frozen=True, eq=False, kw_only=True)
class Metadata:
    """What a file says besides its pixels, already true for an upright image.

    exif starts with `Exif` and two zero bytes, holds no thumbnail and says orientation 1; xmp is
    an XMP packet that says the same. The sizes in both are made true when they are written. dpi
    is (horizontal, vertical). png_colour: the chunks of a PNG that say what its values stand for,
    which no other format holds.
    """

    icc_profile: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    png_colour: bytes | None = None


@dataclass(frozen=True, eq=False)
class RasterImage(Metadata):
    """One upright image, and what has to be known to write one like it.

    rgb is (H, W, 3) and alpha, if any, (H, W), not premultiplied; both are uint8, or both are
    uint16 on 0 to 65535. A grey image has three equal channels and is written as one.
    """

    rgb: Pixels
    alpha: Pixels | None = None
    grey: bool = False

    def __post_init__(self) -> None:
        """Refuse arrays of another type or shape."""
        rgb, alpha = self.rgb, self.alpha
        if rgb.dtype not in (np.uint8, np.uint16):
            raise ImageError(f"rgb is uint8 or uint16 (H, W, 3), not {rgb.dtype} {rgb.shape}")
        if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.size == 0:
            raise ImageError(f"rgb is {rgb.dtype} (H, W, 3), not {rgb.dtype} {rgb.shape}")
        if alpha is not None and (alpha.dtype != rgb.dtype or alpha.shape != rgb.shape[:2]):
            raise ImageError(
                f"alpha is {rgb.dtype} {rgb.shape[:2]} as its image, "
                f"not {alpha.dtype} {alpha.shape}"
            )

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.rgb.shape[0], self.rgb.shape[1]


def eight_bits(pixels: Pixels) -> npt.NDArray[np.uint8]:
    """uint16 on 0 to 65535 as the nearest uint8; uint8 as it is."""
    if pixels.dtype == np.uint8:
        return pixels
    # 65535 is 255 · 257, so v / 257, rounded; v + 128 needs 17 bits.
    return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
