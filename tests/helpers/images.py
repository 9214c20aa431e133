"""Images and files, built by hand, that several test files use."""

from __future__ import annotations

import io
import struct
import zlib
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from anchorsr.errors import ImageError
from anchorsr.images.io import read_image

needs_heic = pytest.mark.skipif(find_spec("pillow_heif") is None, reason="needs anchorsr[heic]")
HEIC = pytest.param(".heic", marks=needs_heic)
# One suffix of each format that keeps EXIF, XMP and a profile.
KEEPING = [".png", ".jpg", ".webp", ".tif", ".avif", HEIC]
SIZES = [(1, 1), (1, 7), (5, 1), (13, 17), (64, 48)]
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    shape = (height, width, channels)[: 3 if channels > 1 else 2]
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def smooth(height: int, width: int) -> np.ndarray:
    """Colour ramps, which JPEG and WebP keep nearly unchanged."""
    rows, columns = np.mgrid[:height, :width]
    ramps = [rows * 255 // height, columns * 255 // width, (rows + columns) * 127 // height % 256]
    return np.stack(ramps, axis=-1).astype(np.uint8)


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, depth: int, colour_type: int, rows: bytes, *extra: bytes) -> bytes:
    """Build a PNG by hand, of a kind that Pillow does not write."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    parts = [chunk(b"IHDR", header), *extra, chunk(b"IDAT", zlib.compress(rows))]
    return PNG_SIGNATURE + b"".join(parts) + chunk(b"IEND", b"")


def encoded(image: Image.Image, format_name: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getvalue()


def exif_block(
    orientation: int,
    order: str = "<",
    size: tuple[int, int] = (9, 9),
    thumbnail: bytes = b"",
    trailer: bytes = b"",
) -> bytes:
    """Build EXIF: a main directory, an Exif directory, and perhaps a thumbnail."""

    def directory(fields: list[tuple[int, int, int]], following: int) -> bytes:
        data = struct.pack(order + "H", len(fields))
        for tag, kind, value in fields:
            inline = struct.pack(order + ("HH" if kind == 3 else "I"), *[value, 0][: 5 - kind])
            data += struct.pack(order + "HHI", tag, kind, 1) + inline
        return data + struct.pack(order + "I", following)

    height, width = size
    start = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "I", 8)
    pixels_at = 8 + 2 + 2 * 12 + 4
    second_at = pixels_at + 2 + 2 * 12 + 4
    thumbnail_at = second_at + 2 + 2 * 12 + 4
    block = start
    block += directory(
        [(0x0112, 3, orientation), (0x8769, 4, pixels_at)], second_at if thumbnail else 0
    )
    block += directory([(0xA002, 3, width), (0xA003, 3, height)], 0)
    if thumbnail:
        block += directory([(0x0201, 4, thumbnail_at), (0x0202, 4, len(thumbnail))], 0)
    return b"Exif\0\0" + block + thumbnail + trailer


def assert_refused(path: Path, *words: str, **options: int) -> None:
    with pytest.raises(ImageError) as caught:
        read_image(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    for word in (path.name, *words):
        assert word in message


def cmyk_profile(lab: tuple[int, int, int]) -> bytes:
    """Build the smallest CMYK profile: one table that makes every ink the same colour."""
    ramp = bytes(range(256))
    identity = b"".join(struct.pack(">i", 65536 * (place % 4 == 0)) for place in range(9))
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + identity
    table += ramp * 4 + bytes(lab) * 16 + ramp * 3
    tags = struct.pack(">I4sII", 1, b"A2B0", 144, len(table))
    size = 128 + len(tags) + len(table)
    header = struct.pack(">I4sI", size, bytes(4), 0x02400000) + b"prtrCMYKLab " + bytes(12)
    header += b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + tags + table
