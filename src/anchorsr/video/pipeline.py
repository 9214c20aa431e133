"""Decoding, the network and encoding in parallel, each in a thread, with short queues between."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from anchorsr.utils.signals import held_interrupts
from anchorsr.video.chroma import ChromaUpscaler
from anchorsr.video.colour import FromRgb, ToRgb
from anchorsr.video.source import Source
from anchorsr.video.target import Target
from anchorsr.video.tile_reuse import ReusingUpscaler

if TYPE_CHECKING:
    from av import VideoFrame

# Frames and packets between two threads: enough that none waits for long, little memory.
_QUEUE_SIZE = 8
_POLL_S = 0.1


@dataclass
class Timings:
    """Seconds each step was busy. The steps run in parallel: their sum exceeds the elapsed time."""

    decode_s: float = 0.0
    network_s: float = 0.0
    convert_s: float = 0.0
    encode_s: float = 0.0


@dataclass
class VideoPipeline:
    """Moves all frames and packets of a source to a target, and upscales the frames.

    Attributes:
        source: Where frames and packets come from.
        target: Where upscaled frames and copied packets go.
        upscaler: Upscales one frame after another.
        kept: Number of frames at the beginning that an earlier run has encoded.
        timings: Seconds each step was busy so far.
    """

    source: Source
    target: Target
    upscaler: ReusingUpscaler
    kept: int = 0
    timings: Timings = field(default_factory=Timings)

    def __post_init__(self) -> None:
        self._halt = threading.Event()
        self._errors: list[BaseException] = []
        self._to_rgb = ToRgb(self.source.colours)
        self._chroma = ChromaUpscaler(self.source.colours, self.upscaler.factor)
        self._from_rgb = FromRgb(self.source.colours, self.upscaler.factor)

    def run(self, on_tick: Callable[[], None]) -> None:
        """Process the whole source, and finish the target.

        After a signal that asks to stop, or an exception from `on_tick`, decoding stops; frames
        already decoded are still encoded, and the target is finished before the exception is
        raised. A second signal stops at once. An exception in a thread stops all of them and is
        raised here; the target then stays unfinished.

        No thread is alive when this returns or raises: they use what the caller closes.

        Args:
            on_tick: Called a few times per second in the calling thread.

        Raises:
            KeyboardInterrupt: The process was asked to stop.
        """
        decoded: queue.Queue[Any] = queue.Queue(_QUEUE_SIZE)
        upscaled: queue.Queue[Any] = queue.Queue(_QUEUE_SIZE)
        steps: list[tuple[str, Any, Any, Any]] = [
            ("decode", self._decode, None, decoded),
            ("network", self._upscale, decoded, upscaled),
            ("encode", self._encode, upscaled, None),
        ]
        # Events instead of Thread.join: before Python 3.13, a join that is interrupted takes a
        # running thread for finished.
        ends: list[threading.Event] = []
        stopped: BaseException | None = None
        with held_interrupts() as requests:
            try:
                for name, *arguments in steps:
                    end = threading.Event()
                    threading.Thread(
                        target=self._work, args=(*arguments, end), name=f"video-{name}"
                    ).start()
                    ends.append(end)
            except BaseException as error:
                stopped = error
                self._halt.set()
            while running := [end for end in ends if not end.is_set()]:
                try:
                    running[0].wait(_POLL_S)
                    if len(requests) > 1:
                        self._halt.set()
                    if requests and stopped is None:
                        raise KeyboardInterrupt
                    if stopped is None:
                        on_tick()
                except BaseException as error:
                    if stopped is not None:
                        self._halt.set()
                    stopped = stopped or error
                    self.source.stop()
        if stopped is not None:
            raise stopped
        if self._errors:
            raise self._errors[0]

    def _work(
        self,
        step: Callable[[Iterator[Any]], Iterator[Any]],
        inputs: queue.Queue[Any] | None,
        outputs: queue.Queue[Any] | None,
        end: threading.Event,
    ) -> None:
        """Run one step in its thread, from one queue to the next."""
        try:
            for item in step(self._take(inputs)):
                if outputs is not None and not self._put(outputs, item):
                    return
            if outputs is not None:
                self._put(outputs, _END)
            else:
                self._halt.set()  # once the last step is done, so are the others
        except BaseException as error:
            self._errors.append(error)
            self._halt.set()
        finally:
            end.set()

    def _decode(self, _: Iterator[Any]) -> Iterator[Any]:
        started = time.perf_counter()
        kept = self.kept
        item: Any
        for item in self.source.items():
            if is_frame(item):
                item = _Kept(item) if kept > 0 else (item, self._to_rgb(item), self._chroma(item))
                kept -= 1
            self.timings.decode_s += time.perf_counter() - started
            yield item
            started = time.perf_counter()

    def _upscale(self, items: Iterator[Any]) -> Iterator[Any]:
        for item in items:
            if not isinstance(item, tuple):
                yield item
                continue
            frame, rgb, chroma = item
            started = time.perf_counter()
            changed = self.upscaler.update(rgb)
            computed = time.perf_counter()
            upscaled = self._from_rgb(self.upscaler.output, changed, chroma)
            upscaled.pts, upscaled.time_base = frame.pts, frame.time_base
            upscaled.duration = frame.duration
            self.timings.network_s += computed - started
            self.timings.convert_s += time.perf_counter() - computed
            yield upscaled

    def _encode(self, items: Iterator[Any]) -> Iterator[Any]:
        for item in items:
            started = time.perf_counter()
            if isinstance(item, _Kept):
                self.target.repeat(item.frame)
            elif is_frame(item):
                self.target.encode(item)
            else:
                self.target.copy(item)
            self.timings.encode_s += time.perf_counter() - started
            if self.target.disk_is_full:
                self.source.stop()
                break
        if not self._halt.is_set():
            # Here and not in the calling thread, where an interrupt would leave it half done.
            started = time.perf_counter()
            self.target.finish()
            self.timings.encode_s += time.perf_counter() - started
        yield from ()

    def _take(self, inputs: queue.Queue[Any] | None) -> Iterator[Any]:
        while inputs is not None and not self._halt.is_set():
            try:
                item = inputs.get(timeout=_POLL_S)
            except queue.Empty:
                continue
            if item is _END:
                return
            yield item

    def _put(self, outputs: queue.Queue[Any], item: Any) -> bool:
        """Put an item into a queue; False if all threads should stop instead."""
        while not self._halt.is_set():
            try:
                outputs.put(item, timeout=_POLL_S)
                return True
            except queue.Full:
                continue
        return False


_END = object()


@dataclass(frozen=True)
class _Kept:
    """A frame of the source whose upscaled form an earlier run has encoded."""

    frame: VideoFrame


def is_frame(item: Any) -> bool:
    """Tell whether an item of a source is a frame; packets have a stream."""
    return not hasattr(item, "stream")


def output_size(frame: VideoFrame, factor: int, subsampling: tuple[int, int]) -> tuple[int, int]:
    """Compute the size of the upscaled frames.

    Args:
        frame: A frame of the source.
        factor: Upscaling factor.
        subsampling: Luma columns and rows per chroma sample, as from `colour.subsampling`.

    Returns:
        Width and height, rounded up to even where the chroma is halved.
    """
    columns, rows = subsampling
    width, height = frame.width * factor, frame.height * factor
    return width + width % columns, height + height % rows
