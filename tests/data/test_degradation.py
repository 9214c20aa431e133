"""What degradation does to patches, and what it says that it did."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from anchorsr.data.degradation import DegradationRecipe, degrade, degrade_like
from anchorsr.data.effects import (
    add_noise,
    blur,
    blur_isotropic,
    encode_jpeg,
    encode_webp,
    to_uint8,
)
from anchorsr.data.imresize import downscale
from anchorsr.data.strengths import (
    CLEAN,
    GREY_NOISE,
    STRENGTHS,
    Strengths,
    jpeg_quality,
    jpeg_strength,
    noise_sigma,
    noise_strength,
    parse_strengths,
    video_strength,
    webp_strength,
)
from anchorsr.errors import DataError, RecipeError
from anchorsr.utils.config import parse_table

ALL = {
    "clean": 0.1,
    "other_kernel": 0.3,
    "blur": {"probability": 0.5},
    "scan": {"probability": 0.3},
    "noise": {"probability": 0.5},
    "webp": {"probability": 0.2},
    "jpeg": {"probability": 0.7, "twice": 0.5},
}


def recipe(**table: Any) -> DegradationRecipe:
    return parse_table(DegradationRecipe, table, "degradation")


@pytest.fixture(scope="module")
def sides() -> tuple[np.ndarray, np.ndarray]:
    """An LR and an HR image with edges and areas."""
    y, x = np.mgrid[0:120, 0:120]
    waves = [127 + 90 * np.sin((x * (1 + c) + y) / 14) for c in range(3)]
    hr = np.stack(waves, axis=-1).astype(np.uint8)
    hr[40:80, 30:70] = 255 - hr[40:80, 30:70]
    return downscale(hr, 3), hr


def error(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.square(one.astype(float) - other).mean())


@pytest.mark.slow
def test_same_generator_gives_the_same_patch(sides: tuple[np.ndarray, np.ndarray]) -> None:
    wanted = recipe(**ALL)
    seen = set()
    for seed in range(40):
        first, told = degrade(*sides, wanted, np.random.default_rng(seed))
        second, told_again = degrade(*sides, wanted, np.random.default_rng(seed))
        assert np.array_equal(first, second)
        assert told == told_again
        assert first.shape == sides[0].shape
        assert first.dtype == np.uint8
        seen |= {name for name in STRENGTHS if getattr(told, name)}
    assert seen == set(STRENGTHS) - {"video"}


def test_inputs_stay_as_they_are(sides: tuple[np.ndarray, np.ndarray]) -> None:
    before = [side.copy() for side in sides]
    for seed in range(20):
        degrade(*sides, recipe(**ALL), np.random.default_rng(seed))
    assert all(np.array_equal(side, copy) for side, copy in zip(sides, before, strict=True))


@pytest.mark.parametrize("table", [{"clean": 1.0, "jpeg": {"probability": 1.0}}, {}])
def test_clean_is_the_bicubic_reduction(
    sides: tuple[np.ndarray, np.ndarray], table: dict[str, Any]
) -> None:
    made, told = degrade(*sides, recipe(**table), np.random.default_rng(0))
    assert np.array_equal(made, sides[0])
    assert told == CLEAN


def test_share_that_stays_clean(sides: tuple[np.ndarray, np.ndarray]) -> None:
    wanted = recipe(clean=0.25, jpeg={"probability": 1.0})
    told = [degrade(*sides, wanted, np.random.default_rng(seed))[1] for seed in range(400)]
    assert 0.17 < sum(one == CLEAN for one in told) / len(told) < 0.33


@pytest.mark.parametrize(
    ("table", "name"),
    [
        ({"jpeg": {"probability": 1.0, "quality": [40, 40], "twice": 0.0}}, "jpeg"),
        ({"webp": {"probability": 1.0, "quality": [40, 40]}}, "webp"),
        ({"noise": {"probability": 1.0, "sigma": [8, 8]}}, "noise"),
        ({"blur": {"probability": 1.0, "sigma": [0.8, 0.8]}}, "blur"),
        ({"other_kernel": 1.0}, "blur"),
    ],
)
def test_one_stage_is_told_as_one_strength(
    sides: tuple[np.ndarray, np.ndarray], table: dict[str, Any], name: str
) -> None:
    made = [degrade(*sides, recipe(**table), np.random.default_rng(seed)) for seed in range(8)]
    for image, told in made:
        others = {other: getattr(told, other) for other in STRENGTHS if other != name}
        assert not any(others.values())
        assert error(image, sides[0]) > 0.5
    assert any(getattr(told, name) > 0.2 for _, told in made)


def test_strength_says_what_was_done(sides: tuple[np.ndarray, np.ndarray]) -> None:
    table = {"jpeg": {"probability": 1.0, "quality": [40, 40], "twice": 0.0, "full_chroma": 0.0}}
    image, told = degrade(*sides, recipe(**table), np.random.default_rng(0))
    assert np.array_equal(image, encode_jpeg(sides[0], jpeg_quality(told.jpeg)))
    table = {"webp": {"probability": 1.0, "quality": [40, 40]}}
    image, told = degrade(*sides, recipe(**table), np.random.default_rng(0))
    assert np.array_equal(image, encode_webp(sides[0], 40))
    assert told.webp == webp_strength(40)


def test_twice_tells_the_quality_before(sides: tuple[np.ndarray, np.ndarray]) -> None:
    table = {"jpeg": {"probability": 1.0, "quality": [20, 90], "twice": 1.0}}
    told = [degrade(*sides, recipe(**table), np.random.default_rng(seed))[1] for seed in range(9)]
    assert all(one.earlier and one.jpeg for one in told)
    assert any(one.earlier != one.jpeg for one in told)


@pytest.mark.parametrize("poisson", [False, True])
@pytest.mark.parametrize("grey", [False, True])
def test_noise_has_its_deviation_and_no_mean(grey: bool, poisson: bool) -> None:
    flat = np.full((64, 64, 3), 128, np.float32)
    noise = add_noise(flat, 6.0, np.random.default_rng(0), grey=grey, poisson=poisson) - flat
    assert abs(noise.mean()) < 0.3
    assert abs(noise.std() - 6) < 0.3
    assert bool((noise[..., 0] == noise[..., 1]).all()) is grey


def test_grey_noise_of_a_strength_is_as_strong_in_luma(
    sides: tuple[np.ndarray, np.ndarray],
) -> None:
    luma = np.array([0.299, 0.587, 0.114])
    deviations = []
    for grey in (0.0, 1.0):
        table = {"noise": {"probability": 1.0, "sigma": [9, 9], "grey": grey, "poisson": 0.0}}
        image, told = degrade(*sides, recipe(**table), np.random.default_rng(0))
        assert told.noise == pytest.approx(noise_strength(9))
        deviations.append(((image.astype(float) - sides[0]) @ luma).std())
    assert deviations[0] == pytest.approx(9 / GREY_NOISE, rel=0.1)
    assert deviations[1] == pytest.approx(deviations[0], rel=0.1)


def test_blur_is_the_gaussian_asked_for() -> None:
    image = np.zeros((41, 41, 3), np.float32)
    image[20, 20] = 1000
    blurred = blur(image, (4.0, 1.0, 0.5))[..., 0]
    y, x = np.mgrid[-20:21, -20:21]
    share = blurred / blurred.sum()
    moments = [(share * y * y).sum(), (share * x * x).sum(), (share * y * x).sum()]
    assert np.allclose(moments, (4.0, 1.0, 0.5), atol=0.02)


def test_blur_keeps_a_flat_image_up_to_its_edges() -> None:
    flat = np.full((20, 17, 3), 77, np.float32)
    assert np.allclose(blur_isotropic(flat, 2.0), flat, atol=1e-3)


@pytest.mark.parametrize("quality", range(5, 100, 5))
def test_jpeg_quality_and_strength_are_inverse(quality: int) -> None:
    assert jpeg_quality(jpeg_strength(quality)) == quality


def test_strengths_grow_with_the_damage_from_zero_to_one() -> None:
    scales = [
        [jpeg_strength(quality) for quality in (100, 90, 50, 10)],
        [noise_strength(sigma) for sigma in (0, 5, 15, 30)],
        [webp_strength(quality) for quality in (100, 80, 20, 0)],
        [video_strength(crf) for crf in (10, 20, 30, 40)],
    ]
    for scale in scales:
        assert scale == sorted(scale)
        assert scale[0] == 0
        assert scale[-1] == pytest.approx(1)
    assert noise_sigma(noise_strength(11)) == pytest.approx(11)


def test_strengths_are_selected_by_name() -> None:
    assert np.allclose(
        Strengths(noise=0.5, jpeg=0.25).select(["jpeg", "blur", "noise"]), [0.25, 0, 0.5]
    )


def test_rounding_limits_to_bytes() -> None:
    assert to_uint8(np.array([-3.0, 0.5, 1.5, 254.6, 300.0])).tolist() == [0, 0, 2, 255, 255]


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"clean": 1.5}, "degradation.clean is in"),
        ({"other_kernel": -0.1}, "other_kernel"),
        ({"jpg": {}}, "unknown key degradation.jpg"),
        ({"jpeg": {"probability": 2.0}}, "degradation.jpeg.probability"),
        ({"jpeg": {"quality": [90, 10]}}, "the smaller first"),
        ({"jpeg": {"quality": [0, 10]}}, "from 1 to 100"),
        ({"jpeg": {"quality": [10]}}, "has 2 entries"),
        ({"jpeg": {"quality": [10.5, 20]}}, "degradation.jpeg.quality is int"),
        ({"jpeg": {"twice": float("nan")}}, "finite"),
        ({"webp": {"quality": [-1, 5]}}, "from 0 to 100"),
        ({"noise": {"sigma": [0, 5]}}, "degradation.noise.sigma"),
        ({"noise": {"sigma": [1, 1e9]}}, "degradation.noise.sigma"),
        ({"noise": {"grey": 7}}, "degradation.noise.grey"),
        ({"scan": {"blur": [0.5, 9]}}, "degradation.scan.blur"),
        ({"blur": {"sigma": [0, 100]}}, "degradation.blur.sigma"),
        ({"blur": 3}, "degradation.blur is a table"),
    ],
)
def test_hostile_tables_are_refused(table: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        recipe(**table)


def test_strengths_are_read_in_the_units_of_people() -> None:
    told = parse_strengths(["jpeg=75", "noise=5", "video=28", "blur=0.5"])
    wanted = Strengths(
        jpeg=jpeg_strength(75), noise=noise_strength(5), video=video_strength(28), blur=0.5
    )
    assert told == wanted
    assert parse_strengths([]) == CLEAN


@pytest.mark.parametrize(
    "texts",
    [["dust=1"], ["jpeg"], ["jpeg="], ["jpeg=0"], ["jpeg=nan"], ["noise=1e9"], ["webp=50"] * 2],
)
def test_strengths_that_are_none_are_refused(texts: list[str]) -> None:
    with pytest.raises(DataError):
        parse_strengths(texts)


def test_degraded_like_strengths_is_degraded_as_much(
    sides: tuple[np.ndarray, np.ndarray],
) -> None:
    lr = sides[0]
    made = degrade_like(lr, Strengths(jpeg=jpeg_strength(30)), np.random.default_rng(0))
    assert np.array_equal(made, encode_jpeg(lr, 30))
    made = degrade_like(lr, Strengths(webp=webp_strength(30)), np.random.default_rng(0))
    assert np.array_equal(made, encode_webp(lr, 30))
    noisy = degrade_like(lr, Strengths(noise=noise_strength(9)), np.random.default_rng(0))
    assert (noisy.astype(float) - lr).std() == pytest.approx(9, rel=0.1)
    for name in STRENGTHS:
        weak, strong = (
            error(degrade_like(lr, Strengths(**{name: value}), np.random.default_rng(0)), lr)
            for value in (0.2, 0.8)
        )
        assert 0 < weak < strong, name
    assert np.array_equal(degrade_like(lr, CLEAN, np.random.default_rng(0)), lr)
