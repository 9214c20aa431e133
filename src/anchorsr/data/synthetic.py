"""Synthetic training images: text, lines and flat shapes, as on screens and in print.

Photographs have little of that; docs/experiments.md says what training on both gains.
Images are drawn at three times their size and reduced, which gives them natural edges.
"""

from __future__ import annotations

import colorsys
import string
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFont

from anchorsr.data.folders import write_images

SIDE = 480
_OVERSAMPLING = 3
_LARGE = SIDE * _OVERSAMPLING
_FILTERS = (
    Image.Resampling.BOX,
    Image.Resampling.HAMMING,
    Image.Resampling.BICUBIC,
    Image.Resampling.LANCZOS,
)
_FONT_SIZES = (9, 11, 13, 16, 20, 26, 34, 48, 70)  # pixels of the result
_CHARS = list(2 * string.ascii_lowercase + string.ascii_uppercase + string.digits + ".,:-()%&?")
_CONTRAST = 150  # of 765: the least difference between text and its background

Color = tuple[int, int, int]


def write_synthetic(
    folder: Path,
    count: int,
    *,
    seed: int = 0,
    overwrite: bool = False,
    on_image: Callable[[], None] | None = None,
) -> None:
    """Write synthetic images as PNG files: 000.png, 001.png and so on.

    Args:
        folder: Made if missing.
        count: Number of images.
        seed: Another seed gives other images.
        overwrite: Whether to replace existing files.
        on_image: Called after each image.

    Raises:
        OutputError: A file exists or cannot be written.
    """
    paths = [folder / f"{index:03}.png" for index in range(count)]
    images = (np.asarray(draw_image(seed, index)) for index in range(count))
    write_images(paths, images, overwrite=overwrite, on_image=on_image)


def draw_image(seed: int, index: int) -> Image.Image:
    """Draw an RGB image of 480×480, the same for the same numbers and versions of libraries."""
    random = np.random.default_rng((seed, index))
    image = Image.new("RGB", (_LARGE, _LARGE), _color(random))
    if random.random() < 0.3:
        image = _gradient(random)
    for _ in range(random.integers(12)):
        _add_shape(random, image)
    for _ in range(random.integers(1, 7)):
        _add_text(random, image)
    return image.resize((SIDE, SIDE), _FILTERS[random.integers(len(_FILTERS))])


def _color(random: np.random.Generator) -> Color:
    """Choose white (30 %), black (20 %), or a colour of any saturation."""
    choice = random.random()
    if choice < 0.5:
        return (255, 255, 255) if choice < 0.3 else (0, 0, 0)
    saturation = float(random.choice((0, 0.3, 0.7, 1)))
    red, green, blue = colorsys.hsv_to_rgb(random.random(), saturation, random.random())
    return round(255 * red), round(255 * green), round(255 * blue)


def _two_colors(random: np.random.Generator) -> tuple[Color, Color]:
    while True:
        one, other = _color(random), _color(random)
        if abs(sum(one) - sum(other)) >= _CONTRAST:
            return one, other


def _gradient(random: np.random.Generator) -> Image.Image:
    """Draw a linear gradient between two colours, in any direction."""
    start, end = np.array(_color(random)), np.array(_color(random))
    angle = random.uniform(0, 2 * np.pi)
    rows, columns = np.mgrid[0:_LARGE, 0:_LARGE] / _LARGE - 0.5
    part = np.clip(columns * np.cos(angle) + rows * np.sin(angle) + 0.5, 0, 1)[..., None]
    return Image.fromarray((start + (end - start) * part).astype(np.uint8))


def _add_shape(random: np.random.Generator, image: Image.Image) -> None:
    draw = ImageDraw.Draw(image)
    x, y = (int(place) for place in random.integers(0, _LARGE, 2))
    radius = int(_LARGE * random.uniform(0.05, 0.4))
    height = int(radius * random.uniform(0.3, 1))
    box = (x - radius, y - height, x + radius, y + height)
    color, outline = _color(random), _color(random)
    width = int(random.integers(4 * _OVERSAMPLING))
    match random.integers(6):
        case 0:
            angles = np.sort(random.uniform(0, 2 * np.pi, random.integers(3, 9)))
            far = radius * random.uniform(0.4, 1, len(angles))
            corners = zip(x + far * np.cos(angles), y + far * np.sin(angles), strict=True)
            draw.polygon([(float(left), float(top)) for left, top in corners], color)
        case 1:
            draw.ellipse(box, color, outline, width)
        case 2:
            corner = int(random.integers(min(20 * _OVERSAMPLING, height)))
            draw.rounded_rectangle(box, corner, color, outline, width)
        case 3:
            points = random.integers(0, _LARGE, (random.integers(2, 6), 2))
            draw.line(points.ravel().tolist(), color, 1 + 2 * width, joint="curve")
        case 4:
            image.paste(color, mask=ImageChops.multiply(_stripes(random), _disc(box)))
        case _:
            image.paste(_gradient(random), mask=_disc(box))


def _disc(box: tuple[int, int, int, int]) -> Image.Image:
    mask = Image.new("L", (_LARGE, _LARGE))
    ImageDraw.Draw(mask).ellipse(box, 255)
    return mask


def _stripes(random: np.random.Generator) -> Image.Image:
    mask = Image.new("L", (_LARGE, _LARGE))
    draw = ImageDraw.Draw(mask)
    period = int(random.integers(2 * _OVERSAMPLING, 12 * _OVERSAMPLING))
    width = int(period * random.uniform(0.3, 0.6))
    for left in range(0, _LARGE, period):
        draw.rectangle((left, 0, left + width - 1, _LARGE), 255)
    return mask.rotate(random.uniform(0, 180), Image.Resampling.BICUBIC)


def _add_text(random: np.random.Generator, image: Image.Image) -> None:
    """Draw lines of text, upright or slanted, thin or bold, some on a background of their own."""
    height = int(random.choice(_FONT_SIZES) * _OVERSAMPLING * random.uniform(0.9, 1.1))
    lines = [
        " ".join(
            "".join(random.choice(_CHARS, random.integers(1, 9)))
            for _ in range(random.integers(1, 8))
        )
        for _ in range(random.integers(1, 8))
    ]
    color, background = _two_colors(random)
    place = int(random.integers(_LARGE // 2)), int(random.integers(_LARGE - height))
    mask = Image.new("L", (_LARGE, _LARGE))
    ImageDraw.Draw(mask).multiline_text(
        place,
        "\n".join(lines),
        255,
        ImageFont.load_default(height),
        stroke_width=int(random.choice((0, 0, 0, 0, 1, 2)) * height / 40),
    )
    if random.random() < 0.4:
        slant = (1, random.uniform(-0.3, 0.3), 0, random.uniform(-0.2, 0.2), 1, 0)
        mask = mask.transform(mask.size, Image.Transform.AFFINE, slant, Image.Resampling.BICUBIC)
    bounds = mask.getbbox()
    if bounds is not None and random.random() < 0.4:
        left, top, right, bottom = bounds
        margin = height // 2
        larger = (left - margin, top - margin, right + margin, bottom + margin)
        ImageDraw.Draw(image).rectangle(larger, background)
    image.paste(color, mask=mask)
