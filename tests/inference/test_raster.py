"""Black and white stays so; strips are the whole; textures tile."""

from __future__ import annotations

import io
import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from anchorsr.images.image import RasterImage
from anchorsr.images.resize import resize_image
from anchorsr.inference import raster
from anchorsr.inference.image_upscaler import ImageUpscaler
from anchorsr.inference.raster import upscale_image, upscale_strips_of_image
from anchorsr.inference.sizes import TargetSize
from helpers.images import noise, smooth


class Tinting:
    """In place of a network: repeats pixels, and adds a colour where the image changes."""

    factor = 2

    def upscale_rgb(self, rgb: np.ndarray) -> np.ndarray:
        blurred = (rgb.astype(int) + np.roll(rgb, 1, axis=1)) // 2
        tint = np.abs(blurred - rgb) // 3 * np.array([1, -1, 0])
        tinted = np.clip(rgb + tint, 0, 255).astype(np.uint8)
        return tinted.repeat(2, axis=0).repeat(2, axis=1)

    def strips(self, rgb: np.ndarray) -> Iterator[np.ndarray]:
        whole = self.upscale_rgb(rgb)
        for top in range(0, len(whole), 14):
            yield whole[top : top + 14].copy()


def differences(rgb: np.ndarray) -> np.ndarray:
    return np.ptp(rgb.astype(int), axis=2)


