"""Sets of a hundred million names, kept as 16 bytes each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

Digests = npt.NDArray[np.bytes_]


def digests(names: Iterable[str]) -> Digests:
    """Return the digests of names, (N,), each of 16 bytes.

    Two of 10^9 names have the same digest with a probability below 10^-20.
    """
    made = [hashlib.blake2b(_encoded(name), digest_size=16).digest() for name in names]
    return np.array(made, "S16")


class NameSet:
    """A set of names.

    Args:
        members: Their digests.
    """

    def __init__(self, members: Digests) -> None:
        self._sorted = np.unique(members)

    def __len__(self) -> int:
        return len(self._sorted)

    def contains(self, names: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Return which of some names are in the set, (N,)."""
        return self.contains_digests(digests(names))

    def contains_digests(self, wanted: Digests) -> npt.NDArray[np.bool_]:
        """Return which of some digests are those of names in the set, (N,)."""
        if not len(self._sorted):
            return np.zeros(len(wanted), bool)
        places = np.searchsorted(self._sorted, wanted).clip(max=len(self._sorted) - 1)
        found: npt.NDArray[np.bool_] = self._sorted[places] == wanted
        return found


def repeated(members: Digests) -> NameSet:
    """Return the names that occur more than once."""
    ordered = np.sort(members)
    return NameSet(ordered[1:][ordered[1:] == ordered[:-1]])


def _encoded(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")
