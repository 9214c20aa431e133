"""16-bit images: read, upscaled and written without losing the low bits."""

from __future__ import annotations

import importlib
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from anchorsr.images.image import RasterImage, eight_bits
from anchorsr.images.io import read_image, read_rgb, write_image
from anchorsr.inference.upscaler import Upscaler, upscale_image
from helpers.images import HEIC, SIZES, SRGB, assert_refused, chunk, exif_block, png


def noise16(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    shape = (height, width, channels)[: 3 if channels > 1 else 2]
    return np.random.default_rng(seed).integers(0, 65_536, shape, dtype=np.uint16)


def image16(height: int, width: int, *, grey: bool = False, alpha: bool = False) -> RasterImage:
    rgb = noise16(height, width)
    if grey:
        rgb = np.repeat(rgb[..., :1], 3, axis=2)
    return RasterImage(rgb, noise16(height, width, 1, seed=1) if alpha else None, grey)


@pytest.fixture(scope="module")
def upscaler() -> Upscaler:
    return Upscaler("quality", threads=1)


class Neutral:
    """A network that repeats each pixel."""

    factor = 3

    def upscale_rgb(self, rgb: np.ndarray) -> np.ndarray:
        assert rgb.dtype == np.uint8
        return rgb.repeat(3, axis=0).repeat(3, axis=1)


NEUTRAL: Upscaler = Neutral()  # type: ignore[assignment]


# Files


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_round_trip_is_exact(
    tmp_path: Path, height: int, width: int, grey: bool, alpha: bool, suffix: str
) -> None:
    image = image16(height, width, grey=grey, alpha=alpha)
    write_image(tmp_path / f"a{suffix}", image)
    again = read_image(tmp_path / f"a{suffix}")
    assert again.rgb.dtype == np.uint16
    np.testing.assert_array_equal(again.rgb, image.rgb)
    assert again.grey == (grey and not (alpha and suffix == ".tif"))
    assert (again.alpha is None) == (not alpha)
    if again.alpha is not None:
        np.testing.assert_array_equal(again.alpha, image.alpha)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"byteorder": ">"},
        {"compression": "zlib"},
        {"compression": "zlib", "byteorder": ">"},
        {"compression": "zlib", "predictor": True},
        {"tile": (16, 16)},
        {"rowsperstrip": 5},
        {"bigtiff": True},
    ],
    ids=str,
)
def test_tiff_of_another_writer_is_read(
    tmp_path: Path, channels: int, options: dict[str, object]
) -> None:
    pixels = noise16(37, 53, channels)
    kind = {1: "minisblack", 3: "rgb", 4: "rgb"}[channels]
    extra = ["unassalpha"] if channels == 4 else None
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels, photometric=kind, extrasamples=extra, **options)  # type: ignore[arg-type]
    image = read_image(path)
    assert image.grey == (channels == 1)
    read = image.rgb[..., 0] if image.grey else image.rgb
    if image.alpha is not None:
        read = np.dstack((read, image.alpha))
    np.testing.assert_array_equal(read, pixels)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("order", ["<", ">"])
def test_tiff_is_read_by_another_reader(
    tmp_path: Path, dtype: type, channels: int, order: str
) -> None:
    pixels = noise16(301, 977, max(channels, 3)).astype(dtype)  # several strips
    if channels == 1:
        pixels = np.repeat(pixels[..., :1], 3, axis=2)
    alpha = pixels[..., 3] if channels == 4 else None
    path = tmp_path / "a.tif"
    exif = exif_block(1, order)
    write_image(path, RasterImage(pixels[..., :3], alpha, channels == 1, exif=exif))
    with tifffile.TiffFile(path) as file:
        assert file.byteorder == order
        read = file.asarray()
    np.testing.assert_array_equal(read, pixels[..., 0] if channels == 1 else pixels)


def test_png_is_read_by_another_reader(tmp_path: Path) -> None:
    if shutil.which("ffmpeg") is None:
        pytest.skip("needs ffmpeg")
    image = image16(41, 29, alpha=True)
    write_image(tmp_path / "a.png", image)
    command = ["ffmpeg", "-v", "error", "-i", tmp_path / "a.png", "-f", "rawvideo"]
    raw = subprocess.check_output([*command, "-pix_fmt", "rgba64le", "-"])
    assert image.alpha is not None
    expected = np.dstack((image.rgb, image.alpha))
    np.testing.assert_array_equal(np.frombuffer(raw, "<u2").reshape(41, 29, 4), expected)


