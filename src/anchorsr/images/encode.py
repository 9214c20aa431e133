"""Encode a `RasterImage` as a file, with the metadata that each format can hold."""

from __future__ import annotations

import dataclasses
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from anchorsr.errors import OutputError
from anchorsr.images.colour import ColourSpace, from_png, icc_profile, with_srgb_curve
from anchorsr.images.decode import checked_dpi, to_srgb
from anchorsr.images.exif import sized_exif, without_orientation
from anchorsr.images.gif import encode_gif
from anchorsr.images.heic import encode_heic
from anchorsr.images.image import Metadata, Pixels, RasterImage, eight_bits
from anchorsr.images.jpeg import LONGEST_COMMENT, LONGEST_IPTC, with_extras
from anchorsr.images.png import png_parts
from anchorsr.images.tiff import write_tiff
from anchorsr.images.xmp import sized_xmp
from anchorsr.utils.files import reason

# VP8_ENC_ERROR_PARTITION0_OVERFLOW: the modes of all blocks have to fit into 512 kB.
_WEBP_OVERFLOW = re.compile(r"(encoding error|WebPEncodingError:?) 6$")
_LOSSLESS_WEBP = {"lossless": True, "exact": True}
_WITHOUT_PROFILE = ("GIF", "BMP")
_OPAQUE = ("JPEG", "BMP")  # transparent pixels are laid on white
# Pillow writes one JPEG segment: 65,535 bytes less two for its length and, for XMP, 29 for its
# name.
_LONGEST_JPEG_EXIF = 65_533
_LONGEST_JPEG_XMP = 65_504


@dataclass(frozen=True)
class Coding:
    """How lossy formats store pixels.

    Attributes:
        quality: 1 to 100.
        lossless: Store WebP and HEIC without loss, and nothing as JPEG or AVIF.
    """

    quality: int = 92
    lossless: bool = False

    def quality_for(self, image: Metadata, format_name: str) -> int | None:
        """Return the quality; None for no loss, which an image can ask for too."""
        lossless = self.lossless or (image.lossless and format_name in ("WEBP", "HEIC"))
        return None if lossless else self.quality


def encode_into(file: BinaryIO, image: RasterImage, format_name: str, coding: Coding) -> None:
    """Encode an image by the rules of `io.write_image`.

    Args:
        file: The file, open for writing at its start. PNG and TIFF are written as they are
            compressed, so they are not in memory.
        image: The image.
        format_name: The format.
        coding: How lossy formats store pixels.
    """
    pixels, metadata = prepared(image, format_name)
    quality = coding.quality_for(image, format_name)
    if format_name == "TIFF":
        write_tiff(file, pixels.shape[:2], [pixels], metadata)
    elif format_name == "PNG":
        for part in png_parts(pixels.shape[0], [pixels], metadata):
            file.write(part)
    elif format_name == "GIF":
        alpha = pixels[..., 3] if pixels.shape[2] == 4 else None
        file.write(encode_gif([(pixels[..., :3], alpha, 0)], None, metadata.comment))
    elif format_name == "HEIC":
        file.write(encode_heic(pixels, quality, _as_options(metadata)))
    else:
        file.write(_encode_with_pillow(pixels, format_name, quality, metadata))


