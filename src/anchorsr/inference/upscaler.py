"""Upscale images with a model: arrays, Pillow images and files, by its factor or to any size."""

from __future__ import annotations

import copy
import functools
import os
import threading
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
from PIL import Image

from anchorsr.arrays import UInt8Array
from anchorsr.data.strengths import CLEAN, Strengths
from anchorsr.engines.native.engine import Native
from anchorsr.engines.runtimes import NATIVE, Engine, default_threads, load_engine
from anchorsr.engines.selection import AUTO, Choice, choose_engine
from anchorsr.engines.sized import SizedEngine
from anchorsr.errors import ModelError
from anchorsr.graph.graph import Graph
from anchorsr.images.image import Pixels, RasterImage
from anchorsr.inference.automatic import Selection, resolve_model, select_model
from anchorsr.inference.kinds import upscale_any
from anchorsr.inference.raster import upscale_image
from anchorsr.inference.tiling import TILE, upscale_strips, upscale_tiled
from anchorsr.models.registry import (
    AUTO_MODEL,
    apply_strengths,
    model_path,
    read_model,
)
from anchorsr.serialization.tflite.summary import fixed_size
from anchorsr.serialization.tflite.writer import needs_size, write_tflite


class Upscaler:
    """A model, loaded once for many images.

    Calls from several threads wait for one another.

    Args:
        model: `auto`, the name of a shipped model, or the path of a `.tflite` file. With `auto`,
            each image gets the model that fits its damage: `photo`, with measured strengths, or
            `quality`.
        factor: The super-resolution factor; by default that of the file, or 3.
        threads: Processor threads; by default all.
        engine: `litert`, `openvino`, `onnxruntime`, or `auto` for the fastest of them that is
            installed and exact enough on this machine.
        strengths: How damaged the images are, for a model that takes strengths. With `auto`, they
            are then not measured.

    Attributes:
        factor: The super-resolution factor.
        engine: The engine in use.
        why: One line on why this engine is used.
        graph: The model's graph.

    Raises:
        ModelError: For an unknown model, factor or engine, an engine that is not exact, or
            strengths that the model does not take.

    >>> import numpy
    >>> upscaler = Upscaler("fast", factor=2)
    >>> upscaler(numpy.zeros((48, 64, 3), numpy.uint8)).shape
    (96, 128, 3)
    """

    # What loads the model for the damage of an image; None where a model was named.
    _load: partial[Upscaler] | None = None

    def __init__(
        self,
        model: str | Path = AUTO_MODEL,
        factor: int | None = None,
        *,
        threads: int | None = None,
        engine: str = AUTO,
        strengths: Strengths = CLEAN,
    ) -> None:
        path = model_path(resolve_model(model, strengths), factor)
        data, graph = read_model(path)
        _check_upscales_images(path, graph)
        if fixed_size(data) is not None and not needs_size(graph):
            data = write_tflite(graph)  # tiles, and changed parts of a video, differ in size
        _check_factor(path, graph, factor)
        self._data = data
        self._prepare(graph, choose_engine(data, graph, name=engine, threads=threads), threads)
        if strengths != CLEAN:
            self._apply(strengths)
        if model == AUTO_MODEL and strengths == CLEAN:
            self._load = partial(ready_upscaler, threads=threads, engine=engine)

    @classmethod
    def of_graph(cls, graph: Graph, *, threads: int | None = None, engine: str = AUTO) -> Upscaler:
        """Make an Upscaler of an integer graph that is in no file.

        Args:
            graph: The graph.
            threads: As for `Upscaler`.
            engine: As for `Upscaler`; graphs whose files store a size run in LiteRT.

        Raises:
            ModelError: As `Upscaler` does.
        """
        _check_upscales_images(Path(graph.name), graph)
        if needs_size(graph):
            choice = Choice(SizedEngine(graph, threads), "each size of an image needs a file")
        else:
            choice = choose_engine(write_tflite(graph), graph, name=engine, threads=threads)
        upscaler = cls.__new__(cls)
        upscaler._prepare(graph, choice, threads)
        return upscaler

    def _prepare(self, graph: Graph, choice: Choice, threads: int | None) -> None:
        self.graph = graph
        self.factor = graph.factor
        self.engine, self.why = choice.engine.name, choice.why
        self._engine = choice.engine
        self._threads = threads or default_threads()
        self._lock = threading.Lock()

    def _apply(self, strengths: Strengths) -> None:
        """Become the network for given strengths: of the same operators, so in the same engine."""
        graph = apply_strengths(self._data, self.graph, strengths.as_table())
        engine: Engine
        if self.engine == NATIVE:
            engine = Native(graph, self._threads)
        else:
            engine = load_engine(write_tflite(graph), name=self.engine, threads=self._threads)
        self._prepare(graph, Choice(engine, self.why), self._threads)

    @overload
    def __call__(self, image: Image.Image) -> Image.Image: ...
    @overload
    def __call__(self, image: Pixels | str | os.PathLike[str]) -> Pixels: ...
    def __call__(
        self, image: Pixels | str | os.PathLike[str] | Image.Image
    ) -> Pixels | Image.Image:
        """Upscale an image, or a batch of images.

        Args:
            image: A uint8 or uint16 array: grey (H, W) or (H, W, 1), RGB (H, W, 3), RGBA (H, W, 4)
                with alpha not premultiplied, or a batch (N, H, W, C) of any of them; a Pillow
                image; or the path of an image file, which is read upright.

        Returns:
            An array of the same type and layout; for a Pillow image, a Pillow image. A file becomes
            grey (H, W), RGB or RGBA.

        Raises:
            ValueError: For an array or Pillow image of any other type or shape.
            ImageError: If the file cannot be read.
        """
        result: Pixels | Image.Image = upscale_any(image, self.upscale_image)
        return result

    @property
    def is_automatic(self) -> bool:
        """Whether each image gets the model that fits it."""
        return self._load is not None

    @property
    def wrapped_margin(self) -> int:
        """Pixels that a texture whose edges meet needs around it; alpha's filter sees two."""
        return max(self.graph.halo, 4)

    def for_selection(self, selection: Selection) -> Upscaler:
        """Return the Upscaler of a selected model, if this one is automatic; else this one."""
        if self._load is None:
            return self
        return self._load(selection.model, self.factor, strengths=selection.strengths)

    @overload
    def frames(self, images: Iterable[Image.Image]) -> Iterator[Image.Image]: ...
    @overload
    def frames(self, images: Iterable[Pixels | str | os.PathLike[str]]) -> Iterator[Pixels]: ...
    def frames(self, images: Iterable[Any]) -> Iterator[Any]:
        """Upscale images one by one, each when it is asked for.

        Args:
            images: What a call takes.

        Yields:
            What a call returns.
        """
        for image in images:
            yield self(image)

    def upscale_rgb(self, rgb: UInt8Array) -> UInt8Array:
        """Upscale 8-bit RGB, without the conversions of a call.

        Args:
            rgb: uint8 (H, W, 3).

        Returns:
            uint8 (factor · H, factor · W, 3).

        Raises:
            ValueError: For any other type or shape.
        """
        _check_rgb(rgb)
        chosen = self.for_image(RasterImage(rgb))
        if chosen is not self:
            return chosen.upscale_rgb(rgb)
        with self._lock:
            if self.engine == NATIVE:  # it needs memory for some rows only, whatever the size
                whole: UInt8Array = self._engine(np.ascontiguousarray(rgb[None]))[0]
                return whole
            return upscale_tiled(self._engine, rgb, threads=self._threads, **self._tiles(rgb))

    def upscale_image(self, image: RasterImage) -> RasterImage:
        """Upscale an image with its metadata, keeping grey, alpha and bit depth."""
        return upscale_image(image, self.for_image(image))

    def for_image(self, image: RasterImage) -> Upscaler:
        """Return the upscaler for an image: this one, unless its model is `auto`."""
        if not self.is_automatic:
            return self
        return self.for_selection(select_model(image))

    def strips(self, rgb: UInt8Array) -> Iterator[UInt8Array]:
        """Upscale 8-bit RGB in strips of rows, of which only one is in memory.

        Until the last strip is taken, other calls wait.

        Args:
            rgb: uint8 (H, W, 3).

        Yields:
            uint8 (N, factor · W, 3), from top to bottom.

        Raises:
            ValueError: For any other type or shape.
        """
        _check_rgb(rgb)
        chosen = self.for_image(RasterImage(rgb))
        if chosen is not self:
            yield from chosen.strips(rgb)
            return
        with self._lock:
            yield from upscale_strips(self._engine, rgb, **self._tiles(rgb))

    def _tiles(self, rgb: UInt8Array) -> dict[str, int]:
        """Return how to cut an image: not at all if it fits into one tile, whatever the halo."""
        halo = 0 if max(rgb.shape[:2]) <= TILE else self.graph.halo
        multiple = self.graph.multiple
        tile = max(TILE, 4 * halo + 2 * multiple)
        return {"factor": self.factor, "halo": halo, "tile": tile, "multiple": multiple}


