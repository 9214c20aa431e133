"""Pictures made larger: array to array, picture to picture.

Colour goes through the network. Alpha is resized with a bicubic filter, and colour below
fully transparent pixels is first replaced by what is visible around them, so that whatever a
program left there never bleeds into the visible edge.
"""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from anchorsr.choosing import AUTO, choose_engine
from anchorsr.errors import ModelError
from anchorsr.images import Picture
from anchorsr.models import DEFAULT, model_path, read_model
from anchorsr.tiling import upscale_strips, upscale_tiled

UInt8Array = npt.NDArray[np.uint8]


class Upscaler:
    """A model made ready: call it with uint8 RGB (H, W, 3), get (factor · H, factor · W, 3).

    model: the name of a shipped network, or the path of a `.tflite` file. factor: what the
    file says, or 3, unless it is given. engine: `litert`, `openvino`, `onnxruntime`, or `auto` for
    the fastest of them that is installed and exact enough here; the attribute `engine` is the one
    taken, `why` a line about it and the others. Calls from several threads wait for one another.
    Raises ModelError for an unknown model, factor or engine, and for an engine that is not exact.
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
        self.factor = self.graph.factor
        if factor not in (None, self.factor):
            raise ModelError(f"{path} enlarges {self.factor} times, not {factor}")
        choice = choose_engine(data, self.graph, name=engine, threads=threads)
        self.engine, self.why = choice.engine.name, choice.why
        self._engine = choice.engine
        self._lock = threading.Lock()

    def __call__(self, rgb: UInt8Array) -> UInt8Array:
        with self._lock:
            return upscale_tiled(self._engine, rgb, factor=self.factor, halo=self.graph.halo)

    def strips(self, rgb: UInt8Array) -> Iterator[UInt8Array]:
        """What a call returns, in strips of rows from the top, of which only one is in memory."""
        with self._lock:
            yield from upscale_strips(self._engine, rgb, factor=self.factor, halo=self.graph.halo)


def upscale(
    image: npt.NDArray[Any],
    *,
    factor: int | None = None,
    model: str | Path = DEFAULT,
    threads: int | None = None,
    engine: str = AUTO,
) -> UInt8Array:
    """A larger picture: uint8 (H, W), (H, W, 3) or (H, W, 4) to the same with factor · H and
    factor · W. The fourth channel is alpha, not premultiplied.

    model: a shipped network's name or a `.tflite` path; factor: the file's, or 3, unless it is
    given; threads: all processors by default; engine: see `Upscaler`.
    Raises ValueError for another type or shape, ModelError for an unknown model, factor or engine.
    """
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or not image.size:
        raise ValueError(
            f"a picture is uint8 (H, W) or (H, W, 3 or 4), not {image.dtype} {image.shape}"
        )
    if image.ndim == 3 and image.shape[2] not in (3, 4):
        raise ValueError(f"a picture has 3 or 4 channels, not {image.shape[2]}")
    upscaler = ready_upscaler(model, factor, threads=threads, engine=engine)
    grey = image.ndim == 2
    rgb = np.repeat(image[:, :, None], 3, axis=2) if grey else image[:, :, :3]
    alpha = image[:, :, 3] if not grey and image.shape[2] == 4 else None
    larger = upscale_picture(Picture(rgb, alpha, grey=grey), upscaler)
    if grey:
        return np.ascontiguousarray(larger.rgb[:, :, 0])
    if larger.alpha is None:
        return larger.rgb
    return np.asarray(np.concatenate((larger.rgb, larger.alpha[:, :, None]), axis=2))


def upscale_picture(picture: Picture, upscaler: Upscaler) -> Picture:
    """The same picture larger, with all that is known about it."""
    rgb, alpha = picture.rgb, picture.alpha
    if alpha is not None:
        rgb = _fill_transparent(rgb, alpha)
        height, width = alpha.shape
        size = (width * upscaler.factor, height * upscaler.factor)
        larger = Image.fromarray(np.ascontiguousarray(alpha)).resize(size, Image.Resampling.BICUBIC)
        alpha = np.asarray(larger)
    rgb = upscaler(rgb)
    if picture.grey:  # the three channels may differ by a rounding: their mean is the grey
        total = rgb[:, :, 0].astype(np.uint16) + rgb[:, :, 1] + rgb[:, :, 2]
        mean = ((total + 1) // 3).astype(np.uint8)
        rgb = np.broadcast_to(mean[:, :, None], rgb.shape)
    return dataclasses.replace(picture, rgb=rgb, alpha=alpha)


def ready_upscaler(
    model: str | Path,
    factor: int | None = None,
    *,
    threads: int | None = None,
    engine: str = AUTO,
) -> Upscaler:
    """The Upscaler of these arguments: that of an earlier call, unless the file has changed."""
    path = model_path(model, factor)
    changed = path.stat().st_mtime_ns if path.is_file() else 0
    return _ready(path, changed, factor, threads, engine)


@functools.lru_cache(maxsize=4)
def _ready(
    path: Path, changed: int, factor: int | None, threads: int | None, engine: str
) -> Upscaler:
    """changed: when the file was, so that one written anew is read anew."""
    return Upscaler(path, factor, threads=threads, engine=engine)


def _fill_transparent(rgb: UInt8Array, alpha: UInt8Array) -> UInt8Array:
    """Colour of fully transparent pixels replaced by the mean of the visible ones around.

    Sums of visible colour are halved in size until nothing is left uncovered, then filled in
    from coarse to fine.
    """
    visible = alpha > 0
    if visible.all() or not visible.any():
        return rgb
    colour = np.where(visible[:, :, None], rgb, 0).astype(np.float32)
    filled = _fill(colour, visible.astype(np.float32))
    return np.asarray(np.rint(filled), np.uint8)


def _fill(colour: npt.NDArray[np.float32], weight: npt.NDArray[np.float32]) -> Any:
    """colour is premultiplied by weight (0 or 1); every pixel gets the colour it lacks."""
    height, width = weight.shape
    if weight.all() or (height, width) == (1, 1):
        return colour
    odd = ((0, height % 2), (0, width % 2))
    padded_colour, padded_weight = np.pad(colour, (*odd, (0, 0))), np.pad(weight, odd)
    sums = padded_colour.reshape(padded_colour.shape[0] // 2, 2, -1, 2, 3).sum(axis=(1, 3))
    counts = padded_weight.reshape(padded_weight.shape[0] // 2, 2, -1, 2).sum(axis=(1, 3))
    covered = (counts > 0).astype(np.float32)
    coarse = _fill(sums / np.maximum(counts, 1)[:, :, None], covered)
    fine = coarse.repeat(2, axis=0).repeat(2, axis=1)[:height, :width]
    return np.where(weight[:, :, None] > 0, colour, fine)
