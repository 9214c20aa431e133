"""Fit the constants of the estimator of damage (`anchorsr.inference.estimate`) on training images.

    python benchmarks/fit_estimator.py ../shared/data/train --images 120

Each image is reduced and damaged in many ways; the perceptron learns the strengths from what
`measure` returns. Needs anchorsr[train,video]. Prints errors on images that were kept apart.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import numpy as np
import torch

from anchorsr.arrays import UInt8Array
from anchorsr.data.degradation import DegradationRecipe, degrade
from anchorsr.data.effects import add_noise, blur_isotropic, encode_jpeg, to_uint8
from anchorsr.data.films import FILMS, pan
from anchorsr.data.pairs import Pair, draw_pairs
from anchorsr.data.strengths import (
    CLEAN,
    GREY_NOISE,
    Strengths,
    jpeg_strength,
    noise_strength,
    video_strength,
)
from anchorsr.inference.estimate import CONSTANTS, ESTIMATED, estimate_damage, measure
from anchorsr.training.recipe import read_recipe

SIDES = (96, 208)
HIDDEN = 24
# How much an error of each strength costs, from the PSNR that a wrong one loses.
COSTS = {"noise": 1.0, "grain": 1.0, "blur": 1.2, "video": 1.2}
STEPS = 4000
# Estimates below these count as none, in the order of `ESTIMATED`: so that clean images stay clean.
LEAST = (0.18, 0.33, 0.39, 0.14)


def cut(pair: Pair, random: np.random.Generator) -> Pair:
    """Cut a part of an image, of a random size."""
    height, width = (min(side, int(random.integers(*SIDES))) for side in pair.lr.shape[:2])
    top, left = (
        int(random.integers(side - length + 1))
        for side, length in zip(pair.lr.shape[:2], (height, width), strict=True)
    )
    lr = np.ascontiguousarray(pair.lr[top : top + height, left : left + width])
    return pair.cut(lr, top, left, CLEAN)


def scanned(lr: UInt8Array, random: np.random.Generator) -> tuple[UInt8Array, Strengths]:
    """Blur, add grain, blur again, and store as JPEG as often as not."""
    before, after = random.uniform(0.3, 0.8, size=2)
    sigma = float(np.exp(random.uniform(math.log(2), math.log(30))))
    grey = random.random() < 0.6
    image = blur_isotropic(lr.astype(np.float32), before)
    image = to_uint8(blur_isotropic(add_noise(image, sigma, random, grey=grey), after))
    stored = {}
    if random.random() < 0.6:
        quality = int(random.integers(60, 98))
        image, stored = encode_jpeg(image, quality), {"jpeg": jpeg_strength(quality)}
    grain = noise_strength(sigma * (GREY_NOISE if grey else 1))
    return image, Strengths(grain=grain, blur=math.hypot(before, after), **stored)


def noisy(lr: UInt8Array, random: np.random.Generator) -> tuple[UInt8Array, Strengths]:
    """Add noise, and store as JPEG as often as not."""
    sigma = float(np.exp(random.uniform(0, math.log(25))))
    image = to_uint8(add_noise(lr.astype(np.float32), sigma, random))
    stored = {}
    if random.random() < 0.5:
        quality = int(random.integers(50, 98))
        image, stored = encode_jpeg(image, quality), {"jpeg": jpeg_strength(quality)}
    return image, Strengths(noise=noise_strength(sigma), **stored)


def filmed(lr: UInt8Array, random: np.random.Generator) -> tuple[UInt8Array, Strengths]:
    """Take the last frame of a short film over the image."""
    codec = random.choice(["h264", "h264", "hevc", "vp9"])
    film = FILMS[codec]
    crf = int(random.integers(*film.crf))
    down, right = random.uniform(-1.5, 1.5, size=2)
    frames = int(random.integers(3, 8))
    slope, offset = film.x264
    frame = pan(lr, film, crf, frames=frames, speed=(down, right))[-1][0]
    return frame, Strengths(video=video_strength(slope * crf + offset))


def damaged(
    pair: Pair, recipe: DegradationRecipe, random: np.random.Generator
) -> list[tuple[UInt8Array, Strengths]]:
    """Damage one image in many ways."""
    quality = int(random.integers(10, 98))
    jpeg = encode_jpeg(pair.lr, quality)
    made = [(pair.lr, CLEAN), (jpeg, Strengths(jpeg=jpeg_strength(quality)))]
    for least in (15, 40, 80):
        again = int(random.integers(least, 99))
        twice = encode_jpeg(jpeg if least == 40 else pair.lr, again)
        made.append((twice, Strengths(jpeg=jpeg_strength(again))))
    made += [degrade(pair.lr, pair.hr, recipe, random) for _ in range(4)]
    made += [noisy(pair.lr, random) for _ in range(2)]
    made += [scanned(pair.lr, random) for _ in range(3)]
    return made + [filmed(pair.lr, random) for _ in range(2)]


def fit(features: np.ndarray, targets: np.ndarray, seed: int) -> dict[str, list]:
    """Train the perceptron; every tenth image is kept apart for the thresholds."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    mean, deviation = features.mean(axis=0), features.std(axis=0) + 1e-3
    scaled = torch.tensor(np.clip((features - mean) / deviation, -4, 4), dtype=torch.float32)
    wanted = torch.tensor(targets, dtype=torch.float32)
    costs = torch.tensor([COSTS[name] for name in ESTIMATED])
    network = torch.nn.Sequential(
        torch.nn.Linear(scaled.shape[1], HIDDEN),
        torch.nn.Tanh(),
        torch.nn.Linear(HIDDEN, len(ESTIMATED)),
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        chosen = torch.randint(len(scaled), (128,))
        inputs = scaled[chosen] + 0.05 * torch.randn(128, scaled.shape[1])
        error = (network(inputs) - wanted[chosen]) * costs
        loss = torch.nn.functional.smooth_l1_loss(error, torch.zeros_like(error), beta=0.3)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    hidden, output = network[0], network[2]
    arrays = {
        "mean": mean,
        "deviation": deviation,
        "hidden": hidden.weight.detach().numpy(),
        "hidden_bias": hidden.bias.detach().numpy(),
        "output": output.weight.detach().numpy(),
        "output_bias": output.bias.detach().numpy(),
        "least": np.array(LEAST),
    }
    return {name: np.round(array.astype(float), 4).tolist() for name, array in arrays.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="training images")
    parser.add_argument("--images", type=int, default=120)
    parser.add_argument("--recipe", type=Path, default=Path("recipes/photo_x3.toml"))
    parser.add_argument("--features", type=Path, help="a .npz of an earlier run, or to be written")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    degradation = read_recipe(arguments.recipe).degradation
    assert degradation is not None
    if arguments.features is not None and arguments.features.exists():
        stored = np.load(arguments.features)
        features, targets, owner = stored["features"], stored["targets"], stored["owner"]
    else:
        random = np.random.default_rng(arguments.seed)
        rows, wanted, owners = [], [], []
        pairs = draw_pairs(
            [arguments.folder], 3, patch=SIDES[0], seed=arguments.seed, count=arguments.images
        )
        for number, pair in enumerate(pairs):
            for image, strengths in damaged(cut(pair, random), degradation, random):
                rows.append(measure(image)[1])
                wanted.append([getattr(strengths, name) for name in ESTIMATED])
                owners.append(number)
            print(f"{number + 1} images measured", end="\r", flush=True)
        features, targets, owner = np.array(rows), np.array(wanted), np.array(owners)
        if arguments.features is not None:
            np.savez(arguments.features, features=features, targets=targets, owner=owner)
    apart = owner % 10 == 0
    table = fit(features[~apart], targets[~apart], arguments.seed)
    CONSTANTS.write_text(json.dumps(table) + "\n")
    estimate_damage.__globals__["_Perceptron"].load.cache_clear()
    perceptron = estimate_damage.__globals__["_Perceptron"].load()
    found = np.array([list(perceptron(row).values()) for row in features[apart]])
    for index, name in enumerate(ESTIMATED):
        truth, made = targets[apart][:, index], found[:, index]
        some = truth > 0
        print(
            f"{name}: {some.sum()} with some, mean error {np.abs(made - truth)[some].mean():.3f};"
            f" {(~some).sum()} without, told some in {(made[~some] > 0).mean():.1%}"
        )


if __name__ == "__main__":
    main()
