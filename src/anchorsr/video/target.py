"""Write a video file: one encoded stream, and copies of all others.

The file has a `.part` name until it is complete. It can be finished at any moment, even when the
disk is full: reserved disk space is then freed for what finishing needs.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import tempfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anchorsr.errors import OutputError
from anchorsr.utils.files import reason
from anchorsr.video.codecs import Codec, container_format
from anchorsr.video.source import Source

if TYPE_CHECKING:
    from av import Packet, VideoFrame
    from av.stream import Stream
    from av.video.stream import VideoStream

# Bytes for the index of a file and the frames still in the encoder: 100,000 frames and their sound
# have an index of 4 MB.
_RESERVE = 16 * 2**20

_ATTACHED_PICTURE = 1 << 10
_CENTRE = "center"  # where a mean over a square of pixels lies

# Tags of the container or its muxer, and statistics of the stream that is re-encoded.
_NOT_COPIED = {
    "major_brand", "minor_version", "compatible_brands", "encoder", "DURATION",
    "BPS", "NUMBER_OF_FRAMES", "NUMBER_OF_BYTES", "SOURCE_ID",
    "_STATISTICS_WRITING_APP", "_STATISTICS_WRITING_DATE_UTC", "_STATISTICS_TAGS",
}  # fmt: skip

# The layout of so many channels, as in FFmpeg's av_channel_layout_default.
_DEFAULT_LAYOUTS = {
    "1 channels": "mono",
    "2 channels": "stereo",
    "3 channels": "2.1",
    "4 channels": "4.0",
    "5 channels": "5.0",
    "6 channels": "5.1",
    "7 channels": "6.1",
    "8 channels": "7.1",
}

# Side data of frames that PyAV cannot pass to an encoder.
_NOT_KEPT = {
    "A53_CC": "the closed captions embedded in the frames",
    "SPHERICAL": "the spherical video metadata",
    "STEREO3D": "the stereo 3D metadata",
}


class Target:
    """Encodes upscaled frames and copies packets into a `.part` file.

    Args:
        path: The final output file, whose suffix says which container it is.
        part: The file to write.
        source: The source, whose streams and metadata are copied.
        size: Width and height of the frames.
        factor: Upscaling factor.
        codec: The encoder.
        quality: CRF.
        threads: Number of encoder threads; by default all processors.
        note: Called with a line for each stream that the container cannot hold, and for
            timestamps that it rounds.

    Attributes:
        path: As above.
        part: As above.
        frames: Number of frames encoded so far.
        finished: Whether the file is complete.
        problems: One line for each stream with packets that were left out.
        end: End time of the last frame.

    Raises:
        OutputError: The file cannot be written, or the container cannot hold the streams.
    """

    def __init__(
        self,
        path: Path,
        part: Path,
        source: Source,
        *,
        size: tuple[int, int],
        factor: int,
        codec: Codec,
        quality: int,
        threads: int | None,
        note: Callable[[str], None],
    ) -> None:
        import av

        self.path = path
        self.part = part
        self.frames = 0
        self.finished = False
        self.problems: list[str] = []
        self.end = source.origin
        self._durations: dict[int, int] = {}
        self._last: dict[int, int] = {}  # dts of each copied stream
        self._left_out: dict[int, int] = {}  # number of packets of each
        self._source = source
        self._file = _Output(part)
        try:
            self._container = av.open(
                self._file,
                "w",
                format=container_format(path),
                options=_muxer_options(source, container_format(path)),
                metadata_errors="surrogateescape",
            )
            self._video = self._add_video(size, codec, quality, factor, threads)
            self._copies = self._add_copies(note)
            self._copy_metadata()
            self._container.start_encoding()
        except (av.FFmpegError, OSError, ValueError) as error:
            self.discard()
            other = "" if path.suffix.lower() == ".mkv" else "; a .mkv file may be able to hold it"
            raise OutputError(f"{path} cannot be started ({reason(error)}){other}") from error
        except BaseException:
            self.discard()
            raise
        self._note_rounding(note)
        for kind, words in _NOT_KEPT.items():
            if kind in source.side_data:
                note(f"{words} of {_describe(source.video)} are not kept")

    @property
    def seconds(self) -> Fraction:
        """Length of what is encoded so far."""
        return self.end - self._source.origin

    @property
    def disk_is_full(self) -> bool:
        """Whether the reserved space is in use; the file should be finished now."""
        return self._file.full

    def encode(self, frame: VideoFrame) -> None:
        """Encode a frame, whose pts and duration are in the time base of the source."""
        if frame.duration:
            self._durations[frame.pts or 0] = frame.duration
        self.frames += 1
        end = (frame.pts or 0) + frame.duration
        self.end = max(self.end, end * self._base)
        self._mux(self._video.encode(frame))

    def copy(self, packet: Packet[Stream]) -> None:
        """Write a packet of another stream unchanged, unless it goes back in time."""
        index, copy = packet.stream.index, self._copies[packet.stream.index]
        if packet.dts is not None and copy.type in ("audio", "video") and copy.time_base:
            dts = round(packet.dts * packet.time_base / copy.time_base)
            equal = self._container.format.name == "matroska"  # equal timestamps are allowed
            if dts < self._last.get(index, dts - 1) + (not equal):
                self._left_out[index] = self._left_out.get(index, 0) + 1
                return
            self._last[index] = dts
        packet.stream = copy
        self._mux([packet])

    def finish(self) -> None:
        """Flush the encoder and complete the file.

        Raises:
            OutputError: The file cannot be written.
        """
        import av

        try:
            self._mux(self._video.encode(None))
            self._container.close()
            self._file.close()
        except (av.FFmpegError, OSError, ValueError) as error:
            raise self._cannot_write(error) from error
        self.finished = True
        for index, count in self._left_out.items():
            name = _describe(self._source.container.streams[index])
            self.problems.append(
                f"{count} packets of {name} are not later than the previous one, and are left out"
            )

    def discard(self) -> None:
        """Delete the file."""
        self._file.abandon()
        if hasattr(self, "_container"):
            with contextlib.suppress(Exception):  # the trailer is not written
                self._container.close()
        with contextlib.suppress(OSError):
            self._file.close()
        with contextlib.suppress(OSError):
            self.part.unlink()

    def _mux(self, packets: list[Any]) -> None:
        import av

        try:
            for packet in packets:
                if packet.stream is self._video:
                    # Encoders leave the duration unset, or derive it from the frame rate.
                    packet.duration = self._durations.pop(packet.pts, 0)
                self._container.mux_one(packet)
        except (av.FFmpegError, OSError, ValueError) as error:
            raise self._cannot_write(error) from error

    def _cannot_write(self, error: BaseException) -> OutputError:
        full = isinstance(error, OSError) and error.errno in _FULL
        hint = ": free some space, or write to another disk" if full else ""
        return OutputError(f"{self.path} cannot be written ({reason(error)}){hint}")

    def _add_video(
        self, size: tuple[int, int], codec: Codec, quality: int, factor: int, threads: int | None
    ) -> VideoStream:
        import av

        source, colours = self._source, self._source.colours
        template = source.video
        self._base = source.first.time_base or template.time_base or Fraction(1, 1000)
        rate = template.average_rate or template.guessed_rate or Fraction(25)
        rate = min(rate, Fraction(codec.max_rate))  # only declared: frames have timestamps
        options = {**codec.options, "crf": str(quality)}
        if colours.pixel_format == "yuv420p":
            options["chroma_sample_location"] = _CENTRE
        try:
            stream: Any = self._container.add_stream(codec.encoder, rate, options=options)
        except av.codec.codec.UnknownCodecError:
            raise OutputError(
                f"this PyAV has no encoder {codec.encoder}: use another codec or another PyAV"
            ) from None
        except ValueError:
            raise OutputError(
                f"a {self.path.suffix} file cannot hold what {codec.encoder} writes: "
                f"use another codec, or write a .mkv file"
            ) from None
        context = stream.codec_context
        context.width, context.height = size
        context.pix_fmt = colours.pixel_format
        context.time_base = self._base
        context.thread_count = threads or 0
        context.color_range = colours.range
        context.colorspace = colours.matrix
        context.color_trc = colours.transfer
        context.color_primaries = colours.primaries
        context.sample_aspect_ratio = template.sample_aspect_ratio or Fraction(0, 1)
        if codec.encoder == "libx265" and container_format(self.path) in ("mp4", "mov"):
            context.codec_tag = "hvc1"  # Apple's players require it
        stream.time_base = self._base
        matrix = source.display_matrix
        if matrix is not None:
            matrix[6], matrix[7] = matrix[6] * factor, matrix[7] * factor  # a translation in pixels
            stream.set_display_matrix(matrix)
        _copy_tags(template, stream)
        added: VideoStream = stream
        return added

    def _add_copies(self, note: Callable[[str], None]) -> dict[int, Stream]:
        """Add a stream for each other one of the source that the container can hold."""
        copies: dict[int, Stream] = {}
        chapters = bool(self._source.container.chapters())
        matroska = self._container.format.name == "matroska"
        for template in list(self._source.container.streams):
            if template.index == self._source.video.index:
                continue
            copy = self._add_copy(template)
            if copy is not None:
                _copy_tags(template, copy)
                copies[template.index] = copy
                continue
            self._source.leave_out(template)
            name = _describe(template)
            if template.type == "audio":
                other = ".mov" if matroska else ".mov or .mkv"
                hint = f"write a {other} file, or convert its sound first"
                raise OutputError(f"{self.path} cannot hold {name}: {hint}")
            # The muxer writes its own list of chapters and its own time code track.
            own = template.name == "bin_data" and chapters
            if not own and "timecode" not in template.metadata:
                note(f"{name} is left out: {self.path.suffix} files cannot hold it")
        return copies

    def _add_copy(self, template: Stream) -> Stream | None:
        if template.type == "unknown" or (
            template.type in ("data", "attachment") and self._container.format.name != "matroska"
        ):
            return None
        if template.type == "data":  # Matroska cannot hold them either
            return None
        try:
            copy: Any = self._container.add_stream_from_template(template, opaque=True)
        except ValueError:
            return None
        if template.type == "audio":
            # MP4 needs a channel layout, which PCM in AVI and Matroska does not have.
            context: Any = template.codec_context
            if context.layout.name in _DEFAULT_LAYOUTS:
                copy.codec_context.layout = _DEFAULT_LAYOUTS[context.layout.name]
        added: Stream = copy
        return added

    def _copy_metadata(self) -> None:
        source = self._source
        for key, value in source.container.metadata.items():
            if key not in _NOT_COPIED:
                self._container.metadata[key] = value
        kept = []
        for chapter in source.container.chapters():
            base = chapter["time_base"] or Fraction(1, 1000)
            shift = round(source.shift / base)
            start, end = max(chapter["start"] - shift, 0), chapter["end"] - shift
            if source.cut and source.seconds is not None:
                end = min(end, int(source.seconds / base))
            if end > start or not source.cut:
                kept.append({**chapter, "start": start, "end": end})
        self._container.set_chapters(kept)  # type: ignore[arg-type]

    def _note_rounding(self, note: Callable[[str], None]) -> None:
        """Report the streams whose time base the container cannot represent exactly."""
        rounded = []
        pairs = [(self._source.video, self._video)]
        streams = self._source.container.streams
        pairs += [(streams[index], copy) for index, copy in self._copies.items()]  # type: ignore[misc]
        for template, copy in pairs:
            base, given = copy.time_base, template.time_base
            timed = template.type in ("video", "audio", "subtitle")
            timed &= not template.disposition & _ATTACHED_PICTURE
            if timed and base and given and (given / base).denominator != 1:
                rounded.append(f"{_describe(template)} to {_step(base)}")
        if rounded:
            note(f"{self.path.suffix} files round the timestamps of {', '.join(rounded)}")


def _muxer_options(source: Source, container: str) -> dict[str, str]:
    """Keep Apple's metadata keys, such as the location, where the source has any."""
    apple = any(key.startswith("com.") for key in source.container.metadata)
    return {"movflags": "use_metadata_tags"} if apple and container in ("mp4", "mov") else {}


