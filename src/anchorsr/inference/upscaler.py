"""Upscale images with a model: arrays, Pillow images and files, by its factor or to any size."""

from __future__ import annotations

import functools
import operator
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
from PIL import Image

from anchorsr.arrays import UInt8Array
from anchorsr.engines.runtimes import NATIVE, default_threads
from anchorsr.engines.selection import AUTO, Choice, choose_engine
from anchorsr.engines.sized import SizedEngine
from anchorsr.errors import ModelError
from anchorsr.graph.graph import Graph
from anchorsr.images.animation import Animation
from anchorsr.images.image import Pixels, RasterImage, from_array, to_array
from anchorsr.images.io import read_image
from anchorsr.images.pillow import from_pillow, to_pillow
from anchorsr.images.resize import resize_image, without_margin, wrapped
from anchorsr.inference.raster import upscale_image
from anchorsr.inference.sizes import TargetSize, UpscalePlan, plan_upscale
from anchorsr.inference.tiling import TILE, upscale_strips, upscale_tiled
from anchorsr.models.registry import DEFAULT, list_models, model_path, read_model
from anchorsr.serialization.tflite.summary import fixed_size
from anchorsr.serialization.tflite.writer import needs_size, write_tflite


class Upscaler:
    """A model, loaded once for many images.

    Calls from several threads wait for one another.

    Args:
        model: The name of a shipped model, or the path of a `.tflite` file.
        factor: The super-resolution factor; by default that of the file, or 3.
        threads: Processor threads; by default all.
        engine: `litert`, `openvino`, `onnxruntime`, or `auto` for the fastest of them that is
            installed and exact enough on this machine.

    Attributes:
        factor: The super-resolution factor.
        engine: The engine in use.
        why: One line on why this engine is used.
        graph: The model's graph.

    Raises:
        ModelError: For an unknown model, factor or engine, or an engine that is not exact.

    >>> import numpy
    >>> upscaler = Upscaler("fast", factor=2)
    >>> upscaler(numpy.zeros((48, 64, 3), numpy.uint8)).shape
    (96, 128, 3)
    """

    def __init__(
        self,
        model: str | Path = DEFAULT,
        factor: int | None = None,
        *,
        threads: int | None = None,
        engine: str = AUTO,
    ) -> None:
        path = model_path(model, factor)
        data, graph = read_model(path)
        _check_upscales_images(path, graph)
        if fixed_size(data) is not None and not needs_size(graph):
            data = write_tflite(graph)  # tiles, and changed parts of a video, differ in size
        if factor not in (None, graph.factor):
            raise ModelError(f"{path} upscales {graph.factor} times, not {factor}")
        self._prepare(graph, choose_engine(data, graph, name=engine, threads=threads), threads)

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
        result: Pixels | Image.Image = _upscale_any(image, self.upscale_image)
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
        with self._lock:
            if self.engine == NATIVE:  # it needs memory for some rows only, whatever the size
                whole: UInt8Array = self._engine(np.ascontiguousarray(rgb[None]))[0]
                return whole
            return upscale_tiled(self._engine, rgb, threads=self._threads, **self._tiles(rgb))

    def upscale_image(self, image: RasterImage) -> RasterImage:
        """Upscale an image with its metadata, keeping grey, alpha and bit depth."""
        return upscale_image(image, self)

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
        with self._lock:
            yield from upscale_strips(self._engine, rgb, **self._tiles(rgb))

    def _tiles(self, rgb: UInt8Array) -> dict[str, int]:
        """Return how to cut an image: not at all if it fits into one tile, whatever the halo."""
        halo = 0 if max(rgb.shape[:2]) <= TILE else self.graph.halo
        multiple = self.graph.multiple
        tile = max(TILE, 4 * halo + 2 * multiple)
        return {"factor": self.factor, "halo": halo, "tile": tile, "multiple": multiple}


@overload
def upscale(
    image: Image.Image,
    *,
    factor: int | None = None,
    scale: float | None = None,
    size: tuple[int, int] | None = None,
    model: str | Path = DEFAULT,
    threads: int | None = None,
    engine: str = AUTO,
) -> Image.Image: ...
@overload
def upscale(
    image: Pixels | str | os.PathLike[str],
    *,
    factor: int | None = None,
    scale: float | None = None,
    size: tuple[int, int] | None = None,
    model: str | Path = DEFAULT,
    threads: int | None = None,
    engine: str = AUTO,
) -> Pixels: ...
def upscale(
    image: Pixels | str | os.PathLike[str] | Image.Image,
    *,
    factor: int | None = None,
    scale: float | None = None,
    size: tuple[int, int] | None = None,
    model: str | Path = DEFAULT,
    threads: int | None = None,
    engine: str = AUTO,
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
        model: The name of a shipped model, or the path of a `.tflite` file.
        threads: Processor threads; by default all.
        engine: As for `Upscaler`.

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
    _check_kind(image)
    target = TargetSize(scale, height, width, stretch=size is not None)
    upscaler = ImageUpscaler(model, factor, target, threads=threads, engine=engine)
    result: Pixels | Image.Image = _upscale_any(image, upscaler)
    return result


def ready_upscaler(
    model: str | Path,
    factor: int | None = None,
    *,
    threads: int | None = None,
    engine: str = AUTO,
) -> Upscaler:
    """Return the Upscaler of an earlier call, or load it, also if the file has changed.

    Args:
        model: As for `Upscaler`.
        factor: As for `Upscaler`.
        threads: As for `Upscaler`.
        engine: As for `Upscaler`.

    Raises:
        ModelError: As `Upscaler` does.
    """
    path = model_path(model, factor)
    status = path.stat() if path.is_file() else None
    file = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns) if status else ()
    return _ready(path, file, factor, threads, engine)


