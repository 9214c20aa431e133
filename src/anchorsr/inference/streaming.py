"""Upscale an image straight into a file, for large results.

Everywhere else the whole result is in memory, more than once while it is encoded. Here a strip of
rows is upscaled, finished, compressed and written before the next one. PNG, TIFF and JPEG files can
be written so.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from anchorsr.images.encode import Coding
from anchorsr.images.formats import check_output, format_of
from anchorsr.images.image import Pixels, RasterImage
from anchorsr.images.resize import resize_margin, resize_strips, wrapped
from anchorsr.images.strips import STREAMED, write_strips
from anchorsr.inference.memory import available_memory
from anchorsr.inference.raster import upscale_strips_of_image
from anchorsr.inference.upscaler import Upscaler
from anchorsr.utils.files import publishing

# Without streaming, memory holds the result, Pillow's copy of it, and the file, which can be as
# large and is copied once as it grows.
_SHARE_OF_MEMORY = 1 / 4
# However much memory there is, a network's result of so many bytes is not kept in it; nor one of
# which Pillow needs copies, to resize it or to write a JPEG.
_LARGE = 2**30
_LARGE_TO_COPY = 2**28
_BAND = 256


def should_stream(image: RasterImage, path: Path, factor: int, *, resized: bool) -> bool:
    """Return whether to use `upscale_to_file`.

    That is for a .png, .tif or .jpg file, and a network's result of more than 1 GB, 256 MB if it is
    resized or becomes a JPEG, or a quarter of the free memory.

    Args:
        image: The image.
        path: The file of the result.
        factor: The product of all passes; 1 without any.
        resized: Whether the result has another size than the last pass.
    """
    format_name = format_of(path)
    if format_name not in STREAMED:
        return False
    result = image.rgb.nbytes * factor**2
    large = _LARGE_TO_COPY if resized or format_name == "JPEG" else _LARGE
    return result > min(large, _SHARE_OF_MEMORY * available_memory())


def upscale_to_file(
    image: RasterImage,
    upscaler: Upscaler | None,
    path: Path,
    coding: Coding = Coding(),
    *,
    target: tuple[int, int] | None = None,
    overwrite: bool = False,
    wraps: bool = False,
) -> None:
    """Upscale into a PNG, TIFF or JPEG atomically, with one strip of rows in memory.

    Pixels and metadata are those that `write_image` would write.

    Args:
        image: The image.
        upscaler: The model; None for resizing alone.
        path: The file to write; its folder must exist.
        coding: How JPEG stores pixels.
        target: (height, width) to which the result is resized; by default it is not.
        overwrite: Replace an existing file.
        wraps: Whether the image is a texture whose edges meet.

    Raises:
        OutputError: If the file exists and `overwrite` is false, or cannot be written.
    """
    factor = 1 if upscaler is None else upscaler.factor
    height, width = (side * factor for side in image.size)
    size = target or (height, width)
    format_name = check_output(path, *size)
    with publishing(path, overwrite=overwrite) as file:
        resized = size != (height, width)
        margin = resize_margin((height, width), size) if wraps and resized else 0
        if upscaler is None:
            strips = _bands(image, margin)
        elif wraps:
            strips = _upscaled_texture(image, upscaler, margin)
        else:
            strips = upscale_strips_of_image(image, upscaler)
        if resized:
            alpha = image.alpha
            translucent = alpha is not None and bool(alpha.min() < np.iinfo(alpha.dtype).max)
            strips = resize_strips(
                strips, (height, width), size, translucent=translucent, margin=margin
            )
        write_strips(file, strips, image, size, format_name, coding)


def _bands(image: RasterImage, margin: int) -> Iterator[Pixels]:
    """Yield an image in strips: grey, grey and alpha, RGB or RGBA.

    Args:
        image: The image.
        margin: Rows and columns to add to each edge, of what lies at the opposite one.
    """
    colours, alpha = image.rgb[:, :, : 1 if image.grey else 3], image.alpha
    if alpha is None and not margin:
        yield colours  # nothing is copied
        return
    height = image.size[0]
    for top in range(-margin, height + margin, _BAND):
        rows = np.arange(top, min(top + _BAND, height + margin)) % height
        strip = colours[rows]
        if alpha is not None:
            strip = np.dstack((strip, alpha[rows]))
        yield np.pad(strip, ((0, 0), (margin, margin), (0, 0)), mode="wrap")
        del strip


def _upscaled_texture(image: RasterImage, upscaler: Upscaler, margin: int) -> Iterator[Pixels]:
    """Upscale an image whose edges meet, in strips.

    Args:
        image: The image.
        upscaler: The model.
        margin: Rows and columns of the result to add to each edge, of what lies at the opposite
            one.
    """
    factor = upscaler.factor
    height, width = (side * factor + 2 * margin for side in image.size)
    around = upscaler.wrapped_margin + math.ceil(margin / factor)
    outside = around * factor - margin
    above = outside
    for strip in upscale_strips_of_image(wrapped(image, around), upscaler):
        rows = strip[above:][:height, outside : outside + width]
        above, height = max(0, above - len(strip)), height - len(rows)
        del strip
        if len(rows):
            yield rows
        del rows
