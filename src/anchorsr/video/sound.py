"""Convert sound that a container cannot hold."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from av import Packet
    from av.container import OutputContainer
    from av.stream import Stream

# Encoders in order of preference: for sound that was compressed without loss, and with loss.
_LOSSLESS = ("flac", "alac")
_LOSSY = ("aac", "libopus")
# Containers round the times of frames, and some give only that of the first in a packet.
_ROUNDING = Fraction(1, 50)
_BITS_PER_CHANNEL = 96_000  # per second

# The layout of so many channels, as in FFmpeg's av_channel_layout_default.
DEFAULT_LAYOUTS = {
    "1 channels": "mono",
    "2 channels": "stereo",
    "3 channels": "2.1",
    "4 channels": "4.0",
    "5 channels": "5.0",
    "6 channels": "5.1",
    "7 channels": "6.1",
    "8 channels": "7.1",
}


class SoundConverter:
    """Decodes the packets of a sound stream and encodes them again.

    Args:
        template: The stream of the source.
        stream: The new stream of the target, as `add_converted` returns it.

    Attributes:
        stream: As above.
        damaged: Number of packets that could not be decoded.
    """

    def __init__(self, template: Stream, stream: Any) -> None:
        self.stream = stream
        self.damaged = 0
        self._next = Fraction(0)  # when the next frame begins, in seconds
        self._decoder: Any = template.codec_context

    def convert(self, packet: Packet[Stream]) -> Iterator[Any]:
        """Convert a packet; yields packets to write."""
        yield from self._encode(packet)

    def finish(self) -> Iterator[Any]:
        """Flush decoder and encoder; yields packets to write."""
        yield from self._encode(None)
        if self.stream.codec_context.is_open:
            yield from self.stream.encode(None)

    def _encode(self, packet: Packet[Stream] | None) -> Iterator[Any]:
        from av import FFmpegError

        try:
            frames = self._decoder.decode(packet)
        except FFmpegError:
            self.damaged += packet is not None
            return
        for frame in frames:
            given = None if frame.pts is None else frame.pts * frame.time_base
            if given is None or abs(given - self._next) < _ROUNDING:
                given = self._next
            frame.pts, frame.time_base = round(given * frame.rate), Fraction(1, frame.rate)
            self._next = given + Fraction(frame.samples, frame.rate)
            yield from self.stream.encode(frame)


def add_converted(container: OutputContainer, template: Stream) -> Any:
    """Add a stream for converted sound; None if the source's cannot be decoded.

    What was compressed without loss stays lossless where the container has a codec for it.

    Args:
        container: The target.
        template: The stream of the source.

    Returns:
        The new stream, whose codec is not opened yet.
    """
    import av
    from av import FFmpegError

    source: Any = template.codec_context
    if source is None or not source.sample_rate or source.format is None:
        return None
    names = (*(_LOSSLESS if _is_lossless(source) else ()), *_LOSSY)
    for name in names:
        with contextlib.suppress(ValueError, FFmpegError):
            # Some containers refuse a codec only when their header is written.
            with av.open(io.BytesIO(), "w", format=container.format.name) as trial:
                _add(trial, name, source)
                trial.start_encoding()
            return _add(container, name, source)
    return None


def _add(container: OutputContainer, name: str, source: Any) -> Any:
    """Add a stream for the sound of a decoder."""
    stream: Any = container.add_stream(name, _rate(name, source.sample_rate))
    layout = source.layout.name
    stream.codec_context.layout = DEFAULT_LAYOUTS.get(layout, layout)
    if name in _LOSSY:
        stream.codec_context.bit_rate = _BITS_PER_CHANNEL * source.channels
    elif source.format.bytes > 2:
        stream.codec_context.format = {"flac": "s32", "alac": "s32p"}[name]
    else:
        stream.codec_context.format = {"flac": "s16", "alac": "s16p"}[name]
    return stream


def _is_lossless(codec_context: Any) -> bool:
    codec = codec_context.codec
    return bool(codec.lossless and not codec.lossy)


def _rate(encoder: str, rate: int) -> int:
    """The sample rate nearest above that the encoder takes."""
    from av.codec import Codec

    rates = Codec(encoder, "w").audio_rates
    if not rates or rate in rates:
        return rate
    return min((each for each in rates if each >= rate), default=max(rates))
