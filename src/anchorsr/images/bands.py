"""Cut a sequence of strips into strips of another height."""

from __future__ import annotations

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
            if len(rest) < rows:
                continue
            yield rest
        while at + rows <= len(strip):
            yield strip[at : at + rows]
            at += rows
        rest = strip[at:].copy() if at < len(strip) else None
    if rest is not None:
        yield rest
