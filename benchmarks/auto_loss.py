"""Measure how much `auto` loses against the best strengths for each image.

    python benchmarks/auto_loss.py ../shared/data/test/Set14 ../shared/data/test/BSD100

Images are damaged as in `anchorsr evaluate --damage usual`, or as --damage says. The best is that
of `quality`, the true strengths and 2 to 8 others around them, by luma PSNR. Needs anchorsr[video].
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from anchorsr.data.damage import USUAL, damage_pair, parse_damage
from anchorsr.data.pairs import Pair, load_test_pairs
from anchorsr.data.strengths import CLEAN, Strengths
from anchorsr.engines.native.engine import Native
from anchorsr.engines.runtimes import Engine, load_engine
from anchorsr.errors import ModelError
from anchorsr.images.image import RasterImage
from anchorsr.images.resize import bicubic
from anchorsr.inference.automatic import Selection, select_model
from anchorsr.metrics import luma, psnr
from anchorsr.models.registry import CONDITIONED, DEFAULT, apply_strengths, model_path, read_model
from anchorsr.serialization.tflite.writer import write_tflite

FACTOR = 3
# A loss that is no loss, in dB, and the fraction of the cases that may have more.
ALLOWED, SHARE = 0.05, 0.05
STEPS = {"noise": 0.1, "grain": 0.1, "blur": 0.15, "video": 0.1, "jpeg": 0.08, "webp": 0.1}


def load(model: str, strengths: Strengths) -> Engine:
    """Load a network into the native kernel, or LiteRT where there is none."""
    data, graph = read_model(model_path(model, FACTOR))
    changed = apply_strengths(data, graph, strengths.as_table())
    try:
        return Native(changed, 1)
    except ModelError:
        return load_engine(write_tflite(changed), threads=1)


def candidates(true: Strengths) -> Iterator[tuple[str, Strengths]]:
    """Yield what may be best for an image with these true strengths."""
    yield DEFAULT, CLEAN
    yield CONDITIONED, true
    for name, step in STEPS.items():
        value = getattr(true, name)
        if value:
            for other in (value - step, value + step):
                yield CONDITIONED, dataclasses.replace(true, **{name: max(other, 0.0)})


def score(pair: Pair, model: str, strengths: Strengths) -> float:
    made = load(model, strengths)(pair.lr[None])[0]
    return psnr(luma(made), luma(pair.hr), border=FACTOR)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--images", type=int, help="of each folder; by default all")
    parser.add_argument("--every", type=int, default=1, help="take every Nth image")
    parser.add_argument("--damage", action="append", help="by default the usual ones")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verbose", action="store_true")
    arguments = parser.parse_args()
    losses: dict[str, list[float]] = {}
    gains: dict[str, list[float]] = {}
    for folder in arguments.folders:
        pairs = load_test_pairs(folder, FACTOR)
        for pair in islice(pairs, 0, None, arguments.every):
            for name in arguments.damage or USUAL:
                damaged = damage_pair(pair, parse_damage(name), seed=arguments.seed)
                chosen: Selection = select_model(RasterImage(damaged.lr))
                got = score(damaged, chosen.model, chosen.strengths)
                best = max(score(damaged, *each) for each in candidates(damaged.strengths))
                height, width = damaged.hr.shape[:2]
                plain = psnr(
                    luma(bicubic(damaged.lr, height, width)), luma(damaged.hr), border=FACTOR
                )
                losses.setdefault(name, []).append(best - got)
                gains.setdefault(name, []).append(got - plain)
                if arguments.verbose:
                    print(
                        f"{pair.name} {name}: lost {best - got:+.3f}, {chosen.model}"
                        f" {chosen.strengths.describe()}",
                        flush=True,
                    )
    print(f"{'damage':10} {'above bicubic':>13} {'worst':>7} {'mean loss':>9} {'within':>7}")
    for name, lost in losses.items():
        within = np.mean(np.array(lost) <= ALLOWED)
        print(
            f"{name:10} {np.mean(gains[name]):13.3f} {min(gains[name]):7.3f} {np.mean(lost):9.3f}"
            f" {within:7.1%}"
        )
    every = np.concatenate(list(losses.values()))
    within = float((every <= ALLOWED).mean())
    print(f"{within:.1%} of {len(every)} cases within {ALLOWED} dB of the best (wanted: 95 %)")
    return int(within < 1 - SHARE)


if __name__ == "__main__":
    sys.exit(main())
