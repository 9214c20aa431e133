"""Pairs and patches: alignment, determinism, sharding, distribution, and what is refused.

Most patches are cut from images that say where each pixel comes from: channel 0 holds the
row, channel 1 the column, channel 2 the image's number, and the high-resolution side repeats
every pixel in a block. Whatever a patch went through, its two sides must still say the same.
"""

from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anchorsr.data.imresize import downscale, resize
from anchorsr.data.pairs import Pair, draw_pairs, load_test_pairs, load_training_pairs
from anchorsr.data.patches import PatchSampler
from anchorsr.errors import DataError, ImageError
from anchorsr.images.io import RasterImage, write_image


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def repeated(image: np.ndarray, factor: int) -> np.ndarray:
    return image.repeat(factor, axis=-3).repeat(factor, axis=-2)


def map_of_itself(height: int, width: int, number: int = 0, factor: int = 3) -> Pair:
    rows, columns = np.mgrid[:height, :width]
    lr = np.stack([rows, columns, np.full_like(rows, number)], axis=-1).astype(np.uint8)
    return Pair(f"map{number}", lr, repeated(lr, factor))


def write(path: Path, rgb: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, RasterImage(rgb))
    return path


def write_benchmark(folder: Path, names: list[str], factor: int, size: tuple[int, int]) -> None:
    for seed, name in enumerate(names):
        hr = noise(size[0] * factor, size[1] * factor, seed)
        write(folder / "HR" / f"{name}.png", hr)
        lr = downscale(hr, factor)
        write(folder / "LR_bicubic" / f"X{factor}" / f"{name}x{factor}.png", lr)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_training_pairs_are_cropped_and_reduced(tmp_path: Path, factor: int) -> None:
    first, second = noise(53, 67), noise(48, 96, seed=1)
    write(tmp_path / "one" / "deep" / "first.png", first)
    write(tmp_path / "two" / "second.png", second)
    pairs = load_training_pairs([tmp_path / "one", tmp_path / "two"], factor, patch=8)
    assert [pair.name for pair in pairs] == ["first", "second"]
    for pair, whole in zip(pairs, [first, second], strict=True):
        height, width = whole.shape[0] // factor, whole.shape[1] // factor
        assert pair.lr.shape == (height, width, 3)
        np.testing.assert_array_equal(pair.hr, whole[: height * factor, : width * factor])
        np.testing.assert_array_equal(pair.lr, downscale(pair.hr, factor))
        assert pair.lr.dtype == pair.hr.dtype == np.uint8


def test_images_below_one_patch_are_left_out(tmp_path: Path) -> None:
    sizes = {"fits": (24, 24), "low": (23, 40), "narrow": (40, 23), "tiny": (1, 1)}
    for name, size in sizes.items():
        write(tmp_path / f"{name}.png", noise(*size))
    pairs = load_training_pairs([tmp_path], 3, patch=8)
    assert [pair.name for pair in pairs] == ["fits"]


def test_progress_counts_every_image_of_every_folder(tmp_path: Path) -> None:
    for name in ("one/a", "one/b", "two/c"):
        write(tmp_path / f"{name}.png", noise(9 if name == "one/b" else 24, 24))
    seen: list[tuple[int, int]] = []
    load_training_pairs(
        [tmp_path / "one", tmp_path / "two"],
        3,
        patch=8,
        on_progress=lambda done, count: seen.append((done, count)),
    )
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_training_folder_without_images_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "some" / "image.png", noise(24, 24))
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="none holds no image"):
        load_training_pairs([tmp_path / "some", tmp_path / "none"], 3, patch=8)
    with pytest.raises(DataError, match="missing is not an existing folder"):
        load_training_pairs([tmp_path / "missing"], 3, patch=8)


def test_images_that_are_all_too_small_are_refused_with_the_size_needed(tmp_path: Path) -> None:
    write(tmp_path / "a.png", noise(23, 50))
    write(tmp_path / "b.png", noise(2, 2))
    with pytest.raises(DataError, match=r"none of the 2 images has 24 pixels a side.*smaller"):
        load_training_pairs([tmp_path], 3, patch=8)


