"""Bicubic resizing against MATLAB's images, exact fractions, PyTorch and known properties."""

from fractions import Fraction
from math import floor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hypothesis_numpy

from anchorsr.data.imresize import crop_to_multiple, downscale, resize
from anchorsr.images.io import read_rgb

SIZES = [(1, 1), (1, 7), (5, 1), (13, 17), (64, 48)]


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def exact_cubic(distance: Fraction) -> Fraction:
    x, a = abs(distance), Fraction(-1, 2)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else Fraction(0)


def exact_line(line: list[int], length: int) -> list[int]:
    """One row or column resized in fractions, clamped at its ends, rounded half up."""
    ratio = Fraction(len(line), length)
    widening = max(ratio, Fraction(1))
    made = []
    for position in range(length):
        centre = (position + Fraction(1, 2)) * ratio - Fraction(1, 2)
        reach = range(floor(centre - 2 * widening), floor(centre + 2 * widening) + 2)
        weights = {index: exact_cubic((centre - index) / widening) for index in reach}
        total = sum(
            weight * line[min(max(index, 0), len(line) - 1)] for index, weight in weights.items()
        ) / sum(weights.values())
        made.append(floor(min(max(total, Fraction(0)), Fraction(255)) + Fraction(1, 2)))
    return made


def exact_resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    rows = np.empty((height, *image.shape[1:]), np.uint8)
    for column, channel in np.ndindex(image.shape[1:]):
        rows[:, column, channel] = exact_line(image[:, column, channel].tolist(), height)
    made = np.empty((height, width, image.shape[2]), np.uint8)
    for row, channel in np.ndindex(height, image.shape[2]):
        made[row, :, channel] = exact_line(rows[row, :, channel].tolist(), width)
    return made


@pytest.mark.slow
@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize(("name", "count"), [("Set5", 5), ("Set14", 14), ("BSD100", 100)])
def test_low_resolution_test_images_are_reproduced(
    shared_data: Path, name: str, count: int, factor: int
) -> None:
    folder = shared_data / "test" / name
    originals = sorted((folder / "HR").iterdir())
    assert len(originals) == count
    for path in originals:
        made = downscale(crop_to_multiple(read_rgb(path), factor), factor)
        expected = read_rgb(folder / "LR_bicubic" / f"X{factor}" / f"{path.stem}x{factor}.png")
        np.testing.assert_array_equal(made, expected, err_msg=f"{path.name} x{factor}")


@pytest.mark.slow
def test_photograph_is_reduced_to_known_numbers(dog: np.ndarray) -> None:
    crop = dog[120:132, 96:108]
    made = downscale(crop, 3)
    np.testing.assert_array_equal(made, exact_resize(crop, 4, 4))
    assert made.tolist() == [
        [[231, 222, 203], [230, 218, 200], [230, 215, 193], [229, 215, 188]],
        [[217, 207, 186], [214, 204, 179], [219, 207, 180], [222, 210, 184]],
        [[200, 189, 168], [193, 181, 157], [200, 188, 164], [210, 200, 175]],
        [[173, 163, 139], [183, 171, 141], [191, 179, 153], [206, 193, 164]],
    ]


@pytest.mark.slow
@pytest.mark.parametrize("factor", [2, 3, 4, 5])
@pytest.mark.parametrize("size", [(1, 1), (1, 3), (5, 2), (3, 7)])
def test_reduction_equals_exact_fractions(factor: int, size: tuple[int, int]) -> None:
    height, width = size
    image = noise(height * factor, width * factor, seed=factor)
    np.testing.assert_array_equal(downscale(image, factor), exact_resize(image, height, width))


@pytest.mark.slow
@pytest.mark.parametrize("size", [(1, 1), (2, 9), (7, 3), (11, 5), (14, 10)])
def test_any_size_equals_exact_fractions(size: tuple[int, int]) -> None:
    image = noise(7, 5, seed=1)
    np.testing.assert_array_equal(resize(image, *size), exact_resize(image, *size))


def test_step_overshoots_as_calculated_by_hand() -> None:
    # Twice as large, every result lies a quarter of a pixel beside one: Keys' weights at the
    # distances 1/4, 3/4, 5/4, 7/4 are 111, 29, -9, -3 of 128.
    beyond = [0, 0, 0, -3, -9, -3 + 29]  # of 128: the weights beyond the step
    expected = [100 + round(100 * part / 128) for part in beyond]
    expected += [300 - value for value in reversed(expected)]
    assert expected == [100, 100, 100, 98, 93, 120, 180, 207, 202, 200, 200, 200]
    step = np.array([[100, 100, 100, 200, 200, 200]], np.uint8)
    assert resize(step, 1, 12)[0].tolist() == expected


