"""What INT8 costs networks that are not the project's: trains, converts and measures each.

Run from the repository:

    python benchmarks/own_networks.py TRAIN --test Set14 --steps 2000 --qat 1000

The networks are those of tests/helpers/external.py. For each, PSNR (RGB) of the float network, of
its calibrated integers, of the float network after as many steps more as quantization-aware
training (QAT) takes, with the same loss and rate, and of the integers after QAT.
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

import anchorsr
from anchorsr.export.convert import convert
from anchorsr.networks.external import ExternalConfig, ExternalNetwork
from anchorsr.training.recipe import DataRecipe, OptimizerRecipe, Recipe, ScheduleRecipe
from anchorsr.training.trainer import fit

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from helpers.external import CONVERTIBLE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("train", help="folder of HR images")
    parser.add_argument("--test", default="Set14", help="test set (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=2000, help="float training")
    parser.add_argument("--qat", type=int, default=1000, help="quantization-aware training")
    parser.add_argument("--network", action="append", help="only these; repeatable")
    options = parser.parse_args()
    classes = {one.__name__: one for one in CONVERTIBLE}
    unknown = set(options.network or ()) - classes.keys()
    if unknown:
        parser.error(f"no network {min(unknown)}; choose from: {', '.join(classes)}")
    print("| network | x | float | calibrated | float, longer | QAT | drop |", flush=True)
    print("|---|---|---|---|---|---|---|")
    for name in options.network or classes:
        torch.manual_seed(0)
        network = ExternalNetwork(classes[name](), ExternalConfig())
        recipe = Recipe(
            network={"name": name},
            data=DataRecipe((options.train,), patch=32, batch=16),
            schedule=ScheduleRecipe(steps=options.steps, warmup=options.steps // 20),
            optimizer=OptimizerRecipe(learning_rate=2e-3, gradient_clip=0.5),
        )
        longer = replace(
            recipe,
            loss="l2",
            schedule=ScheduleRecipe(options.qat, warmup=options.qat // 20),
            optimizer=OptimizerRecipe(learning_rate=2e-4, gradient_clip=0.5),
        )
        with tempfile.TemporaryDirectory() as folder:
            trained, _ = fit(network, recipe, Path(folder, "float"))
            trained_longer, _ = fit(copy.deepcopy(trained), longer, Path(folder, "longer"))
        calibrated = convert(trained.module, images=options.train, name=name)
        qat = convert(trained.module, images=options.train, qat=options.qat, name=name)
        reference = convert(trained_longer.module, images=options.train, name=name)
        psnr = [
            calibrated.evaluate(options.test, precision="float32").psnr_rgb,
            calibrated.evaluate(options.test).psnr_rgb,
            reference.evaluate(options.test, precision="float32").psnr_rgb,
            qat.evaluate(options.test).psnr_rgb,
        ]
        cells = " | ".join(f"{value:.3f}" for value in psnr)
        print(f"| {name} | {trained.factor} | {cells} | {psnr[2] - psnr[3]:+.3f} |", flush=True)


if __name__ == "__main__":
    try:
        main()
    except anchorsr.AnchorSRError as error:
        sys.exit(f"own_networks.py: {error}")
