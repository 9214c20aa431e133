"""Read and write animations frame by frame: GIF, WebP, PNG (APNG) and AVIF; and either kind.

Frames are decoded and encoded one at a time, so memory does not grow with their number. Pillow
composes them: what is read is what a viewer shows, not the rectangles that a file stores.

Not handled: the still image that an APNG may show in place of its animation; the loop count of
AVIF, which Pillow neither reads nor writes, so an AVIF loops for ever.
"""

from __future__ import annotations

import dataclasses
import io
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from anchorsr.errors import ImageError
from anchorsr.images.colour import from_png, icc_profile, with_srgb_curve
from anchorsr.images.decode import decode, metadata_of, turn
from anchorsr.images.encode import (
    Coding,
    check_coding,
    check_colours,
    converted_colours,
    encoding_failed,
    pillow_options,
    resized_metadata,
)
from anchorsr.images.formats import (
    ANIMATED,
    MAX_PIXELS,
    check_output,
    check_pixels,
    frame_count,
    quietly,
)
from anchorsr.images.gif import encode_gif
from anchorsr.images.heic import open_heic
from anchorsr.images.image import Metadata, Pixels, RasterImage
from anchorsr.images.io import write_image
from anchorsr.images.png import encode_apng
from anchorsr.images.source import Source, reading
from anchorsr.utils.files import publishing


@dataclass(frozen=True, eq=False)
class Animation(Metadata):
    """Frames of one size, made one at a time as they are asked for.

    Attributes:
        size: (height, width) in pixels.
        durations_ms: One duration per frame.
        plays: How often the animation runs; 0 for ever.
        transparent: Whether the frames have alpha.
        frames: Returns an iterator from the first frame, each time it is called. Frames are
            8-bit, all with alpha or all without, and have no metadata.
    """

    size: tuple[int, int]
    durations_ms: tuple[float, ...]
    plays: int
    transparent: bool
    frames: Callable[[], Iterator[RasterImage]]

    def with_frames(
        self, size: tuple[int, int], change: Callable[[RasterImage], RasterImage]
    ) -> Animation:
        """Return the animation with every frame changed, lazily.

        A frame that equals the one before is not computed again.

        Args:
            size: (height, width) of the changed frames.
            change: What makes a changed frame from a frame.
        """

        def frames() -> Iterator[RasterImage]:
            before: RasterImage | None = None
            changed: RasterImage | None = None
            for image in self.frames():
                if before is None or changed is None or not _same_pixels(image, before):
                    changed = change(image)
                before = image
                yield changed

        return dataclasses.replace(self, size=size, frames=frames)


@dataclass(frozen=True)
class Header:
    """What a file says before its pixels are decoded.

    Attributes:
        size: (height, width), upright.
        animated: Whether the file is an animation.
    """

    size: tuple[int, int]
    animated: bool


def read_file(path: Path, *, max_pixels: int = MAX_PIXELS) -> RasterImage | Animation:
    """Read an image or an animation, as `read_image` and `read_animation` do."""
    with reading(path) as source:
        if _count_frames(source, max_pixels) > 1:
            return _read_animation(source, max_pixels)
        return decode(source, max_pixels)


def read_header(path: Path, *, max_pixels: int = MAX_PIXELS) -> Header:
    """Read what stands before the pixels, without decoding them.

    Args:
        path: The file.
        max_pixels: The largest image to accept.

    Raises:
        ImageError: As `read_file` does, except for damaged pixels and unsupported pixel types.
    """
    with reading(path) as source:
        if source.format_name == "HEIC":
            width, height = open_heic(source.file).size  # upright already
            check_pixels(path, width, height, max_pixels)
            return Header((height, width), animated=False)
        frames = _count_frames(source, max_pixels)
        image = source.open()
        width, height = image.size
        check_pixels(path, width, height, max_pixels)
        # Pillow reports a TIFF's size upright already.
        orientation = 1 if source.format_name == "TIFF" else metadata_of(image, source)[1]
        return Header((width, height) if orientation >= 5 else (height, width), frames > 1)


def write_file(
    path: Path,
    image: RasterImage | Animation,
    *,
    quality: int = 92,
    lossless: bool = False,
    overwrite: bool = False,
) -> None:
    """Write an image or an animation, as `write_image` and `write_animation` do."""
    write: Callable[..., None] = write_image
    if isinstance(image, Animation):
        write = write_animation
    write(path, image, quality=quality, lossless=lossless, overwrite=overwrite)


