"""An image upscaled by Pillow's bicubic and by a model, and a web page that compares the two.

The page is one HTML file that loads nothing: images, style and script are inside. File names are
escaped.
"""

from __future__ import annotations

import base64
import dataclasses
import html
import io
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from anchorsr.arrays import UInt8Array
from anchorsr.errors import ImageError, OutputError
from anchorsr.images.image import eight_bits
from anchorsr.images.io import SUFFIXES, RasterImage, check_output, encode_image, read_image
from anchorsr.images.resize import bicubic
from anchorsr.inference.upscaler import Upscaler
from anchorsr.metrics import luma, psnr
from anchorsr.utils.files import check_not_input, reason

# The divider and the zoom, which the page of `anchorsr serve` has too.
COMPARISON_FILES = tuple(Path(__file__).with_name(f"comparison.{kind}") for kind in ("css", "mjs"))
# What a page shows at most: browsers draw this much smoothly, and as one texture.
_MOST_PIXELS = 24_000_000
_LONGEST_SIDE = 16_383
# For all images of a page together; base64 adds a third.
_MOST_BYTES = 20_000_000
_JPEG_QUALITIES = (95, 85, 75)
_SAVED_QUALITY = 92


@dataclass(frozen=True, eq=False)
class Side:
    """One of the upscaled images.

    Attributes:
        file_bytes: Its size as a file in the format of `Comparison.saved_as`.
        seconds: How long upscaling took.
        psnr: (RGB, luma) in dB against the original; None without one.
    """

    label: str
    image: RasterImage
    file_bytes: int
    seconds: float
    psnr: tuple[float, float] | None


@dataclass(frozen=True, eq=False)
class Comparison:
    """An image file, the two upscaled images and, if there is one, the original.

    Attributes:
        size: Height and width of the image file.
        saved_as: The suffix of the format that the results would be saved in.
        original: As large as the upscaled images.
    """

    name: str
    size: tuple[int, int]
    source_bytes: int
    factor: int
    engine: str
    saved_as: str
    bicubic: Side
    model: Side
    original: RasterImage | None = None


def compare(path: Path, upscaler: Upscaler, *, original: Path | None = None) -> Comparison:
    """Upscale an image with Pillow's bicubic and with a model, and measure both.

    Args:
        path: The image.
        upscaler: The model.
        original: The large original; for PSNR, `factor` pixels are cut off each side.

    Raises:
        ImageError: A file is not an image, or the original has another size.
    """
    image = _read(path)
    height, width = image.rgb.shape[:2]
    factor = upscaler.factor
    truth = None if original is None else _read_original(original, image, factor)
    started = time.perf_counter()
    smooth = upscale_bicubic(image, factor)
    bicubic_done = time.perf_counter()
    chosen = upscaler.for_image(image)
    ours = chosen.upscale_image(image)
    done = time.perf_counter()
    like = _file_like(path, height * factor, width * factor)

    def side(label: str, larger: RasterImage, seconds: float) -> Side:
        saved = len(encode_image(like, larger, quality=_SAVED_QUALITY))
        figures = None if truth is None else _psnr(larger.rgb, truth.rgb, factor, path)
        return Side(label, larger, saved, seconds, figures)

    return Comparison(
        name=path.name,
        size=(height, width),
        source_bytes=path.stat().st_size,
        factor=factor,
        engine=upscaler.engine,
        saved_as=like.suffix.lower(),
        bicubic=side("bicubic", smooth, bicubic_done - started),
        model=side(chosen.graph.name, ours, done - bicubic_done),
        original=truth,
    )


def upscale_bicubic(image: RasterImage, factor: int) -> RasterImage:
    """Upscale with Pillow's bicubic filter; with alpha, as Pillow resizes RGBA."""
    height, width = image.size
    rgba = image.rgb if image.alpha is None else np.dstack((image.rgb, image.alpha))
    larger = bicubic(rgba, height * factor, width * factor)
    alpha = None if image.alpha is None else larger[:, :, 3]
    return dataclasses.replace(image, rgb=np.ascontiguousarray(larger[:, :, :3]), alpha=alpha)


