"""Frames of compressed films that pan over images: given pairs for training.

The degradation of a frame depends on the frames before it. So films are made once, in a folder
that `pairs.load_given_pairs` reads, and not patch by patch. Each film pans at constant speed over a
part of an image that was reduced by bicubic; its last frame and a random one are kept.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from anchorsr.arrays import UInt8Array
from anchorsr.data.pairs import STRENGTHS_FILE, Pair, load_pair
from anchorsr.data.strengths import Strengths, video_strength
from anchorsr.errors import needs
from anchorsr.images.io import RasterImage, write_image
from anchorsr.utils.files import check_free, make_folder, publish
from anchorsr.utils.strict_json import to_json

# Greatest and least side, in LR pixels, of the part of an image that a film pans over.
SIDE, LEAST_SIDE = 168, 84
_FRAMES = (4, 12)
_FASTEST = 2.0  # LR pixels per frame, along each axis


@dataclass(frozen=True)
class Film:
    """How a film is encoded.

    Attributes:
        encoder: Its name in FFmpeg.
        crf: Least and largest constant rate factor.
        x264: Slope and offset that map a CRF of this encoder to one of x264 of about equal error.
        options: Further options of the encoder.
    """

    encoder: str
    crf: tuple[int, int]
    x264: tuple[float, float] = (1.0, 0.0)
    options: dict[str, str] = field(default_factory=dict)


# Mapped to x264 by the luma error of the last frame, measured on twelve images at ×3.
FILMS = {
    "h264": Film("libx264", (16, 38)),
    "hevc": Film("libx265", (18, 40), (0.97, -2.2), {"x265-params": "log-level=error"}),
    "vp9": Film("libvpx-vp9", (25, 62), (0.5, 3.3), {"deadline": "good", "cpu-used": "5"}),
    "av1": Film("libsvtav1", (25, 62), (0.4, 6.6), {"preset": "10"}),
}


def write_films(
    images: Sequence[Path],
    folder: Path,
    factor: int,
    *,
    codecs: Sequence[str] = tuple(FILMS),
    seed: int = 0,
    overwrite: bool = False,
    on_image: Callable[[], None] | None = None,
) -> None:
    """Write frames of a film over each image to a folder of given pairs.

    Args:
        images: HR images; those that are too small for a film are left out.
        folder: Where `HR/`, `LR/` and the table of strengths are written.
        factor: The super-resolution factor.
        codecs: Names in `FILMS`, used in turn.
        seed: Another seed gives other parts, movements and rates.
        overwrite: Whether to replace existing files.
        on_image: Called after each image.

    Raises:
        OutputError: A file exists already, or cannot be written.
        ImageError: An image cannot be read.
        MissingDependencyError: PyAV is not installed.
    """
    for part in ("HR", "LR"):
        make_folder(folder / part)
    check_free(folder / STRENGTHS_FILE, overwrite=overwrite)
    strengths = {}
    for number, path in enumerate(images):
        pair = load_pair(path, factor, patch=LEAST_SIDE)
        if pair is not None:
            random = np.random.default_rng((seed, number))
            codec = codecs[number % len(codecs)]
            for index, frame in enumerate(_film_over(pair, FILMS[codec], random)):
                name = f"{number:04}_{codec}_{index}.png"
                write_image(folder / "HR" / name, RasterImage(frame.hr), overwrite=overwrite)
                write_image(folder / "LR" / name, RasterImage(frame.lr), overwrite=overwrite)
                strengths[Path(name).stem] = {"video": frame.strengths.video}
        if on_image is not None:
            on_image()
    text = to_json(strengths, indent=1) + "\n"
    publish(text.encode(), folder / STRENGTHS_FILE, overwrite=overwrite)


def _film_over(pair: Pair, film: Film, random: np.random.Generator) -> list[Pair]:
    """Return two frames, or one, of a film over a part of an image."""
    height, width = (min(side, SIDE) for side in pair.lr.shape[:2])
    top = int(random.integers(pair.lr.shape[0] - height + 1))
    left = int(random.integers(pair.lr.shape[1] - width + 1))
    region = pair.lr[top : top + height, left : left + width]
    crf = int(random.integers(*film.crf, endpoint=True))
    frames = int(random.integers(*_FRAMES, endpoint=True))
    down, right = random.uniform(-_FASTEST, _FASTEST, size=2)
    decoded = pan(region, film, crf, frames=frames, speed=(down, right))
    slope, offset = film.x264
    strengths = Strengths(video=round(video_strength(slope * crf + offset), 4))
    kept = sorted({frames - 1, int(random.integers(frames))})
    return [
        pair.cut(frame, top + y, left + x, strengths) for frame, y, x in (decoded[i] for i in kept)
    ]


def pan(
    lr: UInt8Array, film: Film, crf: int, *, frames: int, speed: tuple[float, float]
) -> list[tuple[UInt8Array, int, int]]:
    """Encode and decode a film that pans over an image.

    Args:
        lr: (H, W, 3) uint8 RGB.
        film: The encoder.
        crf: Its constant rate factor.
        frames: The number of frames.
        speed: Pixels per frame, downwards and to the right.

    Returns:
        Each decoded frame, with the row and the column of the image that it starts at.

    Raises:
        MissingDependencyError: PyAV is not installed.
    """
    with needs("PyAV", "video"):
        import av
        from av.video.reformatter import Interpolation
    # FFmpeg's default conversion to RGB would darken by one level.
    exact = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
    distances = [round(abs(step) * (frames - 1)) for step in speed]
    height, width = (
        (side - distance) // 2 * 2 for side, distance in zip(lr.shape[:2], distances, strict=True)
    )
    numbers = np.arange(frames)
    tops, lefts = (
        np.rint(step * numbers if step >= 0 else distance + step * numbers)
        .astype(int)
        .clip(0, distance)
        for step, distance in zip(speed, distances, strict=True)
    )
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as container:
        stream: Any = container.add_stream(
            film.encoder, rate=25, options={"crf": str(crf), **film.options}
        )
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.thread_count = 1  # the bytes depend on the number of threads
        for top, left in zip(tops, lefts, strict=True):
            part = np.ascontiguousarray(lr[top : top + height, left : left + width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(part, format="rgb24")))
        container.mux(stream.encode())
    buffer.seek(0)
    with av.open(buffer, "r") as film_file:
        decoded = [
            frame.reformat(format="rgb24", interpolation=exact).to_ndarray()
            for frame in film_file.decode(video=0)
        ]
    return [
        (np.asarray(frame, np.uint8), int(top), int(left))
        for frame, top, left in zip(decoded, tops, lefts, strict=True)
    ]
