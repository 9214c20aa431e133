"""No fringes: colours hidden below transparent pixels do not show in the upscaled image."""

from __future__ import annotations

import numpy as np
import pytest

from anchorsr.images.image import RasterImage
from anchorsr.inference.upscaler import Upscaler, upscale_image

SIZE = 40


@pytest.fixture(scope="module")
def upscaler() -> Upscaler:
    return Upscaler("quality", threads=1)


def soft_disc(edge: float = 3) -> np.ndarray:
    """Alpha of an opaque disc whose edge fades out over some pixels."""
    y, x = np.mgrid[:SIZE, :SIZE]
    radius = np.hypot(y - SIZE / 2 + 0.5, x - SIZE / 2 + 0.5)
    return np.rint(np.clip((14 - radius) / edge, 0, 1) * 255).astype(np.uint8)


def flat(colour: tuple[int, int, int]) -> np.ndarray:
    return np.full((SIZE, SIZE, 3), colour, np.uint8)


def composited(image: RasterImage, background: int) -> np.ndarray:
    """Blend with a uniform background, float on 0 to 255."""
    highest = np.iinfo(image.rgb.dtype).max
    assert image.alpha is not None
    weight = image.alpha[:, :, None] / highest
    return image.rgb / highest * 255 * weight + background * (1 - weight)


GARBAGE = [(255, 0, 255), (0, 255, 0), (255, 255, 255), (0, 0, 0)]


@pytest.mark.slow
@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("edge", [0.01, 1, 3, 8])
def test_garbage_below_transparent_pixels_is_never_seen(
    upscaler: Upscaler, garbage: tuple[int, int, int], deep: bool, edge: float
) -> None:
    alpha = soft_disc(edge)
    colour = flat((40, 70, 130))
    dirty = np.where(alpha[:, :, None] > 0, colour, np.uint8(garbage))
    images = [RasterImage(rgb, alpha) for rgb in (colour, dirty)]
    if deep:
        images = [RasterImage(p.rgb * np.uint16(257), alpha * np.uint16(257)) for p in images]
    clean, result = (upscale_image(image, upscaler) for image in images)
    np.testing.assert_array_equal(result.rgb, clean.rgb)
    for background in (0, 255):
        np.testing.assert_array_equal(composited(result, background), composited(clean, background))


@pytest.mark.slow
@pytest.mark.parametrize("garbage", GARBAGE)
def test_garbage_below_nearly_transparent_pixels_does_not_reach_the_edge(
    upscaler: Upscaler, garbage: tuple[int, int, int]
) -> None:
    alpha = soft_disc(6)
    colour = flat((40, 70, 130))
    dirty = np.where(alpha[:, :, None] > 10, colour, np.uint8(garbage))
    assert ((alpha > 0) & (alpha <= 10)).any()
    clean = upscale_image(RasterImage(colour, alpha), upscaler)
    result = upscale_image(RasterImage(dirty, alpha), upscaler)
    for background in (0, 128, 255):
        seen = np.abs(composited(result, background) - composited(clean, background))
        assert seen.max() < 1.5
    assert clean.alpha is not None
    solid = clean.alpha > 100
    assert np.abs(result.rgb.astype(int) - clean.rgb)[solid].max() <= 4


def test_colour_that_was_stored_premultiplied_leaves_no_fringe(upscaler: Upscaler) -> None:
    alpha = soft_disc(6)
    colour = flat((200, 90, 30))
    weight = np.maximum(alpha, 1)[:, :, None]
    stored = np.rint(colour * (weight / 255))  # as a program keeps it, in 8 bits
    rgb = np.clip(np.rint(stored * 255 / weight), 0, 255).astype(np.uint8)
    assert np.abs(rgb.astype(int) - colour)[alpha > 0].max() > 50
    result = upscale_image(RasterImage(rgb, alpha), upscaler)
    clean = upscale_image(RasterImage(colour, alpha), upscaler)
    for background in (0, 255):
        seen = np.abs(composited(result, background) - composited(clean, background))
        assert seen.max() < 3  # a level of stored rounding, and one of grain in either image
        assert (seen > 2).mean() < 1e-3


def test_colour_that_is_seen_stays_what_it_is(upscaler: Upscaler) -> None:
    """From an eighth of opacity on, colours are kept."""
    generator = np.random.default_rng(0)
    rgb = generator.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    alpha = np.full((SIZE, SIZE), 32, np.uint8)
    np.testing.assert_array_equal(
        upscale_image(RasterImage(rgb, alpha), upscaler).rgb, upscaler(rgb)
    )


@pytest.mark.parametrize("value", [1, 5, 20])
def test_an_image_that_is_faint_everywhere_keeps_its_colours(
    upscaler: Upscaler, value: int
) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    alpha = np.full((SIZE, SIZE), value, np.uint8)
    np.testing.assert_array_equal(
        upscale_image(RasterImage(rgb, alpha), upscaler).rgb, upscaler(rgb)
    )
