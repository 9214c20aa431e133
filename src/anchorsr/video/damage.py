"""Measure how a film is coded and damaged: its rate, and strengths for a conditioned network."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from anchorsr.data.strengths import CLEAN, Strengths, video_strength
from anchorsr.errors import VideoError
from anchorsr.inference.estimate import LEAST_SIDE, Estimate, estimate_damage
from anchorsr.utils.files import reason
from anchorsr.video.codecs import relative_bits
from anchorsr.video.colour import ToRgb, planes, read_colours

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

# Parts of the film that are looked at, each from a keyframe on.
_PARTS = 3
# Packets decoded of each.
_PACKETS = 16
_MICROSECOND = Fraction(1, 1_000_000)

# x264's CRFs between which that of a film is interpolated.
_RATE_FACTORS = (16, 26, 36)
# What is added to the CRF at which x264 spends a film's bits on its decoded frames, which are
# smoother than those that were encoded. Measured on pans over eight photographs.
_SMOOTHER = {"hevc": 4.3, "vp9": 2.2, "av1": 7.0}
_SMOOTHER_OTHERS = 3.2  # as of H.264
# Larger frames are cut to their middle before x264 encodes them.
_MOST_PIXELS = 1_200_000
# Strengths that are measured in the pixels of single frames.
_IN_PIXELS = ("noise", "grain", "blur")


def source_rate(container: InputContainer, video: VideoStream) -> float | None:
    """Return bits a second of a video stream, at least; None if the film's length is not known."""
    stated = video.bit_rate or 0
    if not container.duration:
        return stated or None
    others = sum(
        getattr(stream, "bit_rate", None) or 0
        for stream in container.streams
        if stream.index != video.index
    )
    seconds = float(container.duration * _MICROSECOND)
    return max(stated, 8 * container.size / seconds - others)


def codec_name(video: VideoStream) -> str:
    """Return FFmpeg's name of a stream's codec, whichever decoder reads it."""
    return str(video.codec_context.codec.canonical_name)


def estimate_film(
    path: Path, *, start: float | None = None, duration: float | None = None
) -> Estimate:
    """Estimate the strengths of the damage of a film; those of a clean one if that fails.

    How coarsely it is quantized follows from its rate: parts of it are encoded again, by x264 at
    several CRFs, and the CRF of equal rate is taken. So codec and content do not matter much.
    Noise, grain and blur are measured in frames.

    Args:
        path: A film that can be read.
        start: Seconds into the film at which to begin.
        duration: Seconds to look at; by default up to the end.
    """
    import av

    rate_factors: list[float] = []
    measured: list[Strengths] = []
    try:
        with av.open(f"file:{path}", metadata_errors="surrogateescape") as container:
            video = container.streams.video[0]
            video.thread_type = "AUTO"
            codec = codec_name(video)
            bits = relative_bits(codec)
            to_rgb: ToRgb | None = None
            for frames, size in _parts(container, video, start, duration):
                if bits is not None:
                    rate_factors.append(_equal_rate_factor(frames, 8 * size / bits, codec))
                to_rgb = to_rgb or ToRgb(read_colours(frames[-1], video.codec_context))
                rgb = to_rgb(frames[-1])
                # One field only: the other is of another moment.
                rgb = rgb[::2] if frames[-1].interlaced_frame else rgb
                if min(rgb.shape[:2]) >= LEAST_SIDE:
                    measured.append(estimate_damage(rgb).strengths)
    except (av.FFmpegError, OSError, ValueError, LookupError, VideoError) as error:
        return Estimate(CLEAN, f"it cannot be measured ({reason(error)})")
    values = {
        name: median([getattr(each, name) for each in measured] or [0.0]) for name in _IN_PIXELS
    }
    why = codec
    if rate_factors:
        crf = median(rate_factors)
        values["video"] = video_strength(crf)
        why = f"{codec} like x264 at CRF {crf:.0f}"
    strengths = Strengths(**{name: round(64 * value) / 64 for name, value in values.items()})
    return Estimate(strengths, f"{why}; the rest measured")


def _parts(
    container: InputContainer, video: VideoStream, start: float | None, duration: float | None
) -> Iterator[tuple[list[VideoFrame], int]]:
    """Yield the first frames of several parts, and the bytes of their packets."""
    begin = (container.start_time or 0) * _MICROSECOND + Fraction(start or 0)
    length = (container.duration or 0) * _MICROSECOND - Fraction(start or 0)
    length = max(min(length, Fraction(duration)) if duration is not None else length, Fraction(0))
    for number in range(_PARTS if length else 1):
        frames: list[VideoFrame] = []
        size = packets = 0
        if number or start:
            with contextlib.suppress(OSError, ValueError):  # not seekable: read on
                container.seek(int((begin + length * number / _PARTS) / _MICROSECOND))
        with contextlib.suppress(OSError, ValueError):  # damaged: what was decoded counts
            for packet in container.demux(video):
                frames += video.decode(packet)
                size += packet.size
                packets += 1
                if packets >= _PACKETS or not packet.size:
                    break
            if packet.size:
                frames += video.decode(None)
        if frames:
            yield frames, size


def _equal_rate_factor(frames: Sequence[VideoFrame], bits: float, codec: str) -> float:
    """Return the CRF at which x264 spends as many bits, for frames that a codec has decoded."""
    middles = [_middle(frame) for frame in frames]
    whole = frames[0].height * frames[0].width
    scale = whole / (middles[0].height * middles[0].width)
    needed = math.log2(max(bits, 1))
    made = [math.log2(scale * _encoded_bits(middles, crf)) for crf in _RATE_FACTORS]
    slope, offset = np.polyfit(made, _RATE_FACTORS, 1) if made[0] > made[-1] else (0.0, 10.0)
    found = float(np.interp(-needed, [-value for value in made], _RATE_FACTORS))
    if not made[-1] <= needed <= made[0]:
        found = float(slope * needed + offset)
    return found + _SMOOTHER.get(codec, _SMOOTHER_OTHERS)


def _middle(frame: VideoFrame) -> VideoFrame:
    """Cut the middle out of a large frame, as yuv420p."""
    import av

    height, width = frame.height, frame.width
    share = min(1.0, math.sqrt(_MOST_PIXELS / (height * width)))
    rows, columns = (max(int(side * share) // 2 * 2, 2) for side in (height, width))
    top, left = ((side - part) // 4 * 2 for side, part in ((height, rows), (width, columns)))
    y, u, v = planes(frame.reformat(format="yuv420p"))
    half = slice(top // 2, (top + rows) // 2), slice(left // 2, (left + columns) // 2)
    parts = (y[top : top + rows, left : left + columns], u[half], v[half])
    packed = np.concatenate([part.reshape(-1, columns) for part in parts])
    return av.VideoFrame.from_ndarray(packed, format="yuv420p")


def _encoded_bits(frames: Sequence[VideoFrame], crf: int) -> int:
    """Return how many bits x264 makes of yuv420p frames."""
    import av

    size: int = 0
    with av.open(io.BytesIO(), "w", format="matroska") as container:
        options = {"crf": str(crf), "preset": "veryfast"}
        stream: Any = container.add_stream("libx264", rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = frames[0].width, frames[0].height, "yuv420p"
        stream.thread_count = 1  # the bits depend on the number of threads
        for number, frame in enumerate(frames):
            frame.pts = number
            size += sum(packet.size for packet in stream.encode(frame))
        size += sum(packet.size for packet in stream.encode(None))
    return 8 * size
