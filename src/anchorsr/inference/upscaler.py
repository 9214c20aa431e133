"""Images made larger: array to array, image to image.

Colour goes through the network. Alpha is resized with a bicubic filter, and colour below
transparent and nearly transparent pixels is first replaced by what is visible around them, so
that whatever a program left there never bleeds into the visible edge.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from anchorsr.engines.runtimes import default_threads
from anchorsr.engines.selection import AUTO, choose_engine
from anchorsr.errors import ModelError
from anchorsr.graph.graph import Graph
from anchorsr.images.animation import Animation
from anchorsr.images.image import Pixels, RasterImage, eight_bits
from anchorsr.inference.sizes import (
    TargetSize,
    check_pixels,
    filter_plane,
    passes,
    resize_image,
    target_size,
    to_whole,
)
from anchorsr.inference.tiling import TILE, upscale_strips, upscale_tiled
from anchorsr.models.registry import DEFAULT, list_models, model_path, read_model
from anchorsr.serialization.tflite.summary import fixed_size
from anchorsr.serialization.tflite.writer import needs_size, write_tflite

UInt8Array = npt.NDArray[np.uint8]

# Rows of a 16-bit image that are enlarged at a time.
_BAND = 128
# Levels of 8 bits: on smooth images the network errs by up to two, and rounding by a half.
_GRAIN = 2.5


class Upscaler:
    """A model made ready: call it with uint8 RGB (H, W, 3), get (factor · H, factor · W, 3).

    model: the name of a shipped network, or the path of a `.tflite` file. factor: what the
    file says, or 3, unless it is given. engine: `litert`, `openvino`, `onnxruntime`, or `auto` for
    the fastest of them that is installed and exact enough here; the attribute `engine` is the one
    taken, `why` a line about it and the others. Calls from several threads wait for one another.
    Raises ModelError for an unknown model, factor or engine, and for an engine that is not exact;
    a call raises ValueError for what is no uint8 RGB.
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
        data, self.graph = read_model(path)
        _check_enlarges_images(path, self.graph)
        if fixed_size(data) is not None and not needs_size(self.graph):
            data = write_tflite(self.graph)  # tiles and what changes in a video have other sizes
        self.factor = self.graph.factor
        if factor not in (None, self.factor):
            raise ModelError(f"{path} enlarges {self.factor} times, not {factor}")
        choice = choose_engine(data, self.graph, name=engine, threads=threads)
        self.engine, self.why = choice.engine.name, choice.why
        self._engine = choice.engine
        self._threads = threads or default_threads()
        self._lock = threading.Lock()

    def __call__(self, rgb: UInt8Array) -> UInt8Array:
        _check_rgb(rgb)
        with self._lock:
            return upscale_tiled(self._engine, rgb, threads=self._threads, **self._tiles(rgb))

    def strips(self, rgb: UInt8Array) -> Iterator[UInt8Array]:
        """What a call returns, in strips of rows from the top, of which only one is in memory.

        Until the last strip is taken, other calls wait.
        """
        _check_rgb(rgb)
        with self._lock:
            yield from upscale_strips(self._engine, rgb, **self._tiles(rgb))

    def _tiles(self, rgb: UInt8Array) -> dict[str, int]:
        """How an image is cut: not at all where it fits into one tile, however far pixels see."""
        halo = 0 if max(rgb.shape[:2]) <= TILE else self.graph.halo
        return {"factor": self.factor, "halo": halo, "tile": max(TILE, 4 * halo)}


def _check_rgb(rgb: npt.NDArray[Any]) -> None:
    """Engines take other types too, each making something else of them."""
    if not isinstance(rgb, np.ndarray):
        raise ValueError(f"an image is a numpy array, not {type(rgb).__name__}")
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or not rgb.size:
        raise ValueError(f"an image here is uint8 (H, W, 3), not {rgb.dtype} {rgb.shape}")


def _check_enlarges_images(path: Path, graph: Graph) -> None:
    for which, name in (("input", graph.input), ("output", graph.output)):
        tensor = graph.tensors[name]
        if (tensor.dtype, tensor.channels) != ("uint8", 3):
            raise ModelError(
                f"{path}: a model here takes uint8 with 3 channels and makes the same; the {which}"
                f" of this one is {tensor.dtype} with {tensor.channels}"
            )
    if graph.factor < 2:
        raise ModelError(f"{path} makes nothing larger: its factor is {graph.factor}")


