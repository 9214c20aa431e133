"""Write a video file: one encoded stream, and copies of all others.

The file has a `.part` name until it is complete. It can be finished at any moment, even when the
disk is full: reserved disk space is then freed for what finishing needs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anchorsr.errors import OutputError
from anchorsr.utils.files import reason
from anchorsr.utils.signals import delayed_interrupts
from anchorsr.video.codecs import Codec, container_format
from anchorsr.video.encoder import SegmentedEncoder
from anchorsr.video.journal import Journal
from anchorsr.video.output_file import FULL, OutputFile
from anchorsr.video.sound import DEFAULT_LAYOUTS, SoundConverter, add_converted
from anchorsr.video.source import Source

if TYPE_CHECKING:
    from av import Packet, VideoFrame
    from av.stream import Stream
    from av.video.codeccontext import VideoCodecContext
    from av.video.stream import VideoStream

_ATTACHED_PICTURE = 1 << 10
_CENTRE = "center"  # where a mean over a square of pixels lies

# Tags of the container or its muxer, and statistics of the stream that is re-encoded.
_NOT_COPIED = {
    "major_brand", "minor_version", "compatible_brands", "encoder", "DURATION",
    "BPS", "NUMBER_OF_FRAMES", "NUMBER_OF_BYTES", "SOURCE_ID",
    "_STATISTICS_WRITING_APP", "_STATISTICS_WRITING_DATE_UTC", "_STATISTICS_TAGS",
}  # fmt: skip

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
        sound: Whether to keep the sound.
        journal: Where encoded frames are kept for a later run, and come from an earlier one.
        note: Called with a line for each stream that the container cannot hold, and for
            timestamps that it rounds.

    Attributes:
        path: As above.
        part: As above.
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
        sound: bool,
        journal: Journal,
        note: Callable[[str], None],
    ) -> None:
        import av

        self.path = path
        self.part = part
        self.finished = False
        self.problems: list[str] = []
        self.end = source.origin
        self._last: dict[int, int] = {}  # dts of each copied stream
        self._left_out: dict[int, int] = {}  # number of packets of each
        self._source = source
        self._file = OutputFile(part)
        try:
            self._container = av.open(
                self._file,
                "w",
                format=container_format(path),
                options=_muxer_options(source, container_format(path)),
                metadata_errors="surrogateescape",
            )
            self._video = self._add_video(size, codec, quality, factor, threads)
            self._encoder = SegmentedEncoder(
                self._video, lambda: self._make_encoder(size, codec, quality, threads), journal
            )
            self._converters: dict[int, SoundConverter] = {}
            self._copies = self._add_copies(note, sound=sound)
            self._copy_metadata()
            with delayed_interrupts():
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

    @property
    def frames(self) -> int:
        """Number of frames so far, those that an earlier run has encoded included."""
        return self._encoder.frames

    def encode(self, frame: VideoFrame) -> None:
        """Encode a frame, whose pts and duration are in the time base of the source."""
        self._add(frame, self._encoder.encode(frame))

    def repeat(self, frame: VideoFrame) -> None:
        """Write a frame that an earlier run has encoded; only the frame's times are used."""
        self._add(frame, self._encoder.repeat(frame))

    def copy(self, packet: Packet[Stream]) -> None:
        """Write a packet of another stream, unchanged if the container can hold it.

        A packet that goes back in time is left out.
        """
        if packet.stream.index in self._converters:
            self._mux(self._converters[packet.stream.index].convert(packet))
            return
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
            self._mux(self._encoder.finish())
            for converter in self._converters.values():
                self._mux(converter.finish())
            self._container.close()
            self._file.close()
        except (av.FFmpegError, OSError, ValueError) as error:
            raise self._cannot_write(error) from error
        self.finished = True
        for index, converter in self._converters.items():
            if converter.damaged:
                name = _describe(self._source.container.streams[index])
                self.problems.append(f"{converter.damaged} packets of {name} are damaged")
        for index, count in self._left_out.items():
            name = _describe(self._source.container.streams[index])
            self.problems.append(
                f"{count} packets of {name} are not later than the previous one, and are left out"
            )

    def discard(self) -> None:
        """Delete the file."""
        with delayed_interrupts():
            self._file.abandon()
            if hasattr(self, "_container"):
                with contextlib.suppress(Exception):  # the trailer is not written
                    self._container.close()
            with contextlib.suppress(OSError):
                self._file.close()
            with contextlib.suppress(OSError):
                self.part.unlink()

    def _add(self, frame: VideoFrame, packets: Iterable[Any]) -> None:
        end = (frame.pts or 0) + frame.duration
        self.end = max(self.end, end * self._base)
        self._mux(packets)

    def _mux(self, packets: Iterable[Any]) -> None:
        import av

        try:
            for packet in packets:
                self._container.mux_one(packet)
        except (av.FFmpegError, OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno in FULL and not self._file.full:
                self._file.free_reserve()  # the journal is on the same disk
                return
            raise self._cannot_write(error) from error

    def _cannot_write(self, error: BaseException) -> OutputError:
        full = isinstance(error, OSError) and error.errno in FULL
        hint = ": free some space, or write to another disk" if full else ""
        return OutputError(f"{self.path} cannot be written ({reason(error)}){hint}")

    def _add_video(
        self, size: tuple[int, int], codec: Codec, quality: int, factor: int, threads: int | None
    ) -> VideoStream:
        import av

        template = self._source.video
        self._base = self._source.first.time_base or template.time_base or Fraction(1, 1000)
        rate = self._rate(codec)
        try:
            stream: Any = self._container.add_stream(
                codec.encoder, rate, options=self._encoder_options(codec, quality)
            )
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
        self._configure(context, size, threads)
        if codec.encoder == "libx265" and container_format(self.path) in ("mp4", "mov"):
            context.codec_tag = "hvc1"  # Apple's players require it
        stream.time_base = self._base
        matrix = self._source.display_matrix
        if matrix is not None:
            for place in (6, 7):  # a translation in pixels, of which a damaged file has any number
                matrix[place] = min(max(matrix[place] * factor, -(2**31)), 2**31 - 1)
            stream.set_display_matrix(matrix)
        _copy_tags(template, stream)
        added: VideoStream = stream
        return added

    def _make_encoder(
        self, size: tuple[int, int], codec: Codec, quality: int, threads: int | None
    ) -> VideoCodecContext:
        """Make another encoder with the settings of the stream's own."""
        from av.codec.context import CodecContext

        context: Any = CodecContext.create(codec.encoder, "w")
        context.options = self._encoder_options(codec, quality)
        context.framerate = self._rate(codec)
        context.flags = self._video.codec_context.flags  # such as that headers are stored once
        self._configure(context, size, threads)
        made: VideoCodecContext = context
        return made

    def _rate(self, codec: Codec) -> Fraction:
        """The frame rate, which is only declared: frames have timestamps."""
        template = self._source.video
        rate = template.average_rate or template.guessed_rate or Fraction(25)
        return min(rate, Fraction(codec.max_rate))

    def _encoder_options(self, codec: Codec, quality: int) -> dict[str, str]:
        options = {**codec.options, "crf": str(quality)}
        if self._source.colours.pixel_format == "yuv420p":
            options["chroma_sample_location"] = _CENTRE
        return options

    def _configure(self, context: Any, size: tuple[int, int], threads: int | None) -> None:
        colours = self._source.colours
        context.width, context.height = size
        context.pix_fmt = colours.pixel_format
        context.time_base = self._base
        context.thread_count = threads or 0
        context.color_range = colours.range
        context.colorspace = colours.matrix
        context.color_trc = colours.transfer
        context.color_primaries = colours.primaries
        context.sample_aspect_ratio = self._source.video.sample_aspect_ratio or Fraction(0, 1)

    def _add_copies(self, note: Callable[[str], None], *, sound: bool) -> dict[int, Stream]:
        """Add a stream for each other one of the source, converted if need be."""
        copies: dict[int, Stream] = {}
        chapters = bool(self._source.container.chapters())
        suffix = self.path.suffix
        for template in list(self._source.container.streams):
            if template.index == self._source.video.index:
                continue
            if template.type == "audio" and not sound:
                self._source.leave_out(template)
                continue
            name = _describe(template)
            copy = self._add_copy(template)
            if copy is None and template.type == "audio":
                copy = add_converted(self._container, template)
                if copy is not None:
                    self._converters[template.index] = SoundConverter(template, copy)
                    codec = copy.codec_context.codec.canonical_name
                    note(f"{name} is converted to {codec}: {suffix} files cannot hold it")
            if copy is not None:
                _copy_tags(template, copy)
                copies[template.index] = copy
                continue
            self._source.leave_out(template)
            # The muxer writes its own list of chapters and its own time code track.
            own = getattr(template, "name", None) == "bin_data" and chapters
            if not own and "timecode" not in template.metadata:
                note(f"{name} is left out: {suffix} files cannot hold it")
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
            if context.layout.name in DEFAULT_LAYOUTS:
                copy.codec_context.layout = DEFAULT_LAYOUTS[context.layout.name]
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
        pairs: list[tuple[Stream, Stream]] = [(self._source.video, self._video)]
        streams = self._source.container.streams
        pairs += [
            (streams[index], copy)
            for index, copy in self._copies.items()
            if index not in self._converters
        ]
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
