"""The engine that runs models in our own kernel."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from threading import Thread
from typing import Any

import numpy as np
import numpy.typing as npt

from anchorsr.arrays import UInt8Array
from anchorsr.engines.native.library import Network
from anchorsr.engines.native.packing import pack_graph
from anchorsr.errors import ModelError
from anchorsr.graph.graph import Graph

Array = npt.NDArray[Any]

# Rows of the image. A band makes some rows around it a second time, so threads get no narrower
# ones; and Ctrl-C is heard between bands only, so there are no wider ones.
_LEAST_BAND = 16
_MOST_BAND = 512


class Native:
    """Our own kernel: the bytes of the exact arithmetic, on every processor.

    Args:
        graph: The integer graph of a model.
        threads: How many make bands of rows at once.
        size: The only height and width that it takes; by default it takes every size.
        instructions: An instruction set, for tests; the best by default.

    Raises:
        ModelError: The kernel is not installed.
        GraphError: The kernel does not run the graph; the message gives the reason.
    """

    name = "native"

    def __init__(
        self,
        graph: Graph,
        threads: int,
        *,
        size: tuple[int, int] | None = None,
        instructions: str | None = None,
    ) -> None:
        self._network = Network(pack_graph(graph), graph.factor, instructions)
        self._factor = graph.factor
        self._fixed = size
        self._threads = threads
        self._width = 0
        self._workspaces: list[UInt8Array] = []

    @property
    def instructions(self) -> str:
        """The instruction set that it uses."""
        return self._network.instructions

    def __call__(self, images: Array) -> Array:
        """Run the model, as `Engine` says."""
        upscaled = self._output(images)
        self._run(images, upscaled)
        return upscaled

    def prepare(self, images: Array) -> Callable[[], object]:
        """Return a call that runs the model on these images, as `Engine` says."""
        upscaled = self._output(images)
        self._run(images, upscaled)
        return lambda: self._run(images, upscaled)

    def _output(self, images: Array) -> UInt8Array:
        if images.ndim != 4 or images.shape[0] != 1 or images.shape[3] != 3 or 0 in images.shape:
            raise ModelError(f"this model takes (1, H, W, 3), not {images.shape}")
        if images.dtype != np.uint8:
            raise ModelError(f"this model takes uint8, not {images.dtype}")
        height, width = images.shape[1:3]
        if self._fixed not in (None, (height, width)):
            raise ModelError(f"this model takes only (1, {self._fixed}, 3), not {images.shape}")
        try:
            return np.empty((1, height * self._factor, width * self._factor, 3), np.uint8)
        except (MemoryError, ValueError) as error:
            raise ModelError(f"there is no memory for {images.shape} upscaled") from error

    def _run(self, images: Array, upscaled: UInt8Array) -> None:
        image = np.ascontiguousarray(images[0])
        height, width = image.shape[:2]
        bands = _bands(height, self._threads)
        count = min(self._threads, len(bands))
        if width != self._width:
            self._width, self._workspaces = width, []
        while len(self._workspaces) < count:
            self._workspaces.append(self._network.workspace(width))
        waiting = iter(bands)  # gives each once, whichever thread asks
        failures: list[BaseException] = []

        def work(workspace: UInt8Array) -> None:
            try:
                for first, end in waiting:
                    self._network.run(image, first, end, upscaled[0], workspace)
            except BaseException as error:
                failures.append(error)
                list(waiting)  # the others stop as well

        # New ones for each call: they take 0.1 ms, and none waits in a process that forks.
        threads = [Thread(target=work, args=(each,)) for each in self._workspaces[1:count]]
        for thread in threads:
            with contextlib.suppress(RuntimeError):  # no more threads: the others do its part
                thread.start()
        work(self._workspaces[0])
        for thread in threads:
            if thread.ident is not None:
                thread.join()
        if failures:
            raise failures[0]


def _bands(height: int, threads: int) -> list[tuple[int, int]]:
    """First row and end of each band: as many for each thread."""
    useful = min(threads, max(height // _LEAST_BAND, 1))
    count = useful * -(-height // (useful * _MOST_BAND))
    edges = [height * i // count for i in range(count + 1)]
    return list(itertools.pairwise(edges))
