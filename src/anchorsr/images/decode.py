"""Decode an open file into a `RasterImage`: colours, alpha, depth, orientation, metadata.

Orientation follows EXIF 2.32 (CIPA DC-008), section 4.6.4; profiles follow ICC.1. What is read and
what is refused is documented in `io.read_image`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageChops, ImageCms, ImageFile

from anchorsr.errors import ImageError
from anchorsr.images import jpeg
from anchorsr.images.coding import coding_of
from anchorsr.images.colour import from_chromaticities, icc_profile, with_srgb_curve
from anchorsr.images.exif import exif_dpi, upright_exif
from anchorsr.images.formats import bands, check_pixels, frame_count, load, quietly, tiff_tag
from anchorsr.images.heic import heic_attachments, heic_pixels, open_heic
from anchorsr.images.image import Metadata, Pixels, RasterImage
from anchorsr.images.pixel_memory import PixelMemory
from anchorsr.images.sixteen_bits import colours_of_16_bits
from anchorsr.images.source import Source
from anchorsr.images.tiff import read_tiff_fields
from anchorsr.images.xmp import upright_xmp

HANDLED_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
_BAND = 256  # rows that are converted at a time


def decode(source: Source, max_pixels: int) -> RasterImage:
    """Decode an image.

    Args:
        source: The open file.
        max_pixels: The largest image to decode.

    Raises:
        ImageError: If this kind of image is not handled. A damaged file raises whatever its
            library raises.
    """
    if source.format_name == "HEIC":
        return _decode_heic(source, max_pixels)
    image = source.open()
    check_pixels(source.path, image.width, image.height, max_pixels)
    file, depth = source.file, _depth(source.file, image)
    _check(image, source.path, depth)
    coding = coding_of(file, image)
    is_tiff = source.format_name == "TIFF"
    stored_size = image.height, image.width
    stored_orientation = tiff_tag(image, 0x0112, 1) if is_tiff else None
    if depth == 16:
        transparent = image.info.get("transparency")
        rgb, alpha, grey = colours_of_16_bits(source, image)
        turned = False
        alpha = _alpha_of_colour(rgb, transparent) if alpha is None else alpha
    else:
        rgb, alpha, turned = _colours_of_8_bits(source, image, depth)
        grey = image.mode in ("1", "L", "LA")
    metadata, orientation = metadata_of(image, source)
    orientation = 1 if turned else orientation
    if stored_orientation is not None:  # Pillow turns TIFF, and only TIFF, while decoding
        dpi = metadata.dpi if tiff_tag(image, 0x011A, None) is not None else None
        sideways = stored_orientation in (5, 6, 7, 8)
        dpi = dpi[::-1] if dpi is not None and sideways else dpi
        metadata = _with_tiff_fields(metadata, file, stored_size, stored_orientation)
        metadata = dataclasses.replace(metadata, dpi=dpi)
        orientation = 1
    if image.mode == "CMYK":
        metadata = dataclasses.replace(metadata, icc_profile=None)
        if source.plain_inks:
            note = "CMYK without Adobe's marker is taken as plain, where 0 is no ink"
            metadata = dataclasses.replace(metadata, notes=(*metadata.notes, note))
    if source.gamma is not None:
        rgb = with_srgb_curve(rgb, source.gamma)
    return RasterImage(
        rgb=turn(rgb, orientation),
        alpha=None if alpha is None else turn(alpha, orientation),
        grey=grey,
        coding=coding,
        **vars(metadata),
    )


def metadata_of(image: Image.Image, source: Source) -> tuple[Metadata, int]:
    """Return the metadata of an opened image for its upright form, and its EXIF orientation."""
    # A text chunk of a PNG can have any of these names, so each type is checked.
    profile, exif, xmp, dpi = (
        image.info.get(name) for name in ("icc_profile", "exif", "xmp", "dpi")
    )
    given = {"colour profile": profile, "EXIF": exif, "XMP": xmp}
    orientation, exif = upright_exif(exif) if isinstance(exif, bytes) else (1, None)
    dpi = checked_dpi(dpi) or (checked_dpi(exif_dpi(exif)) if exif is not None else None)
    profile = _checked_profile(profile)
    notes = list(source.notes)
    if profile is not None and not _profile_fits(profile, image.mode):
        kind = profile[16:20].decode("latin-1").strip()
        notes.append(f"the colour profile is left out, being one of other channels ({kind})")
        profile = given["colour profile"] = None
    xmp = upright_xmp(xmp) if isinstance(xmp, bytes) else None
    kept = {"colour profile": profile, "EXIF": exif, "XMP": xmp}
    damaged = [name for name, data in given.items() if data and kept[name] is None]
    if damaged:
        notes.append(f"damaged and left out: {', '.join(damaged)}")
    extras = source.extras if profile is None else source.extras | {"icc_profile": profile}
    metadata = Metadata(
        exif=exif,
        xmp=xmp,
        dpi=dpi[::-1] if dpi is not None and orientation >= 5 else dpi,
        notes=tuple(notes),
        **extras,
    )
    return metadata, orientation


def colours(
    image: Image.Image, depth: int = 8, *, plain_inks: bool = False
) -> tuple[Pixels, Pixels | None]:
    """Convert an image of any of `HANDLED_MODES` to RGB (H, W, 3) and alpha (H, W), if any.

    Args:
        image: The image. Its `info` loses the transparent colour.
        depth: Bits per channel in the file.
        plain_inks: Whether a JPEG stores CMYK plain; Pillow has inverted it then.
    """
    if image.mode == "CMYK":
        if plain_inks:
            profile, image = image.info.get("icc_profile"), ImageChops.invert(image)
            return np.array(to_srgb(image, profile)), None
        return np.array(to_srgb(image, image.info.get("icc_profile"))), None
    transparent = image.info.get("transparency")
    if image.mode in ("LA", "PA", "RGBA") or (image.mode == "P" and transparent is not None):
        rgba = _array(image, "RGBA")
        return rgba[..., :3].copy(), rgba[..., 3].copy()
    image.info.pop("transparency", None)
    rgb = _array(image, "RGB")
    # Pillow expands 2- and 4-bit greys to 0 … 255, but keeps the transparent one as stored.
    step = 255 // (2**depth - 1) if image.mode == "L" else 1
    return rgb, _alpha_of_colour(rgb, transparent, step)


def _alpha_of_colour(rgb: Pixels, transparent: Any, step: int = 1) -> Pixels | None:
    """Return alpha (H, W) that is 0 where the transparent colour of a PNG is; None without one."""
    if not isinstance(transparent, int | tuple):
        return None
    alpha = np.empty(rgb.shape[:2], rgb.dtype)
    colour = np.array(transparent) * step
    for top in range(0, len(rgb), _BAND):
        matches = (rgb[top : top + _BAND] == colour).all(axis=-1)
        alpha[top : top + _BAND] = np.where(matches, 0, np.iinfo(rgb.dtype).max)
    return alpha


def _colours_of_8_bits(
    source: Source, image: ImageFile.ImageFile, depth: int
) -> tuple[Pixels, Pixels | None, bool]:
    """Decode with little more memory than that of the result.

    Returns:
        RGB (H, W, 3); alpha (H, W), if any; and whether they are flipped as EXIF says already.
    """
    memory = PixelMemory.lend(image)
    _load_whole(source, image)
    if memory is None or not memory.is_in_use:
        return *colours(image, depth, plain_inks=source.plain_inks), False
    exif = image.info.get("exif")
    orientation = upright_exif(exif)[0] if isinstance(exif, bytes) and image.format != "TIFF" else 1
    if orientation >= 5:
        orientation = 1  # columns that become rows touch all memory at once
    upright = np.empty((image.height, image.width, 3), np.uint8)
    upright_alpha = np.empty(upright.shape[:2], np.uint8) if image.mode in ("LA", "RGBA") else None
    rgb = _flipped(upright, orientation)  # a view, into which rows are written as they are stored
    alpha = None if upright_alpha is None else _flipped(upright_alpha, orientation)
    profile = image.info.get("icc_profile")
    for top, band in memory.bands():
        place = np.s_[top : top + len(band)]
        if image.mode == "CMYK":
            inks = (~band if source.plain_inks else band).tobytes()
            area = Image.frombytes("CMYK", (image.width, len(band)), inks)
            rgb[place] = np.asarray(to_srgb(area, profile))
        else:
            rgb[place] = band[..., :3]
        if alpha is not None:
            alpha[place] = band[..., 3]
    if alpha is None and image.mode == "RGB":
        upright_alpha = _alpha_of_colour(upright, image.info.pop("transparency", None))
    return upright, upright_alpha, orientation != 1


def _array(image: Image.Image, mode: str) -> Pixels:
    """Convert to an array (H, W, C), in bands: Pillow would copy a whole image twice."""
    array = np.empty((image.height, image.width, len(mode)), np.uint8)
    for top, band in bands(image):
        array[top : top + band.height] = np.asarray(
            band if band.mode == mode else band.convert(mode)
        )
    return array


def to_srgb(image: Image.Image, profile: Any) -> Image.Image:
    """Convert to sRGB through the profile, or without one if it is missing or damaged."""
    checked = _checked_profile(profile)
    if checked is not None:
        srgb = ImageCms.createProfile("sRGB")
        with contextlib.suppress(ImageCms.PyCMSError, OSError):
            source = ImageCms.ImageCmsProfile(io.BytesIO(checked))
            converted = ImageCms.profileToProfile(image, source, srgb, outputMode="RGB")
            if converted is not None:
                return converted
    return image.convert("RGB")


def turn(pixels: Pixels, orientation: int) -> Pixels:
    """Turn stored rows and columns upright, by the EXIF orientation, 1 to 8."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    return np.ascontiguousarray(_flipped(pixels, orientation))