def test_damaged_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"not an image")
    with pytest.raises(ImageError, match=r"broken\.png"):
        load_training_pairs([tmp_path], 3, patch=8)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_plain_folder_is_reduced_here(tmp_path: Path, factor: int) -> None:
    whole = noise(29, 31)
    write(tmp_path / "b.png", whole)
    write(tmp_path / "a.png", noise(factor, factor, seed=1))
    write(tmp_path / "folder" / "left_out.png", whole)
    first, second = load_test_pairs(tmp_path, factor)
    assert (first.name, second.name) == ("a", "b")
    assert first.lr.shape == (1, 1, 3)
    hr = whole[: 29 // factor * factor, : 31 // factor * factor]
    np.testing.assert_array_equal(second.hr, hr)
    np.testing.assert_array_equal(second.lr, downscale(hr, factor))


def test_benchmark_folder_gives_its_own_low_resolution_images(tmp_path: Path) -> None:
    write(tmp_path / "HR" / "baby.png", noise(31, 26))
    published = noise(10, 8, seed=1)  # not the result of a reduction
    write(tmp_path / "LR_bicubic" / "X3" / "babyx3.png", published)
    (pair,) = load_test_pairs(tmp_path, 3)
    np.testing.assert_array_equal(pair.lr, published)
    assert pair.hr.shape == (30, 24, 3)
    assert pair.name == "baby"


@pytest.mark.slow
def test_benchmark_set_equals_the_same_images_in_a_plain_folder(shared_data: Path) -> None:
    folder = shared_data / "test" / "Set5"
    plain = load_test_pairs(folder / "HR", 3)
    for pair, made in zip(load_test_pairs(folder, 3), plain, strict=True):
        assert pair.name == made.name
        np.testing.assert_array_equal(pair.lr, made.lr)
        np.testing.assert_array_equal(pair.hr, made.hr)


def test_missing_low_resolution_image_is_named(tmp_path: Path) -> None:
    write_benchmark(tmp_path, ["one", "two"], 3, (4, 5))
    (tmp_path / "LR_bicubic" / "X3" / "twox3.png").unlink()
    pairs = load_test_pairs(tmp_path, 3)
    assert next(pairs).name == "one"
    with pytest.raises(DataError, match=r"twox3\.png is missing"):
        next(pairs)
    with pytest.raises(DataError, match=r"X4.onex4\.png is missing"):
        next(load_test_pairs(tmp_path, 4))


@pytest.mark.parametrize("size", [(4, 4), (3, 5), (5, 4), (12, 15)])
def test_low_resolution_image_of_another_size_is_refused(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    write_benchmark(tmp_path, ["one"], 3, (4, 5))
    path = tmp_path / "LR_bicubic" / "X3" / "onex3.png"
    path.unlink()
    write(path, noise(*size))
    with pytest.raises(DataError, match=r"one\.png.*does not fit at x3"):
        next(load_test_pairs(tmp_path, 3))


@pytest.mark.parametrize("size", [(1, 1), (2, 9), (9, 2)])
def test_test_image_below_the_factor_is_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    write(tmp_path / "speck.png", noise(*size))
    with pytest.raises(DataError, match=r"speck\.png is smaller than 3x3"):
        next(load_test_pairs(tmp_path, 3))


def test_test_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no image"):
        next(load_test_pairs(tmp_path, 3))
    (tmp_path / "HR").mkdir()
    with pytest.raises(DataError, match="HR holds no image"):
        next(load_test_pairs(tmp_path, 3))


@pytest.mark.parametrize("channel_shuffle", [False, True])
@pytest.mark.parametrize("factor", [2, 3, 4])
def test_sides_of_a_patch_stay_aligned(factor: int, channel_shuffle: bool) -> None:
    pairs = [
        map_of_itself(13, 17, 1, factor),
        map_of_itself(8, 31, 2, factor),
        map_of_itself(8, 8, 3, factor),
    ]
    sampler = PatchSampler(pairs, patch=8, seed=0, channel_shuffle=channel_shuffle)
    lr, hr, *_ = sampler.batch(0, range(100))
    assert lr.shape == (100, 8, 8, 3)
    assert hr.shape == (100, 8 * factor, 8 * factor, 3)
    assert lr.dtype == hr.dtype == np.uint8
    np.testing.assert_array_equal(repeated(lr, factor), hr)


def test_sides_cut_from_a_reduced_image_belong_together(dog: np.ndarray) -> None:
    pair = Pair("dog", downscale(dog, 3), dog)
    lr, hr, *_ = PatchSampler([pair], patch=16, seed=3).batch(0, range(16))
    for low, high in zip(lr, hr, strict=True):
        # The patch does not know its surroundings, and a flip moves ties by one level.
        difference = downscale(high, 3)[2:-2, 2:-2].astype(int) - low[2:-2, 2:-2]
        assert np.abs(difference).max() <= 1


def test_patch_holds_consecutive_rows_and_columns_of_one_image() -> None:
    sampler = PatchSampler([map_of_itself(20, 30, 7)], patch=8, seed=0)
    lr, *_ = sampler.batch(0, range(64))
    for patch in lr.astype(int):
        assert (patch[..., 2] == 7).all()
        for channel in (0, 1):
            assert np.ptp(patch[..., channel]) == 7
            steps = [np.diff(patch[..., channel], axis=axis) for axis in (0, 1)]
            changing = [step for step in steps if step.any()]
            assert len(changing) == 1
            assert np.unique(changing[0]).tolist() in ([1], [-1])


def test_every_orientation_occurs_equally_often() -> None:
    lr, *_ = PatchSampler([map_of_itself(20, 20)], patch=8, seed=0).batch(0, range(800))
    signed = lr.astype(int)
    down = signed[:, 1, 0, :2] - signed[:, 0, 0, :2]
    right = signed[:, 0, 1, :2] - signed[:, 0, 0, :2]
    orientations = Counter(map(tuple, np.concatenate([down, right], axis=1).tolist()))
    assert len(orientations) == 8
    assert all(60 < count < 145 for count in orientations.values())  # 100 ± 4.5 sigma


def test_every_position_occurs_up_to_the_last_row_and_column() -> None:
    sampler = PatchSampler([map_of_itself(10, 11)], patch=8, seed=0)
    lr, *_ = sampler.batch(0, range(400))
    corners = Counter(map(tuple, lr[..., :2].min(axis=(1, 2)).tolist()))
    assert set(corners) == {(top, left) for top in range(3) for left in range(4)}
    assert min(corners.values()) > 10  # 33 expected


@pytest.mark.slow
def test_images_are_drawn_in_proportion_to_their_patches() -> None:
    pairs = [map_of_itself(8, 8, 0), map_of_itself(17, 17, 1), map_of_itself(37, 17, 2)]
    lr, *_ = PatchSampler(pairs, patch=8, seed=0).batch(0, range(2000))
    drawn = Counter(lr[:, 0, 0, 2].tolist())
    places = [1, 10 * 10, 30 * 10]
    for number, count in enumerate(places):
        expected = 2000 * count / sum(places)
        assert drawn[number] == pytest.approx(expected, abs=5 * expected**0.5)
    assert drawn[0] > 0


@pytest.mark.slow
def test_images_are_drawn_equally_often_if_asked() -> None:
    """Every position in an image, too: the largest has 130 patches, half of them above row 5."""
    pairs = [map_of_itself(8, 8, 0), map_of_itself(17, 17, 1), map_of_itself(17, 20, 2)]
    sampler = PatchSampler(pairs, patch=8, seed=0, equal_pictures=True)
    lr, hr, weights, _ = sampler.batch(0, range(1500))
    np.testing.assert_array_equal(repeated(lr, 3), hr)
    assert weights.tolist() == [1.0] * 1500
    numbers = lr[:, 0, 0, 2]
    assert all(420 < count < 580 for count in Counter(numbers.tolist()).values())  # 500 ± 4 sigma
    corners = lr[numbers == 2][..., :2].min(axis=(1, 2))
    assert {tuple(corner) for corner in corners.tolist()} >= {(0, 0), (9, 12)}
    assert np.mean(corners[:, 0] < 5) == pytest.approx(0.5, abs=0.1)


def test_the_candidate_with_the_most_detail_is_taken() -> None:
    """Half of the image is flat, but of four patches there is almost always one with detail."""
    hr = noise(60, 240)
    hr[:, 120:] = 128
    pair = Pair("half", downscale(hr, 3), hr)

    def mean_spread(candidates: int) -> float:
        sampler = PatchSampler([pair], patch=8, seed=0, candidates=candidates)
        return float(np.mean([patch.std() for patch in sampler.batch(0, range(200))[1]]))

    assert mean_spread(4) > 1.3 * mean_spread(1)


def test_bicubic_error_is_that_of_the_whole_image_enlarged(dog: np.ndarray) -> None:
    pair = Pair("dog", downscale(dog, 3), dog)
    difference = resize(pair.lr, *dog.shape[:2]).astype(float) - dog
    assert pair.bicubic_error == pytest.approx(np.square(difference).mean(), rel=0.01)
    flat = np.full((24, 24, 3), 77, np.uint8)
    assert Pair("flat", downscale(flat, 3), flat).bicubic_error == 0


def test_patches_of_images_that_bicubic_enlarges_badly_weigh_less(dog: np.ndarray) -> None:
    """A patch has the weight of its image, and the mean loss of bicubic stays the same."""
    hard, flat = noise(60, 60), np.full((90, 60, 3), 128, np.uint8)
    pairs = [Pair("", downscale(hr, 3), hr) for hr in (hard, dog, flat)]
    plain = PatchSampler(pairs, patch=8, seed=0).batch(0, range(300))
    relative = PatchSampler(pairs, patch=8, seed=0, relative=True).batch(0, range(300))
    np.testing.assert_array_equal(plain.lr, relative.lr)
    assert plain.weights.tolist() == [1.0] * 300
    is_flat = relative.hr.std(axis=(1, 2, 3)) == 0
    light, middle, heavy = sorted(set(relative.weights.tolist()))
    assert set(relative.weights[is_flat].tolist()) == {heavy}
    errors = np.array([pair.bicubic_error for pair in pairs]) + 20
    np.testing.assert_allclose(np.array([light, middle, heavy]) * errors / errors[2], heavy)
    places = [(pair.lr.shape[0] - 7) * (pair.lr.shape[1] - 7) for pair in pairs]
    assert heavy * errors[2] == pytest.approx(np.average(errors, weights=places), rel=1e-5)
    equal = PatchSampler(pairs, patch=8, seed=0, equal_pictures=True, relative=True)
    heaviest = equal.batch(0, range(300)).weights.max()
    assert heaviest * errors[2] == pytest.approx(np.mean(errors), rel=1e-5)


def test_pairs_are_drawn_from_those_that_are_large_enough(tmp_path: Path) -> None:
    for seed, size in enumerate([30, 30, 20, 30]):
        write(tmp_path / f"{seed}.png", noise(size, size, seed))
    loaded = {pair.name: pair for pair in load_training_pairs([tmp_path], 3, patch=10)}
    assert set(loaded) == {"0", "1", "3"}
    drawn = list(draw_pairs([tmp_path], 3, patch=10, seed=1, count=9))
    assert {pair.name for pair in drawn} == set(loaded)
    for pair in drawn:
        np.testing.assert_array_equal(pair.lr, loaded[pair.name].lr)
    firsts = [next(draw_pairs([tmp_path], 3, patch=10, seed=s, count=1)).name for s in range(20)]
    assert len(set(firsts)) > 1
    assert len(list(draw_pairs([tmp_path], 3, patch=10, seed=1, count=2))) == 2


def test_channels_are_permuted_alike_on_both_sides_and_only_if_asked() -> None:
    lr = np.broadcast_to(np.array([10, 20, 30], np.uint8), (9, 9, 3))
    pair = Pair("flat", lr, repeated(lr, 3))
    plain, *_ = PatchSampler([pair], patch=8, seed=0).batch(0, range(50))
    assert (plain == [10, 20, 30]).all()
    low, high, *_ = PatchSampler([pair], patch=8, seed=0, channel_shuffle=True).batch(0, range(200))
    assert (low == low[:, :1, :1]).all()
    assert (high == low[:, :1, :1]).all()
    orders = Counter(map(tuple, low[:, 0, 0].tolist()))
    assert len(orders) == 6
    assert min(orders.values()) > 10  # 33 expected


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    step=st.integers(0, 10**6),
    ends=st.lists(st.integers(0, 16), min_size=0, max_size=4),
)
def test_shares_of_a_batch_together_are_the_batch(seed: int, step: int, ends: list[int]) -> None:
    pairs = [map_of_itself(13, 17, 1), map_of_itself(9, 11, 2)]
    whole = PatchSampler(pairs, patch=8, seed=seed, channel_shuffle=True).batch(step, range(16))
    cuts = sorted({0, 16, *ends})
    sampler = PatchSampler(pairs, patch=8, seed=seed, channel_shuffle=True)
    shares = [
        sampler.batch(step, range(first, last)) for first, last in reversed(list(pairwise(cuts)))
    ]
    for side in (0, 1):
        together = np.concatenate([share[side] for share in reversed(shares)])
        np.testing.assert_array_equal(together, whole[side])


def test_batch_depends_on_nothing_but_seed_step_and_place() -> None:
    pairs = [Pair("noise", noise(40, 40), noise(120, 120))]
    sampler = PatchSampler(pairs, patch=8, seed=5)
    expected, *_ = sampler.batch(7, range(4))
    sampler.batch(3, range(9))
    np.random.default_rng(0).random(10)
    np.testing.assert_array_equal(sampler.batch(7, range(4))[0], expected)
    np.testing.assert_array_equal(
        PatchSampler(pairs, patch=8, seed=5).batch(7, range(4))[0], expected
    )
    others = [
        PatchSampler(pairs, patch=8, seed=6).batch(7, range(4))[0],
        sampler.batch(8, range(4))[0],
        sampler.batch(7, range(4, 8))[0],
    ]
    for other in others:
        assert not any((one == another).all() for one, another in zip(other, expected, strict=True))


def test_images_are_not_changed_through_patches() -> None:
    pair = map_of_itself(8, 8)
    lr, hr, *_ = PatchSampler([pair], patch=8, seed=0).batch(0, range(2))
    lr[:] = 255
    hr[:] = 255
    np.testing.assert_array_equal(pair.lr, map_of_itself(8, 8).lr)
    np.testing.assert_array_equal(pair.hr, map_of_itself(8, 8).hr)
