"""Upscale a video file: the first video stream, frame by frame; all other streams are copied.

>>> from anchorsr.video.upscale import upscale_video
>>> upscale_video("film.mp4", "film_x3.mp4").frames_per_second

Needs `pip install 'anchorsr[video]'`.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from anchorsr.errors import InUseError, OutputError, VideoError, needs
from anchorsr.inference.automatic import Selection, select_film_model
from anchorsr.inference.upscaler import Upscaler
from anchorsr.models.registry import AUTO_MODEL
from anchorsr.utils.files import (
    cannot_read,
    check_free,
    check_not_input,
    input_first,
    is_same_file,
)
from anchorsr.utils.locks import FileLocks
from anchorsr.utils.sample_image import sample_image
from anchorsr.video.codecs import CODECS, MAX_SIDE, SUFFIXES, Codec, choose_codec, largest_rate
from anchorsr.video.colour import subsampling
from anchorsr.video.damage import codec_name, estimate_film, source_rate
from anchorsr.video.journal import Journal
from anchorsr.video.pipeline import Timings, VideoPipeline, output_size
from anchorsr.video.source import Source
from anchorsr.video.target import Target
from anchorsr.video.tile_reuse import ReusingUpscaler
from anchorsr.video.workfiles import WorkFiles, prepared, publish_video, remove_finished

__all__ = ["CODECS", "SUFFIXES", "VideoProgress", "VideoResult", "default_target", "upscale_video"]

# Frames per second are those of the last few seconds.
_RATE_WINDOW_S = 5
# A halo that reaches over every frame.
_WHOLE_FRAME = 2**20
# FFmpeg opens a file with this beginning as the files that it names, even if that is itself.
_LIST = b"ffconcat"


@dataclass(frozen=True)
class VideoProgress:
    """The state of a running `upscale_video`.

    Attributes:
        frames: Frames encoded so far.
        total_frames: About as many as there will be; None if the source does not say.
        seconds: Length of the output so far.
        total_seconds: Length that the output will have; None if the source does not say.
        frames_per_second: Frames encoded per second over the last 5 seconds.
        reused: Share of the tiles, 0 to 1, copied from the previous frame instead of computed.
    """

    frames: int
    total_frames: int | None
    seconds: float
    total_seconds: float | None
    frames_per_second: float
    reused: float

    @property
    def seconds_left(self) -> float | None:
        """About how many seconds the rest takes; None if that is not known."""
        if self.total_frames is None or not self.frames_per_second:
            return None
        return max(self.total_frames - self.frames, 0) / self.frames_per_second


@dataclass(frozen=True)
class VideoResult:
    """A video that was written.

    Attributes:
        target: The output file.
        frames: Number of frames written.
        seconds: Length of the output.
        elapsed_s: Time it took, in seconds.
        reused: Share of the tiles, 0 to 1, copied from the previous frame instead of computed.
        timings: Seconds each step was busy. The steps run in parallel.
        problems: One line for each defect found in the source; empty if it is intact.
        selection: The model, its strengths, and why.
        earlier_frames: How many of the frames an earlier run had encoded.
    """

    target: Path
    frames: int
    seconds: float
    elapsed_s: float
    reused: float
    timings: Timings
    problems: tuple[str, ...]
    selection: Selection
    earlier_frames: int = 0

    @property
    def frames_per_second(self) -> float:
        """Frames per second of elapsed time, without those of an earlier run."""
        made = self.frames - self.earlier_frames
        return made / self.elapsed_s if self.elapsed_s else 0.0


def default_target(source: Path, factor: int) -> Path:
    """Name the output after the source: `<name>_x<factor>` in the same folder.

    Args:
        source: The input file.
        factor: Upscaling factor.

    Returns:
        A path with the source's suffix, if that container can be written. Otherwise the suffix is
        `.mkv`, or `.mov` for `.3gp` and `.3g2`, whose AMR sound Matroska cannot hold.
    """
    suffix = source.suffix
    if suffix.lower() not in SUFFIXES:
        suffix = ".mov" if suffix.lower() in (".3gp", ".3g2") else ".mkv"
    return source.with_name(f"{source.stem}_x{factor}{suffix}")


def upscale_video(
    source: str | Path,
    target: str | Path | None = None,
    *,
    model: str | Path = AUTO_MODEL,
    factor: int | None = None,
    upscaler: Upscaler | None = None,
    start: float | None = None,
    duration: float | None = None,
    codec: str | None = None,
    quality: int | None = None,
    deinterlace: str = "auto",
    sound: bool = True,
    threads: int | None = None,
    overwrite: bool = False,
    on_progress: Callable[[VideoProgress], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> VideoResult:
    """Upscale a video file.

    Matrix, range, transfer and primaries of the colours are kept, as is 4:2:0, 4:2:2 or 4:4:4
    chroma, in 8 bits; a matrix that the source leaves unspecified is guessed and written down.
    Where subsampled chroma needs an even side, the last line is repeated once. Rotation and pixel
    aspect are copied, not applied.

    The output is written to `<name>.part<suffix>` and renamed when complete. An interrupt
    (KeyboardInterrupt) or a full disk leaves what is done so far in the `.part` file, which can be
    played. Any other error deletes it. However a run ends, `<name><suffix>.resume` keeps its
    encoded frames, in whole segments of 250, and the same call goes on from there; the result has
    the frames of a run that nothing interrupted. Until then a long video takes twice its size on
    the disk.

    Args:
        source: The input file.
        target: A `.mp4`, `.m4v`, `.mov`, `.mkv` or `.webm` file; by default `default_target`.
        model: Name or path of a model; by default `video`, with strengths that follow from the
            source's rate and frames. Ignored with `upscaler`.
        factor: Upscaling factor, as for `anchorsr.upscale`. Ignored with `upscaler`.
        upscaler: The upscaler to use instead of one made from `model` and `factor`.
        start: Seconds into the source at which to begin; the first frame at or after it is at
            time 0 of the output.
        duration: Length of the output in seconds; by default up to the end of the source.
        codec: A key of `CODECS`; by default h264, or vp9 in a `.webm` file.
        quality: CRF of the codec; lower is better and larger. The default depends on the codec, and
            is then limited by a rate that follows from the source's.
        deinterlace: `auto` to deinterlace the frames that are marked as interlaced, `on` for all
            frames, `off` for none. The frame rate stays.
        sound: Whether to keep the sound. What the container cannot hold is converted, to FLAC,
            ALAC, AAC or Opus, whichever it can hold.
        threads: Number of threads; by default all processors.
        overwrite: Whether to replace an existing output.
        on_progress: Called a few times per second.
        on_note: Called with a line for each thing worth knowing: a stream that the container
            cannot hold, timestamps that it rounds, frames that are deinterlaced, the `.part` file
            left by an interrupt.

    Returns:
        What was written. A source that is damaged or cut off gives what could be read of it, and
        the result's `problems` say so.

    Raises:
        VideoError: The source is not a video, or is of an unsupported kind (more than 8 bits, HDR,
            transparency).
        OutputError: The target exists, is the source, is being written by another process, was
            begun with other options, or cannot be written.
        MissingDependencyError: PyAV is not installed.
    """
    with needs("av", "video"):
        import av  # noqa: F401 (only to fail early)
    source = Path(source)
    if source.is_dir():  # also ".", which has no name to derive the target's from
        raise VideoError(f"{source} is a folder; give a video file")
    _check_times(start, duration)
    check_source(source)
    upscaler = upscaler or Upscaler(model, factor, threads=threads)
    target = default_target(source, upscaler.factor) if target is None else Path(target)
    files = WorkFiles(target)
    part = files.part
    with input_first(lambda: Source(source, threads=1).close()):
        encoder, crf = choose_codec(target, codec, quality)
        _check_paths(source, files, overwrite=overwrite)
    note = on_note or (lambda _: None)
    with FileLocks() as locks:
        if not locks.acquire(target):
            raise InUseError(f"{target} is being written by another process")
        reader = Source(
            source, start=start, duration=duration, deinterlace=deinterlace, threads=threads
        )
        with contextlib.closing(reader):
            size = output_size(
                reader.first, upscaler.factor, subsampling(reader.colours.pixel_format)
            )
            if max(size) > MAX_SIDE:
                raise OutputError(
                    f"{target} would have {size[0]}x{size[1]} pixels; codecs take up to "
                    f"{MAX_SIDE} per side: upscale a smaller video"
                )
            selection = _select(upscaler, source, start, duration)
            upscaler = upscaler.for_selection(selection)
            if quality is None:
                encoder = _limited(encoder, reader, upscaler.factor)
            settings = {
                "input": [source.name, source.stat().st_size, source.stat().st_mtime_ns],
                "start": start,
                "duration": duration,
                "model or engine": _digest(upscaler),
                "size": size,
                "codec or rate limit": [
                    encoder.encoder,
                    encoder.options,
                    reader.colours.pixel_format,
                ],
                "quality": crf,
                "deinterlacing": deinterlace,
            }
            with prepared(files, settings, overwrite=overwrite) as journal:
                if journal.frames:
                    note(f"going on after the {journal.frames} frames of an earlier run")
                writer = Target(
                    target,
                    part,
                    reader,
                    size=size,
                    factor=upscaler.factor,
                    codec=encoder,
                    quality=crf,
                    threads=threads,
                    sound=sound,
                    journal=journal,
                    note=note,
                )
            with contextlib.closing(journal):
                result = _write(
                    reader,
                    writer,
                    upscaler,
                    selection,
                    journal,
                    on_progress or (lambda _: None),
                    note,
                )
        try:
            publish_video(files, overwrite=overwrite)
        except OutputError as error:
            raise OutputError(f"{error}; the finished video is {part}") from error
        return result


def _select(
    upscaler: Upscaler, source: Path, start: float | None, duration: float | None
) -> Selection:
    """Return the model for a film, and why."""
    if not upscaler.is_automatic:
        return Selection(upscaler.graph.name)
    estimate = estimate_film(source, start=start, duration=duration)
    return select_film_model(estimate, upscaler.factor)


def _limited(codec: Codec, source: Source, factor: int) -> Codec:
    """Return the codec with a limit that follows from the rate of the source, if there is one."""
    rate = source_rate(source.container, source.video)
    if rate is None:
        return codec
    most = largest_rate(codec_name(source.video), rate, factor, codec)
    return codec if most is None else codec.limited(most)


def _digest(upscaler: Upscaler) -> str:
    """Digest of what an upscaler makes of an image: another model or engine has another."""
    image = upscaler.upscale_rgb(sample_image(32, 48))
    return hashlib.sha256(image.tobytes()).hexdigest()[:16]


def _write(
    source: Source,
    target: Target,
    upscaler: Upscaler,
    selection: Selection,
    journal: Journal,
    on_progress: Callable[[VideoProgress], None],
    note: Callable[[str], None],
) -> VideoResult:
    """Upscale all of a source; the `.part` file is complete when this returns."""
    # With strides a pixel also depends on where its tile begins: a changed frame is computed whole.
    halo = upscaler.graph.halo if upscaler.graph.multiple == 1 else _WHOLE_FRAME
    frames = ReusingUpscaler(upscaler.upscale_rgb, factor=upscaler.factor, halo=halo)
    kept = journal.frames
    pipeline = VideoPipeline(source, target, frames, kept)
    progress = _Progress(source, target, frames, kept)
    started = time.perf_counter()
    try:
        pipeline.run(lambda: on_progress(progress.measure()))
    except BaseException as error:
        interrupted = isinstance(error, KeyboardInterrupt)
        if interrupted and target.finished and target.frames:
            note(_describe_part(source, target, journal))
            raise
        target.discard()
        if not journal.frames:
            journal.remove()
        if interrupted:
            note(f"{journal.frames} frames are kept: {_describe_kept(journal)}")
        raise
    if target.disk_is_full:
        raise OutputError(f"the disk is full: {_describe_part(source, target, journal)}")
    if source.deinterlaced:
        note(
            f"{source.path} is interlaced and was deinterlaced; --deinterlace off takes it as it is"
        )
    return VideoResult(
        target=target.path,
        frames=target.frames,
        seconds=float(target.seconds),
        elapsed_s=time.perf_counter() - started,
        reused=frames.share_reused,
        timings=pipeline.timings,
        problems=(*source.problems, *target.problems),
        selection=selection,
        earlier_frames=kept,
    )


def _describe_part(source: Source, target: Target, journal: Journal) -> str:
    """Say what an unfinished output holds, and how to get the rest."""
    done = float(target.seconds)
    of = "" if source.seconds is None else f" of {float(source.seconds):.2f}"
    return (
        f"{target.part} holds the first {done:.2f}{of} seconds and can be played; "
        f"{_describe_kept(journal)}"
    )


def _describe_kept(journal: Journal) -> str:
    if not journal.frames:
        return "the same command starts over"
    return f"the same command goes on after {journal.frames} frames"


class _Progress:
    """Measures the progress of a video, with a frame rate over the last few seconds."""

    def __init__(self, source: Source, target: Target, frames: ReusingUpscaler, kept: int) -> None:
        self._source = source
        self._target = target
        self._frames = frames
        self._kept = kept
        self._recent: list[tuple[float, int]] = []  # (time, frames by then)

    def measure(self) -> VideoProgress:
        now, frames = time.perf_counter(), self._target.frames
        if frames <= self._kept:  # those of an earlier run take no time
            self._recent.clear()
        self._recent.append((now, frames))
        while len(self._recent) > 2 and self._recent[1][0] < now - _RATE_WINDOW_S:
            self._recent.pop(0)
        since, before = self._recent[0]
        total = self._source.seconds
        return VideoProgress(
            frames=frames,
            total_frames=self._total_frames(),
            seconds=float(self._target.seconds),
            total_seconds=None if total is None else float(total),
            frames_per_second=(frames - before) / (now - since) if now > since else 0.0,
            reused=self._frames.share_reused,
        )

    def _total_frames(self) -> int | None:
        if self._source.frames and not self._source.cut:
            return self._source.frames
        rate = self._source.video.average_rate
        return round(self._source.seconds * rate) if self._source.seconds and rate else None


def _check_times(start: float | None, duration: float | None) -> None:
    if start is not None and not 0 <= start < 1e9:
        raise VideoError(f"the start must be at least 0 seconds, not {start}")
    if duration is not None and not 0 < duration < 1e9:
        raise VideoError(f"the duration must be more than 0 seconds, not {duration}")


def check_source(source: Path) -> None:
    """Raise VideoError unless the file is there, can be read and may be a video."""
    try:
        if source.exists() and not source.is_file():  # opening a pipe would wait for ever
            raise VideoError(f"{source} is a device; give a video file")
        with source.open("rb") as file:
            begin = file.read(len(_LIST))
        if not begin:
            raise VideoError(f"{source} is empty (0 bytes); copy or download it again")
        if begin == _LIST:
            raise VideoError(f"{source} is a list of videos; give one of them")
    except (OSError, ValueError) as error:
        raise VideoError(f"{source} {cannot_read(error)}") from error


def _check_paths(source: Path, files: WorkFiles, *, overwrite: bool) -> None:
    target = files.target
    check_not_input(target, [source])
    for other in (files.part, files.resume):
        if is_same_file(source, other):
            raise OutputError(
                f"{target} would first be written as {other}, which is the input: choose another"
                " name"
            )
    with contextlib.suppress(OSError, ValueError):  # whatever is wrong is told by the next line
        remove_finished(target)
    check_free(target, overwrite=overwrite)
