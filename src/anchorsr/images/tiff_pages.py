"""Find the picture among the pages of a TIFF, and refuse what would be read wrongly.

Follows TIFF 6.0, its Technical Note 1 (SubIFDs), BigTIFF and DNG 1.7. Cameras' raw files are TIFFs
whose first page is a preview.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from anchorsr.errors import ImageError
from anchorsr.images.view import size_of, view

_BITS = 0x0102
_SUBFILE, _OLD_SUBFILE, _COMPRESSION, _PHOTOMETRIC = 0x00FE, 0x00FF, 0x0103, 0x0106
_SAMPLES, _SUB_PAGES, _INKS, _EXTRAS, _SAMPLE_FORMAT = 0x0115, 0x014A, 0x014E, 0x0152, 0x0153
_DNG_VERSION = 0xC612
_WANTED = {_SUBFILE, _OLD_SUBFILE, _COMPRESSION, _PHOTOMETRIC, _SAMPLES, _SUB_PAGES}
_WANTED |= {_BITS, _INKS, _EXTRAS, _SAMPLE_FORMAT, _DNG_VERSION}
_REDUCED, _MASK = 1, 4  # bits of NewSubfileType
_RAW_PHOTOMETRICS = {32803, 34892}  # colour filter array, linear raw
_RAW_COMPRESSIONS = {32767, 32769, 34713, 65535}  # Sony, Epson, Nikon, Pentax
_COLOURS = {0: 1, 1: 1, 2: 3, 3: 1, 4: 1, 6: 3, 8: 3, 9: 3, 10: 3}  # by photometric interpretation
_NUMBERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
# More than any pyramid of reduced copies has; a file of 60,000 pages takes minutes to walk.
_MOST_PAGES = 100

RAW_ADVICE = "develop it first, with a program such as darktable or RawTherapee"


@dataclass(frozen=True)
class _Page:
    """One directory: its place, and the numbers in those of its fields that are wanted."""

    offset: int
    fields: dict[int, tuple[int, ...]]

    def first(self, tag: int, default: int) -> int:
        values = self.fields.get(tag)
        return values[0] if values else default

    @property
    def kind(self) -> int:
        """NewSubfileType, or what the field before it says."""
        if _SUBFILE in self.fields:
            return self.first(_SUBFILE, 0)
        return _REDUCED if self.first(_OLD_SUBFILE, 1) == 2 else 0

    @property
    def is_raw(self) -> bool:
        return (
            _DNG_VERSION in self.fields
            or self.first(_PHOTOMETRIC, 0) in _RAW_PHOTOMETRICS
            or self.first(_COMPRESSION, 1) in _RAW_COMPRESSIONS
        )


def find_picture(file: BinaryIO, path: Path) -> tuple[BinaryIO, list[str]]:
    """Return a TIFF as one whose first page is the picture, and notes on what is left out.

    Args:
        file: The open file.
        path: Its name, for messages.

    Raises:
        ImageError: If it is a camera's raw file, has several pictures, or has channels beside its
            colours that are not transparency, or numbers that are not handled.
    """
    reader = _Reader(file)
    if reader.is_big_endian_big:
        raise ImageError(f"{path} is a BigTIFF in big-endian order; save it as an ordinary TIFF")
    pages: list[_Page] = []
    pictures: list[_Page] = []
    for page in reader.pages():
        pages.append(page)
        if not page.kind & (_REDUCED | _MASK):
            pictures.append(page)
        if len(pictures) > 1 or len(pages) > _MOST_PAGES:
            break
    below = [page for parent in pages[:2] for page in reader.sub_pages(parent)]
    if reader.is_canon_raw or any(page.is_raw for page in (*pages[:2], *below)):
        raise ImageError(f"{path} is a camera raw file; {RAW_ADVICE}")
    if len(pictures) > 1 or len(pages) > _MOST_PAGES:
        raise ImageError(f"{path} holds several pages; save each as a separate file first")
    if not pictures:
        pictures = [page for page in below if not page.kind & (_REDUCED | _MASK)] or pages[:1]
    if not pictures:
        return file, []
    picture = pictures[0]
    _check_channels(picture, path)
    notes = []
    if any(page.kind & _MASK for page in pages):
        notes.append("the transparency mask of the TIFF is left out")
    return reader.beginning_with(picture), notes


def _check_channels(page: _Page, path: Path) -> None:
    photometric = page.first(_PHOTOMETRIC, -1)
    colours = page.first(_INKS, 4) if photometric == 5 else _COLOURS.get(photometric)
    samples = page.first(_SAMPLES, 1)
    extras = page.fields.get(_EXTRAS, ())
    if colours is not None and samples > colours:
        alpha = samples == colours + 1 and extras[:1] in ((1,), (2,))
        if not alpha:
            raise ImageError(
                f"{path} holds {samples} channels, {samples - colours} more than its colours have, "
                f"such as near infrared; save colours and other channels as separate files first"
            )
    kinds, bits = page.fields.get(_SAMPLE_FORMAT, ()), page.first(_BITS, 1)
    if 2 in kinds:
        raise ImageError(f"{path} holds signed numbers; convert them to unsigned ones first")
    if 3 in kinds or bits > 16:
        number = "floating-point" if 3 in kinds else f"{bits}-bit"
        raise ImageError(f"{path} holds {number} numbers; convert them to 16-bit ones first")


class _Reader:
    """Reads the directories of a TIFF or BigTIFF."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._size = file, size_of(file)
        file.seek(0)
        header = file.read(16)
        self._order = "<" if header[:2] == b"II" else ">"
        self._big = header[2:4] in (b"+\0", b"\0+")
        # Pillow takes it for an ordinary TIFF, and finds nothing.
        self.is_big_endian_big = self._big and self._order == ">"
        self.is_canon_raw = header[8:10] == b"CR"
        self._pointer = 8 if self._big else 4
        self._first = self._unpacked("Q" if self._big else "I", header[self._pointer :])

    def pages(self) -> Iterator[_Page]:
        """Yield the pages of the main chain, each once."""
        seen = {0}
        offset = self._first
        while offset not in seen:
            seen.add(offset)
            read = self._page(offset)
            if read is None:
                return
            page, offset = read
            yield page

    def sub_pages(self, parent: _Page) -> Iterator[_Page]:
        for offset in parent.fields.get(_SUB_PAGES, ())[:_MOST_PAGES]:
            read = self._page(offset)
            if read is not None:
                yield read[0]

    def beginning_with(self, page: _Page) -> BinaryIO:
        """Return the file with this page as the first."""
        if page.offset == self._first:
            return self._file
        place = struct.pack(self._order + ("Q" if self._big else "I"), page.offset)
        end = self._pointer + len(place)
        return view(self._file, [(0, self._pointer), place, (end, self._size)])

    def _page(self, offset: int) -> tuple[_Page, int] | None:
        """Read a directory, and the place of the next one; None if it is cut off."""
        count_format, pointer_format = ("Q", "Q") if self._big else ("H", "I")
        entry, inline = (20, 8) if self._big else (12, 4)
        counted, pointer = struct.calcsize(count_format), struct.calcsize(pointer_format)
        self._file.seek(offset)
        count = self._unpacked(count_format, self._file.read(counted))
        if offset + counted + count * entry > self._size:
            return None
        data = self._file.read(count * entry + pointer)
        fields = {}
        for at in range(0, count * entry, entry):
            tag, kind = struct.unpack_from(self._order + "HH", data, at)
            if tag in _WANTED:
                number = self._unpacked(pointer_format, data[at + 4 :])
                value = data[at + 4 + pointer : at + entry]
                fields[tag] = self._values(kind, number, value, inline)
        following = self._unpacked(pointer_format, data[count * entry :])
        return _Page(offset, fields), following

    def _values(self, kind: int, count: int, data: bytes, inline: int) -> tuple[int, ...]:
        letter = _NUMBERS.get(kind)
        if letter is None:
            return ()
        count = min(count, _MOST_PAGES)
        size = count * struct.calcsize("=" + letter)
        if size > inline:
            self._file.seek(self._unpacked("Q" if self._big else "I", data))
            data = self._file.read(size)
        if len(data) < size:
            return ()
        return struct.unpack_from(f"{self._order}{count}{letter}", data)

    def _unpacked(self, letter: str, data: bytes) -> int:
        size = struct.calcsize("=" + letter)
        return int(struct.unpack(self._order + letter, data[:size])[0]) if len(data) >= size else 0