def upscale(
    image: npt.NDArray[Any],
    *,
    factor: int | None = None,
    scale: float | None = None,
    size: tuple[int, int] | None = None,
    model: str | Path = DEFAULT,
    threads: int | None = None,
    engine: str = AUTO,
) -> UInt8Array:
    """A larger image: uint8 (H, W), (H, W, 3) or (H, W, 4) to the same with factor · H and
    factor · W. The fourth channel is alpha, not premultiplied. The result is the caller's own.

    model: a shipped network's name or a `.tflite` path; factor: the file's, or 3, unless it is
    given; scale: any number of times larger or smaller; size: exactly this (height, width);
    threads: all processors by default; engine: see `Upscaler`.
    Raises ValueError for another type, shape, size or number of threads, ModelError for an unknown
    model, factor or engine, OutputError for a scale or size that cannot be.
    """
    if not isinstance(image, np.ndarray):
        raise ValueError(
            f"an image is a numpy array, not {type(image).__name__}: for a file, "
            f"numpy.asarray(PIL.Image.open(name).convert('RGB')) makes one"
        )
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or not image.size:
        raise ValueError(
            f"an image is uint8 (H, W) or (H, W, 3 or 4), not {image.dtype} {image.shape}"
        )
    if image.ndim == 3 and image.shape[2] not in (3, 4):
        raise ValueError(f"an image has 3 or 4 channels, not {image.shape[2]}")
    try:
        height, width = (None, None) if size is None else (operator.index(side) for side in size)
    except (TypeError, ValueError):
        raise ValueError(f"a size is two whole numbers, (height, width), not {size!r}") from None
    wanted = TargetSize(scale, height, width, stretch=size is not None)
    enlarger = Enlarger(model, factor, wanted, threads=threads, engine=engine)
    grey = image.ndim == 2
    rgb = np.repeat(image[:, :, None], 3, axis=2) if grey else image[:, :, :3]
    alpha = image[:, :, 3] if not grey and image.shape[2] == 4 else None
    larger = enlarger(RasterImage(rgb, alpha, grey=grey))
    if grey:
        return larger.rgb[:, :, 0].copy()
    if larger.alpha is None:
        own = larger.rgb.flags.writeable and not np.may_share_memory(larger.rgb, image)
        return larger.rgb if own else larger.rgb.copy()
    return np.asarray(np.concatenate((larger.rgb, larger.alpha[:, :, None]), axis=2))


def upscale_image(image: RasterImage, upscaler: Upscaler) -> RasterImage:
    """The same image larger, with all that is known about it.

    The network sees 8 bits. Of a 16-bit image it sees the nearest 8 bits, and what counts is how
    its answer differs from the 16-bit image enlarged with a bicubic filter. Up to 2.5 levels of
    8 bits the difference is the network's grain and rounding, and left out; from 5 levels on it is
    detail, and counts in full. So flat areas and gradients are as smooth as bicubic makes them, and
    nothing is further than 2.5 levels from what the 8-bit image would have become.
    """
    rgb, alpha, factor = image.rgb, image.alpha, upscaler.factor
    if alpha is not None:
        rgb = _fill_transparent(rgb, alpha)
        alpha = _enlarged_alpha(alpha, factor)
    larger: Pixels = upscaler(eight_bits(rgb))
    if image.grey:  # the three channels may differ by a rounding: their mean is the grey
        total = larger[:, :, 0].astype(np.uint16) + larger[:, :, 1] + larger[:, :, 2]
        larger = ((total + 1) // 3).astype(np.uint8)[:, :, None]
        rgb = rgb[:, :, :1]
    if rgb.dtype == np.uint16:
        larger = _with_low_bits(larger, rgb, factor)
    if image.grey:
        larger = np.broadcast_to(larger, (*larger.shape[:2], 3))
    return dataclasses.replace(image, rgb=larger, alpha=alpha)


def ready_upscaler(
    model: str | Path,
    factor: int | None = None,
    *,
    threads: int | None = None,
    engine: str = AUTO,
) -> Upscaler:
    """The Upscaler of these arguments: that of an earlier call, unless the file has changed."""
    path = model_path(model, factor)
    status = path.stat() if path.is_file() else None
    file = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns) if status else ()
    return _ready(path, file, factor, threads, engine)


@functools.lru_cache(maxsize=4)
def _ready(
    path: Path, file: tuple[int, ...], factor: int | None, threads: int | None, engine: str
) -> Upscaler:
    """file: which it is and when it was written, so that another of that name is read anew."""
    return Upscaler(path, factor, threads=threads, engine=engine)


