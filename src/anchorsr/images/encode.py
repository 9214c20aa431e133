"""Encode a `RasterImage` as a file, with the metadata that each format can hold."""

from __future__ import annotations

import dataclasses
import io
from typing import Any

import numpy as np
from PIL import Image

from anchorsr.images.decode import checked_dpi, to_srgb
from anchorsr.images.exif import sized_exif, without_orientation
from anchorsr.images.gif import encode_gif
from anchorsr.images.heic import encode_heic
from anchorsr.images.image import Metadata, Pixels, RasterImage, eight_bits
from anchorsr.images.png import encode_png
from anchorsr.images.tiff import encode_tiff
from anchorsr.images.xmp import sized_xmp

# Pillow writes one JPEG segment: 65,535 bytes less two for its length and, for XMP, 29 for its
# name.
_LONGEST_JPEG_EXIF = 65_533
_LONGEST_JPEG_XMP = 65_504


def encode(image: RasterImage, format_name: str, quality: int) -> bytes:
    """Encode an image by the rules of `io.write_image`."""
    rgb, alpha = image.rgb, image.alpha
    if format_name not in ("PNG", "TIFF", "HEIC"):
        rgb = eight_bits(rgb)
        alpha = None if alpha is None else eight_bits(alpha)
    if alpha is not None and format_name == "JPEG":
        weight = alpha[..., None].astype(np.uint16)
        # Largest value 255 * 255 + 127, so 16 bits hold it; 127 rounds to nearest.
        rgb = ((rgb * weight + 255 * (255 - weight) + 127) // 255).astype(np.uint8)
        alpha = None
    grey = image.grey and format_name not in ("WEBP", "GIF")
    if grey and alpha is not None and format_name in ("TIFF", "HEIC"):
        grey = False  # readers of grey with alpha are rare
    metadata = resized_metadata(image, *image.size, grey=grey)
    rgb, metadata = converted_colours(rgb, image, metadata, format_name, grey=image.grey)
    if format_name == "GIF":
        return encode_gif([(rgb, alpha, 0)], None)
    pixels = rgb[..., :1] if grey else rgb
    if alpha is not None:
        pixels = np.concatenate((pixels, alpha[..., None]), axis=2)
    if format_name == "TIFF":
        return encode_tiff(pixels, metadata)
    if format_name == "HEIC":
        return encode_heic(pixels, quality, _as_options(metadata))
    if format_name == "PNG":
        return encode_png(pixels, metadata)
    return _encode_with_pillow(pixels, format_name, quality, metadata)


def resized_metadata(metadata: Metadata, height: int, width: int, *, grey: bool) -> Metadata:
    """Return the metadata for an image of another size, without a profile of other channels."""
    profile, exif, xmp = metadata.icc_profile, metadata.exif, metadata.xmp
    channels = b"GRAY" if grey else b"RGB "
    fits = profile is None or profile[16:20] == channels
    return Metadata(
        icc_profile=profile if fits else None,
        exif=sized_exif(exif, height, width) if exif is not None else None,
        xmp=sized_xmp(xmp, height, width) if xmp is not None else None,
        dpi=checked_dpi(metadata.dpi),
        png_colour=metadata.png_colour if fits else None,  # else 8-bit colours become sRGB
    )


def converted_colours(
    rgb: Pixels, original: Metadata, kept: Metadata, format_name: str, *, grey: bool
) -> tuple[Pixels, Metadata]:
    """Convert 8-bit colours to sRGB if the file will not hold their profile.

    Args:
        rgb: (H, W, 3).
        original: The image's metadata, with the profile of its colours.
        kept: What is to be written of it.
        format_name: The format to write; GIF holds no metadata.
        grey: Whether the three channels are equal.

    Returns:
        The colours to write, and the metadata to write.
    """
    if format_name == "GIF":
        kept = Metadata()
    if original.icc_profile is None or kept.icc_profile is not None or rgb.dtype != np.uint8:
        return rgb, kept
    image = Image.fromarray(np.ascontiguousarray(rgb))
    if grey and original.icc_profile[16:20] == b"GRAY":
        image = image.convert("L")
    return np.asarray(to_srgb(image, original.icc_profile)), kept


def pillow_options(format_name: str, quality: int, metadata: Metadata) -> dict[str, Any]:
    """Return the options of Pillow's JPEG, WebP or AVIF writer."""
    by_format: dict[str, dict[str, Any]] = {
        "JPEG": {"quality": quality, "subsampling": 0},
        "WEBP": {"quality": quality},
        "AVIF": {"quality": quality, "subsampling": "4:4:4"},
    }
    options = by_format[format_name]
    if metadata.dpi is not None:
        options["dpi"] = metadata.dpi
    if format_name == "JPEG":
        exif, xmp = metadata.exif, metadata.xmp
        metadata = dataclasses.replace(
            metadata,
            exif=exif if exif is not None and len(exif) <= _LONGEST_JPEG_EXIF else None,
            xmp=xmp if xmp is not None and len(xmp) <= _LONGEST_JPEG_XMP else None,
        )
    if format_name == "AVIF" and metadata.exif is not None:
        # AVIF has its own field for the orientation; to move it there, Pillow would rebuild EXIF.
        metadata = dataclasses.replace(metadata, exif=without_orientation(metadata.exif))
    return options | _as_options(metadata)


def _as_options(metadata: Metadata) -> dict[str, bytes]:
    named = {"icc_profile": metadata.icc_profile, "exif": metadata.exif, "xmp": metadata.xmp}
    return {name: value for name, value in named.items() if value is not None}


def _encode_with_pillow(
    pixels: Pixels, format_name: str, quality: int, metadata: Metadata
) -> bytes:
    channels = pixels.shape[2]
    image = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if channels == 1 else pixels))
    buffer = io.BytesIO()
    image.save(buffer, format_name, **pillow_options(format_name, quality, metadata))
    return buffer.getvalue()
