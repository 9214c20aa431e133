"""Encode frames in segments, each by an encoder of its own (see `journal`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from anchorsr.video.journal import SEGMENT, EncodedPacket, Journal

if TYPE_CHECKING:
    from av import VideoFrame
    from av.video.codeccontext import VideoCodecContext
    from av.video.stream import VideoStream


class SegmentedEncoder:
    """Encodes the frames of one stream, and keeps every whole segment in the journal.

    Args:
        stream: The stream, whose own encoder takes the first segment.
        make_encoder: Makes an encoder with the same settings for each further one.
        journal: Where segments are kept.

    Attributes:
        frames: Number of frames so far, those from the journal included.
    """

    def __init__(
        self,
        stream: VideoStream,
        make_encoder: Callable[[], VideoCodecContext],
        journal: Journal,
    ) -> None:
        self.frames = 0
        self._stream = stream
        self._make_encoder = make_encoder
        self._journal = journal
        self._context: Any = stream.codec_context
        self._durations: dict[int, int] = {}
        self._times: list[int] = []  # pts of the segment's frames, in the order they were given
        self._before: list[int] = []  # the same of the segment before
        self._early: list[Any] = []  # packets whose dts is not known yet
        self._segment: list[EncodedPacket] = []
        self._kept: list[EncodedPacket] = []  # what is left of a segment of the journal

    def encode(self, frame: VideoFrame) -> Iterator[Any]:
        """Encode a frame; yields packets to write.

        Raises:
            OSError: The journal cannot be written; all packets were yielded before.
        """
        self._count(frame.pts or 0, frame.duration)
        if len(self._times) == 1 and self._before:
            self._context = self._make_encoder()
        yield from self._timed(self._context.encode(frame), last=False)
        if len(self._times) == SEGMENT:
            yield from self._timed(self._context.encode(None), last=True)
            segment = self._segment
            self._end_segment()
            self._journal.append(segment)

    def repeat(self, frame: VideoFrame) -> Iterator[Any]:
        """Take a frame from the journal instead of encoding it; yields packets to write.

        Args:
            frame: The frame of the source, for its times.
        """
        from av import Packet

        self._count(frame.pts or 0, frame.duration)
        if len(self._times) == 1:
            self._kept = self._journal.read((self.frames - 1) // SEGMENT)
        last = len(self._times) == SEGMENT
        now, self._kept = (self._kept, []) if last else (self._kept[:1], self._kept[1:])
        for kept in now:
            packet: Any = Packet(kept.data)
            packet.pts, packet.dts, packet.duration = kept.pts, kept.dts, kept.duration
            packet.is_keyframe = kept.is_keyframe
            packet.time_base = self._context.time_base
            packet.stream = self._stream
            yield packet
        if last:
            self._end_segment()

    def finish(self) -> Iterator[Any]:
        """Flush the encoder; yields packets to write."""
        if self._times and not self._kept:
            yield from self._timed(self._context.encode(None), last=True)

    def _count(self, pts: int, duration: int) -> None:
        self.frames += 1
        self._times.append(pts)
        if duration:
            self._durations[pts] = duration

    def _end_segment(self) -> None:
        self._before, self._times, self._segment = self._times, [], []
        self._durations.clear()

    def _timed(self, packets: list[Any], *, last: bool) -> Iterator[Any]:
        """Set duration and stream, and where a segment follows another, the first dts.

        An encoder starts its dts as far before the first pts as it delays frames. In the middle of
        a video, these are the times of the last frames before.
        """
        for packet in packets:
            # Encoders leave the duration unset, or derive it from the frame rate.
            packet.duration = self._durations.pop(packet.pts, 0)
            packet.stream = self._stream
            self._early.append(packet)
        if not self._early:
            return
        known = last or not self._before or self._early[-1].dts >= self._times[0]
        if not known:
            return
        if self._before:
            early = sum(packet.dts < self._times[0] for packet in self._early)
            for packet, time in zip(
                self._early, self._before[len(self._before) - early :], strict=False
            ):
                packet.dts = time
        for packet in self._early:
            self._segment.append(
                EncodedPacket(
                    packet.pts, packet.dts, packet.duration, packet.is_keyframe, bytes(packet)
                )
            )
            yield packet
        self._early = []
