"""Fit the constants of the estimator of damage (`anchorsr.inference.estimate`) on training images.

    python benchmarks/fit_estimator.py ../shared/data/train

Each image is reduced and damaged in many ways; the perceptron learns the strengths from what
`measure` returns. Needs anchorsr[train,video]. Prints errors on images that were kept apart.
"""

from __future__ import annotations

import argparse
import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from anchorsr.arrays import UInt8Array
from anchorsr.data.degradation import DegradationRecipe, degrade
from anchorsr.data.effects import add_noise, blur_isotropic, encode_jpeg, to_uint8
from anchorsr.data.films import FILMS, pan
from anchorsr.data.imresize import downscale
from anchorsr.data.pairs import Pair, draw_pairs
from anchorsr.data.strengths import (
    CLEAN,
    GREY_NOISE,
    Strengths,
    jpeg_strength,
    noise_strength,
    video_strength,
)
from anchorsr.data.synthetic import draw_image
from anchorsr.inference.estimate import CONSTANTS, ESTIMATED, estimate_damage, has_colour, measure
from anchorsr.training.recipe import read_recipe

FACTOR = 3
SIDES = (96, 256)
HIDDEN = (64, 32)
# Perceptrons of different seeds, whose outputs are averaged: each has other false alarms.
MEMBERS = 3
# How much an error of each strength costs, from the PSNR that a wrong one loses.
COSTS = {"noise": 1.0, "grain": 1.0, "blur": 1.2, "video": 1.2}
STEPS = 8000
# Estimates below a threshold count as none. Undamaged images apart are told less than it in this
# fraction of the cases.
QUIET = 0.95
# And no threshold is lower, in the order of `ESTIMATED`: so weak a strength is hardly seen, and
# coarse texture looks like weak grain.
FLOORS = (0.12, 0.42, 0.33, 0.12)


def cut(pair: Pair, random: np.random.Generator) -> Pair:
    """Cut a part of an image, of a random size."""
    height, width = (min(side, int(random.integers(*SIDES))) for side in pair.lr.shape[:2])
    top, left = (
        int(random.integers(side - length + 1))
        for side, length in zip(pair.lr.shape[:2], (height, width), strict=True)
    )
    lr = np.ascontiguousarray(pair.lr[top : top + height, left : left + width])
    return pair.cut(lr, top, left, CLEAN)


def varied(pair: Pair, number: int, random: np.random.Generator) -> Pair:
    """Replace every sixth image by a drawn one, and make every fifth grey."""
    lr, hr = pair.lr, pair.hr
    if number % 6 == 0:
        hr = np.asarray(draw_image(int(random.integers(2**31)), number))
        lr = downscale(hr, FACTOR)
    if number % 5 == 0:
        lr, hr = (
            np.repeat(np.asarray(Image.fromarray(i).convert("L"))[..., None], 3, 2)
            for i in (lr, hr)
        )
    return Pair(pair.name, lr, hr)


def redrawn(lr: UInt8Array, random: np.random.Generator) -> tuple[UInt8Array, Strengths]:
    """Change contrast and sharpness, which is no damage, and store half of the images as JPEG."""
    image = lr.astype(np.float32)
    if random.random() < 0.7:
        image += random.uniform(0.2, 1.2) * (
            image - blur_isotropic(image, random.uniform(0.6, 1.2))
        )
    contrast, middle = random.uniform(0.5, 1.3), random.uniform(90, 160)
    changed = to_uint8(middle + contrast * (image - 127.5))
    changed, stored = stored_as_jpeg(changed, random, 0.5)
    return changed, Strengths(**stored)


def scanned(lr: UInt8Array, random: np.random.Generator) -> tuple[UInt8Array, Strengths]:
    """Blur, add grain, blur again, and store as JPEG as often as not."""
    before, after = random.uniform(0.3, 0.8, size=2)
    sigma = float(np.exp(random.uniform(math.log(2), math.log(30))))
    grey = random.random() < 0.6
    image = blur_isotropic(lr.astype(np.float32), before)
    image = to_uint8(blur_isotropic(add_noise(image, sigma, random, grey=grey), after))
    image, stored = stored_as_jpeg(image, random, 0.6)
    grain = noise_strength(sigma * (GREY_NOISE if grey else 1))
    return image, Strengths(grain=min(grain, 1), blur=min(math.hypot(before, after), 1), **stored)


def noisy(lr: UInt8Array, random: np.random.Generator) -> tuple[UInt8Array, Strengths]:
    """Add noise, and store as JPEG as often as not.

    Noise is independent in the channels, the same in all, or what a camera leaves: strong in luma,
    coarse in colour.
    """
    sigma = float(np.exp(random.uniform(0, math.log(32))))
    kind = random.choice(["independent", "grey", "camera", "poisson"])
    plain = lr.astype(np.float32)
    if kind == "camera":
        luma = add_noise(plain, sigma, random, grey=True) - plain
        colour = add_noise(plain, random.uniform(0.3, 1.2) * sigma, random) - plain
        colour -= colour.mean(axis=2, keepdims=True)
        noise = luma + 2 * blur_isotropic(colour, random.uniform(0.8, 1.5))
    else:
        given = {"grey": kind == "grey", "poisson": kind == "poisson"}
        noise = add_noise(plain, sigma, random, **given) - plain
    image, stored = stored_as_jpeg(to_uint8(plain + noise), random, 0.5)
    strength = noise_strength(sigma * (GREY_NOISE if kind in ("grey", "camera") else 1))
    return image, Strengths(noise=min(strength, 1.0), **stored)


