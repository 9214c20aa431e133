"""Target sizes, and the network passes that reach them.

A network upscales by an integer factor. Any other size is reached by the smallest sufficient
product of factors, followed by a Lanczos filter (`images.resize.resize_image`). An image that
becomes smaller passes through no network.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from anchorsr.errors import OutputError
from anchorsr.images.formats import MAX_PIXELS

# The largest image that is read, upscaled four times.
MAX_TARGET_PIXELS = 16 * MAX_PIXELS

# A file stem that ends in what `TargetSize.label` returns.
_LABELLED = re.compile(r"(.+)_(?:x[0-9.e+-]+|[wh][0-9]+|[0-9]+x[0-9]+)", re.DOTALL)

# Far more than can be computed, and far less than floating point can hold.
_LARGEST = 10**12


@dataclass(frozen=True)
class TargetSize:
    """A scale or a size in pixels; by default the model's own factor.

    Attributes:
        scale: How many times larger, or smaller if below 1.
        height: In pixels. Without a width, the width follows from the aspect ratio.
        width: In pixels. Without a height, the height follows from the aspect ratio.
        stretch: Whether the result has exactly this height and width. If not, it is the largest
            image of the original aspect ratio that fits inside.

    Raises:
        OutputError: For numbers that are not positive, and for a scale beside a size.
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
            raise OutputError("stretching needs both a width and a height")

    def label(self, factor: int) -> str:
        """Return the suffix of results' names: `x2.5`, `w1920`, `h1080`, `3840x2160`, `x3`.

        Args:
            factor: The model's factor, for a target without a scale or size.
        """
        if self.width and self.height:
            return f"{self.width}x{self.height}"
        if self.width or self.height:
            return f"w{self.width}" if self.width else f"h{self.height}"
        return f"x{self.scale or factor:.15g}"


def parse_size(text: str) -> tuple[int, int] | None:
    """Parse WIDTHxHEIGHT, such as 3840x2160, into (height, width); return None for other text."""
    match = re.fullmatch(r"([1-9][0-9]{0,8})[xX×]([1-9][0-9]{0,8})", text)
    return (int(match[2]), int(match[1])) if match else None


def original_stem(stem: str) -> str | None:
    """Return the stem of the original of a result such as `photo_x3`; None for other names."""
    match = _LABELLED.fullmatch(stem)
    return match[1] if match else None


@dataclass(frozen=True)
class UpscalePlan:
    """How an image of one size becomes another.

    Attributes:
        size: (height, width) of the image.
        factors: The network passes, in order.
        target: (height, width) of the result, to which the last pass is resized.
    """

    size: tuple[int, int]
    factors: tuple[int, ...]
    target: tuple[int, int]

    @property
    def is_single_pass(self) -> bool:
        """Whether one pass gives the target exactly."""
        return len(self.factors) == 1 and self.target == tuple(
            side * self.factors[0] for side in self.size
        )


def plan_upscale(
    height: int, width: int, wanted: TargetSize, factors: Sequence[int]
) -> UpscalePlan:
    """Plan the passes from an image's size to the target size.

    Args:
        height: Of the image, in pixels.
        width: Of the image, in pixels.
        wanted: A scale or a size.
        factors: The factors there are networks for.

    Raises:
        OutputError: If the result, or the last pass, has more than `MAX_TARGET_PIXELS` pixels.
    """
    target = target_size(height, width, wanted)
    chosen = passes(max(target[0] / height, target[1] / width), factors)
    product = math.prod(chosen)
    check_pixels(height * product, width * product)
    return UpscalePlan((height, width), tuple(chosen), target)


def target_size(height: int, width: int, wanted: TargetSize) -> tuple[int, int]:
    """Return the (height, width) of the result, rounded to the nearest pixel, at least 1.

    Args:
        height: Of the image, in pixels.
        width: Of the image, in pixels.
        wanted: A scale or a size.

    Raises:
        OutputError: If the result has more than `MAX_TARGET_PIXELS` pixels.
    """
    if wanted.stretch and wanted.height and wanted.width:
        target = wanted.height, wanted.width
    elif wanted.height or wanted.width:
        by_height = wanted.height or math.inf
        by_width = wanted.width or math.inf
        # Fractions are compared and rounded exactly, as products of integers.
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
    """Choose the fewest network passes whose product is at least `scale`.

    Args:
        scale: The scale to reach.
        factors: The factors there are networks for.

    Returns:
        The factors in order; of equally many, those that compute the fewest pixels. Empty for a
        scale of 1 or less.
    """
    if scale <= 1:
        return []
    count = 1
    while max(factors) ** count < scale:
        count += 1
    # Ascending: a large factor last keeps intermediate images small.
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


def _nearest(value: float) -> int:
    return max(1, math.floor(value + 0.5))


def _divide(numerator: int, denominator: int) -> int:
    """Divide, rounding half up, to at least 1."""
    return max(1, (2 * numerator + denominator) // (2 * denominator))


def _computed_pixels(choice: Iterable[int]) -> int:
    """Return the output pixels of all passes per input pixel."""
    return sum(product * product for product in itertools.accumulate(choice, lambda a, b: a * b))