def page(height: int = 40, width: int = 60) -> np.ndarray:
    """Black on white, with grey edges."""
    grey = np.where(noise(height, width, 1) > 200, 0, 255).astype(np.uint8)
    return np.asarray(Image.fromarray(grey).resize((width * 2, height * 2)))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_no_colour_appears_in_black_and_white(dtype: type) -> None:
    grey = page().astype(dtype) * (257 if dtype is np.uint16 else 1)
    rgb = grey[:, :, None].repeat(3, axis=2)
    assert differences(Tinting().upscale_rgb((rgb // (rgb.max() // 255)).astype(np.uint8))).max()
    made = upscale_image(RasterImage(rgb), Tinting())
    assert differences(made.rgb).max() == 0
    assert not made.grey  # three channels in, three out
    one_channel = upscale_image(RasterImage(rgb, grey=True), Tinting())
    np.testing.assert_array_equal(made.rgb, one_channel.rgb)


@pytest.mark.parametrize("format_name", ["JPEG", "WEBP", "AVIF"])
def test_lossy_black_and_white_gets_no_colours_of_its_own(format_name: str) -> None:
    rgb = page()[:, :, None].repeat(3, axis=2)
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, format_name, quality=30)
    decoded = np.asarray(Image.open(buffer).convert("RGB"))
    before = differences(decoded).max()
    made = upscale_image(RasterImage(decoded), Tinting())
    assert differences(made.rgb).max() <= 1.3 * before + 1  # bicubic overshoots a little


def test_slight_differences_of_16_bits_are_kept() -> None:
    rgb = 20_000 + page()[:, :, None].repeat(3, axis=2).astype(np.uint16) * 100
    rgb[:, :, 2] += 200  # less than a level of 255
    made = upscale_image(RasterImage(rgb), Tinting()).rgb.astype(int)
    np.testing.assert_allclose(made[:, :, 2] - made[:, :, 0], 200, atol=2)
    np.testing.assert_allclose(made[:, :, 1], made[:, :, 0], atol=1)


def test_a_page_with_a_coloured_picture_stays_black_and_white_elsewhere() -> None:
    rgb = page()[:, :, None].repeat(3, axis=2)
    rgb[20:40, 30:50] = noise(20, 20)
    made = upscale_image(RasterImage(rgb), Tinting()).rgb
    coloured = np.zeros(rgb.shape[:2], bool)
    coloured[19:41, 29:51] = True  # and the pixels beside it
    outside = ~coloured.repeat(2, axis=0).repeat(2, axis=1)
    assert differences(made)[outside].max() == 0
    inside = np.s_[40:80, 60:100]
    np.testing.assert_array_equal(made[inside], Tinting().upscale_rgb(rgb)[inside])


def test_colours_are_those_of_the_network() -> None:
    rgb = noise(40, 60)
    network = Tinting().upscale_rgb(rgb)
    np.testing.assert_array_equal(upscale_image(RasterImage(rgb), Tinting()).rgb, network)


ALPHA = np.where(noise(45, 60, 1, seed=1) > 90, 255, 0).astype(np.uint8)
IMAGES = {
    "rgb": RasterImage(noise(45, 60)),
    "grey": RasterImage(noise(45, 60, 1)[:, :, None].repeat(3, axis=2), grey=True),
    "black and white": RasterImage(noise(45, 60, 1)[:, :, None].repeat(3, axis=2)),
    "slight colours": RasterImage(noise(45, 60) // 20 + 100),
    "rgba": RasterImage(noise(45, 60), ALPHA),
    "grey and alpha": RasterImage(noise(45, 60, 1)[:, :, None].repeat(3, axis=2), ALPHA, True),
    "16 bits": RasterImage(noise(45, 60).astype(np.uint16) * 255, ALPHA.astype(np.uint16) * 257),
    "16 slight": RasterImage((noise(45, 60) // 20 + 100).astype(np.uint16)),
}


@pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES.keys())
def test_strips_together_are_the_whole(image: RasterImage) -> None:
    whole = upscale_image(image, Tinting())
    strips = np.concatenate(list(upscale_strips_of_image(image, Tinting())))
    channels = 1 if image.grey else 3
    np.testing.assert_array_equal(strips[:, :, :channels], whole.rgb[:, :, :channels])
    assert strips.shape[2] == channels + (image.alpha is not None)
    if whole.alpha is not None:
        np.testing.assert_array_equal(strips[:, :, -1], whole.alpha)


@pytest.mark.parametrize("target", [TargetSize(), TargetSize(scale=2.5), TargetSize(scale=0.4)])
@pytest.mark.parametrize("kind", ["rgb", "rgba", "16 bits"])
def test_a_texture_tiles_wherever_it_is_cut(target: TargetSize, kind: str) -> None:
    upscaler = ImageUpscaler(target=target, threads=1, wraps=True)
    side = 20  # a multiple of what every scale needs
    image = IMAGES[kind]
    rgb = np.ascontiguousarray(image.rgb[:side, :side])
    alpha = (
        None if image.alpha is None else np.full((side, side), np.iinfo(rgb.dtype).max, rgb.dtype)
    )
    image = RasterImage(rgb, alpha)
    made = upscaler(image)
    turned = upscaler(RasterImage(np.roll(rgb, (10, -10), (0, 1)), alpha))
    step = made.size[0] // 2
    expected = np.roll(made.rgb, (step, -step), (0, 1))
    np.testing.assert_allclose(turned.rgb.astype(int), expected.astype(int), atol=1)


def test_without_wrapping_edges_do_not_meet() -> None:
    ramp = smooth(20, 20)
    plain, wrapping = (ImageUpscaler(threads=1, wraps=wraps)(RasterImage(ramp)) for wraps in (0, 1))
    assert (plain.rgb != wrapping.rgb).any()
    assert resize_image(wrapping, 60, 60) is wrapping


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (16, 8), (57, 33), (40, 100)])
def test_transparent_colours_are_filled_alike_in_bands_and_as_a_whole(
    size: tuple[int, int], dtype: type[np.unsignedinteger], monkeypatch: pytest.MonkeyPatch
) -> None:
    random, most = np.random.default_rng(0), np.iinfo(dtype).max
    rgb = random.integers(0, most, (*size, 3), dtype)
    some = random.random(size)
    for alpha in (some * most, (some > 0.97) * most, (some > 0.03) * most, (some > 1) + some[:1]):
        results = []
        for band, levels in ((8, 3), (16, 2), (2**20, 0)):
            monkeypatch.setattr(raster, "_FILL_BAND", band)
            monkeypatch.setattr(raster, "_FILL_LEVELS", levels)
            results.append(raster.fill_transparent(rgb, alpha.astype(dtype)))
        np.testing.assert_array_equal(results[0], results[2])
        np.testing.assert_array_equal(results[1], results[2])


def test_transparent_colours_are_filled_in_little_memory() -> None:
    """In floating point the image has four times its bytes, and had several copies: 50 times."""
    rgb = np.full((2048, 256, 3), 9, np.uint8)
    alpha = np.zeros(rgb.shape[:2], np.uint8)
    alpha[0, 0] = 255
    tracemalloc.start()
    filled = raster.fill_transparent(rgb, alpha)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (filled == 9).all()
    assert peak < 8 * rgb.nbytes
