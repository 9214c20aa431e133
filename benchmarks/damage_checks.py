"""Check what must hold for every image at every damage, for one model.

    python benchmarks/damage_checks.py ../shared/data/test/Set14
    python benchmarks/damage_checks.py ../shared/data/test/Set14 --factor 2 --every 3

- No image is more than 0.1 dB (luma) below bicubic.
- The mean SSIM of luma at every damage is above those of bicubic and Lanczos, and so is the mean
  SSIMULACRA2 where `pip install ssimulacra2` was done.
- Reduced again, the result has the mean of the LR image in every channel, within a level: no shift
  of colour, nothing invented.

Prints a table and exits with 1 if one of them does not hold. Needs anchorsr[video].
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import io
import sys
from collections import defaultdict
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from anchorsr.arrays import UInt8Array
from anchorsr.data.damage import USUAL, damage_pair, parse_damage
from anchorsr.data.imresize import downscale
from anchorsr.data.pairs import load_test_pairs
from anchorsr.evaluation.evaluate import ConditionedMethod, load_method
from anchorsr.images.resize import resample
from anchorsr.metrics import luma, psnr, ssim

MOST_BELOW, MOST_SHIFT = 0.1, 1.0  # dB, levels
KERNELS = (Image.Resampling.BICUBIC, Image.Resampling.LANCZOS)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--model", default="auto")
    parser.add_argument("--factor", type=int, default=3)
    parser.add_argument("--every", type=int, default=1, help="take every Nth image")
    parser.add_argument("--damage", action="append", help="by default the usual ones")
    arguments = parser.parse_args()
    factor = arguments.factor
    method = load_method(arguments.model, factor, engine="auto")
    perceptual = importlib.util.find_spec("ssimulacra2") is not None
    columns = ["SSIM", *["SSIMULACRA2"] * perceptual]
    head = "".join(f" {name:>11} {'bicubic':>8} {'Lanczos':>8}" for name in columns)
    print(f"{'damage':10} {'dB above':>9} {'worst':>7} {'shift':>5}{head}")
    bad = False
    scores: dict[str, list[list[float]]] = defaultdict(list)
    for name in arguments.damage or USUAL:
        for folder in arguments.folders:
            for pair in islice(load_test_pairs(folder, factor), 0, None, arguments.every):
                damaged = damage_pair(pair, parse_damage(name))
                if isinstance(method, ConditionedMethod):
                    made = method.upscale(damaged.lr, damaged.strengths)
                else:
                    made = method(damaged.lr)
                images = [made, *(resample(damaged.lr, *made.shape[:2], each) for each in KERNELS)]
                scores[name].append(measure(images, damaged.hr, factor, perceptual=perceptual))
                scores[name][-1].insert(0, shift(made, damaged.lr, factor))
        bad = show(name, np.array(scores[name])) or bad
    return int(bad)


def shift(made: UInt8Array, lr: UInt8Array, factor: int) -> float:
    """Return how far the mean of a channel has moved, in levels."""
    again = downscale(made, factor).reshape(-1, 3).mean(axis=0)
    return float(np.abs(again - lr.reshape(-1, 3).mean(axis=0)).max())


def measure(
    images: list[UInt8Array], hr: UInt8Array, factor: int, *, perceptual: bool
) -> list[float]:
    """Return the PSNR, SSIM and SSIMULACRA2 of the model, bicubic and Lanczos each."""
    truth, lumas = luma(hr), [luma(image) for image in images]
    values = [psnr(each, truth, border=factor) for each in lumas]
    values += [ssim(each, truth, border=factor) for each in lumas]
    if perceptual:
        module = importlib.import_module("ssimulacra2")
        values += [module.compute_ssimulacra2(as_file(hr), as_file(image)) for image in images]
    return values


def as_file(image: UInt8Array) -> io.BytesIO:
    """Return a file in memory, which is what SSIMULACRA2 reads."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "BMP")
    return file


def show(name: str, table: np.ndarray) -> bool:
    """Print the row of a damage; returns whether something does not hold."""
    moved, ours, plain = table[:, :3].T
    worst = float((ours - plain).min())
    means = table[:, 4:].mean(axis=0).reshape(-1, 3)
    wrong = worst < -MOST_BELOW or moved.max() > MOST_SHIFT
    wrong = wrong or any(row[0] <= max(row[1:]) for row in means)
    cells = "".join(f" {row[0]:11.4f} {row[1]:8.4f} {row[2]:8.4f}" for row in means)
    gain = float((ours - plain).mean())
    print(
        f"{name:10} {gain:9.3f} {worst:7.3f} {moved.max():5.2f}{cells}"
        f"{'  <- fails' if wrong else ''}",
        flush=True,
    )
    return wrong


if __name__ == "__main__":
    sys.exit(main())
