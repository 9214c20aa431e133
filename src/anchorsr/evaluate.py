"""Test sets × methods: PSNR and SSIM as the super-resolution papers report them.

A method is a shipped network's name, a model file, the folder of a training run (its float
weights), or `bicubic` (Pillow's). Outputs are uint8; `factor` pixels are cut off each side
unless said otherwise; a set's figure is the mean of its pictures' figures.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from anchorsr.datasets import load_test_pairs
from anchorsr.engines import load_engine
from anchorsr.errors import needs
from anchorsr.metrics import luma, psnr, ssim
from anchorsr.upscale import Upscaler

UInt8Array = npt.NDArray[np.uint8]
Method = Callable[[UInt8Array], UInt8Array]


@dataclass(frozen=True)
class Score:
    """Means over the pictures of one set; PSNR in dB, over RGB and over BT.601 luma."""

    method: str
    test_set: str
    pictures: int
    psnr_rgb: float
    psnr_y: float
    ssim_y: float


def evaluate(
    name: str | Path,
    folder: Path,
    *,
    factor: int = 3,
    border: int | None = None,
    threads: int | None = None,
    on_picture: Callable[[str], None] | None = None,
) -> Score:
    """Score one method on one test set (see `datasets.load_test_pairs` for the folder).

    border: pixels cut off each side, the factor by default.
    Raises DataError for a folder that is no test set, ModelError for an unknown method.
    """
    method = load_method(name, factor, threads=threads)
    cut = factor if border is None else border
    rows = []
    for pair in load_test_pairs(folder, factor):
        sr = method(pair.lr)
        sr_luma, hr_luma = luma(sr), luma(pair.hr)
        rows.append(
            (
                psnr(sr, pair.hr, border=cut),
                psnr(sr_luma, hr_luma, border=cut),
                ssim(sr_luma, hr_luma, border=cut),
            )
        )
        if on_picture is not None:
            on_picture(pair.name)
    means = np.mean(rows, axis=0)
    return Score(str(name), folder.name, len(rows), *(float(value) for value in means))


def load_method(name: str | Path, factor: int, *, threads: int | None = None) -> Method:
    """uint8 (H, W, 3) to uint8 (factor · H, factor · W, 3)."""
    path = Path(name)
    if str(name) == "bicubic":
        return lambda lr: _bicubic(lr, factor)
    if path.is_dir():
        return _float_method(path)
    if path.suffix == ".onnx":
        engine = load_engine(path, threads=threads)
        return lambda lr: engine(lr[None])[0]
    return Upscaler(name, factor, threads=threads)


def _bicubic(lr: UInt8Array, factor: int) -> UInt8Array:
    size = (lr.shape[1] * factor, lr.shape[0] * factor)
    return np.asarray(Image.fromarray(lr).resize(size, Image.Resampling.BICUBIC))


def _float_method(run: Path) -> Method:
    with needs("PyTorch", "train"):
        from anchorsr.training import load_weights, upscale_float
    network: Any = load_weights(run)
    return lambda lr: upscale_float(network, lr)
