"""Image file formats: their suffixes, limits, signatures and Pillow plugins."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import PIL._imaging
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
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
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".jif": "JPEG",
    ".jfi": "JPEG",
    ".pjpeg": "JPEG",
    ".pjp": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".avif": "AVIF",
    ".gif": "GIF",
    ".heic": "HEIC",
    ".heif": "HEIC",
    ".hif": "HEIC",
    ".bmp": "BMP",
    ".dib": "BMP",
}
SUFFIXES = tuple(_FORMATS)
# Suffixes that are only read, and those of the results.
_READ_AS = {".mpo": ".jpg"}
READ_SUFFIXES = (*SUFFIXES, *_READ_AS)
KINDS = "PNG, JPEG, WebP, TIFF, AVIF, GIF, HEIC or BMP"
ANIMATED = ("GIF", "WEBP", "PNG", "AVIF")
LOSSY = ("JPEG", "WEBP", "AVIF", "HEIC")
# The largest photographs of phones have 200 megapixels.
MAX_PIXELS = 250_000_000
# All frames of an animation may have so many times the pixels of the largest image.
_FRAMES_TIMES = 4
_BAND = 256  # rows
_RAW = """
    3fr arw cr2 cr3 crw dcr dng erf iiq kdc mef mos mrw nef nrw orf pef raf raw rw2 rwl sr2 srf srw
    x3f
"""
RAW_SUFFIXES = frozenset(f".{name}" for name in _RAW.split())
_RAW_STARTS = (
    b"IIRO",  # Olympus
    b"IIRS",
    b"MMOR",
    b"IIU\0",  # Panasonic, Leica
    b"FUJIFILMCCD-RAW",
    b"FOVb",  # Sigma
    b"\0MRM",  # Minolta
    b"II\x1a\0\0\0HEAP",  # Canon, before 2004
)

# Longest side, in pixels, that each format or its common reader accepts. JPEG itself allows
# 65,535, but libjpeg (JPEG_MAX_DIMENSION) stops at 65,500; libavif refuses more than 32,768 a
# side, and more pixels than a square of 16,384; HEVC's highest level, 6.2, ends at 16,888.
_LONGEST_SIDE = {"JPEG": 65_500, "WEBP": 16_383, "GIF": 65_535, "AVIF": 32_768, "HEIC": 16_888}
# BMP counts its bytes in 32 bits.
_MOST_PIXELS = {"AVIF": 16_384**2, "BMP": 2**30}

_PLUGINS: dict[str, Callable[[BinaryIO], ImageFile.ImageFile]] = {
    "PNG": PngImagePlugin.PngImageFile,
    "JPEG": JpegImagePlugin.JpegImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
}

_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_AVIF_BRANDS = {b"avif", b"avis"}

# Sizes of the header below the file's own.
_BMP_HEADERS = {size.to_bytes(4, "little") for size in (12, 40, 52, 56, 64, 108, 124)}

# Warning filters and libtiff's error handler belong to the process, so only one thread at a time
# may change them.
_process_lock = threading.Lock()


def format_of(path: Path) -> str:
    """Return the format of the path's suffix.

    Raises:
        OutputError: If no format has this suffix.
    """
    format_name = _FORMATS.get(path.suffix.lower())
    if format_name is None:
        raise OutputError(f"{path} has no suffix that can be written: {', '.join(SUFFIXES)}")
    return format_name


def is_image_name(path: Path) -> bool:
    """Return whether the suffix, in any case, is one of an image."""
    return path.suffix.lower() in _FORMATS or path.suffix.lower() in _READ_AS


def result_suffix(path: Path) -> str:
    """Return the suffix of an image's result: its own, or .png if that cannot be written."""
    suffix = path.suffix.lower()
    return path.suffix if suffix in _FORMATS else _READ_AS.get(suffix, ".png")


def check_output(path: Path, height: int, width: int, *, animated: bool = False) -> str:
    """Check that the format of the path's suffix can hold such an image, and return the format.

    Args:
        path: The file to be written; only its suffix counts.
        height: In pixels.
        width: In pixels.
        animated: Whether it is an animation.

    Raises:
        OutputError: If no format has this suffix, or the format cannot hold the image.
        MissingDependencyError: If the library for the format is not installed.
    """
    format_name = format_of(path)
    if animated and format_name not in ANIMATED:
        raise OutputError(
            f"{path} would be an animation, which {format_name} cannot hold; "
            f"write a .gif, .webp, .png or .avif file"
        )
    if format_name == "HEIC":
        with needs("pillow-heif", "heic"):
            import pillow_heif  # noqa: F401
    if format_name == "AVIF" and not features.check("avif"):
        raise OutputError(f"{path} needs a Pillow built with AVIF: install a newer Pillow")
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
    return format_name


