"""Upscale images with a model: arrays, Pillow images and files, by its factor or to any size."""

from __future__ import annotations

import functools
import operator
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
from PIL import Image

from anchorsr.arrays import UInt8Array
from anchorsr.data.strengths import CLEAN, Strengths
from anchorsr.engines.runtimes import NATIVE, default_threads, load_engine
from anchorsr.engines.selection import AUTO, choose_engine
from anchorsr.errors import ModelError
from anchorsr.graph.graph import Graph
from anchorsr.images.animation import Animation
from anchorsr.images.image import Pixels, RasterImage
from anchorsr.images.resize import resize_image
from anchorsr.inference.automatic import Selection, resolve_model, select_model
from anchorsr.inference.kinds import check_kind, upscale_any
from anchorsr.inference.raster import upscale_image
from anchorsr.inference.sizes import TargetSize, UpscalePlan, plan_upscale
from anchorsr.inference.tiling import TILE, upscale_strips, upscale_tiled
from anchorsr.models.registry import (
    AUTO_MODEL,
    DEFAULT,
    apply_strengths,
    list_models,
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

    def __init__(
        self,
        model: str | Path = AUTO_MODEL,
        factor: int | None = None,
        *,
        threads: int | None = None,
        engine: str = AUTO,
        strengths: Strengths = CLEAN,
    ) -> None:
        automatic = model == AUTO_MODEL and strengths == CLEAN
        # What loads the model for the damage of an image; None where a model was named.
        self._load = partial(ready_upscaler, threads=threads, engine=engine) if automatic else None
        path = model_path(resolve_model(model, factor, strengths), factor)
        data, self.graph = read_model(path)
        _check_upscales_images(path, self.graph)
        if fixed_size(data) is not None and not needs_size(self.graph):
            data = write_tflite(self.graph)  # tiles, and changed parts of a video, differ in size
        self.factor = self.graph.factor
        if factor not in (None, self.factor):
            raise ModelError(f"{path} upscales {self.factor} times, not {factor}")
        choice = choose_engine(data, self.graph, name=engine, threads=threads)
        self.engine, self.why = choice.engine.name, choice.why
        self._engine = choice.engine
        if strengths != CLEAN:  # the same operators and integer weights, so the same engine
            self.graph = apply_strengths(data, self.graph, strengths.as_table())
            changed = write_tflite(self.graph)
            self._engine = load_engine(changed, name=self.engine, threads=threads)
        self._threads = threads or default_threads()
        self._lock = threading.Lock()

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
        if self._load is None:
            return self
        selection = select_model(image, self.factor)
        return self._load(selection.model, self.factor, strengths=selection.strengths)

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
        return {"factor": self.factor, "halo": halo, "tile": max(TILE, 4 * halo)}


@overload
def upscale(
    image: Image.Image,
    *,
    factor: int | None = None,
    scale: float | None = None,
    size: tuple[int, int] | None = None,
    model: str | Path = AUTO_MODEL,
    threads: int | None = None,
    engine: str = AUTO,
    strengths: Strengths = CLEAN,
) -> Image.Image: ...
@overload
def upscale(
    image: Pixels | str | os.PathLike[str],
    *,
    factor: int | None = None,
    scale: float | None = None,
    size: tuple[int, int] | None = None,
    model: str | Path = AUTO_MODEL,
    threads: int | None = None,
    engine: str = AUTO,
    strengths: Strengths = CLEAN,
) -> Pixels: ...
def upscale(
    image: Pixels | str | os.PathLike[str] | Image.Image,
    *,
    factor: int | None = None,
    scale: float | None = None,
    size: tuple[int, int] | None = None,
    model: str | Path = AUTO_MODEL,
    threads: int | None = None,
    engine: str = AUTO,
    strengths: Strengths = CLEAN,
) -> Pixels | Image.Image:
    """Upscale an image by the model's factor, by any scale, or to any size.

    The model stays loaded for the next call.

    Args:
        image: A uint8 or uint16 array: grey (H, W) or (H, W, 1), RGB (H, W, 3), RGBA (H, W, 4)
            with alpha not premultiplied, or a batch (N, H, W, C) of any of them; a Pillow image;
            or the path of an image file, which is read upright.
        factor: The super-resolution factor of the network; by default that of the file, or 3.
        scale: How many times larger, or smaller if below 1; any number.
        size: Exactly this (height, width) in pixels.
        model: As for `Upscaler`.
        threads: Processor threads; by default all.
        engine: As for `Upscaler`.
        strengths: As for `Upscaler`.

    Returns:
        An array of the same type and layout; for a Pillow image, a Pillow image. A file becomes
        grey (H, W), RGB or RGBA. The array shares no memory with the image.

    Raises:
        ValueError: For an array or Pillow image of any other type or shape, or a size that is not
            two integers.
        ImageError: If the file cannot be read.
        ModelError: For an unknown model, factor or engine.
        OutputError: For an impossible scale or size.

    >>> import numpy
    >>> upscale(numpy.zeros((48, 64, 3), numpy.uint8), size=(100, 130)).shape
    (100, 130, 3)
    """
    try:
        height, width = (None, None) if size is None else (operator.index(side) for side in size)
    except (TypeError, ValueError):
        raise ValueError(f"a size is two integers, (height, width), not {size!r}") from None
    check_kind(image)
    target = TargetSize(scale, height, width, stretch=size is not None)
    upscaler = ImageUpscaler(
        model, factor, target, threads=threads, engine=engine, strengths=strengths
    )
    result: Pixels | Image.Image = upscale_any(image, upscaler)
    return result


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
    path = model_path(resolve_model(model, factor, strengths), factor)
    status = path.stat() if path.is_file() else None
    file = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns) if status else ()
    return _ready(path, file, factor, threads, engine, strengths)


