"""PSNR and SSIM of methods on test sets, as super-resolution papers report them.

A method is a shipped model's name, a model file, the folder of a training run (its float
weights), `bicubic` or `lanczos` (Pillow's), or a `.pb` file of OpenCV's dnn_superres. LR images may
be damaged first; a model that takes strengths then gets the true ones. Outputs are uint8. By
default `factor` pixels are cut off each side. A set's figure is the mean over its images.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from anchorsr.arrays import UInt8Array
from anchorsr.data.damage import NO_DAMAGE, Damage, damage_pair, parse_damage
from anchorsr.data.pairs import load_test_pairs
from anchorsr.data.strengths import CLEAN, Strengths
from anchorsr.engines.runtimes import ENGINES, load_engine
from anchorsr.engines.sized import SizedEngine
from anchorsr.errors import DataError, ModelError, needs
from anchorsr.evaluation.dnn_superres import load_dnn_superres
from anchorsr.evaluation.rivals import RIVALS, load_rival
from anchorsr.graph.graph import Graph
from anchorsr.images.resize import resample
from anchorsr.inference.tiling import upscale_tiled
from anchorsr.inference.upscaler import Upscaler, ready_upscaler
from anchorsr.metrics import Score as Score
from anchorsr.metrics import luma, psnr, ssim
from anchorsr.models.registry import (
    AUTO_MODEL,
    list_models,
    model_path,
    read_conditioning,
    read_model,
)
from anchorsr.utils.files import cannot_read

Method = Callable[[UInt8Array], UInt8Array]

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS}


@dataclass(frozen=True)
class ConditionedMethod:
    """A method that also takes the strengths of an image's degradation.

    Attributes:
        upscale: uint8 (H, W, 3) and strengths to uint8 (factor · H, factor · W, 3).
    """

    upscale: Callable[[UInt8Array, Strengths], UInt8Array]

    def __call__(self, lr: UInt8Array) -> UInt8Array:
        """Upscale a clean image."""
        return self.upscale(lr, CLEAN)


def evaluate(
    name: str | Path,
    folder: str | Path,
    *,
    factor: int = 3,
    border: int | None = None,
    threads: int | None = None,
    engine: str = ENGINES[0],
    damage: str = NO_DAMAGE.name,
    on_image: Callable[[str], None] | None = None,
) -> Score:
    """Score one method on one test set.

    Args:
        name: A shipped model's name, `auto` (which sees the pixels and no file), a `.tflite` or
            `.onnx` file, the folder of a training run, `bicubic`, `lanczos`, one of `RIVALS`, or a
            `.pb` file of OpenCV's dnn_superres.
        folder: A folder of images, or one with HR/ and LR_bicubic/X3/ inside.
        factor: The super-resolution ratio.
        border: Pixels cut off each side; by default the factor.
        threads: Processor threads; by default all.
        engine: What runs a `.tflite`; published figures are LiteRT's.
        damage: What is done to the LR images first, by its name in `data.damage`, such as `jpeg75`;
            the pixels are the same every time.
        on_image: Called with the name of each image that was scored.

    Returns:
        The means over the images.

    Raises:
        DataError: The folder is no test set, or has images that are too small, or the damage is
            unknown.
        ModelError: An unknown method, or one of another factor.
        ValueError: A factor below 1.

    Example:
        >>> from anchorsr import evaluate
        >>> score = evaluate("abpn", "photos/", factor=3)
        >>> score.psnr_rgb > evaluate("bicubic", "photos/", factor=3).psnr_rgb
        True
    """
    if factor < 1:
        raise ValueError(f"a factor is at least 1, not {factor}")
    parsed = parse_damage(damage)
    method = load_method(name, factor, threads=threads, engine=engine)
    score = evaluate_method(
        method,
        str(name),
        Path(folder),
        factor=factor,
        border=border,
        damage=parsed,
        on_image=on_image,
    )
    return dataclasses.replace(score, macs_per_lr_pixel=_multiplications(name, factor))


def evaluate_method(
    method: Method,
    name: str,
    folder: Path,
    *,
    factor: int,
    border: int | None = None,
    damage: Damage = NO_DAMAGE,
    on_image: Callable[[str], None] | None = None,
) -> Score:
    """Score a function on one test set.

    Args:
        method: uint8 (H, W, 3) to uint8 (factor · H, factor · W, 3).
        name: What to call it.
        folder: As of `evaluate`.
        factor: As of `evaluate`.
        border: As of `evaluate`.
        damage: What is done to the LR images first.
        on_image: As of `evaluate`.

    Raises:
        DataError: As of `evaluate`.
        ModelError: The method fails, or returns another size.
    """
    cut = factor if border is None else border
    rows = []
    seconds = 0.0
    for pair in (damage_pair(clean, damage) for clean in load_test_pairs(folder, factor)):
        started = time.perf_counter()
        try:
            if isinstance(method, ConditionedMethod):
                sr = method.upscale(pair.lr, pair.strengths)
            else:
                sr = method(pair.lr)
        except ModelError as error:
            raise ModelError(f"{name} on {pair.name}: {error}") from error
        seconds += time.perf_counter() - started
        if sr.shape != pair.hr.shape:
            raise ModelError(
                f"{name} made {sr.shape} of {pair.lr.shape}, which is not {factor} times larger"
            )
        try:
            rows.append(_measure(sr, pair.hr, cut))
        except ValueError as error:
            raise DataError(f"{pair.name} in {folder}: {error}") from error
        if on_image is not None:
            on_image(pair.name)
    rgb, y, similarity = (float(mean) for mean in np.mean(rows, axis=0))
    return Score(
        method=name,
        test_set=folder.resolve().name,
        images=len(rows),
        psnr_rgb=rgb,
        psnr_y=y,
        ssim_y=similarity,
        damage=damage.name,
        seconds=seconds / len(rows),
    )


def load_method(
    name: str | Path, factor: int, *, threads: int | None = None, engine: str = ENGINES[0]
) -> Method:
    """Load a method by name.

    Args:
        name: As of `evaluate`. A run folder that is named like a shipped model or a filter has to
            be given as a Path.
        factor: The super-resolution ratio.
        threads: Processor threads; by default all.
        engine: What runs a `.tflite`.

    Returns:
        A function from uint8 (H, W, 3) to uint8 (factor · H, factor · W, 3).

    Raises:
        ModelError: An unknown method, or one of another factor.
    """
    path = Path(name)
    if name in _FILTERS:
        kernel = _FILTERS[str(name)]
        return lambda lr: resample(lr, lr.shape[0] * factor, lr.shape[1] * factor, kernel)
    if path.is_dir() and name not in {model.name for model in list_models()}:
        return _load_run(path, threads)
    if name in RIVALS:
        return load_rival(str(name), factor, threads=threads)
    suffix = path.suffix.lower()
    if suffix == ".pb":
        return load_dnn_superres(path, factor, threads=threads)
    if suffix == ".onnx":
        try:
            onnx = load_engine(path.read_bytes(), threads=threads)
        except OSError as error:
            raise ModelError(f"{path} {cannot_read(error)}") from error
        except ModelError as error:
            raise ModelError(f"{path}: {error}") from error
        return lambda lr: onnx(lr[None])[0]
    if name == AUTO_MODEL:
        return Upscaler(AUTO_MODEL, factor, threads=threads, engine=engine).upscale_rgb
    load = functools.partial(ready_upscaler, name, factor, threads=threads, engine=engine)
    plain = load()
    conditioning = read_conditioning(read_model(model_path(name, factor))[0])
    if conditioning is None:
        return plain.upscale_rgb
    taken = conditioning.strengths

    def upscale(lr: UInt8Array, strengths: Strengths) -> UInt8Array:
        return load(strengths=strengths.only(taken)).upscale_rgb(lr)

    return ConditionedMethod(upscale)


def float_method(network: Any) -> Method:
    """Return a float network of a run as a method; a conditioned one takes strengths."""
    from anchorsr.networks.inference import upscale_float

    if not network.strengths:
        return functools.partial(upscale_float, network)

    def upscale(lr: UInt8Array, strengths: Strengths) -> UInt8Array:
        values = strengths.select(network.strengths).tolist()
        folded = network.fold(dict(zip(network.strengths, values, strict=True)))
        return upscale_float(folded, lr)

    return ConditionedMethod(upscale)


def run_at_every_size(graph: Graph) -> Method:
    """Run a graph in LiteRT through a file for each size, which some operators need."""
    engine = SizedEngine(graph)

    def upscale(lr: UInt8Array) -> UInt8Array:
        tile = max(graph.fit(*lr.shape[:2]))
        factor, multiple = graph.factor, graph.multiple
        return upscale_tiled(engine, lr, factor=factor, halo=0, tile=tile, multiple=multiple)

    return upscale


def _measure(sr: UInt8Array, hr: UInt8Array, border: int) -> tuple[float, float, float]:
    sr_luma, hr_luma = luma(sr), luma(hr)
    return (
        psnr(sr, hr, border=border),
        psnr(sr_luma, hr_luma, border=border),
        ssim(sr_luma, hr_luma, border=border),
    )


def _multiplications(name: str | Path, factor: int) -> int | None:
    """Return the multiply-accumulates per LR pixel of a rival or a `.tflite`."""
    if name in RIVALS:
        return RIVALS[str(name)].macs
    shipped = {model.name for model in list_models()} | {m.path.stem for m in list_models()}
    if name in shipped or Path(name).suffix.lower() == ".tflite":
        return read_model(model_path(name, factor))[1].macs_per_pixel
    return None


def _load_run(run: Path, threads: int | None) -> Method:
    with needs("PyTorch", "train"):
        import torch

        from anchorsr.training.checkpoint import load_weights
    if threads:
        torch.set_num_threads(threads)
    return float_method(load_weights(run))
