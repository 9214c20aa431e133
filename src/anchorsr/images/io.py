"""Read and write still images: the format is told by content when reading, by suffix when writing.

In memory an image is RGB (H, W, 3), upright, in 8 or 16 bits. Everything else a file says
(alpha, grey, colour profile, EXIF, XMP, resolution) travels with it in a `RasterImage`, so the
upscaled image is written like its original.

What is left out when a file is read, such as the gain map of a phone's photograph, is told in
`notes`; what a format cannot hold, by `not_kept`. TIFFs of several pages and camera raw files are
refused. For animations see `animation`.
"""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from anchorsr.errors import DataError
from anchorsr.images.decode import decode
from anchorsr.images.encode import (
    Coding,
    check_coding,
    check_colours,
    encode_into,
    encoding_failed,
    not_kept,
)
from anchorsr.images.formats import (
    MAX_PIXELS,
    SUFFIXES,
    check_output,
    format_of,
    is_image_name,
)
from anchorsr.images.image import RasterImage, eight_bits
from anchorsr.images.source import reading
from anchorsr.utils.files import file_key, publishing, reason

__all__ = [
    "MAX_PIXELS",
    "SUFFIXES",
    "RasterImage",
    "check_output",
    "check_readable",
    "encode_image",
    "find_images",
    "format_of",
    "list_images",
    "not_kept",
    "read_image",
    "read_rgb",
    "reading",
    "write_image",
]


def read_image(path: Path, *, max_pixels: int = MAX_PIXELS) -> RasterImage:
    """Read a PNG, JPEG, WebP, TIFF, AVIF, GIF, HEIC or BMP image, turned upright.

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
    with reading(path) as source:
        return decode(source, max_pixels)


def check_readable(path: Path) -> None:
    """Raise ImageError unless the file is there and is an image, as far as its beginning shows."""
    with reading(path):
        pass


def read_rgb(path: Path) -> npt.NDArray[np.uint8]:
    """Read only the colours, (H, W, 3), turned upright; 16 bits are rounded to 8."""
    return eight_bits(read_image(path).rgb)


def write_image(
    path: Path,
    image: RasterImage,
    *,
    quality: int = 92,
    lossless: bool = False,
    overwrite: bool = False,
) -> None:
    """Write an image atomically, in the format of the path's suffix.

    PNG and TIFF are lossless at 8 and 16 bits. HEIC keeps 10 of 16 bits; other formats round to
    8. JPEG and BMP have no alpha: transparent pixels are laid on white. WebP and GIF have no grey.
    GIF has 255 colours and binary transparency. A profile that does not match the written channels
    is dropped after converting 8-bit colours to sRGB. `not_kept` names the metadata that a format
    cannot hold. An image that was read from a lossless WebP is written as one.

    Args:
        path: The file to write; its folder must exist.
        image: The pixels and metadata.
        quality: 1 to 100, for JPEG, WebP, AVIF and HEIC.
        lossless: Write WebP or HEIC without loss; JPEG, AVIF and GIF are refused.
        overwrite: Replace an existing file.

    Raises:
        OutputError: If the file exists and `overwrite` is false, or cannot be written.
        MissingDependencyError: If the suffix is HEIC's and pillow-heif is not installed.
    """
    with publishing(path, overwrite=overwrite) as file:
        _encode(file, path, image, Coding(quality, lossless))


def encode_image(
    path: Path, image: RasterImage, *, quality: int = 92, lossless: bool = False
) -> bytes:
    """Encode an image as the file that `write_image` would write.

    Args:
        path: Its suffix names the format. Nothing is written.
        image: The pixels and metadata.
        quality: As for `write_image`.
        lossless: As for `write_image`.

    Raises:
        OutputError: As `write_image` does.
    """
    buffer = io.BytesIO()
    _encode(buffer, path, image, Coding(quality, lossless))
    return buffer.getvalue()


def _encode(file: BinaryIO, path: Path, image: RasterImage, coding: Coding) -> None:
    format_name = check_output(path, *image.size)
    check_coding(path, format_name, coding)
    check_colours(path, image, format_name)
    try:
        encode_into(file, image, format_name, coding)
    except (OSError, ValueError, RuntimeError) as error:
        raise encoding_failed(path, error) from error


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
    folder: Path,
    *,
    recursive: bool = True,
    leave_out: Path | None = None,
    is_wanted: Callable[[Path], bool] = is_image_name,
    others: Counter[str] | None = None,
) -> tuple[list[Path], list[tuple[Path, DataError]]]:
    """List the paths in a folder that are named as images, and the folders that cannot be listed.

    Hidden files and folders are left out. Links to folders are followed, and each folder is
    visited once: under its own name, if it has one below `folder`.

    Args:
        folder: The folder.
        recursive: Include the folders below it.
        leave_out: A folder below it to leave out.
        is_wanted: Whether a file has the name of one to list.
        others: Counts the other files, by their suffix.

    Returns:
        The sorted paths that are wanted, and pairs of a folder and why it cannot be listed.
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
            elif is_wanted(path):
                found.append(path)
            elif others is not None:
                others[path.suffix.lower()] += 1
    return sorted(found), problems


def no_images(folder: Path) -> DataError:
    """Return the error for a folder without images."""
    return DataError(f"{folder} holds no image; expected files named {', '.join(SUFFIXES)}")
