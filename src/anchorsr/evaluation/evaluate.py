"""Test sets × methods: PSNR and SSIM as the super-resolution papers report them.

A method is a shipped network's name, a model file, the folder of a training run (its float
weights, which are told the true strengths of a damage where they ask for them), `bicubic` or
`lanczos` (Pillow's), or a `.pb` file of OpenCV's dnn_superres. Outputs are uint8; `factor` pixels
are cut off each side unless said otherwise; a set's figure is the mean of its images' figures.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from anchorsr.data.damage import NO_DAMAGE, Damage, damage_pair, parse_damage
from anchorsr.data.pairs import load_test_pairs
from anchorsr.data.strengths import CLEAN, Strengths
from anchorsr.engines.runtimes import ENGINES, Engine, load_engine
from anchorsr.errors import DataError, ModelError, needs
from anchorsr.evaluation.dnn_superres import load_dnn_superres
from anchorsr.graph.graph import Graph
from anchorsr.inference.upscaler import ready_upscaler
from anchorsr.metrics import luma, psnr, ssim
from anchorsr.models.registry import list_models
from anchorsr.serialization.tflite.writer import write_tflite

UInt8Array = npt.NDArray[np.uint8]
Method = Callable[[UInt8Array], UInt8Array]

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS}


@dataclass(frozen=True)
class Score:
    """Means over the images of one set; PSNR in dB, over RGB and over BT.601 luma.

    damage: what was done to the LR images (`data.damage`).
    """

    method: str
    test_set: str
    images: int
    psnr_rgb: float
    psnr_y: float
    ssim_y: float
    damage: str = "clean"


def evaluate(
    name: str | Path,
    folder: str | Path,
    *,
    factor: int = 3,
    border: int | None = None,
    threads: int | None = None,
    engine: str = ENGINES[0],
    damage: str = "clean",
    on_image: Callable[[str], None] | None = None,
) -> Score:
    """Score one method on one test set (see `datasets.load_test_pairs` for the folder).

    border: pixels cut off each side, the factor by default. engine: what runs a `.tflite`; the
    figures that are stated are those of LiteRT. damage: what is done to the LR images before, by
    its name in `data.damage`; the same pixels every time.
    Raises DataError for a folder that is no test set or has images that are too small, or for an
    unknown damage,
    ModelError for an unknown method or one of another factor, ValueError for a factor below 1.
    """
    if factor < 1:
        raise ValueError(f"a factor is at least 1, not {factor}")
    damages = parse_damage(damage)  # before a model is loaded
    method = load_method(name, factor, threads=threads, engine=engine)
    return evaluate_method(
        method,
        str(name),
        Path(folder),
        factor=factor,
        border=border,
        damage=damages,
        on_image=on_image,
    )


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
    """`evaluate` for a method that is loaded or made already; name is what to call it."""
    cut = factor if border is None else border
    rows = []
    for pair in load_test_pairs(folder, factor):
        pair = damage_pair(pair, damage)
        try:
            if isinstance(method, _FloatRun):
                sr = method.upscale(pair.lr, pair.strengths)
            else:
                sr = method(pair.lr)
        except ModelError as error:
            raise ModelError(f"{name} on {pair.name}: {error}") from error
        if sr.shape != pair.hr.shape:
            raise ModelError(
                f"{name} made {sr.shape} of {pair.lr.shape}: not {factor} times larger"
            )
        try:
            rows.append(_measure(sr, pair.hr, cut))
        except ValueError as error:
            raise DataError(f"{pair.name} in {folder}: {error}") from error
        if on_image is not None:
            on_image(pair.name)
    means = np.mean(rows, axis=0)
    rgb, y, similarity = (float(value) for value in means)
    return Score(name, folder.resolve().name, len(rows), rgb, y, similarity, damage.name)


def load_method(
    name: str | Path, factor: int, *, threads: int | None = None, engine: str = ENGINES[0]
) -> Method:
    """uint8 (H, W, 3) to uint8 (factor · H, factor · W, 3).

    A folder with the name of a shipped network, or of a filter, is meant when given as a Path.
    """
    path = Path(name)
    if name in _FILTERS:
        return lambda lr: _interpolate(lr, factor, _FILTERS[str(name)])
    if path.is_dir() and name not in {model.name for model in list_models()}:
        return _load_run(path, threads)
    suffix = path.suffix.lower()
    if suffix == ".pb":
        return load_dnn_superres(path, factor, threads=threads)
    if suffix == ".onnx":
        try:
            onnx = load_engine(path, threads=threads)
        except ModelError as error:
            raise ModelError(f"{path}: {error}") from error
        return lambda lr: onnx(lr[None])[0]
    return ready_upscaler(name, factor, threads=threads, engine=engine)


def run_at_every_size(graph: Graph) -> Method:
    """The graph in LiteRT with a file for each size, as some operators need one."""

    @functools.lru_cache(maxsize=8)
    def engine(height: int, width: int) -> Engine:
        return load_engine(write_tflite(graph, size=(height, width)))

    return lambda lr: engine(*lr.shape[:2])(lr[None])[0]


def _measure(sr: UInt8Array, hr: UInt8Array, border: int) -> tuple[float, float, float]:
    sr_luma, hr_luma = luma(sr), luma(hr)
    return (
        psnr(sr, hr, border=border),
        psnr(sr_luma, hr_luma, border=border),
        ssim(sr_luma, hr_luma, border=border),
    )


def _interpolate(lr: UInt8Array, factor: int, kernel: Image.Resampling) -> UInt8Array:
    size = (lr.shape[1] * factor, lr.shape[0] * factor)
    return np.asarray(Image.fromarray(lr).resize(size, kernel))


class _FloatRun:
    """The float weights of a run as a method."""

    def __init__(
        self, network: Any, upscale_float: Callable[[Any, UInt8Array], UInt8Array]
    ) -> None:
        self._network = network
        self._upscale_float = upscale_float

    def __call__(self, lr: UInt8Array) -> UInt8Array:
        return self.upscale(lr, CLEAN)

    def upscale(self, lr: UInt8Array, strengths: Strengths) -> UInt8Array:
        """Upscale an image that has been through this."""
        network = self._network
        if network.strengths:
            told = strengths.select(network.strengths).tolist()
            network = network.fold(dict(zip(network.strengths, told, strict=True)))
        return self._upscale_float(network, lr)


def _load_run(run: Path, threads: int | None) -> _FloatRun:
    with needs("PyTorch", "train"):
        import torch

        from anchorsr.training.checkpoint import load_weights
        from anchorsr.training.validation import upscale_float
    if threads:
        torch.set_num_threads(threads)
    return _FloatRun(load_weights(run), upscale_float)