def stored_as_jpeg(
    image: UInt8Array, random: np.random.Generator, share: float
) -> tuple[UInt8Array, dict[str, float]]:
    """Store a share of the images as JPEG."""
    if random.random() > share:
        return image, {}
    quality = int(random.integers(45, 98))
    return encode_jpeg(image, quality), {"jpeg": jpeg_strength(quality)}


def filmed(lr: UInt8Array, random: np.random.Generator) -> tuple[UInt8Array, Strengths]:
    """Take the last frame of a short film over the image."""
    codec = random.choice(["h264", "h264", "hevc", "vp9"])
    film = FILMS[codec]
    crf = int(random.integers(*film.crf))
    down, right = random.uniform(-1.5, 1.5, size=2)
    frames = int(random.integers(3, 8))
    frame = pan(lr, film, crf, frames=frames, speed=(down, right))[-1][0]
    if random.random() < 0.4:
        frame = with_other_colour(frame, random)
    slope, offset = film.x264
    return frame, Strengths(video=video_strength(slope * crf + offset))


def with_other_colour(frame: UInt8Array, random: np.random.Generator) -> UInt8Array:
    """Enlarge the colour of a frame again, as other players and converters do."""
    luma, *colours = Image.fromarray(frame).convert("YCbCr").split()
    half = (luma.width // 2, luma.height // 2)
    how = (Image.Resampling.NEAREST, Image.Resampling.BILINEAR)[int(random.integers(2))]
    large = [c.resize(half, Image.Resampling.BOX).resize(luma.size, how) for c in colours]
    return np.asarray(Image.merge("YCbCr", (luma, *large)).convert("RGB"))


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
    for damage, count in ((redrawn, 4), (noisy, 4), (scanned, 4), (filmed, 4)):
        made += [damage(pair.lr, random) for _ in range(count)]
    return made


def fit(features: np.ndarray, targets: np.ndarray, seed: int) -> dict[str, list]:
    """Train the perceptrons, without thresholds."""
    torch.set_num_threads(1)
    mean, deviation = features.mean(axis=0), features.std(axis=0) + 1e-3
    scaled = torch.tensor(np.clip((features - mean) / deviation, -4, 4), dtype=torch.float32)
    wanted = torch.tensor(targets, dtype=torch.float32)
    members = [fit_one(scaled, wanted, seed + index) for index in range(MEMBERS)]
    return {
        "mean": rounded(mean),
        "deviation": rounded(deviation),
        "members": members,
        "least": [0.0] * len(ESTIMATED),
        "least_grey": [0.0] * len(ESTIMATED),
    }


def fit_one(scaled: torch.Tensor, wanted: torch.Tensor, seed: int) -> list[dict[str, list]]:
    """Train one perceptron; return its layers."""
    torch.manual_seed(seed)
    costs = torch.tensor([COSTS[name] for name in ESTIMATED])
    layers: list[torch.nn.Module] = []
    for inputs, outputs in pairwise([scaled.shape[1], *HIDDEN, len(ESTIMATED)]):
        layers += [torch.nn.Linear(inputs, outputs), torch.nn.Tanh()]
    network = torch.nn.Sequential(*layers[:-1])
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2, weight_decay=2e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        chosen = torch.randint(len(scaled), (128,))
        inputs = scaled[chosen] + 0.08 * torch.randn(128, scaled.shape[1])
        error = (network(inputs) - wanted[chosen]) * costs
        loss = torch.nn.functional.smooth_l1_loss(error, torch.zeros_like(error), beta=0.3)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    linear = [layer for layer in network if isinstance(layer, torch.nn.Linear)]
    return [
        {
            "weights": rounded(layer.weight.detach().numpy()),
            "biases": rounded(layer.bias.detach().numpy()),
        }
        for layer in linear
    ]


def rounded(values: np.ndarray) -> list:
    return np.round(values.astype(float), 3).tolist()


def predict(table: dict[str, list], features: np.ndarray) -> np.ndarray:
    """Write the constants, and return what the estimator makes of features, (N, 4)."""
    CONSTANTS.write_text(json.dumps(table) + "\n")
    load = estimate_damage.__globals__["_Perceptron"].load
    load.cache_clear()
    return np.array([list(load()(row, 0.0).values()) for row in features])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="training images")
    parser.add_argument("--images", type=int, default=700)
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
            [arguments.folder], FACTOR, patch=SIDES[0], seed=arguments.seed, count=arguments.images
        )
        for number, pair in enumerate(pairs):
            part = cut(varied(pair, number, random), random)
            for image, strengths in damaged(part, degradation, random):
                rows.append(measure(image)[1])
                wanted.append([getattr(strengths, name) for name in ESTIMATED])
                owners.append(number)
            print(f"{number + 1} images measured", end="\r", flush=True)
        features, targets, owner = np.array(rows), np.array(wanted), np.array(owners)
        if arguments.features is not None:
            np.savez(arguments.features, features=features, targets=targets, owner=owner)
    apart = owner % 7 == 0  # grey and drawn ones in proportion
    table = fit(features[~apart], targets[~apart], arguments.seed)
    undamaged = apart & ~targets.any(axis=1)
    coloured = np.array([has_colour(row) for row in features])
    for name, chosen in (("least", coloured), ("least_grey", ~coloured)):
        alarms = np.quantile(predict(table, features[undamaged & chosen]), QUIET, axis=0)
        table[name] = rounded(np.maximum(alarms, FLOORS))
    found = predict(table, features[apart])
    for index, name in enumerate(ESTIMATED):
        truth, made = targets[apart][:, index], found[:, index]
        some = truth > 0
        print(
            f"{name}: {some.sum()} with some, mean error {np.abs(made - truth)[some].mean():.3f};"
            f" {(~some).sum()} without, told some in {(made[~some] > 0).mean():.1%}"
        )


if __name__ == "__main__":
    main()
