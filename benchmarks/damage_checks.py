"""Check what must hold for every image at every damage, for one model.

    python benchmarks/damage_checks.py ../shared/data/test/Set14

- No image is more than 0.1 dB (luma) below bicubic.
- The mean SSIM at every damage is above that of bicubic and that of Lanczos.
- Reduced again, the result has the mean of the LR image in every channel, within a level: no shift
  of colour, nothing invented.

Prints a table and exits with 1 if one of them does not hold. Needs anchorsr[video].
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from anchorsr.data.damage import USUAL, damage_pair, parse_damage
from anchorsr.data.imresize import downscale
from anchorsr.data.pairs import load_test_pairs
from anchorsr.evaluation.evaluate import ConditionedMethod, load_method
from anchorsr.images.resize import resample
from anchorsr.metrics import luma, psnr, ssim

FACTOR = 3
MOST_BELOW, MOST_SHIFT = 0.1, 1.0  # dB, levels


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--model", default="auto")
    parser.add_argument("--every", type=int, default=1, help="take every Nth image")
    parser.add_argument("--damage", action="append", help="by default the usual ones")
    arguments = parser.parse_args()
    method = load_method(arguments.model, FACTOR, engine="auto")
    rows: dict[str, list[tuple[float, float, float, float, float]]] = defaultdict(list)
    for folder in arguments.folders:
        for pair in islice(load_test_pairs(folder, FACTOR), 0, None, arguments.every):
            for name in arguments.damage or USUAL:
                damaged = damage_pair(pair, parse_damage(name))
                if isinstance(method, ConditionedMethod):
                    made = method.upscale(damaged.lr, damaged.strengths)
                else:
                    made = method(damaged.lr)
                height, width = damaged.hr.shape[:2]
                truth = luma(damaged.hr)
                plain, sharp = (
                    luma(resample(damaged.lr, height, width, kernel))
                    for kernel in (Image.Resampling.BICUBIC, Image.Resampling.LANCZOS)
                )
                ours = luma(made)
                gain = psnr(ours, truth, border=FACTOR) - psnr(plain, truth, border=FACTOR)
                again = downscale(made, FACTOR).reshape(-1, 3).mean(axis=0)
                shift = np.abs(again - damaged.lr.reshape(-1, 3).mean(axis=0)).max()
                similar = [ssim(each, truth, border=FACTOR) for each in (ours, plain, sharp)]
                rows[name].append((gain, *similar, float(shift)))
    bad = False
    print(
        f"{'damage':10} {'dB above':>9} {'worst':>7} {'SSIM':>7} {'bicubic':>8}"
        f" {'Lanczos':>8} shift"
    )
    for name, found in rows.items():
        table = np.array(found)
        gain, ours, plain, sharp, _ = table.mean(axis=0)
        worst, shift = table[:, 0].min(), table[:, 4].max()
        wrong = worst < -MOST_BELOW or ours <= max(plain, sharp) or shift > MOST_SHIFT
        bad = bad or wrong
        print(
            f"{name:10} {gain:9.3f} {worst:7.3f} {ours:7.4f} {plain:8.4f} {sharp:8.4f} {shift:5.2f}"
            f"{'  <- fails' if wrong else ''}"
        )
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
