"""Take strips of rows from a sequence of them, so that each is freed before the next is made."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

import numpy as np

from anchorsr.images.image import Pixels


def rebanded(strips: Iterable[Pixels], rows: int) -> Iterator[Pixels]:
    """Yield strips of the same pixels with this many rows each; the last has what remains."""
    rest: Pixels | None = None
    for strip in strips:
        at = 0
        if rest is not None:
            at = min(rows - len(rest), len(strip))
            rest = np.concatenate((rest, strip[:at]))
            if len(rest) == rows:
                yield rest
                rest = None
        while at + rows <= len(strip):
            yield strip[at : at + rows]
            at += rows
        if at < len(strip):
            rest = strip[at:].copy()
        del strip  # freed before the next one is made
    if rest is not None:
        yield rest


def with_first_row(strips: Iterable[Pixels]) -> tuple[Pixels, Iterator[Pixels]]:
    """Return a copy of the first row, (1, W, C), which shows the layout, and all the strips."""
    remaining = iter(strips)
    held = deque([next(remaining)])

    def every() -> Iterator[Pixels]:
        yield held.popleft()
        yield from remaining

    return held[0][:1].copy(), every()