@pytest.mark.parametrize("factor", [2, 3, 4, 6])
def test_inside_equals_pytorch_but_for_rounding_between_axes(dog: np.ndarray, factor: int) -> None:
    torch = pytest.importorskip("torch", reason="needs anchorsr[train]")
    tensor = torch.from_numpy(dog.transpose(2, 0, 1)[None].astype(np.float64))
    size = (dog.shape[0] // factor, dog.shape[1] // factor)
    reduced = torch.nn.functional.interpolate(tensor, size=size, mode="bicubic", antialias=True)
    expected = reduced[0].numpy().transpose(1, 2, 0).clip(0, 255).round()
    # PyTorch leaves out the taps beyond the edge, which reach two low-resolution pixels.
    difference = np.abs(downscale(dog, factor) - expected)[2:-2, 2:-2]
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.2


@pytest.mark.parametrize("factor", [2, 4])
def test_flipped_image_gives_flipped_result(factor: int) -> None:
    image = noise(13 * factor, 7 * factor)  # these factors' weights are exact in binary
    made = downscale(image, factor)
    np.testing.assert_array_equal(downscale(image[::-1], factor), made[::-1])
    np.testing.assert_array_equal(downscale(image[:, ::-1], factor), made[:, ::-1])


@pytest.mark.parametrize("value", [0, 1, 127, 255])
@pytest.mark.parametrize("size", SIZES)
def test_constant_image_stays_constant(size: tuple[int, int], value: int) -> None:
    image = np.full((*size, 3), value, np.uint8)
    for height, width in [(1, 1), (3, 11), (40, 23), (2 * size[0], 5 * size[1])]:
        made = resize(image, height, width)
        assert made.shape == (height, width, 3)
        assert (made == value).all()


@pytest.mark.parametrize("size", SIZES)
def test_unchanged_size_is_the_identity(size: tuple[int, int]) -> None:
    image = noise(*size)
    np.testing.assert_array_equal(resize(image, *size), image)


@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize("size", SIZES)
def test_enlarged_image_has_the_asked_size(size: tuple[int, int], factor: int) -> None:
    image = np.linspace(40, 200, size[0] * size[1] * 3).reshape(*size, 3).astype(np.uint8)
    large = resize(image, size[0] * factor, size[1] * factor)
    assert large.shape == (size[0] * factor, size[1] * factor, 3)
    assert large.dtype == np.uint8
    assert large.flags.c_contiguous


def test_grey_image_equals_each_channel_of_a_colour_one() -> None:
    image = noise(12, 21)
    made = downscale(image, 3)
    for channel in range(3):
        np.testing.assert_array_equal(downscale(image[..., channel], 3), made[..., channel])


def test_views_are_read_as_what_they_show() -> None:
    image = noise(24, 36)[::-2, ::2]
    np.testing.assert_array_equal(downscale(image, 3), downscale(image.copy(), 3))


def test_image_is_not_changed() -> None:
    image = noise(12, 12)
    before = image.copy()
    downscale(image, 2)
    np.testing.assert_array_equal(image, before)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    image=hypothesis_numpy.arrays(
        np.uint8,
        hypothesis_numpy.array_shapes(min_dims=2, max_dims=3, max_side=12),
    ),
    height=st.integers(1, 20),
    width=st.integers(1, 20),
)
def test_values_leave_the_range_of_the_image_only_by_the_overshoot(
    image: np.ndarray, height: int, width: int
) -> None:
    made = resize(image, height, width)
    assert made.dtype == np.uint8
    assert made.shape == (height, width, *image.shape[2:])
    low, high = int(image.min()), int(image.max())
    # Per axis the negative weights sum to at most 1/8, rounding adds half a level.
    limit = 0.3 * (high - low) + 2
    assert low - limit <= made.min()
    assert made.max() <= high + limit


@settings(max_examples=60, deadline=None)
@given(size=st.tuples(st.integers(1, 30), st.integers(1, 30)), factor=st.integers(1, 6))
def test_crop_keeps_the_upper_left_multiple(size: tuple[int, int], factor: int) -> None:
    image = noise(*size)
    cropped = crop_to_multiple(image, factor)
    height, width, _ = cropped.shape
    assert height % factor == width % factor == 0
    assert 0 <= size[0] - height < factor
    assert 0 <= size[1] - width < factor
    np.testing.assert_array_equal(cropped, image[:height, :width])


@pytest.mark.parametrize("size", [(4, 6), (6, 4), (2, 2), (0, 6), (6, 0)])
def test_size_that_is_not_a_multiple_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"{size[1]}x{size[0]} is not a multiple of 3"):
        downscale(np.zeros((*size, 3), np.uint8), 3)


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (-1, 5)])
def test_empty_result_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="at least 1x1"):
        resize(noise(4, 4), *size)
