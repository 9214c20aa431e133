"""Animations frame by frame: GIF, WebP, PNG (APNG) and AVIF; and images of either kind.

Frames are decoded, and encoded, one at a time, so that memory does not grow with their number.
Pillow composes them: what is read is what a viewer shows, not the pieces that a file stores.

Left out: the image that an APNG may show in place of its animation; the repetitions of an
AVIF, which Pillow neither reads nor writes: it plays for ever.
"""

from __future__ import annotations

import dataclasses
import io
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from anchorsr.errors import ImageError, OutputError
from anchorsr.images.decode import decode, metadata_of, turn
from anchorsr.images.encode import in_kept_colours, pillow_options, true_metadata
from anchorsr.images.formats import (
    ANIMATED,
    MAX_PIXELS,
    check_pixels,
    check_size,
    format_of,
    frame_count,
    open_image,
    quietly,
)
from anchorsr.images.gif import check_gif_end, encode_gif
from anchorsr.images.heic import open_heic
from anchorsr.images.image import Metadata, Pixels, RasterImage
from anchorsr.images.io import encode_file, reading, write_image
from anchorsr.images.png import colour_chunks, encode_apng
from anchorsr.utils.files import check_free, publish


@dataclass(frozen=True, eq=False)
class Animation(Metadata):
    """Frames of one size, which are made only as they are asked for.

    frames: starts from the first frame each time it is called, and gives 8-bit images, all
    with alpha or all without, without metadata. durations_ms: one for each. plays: how often
    the animation runs, 0 for ever. transparent: whether the frames have alpha.
    """

    size: tuple[int, int]
    durations_ms: tuple[float, ...]
    plays: int
    transparent: bool
    frames: Callable[[], Iterator[RasterImage]]

    def with_frames(
        self, size: tuple[int, int], change: Callable[[RasterImage], RasterImage]
    ) -> Animation:
        """The same with every frame changed, to this (height, width), when it is asked for.

        A frame that equals the one before it is not computed again.
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
    """What a file says before its pixels are decoded: (height, width) upright, and if it moves."""

    size: tuple[int, int]
    animated: bool


def read_file(path: Path, *, max_pixels: int = MAX_PIXELS) -> RasterImage | Animation:
    """Read an image or an animation, as `read_image` and `read_animation` do."""
    with reading(path) as (file, kind):
        if kind in ANIMATED:
            image = open_image(file, kind)
            check_pixels(path, image.width, image.height, max_pixels)
            with quietly():
                animated = frame_count(image) > 1
            if animated:
                return _read_animation(file, path, kind, max_pixels)
        return decode(file, path, kind, max_pixels)


def read_header(path: Path, *, max_pixels: int = MAX_PIXELS) -> Header:
    """What `read_file` would find, by what stands before the pixels, which are not decoded.

    An orientation that a PNG tells after its pixels is not seen. Raises ImageError as
    `read_file` does, but not for damaged pixels and kinds of pixels that are not handled.
    """
    with reading(path) as (file, kind):
        if kind == "HEIC":
            width, height = open_heic(file).size  # upright already
            check_pixels(path, width, height, max_pixels)
            return Header((height, width), animated=False)
        image = open_image(file, kind)
        width, height = image.size
        check_pixels(path, width, height, max_pixels)
        with quietly():
            animated = kind in ANIMATED and frame_count(image) > 1
        # A TIFF's size is that of the image turned upright, as `decode` says.
        orientation = 1 if kind == "TIFF" else metadata_of(image)[1]
        return Header((width, height) if orientation >= 5 else (height, width), animated)


def write_file(
    path: Path, image: RasterImage | Animation, *, quality: int = 92, overwrite: bool = False
) -> None:
    """Write an image or an animation, as `write_image` and `write_animation` do."""
    if isinstance(image, Animation):
        write_animation(path, image, quality=quality, overwrite=overwrite)
    else:
        write_image(path, image, quality=quality, overwrite=overwrite)


def check_file(path: Path, height: int, width: int, *, animated: bool) -> None:
    """Raise OutputError unless the format of the path's suffix can hold such an image.

    Raises MissingDependencyError when a library for the format is missing.
    """
    format_name = format_of(path)
    if animated and format_name not in ANIMATED:
        raise OutputError(
            f"{path} would be an animation, which {format_name} cannot hold; "
            f"write a .gif, .webp, .png or .avif file"
        )
    check_size(path, height, width)


def read_animation(path: Path, *, max_pixels: int = MAX_PIXELS) -> Animation:
    """Read an animated GIF, WebP, PNG or AVIF, turned upright.

    Every frame is decoded once, so that a damaged one is known before work is spent on the
    others; they are decoded again as they are used, from the same file. Raises ImageError as
    `read_image` does, here and while frames are used, and for an image that does not move.
    """

    with reading(path) as (file, kind):
        if kind not in ANIMATED:
            raise ImageError(f"{path} is a {kind} image; give an animation")
        return _read_animation(file, path, kind, max_pixels)


def write_animation(
    path: Path, animation: Animation, *, quality: int = 92, overwrite: bool = False
) -> None:
    """Write an animation in the format of the path's suffix, whole or not at all.

    Times and repetitions are those of the animation, but for what a format rounds: GIF to
    hundredths of a second, without drift. PNG is exact; GIF has 255 colours a frame, and pixels
    are there or not; quality, 1 to 100, is for WebP and AVIF. Metadata is kept as for images.
    Raises OutputError, also for a format that holds only still images.
    """

    def encoded() -> bytes:
        return _encode(animation, format_of(path), quality)

    check_file(path, *animation.size, animated=True)
    check_free(path, overwrite=overwrite)
    data = encode_file(path, encoded, *animation.size, quality=quality)
    publish(data, path, overwrite=overwrite)


def _same_pixels(first: RasterImage, second: RasterImage) -> bool:
    if first.alpha is not None and second.alpha is not None:
        return np.array_equal(first.alpha, second.alpha) and np.array_equal(first.rgb, second.rgb)
    return first.alpha is second.alpha and np.array_equal(first.rgb, second.rgb)


def _read_animation(file: BinaryIO, path: Path, kind: str, max_pixels: int) -> Animation:
    pil_image = open_image(file, kind)
    check_pixels(path, pil_image.width, pil_image.height, max_pixels)
    with quietly():
        count = frame_count(pil_image)
    if count < 2:
        raise ImageError(f"{path} is an image that does not move; give an animation")
    if kind == "PNG":
        file.seek(24)
        if file.read(1) == b"\x10":
            raise ImageError(f"{path} is a 16-bit animation; convert it to 8 bits first")
    if kind == "GIF":
        check_gif_end(file)
    metadata, orientation = metadata_of(pil_image)
    if kind == "PNG":
        metadata = dataclasses.replace(metadata, png_colour=colour_chunks(file))
    durations = []
    transparent = False
    size = None
    for image, milliseconds in _composed(file, kind, count, orientation):
        if size not in (None, image.size):
            raise ImageError(f"{path} has frames of several sizes; save it anew")
        size = image.size
        durations.append(milliseconds)
        transparent |= image.alpha is not None
    assert size is not None

    def frames() -> Iterator[RasterImage]:
        with reading(path) as (file, kind):
            for image, _ in _composed(file, kind, count, orientation):
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


def _composed(
    file: BinaryIO, kind: str, count: int, orientation: int
) -> Iterator[tuple[RasterImage, float]]:
    """Each frame as a viewer shows it, upright, and its milliseconds."""
    pil_image = open_image(file, kind)
    first = int(bool(pil_image.info.get("default_image")))
    for number in range(first, first + count):
        with quietly():
            pil_image.seek(number)
            pil_image.load()
        rgba = turn(np.asarray(pil_image.convert("RGBA")), orientation)
        rgb, alpha = np.ascontiguousarray(rgba[..., :3]), np.ascontiguousarray(rgba[..., 3])
        image = RasterImage(rgb, None if (alpha == 255).all() else alpha)
        yield image, max(0, pil_image.info.get("duration", 0))


def _plays(image: Image.Image, kind: str) -> int:
    """How often it runs, 0 for ever. GIF counts repetitions, and says nothing for one play."""
    loop = image.info.get("loop")
    if kind == "GIF":
        return 1 if loop is None else loop + 1 if loop else 0
    return loop if isinstance(loop, int) else 0


def _encode(animation: Animation, format_name: str, quality: int) -> bytes:
    metadata = true_metadata(animation, *animation.size, grey=False)
    if format_name in ("GIF", "PNG"):
        frames = _with_times(animation, metadata, format_name)
        if format_name == "GIF":
            return encode_gif(frames, animation.plays)
        rgba = ((_rgba(rgb, alpha), milliseconds) for rgb, alpha, milliseconds in frames)
        return encode_apng(rgba, animation.plays, metadata)
    options = pillow_options(format_name, quality, metadata)
    if format_name == "WEBP":
        options["loop"] = min(animation.plays, 65_535)
    ends = [round(end) for end in np.cumsum((0, *animation.durations_ms)).tolist()]
    durations = [end - start for start, end in itertools.pairwise(ends)]
    buffer = io.BytesIO()
    _Reel(animation).save(buffer, format_name, save_all=True, duration=durations, **options)
    return buffer.getvalue()


def _with_times(
    animation: Animation, metadata: Metadata, format_name: str
) -> Iterator[tuple[Pixels, Pixels | None, float]]:
    for image, milliseconds in zip(animation.frames(), animation.durations_ms, strict=True):
        rgb, _ = in_kept_colours(image.rgb, animation, metadata, format_name, grey=False)
        yield rgb, image.alpha, milliseconds


def _rgba(rgb: Pixels, alpha: Pixels | None) -> Pixels:
    opaque = np.full(rgb.shape[:2], 255, np.uint8)
    return np.dstack((rgb, opaque if alpha is None else alpha))


class _Reel(Image.Image):
    """The frames as Pillow's writers of WebP and AVIF ask for them: by number, one at a time."""

    def __init__(self, animation: Animation) -> None:
        super().__init__()
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
            pixels = image.rgb if self._mode == "RGB" else _rgba(image.rgb, image.alpha)
            self.im = Image.fromarray(np.ascontiguousarray(pixels)).im
            self._loaded += 1
        return super().load()