class ImageUpscaler:
    """Upscales images to a target size, with the networks of one model, or the ones that fit.

    Without a factor, every factor of a shipped model may be used; each is loaded when first needed.

    Args:
        model: As for `Upscaler`.
        factor: As for `Upscaler`.
        target: The size of the results; by default the model's factor.
        threads: As for `Upscaler`.
        engine: As for `Upscaler`.
        strengths: As for `Upscaler`. Later passes see an image that is clean.

    Attributes:
        engine: The engine in use.
        why: One line on why this engine is used.
        label: The suffix of results' names, such as `x3`.

    Raises:
        ModelError: As `Upscaler` does.
    """

    def __init__(
        self,
        model: str | Path = AUTO_MODEL,
        factor: int | None = None,
        target: TargetSize = TargetSize(),
        *,
        threads: int | None = None,
        engine: str = AUTO,
        strengths: Strengths = CLEAN,
    ) -> None:
        self._load = partial(ready_upscaler, threads=threads, engine=engine)
        self._automatic = model == AUTO_MODEL and strengths == CLEAN
        self._model = resolve_model(model, factor, strengths)
        self._strengths = strengths
        first = self._load(self._model, factor, strengths=strengths)
        self.engine, self.why = first.engine, first.why
        shipped = [entry.factor for entry in list_models() if entry.name == self._model]
        self._factors = shipped if factor is None and shipped else [first.factor]
        self.label = target.label(first.factor)
        self._target = TargetSize(scale=first.factor) if target == TargetSize() else target

    def __call__(self, image: RasterImage) -> RasterImage:
        """Upscale an image to the target size.

        Raises:
            OutputError: If the result has too many pixels.
        """
        plan = self.plan(*image.size)
        passed = self.run_passes(image, plan.factors, self.select(image, plan))
        return resize_image(passed, *plan.target)

    def select(self, image: RasterImage, plan: UpscalePlan) -> Selection:
        """Choose the model and the strengths for an image, as `select_model` does for `auto`."""
        if self._automatic and plan.factors:
            return select_model(image, plan.factors[0])
        return Selection(self._model, self._strengths)

    def plan(self, height: int, width: int) -> UpscalePlan:
        """Plan the passes for an image of this size.

        Raises:
            OutputError: If the result has too many pixels.
        """
        return plan_upscale(height, width, self._target, self._factors)

    def run_passes(
        self, image: RasterImage, factors: Sequence[int], selection: Selection
    ) -> RasterImage:
        """Run the network passes of a plan; resizing to its target is left to the caller.

        Args:
            image: The image.
            factors: Those of the plan.
            selection: What `select` chose. It is for the first pass, whose result is clean.
        """
        for number, factor in enumerate(factors):
            upscaler = self.upscaler(factor, selection) if number == 0 else self.upscaler(factor)
            image = upscaler.upscale_image(image)
        return image

    def animate(
        self, animation: Animation, plan: UpscalePlan, selection: Selection | None = None
    ) -> Animation:
        """Return the animation in the plan's size; each frame is made when it is asked for.

        Args:
            animation: The animation.
            plan: Its plan.
            selection: What `select` chose for the first frame; by default it is asked now.
        """
        chosen = selection or self.select(next(animation.frames()), plan)

        def change(frame: RasterImage) -> RasterImage:
            return resize_image(self.run_passes(frame, plan.factors, chosen), *plan.target)

        return animation.with_frames(plan.target, change)

    def upscaler(self, factor: int, selection: Selection | None = None) -> Upscaler:
        """Return the network of this factor, loading it if need be."""
        if selection is None:
            return self._load(DEFAULT if self._automatic else self._model, factor)
        return self._load(selection.model, factor, strengths=selection.strengths)


@functools.lru_cache(maxsize=8)
def _ready(
    path: Path,
    file: tuple[int, ...],
    factor: int | None,
    threads: int | None,
    engine: str,
    strengths: Strengths,
) -> Upscaler:
    """Load an Upscaler; `file` identifies the contents, so a changed file is loaded again."""
    return Upscaler(path, factor, threads=threads, engine=engine, strengths=strengths)


def _check_rgb(rgb: npt.NDArray[Any]) -> None:
    """Refuse other types, from which engines would make something else."""
    if not isinstance(rgb, np.ndarray):
        raise ValueError(f"an image is a numpy array here, not {type(rgb).__name__}")
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or not rgb.size:
        raise ValueError(f"an image here is uint8 (H, W, 3), not {rgb.dtype} {rgb.shape}")


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
