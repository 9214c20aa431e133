"""The size that is wanted, the network passes that reach it, and the filter down to it.

A network enlarges by a whole factor. Any other size is the smallest product of factors that
covers it, reduced with Lanczos' filter of three lobes (Pillow's, which widens it by the ratio).
An image that is to become smaller sees no network.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from anchorsr.errors import OutputError
from anchorsr.images.formats import MAX_PIXELS
from anchorsr.images.image import RasterImage

# What a network of factor 4 makes of the largest image that is read.
MAX_TARGET_PIXELS = 16 * MAX_PIXELS

# What `TargetSize.label` returns, at the end of a file's stem.
_LABELLED = re.compile(r"(.+)_(?:x[0-9.e+-]+|[wh][0-9]+|[0-9]+x[0-9]+)", re.DOTALL)

# Far beyond what can be computed, and far from what floating point cannot hold.
_LARGEST = 10**12


@dataclass(frozen=True)
class TargetSize:
    """A size in pixels, or so many times the image's own; nothing: what the model does.

    One of height and width leaves the other to the aspect. With both, the largest image of
    the same aspect that fits inside is meant or, with `stretch`, exactly these.
    Raises OutputError for numbers that are not positive, and for combinations without a sense.
    """

    scale: float | None = None
    height: int | None = None
    width: int | None = None
    stretch: bool = False

    def __post_init__(self) -> None:
        given = (self.scale, self.height, self.width)
        if any(n is not None and not 0 < n <= _LARGEST for n in given):
            raise OutputError(f"a scale, a height and a width are above 0 and up to {_LARGEST}")
        if self.scale is not None and (self.height, self.width) != (None, None):
            raise OutputError("a scale and a size exclude one another: give one of them")
        if self.stretch and None in (self.height, self.width):
            raise OutputError("only a size of both width and height can be stretched to")

    def label(self, factor: int) -> str:
        """What results are named after: `x2.5`, `w1920`, `h1080`, `3840x2160`, or `x<factor>`."""
        if self.width and self.height:
            return f"{self.width}x{self.height}"
        if self.width or self.height:
            return f"w{self.width}" if self.width else f"h{self.height}"
        return f"x{self.scale or factor:.15g}"


def parse_size(text: str) -> tuple[int, int] | None:
    """(height, width) of what people write as width x height, 3840x2160; None for other text."""
    match = re.fullmatch(r"([1-9][0-9]{0,8})[xX×]([1-9][0-9]{0,8})", text)
    return (int(match[2]), int(match[1])) if match else None


def original_stem(stem: str) -> str | None:
    """The stem of the image that a result beside it was made of; None for other names."""
    match = _LABELLED.fullmatch(stem)
    return match[1] if match else None


def target_size(height: int, width: int, wanted: TargetSize) -> tuple[int, int]:
    """(height, width) of what an image of this size becomes, to the nearest pixel, at least 1.

    wanted: a scale or a size. Raises OutputError for more than `MAX_TARGET_PIXELS` pixels.
    """
    if wanted.stretch and wanted.height and wanted.width:
        target = wanted.height, wanted.width
    elif wanted.height or wanted.width:
        by_height = wanted.height or math.inf
        by_width = wanted.width or math.inf
        # Fractions are compared, and rounded, as products of whole numbers: exactly.
        if by_width * height <= by_height * width:
            target = _divide(height * int(by_width), width), int(by_width)
        else:
            target = int(by_height), _divide(width * int(by_height), height)
    else:
        scale = wanted.scale or 1.0
        check_pixels(height * scale, width * scale)
        target = _nearest(height * scale), _nearest(width * scale)
    check_pixels(*target)
    return target


def passes(scale: float, factors: Sequence[int]) -> list[int]:
    """The factors of the fewest network passes whose product is at least `scale`, in order.

    Among equally many, those that compute the fewest pixels. Nothing for a scale of 1 or less.
    """
    if scale <= 1:
        return []
    count = 1
    while max(factors) ** count < scale:
        count += 1
    # Ascending: a large factor late keeps what lies between small.
    choices = itertools.combinations_with_replacement(sorted(factors), count)
    enough = [choice for choice in choices if math.prod(choice) >= scale]
    return list(min(enough, key=_computed_pixels))


def check_pixels(height: float, width: float) -> None:
    """Raise OutputError for an image of more than `MAX_TARGET_PIXELS` pixels."""
    if height * width > MAX_TARGET_PIXELS:
        raise OutputError(
            f"{width:.0f} x {height:.0f} pixels, more than the limit of {MAX_TARGET_PIXELS}, "
            f"would have to be computed; ask for a smaller size"
        )


def resize_image(image: RasterImage, height: int, width: int) -> RasterImage:
    """The same image of exactly this size, in the number type that it has.

    Colours are weighted by alpha, so what lies below transparent pixels does not bleed.
    """
    rgb, alpha = image.rgb, image.alpha
    if rgb.shape[:2] == (height, width):
        return image
    colours = rgb[:, :, :1] if image.grey else rgb
    if alpha is not None and alpha.min() < np.iinfo(alpha.dtype).max:
        colours, alpha = _resize_translucent(colours, alpha, height, width)
    else:
        colours = _resize(colours, height, width)
        if alpha is not None:
            alpha = np.full((height, width), np.iinfo(alpha.dtype).max, alpha.dtype)
    if image.grey:
        colours = np.broadcast_to(colours, (height, width, 3))
    return dataclasses.replace(image, rgb=colours, alpha=alpha)


def _nearest(value: float) -> int:
    return max(1, math.floor(value + 0.5))


def _divide(numerator: int, denominator: int) -> int:
    """To the nearest whole number, halves up; at least 1."""
    return max(1, (2 * numerator + denominator) // (2 * denominator))


def _computed_pixels(choice: Iterable[int]) -> int:
    """All pixels that these passes put out, for each pixel that goes in."""
    return sum(product * product for product in itertools.accumulate(choice, lambda a, b: a * b))


def _resize(colours: npt.NDArray[Any], height: int, width: int) -> npt.NDArray[Any]:
    """(H, W, 1 or 3) uint8 in Pillow's whole numbers; other types in float32, by channel."""
    if colours.dtype == np.uint8:
        image = Image.fromarray(
            np.ascontiguousarray(colours.squeeze(2) if colours.shape[2] == 1 else colours)
        )
        resized = np.asarray(image.resize((width, height), Image.Resampling.LANCZOS))
        return resized.reshape(height, width, -1)
    output = np.empty((height, width, colours.shape[2]), colours.dtype)
    for channel in range(colours.shape[2]):
        plane = colours[:, :, channel].astype(np.float32)
        output[:, :, channel] = to_whole(filter_plane(plane, height, width), colours.dtype)
    return output