def _flipped(pixels: Pixels, orientation: int) -> Pixels:
    """Return a view with rows, columns or both in reverse; doing it twice changes nothing."""
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def checked_dpi(dpi: Any) -> tuple[float, float] | None:
    """Return the resolution if it is two numbers that every format can hold, else None."""
    if not isinstance(dpi, tuple) or len(dpi) != 2:
        return None
    with contextlib.suppress(TypeError, ValueError, ZeroDivisionError):
        horizontal, vertical = float(dpi[0]), float(dpi[1])
        if 1 <= horizontal <= 65_535 and 1 <= vertical <= 65_535:
            return horizontal, vertical
    return None


def _checked_profile(profile: Any) -> bytes | None:
    """Return the profile if its size and signature (ICC.1, 7.2) are right, else None."""
    if not isinstance(profile, bytes) or len(profile) < 128 or profile[36:40] != b"acsp":
        return None
    return profile if int.from_bytes(profile[:4], "big") <= len(profile) else None


def _profile_fits(profile: bytes, mode: str) -> bool:
    """Return whether a profile is one of the channels of Pillow's mode. Grey can be told by RGB."""
    if mode == "CMYK":
        return profile[16:20] == b"CMYK"
    grey = mode in ("1", "L", "LA") or mode.startswith("I")
    return profile[16:20] == b"RGB " or (grey and profile[16:20] == b"GRAY")


