"""Read a video file: decoded frames of one stream, and packets of all others, in file order."""

from __future__ import annotations

import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from anchorsr.errors import VideoError
from anchorsr.utils.files import reason
from anchorsr.video.colour import Colours, check_like, read_colours
from anchorsr.video.deinterlace import Deinterlacer

if TYPE_CHECKING:
    from av import Packet, VideoFrame
    from av.container import InputContainer
    from av.stream import Stream
    from av.video.stream import VideoStream

# A file may end this much before its stated duration, which is rounded in several ways.
_TOLERANCE = Fraction(1, 2)
# Seconds that the streams may lie apart in the file: packets stored just before a cut may belong
# after it.
_INTERLEAVING = 2
# A decimal start time finds the frame whose timestamp was rounded to it.
_ROUNDING = Fraction(1, 2000)
_MICROSECOND = Fraction(1, 1_000_000)

_IMAGES = ("image2", "_pipe", "gif", "apng")
_STATE_DURATION = ("mov", "matroska")
# Their timestamps do not start near 0, but count from when a transmitter was switched on.
_START_ANYWHERE = ("mpegts", "mpeg")


class Source:
    """Decodes the first video stream of a file, and demuxes all other streams.

    With a start, frames and packets before it are skipped and all timestamps are shifted so that
    the first frame is at 0. What an edit list hides is skipped. Where the file is damaged or cut
    off, reading ends as at the end of the file, without an exception, and `problems` says so.

    Args:
        path: The file.
        start: Seconds after the beginning of the file at which to start.
        duration: Seconds to read; by default up to the end.
        deinterlace: One of `deinterlace.MODES`.
        threads: Number of decoder threads; by default all processors.

    Attributes:
        first: The first frame within start and duration.
        colours: How the colours of all frames are coded.
        problems: One line for each thing found damaged or missing so far.
        cut: Whether only a part of the file is read.
        seconds: Length of what is read; None if the file does not state its duration.
        shift: Seconds subtracted from all timestamps.
        origin: Time, after the shift, at which the output begins.
        container, video: The open file, and its stream that is decoded.

    Raises:
        VideoError: The file is not a video, or is of an unsupported kind.
    """

    def __init__(
        self,
        path: Path,
        *,
        start: float | None = None,
        duration: float | None = None,
        deinterlace: str = "auto",
        threads: int | None = None,
    ) -> None:
        self.path = path
        self._deinterlace = Deinterlacer(deinterlace)
        self.problems: list[str] = []
        self.cut = start is not None or duration is not None
        self.shift = Fraction(0)
        self.container = _open(path)
        try:
            self.video = _find_video(self.container, path)
            _check_opaque(self.video, path)
            self._kept: list[Stream] = list(self.container.streams)
            self._is_avi = "avi" in self.container.format.name
            self._ended = False
            self._damaged = 0
            self._not_increasing = 0
            self._last_pts: int | None = None
            self._stored_dts: list[int] = []
            self._delay: int | None = None  # in packets
            self._ahead = 0  # pts minus dts, the same for all packets
            self._reached = Fraction(0)
            begin = (self.container.start_time or 0) * _MICROSECOND
            if start is None and self.container.format.name in _START_ANYWHERE:
                self.shift = begin
            self.origin: Fraction = begin - self.shift if start is None else Fraction(0)
            self._begin = None if start is None else begin + Fraction(start)
            self._end = None if duration is None else (self._begin or begin) + Fraction(duration)
            if self.container.duration is None:
                self.seconds = None
            else:
                whole = self._whole_end(self.container.duration) - begin
                left = max(whole - Fraction(start or 0), Fraction(0))
                self.seconds = left if duration is None else min(left, Fraction(duration))
            self.video.codec_context.thread_count = threads or 0
            self.video.codec_context.thread_type = "AUTO"
            if self._begin is not None and start is not None and start > _INTERLEAVING:
                self._seek(self._begin - _INTERLEAVING)
            self._items = self._read()
            self._held: list[VideoFrame | Packet[Stream]] = []
            self.first = self._first_frame()
            self.colours = _colours(self.first, self.video, path)
        except BaseException:
            self.container.close()
            raise

    @property
    def frames(self) -> int:
        """Number of frames that the file states; 0 if it does not."""
        return self.video.frames

    @property
    def deinterlaced(self) -> bool:
        """Whether frames were deinterlaced so far."""
        return self._deinterlace.active

    @property
    def side_data(self) -> Mapping[str, Any]:
        """Side data of the first frame, by FFmpeg's names."""
        data: Any = self.first.side_data  # its type stub has only motion vectors
        return {str(found.type.name): found for found in data}

    @property
    def display_matrix(self) -> list[int] | None:
        """FFmpeg's display matrix, nine numbers, that says how to rotate; None for upright."""
        found = self.side_data.get("DISPLAYMATRIX")
        return None if found is None else [int(n) for n in np.frombuffer(found, np.int32)]

    def leave_out(self, stream: Stream) -> None:
        """Skip all further packets of a stream."""
        self._kept.remove(stream)

    def items(self) -> Iterator[VideoFrame | Packet[Stream]]:
        """Yield decoded frames, in strictly increasing time, and packets of the other streams."""
        kept = {stream.index for stream in self._kept}
        items = itertools.chain(self._held, self._items)
        self._held = []
        for item in items:
            stream = getattr(item, "stream", None)
            if stream is None or stream.index in kept:
                yield item

    def stop(self) -> None:
        """Make `items` end soon. May be called from another thread."""
        self._ended = True

    def close(self) -> None:
        """Close the file."""
        self.container.close()

    def _seek(self, time: Fraction) -> None:
        from av import FFmpegError

        try:
            self.container.seek(int(time / _MICROSECOND))
        except (FFmpegError, OSError, ValueError):
            return  # not seekable: read from the beginning

    def _first_frame(self) -> VideoFrame:
        for item in self._items:
            self._held.append(item)
            if not hasattr(item, "stream"):
                first: VideoFrame = item
                break
        else:
            if self._begin is not None and not self._damaged:
                raise VideoError(f"{self.path} has no frame at or after this start: start earlier")
            raise VideoError(
                f"{self.path} has no frame that can be decoded; copy or download it again"
            )
        return first

    def _read(self) -> Iterator[Any]:
        """Frames and packets between start and end, their timestamps shifted."""
        early: list[Any] = []  # packets before the first frame, which determines the shift
        began = self._begin is None
        for item in self._wanted():
            if hasattr(item, "stream"):
                if not began:
                    early.append(item)
                elif self._move(item):
                    yield item
                continue
            if not began:
                began = True
                self.shift = item.pts * item.time_base
                yield from (packet for packet in early if self._move(packet))
                early.clear()
            item.pts -= round(self.shift / item.time_base)
            yield item

    def _move(self, packet: Packet[Stream]) -> bool:
        """Shift a packet's timestamps; False if it lies before the start."""
        if packet.stream.disposition & _ATTACHED_PICTURE:
            return True
        pts = packet.pts if packet.pts is not None else packet.dts
        if self._begin is not None and (pts is None or pts * packet.time_base < self.shift):
            return False
        steps = round(self.shift / packet.time_base)
        packet.pts = None if packet.pts is None else packet.pts - steps
        packet.dts = None if packet.dts is None else packet.dts - steps
        return True

    def _wanted(self) -> Iterator[Any]:
        """Frames and packets between start and end, in file order."""
        first: VideoFrame | None = None
        running = {s.index for s in self.container.streams if s.type in ("video", "audio")}
        running -= {s.index for s in self.container.streams if s.disposition & _ATTACHED_PICTURE}
        for packet in self._packets():
            index = packet.stream.index
            time = None if packet.dts is None else packet.dts * packet.time_base
            if index != self.video.index:
                late = self._end is not None and time is not None and time >= self._end
                if late:
                    running.discard(index)
                elif _is_hidden(packet):
                    continue
                elif packet.size or packet.dts is not None:  # not the flush packet at the end
                    yield packet
            elif index in running:
                for frame, now in self._decode(packet):
                    if self._begin is not None and now < self._begin - _ROUNDING:
                        continue
                    if self._end is not None and now >= self._end - _ROUNDING:
                        running.discard(index)
                        break
                    problem = None if first is None else _mismatch(frame, first)
                    first = first or frame
                    self._damaged += frame.is_corrupt
                    if problem is not None:
                        self.problems.append(f"{self.path}: at {float(now):.2f} s {problem}")
                        return
                    yield frame
            very_late = self._end is not None and time is not None and time > self._end + 10
            if self._ended or not running or very_late:
                break
        else:
            self._check_length()
        self._report_damage()

    def _packets(self) -> Iterator[Any]:
        """All packets up to the end of the file, or to where it becomes unreadable."""
        from av import FFmpegError, Packet

        counted = 0
        truncated: set[int] = set()  # streams whose last packet is not complete
        try:
            for packet in self.container.demux(self._kept):
                if packet.is_corrupt and "mpegts" not in self.container.format.name:
                    truncated.add(packet.stream.index)
                    continue
                if packet.size:
                    truncated.discard(packet.stream.index)
                if packet.stream.index == self.video.index and packet.size:
                    counted = self._count(packet, counted)
                self._note_time(packet)
                yield packet
        except (FFmpegError, OSError) as error:
            self._cut_off(reason(error))
            end: Packet[Any] = Packet()
            end.stream = self.video
            yield end
            return
        if truncated:
            self._cut_off("its last packet is not complete")
        elif self._begin is None and counted < self._expected_frames():
            self._cut_off("the end of the file is missing")

    def _expected_frames(self) -> int:
        """Number of frames that the file states, without those hidden by an edit list."""
        if "mov" not in self.container.format.name or not self.frames:
            return self.frames
        return min(self.frames, len(self.video.index_entries))

    def _count(self, packet: Packet[Any], before: int) -> int:
        """Number of stated frames up to this packet.

        An AVI also counts frames that repeat the previous one. They have no packet, and the
        timestamps of the others are their indices; some may be at the end.
        """
        if not self._is_avi or packet.dts is None:
            return before + 1
        tolerance = int(_TOLERANCE * (self.video.average_rate or 0))
        return max(before, packet.dts + 1 + tolerance)

    def _note_time(self, packet: Packet[Stream]) -> None:
        if packet.pts is not None:
            end = (packet.pts + (packet.duration or 0)) * packet.time_base
            self._reached = max(self._reached, end)

    def _decode(self, packet: Packet[Any]) -> Iterator[tuple[VideoFrame, Fraction]]:
        """Frames, each with a pts, and their times in seconds."""
        from av import FFmpegError

        flush = packet.size == 0
        if self._is_avi and packet.dts is not None:
            self._stored_dts.append(packet.dts)
            self._ahead = 0 if packet.pts is None else packet.pts - packet.dts
        try:
            frames = self.video.codec_context.decode(None if flush else packet)
        except FFmpegError:
            self._damaged += not flush
            return
        for frame in frames:
            base = frame.time_base or self.video.time_base or Fraction(1, 1000)
            frame.time_base = base  # None after a flush
            pts = frame.pts if frame.pts is not None else frame.dts
            if self._is_avi:
                pts = self._time_in_avi(frame)
            if pts is None:
                pts = 0 if self._last_pts is None else self._last_pts + max(frame.duration, 1)
            if self._last_pts is not None and pts <= self._last_pts:
                self._not_increasing += 1
                continue
            frame.pts = self._last_pts = pts
            for done in self._deinterlace(frame):
                yield done, (done.pts or 0) * base
        if flush:
            for done in self._deinterlace(None):
                yield done, (done.pts or 0) * (done.time_base or Fraction(0))

    def _time_in_avi(self, frame: VideoFrame) -> int | None:
        """Presentation time of a frame in a container that stores only decoding times.

        The frame's dts is that of the packet on which the decoder returned it, which comes some
        packets later: as many as the first frame was returned after its own packet.
        """
        stored = self._stored_dts
        if not stored:
            return None
        fed = 1 if frame.dts is None else bisect_right(stored, frame.dts)
        if self._delay is None:
            own = 0 if frame.pts is None else bisect_left(stored, frame.pts - self._ahead)
            self._delay = max(fed - 1 - own, 0)
        place = 0 if frame.dts is None else max(fed - 1 - self._delay, 0)
        time = stored[place]
        del stored[: place + 1]
        return time

    def _cut_off(self, why: str) -> None:
        begin = (self.container.start_time or 0) * _MICROSECOND
        length = float(max(self._reached - begin, Fraction(0)))
        whole = self.container.duration
        of = "" if whole is None else f" of {float(self._whole_end(whole) - begin):.1f}"
        self.problems.append(
            f"{self.path} is damaged or cut off after {length:.1f}{of} seconds ({why}): "
            f"the output ends there"
        )

    def _check_length(self) -> None:
        """Check, at the end of the file, that it is as long as it states."""
        states = self.container.format.name.startswith(_STATE_DURATION)
        if states and self.container.duration is not None and not self.problems:
            end = self._whole_end(self.container.duration)
            if self._reached < end - _TOLERANCE and (self._end or end) > self._reached:
                self._cut_off("the end of the file is missing")

    def _whole_end(self, duration: int) -> Fraction:
        """End time of a file; in most Matroska files the duration counts from 0."""
        start = self.container.start_time or 0
        if "matroska" in self.container.format.name and duration > start:
            start = 0
        return (start + duration) * _MICROSECOND

    def _report_damage(self) -> None:
        if self._damaged:
            self.problems.append(
                f"{self.path}: {self._damaged} frames are damaged, and are missing or wrong in the "
                f"output"
            )
        if self._not_increasing:
            self.problems.append(
                f"{self.path}: {self._not_increasing} frames are not later than the previous one, "
                f"and are left out"
            )


