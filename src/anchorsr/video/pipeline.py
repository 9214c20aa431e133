"""Decoding, the network and encoding side by side, each in a thread, with little between them."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from anchorsr.video.colour import FromRgb, ToRgb
from anchorsr.video.source import Source
from anchorsr.video.target import Target
from anchorsr.video.tile_reuse import ReusingUpscaler

if TYPE_CHECKING:
    from av import VideoFrame

# Frames and packets between two threads: enough that none waits for long, little memory.
_BETWEEN = 8
_POLL_S = 0.1


@dataclass
class Clock:
    """Seconds that each step was busy; they run side by side, so the sum exceeds the whole."""

    decode_s: float = 0.0
    network_s: float = 0.0
    convert_s: float = 0.0
    encode_s: float = 0.0


@dataclass
class Pipeline:
    """All items of a source into a target, frames made larger. `clock`: where the time went."""

    source: Source
    target: Target
    upscaler: ReusingUpscaler
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self._halt = threading.Event()
        self._errors: list[BaseException] = []
        self._to_rgb = ToRgb(self.source.colours)
        self._from_rgb = FromRgb(self.source.colours, self.upscaler.factor)

    def run(self, on_tick: Callable[[], None]) -> None:
        """Do all of it, calling `on_tick` a few times a second in this thread.

        An interrupt, or whatever else `on_tick` raises, lets what has been decoded go through
        to the end before it is raised; a second one does not. What a thread raises is raised.
        The target is finished, unless one of the threads has raised or all had to end at once.
        """
        decoded: queue.Queue[Any] = queue.Queue(_BETWEEN)
        enlarged: queue.Queue[Any] = queue.Queue(_BETWEEN)
        steps: list[tuple[str, Any, Any, Any]] = [
            ("decode", self._decode, None, decoded),
            ("network", self._enlarge, decoded, enlarged),
            ("encode", self._encode, enlarged, None),
        ]
        # Waited for by these, as Thread.join, once interrupted, takes a running thread for ended
        # (Python before 3.13).
        ends = [threading.Event() for _ in steps]
        for (name, *arguments), end in zip(steps, ends, strict=True):
            threading.Thread(
                target=self._work, args=(*arguments, end), name=f"video-{name}", daemon=True
            ).start()
        try:
            try:
                while not ends[-1].wait(_POLL_S):
                    on_tick()
            except BaseException:
                self.source.stop()
                _wait(ends)
                raise
        finally:
            self._halt.set()
            _wait(ends)
        if self._errors:
            raise self._errors[0]

    def _work(
        self,
        step: Callable[[Iterator[Any]], Iterator[Any]],
        before: queue.Queue[Any] | None,
        after: queue.Queue[Any] | None,
        end: threading.Event,
    ) -> None:
        """One thread: all that comes from one queue through a step into the next."""
        try:
            for item in step(self._take(before)):
                if after is not None and not self._put(after, item):
                    return
            if after is not None:
                self._put(after, _END)
            else:
                self._halt.set()  # the end of the last step, also before that of the others
        except BaseException as error:
            self._errors.append(error)
            self._halt.set()
        finally:
            end.set()

    def _decode(self, _: Iterator[Any]) -> Iterator[Any]:
        started = time.perf_counter()
        item: Any
        for item in self.source.items():
            if is_frame(item):
                item = item, self._to_rgb(item)
            self.clock.decode_s += time.perf_counter() - started
            yield item
            started = time.perf_counter()

    def _enlarge(self, items: Iterator[Any]) -> Iterator[Any]:
        for item in items:
            if not isinstance(item, tuple):
                yield item
                continue
            frame, rgb = item
            started = time.perf_counter()
            changed = self.upscaler.update(rgb)
            computed = time.perf_counter()
            larger = self._from_rgb(self.upscaler.output, changed)
            larger.pts, larger.time_base = frame.pts, frame.time_base
            larger.duration = frame.duration
            self.clock.network_s += computed - started
            self.clock.convert_s += time.perf_counter() - computed
            yield larger

    def _encode(self, items: Iterator[Any]) -> Iterator[Any]:
        for item in items:
            started = time.perf_counter()
            if is_frame(item):
                self.target.encode(item)
            else:
                self.target.copy(item)
            self.clock.encode_s += time.perf_counter() - started
            if self.target.disk_is_full:
                self.source.stop()
                break
        if not self._halt.is_set():
            # Here, not in the thread that waits, as an interrupt would leave it half done.
            started = time.perf_counter()
            self.target.finish()
            self.clock.encode_s += time.perf_counter() - started
        yield from ()

    def _take(self, before: queue.Queue[Any] | None) -> Iterator[Any]:
        while before is not None and not self._halt.is_set():
            try:
                item = before.get(timeout=_POLL_S)
            except queue.Empty:
                continue
            if item is _END:
                return
            yield item

    def _put(self, after: queue.Queue[Any], item: Any) -> bool:
        """False if all should end."""
        while not self._halt.is_set():
            try:
                after.put(item, timeout=_POLL_S)
                return True
            except queue.Full:
                continue
        return False


_END = object()


def is_frame(item: Any) -> bool:
    """Whether an item of a source is a frame: packets have a stream."""
    return not hasattr(item, "stream")


def _wait(ends: list[threading.Event]) -> None:
    for end in ends:
        while not end.wait(_POLL_S):  # in pieces, so that a signal comes through
            pass


def frame_size(frame: VideoFrame, factor: int, subsampling: tuple[int, int]) -> tuple[int, int]:
    """Columns and rows of the larger frame: even where the chroma has half of them."""
    columns, rows = subsampling
    width, height = frame.width * factor, frame.height * factor
    return width + width % columns, height + height % rows
