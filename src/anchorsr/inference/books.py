"""Comic books (.cbz): archives of pages, upscaled page by page.

A .cbz is a ZIP archive of images. The result has the same files in the same order: pages are
upscaled, everything else, such as ComicInfo.xml, is copied.
"""

from __future__ import annotations

import contextlib
import math
import shutil
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import cast

from anchorsr.errors import AnchorSRError, ImageError, OutputError
from anchorsr.images.animation import Animation, for_format, read_file
from anchorsr.images.encode import Coding, not_kept
from anchorsr.images.formats import MAX_PIXELS, check_output, is_image_name, result_suffix
from anchorsr.images.image import RasterImage
from anchorsr.images.io import encode_image
from anchorsr.utils.files import cannot_read, publishing, reason
from anchorsr.utils.temporary import temporary_folder

_SUFFIX = ".cbz"
# A file in an archive that is larger than this, or that all together are, is a trap.
_LARGEST_FILE = 1 << 30
# All pages together may have so many times the pixels of the largest image.
_PAGES_TIMES = 40
_MOST_FILES = 20_000


@dataclass(frozen=True)
class Book:
    """A comic book whose list of files has been read.

    Attributes:
        path: The archive.
        pages: The number of its images.
        page_suffix: The suffix of the upscaled pages; None for those that they have.
    """

    path: Path
    pages: int
    page_suffix: str | None = None


def is_book_name(path: Path) -> bool:
    """Return whether the suffix, in any case, is that of a comic book."""
    return path.suffix.lower() == _SUFFIX


def open_book(path: Path, page_suffix: str | None = None) -> Book:
    """Read which files a comic book has.

    Args:
        path: The archive.
        page_suffix: The suffix of the upscaled pages; None for those that they have.

    Raises:
        ImageError: If it is no sound archive, holds no image, is encrypted or far too large.
    """
    with _archive(path) as archive:
        entries = archive.infolist()
    if any(entry.flag_bits & 1 for entry in entries):
        raise ImageError(f"{path} is encrypted; extract its pages first")
    if len(entries) > _MOST_FILES or any(entry.file_size > _LARGEST_FILE for entry in entries):
        raise ImageError(f"{path} holds too many files, or one of more than 1 GB")
    pages = sum(_is_page(entry) for entry in entries)
    if not pages:
        raise ImageError(f"{path} holds no image; a comic book is an archive of images")
    return Book(path, pages, page_suffix)


def upscale_book(
    book: Book,
    target: Path,
    upscale: Callable[[RasterImage], RasterImage],
    coding: Coding,
    *,
    overwrite: bool = False,
    max_pixels: int = MAX_PIXELS,
) -> tuple[str, ...]:
    """Upscale the pages of a comic book, one at a time, into another one.

    Args:
        book: The comic book.
        target: The archive to write; its folder must exist.
        upscale: What upscales a page.
        coding: How lossy formats store pages.
        overwrite: Replace an existing file.
        max_pixels: The largest page to decode.

    Returns:
        Notes on what was left out.

    Raises:
        ImageError: If a page cannot be read, or the archive is damaged.
        OutputError: If the file exists and `overwrite` is false, or cannot be written.
    """
    notes: Counter[str] = Counter()
    with (
        _archive(book.path) as archive,
        temporary_folder() as folder,
        publishing(target, overwrite=overwrite) as file,
        zipfile.ZipFile(file, "w") as made,
    ):
        names: set[str] = set()
        budget = _PAGES_TIMES * max_pixels
        for entry in archive.infolist():
            if not _is_page(entry):
                if entry.filename not in names:
                    _copy(archive, entry, made, book.path)
                names.add(entry.filename)
                continue
            page = Path(folder, "page" + Path(entry.filename).suffix)
            with _damages(book.path, entry), archive.open(entry) as packed, page.open("wb") as out:
                shutil.copyfileobj(packed, out)
            if budget <= 0:
                raise ImageError(
                    f"{book.path} has pages of more than {_PAGES_TIMES * max_pixels / 1e6:.0f} "
                    f"megapixels in all; raise the limit with --max-megapixels"
                )
            name, data, told, pixels = _upscaled(
                book, entry.filename, page, upscale, coding, max_pixels
            )
            budget -= pixels
            if name in names:
                raise OutputError(f"{target} would hold two pages named {name}")
            names.add(name)
            notes.update(told)
            written = zipfile.ZipInfo(name, entry.date_time)
            written.external_attr = entry.external_attr
            made.writestr(written, data)  # images are compressed already
    return tuple(f"{count} pages: {note}" if count > 1 else note for note, count in notes.items())


def _upscaled(
    book: Book,
    name: str,
    page: Path,
    upscale: Callable[[RasterImage], RasterImage],
    coding: Coding,
    max_pixels: int,
) -> tuple[str, bytes, list[str], int]:
    """Return the name of an upscaled page, its file, what was left out, and its pixels before."""
    suffix = book.page_suffix or result_suffix(page)
    written = str(PurePosixPath(name).with_suffix(suffix))
    try:
        image = read_file(page, max_pixels=max_pixels)
        if isinstance(image, Animation):
            raise ImageError(f"{page} is an animation; extract it and upscale it alone")
        format_name = check_output(Path(written), *image.size)
        image = cast(RasterImage, for_format(image, format_name))
        data = encode_image(
            Path(written), upscale(image), quality=coding.quality, lossless=coding.lossless
        )
    except AnchorSRError as error:
        text = str(error).replace(str(page), name)
        raise type(error)(f"{book.path}: {text}") from error
    lost = not_kept(image, format_name)
    told = [f"{format_name} cannot hold: {', '.join(lost)}"] if lost else []
    return written, data, [*image.notes, *told], math.prod(image.size)


def _copy(
    archive: zipfile.ZipFile, entry: zipfile.ZipInfo, made: zipfile.ZipFile, path: Path
) -> None:
    with _damages(path, entry):
        data = b"" if entry.is_dir() else archive.read(entry)
    copied = zipfile.ZipInfo(entry.filename, entry.date_time)
    copied.external_attr = entry.external_attr
    copied.compress_type = zipfile.ZIP_STORED if entry.is_dir() else zipfile.ZIP_DEFLATED
    made.writestr(copied, data)


def _is_page(entry: zipfile.ZipInfo) -> bool:
    """Return whether a file is an image, and none that the system has put there."""
    path = PurePosixPath(entry.filename)
    hidden = path.name.startswith(".") or "__MACOSX" in path.parts
    return not entry.is_dir() and not hidden and is_image_name(Path(path.name))


def _archive(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except OSError as error:
        raise ImageError(f"{path} {cannot_read(error)}") from error
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise ImageError(
            f"{path} is no sound .cbz archive ({reason(error)}); copy or download it again"
        ) from error


@contextlib.contextmanager
def _damages(path: Path, entry: zipfile.ZipInfo) -> Iterator[None]:
    """Turn what a damaged archive raises into an ImageError."""
    try:
        yield
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise ImageError(
            f"{path}: {entry.filename} is damaged ({reason(error)}); copy or download it again"
        ) from error