_ATTACHED_PICTURE = 1 << 10  # FFmpeg's AV_DISPOSITION_ATTACHED_PIC: cover art


def _open(path: Path) -> InputContainer:
    import av

    try:
        # "file:", as a name may hold a colon; surrogateescape, as metadata may not be UTF-8.
        container = av.open(f"file:{path}", "r", metadata_errors="surrogateescape")
    except (av.FFmpegError, OSError, ValueError) as error:
        raise VideoError(
            f"{path} cannot be opened as a video ({reason(error)}); it may be damaged, cut off or "
            f"of another kind"
        ) from error
    if any(name in container.format.name for name in _IMAGES):
        container.close()
        raise VideoError(f"{path} is an image: use anchorsr upscale")
    return container


def _find_video(container: InputContainer, path: Path) -> VideoStream:
    """The first video stream that is not cover art."""
    for stream in container.streams.video:
        if not stream.disposition & _ATTACHED_PICTURE:
            if stream.codec_context is None:
                raise VideoError(f"{path}: this PyAV has no decoder for its video")
            return stream
    raise VideoError(f"{path} holds no video")


def _check_opaque(stream: VideoStream, path: Path) -> None:
    """Refuse WebM with alpha, which is stored beside the frames and does not show in them."""
    tags = {key.lower(): value for key, value in stream.metadata.items()}
    if tags.get("alpha_mode") == "1":
        raise VideoError(
            f"{path}: its video has transparency, which is not supported: make it opaque first"
        )


def _is_hidden(packet: Packet[Stream]) -> bool:
    """Whether an edit list hides a packet; audio decoders need the last ones before 0."""
    if not packet.is_discard or packet.pts is None:
        return False
    return not -2 * (packet.duration or 0) < packet.pts < 0


def _colours(frame: VideoFrame, stream: VideoStream, path: Path) -> Colours:
    try:
        return read_colours(frame, stream.codec_context)
    except VideoError as error:
        raise VideoError(f"{path}: {error}") from error


def _mismatch(frame: VideoFrame, first: VideoFrame) -> str | None:
    """Why a frame cannot follow the first one; None if it can."""
    try:
        check_like(frame, first)
    except VideoError as error:
        return f"{error}; the output ends there"
    return None
