"""Turn interlaced frames into progressive ones with FFmpeg's filter `bwdif`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from anchorsr.errors import VideoError, unknown_choice

if TYPE_CHECKING:
    from av import VideoFrame

MODES = ("auto", "on", "off")


class Deinterlacer:
    """Deinterlaces the frames of one video, one progressive frame for each.

    The filter is set up at the first interlaced frame; the frames before it are passed on as they
    are. It returns a frame once it has seen the next one.

    Args:
        mode: `auto` for the frames that are marked as interlaced, `on` for all, `off` for none.

    Attributes:
        active: Whether any frame was deinterlaced so far.

    Raises:
        VideoError: There is no such mode.
    """

    def __init__(self, mode: str) -> None:
        if mode not in MODES:
            raise VideoError(unknown_choice("deinterlacing", mode, MODES))
        self.active = False
        self._mode = mode
        self._graph: Any = None
        self._kind: tuple[int, int, str] | None = None
        self._base = Fraction(1, 1000)

    def __call__(self, frame: VideoFrame | None) -> Iterator[VideoFrame]:
        """Take a frame, or None at the end; yields those that are done.

        Frames keep their pts and time base.
        """
        if frame is None:
            yield from self._flush()
            return
        kind = frame.width, frame.height, frame.format.name
        if self._graph is not None and kind != self._kind:
            yield from self._flush()
        wanted = self._mode == "on" or (self._mode == "auto" and frame.interlaced_frame)
        if self._graph is None:
            if not wanted:
                yield frame
                return
            self._start(frame)
            self._kind = kind
        self._graph.push(frame)
        yield from self._pull()

    def _start(self, frame: VideoFrame) -> None:
        from av.filter import Graph

        self.active = True
        self._base = frame.time_base or self._base
        graph = Graph()
        which = "all" if self._mode == "on" else "interlaced"
        steps = [
            graph.add_buffer(
                width=frame.width,
                height=frame.height,
                format=frame.format,
                time_base=self._base,
            ),
            graph.add("bwdif", f"mode=send_frame:deint={which}"),
            graph.add("format", frame.format.name),
            graph.add("buffersink"),
        ]
        for first, second in itertools.pairwise(steps):
            first.link_to(second)
        graph.configure()
        self._graph = graph

    def _flush(self) -> Iterator[VideoFrame]:
        if self._graph is not None:
            self._graph.push(None)
            yield from self._pull()
            self._graph = None

    def _pull(self) -> Iterator[VideoFrame]:
        from av.error import BlockingIOError, EOFError

        while True:
            try:
                frame: Any = self._graph.pull()
            except (BlockingIOError, EOFError):
                return
            # The filter halves the time base.
            scale = frame.time_base / self._base
            frame.pts, frame.duration = round(frame.pts * scale), round(frame.duration * scale)
            frame.time_base = self._base
            yield frame
