"""PSNR, SSIM and luma by their definitions, and against figures of scikit-image 0.26.0.

These were made by `skimage.metrics.structural_similarity(first, second, gaussian_weights=True,
sigma=1.5, use_sample_covariance=False, data_range=255, channel_axis=2)`, without the last for one
channel. To import the package takes every test process seconds.
"""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hypothesis_numpy
from numpy.lib.stride_tricks import sliding_window_view

from anchorsr.metrics import luma, psnr, ssim

SHAPES = [(11, 11, 3), (11, 23), (13, 17, 3), (40, 29, 3), (29, 40)]
IMAGES = hypothesis_numpy.arrays(
    np.uint8, hypothesis_numpy.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=9)
)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def disturbed(image: np.ndarray, amount: float, seed: int = 1) -> np.ndarray:
    error = np.random.default_rng(seed).normal(0, amount, image.shape)
    return (image + error).clip(0, 255).round().astype(np.uint8)


def similarity(first: np.ndarray, second: np.ndarray) -> float:
    """Wang et al.'s SSIM, one 11x11 window after the other, where it fits."""
    position = np.arange(-5, 6)
    window = np.exp(-(position[:, None] ** 2 + position**2) / (2 * 1.5**2))
    window /= window.sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = []
    views = [
        sliding_window_view(one.astype(np.float64), (11, 11), (0, 1)) for one in (first, second)
    ]
    for at in np.ndindex(views[0].shape[:-2]):
        x, y = (view[at] for view in views)
        mean_x, mean_y = (window * x).sum(), (window * y).sum()
        variances = (window * ((x - mean_x) ** 2 + (y - mean_y) ** 2)).sum()
        covariance = (window * (x - mean_x) * (y - mean_y)).sum()
        luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
        values.append(luminance * (2 * covariance + c2) / (variances + c2))
    return float(np.mean(values))


@pytest.mark.parametrize("border", [0, 1, 3, 5])
@pytest.mark.parametrize("shape", SHAPES)
def test_psnr_is_that_of_what_the_border_leaves(shape: tuple[int, ...], border: int) -> None:
    first, second = noise(*shape), noise(*shape, seed=1)
    inside = (slice(border, shape[0] - border), slice(border, shape[1] - border))
    errors = first[inside].astype(int) - second[inside]
    expected = 10 * math.log10(255**2 * errors.size / int((errors**2).sum()))
    assert psnr(first, second, border=border) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7, 3), (13, 11)])
def test_psnr_of_a_uniform_error_is_known(shape: tuple[int, ...]) -> None:
    dark = np.full(shape, 100, np.uint8)
    assert psnr(dark, dark + 1, border=0) == pytest.approx(48.1308, abs=1e-4)
    assert psnr(dark, dark + 10, border=0) == pytest.approx(28.1308, abs=1e-4)
    assert psnr(np.zeros(shape, np.uint8), np.full(shape, 255, np.uint8), border=0) == 0


def test_psnr_is_of_the_error_over_all_channels() -> None:
    first = np.zeros((4, 5, 3), np.uint8)
    second = first.copy()
    second[..., 1] = 30  # a mean square of 300, where the mean of three PSNRs is infinite
    expected = 10 * math.log10(255**2 / 300)
    assert psnr(first, second, border=0) == pytest.approx(expected, rel=1e-12)


def test_bytes_do_not_wrap_around() -> None:
    first, second = np.array([[0, 255]], np.uint8), np.array([[255, 0]], np.uint8)
    assert psnr(first, second, border=0) == 0


def test_border_hides_exactly_that_many_pixels() -> None:
    first = noise(9, 12, 3)
    second = first.copy()
    second[:2] ^= 255
    second[-2:] ^= 255
    second[:, :2] ^= 255
    second[:, -2:] ^= 255
    assert psnr(first, second, border=2) == math.inf
    assert psnr(first, second, border=1) < 20


@pytest.mark.parametrize("border", [0, 3])
@pytest.mark.parametrize("amount", [1.0, 8.0, 60.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_ssim_is_that_of_its_definition(shape: tuple[int, ...], amount: float, border: int) -> None:
    padded = (shape[0] + 2 * border, shape[1] + 2 * border, *shape[2:])
    first = noise(*padded)
    second = disturbed(first, amount)
    inside = (slice(border, padded[0] - border), slice(border, padded[1] - border))
    expected = similarity(first[inside], second[inside])
    assert ssim(first, second, border=border) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((11, 11, 3), 0.9957448358308),
        ((11, 23), 0.9950649996557),
        ((13, 17, 3), 0.9951772266313),
        ((40, 29, 3), 0.9944821433551),
        ((29, 40), 0.9944138971826),
    ],
)
def test_ssim_equals_scikit_image(shape: tuple[int, ...], expected: float) -> None:
    first = noise(*shape)
    assert ssim(first, disturbed(first, 8.0), border=0) == pytest.approx(expected, abs=1e-10)


