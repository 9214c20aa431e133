"""Upscale an image straight into a file, for large results.

Everywhere else the whole result is in memory, more than once while it is encoded. Here a strip of
rows is upscaled, finished, compressed and written before the next one. PNG, TIFF and JPEG files can
be written so.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from anchorsr.images.encode import Coding
from anchorsr.images.formats import check_output, format_of
from anchorsr.images.image import Pixels, RasterImage
from anchorsr.images.resize import resize_strips
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

    Raises:
        OutputError: If the file exists and `overwrite` is false, or cannot be written.
    """
    factor = 1 if upscaler is None else upscaler.factor
    height, width = (side * factor for side in image.size)
    size = target or (height, width)
    format_name = check_output(path, *size)
    with publishing(path, overwrite=overwrite) as file:
        strips = _bands(image) if upscaler is None else upscale_strips_of_image(image, upscaler)
        if size != (height, width):
            alpha = image.alpha
            translucent = alpha is not None and bool(alpha.min() < np.iinfo(alpha.dtype).max)
            strips = resize_strips(strips, (height, width), size, translucent=translucent)
        write_strips(file, strips, image, size, format_name, coding)


def _bands(image: RasterImage) -> Iterator[Pixels]:
    """Yield an image in strips: grey, grey and alpha, RGB or RGBA."""
    colours = image.rgb[:, :, : 1 if image.grey else 3]
    if image.alpha is None:
        yield colours  # nothing is copied
        return
    for top in range(0, image.size[0], _BAND):
        place = np.s_[top : top + _BAND]
        yield np.dstack((colours[place], image.alpha[place]))
