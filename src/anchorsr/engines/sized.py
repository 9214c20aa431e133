"""LiteRT for graphs whose `.tflite` stores a size: a file in memory for each size of an image."""

from __future__ import annotations

import functools
from collections.abc import Callable

from anchorsr.arrays import Array
from anchorsr.engines.runtimes import Engine, load_engine
from anchorsr.graph.graph import Graph
from anchorsr.serialization.tflite.writer import write_tflite

_MOST = 8  # files that are kept


class SizedEngine:
    """Runs a graph through a file of the image's own size.

    Args:
        graph: The graph.
        threads: Processor threads; by default all.
    """

    name = "litert"

    def __init__(self, graph: Graph, threads: int | None = None) -> None:
        @functools.lru_cache(maxsize=_MOST)
        def engine(height: int, width: int) -> Engine:
            return load_engine(write_tflite(graph, size=(height, width)), threads=threads)

        self._engine = engine

    def __call__(self, images: Array) -> Array:
        """Run the graph on images, (1, H, W, C)."""
        return self._engine(*images.shape[1:3])(images)

    def prepare(self, images: Array) -> Callable[[], object]:
        """Prepare a benchmark, as every `Engine` does."""
        return self._engine(*images.shape[1:3]).prepare(images)
