"""`RasterImage`: upright pixel arrays, and the metadata that came with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from anchorsr.arrays import UInt8Array
from anchorsr.errors import ImageError
from anchorsr.images.coding import SourceCoding
from anchorsr.images.geotiff import GeoFields

# uint8 or uint16. A union of the two would be exact, but numpy's operators do not accept one.
Pixels = npt.NDArray[Any]


@dataclass(frozen=True, eq=False, kw_only=True)
class Metadata:
    """What a file stores besides pixels, adjusted to an upright image.

    Attributes:
        icc_profile: The ICC colour profile.
        exif: An EXIF block that starts with `Exif` and two zero bytes, has no thumbnail and
            orientation 1. Sizes in it are updated on writing.
        xmp: An XMP packet with the same orientation. Sizes in it are updated on writing.
        dpi: Horizontal and vertical resolution in dots per inch.
        png_colour: The PNG chunks that define the colour space. No other format can hold them.
        png_text: The PNG chunks with text. No other format can hold them.
        png_text_keys: The keys of that text, such as `Author`.
        iptc: IPTC-IIM data (caption, credits), which JPEG and TIFF can hold.
        comment: The comment of a JPEG or GIF.
        geo: The place on the map of a GeoTIFF, updated on writing.
        lossless: Whether the image came from a WebP, HEIC or AVIF without loss; WebP and HEIC are
            written so.
        notes: What was left out or repaired when it was read, a line each.
    """

    icc_profile: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    png_colour: bytes | None = None
    png_text: bytes | None = None
    png_text_keys: tuple[str, ...] = ()
    iptc: bytes | None = None
    comment: bytes | None = None
    geo: GeoFields | None = None
    lossless: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class RasterImage(Metadata):
    """An upright image with its metadata.

    Attributes:
        rgb: (H, W, 3), uint8 or uint16 over the full range 0 to 65535.
        alpha: (H, W) of the same type, not premultiplied; None for an opaque image.
        grey: Whether the three channels are equal, and written as one.
        coding: The lossy coding of the file that the pixels come from.
    """

    rgb: Pixels
    alpha: Pixels | None = None
    grey: bool = False
    coding: SourceCoding | None = None

    def __post_init__(self) -> None:
        """Refuse arrays of any other type or shape."""
        rgb, alpha = self.rgb, self.alpha
        if rgb.dtype not in (np.uint8, np.uint16):
            raise ImageError(f"rgb is uint8 or uint16 (H, W, 3), not {rgb.dtype} {rgb.shape}")
        if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.size == 0:
            raise ImageError(f"rgb is {rgb.dtype} (H, W, 3), not {rgb.dtype} {rgb.shape}")
        if alpha is not None and (alpha.dtype != rgb.dtype or alpha.shape != rgb.shape[:2]):
            raise ImageError(
                f"alpha is {rgb.dtype} {rgb.shape[:2]} like its image, "
                f"not {alpha.dtype} {alpha.shape}"
            )

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.rgb.shape[0], self.rgb.shape[1]


def from_array(array: Pixels) -> RasterImage:
    """Wrap an array, without copying its colours.

    Args:
        array: uint8 or uint16: grey (H, W) or (H, W, 1), RGB (H, W, 3), RGBA (H, W, 4).

    Raises:
        ValueError: For any other type or shape.
    """
    shape = array.shape if array.ndim != 2 else (*array.shape, 1)
    if array.dtype not in (np.uint8, np.uint16) or len(shape) != 3 or not array.size:
        raise ValueError(
            f"an image is uint8 or uint16 (H, W) or (H, W, C), not {array.dtype} {array.shape}"
        )
    if shape[2] not in (1, 3, 4):
        raise ValueError(f"an image has 1, 3 or 4 channels, not {shape[2]}")
    array = array.reshape(shape)
    if shape[2] == 1:
        return RasterImage(np.repeat(array, 3, axis=2), grey=True)
    return RasterImage(array[:, :, :3], array[:, :, 3] if shape[2] == 4 else None)


def to_array(image: RasterImage) -> Pixels:
    """Return the pixels as grey (H, W), RGB (H, W, 3) or RGBA (H, W, 4).

    An image with alpha becomes RGBA, a grey one too. RGB is the image's own memory.
    """
    if image.alpha is not None:
        return np.dstack((image.rgb, image.alpha))
    return image.rgb[:, :, 0].copy() if image.grey else image.rgb


def eight_bits(pixels: Pixels) -> UInt8Array:
    """Round uint16 to the nearest uint8; return uint8 unchanged."""
    if pixels.dtype == np.uint8:
        return pixels
    # 65535 is 255 · 257, so v / 257, rounded; v + 128 needs 17 bits.
    return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