def page(comparison: Comparison) -> str:
    """Return the HTML of a comparison.

    Images that are too large for a page are cropped to their centre, and are embedded as JPEG
    where the file would be too long; the page then says so.
    """
    whole = [comparison.bicubic.image, comparison.model.image]
    labels = [comparison.bicubic.label, comparison.model.label]
    if comparison.original is not None:
        whole.append(comparison.original)
        labels.append("original")
    shown = [_middle(image) for image in whole]
    kind, files = _embedded(shown)
    tags = [_image_tag(*entry) for entry in zip(labels, shown, files, strict=True)]
    values = {
        "title": _text(f"{comparison.name}: bicubic and {comparison.model.label}"),
        "name": _text(comparison.name),
        "sizes": _sizes(comparison),
        "switch": _switch([labels[0], *labels[2:]]),
        "left": "".join([tags[0], *tags[2:]]),
        "right": tags[1],
        "table": _table(comparison),
        "notes": _notes(comparison, shown[0], kind),
    }
    for path in COMPARISON_FILES:
        values[path.name.replace(".", "_")] = path.read_text("utf-8").strip()
    template = Path(__file__).with_name("compare.html").read_text("utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda field: values[field[1]], template)


def page_path(path: Path, output: Path | None, *, inputs: Sequence[Path]) -> Path:
    """Return the path of the page: `output`, or `<name>_compare.html` beside the image.

    Raises:
        ImageError: `path` is a folder.
        OutputError: `output` is not an HTML file, or is an input.
    """
    if not path.name:  # such as "."
        raise ImageError(f"{path} is a folder; give an image")
    target = output or path.with_name(f"{path.stem}_compare.html")
    if target.suffix.lower() not in (".html", ".htm"):
        raise OutputError(f"{target} does not end with .html")
    check_not_input(target, inputs)
    return target


def _read(path: Path) -> RasterImage:
    """Read an image as 8 bits, which is what a page shows."""
    image = read_image(path)
    alpha = None if image.alpha is None else eight_bits(image.alpha)
    return dataclasses.replace(image, rgb=eight_bits(image.rgb), alpha=alpha)


def _read_original(path: Path, image: RasterImage, factor: int) -> RasterImage:
    """Read the original, cropped to a multiple of the factor."""
    height, width = image.rgb.shape[:2]
    original = _read(path)
    there = original.rgb.shape[:2]
    if (there[0] // factor, there[1] // factor) != (height, width):
        raise ImageError(
            f"the original {path} is {there[1]}x{there[0]}; {factor} times the size of the image is"
            f" {width * factor}x{height * factor}"
        )
    return _cut(original, slice(height * factor), slice(width * factor))


def _psnr(image: UInt8Array, original: UInt8Array, border: int, path: Path) -> tuple[float, float]:
    try:
        in_rgb = psnr(image, original, border=border)
    except ValueError as error:
        raise ImageError(f"{path} is too small to measure PSNR: {reason(error)}") from error
    return in_rgb, psnr(luma(image), luma(original), border=border)


def _file_like(path: Path, height: int, width: int) -> Path:
    """Return a name with the suffix that `upscale` would save the result with."""
    suffix = path.suffix if path.suffix.lower() in SUFFIXES else ".png"
    try:
        check_output(Path(f"larger{suffix}"), height, width)
    except OutputError:  # more pixels a side than that format holds
        suffix = ".png"
    return Path(f"larger{suffix}")


def _middle(image: RasterImage) -> RasterImage:
    """Crop an image to the centre that a page can show."""
    height, width = image.rgb.shape[:2]
    high, wide = min(height, _LONGEST_SIDE), min(width, _LONGEST_SIDE)
    if high * wide > _MOST_PIXELS:
        shrink = (_MOST_PIXELS / (high * wide)) ** 0.5
        high, wide = max(int(high * shrink), 1), max(int(wide * shrink), 1)
    top, left = (height - high) // 2, (width - wide) // 2
    return _cut(image, slice(top, top + high), slice(left, left + wide))


def _cut(image: RasterImage, rows: slice, columns: slice) -> RasterImage:
    alpha = None if image.alpha is None else image.alpha[rows, columns]
    return dataclasses.replace(image, rgb=image.rgb[rows, columns], alpha=alpha)


def _embedded(images: Sequence[RasterImage]) -> tuple[str, list[bytes]]:
    """Encode images in one format, with the best quality that the size of a page allows.

    Returns:
        The format in words, and the files.
    """
    files: list[bytes] = []
    for image in images:
        files.append(_webp(image))
        if sum(map(len, files)) > _MOST_BYTES:
            break
    else:
        return "lossless", files
    for quality in _JPEG_QUALITIES:
        files = [_jpeg(image, quality) for image in images]
        if sum(map(len, files)) <= _MOST_BYTES:
            break
    return f"JPEG of quality {quality}", files


def _webp(image: RasterImage) -> bytes:
    pil_image = Image.fromarray(np.ascontiguousarray(image.rgb))
    if image.alpha is not None:
        pil_image.putalpha(Image.fromarray(np.ascontiguousarray(image.alpha)))
    profile = image.icc_profile
    profile = profile if profile is not None and profile[16:20] == b"RGB " else None
    buffer = io.BytesIO()
    # More effort makes the file hardly smaller and takes far longer than the network.
    pil_image.save(
        buffer, "WEBP", lossless=True, exact=True, method=1, quality=20, icc_profile=profile
    )
    return buffer.getvalue()


def _jpeg(image: RasterImage, quality: int) -> bytes:
    # Without metadata: a page should not tell where a photo was taken.
    bare = dataclasses.replace(image, exif=None, xmp=None)
    return encode_image(Path("shown.jpg"), bare, quality=quality)


def _text(text: str) -> str:
    """Escape text for HTML; a file name may hold bytes that are no characters."""
    return html.escape(text.encode(errors="replace").decode())


def _image_tag(label: str, image: RasterImage, data: bytes) -> str:
    height, width = image.rgb.shape[:2]
    clear = "" if image.alpha is None else ' class="clear"'
    kind = "webp" if data.startswith(b"RIFF") else "jpeg"
    return (
        f'<img alt="{_text(label)}" width="{width}" height="{height}"{clear} draggable="false"'
        f' src="data:image/{kind};base64,{base64.b64encode(data).decode()}">'
    )


def _switch(labels: Sequence[str]) -> str:
    """Make buttons that choose the image on the left, if there are several."""
    if len(labels) < 2:
        return ""
    buttons = "".join(f'<button type="button">{_text(label)}</button>' for label in labels)
    return f'<div class="group" role="group" aria-label="Left side" id="switch">{buttons}</div>'


def _sizes(comparison: Comparison) -> str:
    (height, width), factor = comparison.size, comparison.factor
    source, larger = (f"{width * n}&nbsp;×&nbsp;{height * n}" for n in (1, factor))
    saved = _kilobytes(comparison.source_bytes)
    return f"{source} pixels in {saved}, upscaled {factor} times: {larger}"


def _table(comparison: Comparison) -> str:
    """Tabulate the figures of both results."""
    sides = (comparison.bicubic, comparison.model)
    rows = [
        ["File size", *(_kilobytes(side.file_bytes) for side in sides)],
        ["Time", *(f"{side.seconds:.3f} s" for side in sides)],
    ]
    for index, name in enumerate(("PSNR, RGB", "PSNR, luma")):
        figures = [side.psnr[index] for side in sides if side.psnr is not None]
        if figures:
            rows.append([name, *(f"{figure:.3f} dB" for figure in figures)])
    columns = ("", *(side.label for side in sides))
    head = "".join(f'<th scope="col">{_text(column)}</th>' for column in columns)
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>'
        + "".join(f"<td>{cell}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _kilobytes(count: int) -> str:
    return f"{count / 1000:,.1f} kB" if count < 1_000_000 else f"{count / 1_000_000:,.2f} MB"


def _notes(comparison: Comparison, shown: RasterImage, kind: str) -> str:
    """Explain the figures and the images of the page."""
    saved = _text(comparison.saved_as)
    files = f"{saved} files" if saved == ".png" else f"{saved} files of quality {_SAVED_QUALITY}"
    notes = [
        f"Both results saved as {files}. {_text(comparison.model.label)} ran in 8-bit integers in"
        f" {_text(comparison.engine)} on a processor; bicubic is Pillow's. Time is that of"
        " upscaling alone."
    ]
    if comparison.original is not None:
        border = comparison.factor
        notes.append(f"PSNR is against the original, without {border} pixels at each edge.")
    high, wide = shown.rgb.shape[:2]
    whole = comparison.model.image.rgb.shape
    if (high, wide) != whole[:2]:
        notes.append(
            f"The page shows the central {wide} × {high} of {whole[1]} × {whole[0]} pixels."
        )
    if kind != "lossless":
        notes.append(
            f"To keep the page small, its images are {kind}; the figures are those of the exact"
            " pixels."
        )
    return f"<p>{' '.join(notes)}</p>"
