"""Target sizes, the network passes that reach them, and the Lanczos filter."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from anchorsr.errors import OutputError
from anchorsr.images.io import RasterImage
from anchorsr.images.resize import _resize, _resize_translucent, resize_image
from anchorsr.inference.sizes import (
    MAX_TARGET_PIXELS,
    TargetSize,
    original_stem,
    parse_size,
    passes,
    target_size,
)
from helpers.graphs import image

sides = st.integers(1, 5000)


# Sizes


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (TargetSize(scale=2.5), (1688, 3000)),  # 1687.5
        (TargetSize(scale=3), (2025, 3600)),
        (TargetSize(scale=0.5), (338, 600)),
        (TargetSize(scale=1e-9), (1, 1)),
        (TargetSize(width=1920), (1080, 1920)),
        (TargetSize(height=1080), (1080, 1920)),
        (TargetSize(width=3840, height=2160), (2160, 3840)),
        (TargetSize(width=3840, height=9999), (2160, 3840)),
        (TargetSize(width=9999, height=2160), (2160, 3840)),
        (TargetSize(width=100, height=100), (56, 100)),
        (TargetSize(width=100, height=100, stretch=True), (100, 100)),
        (TargetSize(width=1, height=9), (1, 1)),
    ],
)
def test_what_an_image_of_675_by_1200_becomes(
    wanted: TargetSize, expected: tuple[int, int]
) -> None:
    assert target_size(675, 1200, wanted) == expected


@given(sides, sides, sides, sides)
def test_a_fitted_size_is_the_largest_of_the_aspect(
    height: int, width: int, box_height: int, box_width: int
) -> None:
    found = target_size(height, width, TargetSize(height=box_height, width=box_width))
    assert found[0] <= box_height
    assert found[1] <= box_width
    assert found[0] == box_height or found[1] == box_width
    scale = min(box_height / height, box_width / width)
    assert abs(found[0] - max(1, height * scale)) <= 0.5 + 1e-6
    assert abs(found[1] - max(1, width * scale)) <= 0.5 + 1e-6


@given(sides, sides, st.integers(1, 4))
def test_a_whole_scale_is_exact_however_it_is_said(height: int, width: int, scale: int) -> None:
    larger = scale * height, scale * width
    assert target_size(height, width, TargetSize(scale=scale)) == larger
    assert target_size(height, width, TargetSize(height=larger[0])) == larger
    assert target_size(height, width, TargetSize(width=larger[1])) == larger
    assert target_size(height, width, TargetSize(None, *larger)) == larger


@pytest.mark.parametrize(
    "arguments",
    [
        {"scale": 0},
        {"scale": -2},
        {"scale": math.nan},
        {"scale": math.inf},
        {"width": 0},
        {"height": -1},
        {"scale": 2, "width": 9},
        {"stretch": True},
        {"width": 9, "stretch": True},
        {"scale": 2, "stretch": True},
        {"scale": 1e300},
        {"height": 10**400},
    ],
)
def test_a_size_without_a_sense_is_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(OutputError):
        TargetSize(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wanted",
    [
        TargetSize(scale=1e12),
        TargetSize(scale=8000),
        TargetSize(width=10**9),
        TargetSize(height=10**9),
        TargetSize(height=80_000, width=80_000, stretch=True),
    ],
)
def test_more_pixels_than_can_be_are_refused(wanted: TargetSize) -> None:
    with pytest.raises(OutputError, match=f"the limit of {MAX_TARGET_PIXELS}"):
        target_size(10, 10, wanted)


@pytest.mark.parametrize("text", ["3840x2160", "3840X2160", "3840×2160"])
def test_screens_are_written_width_first(text: str) -> None:
    assert parse_size(text) == (2160, 3840)


@pytest.mark.parametrize(
    "text", ["", "3840", "x2160", "3840x", "0x9", "9x0", "-3x9", "3.5x4", "3x4x5", "²x³", "9 x 9"]
)
def test_other_words_are_no_size(text: str) -> None:
    assert parse_size(text) is None


# Names


@pytest.mark.parametrize(
    ("wanted", "label"),
    [
        (TargetSize(), "x3"),
        (TargetSize(scale=2.5), "x2.5"),
        (TargetSize(scale=6.0), "x6"),
        (TargetSize(scale=0.1), "x0.1"),
        (TargetSize(scale=1e-20), "x1e-20"),
        (TargetSize(width=1920), "w1920"),
        (TargetSize(height=1080), "h1080"),
        (TargetSize(width=3840, height=2160), "3840x2160"),
    ],
)
def test_results_are_named_after_what_is_asked_for_and_known_by_it(
    wanted: TargetSize, label: str
) -> None:
    assert wanted.label(3) == label
    assert original_stem(f"my_photo_{label}") == "my_photo"


@pytest.mark.parametrize("stem", ["photo", "photo_", "photo_x", "photo_xmas", "_x3", "x3", "a_wx3"])
def test_other_names_are_nobodys_result(stem: str) -> None:
    assert original_stem(stem) is None


# Passes


@pytest.mark.parametrize(
    ("scale", "factors", "expected"),
    [
        (3, [3], [3]),
        (2.5, [3], [3]),
        (6, [3], [3, 3]),
        (9.001, [3], [3, 3, 3]),
        (1, [3], []),
        (0.3, [3], []),
        (1.001, [2, 3, 4], [2]),
        (2, [2, 3, 4], [2]),
        (2.5, [2, 3, 4], [3]),
        (3.1, [2, 3, 4], [4]),
        (6, [2, 3, 4], [2, 3]),
        (7, [2, 3, 4], [2, 4]),
        (8, [4, 3, 2], [2, 4]),
        (8.5, [2, 3, 4], [3, 3]),
        (16, [2, 3, 4], [4, 4]),
        (17, [2, 3, 4], [2, 3, 3]),
    ],
)
def test_the_passes_for_a_scale(scale: float, factors: list[int], expected: list[int]) -> None:
    assert passes(scale, factors) == expected


@pytest.mark.slow
@given(st.floats(1.0001, 200), st.sets(st.sampled_from([2, 3, 4]), min_size=1))
def test_no_other_passes_are_fewer_or_compute_less(scale: float, factors: set[int]) -> None:
    def pixels(choice: tuple[int, ...]) -> int:
        total, product = 0, 1
        for factor in choice:
            product *= factor
            total += product**2
        return total

    found = passes(scale, sorted(factors))
    assert math.prod(found) >= scale
    assert max(factors) ** (len(found) - 1) < scale
    for choice in itertools.product(factors, repeat=len(found)):
        assert math.prod(choice) < scale or pixels(choice) >= pixels(tuple(found))


# The filter


def lanczos(array: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.asarray(Image.fromarray(array).resize((width, height), Image.Resampling.LANCZOS))


def kernel_matrix(size: int, length: int) -> np.ndarray:
    """The three-lobed Lanczos filter, widened when reducing, from its definition."""
    ratio = size / length
    stretch = max(1.0, ratio)
    centre = (np.arange(length) + 0.5) * ratio
    distance = (np.arange(size) + 0.5 - centre[:, None]) / stretch
    weights = np.where(np.abs(distance) < 3, np.sinc(distance) * np.sinc(distance / 3), 0)
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("size", [(7, 5), (20, 13), (31, 40), (1, 1)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_the_filter_is_lanczos_in_either_number_type(
    size: tuple[int, int], dtype: type[np.generic]
) -> None:
    largest = np.iinfo(dtype).max
    calm = 96 + image(0, 23, 17)[0].astype(np.float64) / 4  # nothing is clipped
    rgb = (calm * (largest / 255)).astype(dtype)
    vertical, horizontal = kernel_matrix(23, size[0]), kernel_matrix(17, size[1])
    exact = np.einsum("yh,hwc,xw->yxc", vertical, rgb.astype(np.float64), horizontal)
    found = _resize(rgb, *size)
    assert (found.dtype, found.shape) == (dtype, (*size, 3))
    # A half for rounding; in 8 bits Pillow rounds after each axis.
    assert np.abs(found - exact).max() <= (1.2 if dtype == np.uint8 else 0.6)


def test_the_image_of_that_size_is_returned_as_it_is() -> None:
    given_image = RasterImage(image(0, 6, 5)[0])
    assert resize_image(given_image, 6, 5) is given_image


def test_an_opaque_image_is_pillows_own() -> None:
    rgb = image(1, 30, 20)[0]
    expected = lanczos(rgb, 11, 9)
    np.testing.assert_array_equal(resize_image(RasterImage(rgb), 11, 9).rgb, expected)
    opaque = RasterImage(rgb, np.full((30, 20), 255, np.uint8), icc_profile=b"kept")
    found = resize_image(opaque, 11, 9)
    np.testing.assert_array_equal(found.rgb, expected)
    assert found.alpha is not None
    assert found.alpha.shape == (11, 9)
    assert (found.alpha == 255).all()
    assert found.icc_profile == b"kept"


def test_grey_stays_grey() -> None:
    grey = image(2, 30, 20, 1)[0]
    for alpha in (None, image(3, 30, 20, 1)[0, :, :, 0]):
        given_image = RasterImage(np.repeat(grey, 3, axis=2), alpha, grey=True)
        found = resize_image(given_image, 11, 9)
        assert found.grey
        assert found.rgb.shape == (11, 9, 3)
        assert (found.rgb == found.rgb[:, :, :1]).all()
    plain = resize_image(RasterImage(np.repeat(grey, 3, axis=2), grey=True), 11, 9)
    np.testing.assert_array_equal(plain.rgb[:, :, 0], lanczos(grey[:, :, 0], 11, 9))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("size", [(9, 7), (60, 50)])
def test_colour_below_transparent_pixels_never_bleeds(
    dtype: type[np.generic], size: tuple[int, int]
) -> None:
    """Of a disc of one colour, everything visible has that colour."""
    largest = int(np.iinfo(dtype).max)
    y, x = np.mgrid[0:24, 0:20]
    alpha = (np.clip(8 - np.hypot(y - 12, x - 10), 0, 1) * largest).astype(dtype)
    colour = np.array([0.8, 0.3, 0.1]) * largest
    for hidden in (0, largest):
        rgb = np.where(alpha[:, :, None] > 0, colour, hidden).astype(dtype)
        found, visible = _resize_translucent(rgb, alpha, *size)
        assert (found.dtype, visible.dtype) == (dtype, dtype)
        assert visible.max() == largest
        assert visible.min() == 0
        clear = visible > largest // 50
        error = np.abs(found[clear].astype(float) - colour.astype(dtype))
        assert error.max() <= largest / 255


def test_colours_count_as_much_as_they_are_visible() -> None:
    """Of two pixels that become one, the nearly transparent one hardly counts."""
    rgb = np.array([[[200, 100, 50], [0, 0, 0]]], np.uint8)
    found = resize_image(RasterImage(rgb, np.array([[255, 2]], np.uint8)), 1, 1)
    assert found.alpha is not None
    assert found.alpha[0, 0] in (128, 129)
    np.testing.assert_allclose(found.rgb[0, 0], [198, 99, 50], atol=1)