def test_ssim_of_a_photograph_equals_scikit_image(dog: np.ndarray) -> None:
    for amount, expected in ((2, 0.9758244644869), (20, 0.3856355753018)):
        assert ssim(dog, disturbed(dog, amount), border=0) == pytest.approx(expected, abs=1e-10)
    # Unrounded luma, as the evaluation passes it.
    first, second = luma(dog), luma(disturbed(dog, 5))
    assert ssim(first, second, border=3) == pytest.approx(0.9456578097510, abs=1e-10)


def test_ssim_of_flat_images_is_the_luminance_term() -> None:
    first, second = np.full((11, 12), 100, np.uint8), np.full((11, 12), 120, np.uint8)
    constant = (0.01 * 255) ** 2
    expected = (2 * 100 * 120 + constant) / (100**2 + 120**2 + constant)
    assert ssim(first, second, border=0) == pytest.approx(expected, rel=1e-9)


def test_luma_equals_matlab_at_the_corners_and_is_linear() -> None:
    ends = np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]]])
    expected = [[16, 235, 16 + 65.481, 16 + 128.553, 16 + 24.966]]
    np.testing.assert_allclose(luma(ends), expected, rtol=0, atol=1e-9)
    assert luma(ends).dtype == np.float64
    image = noise(13, 7, 3)
    between = 16 + image @ np.array([65.481, 128.553, 24.966]) / 255
    np.testing.assert_allclose(luma(image), between, rtol=0, atol=1e-9)


@pytest.mark.parametrize("measure", [psnr, ssim])
def test_different_shapes_are_refused(measure) -> None:
    with pytest.raises(ValueError, match=r"equal shape.*\(20, 21, 3\), \(20, 20, 3\)"):
        measure(noise(20, 21, 3), noise(20, 20, 3), border=0)
    with pytest.raises(ValueError, match="equal shape"):
        measure(noise(20, 20, 3), noise(20, 20), border=0)


@pytest.mark.parametrize("measure", [psnr, ssim])
@pytest.mark.parametrize("border", [-1, 10, 11])
def test_border_that_leaves_nothing_is_refused(measure, border: int) -> None:
    with pytest.raises(ValueError, match=f"cutting {border} pixels leaves nothing"):
        measure(noise(20, 30, 3), noise(20, 30, 3), border=border)


@pytest.mark.parametrize(("shape", "border"), [((10, 40), 0), ((40, 10, 3), 0), ((16, 40), 3)])
def test_ssim_refuses_less_than_one_window(shape: tuple[int, ...], border: int) -> None:
    with pytest.raises(ValueError, match="needs 11 pixels a side"):
        ssim(noise(*shape), noise(*shape), border=border)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(image=IMAGES, seed=st.integers(0, 1000))
def test_psnr_is_symmetric_and_infinite_only_for_equal_images(image: np.ndarray, seed: int) -> None:
    other = noise(*image.shape, seed=seed)
    measured = psnr(image, other, border=0)
    assert measured == psnr(other, image, border=0)
    assert (measured == math.inf) == bool((image == other).all())
    assert measured >= 0
    assert psnr(image, image, border=0) == math.inf


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), amount=st.floats(0, 200), transpose=st.booleans())
def test_ssim_is_symmetric_at_most_one_and_blind_to_orientation(
    seed: int, amount: float, transpose: bool
) -> None:
    first = noise(13, 16, 3, seed=seed)
    second = disturbed(first, amount, seed=seed + 1)
    measured = ssim(first, second, border=0)
    assert -1 <= measured <= 1 + 1e-12
    assert measured == pytest.approx(ssim(second, first, border=0), abs=1e-12)
    axes = (1, 0, 2) if transpose else (0, 1, 2)
    turned = ssim(first[::-1].transpose(axes), second[::-1].transpose(axes), border=0)
    assert turned == pytest.approx(measured, abs=1e-9)
    assert ssim(first, first, border=0) == pytest.approx(1, abs=1e-12)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(level=st.integers(0, 255), image=IMAGES)
def test_luma_of_grey_is_linear_and_within_its_range(level: int, image: np.ndarray) -> None:
    grey = np.full((3, 2, 3), level, np.uint8)
    np.testing.assert_allclose(luma(grey), 16 + 219 * level / 255, rtol=0, atol=1e-9)
    coloured = np.repeat(image[..., None], 3, axis=-1)
    assert (luma(coloured) >= 16).all()
    assert (luma(coloured) <= 235 + 1e-9).all()