def _depth(file: BinaryIO, image: ImageFile.ImageFile) -> int:
    """Return the bits per channel in the file, which Pillow's mode does not tell."""
    if image.format == "PNG":
        file.seek(24)
        return file.read(1)[0]
    if image.format == "TIFF":
        return int(max(tiff_tag(image, 0x0102, (1,))))
    return 8


def _check(image: ImageFile.ImageFile, path: Path, depth: int) -> None:
    """Refuse an unsupported image before decoding its pixels."""
    if image.format != "TIFF":
        with quietly():
            frames = frame_count(image)
        if frames > 1:
            raise ImageError(f"{path} is an animation; extract its frames as images first")
    if depth == 16 and image.mode in ("L", "LA", "RGB", "RGBA", "I;16", "I;16B"):
        planes = tiff_tag(image, 0x011C, 1) if image.format == "TIFF" else 1
        if planes == 1 or image.mode.startswith("I"):
            return
        raise ImageError(
            f"{path} holds 16-bit colours in separate planes; save it with interleaved channels"
        )
    if depth > 8:
        raise ImageError(
            f"{path} holds {depth}-bit {image.mode} pixels; convert it to 16-bit RGB first"
        )
    if image.mode not in HANDLED_MODES:
        raise ImageError(f"{path} holds {image.mode} pixels; convert it to 8-bit RGB first")