class _Output(io.RawIOBase):
    """A new file that frees reserved space, and sets `full`, once the disk is full."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.full = False
        self._abandoned = False
        self._reserve: Any = None
        try:
            self._file = io.FileIO(path, "xb")
        except OSError as error:
            raise OutputError(f"{path} cannot be written ({reason(error)})") from error
        try:
            self._reserve = tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115 (kept open)
            for _ in range(_RESERVE // 2**20):
                self._reserve.write(bytes(2**20))
            self._reserve.flush()
        except OSError as error:
            self._file.close()
            path.unlink()
            raise OutputError(
                f"{path.parent} has no space for a video ({reason(error)}): free some space, or "
                f"write to another disk"
            ) from error

    def write(self, data: Any) -> int:
        view = memoryview(data)
        while view and not self._abandoned:
            try:
                view = view[self._file.write(view) :]
            except OSError as error:
                if self.full or error.errno not in _FULL:
                    raise
                self.full = True
                self._reserve.close()
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def abandon(self) -> None:
        """Drop everything that is still written."""
        self._abandoned = True

    def close(self) -> None:
        super().close()
        if self._reserve is not None:
            self._reserve.close()
        self._file.close()


_FULL = (errno.ENOSPC, errno.EDQUOT)


def _copy_tags(template: Stream, stream: Stream) -> None:
    """Copy metadata, including the language, and dispositions such as default and forced."""
    for key, value in template.metadata.items():
        # mkvmerge appends a language to the key.
        if key.partition("-")[0] not in _NOT_COPIED and not key.startswith("_STATISTICS"):
            stream.metadata[key] = value
    stream.disposition = template.disposition


def _describe(stream: Stream) -> str:
    """`stream 2 (subtitle, subrip, eng)`."""
    details = [stream.type, getattr(stream, "name", None), stream.metadata.get("language")]
    said = [detail for detail in details if detail and detail != "und"]
    return f"stream {stream.index} ({', '.join(said)})"


def _step(base: Fraction) -> str:
    milliseconds = base * 1000
    return f"{milliseconds} ms" if milliseconds.denominator == 1 else f"{base} s"