def test_tiff_packed_by_another_program_is_read(tmp_path: Path) -> None:
    if shutil.which("ffmpeg") is None:
        pytest.skip("needs ffmpeg")
    image = image16(41, 29)
    write_image(tmp_path / "a.png", image)
    command = ["ffmpeg", "-v", "error", "-i", tmp_path / "a.png", "-compression_algo", "lzw"]
    subprocess.check_call([*command, "-pix_fmt", "rgb48le", tmp_path / "a.tif"])
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").rgb, image.rgb)


@pytest.mark.parametrize(("colour_type", "key"), [(0, (5,)), (2, (5, 300, 65_535))])
def test_transparent_colour_becomes_alpha(
    tmp_path: Path, colour_type: int, key: tuple[int, ...]
) -> None:
    other = tuple(value ^ 1 for value in key)  # differs in the low bits only
    rows = b"\0" + struct.pack(f">{2 * len(key)}H", *key, *other)
    transparent = chunk(b"tRNS", struct.pack(f">{len(key)}H", *key))
    path = tmp_path / "a.png"
    path.write_bytes(png(2, 1, 16, colour_type, rows, transparent))
    image = read_image(path)
    assert image.alpha is not None
    assert image.alpha.tolist() == [[0, 65_535]]
    assert image.rgb[0, 0, : len(key)].tolist() == list(key)


def test_interlaced_png_is_read(tmp_path: Path) -> None:
    pixels = noise16(11, 13).astype(">u2")
    rows = b""
    # Adam7: first row and column, and the steps of each, of the seven passes.
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2)]
    for top, left, down, across in [*passes, (1, 0, 2, 1)]:
        for row in pixels[top::down, left::across]:
            rows += b"\0" + row.tobytes()
    data = bytearray(png(13, 11, 16, 2, rows))
    data[28] = 1
    data[29:33] = chunk(b"IHDR", bytes(data[16:29]))[-4:]
    (tmp_path / "a.png").write_bytes(data)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").rgb, pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_orientation_is_applied_once(tmp_path: Path, orientation: int, suffix: str) -> None:
    pixels = noise16(5, 7)
    path = tmp_path / f"a{suffix}"
    if suffix == ".png":
        exif = chunk(b"eXIf", exif_block(orientation)[6:])
        rows = b"".join(b"\0" + row.tobytes() for row in pixels.astype(">u2"))
        path.write_bytes(png(7, 5, 16, 2, rows, exif))
    else:
        tag = (274, "H", 1, orientation, True)
        tifffile.imwrite(path, pixels, photometric="rgb", extratags=[tag])
    expected = [
        pixels,
        pixels[:, ::-1],
        pixels[::-1, ::-1],
        pixels[::-1],
        pixels.swapaxes(0, 1),
        np.rot90(pixels, -1),
        pixels[::-1, ::-1].swapaxes(0, 1),
        np.rot90(pixels),
    ][orientation - 1]
    image = read_image(path)
    np.testing.assert_array_equal(image.rgb, expected)
    write_image(tmp_path / f"b{suffix}", image)
    np.testing.assert_array_equal(read_image(tmp_path / f"b{suffix}").rgb, expected)


def test_white_is_zero_is_turned_round(tmp_path: Path) -> None:
    pixels = noise16(5, 7, 1)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="miniswhite")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").rgb[..., 0], 65_535 - pixels)


def test_premultiplied_colour_is_divided_by_its_alpha(tmp_path: Path) -> None:
    alpha = np.full((4, 4), 32_768, np.uint16)
    rgb = np.full((4, 4, 3), (1000, 20_000, 32_768), np.uint16)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.dstack((rgb, alpha)), photometric="rgb", extrasamples=["assocalpha"])
    image = read_image(path)
    assert image.alpha is not None
    np.testing.assert_array_equal(image.alpha, alpha)
    expected = np.rint(rgb[0, 0] / (32_768 / 65_535))
    np.testing.assert_array_equal(image.rgb[0, 0], expected)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"photometric": "separated"}, "16-bit CMYK"),
        ({"photometric": "rgb", "planarconfig": "separate"}, "separate planes"),
    ],
)
def test_what_would_lose_bits_is_refused(
    tmp_path: Path, options: dict[str, str], word: str
) -> None:
    planes = options.get("planarconfig") is not None
    pixels = noise16(9, 9, 3 if planes else 4)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.moveaxis(pixels, 2, 0) if planes else pixels, **options)  # type: ignore[arg-type]
    assert_refused(path, word)