def for_format(image: RasterImage | Animation, format_name: str) -> RasterImage | Animation:
    """Return an image with the curve of sRGB, if it has another one that its result cannot state.

    Networks see such values as they were trained to. A PNG stays as it is, for a PNG.

    Args:
        image: The image or animation.
        format_name: The format of the result.
    """
    if format_name == "PNG" or image.png_colour is None or image.icc_profile is not None:
        return image
    space = from_png(image.png_colour)
    if space is None or space.gamma is None:
        return image
    gamma = space.gamma

    def change(frame: RasterImage) -> RasterImage:
        return dataclasses.replace(frame, rgb=with_srgb_curve(frame.rgb, gamma))

    grey = isinstance(image, RasterImage) and image.grey
    profile = None if grey else icc_profile(space.primaries, space.name)
    if isinstance(image, Animation):
        changed = image.with_frames(image.size, change)
        return dataclasses.replace(changed, png_colour=None, icc_profile=profile)
    return dataclasses.replace(change(image), png_colour=None, icc_profile=profile)


def read_animation(path: Path, *, max_pixels: int = MAX_PIXELS) -> Animation:
    """Read an animated GIF, WebP, PNG or AVIF, turned upright.

    Every frame is decoded once, so a damaged one is found before any work is done; frames are
    decoded again, from the same file, as they are used.

    Args:
        path: The file.
        max_pixels: The largest frame to decode.

    Raises:
        ImageError: As `read_image` does, here and while frames are used; also for a still image.
    """
    with reading(path) as source:
        if source.format_name not in ANIMATED:
            raise ImageError(f"{path} is a {source.format_name} image; give an animation")
        return _read_animation(source, max_pixels)


def write_animation(
    path: Path,
    animation: Animation,
    *,
    quality: int = 92,
    lossless: bool = False,
    overwrite: bool = False,
) -> None:
    """Write an animation atomically, in the format of the path's suffix.

    Durations and loop count are kept; GIF rounds to hundredths of a second, without drift. PNG is
    lossless. GIF has 255 colours per frame and binary transparency. Metadata is kept as for
    images.

    Args:
        path: The file to write; its folder must exist.
        animation: The frames and metadata.
        quality: 1 to 100, for WebP and AVIF.
        lossless: Write WebP without loss; AVIF and GIF are refused.
        overwrite: Replace an existing file.

    Raises:
        OutputError: If the file exists and `overwrite` is false, cannot be written, or is of a
            format for still images.
    """
    with publishing(path, overwrite=overwrite) as file:
        file.write(_encode(path, animation, Coding(quality, lossless)))


def _same_pixels(first: RasterImage, second: RasterImage) -> bool:
    if first.alpha is not None and second.alpha is not None:
        return np.array_equal(first.alpha, second.alpha) and np.array_equal(first.rgb, second.rgb)
    return first.alpha is second.alpha and np.array_equal(first.rgb, second.rgb)


def _count_frames(source: Source, max_pixels: int) -> int:
    """Return the number of frames, before any is decoded.

    Raises:
        ImageError: If a frame, or all of them together, has too many pixels.
    """
    if source.format_name not in ANIMATED:
        return 1
    image = source.open()
    check_pixels(source.path, image.width, image.height, max_pixels)
    with quietly():
        # For GIF, Pillow goes through all frames to count them.
        count = source.frames if source.frames is not None else frame_count(image)
    check_pixels(source.path, image.width, image.height, max_pixels, count)
    return count


def _read_animation(source: Source, max_pixels: int) -> Animation:
    path, kind = source.path, source.format_name
    count = _count_frames(source, max_pixels)
    if count < 2:
        raise ImageError(f"{path} is a still image; give an animation")
    if kind == "PNG":
        source.file.seek(24)
        if source.file.read(1) == b"\x10":
            raise ImageError(f"{path} is a 16-bit animation; convert it to 8 bits first")
    pil_image = source.open()
    metadata, orientation = metadata_of(pil_image, source)
    durations = []
    transparent = False
    size = None
    for image, milliseconds in _composed(source, count, orientation):
        if size not in (None, image.size):
            raise ImageError(f"{path} has frames of several sizes; save it from another program")
        size = image.size
        durations.append(milliseconds)
        transparent |= image.alpha is not None
    assert size is not None
    version = source.version

    def frames() -> Iterator[RasterImage]:
        with reading(path) as again:
            for image, _ in _composed(again, count, orientation):
                if again.version != version:
                    raise ImageError(f"{path} was changed while it was read; start again")
                if transparent and image.alpha is None:
                    image = RasterImage(image.rgb, np.full(image.size, 255, np.uint8))
                yield image

    return Animation(
        size=size,
        durations_ms=tuple(durations),
        plays=_plays(pil_image, kind),
        transparent=transparent,
        frames=frames,
        **vars(metadata),
    )


