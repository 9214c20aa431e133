"""Encode an image strip by strip, for results that do not fit in memory.

PNG and TIFF are made for it. A JPEG can be cut at restart markers (ITU-T T.81, B.2.1): strips that
are coded with the same tables and a restart marker after every row of blocks follow one another in
one file. Pixels and metadata are those of the whole image's file.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from functools import partial
from typing import BinaryIO

import numpy as np
from PIL import Image

from anchorsr.images.bands import rebanded
from anchorsr.images.encode import Coding, pillow_options, prepared, resized_metadata
from anchorsr.images.image import Metadata, Pixels, RasterImage
from anchorsr.images.jpeg import scan_of, with_extras, with_height
from anchorsr.images.png import png_parts
from anchorsr.images.tiff import write_tiff

STREAMED = ("PNG", "TIFF", "JPEG")
# Restart markers count from 0 to 7, a row of 8 × 8 blocks each, so strips of 64 rows begin at 0.
_CYCLE = 64
# Bytes of a strip that is coded at once, unless a cycle has more.
_JPEG_BYTES = 2**23
_LAST_RESTART = b"\xff\xd7"


def write_strips(
    file: BinaryIO,
    strips: Iterable[Pixels],
    like: RasterImage,
    size: tuple[int, int],
    format_name: str,
    coding: Coding,
) -> None:
    """Write an image whose pixels come in strips.

    Args:
        file: The file, open for writing.
        strips: (N, W, C) each, from top to bottom, of the type of `like`: grey, grey and alpha, RGB
            or RGBA.
        like: The image with their metadata; its pixels are not used.
        size: (height, width) of the whole.
        format_name: One of `STREAMED`.
        coding: How JPEG stores pixels.
    """
    metadata = _written_metadata(like, size, format_name)
    made = map(partial(_prepared, like=like, format_name=format_name), strips)  # keeps none of them
    if format_name == "TIFF":
        write_tiff(file, size, made, metadata)
        return
    parts = png_parts(size[0], made, metadata)
    if format_name == "JPEG":
        parts = _jpeg_parts(size, made, metadata, coding.quality)
    for part in parts:
        file.write(part)


def _prepared(strip: Pixels, like: RasterImage, format_name: str) -> Pixels:
    channels = strip.shape[2]
    alpha = strip[:, :, -1] if channels in (2, 4) else None
    colours = strip[:, :, :1].repeat(3, axis=2) if channels < 3 else strip[:, :, :3]
    image = RasterImage(
        colours,
        alpha,
        like.grey,
        icc_profile=like.icc_profile,
        png_colour=like.png_colour,
    )
    return prepared(image, format_name)[0]


def _written_metadata(like: RasterImage, size: tuple[int, int], format_name: str) -> Metadata:
    """Return the metadata of the whole file; a pixel stands for its colours."""
    one = RasterImage(
        like.rgb[:1, :1], None if like.alpha is None else like.alpha[:1, :1], like.grey
    )
    sized = resized_metadata(like, *size, grey=like.grey)
    # The profile that fits is decided by `prepared`, from the original one.
    sized = Metadata(**vars(sized) | {"icc_profile": like.icc_profile})
    return prepared(RasterImage(one.rgb, one.alpha, one.grey, **vars(sized)), format_name, size)[1]


def _jpeg_parts(
    size: tuple[int, int], strips: Iterable[Pixels], metadata: Metadata, quality: int
) -> Iterator[bytes]:
    height, width = size
    options = pillow_options("JPEG", quality, metadata) | {"restart_marker_rows": 1}
    bare = pillow_options("JPEG", quality, Metadata()) | {"restart_marker_rows": 1}
    first = True
    cycles = _JPEG_BYTES // (3 * _CYCLE * width)
    for strip in rebanded(strips, _CYCLE * max(1, cycles)):
        image = Image.fromarray(
            np.ascontiguousarray(strip[..., 0] if strip.shape[2] == 1 else strip)
        )
        buffer = io.BytesIO()
        del strip  # and with it the larger one that it is a part of
        image.save(buffer, "JPEG", **(options if first else bare))
        header, scan = scan_of(buffer.getvalue())
        if first:
            header = with_height(header, height)
            yield with_extras(header, metadata.iptc, metadata.comment)
        else:
            yield _LAST_RESTART
        yield scan
        first = False
    yield b"\xff\xd9"