def ready_upscaler(
    model: str | Path,
    factor: int | None = None,
    *,
    threads: int | None = None,
    engine: str = AUTO,
    strengths: Strengths = CLEAN,
) -> Upscaler:
    """Return the Upscaler of an earlier call, or load it, also if the file has changed.

    It does not choose: `auto` is the model for clean images, or the one that takes strengths.

    Args:
        model: As for `Upscaler`.
        factor: As for `Upscaler`.
        threads: As for `Upscaler`.
        engine: As for `Upscaler`.
        strengths: As for `Upscaler`.

    Raises:
        ModelError: As `Upscaler` does.
    """
    path = model_path(resolve_model(model, strengths), factor)
    status = path.stat() if path.is_file() else None
    file = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns) if status else ()
    upscaler = _ready(path, file, threads, engine, strengths)
    _check_factor(path, upscaler.graph, factor)
    return upscaler


@functools.lru_cache(maxsize=8)
def _ready(
    path: Path,
    file: tuple[int, ...],
    threads: int | None,
    engine: str,
    strengths: Strengths,
) -> Upscaler:
    """Load an Upscaler; `file` identifies the contents, so a changed file is loaded again."""
    if strengths == CLEAN:
        return Upscaler(path, threads=threads, engine=engine)
    changed = copy.copy(_ready(path, file, threads, engine, CLEAN))
    changed._apply(strengths)
    return changed


def _check_rgb(rgb: npt.NDArray[Any]) -> None:
    """Refuse other types, from which engines would make something else."""
    if not isinstance(rgb, np.ndarray):
        raise ValueError(f"an image is a numpy array here, not {type(rgb).__name__}")
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or not rgb.size:
        raise ValueError(f"an image here is uint8 (H, W, 3), not {rgb.dtype} {rgb.shape}")


def _check_factor(path: Path, graph: Graph, factor: int | None) -> None:
    if factor not in (None, graph.factor):
        raise ModelError(f"{path} upscales {graph.factor} times, not {factor}")


def _check_upscales_images(path: Path, graph: Graph) -> None:
    for which, name in (("input", graph.input), ("output", graph.output)):
        tensor = graph.tensors[name]
        if (tensor.dtype, tensor.channels) != ("uint8", 3):
            raise ModelError(
                f"{path}: a model takes and returns uint8 with 3 channels; the {which}"
                f" of this one is {tensor.dtype} with {tensor.channels}"
            )
    if graph.factor < 2:
        raise ModelError(f"{path} does not upscale: its factor is {graph.factor}")