def format_of_content(header: bytes) -> str | None:
    """Return the format that the first 64 bytes of a file show, or None."""
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
    if header.startswith(b"BM") and header[14:18] in _BMP_HEADERS:
        return "BMP"
    return None


def suffix_of_content(path: Path) -> str | None:
    """Return the usual suffix of a file's format, as its content shows it; None for other files."""
    try:
        with path.open("rb") as file:
            format_name = format_of_content(file.read(64))
    except OSError:
        return None
    return next((suffix for suffix, name in _FORMATS.items() if name == format_name), None)


def is_camera_raw(header: bytes) -> bool:
    """Return whether the first 64 bytes are those of a camera raw file that is not a TIFF."""
    return (
        header.startswith(_RAW_STARTS)
        or header[4:12] == b"ftypcrx "
        or (header.startswith(b"II*\0") and header[8:12] == b"IIII")  # Phase One
    )


def open_with_pillow(file: BinaryIO, format_name: str) -> ImageFile.ImageFile:
    """Read the header of an image in a format that Pillow reads.

    The plugins are called directly: the pixel limit of `Image.open` is a setting of the process.
    """
    file.seek(0)
    with quietly():
        return _PLUGINS[format_name](file)


def load(image: ImageFile.ImageFile, raw_mode: str | None = None) -> ImageFile.ImageFile:
    """Decode and return the image, reading the bytes as `raw_mode` if given."""
    if raw_mode is not None:
        image.tile = [
            tile._replace(
                args=raw_mode if isinstance(tile.args, str) else (raw_mode, *(tile.args or ())[1:])
            )
            for tile in image.tile
        ]
    # Only for TIFF, since `quietly` lets one thread at a time decode.
    with quietly() if image.format == "TIFF" else contextlib.nullcontext():
        image.load()
    return image


def bands(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Yield the first row and the pixels of each band of a decoded image."""
    for top in range(0, image.height, _BAND):
        yield top, image.crop((0, top, image.width, min(top + _BAND, image.height)))


def tiff_tag(image: Any, tag: int, default: Any) -> Any:
    """Return a tag of a TIFF that Pillow has opened."""
    return image.tag_v2.get(tag, default)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Silence Pillow's warnings and the lines that libtiff writes to standard error.

    The warnings are about metadata that is ignored here, and about Pillow's own pixel limit.
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
    """Return libtiff's TIFFSetErrorHandler, or None where Pillow's build hides it."""
    try:
        function = ctypes.CDLL(PIL._imaging.__file__).TIFFSetErrorHandler
    except (OSError, AttributeError, TypeError):
        return None
    function.restype, function.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    return function


def check_pixels(path: Path, width: int, height: int, max_pixels: int, frames: int = 1) -> None:
    """Raise ImageError for an image without pixels, or with too many of them.

    Args:
        path: Its name, for the message.
        width: In pixels.
        height: In pixels.
        max_pixels: The largest image to accept; the frames of an animation may have 4 times as many
            pixels in all.
        frames: The number of frames.
    """
    if width < 1 or height < 1:
        raise ImageError(f"{path} has {width} x {height} pixels; copy or download it again")
    if width * height > max_pixels:
        raise ImageError(
            f"{path} has {width} x {height} pixels, more than the limit of {max_pixels}; "
            f"raise it with --max-megapixels (max_pixels in Python), or make the image smaller"
        )
    if width * height * frames > _FRAMES_TIMES * max_pixels:
        raise ImageError(
            f"{path} has {frames} frames of {width} x {height} pixels, "
            f"{width * height * frames / 1e6:.0f} megapixels in all and more than the limit of "
            f"{_FRAMES_TIMES * max_pixels / 1e6:.0f}; raise it with --max-megapixels "
            f"{-(-width * height * frames // (_FRAMES_TIMES * 1_000_000))} (max_pixels in Python)"
        )


def frame_count(image: Image.Image) -> int:
    """Return the number of frames, not counting a PNG's default image."""
    frames: int = getattr(image, "n_frames", 1)
    return frames - bool(image.info.get("default_image"))
