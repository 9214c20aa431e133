"""The formats of image files: their suffixes, their limits, and how each is opened."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import PIL._imaging
from PIL import (
    AvifImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
    features,
)

from anchorsr.errors import ImageError, OutputError, needs

_FORMATS = {
    ".png": "PNG",
    ".apng": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".avif": "AVIF",
    ".gif": "GIF",
    ".heic": "HEIC",
    ".heif": "HEIC",
}
SUFFIXES = tuple(_FORMATS)
ANIMATED = ("GIF", "WEBP", "PNG", "AVIF")
MAX_PIXELS = 100_000_000

# The pixels a side that each format, or the library that reads it, can hold. JPEG could say
# 65,535, but libjpeg (JPEG_MAX_DIMENSION) stops at 65,500; libavif refuses to read more than
# 32,768 a side, or than a square of 16,384; HEVC's highest level, 6.2, ends at 16,888.
_LONGEST_SIDE = {"JPEG": 65_500, "WEBP": 16_383, "GIF": 65_535, "AVIF": 32_768, "HEIC": 16_888}
_MOST_PIXELS = {"AVIF": 16_384**2}

_PLUGINS: dict[str, Callable[[BinaryIO], ImageFile.ImageFile]] = {
    "PNG": PngImagePlugin.PngImageFile,
    "JPEG": JpegImagePlugin.JpegImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
    "GIF": GifImagePlugin.GifImageFile,
}

_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_AVIF_BRANDS = {b"avif", b"avis"}

# Warning filters, and what libtiff does with errors, belong to the process, so one thread at a
# time may change them.
_process_lock = threading.Lock()


def format_of(path: Path) -> str:
    """The format that the path's suffix stands for. Raises OutputError for another suffix."""
    format_name = _FORMATS.get(path.suffix.lower())
    if format_name is None:
        raise OutputError(f"{path} has no suffix that can be written: {', '.join(SUFFIXES)}")
    return format_name


def is_image_name(path: Path) -> bool:
    """Whether the suffix, in any case, is one of `SUFFIXES`."""
    return path.suffix.lower() in _FORMATS


def check_size(path: Path, height: int, width: int) -> None:
    """Raise OutputError when the format of the path's suffix cannot hold so many pixels a side.

    Raises MissingDependencyError, or OutputError, when a library for the format is missing.
    """
    format_name = format_of(path)
    check_library(format_name, path)
    limit = _LONGEST_SIDE.get(format_name)
    if limit is not None and max(height, width) > limit:
        raise OutputError(
            f"{path} would have {width} x {height} pixels, more than the {limit} a side that "
            f"{format_name} can hold; write a .png file"
        )
    most = _MOST_PIXELS.get(format_name)
    if most is not None and height * width > most:
        raise OutputError(
            f"{path} would have {width} x {height} pixels, more than the {most} that readers of "
            f"{format_name} accept; write a .png file"
        )


def check_library(format_name: str, path: Path) -> None:
    """Raise MissingDependencyError or OutputError when nothing here handles the format."""
    if format_name == "HEIC":
        with needs("pillow-heif", "heic"):
            import pillow_heif  # noqa: F401
    if format_name == "AVIF" and not features.check("avif"):
        raise OutputError(f"{path} needs a Pillow that was built with AVIF: install a newer Pillow")


def format_of_content(header: bytes) -> str | None:
    """The format that the first 64 bytes of a file show, or None."""
    if header.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if header.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if header.startswith(b"RIFF") and header[8:12] == b"WEBP":
        return "WEBP"
    if header.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "TIFF"
    if header.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if header[4:8] == b"ftyp":
        end = min(int.from_bytes(header[:4], "big"), len(header) - 3)
        brands = {header[8:12], *(header[at : at + 4] for at in range(16, end, 4))}
        if brands & _AVIF_BRANDS:
            return "AVIF"
        if brands & _HEIC_BRANDS:
            return "HEIC"
    return None


def open_image(file: BinaryIO, format_name: str) -> ImageFile.ImageFile:
    """Read the header of an image of a format that Pillow reads.

    The plugins are called directly, not through Image.open, whose limit on pixels is one for
    the whole process.
    """
    file.seek(0)
    with quietly():
        return _PLUGINS[format_name](file)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without Pillow's warnings, of metadata that is ignored here and of its limit on pixels, and
    without the lines that libtiff writes to standard error beside failing.
    """
    with _process_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        set_handler = _libtiff_handler()
        previous = set_handler(None) if set_handler else None
        try:
            yield
        finally:
            if set_handler:
                set_handler(previous)


@functools.cache
def _libtiff_handler() -> Callable[[int | None], int | None] | None:
    """libtiff's TIFFSetErrorHandler, which returns the handler before; None where it is hidden."""
    try:
        function = ctypes.CDLL(PIL._imaging.__file__).TIFFSetErrorHandler
    except (OSError, AttributeError, TypeError):
        return None
    function.restype, function.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    return function


def check_pixels(path: Path, width: int, height: int, max_pixels: int) -> None:
    """Raise ImageError when an image has more pixels than are to be decoded, or none."""
    if width < 1 or height < 1:
        raise ImageError(f"{path} has {width} x {height} pixels; copy or download it again")
    if width * height > max_pixels:
        raise ImageError(
            f"{path} has {width} x {height} pixels, more than the limit of "
            f"{max_pixels}; cut it into parts, or make it smaller first"
        )


def frame_count(image: Image.Image) -> int:
    """The frames of an image as its plugin counts them, less a PNG's default image."""
    frames: int = getattr(image, "n_frames", 1)
    return frames - bool(image.info.get("default_image"))
