"""Open an image file: tell its format, and read what its decoder does not.

What pixels do not need cannot make a file unreadable here: it is kept if it is sound, else left out
with a note. What would be decoded wrongly is refused by name.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image, ImageFile

from anchorsr.errors import AnchorSRError, ImageError
from anchorsr.images import jpeg
from anchorsr.images.boxes import read_boxes
from anchorsr.images.colour import from_code_points, icc_profile
from anchorsr.images.formats import (
    KINDS,
    RAW_SUFFIXES,
    format_of_content,
    is_camera_raw,
    open_with_pillow,
)
from anchorsr.images.gif import read_blocks
from anchorsr.images.png_chunks import read_chunks
from anchorsr.images.riff import read_webp
from anchorsr.images.tiff_pages import RAW_ADVICE, find_picture
from anchorsr.images.view import size_of, view, what_follows
from anchorsr.utils.files import cannot_read, reason

# What editors and transfers put before an image: a byte order mark, line breaks, blanks.
_BEFORE = b"\xef\xbb\xbf\r\n\t "
_HEADER_BYTES = 64


@dataclass(eq=False)
class Source:
    """An open image file, prepared for its decoder.

    Attributes:
        path: Its name, for messages.
        format_name: Its format.
        file: What its decoder reads.
        extras: Fields of `Metadata` that the decoder does not tell.
        info: What replaces entries of Pillow's `info`.
        notes: What was left out or repaired.
        version: What changes when the file is replaced or written to.
        frames: The number of frames, where it is known before decoding.
        gamma: The exponent of a tone curve that is to become that of sRGB.
        plain_inks: Whether CMYK is stored as it is. Adobe's programs store it inverted, and say so;
            Pillow takes all of it for inverted.
        completions: Files that are equally good completions of one without an end.
        jpeg_end: The place of a JPEG's end marker.
    """

    path: Path
    format_name: str
    file: BinaryIO
    version: tuple[int, ...] = ()
    extras: dict[str, Any] = field(default_factory=dict)
    info: dict[str, bytes] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    frames: int | None = None
    gamma: float | None = None
    plain_inks: bool = False
    completions: list[BinaryIO] = field(default_factory=list)
    jpeg_end: int = 0

    def open(self, file: BinaryIO | None = None) -> ImageFile.ImageFile:
        """Read the header with Pillow.

        Args:
            file: One of the completions; by default `file`.
        """
        try:
            image = open_with_pillow(file or self.file, self.format_name)
        except Exception:
            if self.format_name != "JPEG":
                raise
            self.file = jpeg.without_metadata(self.file)
            image = open_with_pillow(self.file, self.format_name)
            self.notes.append("left out of the JPEG: its metadata, which is damaged")
        for name, value in self.info.items():
            image.info[name] = value
        return image


@contextlib.contextmanager
def reading(path: Path) -> Iterator[Source]:
    """Open an image file; inside, every failure becomes an ImageError.

    Args:
        path: The file.

    Yields:
        The file, prepared.

    Raises:
        ImageError: If the file cannot be opened, is no image, or fails to decode inside.
    """
    try:
        if path.exists() and not path.is_file():  # opening a pipe would block for ever
            raise ImageError(
                f"{path} is a folder or a device; give an image file, or - for standard input"
            )
        file = path.open("rb")
    except (OSError, ValueError) as error:
        raise ImageError(f"{path} {cannot_read(error)}") from error
    with file:
        try:
            source = _prepared(file, path)
            source.version = _version(file)
            yield source
        except (AnchorSRError, MemoryError):
            raise
        except Image.DecompressionBombError:
            # The plugins of WebP, TIFF and GIF apply Pillow's limit, twice MAX_IMAGE_PIXELS.
            raise ImageError(
                f"{path} has more pixels than Pillow opens (PIL.Image.MAX_IMAGE_PIXELS); "
                f"make it smaller first"
            ) from None
        except Exception as error:  # Pillow has no single exception for damaged files
            what = "it ends too early" if isinstance(error, struct.error) else reason(error)
            raise ImageError(
                f"{path} is damaged or of an unusual kind ({what}); "
                f"copy or download it again, or save it again from another program"
            ) from error


def _version(file: BinaryIO) -> tuple[int, ...]:
    status = os.fstat(file.fileno())
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _prepared(file: BinaryIO, path: Path) -> Source:
    header = file.read(2 * _HEADER_BYTES)
    if not header:
        raise ImageError(f"{path} is empty (0 bytes); copy or download it again")
    format_name = format_of_content(header[:_HEADER_BYTES])
    notes = []
    if format_name is None:
        before = len(header) - len(header.lstrip(_BEFORE))
        format_name = format_of_content(header[before:][:_HEADER_BYTES])
        if format_name is not None:
            file = view(file, [(before, size_of(file))])
            notes.append(f"what stands before the image is ignored: {before} B")
    if is_camera_raw(header) or (format_name == "TIFF" and path.suffix.lower() in RAW_SUFFIXES):
        raise ImageError(f"{path} is a camera raw file; {RAW_ADVICE}")
    if format_name is None:
        raise ImageError(f"{path} is not a {KINDS} image; convert it to one")
    source = Source(path, format_name, file, notes=notes)
    if format_name in _PREPARE:
        _PREPARE[format_name](source)
    return source


def _prepare_png(source: Source) -> None:
    chunks = read_chunks(source.file)
    source.file = chunks.pixels
    source.notes += chunks.notes
    source.extras = {
        "png_colour": chunks.colour,
        "png_text": chunks.text,
        "png_text_keys": chunks.text_keys,
    }
    found = {"icc_profile": chunks.icc_profile, "exif": chunks.exif, "xmp": chunks.xmp}
    source.info = {name: value for name, value in found.items() if value is not None}


def _prepare_jpeg(source: Source) -> None:
    parts = jpeg.read_parts(source.file)
    if parts.unusual:
        raise ImageError(
            f"{source.path} is {parts.unusual}, which is not handled; "
            f"convert it to a PNG or an 8-bit JPEG first"
        )
    source.notes += parts.notes
    source.extras = {"iptc": parts.iptc, "comment": parts.comment}
    source.plain_inks = not parts.adobe
    if not parts.ended:
        if not parts.whole_scans:
            raise ValueError("its end is missing, and pixels with it")
        source.completions = jpeg.completed(source.file, parts.end)
        source.file = source.completions[0]
    source.jpeg_end = parts.end


def _prepare_tiff(source: Source) -> None:
    source.file, notes = find_picture(source.file, source.path)
    source.notes += notes


def _prepare_gif(source: Source) -> None:
    blocks = read_blocks(source.file)
    if blocks.missing:
        source.file = view(source.file, [(0, size_of(source.file)), blocks.missing])
        source.notes.append("the end of the file is missing; what is there is taken as complete")
    elif follows := what_follows(source.file, blocks.end):
        source.notes.append(follows)
    if blocks.others:
        source.notes.append(f"left out of the GIF: {', '.join(dict.fromkeys(blocks.others))}")
    source.frames = blocks.frames
    source.extras = {"comment": blocks.comment}


def _prepare_webp(source: Source) -> None:
    parts = read_webp(source.file)
    source.file = parts.file
    source.notes += parts.notes
    source.extras = {"lossless": parts.lossless}


_IDENTITY = 0  # of H.273's matrices


def _prepare_boxes(source: Source) -> None:
    """Read what HEIC and AVIF say about colours and about other images."""
    boxes = read_boxes(source.file)
    if boxes.images > 1:
        source.notes.append(f"the file holds {boxes.images} images; only the main one is read")
    if boxes.others:
        source.notes.append(f"left out of the {source.format_name}: {', '.join(boxes.others)}")
    if boxes.gain_map:
        source.notes.append("the gain map, from which HDR screens brighten the image, is left out")
    if boxes.colours is None:
        return
    # RGB itself instead of luma and chroma, which only writers of lossless files store.
    source.extras["lossless"] = boxes.colours[2] == _IDENTITY
    space = from_code_points(*boxes.colours[:2])
    if space is None or space.hdr:
        what = space.hdr if space else f"in colours of an unusual kind {boxes.colours}"
        raise ImageError(
            f"{source.path} is {what}, which would be lost; convert it to standard range first"
        )
    source.gamma = space.gamma
    if profile := icc_profile(space.primaries, space.name):
        source.extras["icc_profile"] = profile


def _prepare_bmp(source: Source) -> None:
    """Read the profile that a header of version 5 points at (BITMAPV5HEADER)."""
    source.file.seek(14)
    header = source.file.read(124)
    if header[:4] == b"\x7c\0\0\0" and header[56:60] == b"DEBM":
        source.file.seek(14 + int.from_bytes(header[112:116], "little"))
        profile = source.file.read(min(int.from_bytes(header[116:120], "little"), 16 << 20))
        source.info = {"icc_profile": profile}


_PREPARE = {
    "PNG": _prepare_png,
    "JPEG": _prepare_jpeg,
    "TIFF": _prepare_tiff,
    "GIF": _prepare_gif,
    "WEBP": _prepare_webp,
    "AVIF": _prepare_boxes,
    "HEIC": _prepare_boxes,
    "BMP": _prepare_bmp,
}
