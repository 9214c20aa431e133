"""A picture upscaled straight into a PNG file, strip by strip, for results that memory cannot hold.

`upscale.upscale_picture` and `images.write_picture` have the whole result in memory, and more than
once while it is encoded. Here a strip of rows is upscaled, filtered, compressed and written before
the next one is begun. Follows the PNG specification, third edition (W3C, 2025): 8-bit RGB, not
interlaced, every row with the Paeth filter, and the chunks that `write_picture` writes. Left out:
alpha and grey, which need the whole result.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from anchorsr.errors import PictureError
from anchorsr.exif import PREFIX, sized_exif
from anchorsr.files import publishing
from anchorsr.images import Picture
from anchorsr.upscale import Upscaler

UInt8Array = npt.NDArray[np.uint8]

# The ordinary way holds the result, a copy that Pillow has of it, and the file, which can be as
# large and is copied once as it grows.
_SHARE_OF_MEMORY = 1 / 4
_UNKNOWN_MEMORY = 4 * 2**30
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PAETH = 4
_FILTERED_AT_ONCE = 1 << 18  # bytes; what is computed for them fits a processor's cache


def is_for_strips(picture: Picture, path: Path, factor: int) -> bool:
    """Whether `upscale_to_png` can write this result and the ordinary way might lack memory: an
    opaque 8-bit RGB picture, a .png file, and more than a quarter of the memory that is free."""
    rgb = picture.rgb
    if path.suffix.lower() != ".png" or not _is_plain(picture):
        return False
    return rgb.nbytes * factor**2 > _SHARE_OF_MEMORY * _available_memory()


def upscale_to_png(
    picture: Picture, upscaler: Upscaler, path: Path, *, overwrite: bool = False
) -> None:
    """Write the larger picture as PNG, whole or not at all, with one strip of it in memory.

    Its pixels, profile, EXIF and resolution are those that `write_picture` would write.
    Raises PictureError for a picture with alpha or of one channel, and OutputError for an existing
    file unless `overwrite`, and for whatever else prevents writing.
    """
    if not _is_plain(picture):
        raise PictureError("only an opaque 8-bit RGB picture is written strip by strip")
    height, width = (side * upscaler.factor for side in picture.rgb.shape[:2])
    with publishing(path, overwrite=overwrite) as file:
        file.write(_SIGNATURE)
        _chunk(file, b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        for kind, data in _metadata(picture, height, width):
            _chunk(file, kind, data)
        compressor = zlib.compressobj(1)  # as `write_picture` does, and as small
        for rows in _filtered(upscaler.strips(picture.rgb)):
            _chunk(file, b"IDAT", compressor.compress(rows))
        _chunk(file, b"IDAT", compressor.flush())
        _chunk(file, b"IEND", b"")


def _is_plain(picture: Picture) -> bool:
    return picture.alpha is None and not picture.grey and picture.rgb.dtype == np.uint8


def _metadata(picture: Picture, height: int, width: int) -> Iterator[tuple[bytes, bytes]]:
    profile = picture.icc_profile
    if profile is not None and profile[16:20] == b"RGB ":
        yield b"iCCP", b"ICC Profile\0\0" + zlib.compress(profile)
    if picture.dpi is not None and all(1 <= value <= 65_535 for value in picture.dpi):
        per_metre = (int(value / 0.0254 + 0.5) for value in picture.dpi)
        yield b"pHYs", struct.pack(">IIB", *per_metre, 1)
    exif = sized_exif(picture.exif, height, width) if picture.exif is not None else None
    if exif is not None:
        yield b"eXIf", exif.removeprefix(PREFIX)


def _chunk(file: BinaryIO, kind: bytes, data: bytes) -> None:
    if kind == b"IDAT" and not data:
        return  # the compressor still holds it
    file.write(struct.pack(">I", len(data)) + kind)
    file.write(data)
    file.write(struct.pack(">I", zlib.crc32(data, zlib.crc32(kind))))


def _filtered(strips: Iterator[UInt8Array]) -> Iterator[bytes]:
    """Some rows after the other, each as the number of its filter and what Paeth leaves of it."""
    above: UInt8Array | None = None
    for strip in strips:
        if above is None:
            above = np.zeros_like(strip[:1])
        at_once = max(1, _FILTERED_AT_ONCE // (strip.shape[1] * 3))
        for start in range(0, len(strip), at_once):
            rows = strip[start : start + at_once]
            yield _paeth(np.concatenate((above, rows)))
            above = rows[-1:].copy()
        del strip, rows  # before the next one is made


def _paeth(rows: UInt8Array) -> bytes:
    """(1 + N, W, 3), of which the first row is only looked at, to N filtered rows."""
    known = np.pad(rows, ((0, 0), (1, 0), (0, 0))).astype(np.int16)
    left, up, corner = known[1:, :-1], known[:-1, 1:], known[:-1, :-1]
    to_left, to_up = up - corner, left - corner  # the estimate is left + up - corner
    to_corner = np.abs(to_left + to_up)
    to_left, to_up = np.abs(to_left), np.abs(to_up)
    nearest = np.where(to_up <= to_corner, up, corner)
    nearest = np.where((to_left <= to_up) & (to_left <= to_corner), left, nearest)
    filtered = np.empty((len(rows) - 1, 1 + rows.shape[1] * 3), np.uint8)
    filtered[:, 0] = _PAETH
    filtered[:, 1:] = (known[1:, 1:] - nearest).astype(np.uint8).reshape(len(filtered), -1)
    return filtered.tobytes()


def _available_memory() -> int:
    """Bytes that this process can still have, as far as the system says."""
    found = [_UNKNOWN_MEMORY]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")]
    except (OSError, ValueError, LookupError):
        if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
            found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2]
    groups = Path("/sys/fs/cgroup")  # a container's limit
    try:
        used = int((groups / "memory.current").read_text())
        found.append(int((groups / "memory.max").read_text()) - used)
    except (OSError, ValueError):
        pass  # there is none, or it says max
    return min(found, default=_UNKNOWN_MEMORY)