def prepared(
    image: RasterImage, format_name: str, size: tuple[int, int] | None = None
) -> tuple[Pixels, Metadata]:
    """Return the pixels and metadata that a format stores of an image.

    Args:
        image: The image.
        format_name: The format.
        size: (height, width) that the metadata states; by default that of the image.

    Returns:
        (H, W, C), where C is 1 for grey, 2 with alpha, 3 for RGB and 4 with alpha.
    """
    rgb, alpha = image.rgb, image.alpha
    if format_name not in ("PNG", "TIFF", "HEIC"):
        rgb = eight_bits(rgb)
        alpha = None if alpha is None else eight_bits(alpha)
    if alpha is not None and format_name in _OPAQUE:
        weight = alpha[..., None].astype(np.uint16)
        # Largest value 255 * 255 + 127, so 16 bits hold it; 127 rounds to nearest.
        rgb = ((rgb * weight + 255 * (255 - weight) + 127) // 255).astype(np.uint8)
        alpha = None
    grey = image.grey and format_name not in ("WEBP", "GIF")
    if grey and alpha is not None and format_name in ("TIFF", "HEIC"):
        grey = False  # readers of grey with alpha are rare
    metadata = resized_metadata(image, *(size or image.size), grey=grey)
    rgb, metadata = converted_colours(rgb, image, metadata, format_name, grey=image.grey)
    pixels = rgb[..., :1] if grey else rgb
    if alpha is not None:
        pixels = np.concatenate((pixels, alpha[..., None]), axis=2)
    return pixels, metadata


def check_coding(path: Path, format_name: str, coding: Coding) -> None:
    """Check that a format can be written as asked for.

    Raises:
        OutputError: If the quality is out of range, or the format has no lossless form.
    """
    if not 1 <= coding.quality <= 100:
        raise OutputError(f"quality is 1 to 100, not {coding.quality}")
    if coding.lossless and format_name in ("JPEG", "AVIF", "GIF"):
        raise OutputError(
            f"{path} cannot be lossless, since {format_name} is not; write a .png or .webp file"
        )


def check_colours(path: Path, metadata: Metadata, format_name: str) -> None:
    """Check that a format can say what the colours of an image mean.

    Raises:
        OutputError: If they are HDR, or of an unusual kind, and the format is not PNG.
    """
    if format_name == "PNG" or metadata.png_colour is None:
        return
    space = from_png(metadata.png_colour)
    if space is None or space.hdr:
        what = space.hdr if space else "in colours of an unusual kind"
        raise OutputError(f"{path} would be {what}, which only a PNG keeps here; write a .png file")


def encoding_failed(path: Path, error: Exception) -> OutputError:
    """Return what to raise when the library of a format fails.

    Args:
        path: The file to be written.
        error: What the library raises.
    """
    text = reason(error)
    if _WEBP_OVERFLOW.search(text):
        return OutputError(
            f"{path} would have more detail than a lossy WebP of its size can hold; "
            f"use --lossless or a lower --quality, or write a .png or .jpg file"
        )
    return OutputError(f"{path} cannot be written ({text})")


def not_kept(image: Metadata, format_name: str, *, animated: bool = False) -> list[str]:
    """Name what an image has, beside its colours, and the format cannot hold."""
    fitting = _fitting(image, format_name)
    lost = {
        "EXIF": image.exif is not None and fitting.exif is None,
        "XMP": image.xmp is not None and fitting.xmp is None,
        f"text ({_listed(image.png_text_keys)})": bool(image.png_text) and fitting.png_text is None,
        "IPTC": image.iptc is not None and (fitting.iptc is None or animated),
        "the comment": image.comment is not None and fitting.comment is None,
        "the place on the map (GeoTIFF)": image.geo is not None and fitting.geo is None,
        "the resolution in dots per inch": image.dpi is not None
        and image.exif is None
        and fitting.dpi is None,
        "pixels without loss (PNG, WebP and HEIC files can)": image.lossless
        and format_name == "AVIF",
    }
    names = [name for name, is_lost in lost.items() if is_lost]
    if isinstance(image, RasterImage):
        if image.alpha is not None and format_name in _OPAQUE:
            names.append("transparency (laid on white)")
        if image.rgb.dtype == np.uint16 and format_name not in ("PNG", "TIFF"):
            names.append(f"the lowest {6 if format_name == 'HEIC' else 8} of 16 bits")
    return names


def resized_metadata(metadata: Metadata, height: int, width: int, *, grey: bool) -> Metadata:
    """Return the metadata for an image of another size, without a profile of other channels."""
    profile, exif, xmp = metadata.icc_profile, metadata.exif, metadata.xmp
    channels = b"GRAY" if grey else b"RGB "
    fits = profile is None or profile[16:20] == channels
    return dataclasses.replace(
        plain_metadata(metadata),
        icc_profile=profile if fits else None,
        exif=sized_exif(exif, height, width) if exif is not None else None,
        xmp=sized_xmp(xmp, height, width) if xmp is not None else None,
        dpi=checked_dpi(metadata.dpi),
        png_colour=metadata.png_colour if fits else None,  # else 8-bit colours become sRGB
    )


def plain_metadata(image: Metadata) -> Metadata:
    """Return only the metadata of an image or animation."""
    return Metadata(**{each.name: getattr(image, each.name) for each in fields(Metadata)})


def converted_colours(
    rgb: Pixels, original: Metadata, kept: Metadata, format_name: str, *, grey: bool
) -> tuple[Pixels, Metadata]:
    """Convert colours if the file will not say what they mean.

    What only a PNG says becomes a profile and the curve of sRGB; what no profile says either, sRGB.

    Args:
        rgb: (H, W, 3).
        original: The image's metadata, with the profile of its colours.
        kept: What is to be written of it.
        format_name: The format to write.
        grey: Whether the three channels are equal.

    Returns:
        The colours to write, and the metadata to write.
    """
    profile = original.icc_profile
    kept = _fitting(kept, format_name)
    if format_name != "PNG" and original.png_colour is not None and profile is None:
        space = from_png(original.png_colour) or ColourSpace()
        if space.gamma is not None:
            rgb = with_srgb_curve(rgb, space.gamma)
        profile = None if grey else icc_profile(space.primaries, space.name)
        if format_name not in _WITHOUT_PROFILE:
            kept = dataclasses.replace(kept, icc_profile=profile)
    if profile is None or kept.icc_profile is not None or rgb.dtype != np.uint8:
        return rgb, kept
    image = Image.fromarray(np.ascontiguousarray(rgb))
    if grey and profile[16:20] == b"GRAY":
        image = image.convert("L")
    return np.asarray(to_srgb(image, profile)), kept


def _fitting(metadata: Metadata, format_name: str) -> Metadata:
    """Return what a format can hold of the metadata."""
    if format_name in _WITHOUT_PROFILE:
        comment = metadata.comment if format_name == "GIF" else None
        return Metadata(comment=comment, dpi=metadata.dpi if format_name == "BMP" else None)
    exif, xmp, iptc, comment = metadata.exif, metadata.xmp, metadata.iptc, metadata.comment
    if format_name == "JPEG":
        exif = exif if exif is not None and len(exif) <= _LONGEST_JPEG_EXIF else None
        xmp = xmp if xmp is not None and len(xmp) <= _LONGEST_JPEG_XMP else None
        iptc = iptc if iptc is not None and len(iptc) <= LONGEST_IPTC else None
        comment = comment if comment is not None and len(comment) <= LONGEST_COMMENT else None
    return dataclasses.replace(
        metadata,
        exif=exif,
        xmp=xmp,
        iptc=iptc if format_name in ("JPEG", "TIFF") else None,
        comment=comment if format_name == "JPEG" else None,
        geo=metadata.geo if format_name == "TIFF" else None,
        dpi=metadata.dpi if format_name in ("JPEG", "PNG", "TIFF") else None,
        png_colour=metadata.png_colour if format_name == "PNG" else None,
        png_text=metadata.png_text if format_name == "PNG" else None,
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")


def pillow_options(format_name: str, quality: int | None, metadata: Metadata) -> dict[str, Any]:
    """Return the options of Pillow's JPEG, WebP, AVIF or BMP writer; quality None is lossless."""
    by_format: dict[str, dict[str, Any]] = {
        "JPEG": {"quality": quality, "subsampling": 0},
        "WEBP": {"quality": quality} if quality is not None else _LOSSLESS_WEBP,
        "AVIF": {"quality": quality, "subsampling": "4:4:4"},
        "BMP": {},
    }
    options = dict(by_format[format_name])
    if metadata.dpi is not None:
        options["dpi"] = metadata.dpi
    if format_name == "AVIF" and metadata.exif is not None:
        # AVIF has its own field for the orientation; to move it there, Pillow would rebuild EXIF.
        metadata = dataclasses.replace(metadata, exif=without_orientation(metadata.exif))
    return options | _as_options(metadata)


def _as_options(metadata: Metadata) -> dict[str, bytes]:
    named = {"icc_profile": metadata.icc_profile, "exif": metadata.exif, "xmp": metadata.xmp}
    return {name: value for name, value in named.items() if value is not None}


def _encode_with_pillow(
    pixels: Pixels, format_name: str, quality: int | None, metadata: Metadata
) -> bytes:
    channels = pixels.shape[2]
    image = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if channels == 1 else pixels))
    buffer = io.BytesIO()
    image.save(buffer, format_name, **pillow_options(format_name, quality, metadata))
    if format_name == "JPEG":
        return with_extras(buffer.getvalue(), metadata.iptc, metadata.comment)
    return buffer.getvalue()
