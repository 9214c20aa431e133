"""Pictures made larger: array to array, picture to picture, files to files.

Colour goes through the network. Alpha is resized with a bicubic filter, and colour below
fully transparent pixels is first replaced by what is visible around them, so that whatever a
program left there never bleeds into the visible edge.
"""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from anchorsr.engines import Engine, load_engine
from anchorsr.errors import AnchorSRError, ModelError, OutputError
from anchorsr.files import check_folder, check_free, make_folder, reason
from anchorsr.graph import Graph
from anchorsr.images import SUFFIXES, Picture, find_pictures, read_picture, write_picture
from anchorsr.models import DEFAULT, find_model
from anchorsr.tflite import read_tflite
from anchorsr.tiling import upscale_tiled

UInt8Array = npt.NDArray[np.uint8]


class Upscaler:
    """A model made ready: call it with uint8 RGB (H, W, 3), get (factor · H, factor · W, 3).

    model: the name of a shipped network, or the path of a `.tflite` file.
    Calls from several threads wait for one another.
    """

    def __init__(
        self, model: str | Path = DEFAULT, factor: int = 3, *, threads: int | None = None
    ) -> None:
        path = model_path(model, factor)
        data, self.graph = read_model(path)
        if self.graph.factor != factor:
            raise ModelError(f"{path} enlarges {self.graph.factor} times, not {factor}")
        self.factor = factor
        self._engine: Engine = load_engine(data, threads=threads)
        self._lock = threading.Lock()

    def __call__(self, rgb: UInt8Array) -> UInt8Array:
        with self._lock:
            return upscale_tiled(self._engine, rgb, factor=self.factor, halo=self.graph.halo)


def upscale(
    image: npt.NDArray[Any],
    *,
    factor: int = 3,
    model: str | Path = DEFAULT,
    threads: int | None = None,
) -> UInt8Array:
    """A larger picture: uint8 (H, W), (H, W, 3) or (H, W, 4) to the same with factor · H and
    factor · W. The fourth channel is alpha, not premultiplied.

    model: a shipped network's name or a `.tflite` path; threads: all processors by default.
    Raises ValueError for another type or shape, ModelError for an unknown model or factor.
    """
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or not image.size:
        raise ValueError(
            f"a picture is uint8 (H, W) or (H, W, 3 or 4), not {image.dtype} {image.shape}"
        )
    if image.ndim == 3 and image.shape[2] not in (3, 4):
        raise ValueError(f"a picture has 3 or 4 channels, not {image.shape[2]}")
    path = model_path(model, factor)
    changed = path.stat().st_mtime_ns if path.is_file() else 0
    upscaler = _ready(path, changed, factor, threads)
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
        mean = (rgb.sum(axis=2, dtype=np.uint16) + 1) // 3
        rgb = np.repeat(mean.astype(np.uint8)[:, :, None], 3, axis=2)
    return dataclasses.replace(picture, rgb=rgb, alpha=alpha)


@dataclass(frozen=True)
class Job:
    """One file to be upscaled, and the name of its result."""

    source: Path
    target: Path


@dataclass(frozen=True)
class Done:
    """A job that ended: well, or with an error that the others did not suffer from."""

    job: Job
    error: AnchorSRError | None = None


def plan(
    inputs: Sequence[Path], output: Path | None, *, factor: int, overwrite: bool = False
) -> list[Job]:
    """Which files become which, before any work is done.

    inputs: pictures, and folders of pictures. output: a file name for a single picture; a
    folder, made by `upscale_files` if need be, in which the names stay the same; None: beside
    the original as `<name>_x<factor>`. Raises OutputError where a result would replace an
    input, another result or, without overwrite, a file that exists, or where the output's
    suffix or folder cannot be written.
    """
    if not inputs:
        raise OutputError("nothing to do: name at least one picture or folder")
    sources = [p for given in inputs for p in (find_pictures(given) if given.is_dir() else [given])]
    single_file = len(inputs) == 1 and not inputs[0].is_dir()
    to_file = output is not None and single_file and not output.is_dir() and output.suffix != ""
    if output is not None and not to_file:
        check_folder(output)
    if output is not None and to_file and output.suffix.lower() not in SUFFIXES:
        raise OutputError(f"{output} has no suffix that can be written: {', '.join(SUFFIXES)}")
    jobs = [Job(source, _target(source, output, to_file, factor)) for source in sources]
    # A name in other letters, or a second link, can be the same file.
    originals = {key for source in sources for key in (source.resolve(), _file_key(source))}
    results: set[Path] = set()
    for job in jobs:
        place = job.target.resolve()
        if place in originals or (_file_key(job.target) or place) in originals:
            raise OutputError(f"{job.target} is an input: write to another name or folder")
        if place in results:
            raise OutputError(f"two pictures would become {job.target}: upscale them separately")
        results.add(place)
        if to_file or place.parent.exists():
            check_free(job.target, overwrite=overwrite)
    return jobs


def upscale_files(
    jobs: Sequence[Job], upscaler: Upscaler, *, quality: int = 92, overwrite: bool = False
) -> Iterator[Done]:
    """Do the jobs one after another; a bad file does not keep the others from being done."""
    for job in jobs:
        try:
            larger = upscale_picture(read_picture(job.source), upscaler)
            make_folder(job.target.parent)
            write_picture(job.target, larger, quality=quality, overwrite=overwrite)
        except AnchorSRError as error:
            yield Done(job, error)
        except MemoryError:
            yield Done(job, OutputError(f"{job.source} is too large for this machine's memory"))
        else:
            yield Done(job)


def model_path(model: str | Path, factor: int) -> Path:
    """The `.tflite` of a shipped network's name, or the given path of one."""
    given = Path(model)
    if isinstance(model, Path) or given.suffix == ".tflite":
        return given
    return find_model(model, factor)


def read_model(path: Path) -> tuple[bytes, Graph]:
    """The bytes and the graph of a `.tflite` file of ours. Raises ModelError or GraphError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"the model {path} cannot be read: {reason(error)}") from error
    try:
        return data, read_tflite(data, name=path.stem)
    except AnchorSRError as error:
        raise type(error)(f"{path}: {error}") from error


@functools.lru_cache(maxsize=4)
def _ready(path: Path, changed: int, factor: int, threads: int | None) -> Upscaler:
    """changed: when the file was, so that one written anew is read anew."""
    return Upscaler(path, factor, threads=threads)


def _target(source: Path, output: Path | None, to_file: bool, factor: int) -> Path:
    suffix = source.suffix if source.suffix.lower() in SUFFIXES else ".png"
    if output is None:
        return source.with_name(f"{source.stem}_x{factor}{suffix}")
    return output if to_file else output / f"{source.stem}{suffix}"


def _file_key(path: Path) -> tuple[int, int] | None:
    """Equal for two names of one file; None where there is no file."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


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
