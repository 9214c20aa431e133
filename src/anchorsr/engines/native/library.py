"""The kernel's library, as Python calls it: addresses and sizes that belong together.

The library is built when anchorsr is installed (`setup.py`). An installation may lack it, where
there was no compiler; then other engines run the models. Calls into it let other threads run.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from anchorsr.arrays import UInt8Array
from anchorsr.errors import AnchorSRError, GraphError, ModelError

# Of the functions in `api.h` and what they take.
_VERSION = 1
_SUFFIXES = {"win32": ".dll", "darwin": ".dylib"}
PATH = Path(__file__).with_name("_kernel" + _SUFFIXES.get(sys.platform, ".so"))

_ERRORS: dict[int, tuple[type[AnchorSRError], str]] = {
    1: (ModelError, "the kernel was called with what does not belong together"),
    2: (ModelError, "the kernel does not know these bytes as a network"),
    3: (GraphError, "the kernel's sums of 32 bits might not hold this network's"),
    4: (ModelError, "the kernel gets no memory for this network"),
}


@cache
def load_library() -> ctypes.CDLL:
    """Load the library that lies beside this module.

    Raises:
        ModelError: where there is none, where it does not load, or where it was built from other
            sources than these.
    """
    if not PATH.exists():
        raise ModelError(
            "the native kernel is not in this installation: there was no C compiler when it was"
            " made; install one, or take a wheel, and install anchorsr again"
        )
    try:
        library = ctypes.CDLL(str(PATH))
        version = library.anchorsr_version()
    except (OSError, AttributeError) as error:
        raise ModelError(f"the native kernel does not load: {error}") from error
    if version != _VERSION:
        raise ModelError("the native kernel was built from other sources: install anchorsr again")
    address, number, count = ctypes.c_void_p, ctypes.c_int32, ctypes.c_uint64
    library.anchorsr_set_name.argtypes = [number]
    library.anchorsr_set_name.restype = ctypes.c_char_p
    library.anchorsr_available.argtypes = [number]
    library.anchorsr_load.argtypes = [
        ctypes.c_char_p, ctypes.c_size_t, number, ctypes.POINTER(address)
    ]  # fmt: skip
    library.anchorsr_free.argtypes = [address]
    library.anchorsr_free.restype = None
    library.anchorsr_workspace.argtypes = [address, number]
    library.anchorsr_workspace.restype = count
    library.anchorsr_run.argtypes = [
        address, address, count, *[number] * 4, address, count, address, count
    ]  # fmt: skip
    return library


def has_kernel() -> bool:
    """Tell whether this installation has the library, and whether it loads."""
    try:
        load_library()
    except ModelError:
        return False
    return True


def instruction_sets() -> dict[str, bool]:
    """Name the instruction sets that the library has code for, best first.

    Returns:
        For each name whether this processor has it.

    Raises:
        ModelError: where there is no library.
    """
    library = load_library()
    found: dict[str, bool] = {}
    while name := library.anchorsr_set_name(len(found)):
        found[name.decode()] = bool(library.anchorsr_available(len(found)))
    return found


class Network:
    """A packed graph that is ready to run; several threads may run it at once.

    Args:
        packed: what `pack_graph` made.
        factor: how many times it upscales.
        instructions: one of `instruction_sets`; the best one of this processor by default.

    Raises:
        ModelError: where there is no library, or bytes that it does not know.
        GraphError: for a graph whose sums may be too large.
        ValueError: for an instruction set that this processor lacks.
    """

    def __init__(self, packed: bytes, factor: int, instructions: str | None = None) -> None:
        self._library = load_library()
        self._factor = factor
        self._address = ctypes.c_void_p()
        known = instruction_sets()
        available = [name for name, there in known.items() if there]
        self.instructions = instructions or available[0]
        if self.instructions not in available:
            raise ValueError(f"this processor runs {', '.join(available)}, not {self.instructions}")
        number = list(known).index(self.instructions)
        address = ctypes.byref(self._address)
        _check(self._library.anchorsr_load(packed, len(packed), number, address))

    def __del__(self) -> None:
        if getattr(self, "_address", None):
            self._library.anchorsr_free(self._address)

    def workspace(self, width: int) -> UInt8Array:
        """Memory for one call at a time with images of a width.

        Raises:
            ModelError: for a width that is none, or too large.
        """
        size = self._library.anchorsr_workspace(self._address, min(width, 2**31 - 1))
        if not size:
            raise ModelError(f"the kernel takes images up to 16,777,216 wide, not {width}")
        try:
            return np.empty(size, np.uint8)
        except MemoryError as error:
            raise ModelError(f"there is no memory for an image {width} wide") from error

    def run(
        self, image: UInt8Array, first: int, end: int, upscaled: UInt8Array, workspace: UInt8Array
    ) -> None:
        """Upscale the rows `first` to `end` of an image.

        Args:
            image: uint8 RGB (H, W, 3), contiguous.
            first: the first row of the image.
            end: the row after the last.
            upscaled: uint8 (factor · H, factor · W, 3), contiguous; gets the rows that belong to
                these.
            workspace: what `workspace` gave for this width; of this call alone while it runs.

        Raises:
            ModelError: for arrays that do not belong together.
        """
        for array in (image, upscaled, workspace):
            if array.dtype != np.uint8 or not array.flags.c_contiguous:
                raise ModelError("the kernel takes contiguous arrays of uint8")
        if image.ndim != 3 or image.shape[2] != 3 or not upscaled.flags.writeable:
            raise ModelError(f"the kernel takes (H, W, 3), not {image.shape}")
        height, width = image.shape[:2]
        if upscaled.shape != (height * self._factor, width * self._factor, 3):
            raise ModelError(f"the kernel does not make {upscaled.shape} of {image.shape}")
        rows = (height, width, first, end)
        if max(rows) >= 2**31 or min(rows) < 0:
            raise ModelError(f"the kernel does not take {image.shape}, rows {first} to {end}")
        _check(
            self._library.anchorsr_run(
                self._address, *_span(image), *rows, *_span(upscaled), *_span(workspace)
            )
        )


def _span(array: UInt8Array) -> tuple[Any, int]:
    return array.ctypes.data, array.nbytes


def _check(code: int) -> None:
    if code:
        kind, message = _ERRORS[code]
        raise kind(message)
