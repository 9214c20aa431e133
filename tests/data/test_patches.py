"""Patches with degradation and given pairs: aligned, weighted, and pure functions of the seed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anchorsr.data.degradation import MARGIN, DegradationRecipe
from anchorsr.data.imresize import downscale
from anchorsr.data.pairs import STRENGTHS_FILE, Pair, load_given_pairs
from anchorsr.data.patches import PatchSampler
from anchorsr.data.strengths import CLEAN, Strengths
from anchorsr.errors import DataError
from anchorsr.images.io import RasterImage, write_image
from anchorsr.utils.config import parse_table

NOISY = {"noise": {"probability": 1.0, "sigma": [5, 20]}, "jpeg": {"probability": 0.5}}
PATCH = 12


def recipe(**table: Any) -> DegradationRecipe:
    return parse_table(DegradationRecipe, table, "degradation")


def waves(height: int, width: int, number: int = 0) -> Pair:
    y, x = np.mgrid[0 : 3 * height, 0 : 3 * width]
    bands = [127 + 100 * np.sin((x * (1 + c) + y * (number + 1)) / 15) for c in range(3)]
    hr = np.stack(bands, axis=-1).astype(np.uint8)
    return Pair(f"waves{number}", downscale(hr, 3), hr)


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    return [waves(40, 44), waves(38, 36, 1)]


def sampler(pairs: list[Pair], **options: Any) -> PatchSampler:
    return PatchSampler(pairs, patch=PATCH, seed=options.pop("seed", 3), **options)


def test_batches_are_functions_of_seed_step_and_place(pairs: list[Pair]) -> None:
    options = {"degradation": recipe(**NOISY), "relative": True}
    whole = sampler(pairs, **options).batch(5, range(8))
    again = sampler(pairs, **options)
    again.batch(4, range(8))
    parts = [again.batch(5, range(4, 8)), again.batch(5, range(4))]
    assert np.array_equal(whole.lr, np.concatenate([parts[1].lr, parts[0].lr]))
    assert np.array_equal(whole.hr, np.concatenate([parts[1].hr, parts[0].hr]))
    assert np.array_equal(whole.weights, np.concatenate([parts[1].weights, parts[0].weights]))
    assert whole.strengths == parts[1].strengths + parts[0].strengths
    other = sampler(pairs, seed=4, **options).batch(5, range(8))
    assert not np.array_equal(whole.lr, other.lr)


@pytest.mark.parametrize("candidates", [1, 3])
def test_degraded_side_lies_where_the_hr_side_does(pairs: list[Pair], candidates: int) -> None:
    """Whatever is cut, flipped and shifted, the two sides show the same."""
    weak = recipe(noise={"probability": 1.0, "sigma": [0.2, 0.2], "poisson": 0.0})
    batch = sampler(pairs, degradation=weak, candidates=candidates).batch(0, range(30))
    assert batch.lr.shape == (30, PATCH, PATCH, 3)
    for lr, hr in zip(batch.lr, batch.hr, strict=True):
        inside = (slice(2, -2), slice(2, -2))
        assert (
            np.abs(downscale(np.ascontiguousarray(hr), 3)[inside] - lr[inside].astype(int)).max()
            <= 4
        )


def test_jpeg_grid_lies_anywhere_on_a_patch(pairs: list[Pair]) -> None:
    """A block's edge is where the difference to the clean side jumps: not in the same columns."""
    coarse = recipe(jpeg={"probability": 1.0, "quality": [2, 2]})
    batch = sampler(pairs, degradation=coarse).batch(0, range(60))
    steps = np.abs(np.diff(batch.lr.astype(int), axis=2)).sum(axis=(1, 3))
    places = {int(row[:8].argmax()) for row in steps}
    assert len(places) >= 6


def test_damage_makes_patches_weigh_less(pairs: list[Pair]) -> None:
    weights = []
    for sigma in (1, 30):
        noisy = recipe(noise={"probability": 1.0, "sigma": [sigma, sigma]})
        batch = sampler(pairs[:1], degradation=noisy, relative=True).batch(0, range(20))
        weights.append(batch.weights.mean())
    assert weights[1] < 0.3 * weights[0]
    plain = sampler(pairs[:1], degradation=noisy).batch(0, range(4))
    assert (plain.weights == 1).all()


def test_given_pairs_are_cut_as_they_are(pairs: list[Pair]) -> None:
    told = Strengths(video=0.5)
    black = Pair("given", np.zeros((20, 20, 3), np.uint8), np.ones((60, 60, 3), np.uint8), told)
    mixed = sampler(pairs, degradation=recipe(**NOISY), given=[black], given_share=0.4)
    batch = mixed.batch(0, range(200))
    given = [index for index, one in enumerate(batch.strengths) if one == told]
    assert 50 < len(given) < 110
    assert all((batch.lr[index] == 0).all() and (batch.hr[index] == 1).all() for index in given)


def test_image_without_room_for_the_margin_is_left_out(pairs: list[Pair]) -> None:
    small = waves(PATCH + MARGIN - 1, 60)
    degraded = {"degradation": recipe(**NOISY)}
    with pytest.raises(DataError, match=f"no image has {PATCH + MARGIN} LR pixels"):
        sampler([small], **degraded)
    alone = sampler([pairs[0]], **degraded).batch(0, range(6))
    assert np.array_equal(sampler([pairs[0], small], **degraded).batch(0, range(6)).lr, alone.lr)
    assert sampler([small]).batch(0, range(2)).strengths == (CLEAN, CLEAN)


def write_given(folder: Path, pair: Pair, name: str) -> None:
    for part, rgb in (("HR", pair.hr), ("LR", pair.lr)):
        (folder / part).mkdir(parents=True, exist_ok=True)
        write_image(folder / part / f"{name}.png", RasterImage(rgb))


def test_given_pairs_are_read_with_their_strengths(tmp_path: Path, pairs: list[Pair]) -> None:
    for name, pair in zip("ab", pairs, strict=True):
        write_given(tmp_path, pair, name)
    write_given(tmp_path, waves(9, 9), "small")
    (tmp_path / STRENGTHS_FILE).write_text(json.dumps({"b": {"video": 0.25}}))
    first, second = load_given_pairs([tmp_path], 3, patch=10)
    assert np.array_equal(first.lr, pairs[0].lr)
    assert np.array_equal(second.hr, pairs[1].hr)
    assert (first.strengths, second.strengths) == (CLEAN, Strengths(video=0.25))


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"a": 3}', '{"a": {"dust": 1}}', '{"a": {"jpeg": "x"}}']
)
def test_damaged_strengths_are_an_error(tmp_path: Path, pairs: list[Pair], text: str) -> None:
    write_given(tmp_path, pairs[0], "a")
    (tmp_path / STRENGTHS_FILE).write_text(text)
    with pytest.raises(DataError, match="not a table of strengths"):
        load_given_pairs([tmp_path], 3, patch=10)


def test_given_pairs_that_do_not_fit_are_an_error(tmp_path: Path, pairs: list[Pair]) -> None:
    write_given(tmp_path, pairs[0], "a")
    with pytest.raises(DataError, match="does not fit at x2"):
        load_given_pairs([tmp_path], 2, patch=10)
    (tmp_path / "LR" / "a.png").rename(tmp_path / "LR" / "b.png")
    with pytest.raises(DataError, match="0 images named a"):
        load_given_pairs([tmp_path], 3, patch=10)