class Enlarger:
    """Images of a wanted size, from the networks of one model: call it with a RasterImage.

    model, factor, threads, engine: as for `Upscaler`. wanted: the size; nothing: the factor.
    Without a factor, all networks of a shipped model serve, each loaded when it is first needed.
    """

    def __init__(
        self,
        model: str | Path = DEFAULT,
        factor: int | None = None,
        wanted: TargetSize = TargetSize(),
        *,
        threads: int | None = None,
        engine: str = AUTO,
    ) -> None:
        self._load = functools.partial(ready_upscaler, model, threads=threads, engine=engine)
        first = self._load(factor)
        self.engine, self.why = first.engine, first.why
        self._upscalers = {first.factor: first}
        shipped = [entry.factor for entry in list_models() if entry.name == model]
        self._factors = shipped if factor is None and shipped else [first.factor]
        self.label = wanted.label(first.factor)
        self._wanted = TargetSize(scale=first.factor) if wanted == TargetSize() else wanted

    def target(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the result. Raises OutputError for one of too many pixels."""
        return self._steps(height, width)[0]

    def __call__(self, image: RasterImage) -> RasterImage:
        """The image in the wanted size. Raises OutputError for too many pixels."""
        return resize_image(self.through_network(image), *self.target(*image.size))

    def animate(self, animation: Animation) -> Animation:
        """The animation in the wanted size; each frame is made when it is asked for."""
        return animation.with_frames(self.target(*animation.size), self.__call__)

    def through_network(self, image: RasterImage) -> RasterImage:
        """The image as the network leaves it: what remains is to resize it to its target."""
        for factor in self._steps(*image.size)[1]:
            image = upscale_image(image, self._upscaler(factor))
        return image

    def only_pass(self, height: int, width: int) -> Upscaler | None:
        """The network, where its output of such an image is the target already."""
        target, factors = self._steps(height, width)
        if len(factors) != 1 or target != (height * factors[0], width * factors[0]):
            return None
        return self._upscaler(factors[0])

    def _upscaler(self, factor: int) -> Upscaler:
        if factor not in self._upscalers:
            self._upscalers[factor] = self._load(factor)
        return self._upscalers[factor]

    def _steps(self, height: int, width: int) -> tuple[tuple[int, int], list[int]]:
        target = target_size(height, width, self._wanted)
        factors = passes(max(target[0] / height, target[1] / width), self._factors)
        product = math.prod(factors)
        check_pixels(height * product, width * product)
        return target, factors


def _with_low_bits(larger: Pixels, pixels: Pixels, factor: int) -> Pixels:
    """8-bit results (factor · H, factor · W, C) as uint16, from the 16-bit image (H, W, C).

    In bands of rows, since a whole image in floating point takes much memory.
    """
    height = pixels.shape[0]
    result = np.empty(larger.shape, np.uint16)
    for top in range(0, height, _BAND):
        bottom = min(top + _BAND, height)
        first, last = max(top - 2, 0), min(bottom + 2, height)  # two pixels more, for the filter
        place = np.s_[top * factor : bottom * factor]
        within = np.s_[(top - first) * factor : (bottom - first) * factor]
        for channel in range(pixels.shape[2]):
            smooth = _enlarged(pixels[first:last, :, channel], factor)[within]
            detail = larger[place, :, channel].astype(np.float32) * 257 - smooth
            share = np.clip(np.abs(detail) / (257 * _GRAIN) - 1, 0, 1)
            result[place, :, channel] = to_whole(smooth + share * detail, result.dtype)
    return result


def _enlarged_alpha(alpha: Pixels, factor: int) -> Pixels:
    """(H, W) of 8 or 16 bits through a bicubic filter."""
    if alpha.dtype == np.uint8:
        height, width = alpha.shape
        size = (width * factor, height * factor)
        image = Image.fromarray(np.ascontiguousarray(alpha))
        return np.asarray(image.resize(size, Image.Resampling.BICUBIC))
    return to_whole(_enlarged(alpha, factor), alpha.dtype)


def _enlarged(plane: Pixels, factor: int) -> npt.NDArray[np.float32]:
    """(H, W) through a bicubic filter in floating point."""
    height, width = (side * factor for side in plane.shape)
    return filter_plane(plane.astype(np.float32), height, width, Image.Resampling.BICUBIC)


def _fill_transparent(rgb: Pixels, alpha: Pixels) -> Pixels:
    """Colour that is hardly seen replaced by the alpha-weighted mean of what is seen around.

    Below an alpha of 1/8 colour is trusted less and less, at 0 not at all: programs that store
    colour premultiplied leave little but rounding there, and the network would carry it into
    the visible edge. An image that is faint everywhere is measured by its own alpha.
    Trusted colour is halved in size until nothing is left uncovered, then filled in from coarse
    to fine.
    """
    enough = min(int(alpha.max()), np.iinfo(alpha.dtype).max // 8)
    if alpha.min() >= enough:
        return rgb
    trust = np.minimum(alpha.astype(np.float32) / enough, 1) ** 2
    filled = _fill(rgb.astype(np.float32), trust)
    return np.asarray(np.rint(filled), rgb.dtype)


def _fill(colour: npt.NDArray[np.float32], trust: npt.NDArray[np.float32]) -> Any:
    """Colour (H, W, 3) moved towards that around it by as much as its trust lacks of 1."""
    height, width = trust.shape
    if trust.min() >= 1 or (height, width) == (1, 1):
        return colour
    odd = ((0, height % 2), (0, width % 2))
    weighted, weight = np.pad(colour * trust[:, :, None], (*odd, (0, 0))), np.pad(trust, odd)
    sums = weighted.reshape(weighted.shape[0] // 2, 2, -1, 2, 3).sum(axis=(1, 3))
    weights = weight.reshape(weight.shape[0] // 2, 2, -1, 2).sum(axis=(1, 3))
    means = sums / np.maximum(weights, np.float32(1e-12))[:, :, None]
    coarse = _fill(means, np.minimum(weights, 1))
    around = coarse.repeat(2, axis=0).repeat(2, axis=1)[:height, :width]
    return around + (colour - around) * trust[:, :, None]