def test_sixteen_bit_animation_is_refused(tmp_path: Path) -> None:
    row = b"\0" + bytes(6)
    control = struct.pack(">5I2H2B", 0, 1, 1, 0, 0, 1, 10, 0, 0)
    second = struct.pack(">5I2H2B", 1, 1, 1, 0, 0, 1, 10, 0, 0)
    extra = [chunk(b"acTL", struct.pack(">II", 2, 0)), chunk(b"fcTL", control)]
    data = png(1, 1, 16, 2, row, *extra)
    frame = chunk(b"fcTL", second) + chunk(b"fdAT", struct.pack(">I", 2) + data[-24:-16])
    path = tmp_path / "a.png"
    path.write_bytes(data[:-12] + frame + data[-12:])
    assert_refused(path, "animation")


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".avif", ".gif"])
def test_a_format_of_eight_bits_gets_the_nearest(tmp_path: Path, suffix: str) -> None:
    smooth = np.linspace(0, 65_535, 64 * 64 * 3).reshape(64, 64, 3).astype(np.uint16)
    write_image(tmp_path / f"a{suffix}", RasterImage(smooth), quality=100)
    write_image(tmp_path / f"b{suffix}", RasterImage(eight_bits(smooth)), quality=100)
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


def test_rounding_to_eight_bits_is_to_the_nearest_and_back_exact() -> None:
    every = np.arange(65_536).astype(np.uint16)
    np.testing.assert_array_equal(eight_bits(every), np.rint(every / 257))
    bytes_ = np.arange(256).astype(np.uint8)
    np.testing.assert_array_equal(eight_bits(bytes_.astype(np.uint16) * 257), bytes_)
    np.testing.assert_array_equal(eight_bits(bytes_), bytes_)


def test_read_rgb_is_of_eight_bits(tmp_path: Path) -> None:
    image = image16(9, 8)
    write_image(tmp_path / "a.png", image)
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.png"), eight_bits(image.rgb))


@pytest.mark.parametrize("suffix", [HEIC])
def test_ten_bits_of_a_phone_come_as_sixteen(tmp_path: Path, suffix: str) -> None:
    ramp = np.linspace(0, 65_535, 256).astype(np.uint16)
    rgb = np.repeat(np.repeat(ramp[None, :, None], 64, axis=0), 3, axis=2)
    write_image(tmp_path / f"a{suffix}", RasterImage(rgb), quality=100)
    again = read_image(tmp_path / f"a{suffix}").rgb
    assert again.dtype == np.uint16
    assert (again[32, 0].max(), again[32, -1].min()) == (0, 65_535)
    assert np.abs(again.astype(int) - rgb).mean() < 65_535 / 1023  # a step of ten bits
    assert len(np.unique(again[32, :, 1])) > 200


def test_profile_and_resolution_are_kept(tmp_path: Path) -> None:
    image = image16(6, 5)
    for suffix in (".png", ".tif"):
        about = RasterImage(image.rgb, icc_profile=SRGB, dpi=(300.0, 150.0))
        write_image(tmp_path / f"a{suffix}", about)
        again = read_image(tmp_path / f"a{suffix}")
        assert again.icc_profile == SRGB
        assert again.dpi == pytest.approx((300, 150), rel=1e-3)
        with Image.open(tmp_path / f"a{suffix}") as pil_image:  # what Pillow makes of it
            assert pil_image.size == (5, 6)


# Upscaling


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (7, 5), (300, 3)])
def test_detail_is_what_the_eight_bit_image_becomes(
    upscaler: Upscaler, grey: bool, size: tuple[int, int]
) -> None:
    """At most 2.5 levels off, and equal where bicubic is 5 levels away."""
    image = image16(*size, grey=grey)
    larger = upscale_image(image, upscaler).rgb
    eight = upscale_image(RasterImage(eight_bits(image.rgb), grey=grey), upscaler).rgb
    assert larger.dtype == np.uint16
    levels = eight.astype(int) * 257
    assert np.abs(larger - levels).max() <= 2.5 * 257 + 1
    wide = (3 * size[1], 3 * size[0])
    for channel in range(3):
        plane = Image.fromarray(image.rgb[..., channel].astype(np.float32))
        smooth = np.asarray(plane.resize(wide, Image.Resampling.BICUBIC))
        near = levels[..., channel] - smooth
        detail = np.abs(near) >= 5 * 257 + 1
        assert detail.any() or size == (1, 1)
        np.testing.assert_array_equal(larger[..., channel][detail], levels[..., channel][detail])
        grain = (np.abs(near) <= 2.5 * 257 - 1) & (smooth >= 0) & (smooth <= 65_535)
        np.testing.assert_array_equal(larger[..., channel][grain], np.rint(smooth[grain]))


