"""Files to arrays and back: images known by their content when read, by suffix when written.

This is the image edge. Inside it an image is RGB (H, W, 3), upright, in 8 or 16 bits; what a
file says besides (alpha, one channel or three, colour profile, EXIF, XMP, resolution) travels
beside it in a `RasterImage`, so that a larger image can be written as its original was.

Left out: comments and other text, IPTC, which are dropped; the further images in a phone's
JPEG or HEIC (depth and gain maps), which are ignored; pages of a TIFF, which are refused.
Animations are in `animations`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from anchorsr.errors import AnchorSRError, DataError, ImageError, OutputError
from anchorsr.images.decode import decode
from anchorsr.images.encode import encode
from anchorsr.images.formats import (
    MAX_PIXELS,
    SUFFIXES,
    check_size,
    format_of,
    format_of_content,
    is_image_name,
)
from anchorsr.images.image import RasterImage, eight_bits
from anchorsr.utils.files import check_free, publish, reason

__all__ = [
    "MAX_PIXELS",
    "SUFFIXES",
    "RasterImage",
    "check_size",
    "find_images",
    "format_of",
    "read_image",
    "read_rgb",
    "reading",
    "write_image",
]

_KINDS = "PNG, JPEG, WebP, TIFF, AVIF, GIF or HEIC"


def read_image(path: Path, *, max_pixels: int = MAX_PIXELS) -> RasterImage:
    """Read an image, turned upright: PNG, JPEG, WebP, TIFF, AVIF, GIF, or HEIC with its extra.

    16-bit PNG and TIFF (grey, RGB, with alpha) come as uint16, HEIC of 10 and 12 bits too,
    scaled to 16; all others as uint8, AVIF of more bits rounded to 8 by its library. Palettes
    become RGB, one transparent colour becomes alpha, and CMYK becomes sRGB through the file's
    own profile, which is then dropped. A damaged profile, EXIF or XMP is ignored. Raises
    ImageError for a file that is missing, damaged, of another kind, animated, of several
    pages, or of more than `max_pixels` pixels, which is checked before they are decoded;
    MissingDependencyError for HEIC without its package; and nothing else.
    """
    with reading(path) as (file, format_name):
        return decode(file, path, format_name, max_pixels)


def read_rgb(path: Path) -> npt.NDArray[np.uint8]:
    """Read only the colours, (H, W, 3), turned upright; 16 bits are rounded to 8."""
    return eight_bits(read_image(path).rgb)


def write_image(
    path: Path, image: RasterImage, *, quality: int = 92, overwrite: bool = False
) -> None:
    """Write an image in the format of the path's suffix, whole or not at all.

    PNG and TIFF are exact, at 8 and at 16 bits; HEIC keeps 10 bits of 16, every other format
    rounds 16 bits to 8. JPEG has no alpha: what is transparent is laid on white. WebP and GIF
    have three channels, so a grey image gets them; GIF has 255 colours, and pixels are there
    or not. quality, 1 to 100, is for JPEG, WebP, AVIF and HEIC. A profile that does not fit the
    channels written is dropped, and 8-bit colours are converted to sRGB in its place; GIF keeps
    no metadata, and only JPEG, PNG and TIFF a resolution outside EXIF. Raises OutputError for
    an existing file unless `overwrite`, and for whatever else prevents writing.
    """

    check_free(path, overwrite=overwrite)
    publish(encode_image(path, image, quality=quality), path, overwrite=overwrite)


def encode_image(path: Path, image: RasterImage, *, quality: int = 92) -> bytes:
    """The bytes of the file that `write_image` writes. Raises OutputError as it does."""

    def encoded() -> bytes:
        return encode(image, format_of(path), quality)

    return encode_file(path, encoded, *image.size, quality=quality)


def find_images(folder: Path, *, recursive: bool = False) -> list[Path]:
    """List the files in a folder whose suffix, in any case, is in `SUFFIXES`, sorted.

    Hidden files and folders are left out, links followed, each folder taken once. Raises DataError
    if there is no such folder, if a folder cannot be listed, or if it holds no image.
    """

    def fail(error: OSError) -> None:
        raise DataError(f"{error.filename} cannot be listed: {reason(error)}") from error

    found = []
    try:
        if not folder.is_dir():
            raise DataError(f"{folder} is not an existing folder; give a folder of images")
        seen = set()
        for parent, folders, names in os.walk(folder, onerror=fail, followlinks=True):
            wanted = (name for name in folders if recursive and not name.startswith("."))
            folders[:] = sorted(wanted)  # which of two names a folder gets is the same everywhere
            place = os.path.realpath(parent)  # links may go round in circles
            if place in seen:
                folders.clear()
                continue
            seen.add(place)
            paths = (Path(parent, name) for name in names if not name.startswith("."))
            found += [path for path in paths if is_image_name(path) and path.is_file()]
    except OSError as error:  # a folder above, or the folder of a linked file, may not be entered
        fail(error)
    if not found:
        raise DataError(f"{folder} holds no image; expected files named {', '.join(SUFFIXES)}")
    return sorted(found)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[tuple[BinaryIO, str]]:
    """The open file and its format; whatever goes wrong inside becomes an ImageError."""
    try:
        if path.exists() and not path.is_file():  # to open a pipe would wait for ever
            raise ImageError(f"{path} is a folder or a device; give an image file")
        file = path.open("rb")
    except (OSError, ValueError) as error:
        raise ImageError(
            f"{path} cannot be opened ({reason(error)}); check its name and permissions"
        ) from error
    with file:
        try:
            header = file.read(64)
            if not header:
                raise ImageError(f"{path} is empty (0 bytes); copy or download it again")
            format_name = format_of_content(header)
            if format_name is None:
                raise ImageError(f"{path} is not a {_KINDS} image; convert it to one")
            yield file, format_name
        except (AnchorSRError, MemoryError):
            raise
        except Image.DecompressionBombError:
            # The plugins of WebP, TIFF and GIF apply Pillow's limit, twice MAX_IMAGE_PIXELS.
            raise ImageError(
                f"{path} has more pixels than Pillow opens (PIL.Image.MAX_IMAGE_PIXELS); "
                f"make it smaller first"
            ) from None
        except Exception as error:  # Pillow has no one exception for a damaged file
            raise ImageError(
                f"{path} is damaged or of an unusual kind ({reason(error)}); "
                f"copy or download it again, or save it anew from another program"
            ) from error


def encode_file(
    path: Path, encoded: Callable[[], bytes], height: int, width: int, *, quality: int
) -> bytes:
    """Check all that can be known before, then encode. Raises OutputError."""
    if not 1 <= quality <= 100:
        raise OutputError(f"quality is 1 to 100, not {quality}")
    check_size(path, height, width)
    try:
        return encoded()
    except (OSError, ValueError, RuntimeError) as error:
        raise OutputError(f"{path} cannot be written ({reason(error)})") from error