class ImageUpscaler:
    """Upscales images to a target size, with the networks of one model.

    Without a factor, every factor of a shipped model may be used; each is loaded when first needed.

    Args:
        model: As for `Upscaler`.
        factor: As for `Upscaler`.
        target: The size of the results; by default the model's factor.
        threads: As for `Upscaler`.
        engine: As for `Upscaler`.
        wraps: Whether images are textures whose edges meet, so that the results' edges do too.

    Attributes:
        engine: The engine in use.
        why: One line on why this engine is used.
        wraps: Whether images are textures whose edges meet.
        label: The suffix of results' names, such as `x3`.

    Raises:
        ModelError: As `Upscaler` does.
    """

    def __init__(
        self,
        model: str | Path = DEFAULT,
        factor: int | None = None,
        target: TargetSize = TargetSize(),
        *,
        threads: int | None = None,
        engine: str = AUTO,
        wraps: bool = False,
    ) -> None:
        self.wraps = wraps
        self._load = functools.partial(ready_upscaler, model, threads=threads, engine=engine)
        first = self._load(factor)
        self.engine, self.why = first.engine, first.why
        self._upscalers = {first.factor: first}
        shipped = [entry.factor for entry in list_models() if entry.name == model]
        self._factors = shipped if factor is None and shipped else [first.factor]
        self.label = target.label(first.factor)
        self._target = TargetSize(scale=first.factor) if target == TargetSize() else target

    def __call__(self, image: RasterImage) -> RasterImage:
        """Upscale an image to the target size.

        Raises:
            OutputError: If the result has too many pixels.
        """
        plan = self.plan(*image.size)
        return self.resize(self.run_passes(image, plan.factors), plan)

    def plan(self, height: int, width: int) -> UpscalePlan:
        """Plan the passes for an image of this size.

        Raises:
            OutputError: If the result has too many pixels.
        """
        return plan_upscale(height, width, self._target, self._factors)

    def run_passes(self, image: RasterImage, factors: Sequence[int]) -> RasterImage:
        """Run the network passes of a plan; resizing to its target is left to `resize`."""
        for factor in factors:
            upscaler = self.upscaler(factor)
            if self.wraps:
                margin = max(upscaler.graph.halo, 4)  # the bicubic filter of alpha sees two
                image = upscaler.upscale_image(wrapped(image, margin))
                image = without_margin(image, margin * factor)
            else:
                image = upscaler.upscale_image(image)
        return image

    def resize(self, image: RasterImage, plan: UpscalePlan) -> RasterImage:
        """Resize the last pass to the target of its plan."""
        return resize_image(image, *plan.target, wraps=self.wraps)

    def animate(self, animation: Animation, plan: UpscalePlan) -> Animation:
        """Return the animation in the plan's size; each frame is made when it is asked for."""

        def change(frame: RasterImage) -> RasterImage:
            return self.resize(self.run_passes(frame, plan.factors), plan)

        return animation.with_frames(plan.target, change)

    def upscaler(self, factor: int) -> Upscaler:
        """Return the network of this factor, loading it if need be."""
        if factor not in self._upscalers:
            self._upscalers[factor] = self._load(factor)
        return self._upscalers[factor]


@functools.lru_cache(maxsize=4)
def _ready(
    path: Path, file: tuple[int, ...], factor: int | None, threads: int | None, engine: str
) -> Upscaler:
    """Load an Upscaler; `file` identifies the contents, so a changed file is loaded again."""
    return Upscaler(path, factor, threads=threads, engine=engine)


def _upscale_any(image: Any, upscale: Callable[[RasterImage], RasterImage]) -> Any:
    """Convert an image or a batch to `RasterImage`, upscale it, and convert the result back."""
    _check_kind(image)
    if isinstance(image, Image.Image):
        return to_pillow(upscale(from_pillow(image)), like=image)
    if isinstance(image, str | os.PathLike):
        return to_array(upscale(read_image(Path(image))))
    if image.ndim == 4 and image.size:
        return np.stack([_upscale_any(entry, upscale) for entry in image])
    result = to_array(upscale(from_array(image)))
    if not result.flags.writeable or np.may_share_memory(result, image):
        result = result.copy()
    return result[:, :, None] if image.ndim == 3 and image.shape[2] == 1 else result


def _check_kind(image: object) -> None:
    if not isinstance(image, np.ndarray | Image.Image | str | os.PathLike):
        raise ValueError(
            f"an image is a numpy array, a PIL image or a path, not {type(image).__name__}"
        )


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
