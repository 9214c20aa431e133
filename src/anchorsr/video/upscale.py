"""Videos made larger: file to file, with sound, subtitles, chapters and times as they were.

>>> from anchorsr.video.upscale import upscale_video
>>> upscale_video("film.mp4", "film_x3.mp4").frames_per_second

The first video stream goes through the network, frame by frame; all others are copied packet by
packet. Needs `pip install 'anchorsr[video]'`.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from anchorsr.errors import OutputError, VideoError, needs
from anchorsr.inference.upscaler import Upscaler
from anchorsr.models.registry import DEFAULT
from anchorsr.utils.files import check_free, check_not_input, is_same_file, move_into_place, reason
from anchorsr.utils.locks import Claims
from anchorsr.video.codecs import CODECS, LONGEST_SIDE, SUFFIXES, Codec, choose_codec
from anchorsr.video.colour import subsampling
from anchorsr.video.pipeline import Clock, Pipeline, frame_size
from anchorsr.video.source import Source
from anchorsr.video.target import Target
from anchorsr.video.tile_reuse import ReusingUpscaler

__all__ = ["CODECS", "SUFFIXES", "Progress", "VideoResult", "default_target", "upscale_video"]


@dataclass(frozen=True)
class Progress:
    """How far a video is: frames encoded, seconds of it done, and of how many, if that is known.

    frames_per_second: of the last few seconds. reused: the share of tiles not computed again.
    """

    frames: int
    seconds: float
    total_seconds: float | None
    frames_per_second: float
    reused: float


@dataclass(frozen=True)
class VideoResult:
    """A video that was written.

    seconds: its length; elapsed_s: how long it took. clock: how long each step was busy; they
    run side by side. reused: the share of tiles whose input equalled the last frame's, and which
    were not computed again. problems: a line for whatever the source lacks; empty if it is whole.
    """

    target: Path
    frames: int
    seconds: float
    elapsed_s: float
    reused: float
    clock: Clock
    problems: tuple[str, ...]

    @property
    def frames_per_second(self) -> float:
        return self.frames / self.elapsed_s if self.elapsed_s else 0.0


def default_target(source: Path, factor: int) -> Path:
    """`<name>_x<factor>` beside the source: with its suffix, or another where that is not written.

    That is .mkv, and .mov for the .3gp of old telephones, whose sound Matroska does not hold.
    """
    suffix = source.suffix
    if suffix.lower() not in SUFFIXES:
        suffix = ".mov" if suffix.lower() in (".3gp", ".3g2") else ".mkv"
    return source.with_name(f"{source.stem}_x{factor}{suffix}")


def upscale_video(
    source: str | Path,
    target: str | Path | None = None,
    *,
    model: str | Path = DEFAULT,
    factor: int | None = None,
    start: float | None = None,
    duration: float | None = None,
    codec: str | None = None,
    quality: int | None = None,
    threads: int | None = None,
    overwrite: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
    on_note: Callable[[str], None] | None = None,
    upscaler: Upscaler | None = None,
) -> VideoResult:
    """Write a larger video: .mp4, .m4v, .mov, .mkv or .webm, by the suffix of `target`.

    target: beside the source as `<name>_x<factor>` unless it is given. model, factor: as for
    `anchorsr.upscale`, unless an `upscaler` is given. start, duration: seconds; frames from the
    first at or after `start`, and the packets that go with them, moved to time 0. codec: a key of
    `CODECS`; by default h264, or vp9 in .webm. quality: the codec's CRF, where lower is better
    and larger. threads: all processors by default. on_progress is called a few times a second;
    on_note with lines that are worth reading: a stream that the container cannot hold, times that
    it rounds, where the part is that an interrupt leaves.

    Colours: matrix, range, transfer and primaries stay; 4:2:0, 4:2:2 and 4:4:4 stay, in 8 bits;
    a matrix that the source leaves open is settled and written down. Where a 4:2:0 image would
    get an odd side, its last line is repeated once. Rotation and pixel aspect are copied, not
    applied.

    A source that is damaged or cut off gives what could be read of it; the result's `problems`
    say so. An interrupt (KeyboardInterrupt) leaves what is done so far as `<name>.part<suffix>`,
    which can be played, and so does a full disk, which raises OutputError. Whatever else goes
    wrong leaves nothing.
    Raises VideoError for a source that is not a video or not of a kind that is handled (more than
    8 bits, HDR, transparency, interlaced), OutputError for a target that exists, equals the
    source, is being made by another run or cannot be written.
    """
    with needs("av", "video"):
        import av  # noqa: F401 (only to say what is missing)
    source = Path(source)
    if not source.name:  # as "." has none, from which that of a result could be made
        raise VideoError(f"{source} is a folder; give a video file")
    _check_numbers(start, duration)
    upscaler = upscaler or Upscaler(model, factor, threads=threads)
    target = default_target(source, upscaler.factor) if target is None else Path(target)
    encoder, crf = choose_codec(target, codec, quality)
    part = target.with_name(f"{target.stem}.part{target.suffix}")
    _check_names(source, target, part, overwrite=overwrite)
    reading = Source(source, start=start, duration=duration, threads=threads)
    with contextlib.closing(reading), Claims() as claims:
        if not claims.take(target):
            raise OutputError(f"{target} is being made by another run")
        with _making_way(part, overwrite=overwrite):
            job = _Job(reading, target, part, upscaler, encoder, crf, threads, on_progress, on_note)
        result = job.run()
        try:
            move_into_place(part, target, overwrite=overwrite)
        except OutputError as error:
            raise OutputError(f"{error}; the finished video is {part}") from error
        return result


class _Job:
    """One video on its way."""

    def __init__(
        self,
        source: Source,
        target: Path,
        part: Path,
        upscaler: Upscaler,
        codec: Codec,
        quality: int,
        threads: int | None,
        on_progress: Callable[[Progress], None] | None,
        on_note: Callable[[str], None] | None,
    ) -> None:
        size = frame_size(source.first, upscaler.factor, subsampling(source.colours.pixel_format))
        if max(size) > LONGEST_SIDE:
            raise OutputError(
                f"{target} would have {size[0]} x {size[1]} pixels, more than the {LONGEST_SIDE} "
                f"a side that codecs take: make the video smaller first"
            )
        self._path = target
        self._source = source
        self._note = on_note or (lambda _: None)
        self._on_progress = on_progress or (lambda _: None)
        self._target = Target(
            target,
            part,
            source,
            size=size,
            factor=upscaler.factor,
            codec=codec,
            quality=quality,
            threads=threads,
            note=self._note,
        )
        self._reusing = ReusingUpscaler(upscaler, factor=upscaler.factor, halo=upscaler.graph.halo)
        self._pipeline = Pipeline(source, self._target, self._reusing)
        self._recent: list[tuple[float, int]] = []

    def run(self) -> VideoResult:
        """All of it; the part is finished when this returns."""
        started = time.perf_counter()
        try:
            self._pipeline.run(self._tick)
        except KeyboardInterrupt:
            if self._target.finished and self._target.frames:
                self._note(self._what_is_done())
            else:
                self._target.discard()
                self._note("nothing is left of the video that was begun")
            raise
        except BaseException:
            self._target.discard()
            raise
        if self._target.disk_is_full:
            raise OutputError(f"the disk is full: {self._what_is_done()}")
        return VideoResult(
            target=self._path,
            frames=self._target.frames,
            seconds=float(self._target.seconds),
            elapsed_s=time.perf_counter() - started,
            reused=self._reused(),
            clock=self._pipeline.clock,
            problems=(*self._source.problems, *self._target.problems),
        )

    def _what_is_done(self) -> str:
        done = float(self._target.seconds)
        whole = self._source.seconds
        of = "" if whole is None else f" of {float(whole):.2f}"
        begin = self._source.resume_after(self._target.seconds)
        return (
            f"the first {done:.2f}{of} seconds are in {self._target.part} and can be played; "
            f"--start {float(begin):.3f} and another --output go on from there"
        )

    def _reused(self) -> float:
        return self._reusing.reused / self._reusing.tiles if self._reusing.tiles else 0.0

    def _tick(self) -> None:
        now, frames = time.perf_counter(), self._target.frames
        self._recent.append((now, frames))
        while len(self._recent) > 2 and self._recent[1][0] < now - 5:
            self._recent.pop(0)
        since, before = self._recent[0]
        total = self._source.seconds
        self._on_progress(
            Progress(
                frames=frames,
                seconds=float(self._target.seconds),
                total_seconds=None if total is None else float(total),
                frames_per_second=(frames - before) / (now - since) if now > since else 0.0,
                reused=self._reused(),
            )
        )


def _check_numbers(start: float | None, duration: float | None) -> None:
    if start is not None and not 0 <= start < 1e9:
        raise VideoError(f"a video starts at 0 seconds or later, not {start}")
    if duration is not None and not 0 < duration < 1e9:
        raise VideoError(f"a duration is more than 0 seconds, not {duration}")


def _check_names(source: Path, target: Path, part: Path, *, overwrite: bool) -> None:
    check_not_input(target, [source])
    if is_same_file(source, part):
        raise OutputError(f"{target} grows as {part}, which is the input: write to another name")
    check_free(target, overwrite=overwrite)


@contextlib.contextmanager
def _making_way(part: Path, *, overwrite: bool) -> Iterator[None]:
    """Delete what an earlier run left, if that is allowed, once the block has begun a new one."""
    if not os.path.lexists(part):
        yield
        return
    if not overwrite:
        raise OutputError(
            f"{part} is there from an earlier run: move or delete it, or allow overwriting"
        )
    if part.is_dir():
        raise OutputError(f"{part} is a folder: move it away")
    aside = part.with_name(f".anchorsr-{secrets.token_hex(4)}.tmp")
    try:
        part.rename(aside)
    except OSError as error:
        raise OutputError(f"{part} is in the way and cannot be moved: {reason(error)}") from error
    try:
        yield
    except BaseException:
        aside.rename(part)
        raise
    aside.unlink()
