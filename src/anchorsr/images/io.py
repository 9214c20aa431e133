"""Read and write still images: the format is told by content when reading, by suffix when writing.

In memory an image is RGB (H, W, 3), upright, in 8 or 16 bits. Everything else a file says
(alpha, grey, colour profile, EXIF, XMP, resolution) travels with it in a `RasterImage`, so the
upscaled image is written like its original.

Not handled: comments, other text and IPTC are dropped; the extra images in a phone's JPEG or HEIC
(depth and gain maps) are ignored; TIFFs of several pages are refused. For animations see
`animation`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
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
    check_output,
    check_quality,
    format_of,
    format_of_content,
    is_image_name,
)
from anchorsr.images.image import RasterImage, eight_bits
from anchorsr.utils.files import cannot_read, file_key, publishing, reason

__all__ = [
    "MAX_PIXELS",
    "SUFFIXES",
    "RasterImage",
    "check_output",
    "encode_image",
    "find_images",
    "format_of",
    "list_images",
    "read_image",
    "read_rgb",
    "reading",
    "write_image",
]

_KINDS = "PNG, JPEG, WebP, TIFF, AVIF, GIF or HEIC"


def read_image(path: Path, *, max_pixels: int = MAX_PIXELS) -> RasterImage:
    """Read a PNG, JPEG, WebP, TIFF, AVIF, GIF or HEIC image, turned upright.

    16-bit PNG and TIFF become uint16, and so does 10- and 12-bit HEIC, scaled to the full range;
    everything else becomes uint8, including AVIF of more bits, which its library rounds. Palettes
    become RGB, a transparent colour becomes alpha, and CMYK becomes sRGB through the file's own
    profile, which is then dropped. A damaged profile, EXIF block or XMP packet is ignored.

    Args:
        path: The file. HEIC needs the extra `anchorsr[heic]`.
        max_pixels: The largest image to decode, checked before decoding.

    Raises:
        ImageError: If the file is missing, damaged, of another kind, animated, of several pages
            or too large.
        MissingDependencyError: If the file is HEIC and pillow-heif is not installed.
    """
    with reading(path) as (file, format_name):
        return decode(file, path, format_name, max_pixels)


def read_rgb(path: Path) -> npt.NDArray[np.uint8]:
    """Read only the colours, (H, W, 3), turned upright; 16 bits are rounded to 8."""
    return eight_bits(read_image(path).rgb)


def write_image(
    path: Path, image: RasterImage, *, quality: int = 92, overwrite: bool = False
) -> None:
    """Write an image atomically, in the format of the path's suffix.

    PNG and TIFF are lossless at 8 and 16 bits. HEIC keeps 10 of 16 bits; other formats round to
    8. JPEG has no alpha: transparent pixels are laid on white. WebP and GIF have no grey. GIF has
    255 colours and binary transparency. A profile that does not match the written channels is
    dropped after converting 8-bit colours to sRGB. GIF keeps no metadata; resolution outside EXIF
    is kept by JPEG, PNG and TIFF only.

    Args:
        path: The file to write; its folder must exist.
        image: The pixels and metadata.
        quality: 1 to 100, for JPEG, WebP, AVIF and HEIC.
        overwrite: Replace an existing file.

    Raises:
        OutputError: If the file exists and `overwrite` is false, or cannot be written.
        MissingDependencyError: If the suffix is HEIC's and pillow-heif is not installed.
    """
    with publishing(path, overwrite=overwrite) as file:
        file.write(encode_image(path, image, quality=quality))


def encode_image(path: Path, image: RasterImage, *, quality: int = 92) -> bytes:
    """Encode an image as the file that `write_image` would write.

    Args:
        path: Its suffix names the format. Nothing is written.
        image: The pixels and metadata.
        quality: As for `write_image`.

    Raises:
        OutputError: As `write_image` does.
    """
    check_quality(quality)
    format_name = check_output(path, *image.size)
    try:
        return encode(image, format_name, quality)
    except (OSError, ValueError, RuntimeError) as error:
        raise OutputError(f"{path} cannot be written ({reason(error)})") from error


def find_images(folder: Path, *, recursive: bool = False) -> list[Path]:
    """List the images in a folder, sorted.

    Args:
        folder: The folder.
        recursive: Include the folders below it, as `list_images` does.

    Raises:
        DataError: If there is no such folder, a folder cannot be listed, or there is no image.
    """
    try:
        if not folder.is_dir():
            raise DataError(f"{folder} is not an existing folder; give a folder of images")
        found, problems = list_images(folder, recursive=recursive)
        images = [path for path in found if path.is_file()]
    except OSError as error:  # the folder above, or that of a linked file, may not be entered
        raise DataError(f"{error.filename} cannot be listed: {reason(error)}") from error
    for _, problem in problems:
        raise problem
    if not images:
        raise no_images(folder)
    return images


def list_images(
    folder: Path, *, recursive: bool = True, leave_out: Path | None = None
) -> tuple[list[Path], list[tuple[Path, DataError]]]:
    """List the paths in a folder that are named as images, and the folders that cannot be listed.

    Hidden files and folders are left out. Links to folders are followed, and each folder is
    visited once: under its own name, if it has one below `folder`.

    Args:
        folder: The folder.
        recursive: Include the folders below it.
        leave_out: A folder below it to leave out.

    Returns:
        The sorted paths whose suffix, in any case, is one of `SUFFIXES`, and pairs of a folder and
        why it cannot be listed.
    """
    found: list[Path] = []
    problems: list[tuple[Path, DataError]] = []
    folders, links = [folder], list[Path]()
    seen = {file_key(leave_out)} if leave_out is not None else set()
    seen -= {None, file_key(folder)}
    while folders or links:  # links last, so a folder keeps its own name
        place = folders.pop() if folders else links.pop(0)
        key = file_key(place)
        if key in seen:
            continue
        seen.add(key)
        try:
            entries = sorted(
                entry.name for entry in os.scandir(place) if not entry.name.startswith(".")
            )
        except OSError as error:
            problems.append((place, DataError(f"{place} cannot be listed: {reason(error)}")))
            continue
        for path in (place / name for name in entries):
            if os.path.isdir(path):
                if recursive:
                    (links if path.is_symlink() else folders).append(path)
            elif is_image_name(path):
                found.append(path)
    return sorted(found), problems


def no_images(folder: Path) -> DataError:
    """Return the error for a folder without images."""
    return DataError(f"{folder} holds no image; expected files named {', '.join(SUFFIXES)}")


@contextlib.contextmanager
def reading(path: Path) -> Iterator[tuple[BinaryIO, str]]:
    """Open an image file and tell its format; inside, every failure becomes an ImageError.

    Yields:
        The open file, and the name of its format.

    Raises:
        ImageError: If the file cannot be opened, is no image, or fails to decode inside.
    """
    try:
        if path.exists() and not path.is_file():  # opening a pipe would block for ever
            raise ImageError(f"{path} is a folder or a device; give an image file")
        file = path.open("rb")
    except (OSError, ValueError) as error:
        raise ImageError(cannot_read(path, error)) from error
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
        except Exception as error:  # Pillow has no single exception for damaged files
            raise ImageError(
                f"{path} is damaged or of an unusual kind ({reason(error)}); "
                f"copy or download it again, or save it again from another program"
            ) from error