def _load_whole(source: Source, image: ImageFile.ImageFile) -> None:
    """Decode an image; refuse one whose pixels depend on how its missing end is completed.

    A JPEG can end too early with an end marker, too: some programs add one to what is left. Its
    decoder makes the missing blocks middle grey, so one whose last pixel is that is looked at.
    """
    load(image)
    completions = source.completions[1:]
    if source.format_name == "JPEG" and not completions and _ends_in_grey(image):
        completions = jpeg.completed(source.file, source.jpeg_end)[1:]
    for other in completions:
        completed = load(source.open(other))
        for (_, band), (_, other_band) in zip(bands(image), bands(completed), strict=True):
            if band.tobytes() != other_band.tobytes():
                raise ValueError("its end is missing, and pixels with it")
    if source.completions:
        source.notes.append("the end of the file is missing, but no pixel is")


def _ends_in_grey(image: ImageFile.ImageFile) -> bool:
    last = image.crop((image.width - 1, image.height - 1, image.width, image.height))
    return all(abs(value - 128) <= 2 for value in last.tobytes()[:3])


def _with_tiff_fields(
    metadata: Metadata, file: BinaryIO, size: tuple[int, int], orientation: int
) -> Metadata:
    """Add what a TIFF stores among the fields of its pixels.

    Args:
        metadata: What Pillow reads.
        file: The open file.
        size: (height, width) as stored.
        orientation: Its EXIF orientation.
    """
    fields = read_tiff_fields(file, size)
    geo, notes = fields.geo, [*metadata.notes, *fields.notes]
    if geo is not None and orientation != 1:
        geo = None
        notes.append("the place on the map is left out, since the image is turned")
    profile = metadata.icc_profile
    if profile is None and fields.primaries is not None:
        space = from_chromaticities(fields.primaries)
        profile = icc_profile(space.primaries) if space is not None else None
    return dataclasses.replace(
        metadata,
        exif=fields.exif,
        iptc=fields.iptc,
        geo=geo,
        icc_profile=profile,
        notes=tuple(notes),
    )


def _decode_heic(source: Source, max_pixels: int) -> RasterImage:
    """Decode HEIC. pillow-heif turns the pixels itself, so the EXIF orientation is not applied."""
    image = open_heic(source.file)
    check_pixels(source.path, image.size[0], image.size[1], max_pixels)
    for kind in heic_attachments(image):
        source.notes.append(f"left out of the HEIC: {kind}")
    metadata, _ = metadata_of(image, source)
    pixels = heic_pixels(image)
    check_pixels(source.path, image.size[0], image.size[1], max_pixels)
    rgb = np.repeat(pixels, 3, axis=-1) if pixels.shape[2] == 1 else pixels[..., :3]
    if source.gamma is not None:
        rgb = with_srgb_curve(rgb, source.gamma)
    return RasterImage(
        rgb=np.ascontiguousarray(rgb),
        alpha=np.ascontiguousarray(pixels[..., 3]) if pixels.shape[2] == 4 else None,
        grey=pixels.shape[2] == 1,
        **vars(metadata),
    )