def _composed(source: Source, count: int, orientation: int) -> Iterator[tuple[RasterImage, float]]:
    """Yield each frame as a viewer shows it, upright, and its milliseconds."""
    pil_image = source.open()
    first = int(bool(pil_image.info.get("default_image")))
    for number in range(first, first + count):
        with quietly():
            pil_image.seek(number)
            pil_image.load()
        rgba = turn(np.asarray(pil_image.convert("RGBA")), orientation)
        rgb, alpha = np.ascontiguousarray(rgba[..., :3]), np.ascontiguousarray(rgba[..., 3])
        if source.gamma is not None:
            rgb = with_srgb_curve(rgb, source.gamma)
        image = RasterImage(rgb, None if (alpha == 255).all() else alpha)
        yield image, max(0, pil_image.info.get("duration", 0))


def _plays(image: Image.Image, kind: str) -> int:
    """Return how often it runs, 0 for ever. GIF counts repetitions; no count is one play."""
    loop = image.info.get("loop")
    if kind == "GIF":
        return 1 if loop is None else loop + 1 if loop else 0
    return loop if isinstance(loop, int) else 0


def _encode(path: Path, animation: Animation, coding: Coding) -> bytes:
    format_name = check_output(path, *animation.size, animated=True)
    check_coding(path, format_name, coding)
    check_colours(path, animation, format_name)
    metadata = resized_metadata(animation, *animation.size, grey=False)
    try:
        if format_name in ("GIF", "PNG"):
            frames = _with_times(animation, metadata, format_name)
            if format_name == "GIF":
                return encode_gif(frames, animation.plays, animation.comment)
            rgba = ((_rgba(rgb, alpha), milliseconds) for rgb, alpha, milliseconds in frames)
            return encode_apng(rgba, animation.plays, metadata)
        quality = coding.quality_for(animation, format_name)
        return _encode_with_pillow(animation, metadata, format_name, quality)
    except (OSError, ValueError, RuntimeError) as error:
        raise encoding_failed(path, error) from error


def _encode_with_pillow(
    animation: Animation, metadata: Metadata, format_name: str, quality: int | None
) -> bytes:

    def convert(rgb: Pixels) -> Pixels:
        return converted_colours(rgb, animation, metadata, format_name, grey=False)[0]

    one_pixel = np.zeros((1, 1, 3), np.uint8)
    _, kept = converted_colours(one_pixel, animation, metadata, format_name, grey=False)
    options = pillow_options(format_name, quality, kept)
    if format_name == "WEBP":
        options["loop"] = min(animation.plays, 65_535)
    ends = [round(end) for end in np.cumsum((0, *animation.durations_ms)).tolist()]
    durations = [end - start for start, end in itertools.pairwise(ends)]
    buffer = io.BytesIO()
    reader = _FrameReader(animation, convert)
    reader.save(buffer, format_name, save_all=True, duration=durations, **options)
    return buffer.getvalue()


def _with_times(
    animation: Animation, metadata: Metadata, format_name: str
) -> Iterator[tuple[Pixels, Pixels | None, float]]:
    for image, milliseconds in zip(animation.frames(), animation.durations_ms, strict=True):
        rgb, _ = converted_colours(image.rgb, animation, metadata, format_name, grey=False)
        yield rgb, image.alpha, milliseconds


def _rgba(rgb: Pixels, alpha: Pixels | None) -> Pixels:
    opaque = np.full(rgb.shape[:2], 255, np.uint8)
    return np.dstack((rgb, opaque if alpha is None else alpha))


class _FrameReader(Image.Image):
    """Frames as Pillow's WebP and AVIF writers ask for them: by number, one at a time."""

    def __init__(self, animation: Animation, convert: Callable[[Pixels], Pixels]) -> None:
        super().__init__()
        self._convert = convert
        self._mode = "RGBA" if animation.transparent else "RGB"
        self._size = animation.size[::-1]
        self.n_frames = len(animation.durations_ms)
        self.is_animated = True
        self._frames = animation.frames()
        self._wanted, self._loaded = 0, -1

    def seek(self, frame: int) -> None:
        if frame >= self.n_frames:
            raise EOFError("no more frames")
        self._wanted = frame

    def tell(self) -> int:
        return self._wanted

    def load(self) -> Any:
        while self._loaded < self._wanted:
            image = next(self._frames)
            rgb = self._convert(image.rgb)
            pixels = rgb if self._mode == "RGB" else _rgba(rgb, image.alpha)
            self.im = Image.fromarray(np.ascontiguousarray(pixels)).im
            self._loaded += 1
        return super().load()
