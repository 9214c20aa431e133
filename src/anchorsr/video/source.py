"""A video file that is read: what it holds, then its packets and decoded frames in their order."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from anchorsr.errors import VideoError
from anchorsr.utils.files import reason
from anchorsr.video.colour import Colours, check_like, read_colours

if TYPE_CHECKING:
    from av import Packet, VideoFrame
    from av.container import InputContainer
    from av.stream import Stream
    from av.video.stream import VideoStream

# A file may end this much earlier than it says: durations are rounded in several ways.
_TOLERANCE = Fraction(1, 2)
# What is stored just before a cut may belong after it, by as much as sound and image lie apart.
_INTERLEAVING = 2
# A time given in decimals meets the frame that it was read from.
_ROUNDING = Fraction(1, 2000)
_MICROSECOND = Fraction(1, 1_000_000)

_IMAGES = ("image2", "_pipe", "gif", "apng")
_SAY_THEIR_LENGTH = ("mov", "matroska")
# Their times run on from an earlier one, such as when a transmitter was switched on.
_BEGIN_ANYWHERE = ("mpegts", "mpeg")


class Source:
    """The first video stream of a file, decoded, and all other streams as packets.

    `first` is the first frame that is wanted and `colours` are those of all. With a start, frames
    and packets before it are left out and all times are moved together by `shift`, so that
    `first` is at 0; without one, `origin` is the time of the first moment, which in a transport
    stream is moved to 0. What an edit list hides is left out. `problems` grows by a line for
    whatever is found damaged or missing on the way: reading then ends, as at the end of the file,
    and nothing is raised.
    Raises VideoError for a file that is not a video, or not one that is handled.
    """

    def __init__(
        self,
        path: Path,
        *,
        start: float | None = None,
        duration: float | None = None,
        threads: int | None = None,
    ) -> None:
        self.path = path
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
            self._not_later = 0
            self._last_pts: int | None = None
            self._stored_dts: list[int] = []
            self._delay: int | None = None  # in packets
            self._ahead = 0  # what a packet's pts is more than its dts, the same for all
            self._reached = Fraction(0)
            begin = (self.container.start_time or 0) * _MICROSECOND
            if start is None and self.container.format.name in _BEGIN_ANYWHERE:
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
        """How many frames the file says it has; 0 if it does not."""
        return self.video.frames

    @property
    def side_data(self) -> Mapping[str, Any]:
        """What the first frame carries beside its pixels, by FFmpeg's names."""
        data: Any = self.first.side_data  # its type stub knows of motion vectors only
        return {str(found.type.name): found for found in data}

    @property
    def display_matrix(self) -> list[int] | None:
        """How a player turns the image: nine numbers as FFmpeg has them; None for upright."""
        found = self.side_data.get("DISPLAYMATRIX")
        return None if found is None else [int(n) for n in np.frombuffer(found, np.int32)]

    def resume_after(self, seconds: Fraction) -> Fraction:
        """The start that goes on after as many seconds."""
        begin = (self.container.start_time or 0) * _MICROSECOND
        return seconds + (Fraction(0) if self._begin is None else self.shift - begin)

    def leave_out(self, stream: Stream) -> None:
        """Read no more packets of a stream that cannot be kept."""
        self._kept.remove(stream)

    def items(self) -> Iterator[VideoFrame | Packet[Stream]]:
        """Decoded frames, times strictly rising, and packets of the other streams, as stored."""
        kept = {stream.index for stream in self._kept}
        held, self._held = self._held, []
        for item in _chain(held, self._items):
            stream = getattr(item, "stream", None)
            if stream is None or stream.index in kept:
                yield item

    def stop(self) -> None:
        """Let `items` end soon; for another thread to call."""
        self._ended = True

    def close(self) -> None:
        self.container.close()

    def _seek(self, time: Fraction) -> None:
        from av import FFmpegError

        try:
            self.container.seek(int(time / _MICROSECOND))
        except (FFmpegError, OSError, ValueError):
            return  # cannot be sought in: read from the beginning

    def _first_frame(self) -> VideoFrame:
        for item in self._items:
            self._held.append(item)
            if not hasattr(item, "stream"):
                first: VideoFrame = item
                break
        else:
            if self._begin is not None and not self._damaged:
                raise VideoError(f"{self.path} has no frame at or after its start: start earlier")
            raise VideoError(
                f"{self.path} has no frame that can be decoded; copy or download it again"
            )
        if first.interlaced_frame or self.video.codec_context.field_order > 1:
            raise VideoError(
                f"{self.path} is interlaced, which is not handled: deinterlace it first, "
                f"as `ffmpeg -i IN -vf bwdif OUT` does"
            )
        return first

    def _read(self) -> Iterator[Any]:
        """Frames and packets that are wanted, their times shifted."""
        early: list[Any] = []  # packets before the first frame, which says what the shift is
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
        """Shift a packet in time; False if it lies outside the cut."""
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
        """Frames and packets between start and end, as they come."""
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
                elif packet.size or packet.dts is not None:  # not the mark of the end
                    yield packet
            elif index in running:
                for frame, now in self._decode(packet):
                    if self._begin is not None and now < self._begin - _ROUNDING:
                        continue
                    if self._end is not None and now >= self._end - _ROUNDING:
                        running.discard(index)
                        break
                    problem = None if first is None else _misfit(frame, first)
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
        self._sum_up()

    def _packets(self) -> Iterator[Any]:
        """All packets, to the end of the file or to where it cannot be read further."""
        from av import FFmpegError, Packet

        counted = 0
        torn: set[int] = set()  # streams whose last packet is not whole
        try:
            for packet in self.container.demux(self._kept):
                if packet.is_corrupt and "mpegts" not in self.container.format.name:
                    torn.add(packet.stream.index)
                    continue
                if packet.size:
                    torn.discard(packet.stream.index)
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
        if torn:
            self._cut_off("its last packet is not whole")
        elif self._begin is None and counted < self._frames_to_come():
            self._cut_off("the end of the file is missing")

    def _frames_to_come(self) -> int:
        """How many frames the file says will come; an edit list hides some that it counts."""
        if "mov" not in self.container.format.name or not self.frames:
            return self.frames
        return min(self.frames, len(self.video.index_entries))

    def _count(self, packet: Packet[Any], before: int) -> int:
        """How many of the frames that the file counts have come.

        An AVI counts those that repeat the one before, too. They have no packet, and others'
        times are their places; some may be at the end.
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
        """Frames with a pts, and their times in seconds."""
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
            frame.time_base = base  # has none after a flush
            pts = frame.pts if frame.pts is not None else frame.dts
            if self._is_avi:
                pts = self._time_in_avi(frame)
            if pts is None:
                pts = 0 if self._last_pts is None else self._last_pts + max(frame.duration, 1)
            if self._last_pts is not None and pts <= self._last_pts:
                self._not_later += 1
                continue
            frame.pts = self._last_pts = pts
            yield frame, pts * base

    def _time_in_avi(self, frame: VideoFrame) -> int | None:
        """When a frame is shown, in a container that says only when frames are stored.

        The frame's dts is that of the packet with which the decoder gave it, some packets after
        the one whose turn it is: as many as the first frame came after its own packet.
        """
        stored = self._stored_dts
        if not stored:
            return None
        given = 1 if frame.dts is None else bisect_right(stored, frame.dts)
        if self._delay is None:
            own = 0 if frame.pts is None else bisect_left(stored, frame.pts - self._ahead)
            self._delay = max(given - 1 - own, 0)
        place = 0 if frame.dts is None else max(given - 1 - self._delay, 0)
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
            f"what could be read until there is written"
        )

    def _check_length(self) -> None:
        """At the end of the file: is it as long as it says?"""
        says = self.container.format.name.startswith(_SAY_THEIR_LENGTH)
        if says and self.container.duration is not None and not self.problems:
            end = self._whole_end(self.container.duration)
            if self._reached < end - _TOLERANCE and (self._end or end) > self._reached:
                self._cut_off("the end of the file is missing")

    def _whole_end(self, duration: int) -> Fraction:
        """When a file of that duration ends. That of Matroska counts from 0, in most files."""
        start = self.container.start_time or 0
        if "matroska" in self.container.format.name and duration > start:
            start = 0
        return (start + duration) * _MICROSECOND

    def _sum_up(self) -> None:
        if self._damaged:
            self.problems.append(
                f"{self.path}: {self._damaged} of its frames are damaged, and are missing or wrong "
                f"in the result"
            )
        if self._not_later:
            self.problems.append(
                f"{self.path}: {self._not_later} of its frames are not later than the one before, "
                f"and are left out"
            )


_ATTACHED_PICTURE = 1 << 10  # FFmpeg's AV_DISPOSITION_ATTACHED_PIC: a cover


def _open(path: Path) -> InputContainer:
    import av

    try:
        if not path.exists():
            raise VideoError(f"{path} is not there; check its name")
        if not path.is_file():  # to open a pipe would wait for ever
            raise VideoError(f"{path} is a folder or a device; give a video file")
        if not path.stat().st_size:
            raise VideoError(f"{path} is empty (0 bytes); copy or download it again")
        # Names with a colon are no addresses, and bytes that are no UTF-8 come back as they were.
        container = av.open(f"file:{path}", "r", metadata_errors="surrogateescape")
    except (av.FFmpegError, OSError, ValueError) as error:
        raise VideoError(
            f"{path} cannot be opened as a video ({reason(error)}); it may be damaged, cut off or "
            f"of another kind"
        ) from error
    if any(name in container.format.name for name in _IMAGES):
        container.close()
        raise VideoError(f"{path} is an image: anchorsr upscale makes it larger")
    return container


def _find_video(container: InputContainer, path: Path) -> VideoStream:
    """The first video stream that is not a cover."""
    for stream in container.streams.video:
        if not stream.disposition & _ATTACHED_PICTURE:
            if stream.codec_context is None:
                raise VideoError(f"{path}: no decoder for its video is in this PyAV")
            return stream
    raise VideoError(f"{path} holds no video")


def _check_opaque(stream: VideoStream, path: Path) -> None:
    """WebM has transparency in packets beside the image's, of which the frames say nothing."""
    tags = {key.lower(): value for key, value in stream.metadata.items()}
    if tags.get("alpha_mode") == "1":
        raise VideoError(
            f"{path}: its video has transparency, which is not handled: make it opaque first"
        )


def _is_hidden(packet: Packet[Stream]) -> bool:
    """Whether an edit list hides a packet, but for the last ones before 0, of which decoders of
    sound need the end."""
    if not packet.is_discard or packet.pts is None:
        return False
    return not -2 * (packet.duration or 0) < packet.pts < 0


def _colours(frame: VideoFrame, stream: VideoStream, path: Path) -> Colours:
    try:
        return read_colours(frame, stream.codec_context)
    except VideoError as error:
        raise VideoError(f"{path}: {error}") from error


def _misfit(frame: VideoFrame, first: VideoFrame) -> str | None:
    """Why a frame cannot follow the first one; None if it can."""
    if frame.interlaced_frame and not first.interlaced_frame:
        return "the video becomes interlaced, which is not handled; what came before is written"
    try:
        check_like(frame, first)
    except VideoError as error:
        return f"{error}; what came before is written"
    return None


def _chain(held: list[Any], rest: Iterator[Any]) -> Iterator[Any]:
    yield from held
    held.clear()
    yield from rest
