"""Measure how fast videos are upscaled, and where the time goes.

    python benchmarks/video.py --image photograph.jpg [--model fast] [--threads 2] [--seconds 10]

A natural video is compared with a screen recording. Both are 640x360 H.264 at 30 frames per second
with sound, made from one photograph: a pan over it, and a moving window on a desktop of which four
fifths stand still. The columns after `reused` are milliseconds per frame; the steps run in
parallel. `CPU` is the time of all threads together, and `cores / CPU` the frames per second that an
idle machine could reach at best.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from anchorsr.engines.runtimes import default_threads
from anchorsr.inference.upscaler import Upscaler
from anchorsr.models.registry import DEFAULT
from anchorsr.video.upscale import upscale_video
from exactness import exit_code

WIDTH, HEIGHT, RATE = 640, 360, 30


def pan(photograph: np.ndarray, count: int) -> Iterator[np.ndarray]:
    """Pan over the photograph along a curve, so that every pixel changes."""
    rows, columns = photograph.shape[0] - HEIGHT, photograph.shape[1] - WIDTH
    for index in range(count):
        top = int((np.sin(index / 40) + 1) / 2 * rows)
        left = int((np.cos(index / 55) + 1) / 2 * columns)
        yield photograph[top : top + HEIGHT, left : left + WIDTH]


def screen(photograph: np.ndarray, count: int) -> Iterator[np.ndarray]:
    """Show the pan in a window on a still desktop."""
    desktop = np.full((HEIGHT, WIDTH, 3), 235, np.uint8)
    desktop[:24] = 60
    lines = np.random.default_rng(0).integers(40, 560, 40)
    for row, length in enumerate(lines):  # lines of text
        desktop[32 + row * 8 : 36 + row * 8, 16 : 16 + length : 3] = 40
    desktop[96:224, 200:408] = 200  # the window's frame
    for frame in pan(photograph, count):
        image = desktop.copy()
        image[104:216, 208:400] = frame[:112, :192]
        yield image


def write(path: Path, frames: Iterator[np.ndarray]) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", RATE, options={"preset": "medium", "crf": "20"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        sound = container.add_stream("aac", 48_000)
        for index, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, RATE)
            container.mux(stream.encode(frame))
            wave = np.sin(np.arange(1600) * 0.05, dtype=np.float32) * 0.3
            tone = av.AudioFrame.from_ndarray(np.stack((wave, wave)), format="fltp")
            tone.sample_rate, tone.pts, tone.time_base = 48_000, index * 1600, Fraction(1, 48_000)
            container.mux(sound.encode(tone))
        container.mux(stream.encode())
        container.mux(sound.encode())


def measure(options: argparse.Namespace) -> list[str]:
    with Image.open(options.image) as image:
        photograph = np.asarray(image.convert("RGB").resize((1280, 960), Image.Resampling.BICUBIC))
    upscaler = Upscaler(options.model, threads=options.threads)
    upscaler(np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    print(f"{options.model}, {options.threads} threads, {options.seconds} s of {WIDTH}x{HEIGHT}")
    head = "frames/s", "reused", "decode", "network", "convert", "encode", "CPU", "cores / CPU"
    print(f"{'':8}", *(f"{name:>11}" for name in head))
    with tempfile.TemporaryDirectory() as folder:
        for name, frames in (("natural", pan), ("screen", screen)):
            source = Path(folder, f"{name}.mp4")
            write(source, frames(photograph, options.seconds * RATE))
            before = time.process_time()
            result = upscale_video(
                source, Path(folder, f"{name}_x.mp4"), upscaler=upscaler, threads=options.threads
            )
            busy = (time.process_time() - before) / result.frames
            busy = result.timings
            steps = (busy.decode_s, busy.network_s, busy.convert_s, busy.encode_s)
            figures = [f"{result.frames_per_second:.1f}", f"{result.reused:.0%}"]
            figures += [f"{step / result.frames * 1000:.1f}" for step in steps]
            figures += [f"{busy * 1000:.1f}", f"{options.threads / busy:.1f}"]
            print(f"{name:8}", *(f"{figure:>11}" for figure in figures), flush=True)
    return []


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--image", type=Path, required=True, help="a photograph")
    parser.add_argument("--model", default=DEFAULT)
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--seconds", type=int, default=10)
    options = parser.parse_args()
    return exit_code("video.py", lambda: measure(options))


if __name__ == "__main__":
    sys.exit(main())
