"""Small videos for tests, made with PyAV, and two readers of what is in a file."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest

from anchorsr.inference.automatic import Selection

FFPROBE = shutil.which("ffprobe")
RATES = {"aac": 44_100, "libopus": 48_000}


class Repeat:
    """An upscaler that repeats pixels, in place of a network."""

    factor = 2
    graph = SimpleNamespace(name="repeat", halo=0, multiple=1)
    is_automatic = False

    def for_selection(self, selection: Selection) -> Repeat:
        return self

    def upscale_rgb(self, rgb: np.ndarray) -> np.ndarray:
        return rgb.repeat(self.factor, 0).repeat(self.factor, 1)


def moving(count: int, height: int = 48, width: int = 64) -> list[np.ndarray]:
    """Frames of a still background on which a square moves; every fourth equals the one before."""
    generator = np.random.default_rng(0)
    background = np.kron(
        generator.integers(0, 256, (-(-height // 8), -(-width // 8), 3)), np.ones((8, 8, 1))
    ).astype(np.uint8)[:height, :width]
    frames = []
    for index in range(count):
        frame = background.copy()
        step = index - (index % 4 == 3)
        top, left = step * 3 % max(height - 8, 1), step * 5 % max(width - 8, 1)
        frame[top : top + 8, left : left + 8] = step * 7 % 256
        frames.append(frame)
    return frames


def make_video(
    path: Path,
    frames: Sequence[np.ndarray],
    *,
    pts: Sequence[int] | None = None,
    time_base: Fraction = Fraction(1, 30),
    rate: Fraction | int = 30,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    audio: str | None = None,
    audio_start: Fraction = Fraction(0),
    seconds: float | None = None,
    matrix: int = 2,
    full: bool | None = None,
    transfer: int = 2,
    primaries: int = 2,
    aspect: Fraction | None = None,
    rotation: int | None = None,
    metadata: dict[str, str] | None = None,
    language: str | None = None,
    chapters: Sequence[tuple[float, float, str]] = (),
    extra: Any = None,
) -> Path:
    """Encode frames, uint8 RGB, with a tone beside them; `extra` adds streams of its own kind."""
    height, width = frames[0].shape[:2]
    times = range(len(frames)) if pts is None else pts
    with av.open(str(path), "w", options=container_options or {}) as container:
        preset = {"preset": "ultrafast"} if codec in ("libx264", "libx265") else {}
        stream = container.add_stream(codec, rate, options={**preset, **(options or {})})
        context = stream.codec_context
        context.width, context.height, context.pix_fmt = width, height, pixel_format
        context.time_base = stream.time_base = time_base
        context.colorspace, context.color_trc, context.color_primaries = matrix, transfer, primaries
        context.color_range = 0 if full is None else 2 if full else 1
        if aspect is not None:
            context.sample_aspect_ratio = aspect
        if rotation is not None:
            stream.set_display_rotation(rotation)
        container.metadata.update(metadata or {})
        if language is not None:
            stream.metadata["language"] = language
        sound = None
        if audio is not None:
            sound = container.add_stream(audio, RATES[audio])
            sound.codec_context.layout = "mono"
        container.set_chapters(
            [
                {
                    "id": i,
                    "start": int(start * 1000),
                    "end": int(end * 1000),
                    "time_base": Fraction(1, 1000),
                    "metadata": {"title": title},
                }
                for i, (start, end, title) in enumerate(chapters)
            ]
        )
        more = extra(container) if extra is not None else None
        container.start_encoding()
        if more is not None:
            container.mux(more())
        length = seconds or float((times[-1] - times[0] + 1) * time_base)
        tone = _tone(sound, audio, audio_start, length) if sound is not None else iter(())
        due = next(tone, None)
        for frame, time in zip(frames, times, strict=True):
            image = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(
                format=pixel_format,
                dst_colorspace=matrix if matrix in (1, 5, 6, 9) else 5,
                dst_color_range=2 if full else 1,
                interpolation=2 | 0x40000,
            )
            image.pts, image.time_base = time, time_base
            while due is not None and due.pts * due.time_base <= time * time_base:
                container.mux(sound.encode(due))
                due = next(tone, None)
            container.mux(stream.encode(image))
        while due is not None:
            container.mux(sound.encode(due))
            due = next(tone, None)
        container.mux(stream.encode())
        if sound is not None:
            container.mux(sound.encode())
    return path


def _tone(stream: Any, codec: str, start: Fraction, seconds: float) -> Any:
    size = 1024 if codec == "aac" else 960
    rate = RATES[codec]
    name = stream.codec_context.format.name
    for first in range(0, int(seconds * rate), size):
        wave = np.sin(np.arange(first, first + size) * (440 * 2 * np.pi / rate)) * 0.3
        if name == "s16":
            samples = (wave * 32767).astype(np.int16)[None]
        else:
            samples = wave.astype(np.float32)[None]
        frame = av.AudioFrame.from_ndarray(samples, format=name, layout="mono")
        frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
        frame.pts = first + int(start * rate)
        yield frame


def packets(path: Path, kind: str) -> list[tuple[int | None, str]]:
    """(pts, digest of the bytes) of all packets of a kind, as PyAV reads them."""
    import hashlib

    with av.open(str(path)) as container:
        stream = getattr(container.streams, kind)[0]
        return [
            (packet.pts, hashlib.md5(bytes(packet)).hexdigest())
            for packet in container.demux(stream)
            if packet.size
        ]


def probe(path: Path, *arguments: str) -> Any:
    """What ffprobe says, which shares no code with PyAV's wheel but the project it came from."""
    if FFPROBE is None:
        pytest.skip("needs ffprobe as a second reader")
    command = [FFPROBE, "-v", "error", "-of", "json", *arguments, str(path)]
    return json.loads(subprocess.check_output(command))


def probed_packets(path: Path, kind: str) -> list[tuple[int, str]]:
    """The same as `packets`, as ffprobe reads them."""
    found = probe(
        path,
        *("-select_streams", f"{kind[0]}:0", "-show_packets", "-show_data_hash", "md5"),
        *("-show_entries", "packet=pts,data_hash"),
    )
    return [(packet["pts"], packet["data_hash"]) for packet in found["packets"]]


def decoded(path: Path, format_name: str = "rgb24") -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format=format_name) for frame in container.decode(video=0)]