def _resize_translucent(
    colours: npt.NDArray[Any], alpha: npt.NDArray[Any], height: int, width: int
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Colours weighted by alpha, and alpha. Where nothing is visible, colours are not weighted."""
    weight = alpha.astype(np.float32)
    total = filter_plane(weight, height, width)
    small = to_whole(total, alpha.dtype)
    divisor = np.maximum(total, 0.5)  # what is less is rounded to transparent
    output = np.empty((height, width, colours.shape[2]), colours.dtype)
    for channel in range(colours.shape[2]):
        plane = colours[:, :, channel].astype(np.float32)
        weighted = filter_plane(plane * weight, height, width) / divisor
        plain = filter_plane(plane, height, width)
        output[:, :, channel] = to_whole(np.where(small > 0, weighted, plain), colours.dtype)
    return output, small


def filter_plane(
    plane: npt.NDArray[np.float32],
    height: int,
    width: int,
    resample: Image.Resampling = Image.Resampling.LANCZOS,
) -> npt.NDArray[np.float32]:
    """(H, W) float32 through one of Pillow's filters, which neither rounds nor clips there."""
    return np.asarray(Image.fromarray(plane).resize((width, height), resample), np.float32)


def to_whole(values: npt.NDArray[np.float32], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Rounded and clipped to what the type holds."""
    return np.clip(np.rint(values), 0, np.iinfo(dtype).max).astype(dtype)