@pytest.mark.parametrize("value", [0, 1, 127, 129, 20_000, 33_333, 65_407, 65_534, 65_535])
def test_a_flat_area_keeps_its_value_where_the_network_is_neutral(value: int) -> None:
    flat = np.full((9, 11, 3), value, np.uint16)
    larger = upscale_image(RasterImage(flat), NEUTRAL).rgb
    assert (larger == value).all()


@pytest.mark.parametrize("value", [20_000, 33_333, 50_001])
def test_a_flat_area_keeps_its_value_with_the_shipped_network(
    upscaler: Upscaler, value: int
) -> None:
    flat = np.full((40, 40, 3), value, np.uint16) // np.array([1, 2, 3], np.uint16)
    larger = upscale_image(RasterImage(flat), upscaler).rgb
    assert (larger[30:-30, 30:-30] == flat[0, 0]).all()


@pytest.mark.parametrize("slope", [3, 8, 60])
@pytest.mark.parametrize("start", [5000, 20_000, 45_000])
@pytest.mark.parametrize("tint", [(1, 1, 1), (1, 0.6, 0.3), (0.1, 0.5, 1)], ids=str)
def test_a_smooth_gradient_does_not_band(
    upscaler: Upscaler, slope: int, start: int, tint: tuple[float, ...]
) -> None:
    ramp = start + slope * np.arange(200)
    colours = np.rint(ramp[:, None] * tint).astype(np.uint16)
    rows = upscale_image(RasterImage(np.repeat(colours[None], 40, axis=0)), upscaler).rgb[
        60, 30:-30
    ]
    for row in rows.T.astype(int):
        steps = np.diff(row)
        assert steps.min() >= 0
        assert steps.max() <= slope + 1  # of 8 bits alone, they would be 257
        assert len(np.unique(row)) >= 0.9 * min(len(row), row[-1] - row[0])


def test_bands_of_rows_show_no_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    image = image16(50, 4)
    whole = upscale_image(image, NEUTRAL).rgb
    monkeypatch.setattr(importlib.import_module("anchorsr.inference.raster"), "_BAND", 7)
    np.testing.assert_array_equal(upscale_image(image, NEUTRAL).rgb, whole)


def test_alpha_of_sixteen_bits_is_resized_without_rounding_to_eight() -> None:
    alpha = (30_000 + 5 * np.arange(60))[None].repeat(8, axis=0).astype(np.uint16)
    larger = upscale_image(RasterImage(np.full((8, 60, 3), 9, np.uint16), alpha), NEUTRAL).alpha
    assert larger is not None
    assert larger.dtype == np.uint16
    assert (np.diff(larger[12, 9:-9].astype(int)) >= 1).all()
    opaque = np.full((8, 60), 65_535, np.uint16)
    larger = upscale_image(RasterImage(np.full((8, 60, 3), 9, np.uint16), opaque), NEUTRAL).alpha
    assert (larger == 65_535).all()


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_a_file_of_sixteen_bits_becomes_one(
    tmp_path: Path, upscaler: Upscaler, suffix: str
) -> None:
    ramp = (1000 + 7 * np.arange(64)).astype(np.uint16)
    rgb = np.repeat(np.repeat(ramp[None, :, None], 16, axis=0), 3, axis=2)
    write_image(tmp_path / f"a{suffix}", RasterImage(rgb, grey=True))
    larger = upscale_image(read_image(tmp_path / f"a{suffix}"), upscaler)
    write_image(tmp_path / f"b{suffix}", larger)
    with Image.open(tmp_path / f"b{suffix}") as image:
        assert image.mode.startswith("I;16")
        assert len(np.unique(np.asarray(image))) > 150


def test_a_large_image_is_packed_within_reason(tmp_path: Path) -> None:
    rows, columns = np.mgrid[:300, :400]
    smooth = np.stack([rows * 90, columns * 80, rows * 40 + columns * 30], axis=2)
    write_image(tmp_path / "a.png", RasterImage(smooth.astype(np.uint16)))
    assert (tmp_path / "a.png").stat().st_size < 300 * 400 * 6 / 10
