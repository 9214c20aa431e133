"""Reading and writing image files: colours, refusals, safety."""

import errno
import os
import random
import struct
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from anchorsr.errors import DataError, ImageError, OutputError
from anchorsr.images import io
from anchorsr.images.io import (
    SUFFIXES,
    RasterImage,
    check_output,
    find_images,
    read_image,
    read_rgb,
    write_image,
)
from anchorsr.utils import temporary
from helpers.images import (
    PNG_SIGNATURE,
    SIZES,
    SRGB,
    assert_refused,
    chunk,
    cmyk_profile,
    encoded,
    exif_block,
    noise,
    png,
    smooth,
)

# Colours


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("with_alpha", [False, True])
@pytest.mark.parametrize("grey", [False, True])
def test_png_round_trip_is_exact(
    tmp_path: Path, height: int, width: int, with_alpha: bool, grey: bool
) -> None:
    rgb = noise(height, width)
    if grey:
        rgb = np.repeat(rgb[..., :1], 3, axis=-1)
    alpha = noise(height, width, 1, seed=1) if with_alpha else None
    path = tmp_path / "a.png"
    write_image(path, RasterImage(rgb, alpha, grey))
    with Image.open(path) as image:
        assert image.getbands() == tuple(("L" if grey else "RGB") + ("A" if with_alpha else ""))
    again = read_image(path)
    np.testing.assert_array_equal(again.rgb, rgb)
    assert again.grey == grey
    if alpha is None:
        assert again.alpha is None
    else:
        assert again.alpha is not None
        np.testing.assert_array_equal(again.alpha, alpha)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 23), st.integers(1, 23), st.booleans(), st.integers(0, 99))
def test_png_holds_any_image(
    tmp_path_factory: pytest.TempPathFactory, height: int, width: int, alpha: bool, seed: int
) -> None:
    path = tmp_path_factory.mktemp("any") / "a.png"
    layer = noise(height, width, 1, seed + 1) if alpha else None
    write_image(path, RasterImage(noise(height, width, seed=seed), layer))
    again = read_image(path)
    np.testing.assert_array_equal(again.rgb, noise(height, width, seed=seed))
    assert (again.alpha is None) == (layer is None)
    assert layer is None or (again.alpha == layer).all()


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".JPG", ".webp"])
def test_lossy_formats_come_close(tmp_path: Path, height: int, width: int, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    write_image(path, RasterImage(smooth(height, width)))
    difference = np.abs(read_rgb(path).astype(int) - smooth(height, width))
    assert read_rgb(path).shape == (height, width, 3)
    if height > 7 and width > 7:
        assert difference.mean() < 4


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
@pytest.mark.parametrize("format_name", ["PNG", "JPEG", "WEBP"])
def test_colours_are_pillows(tmp_path: Path, mode: str, format_name: str) -> None:
    if format_name == "JPEG" and mode in ("1", "LA", "P", "RGBA"):
        pytest.skip("JPEG does not hold it")
    channels = 4 if mode in ("LA", "RGBA") else 3
    source = Image.fromarray(noise(11, 13, channels)).convert(mode)
    path = tmp_path / "image"
    path.write_bytes(encoded(source, format_name))
    with Image.open(path) as pil_image:
        expected = np.array(pil_image.convert("RGB"))
    image = read_image(path)
    np.testing.assert_array_equal(image.rgb, expected)
    np.testing.assert_array_equal(read_rgb(path), expected)
    assert image.rgb.dtype == np.uint8
    assert image.rgb.flags.c_contiguous
    assert image.rgb.flags.writeable
    assert image.grey == (mode in ("1", "L", "LA") and format_name != "WEBP")
    assert (image.alpha is not None) == (mode in ("LA", "RGBA"))


def test_kind_is_told_by_content_not_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded(Image.fromarray(smooth(16, 16)), "JPEG"))
    assert read_rgb(path).shape == (16, 16, 3)


def test_interlaced_png_is_read(tmp_path: Path) -> None:
    # Of a single pixel, Adam7 has one pass, equal to the plain image.
    data = bytearray(png(1, 1, 8, 2, b"\0\x01\x02\x03"))
    data[28] = 1
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    (tmp_path / "a.png").write_bytes(data)
    assert read_rgb(tmp_path / "a.png").tolist() == [[[1, 2, 3]]]


@pytest.mark.parametrize("transparency", [2, bytes([0, 80, 255])])
def test_palette_transparency_becomes_alpha(tmp_path: Path, transparency: int | bytes) -> None:
    source = Image.new("P", (3, 1))
    source.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    source.putdata([0, 1, 2])
    path = tmp_path / "a.png"
    source.save(path, transparency=transparency)
    image = read_image(path)
    assert image.rgb.tolist() == [[[255, 0, 0], [0, 255, 0], [0, 0, 255]]]
    assert image.alpha is not None
    assert image.alpha.tolist() == [[255, 255, 0] if transparency == 2 else [0, 80, 255]]
    assert not image.grey


def test_transparent_colour_of_rgb_becomes_alpha(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    source = Image.fromarray(np.array([[[1, 2, 3], [1, 2, 4], [9, 9, 9]]], dtype=np.uint8))
    source.save(path, transparency=(1, 2, 3))
    image = read_image(path)
    assert image.alpha is not None
    assert image.alpha.tolist() == [[0, 255, 255]]
    np.testing.assert_array_equal(image.rgb, np.array(source))


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_transparent_grey_becomes_alpha_at_every_depth(tmp_path: Path, depth: int) -> None:
    # Two pixels in the highest bits of a row: darkest, then brightest, which is transparent.
    brightest = 2**depth - 1
    row = brightest if depth == 8 else brightest << (8 - 2 * depth)
    rows = b"\0\0\xff" if depth == 8 else bytes([0, row])
    key = chunk(b"tRNS", struct.pack(">H", brightest))
    path = tmp_path / "a.png"
    path.write_bytes(png(2, 1, depth, 0, rows, key))
    image = read_image(path)
    assert image.grey
    assert image.rgb[0, :, 0].tolist() == [0, 255]
    assert image.alpha is not None
    assert image.alpha.tolist() == [[255, 0]]


def test_one_bit_image_is_written_as_one_channel(tmp_path: Path) -> None:
    source = Image.fromarray(noise(9, 9, 1)).convert("1")
    source.save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert set(np.unique(image.rgb)) <= {0, 255}
    for suffix in (".png", ".jpg"):
        write_image(tmp_path / f"b{suffix}", image)
        with Image.open(tmp_path / f"b{suffix}") as pil_image:
            assert pil_image.mode == "L"


def test_jpeg_lays_transparent_pixels_on_white(tmp_path: Path) -> None:
    rgb = np.zeros((16, 48, 3), np.uint8)
    alpha = np.repeat(np.array([0, 128, 255], np.uint8), 16)[None].repeat(16, axis=0)
    for grey in (False, True):
        path = tmp_path / f"{grey}.jpg"
        write_image(path, RasterImage(rgb, alpha, grey), quality=100)
        written = read_image(path)
        assert written.alpha is None
        assert written.grey == grey
        for column, value in ((8, 255), (24, 127), (40, 0)):
            assert np.abs(written.rgb[8, column].astype(int) - value).max() <= 2


def test_jpeg_keeps_full_colour_resolution(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    rgb = np.zeros((16, 16, 3), np.uint8)
    rgb[:, ::2, 0] = rgb[:, 1::2, 2] = 255
    write_image(path, RasterImage(rgb), quality=100)
    with Image.open(path) as image:
        assert {layer[1:3] for layer in image.layer} == {(1, 1)}
    assert np.abs(read_rgb(path).astype(int) - rgb).max() < 8


def test_quality_changes_the_size_of_the_file(tmp_path: Path) -> None:
    for suffix in (".jpg", ".webp"):
        sizes = []
        for quality in (1, 50, 92):
            path = tmp_path / f"{quality}{suffix}"
            write_image(path, RasterImage(noise(32, 32)), quality=quality)
            sizes.append(path.stat().st_size)
        assert sizes == sorted(set(sizes))
    with pytest.raises(OutputError, match="quality"):
        write_image(tmp_path / "c.jpg", RasterImage(noise(3, 3)), quality=101)


def test_cmyk_jpeg_without_a_profile_is_converted_plainly(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    source = Image.fromarray(smooth(16, 16)).convert("CMYK")
    source.save(path, quality=100)
    with Image.open(path) as pil_image:
        expected = np.array(pil_image.convert("RGB"))
    image = read_image(path)
    np.testing.assert_array_equal(image.rgb, expected)
    assert np.abs(image.rgb.astype(int) - smooth(16, 16)).mean() < 8
    assert image.icc_profile is None


def test_cmyk_jpeg_goes_through_its_profile_which_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    # Lab (100, 0, 0) in eight bits: white, which no plain conversion of this ink gives.
    source = Image.new("CMYK", (8, 8), (10, 200, 30, 90))
    source.save(path, icc_profile=cmyk_profile((255, 128, 128)))
    image = read_image(path)
    assert image.rgb.min() >= 250
    assert image.icc_profile is None


@pytest.mark.parametrize("profile", [SRGB, b"x" * 200, cmyk_profile((0, 0, 0))[:150]])
def test_cmyk_jpeg_with_a_useless_profile_is_converted_plainly(
    tmp_path: Path, profile: bytes
) -> None:
    path = tmp_path / "a.jpg"
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(path, icc_profile=profile)
    image = read_image(path)
    assert np.abs(image.rgb.astype(int) - [255, 0, 0]).max() < 6
    assert image.icc_profile is None


# Refusals


@pytest.mark.parametrize(
    ("mode", "words"),
    [("LAB", "LAB pixels"), ("I", "signed numbers"), ("F", "floating-point numbers")],
)
def test_other_kinds_of_pixels_are_refused(tmp_path: Path, mode: str, words: str) -> None:
    path = tmp_path / "a.tif"
    Image.new(mode, (4, 4)).save(path)
    assert_refused(path, words, "convert")


def test_pages_of_a_tiff_are_refused_but_a_thumbnail_is_no_page(tmp_path: Path) -> None:
    first, second = Image.fromarray(noise(9, 9)), Image.fromarray(noise(5, 5))
    path = tmp_path / "a.tif"
    first.save(path, save_all=True, append_images=[second])
    assert_refused(path, "several pages", "save each")
    second.encoderinfo = {"tiffinfo": {254: 1}}
    first.save(path, save_all=True, append_images=[second])
    np.testing.assert_array_equal(read_rgb(path), noise(9, 9))


@pytest.mark.parametrize("format_name", ["PNG", "WEBP"])
def test_animation_is_refused(tmp_path: Path, format_name: str) -> None:
    frames = [Image.fromarray(noise(8, 8, seed=seed)) for seed in range(3)]
    path = tmp_path / "a"
    path.write_bytes(
        encoded(frames[0], format_name, save_all=True, append_images=frames[1:], duration=50)
    )
    assert_refused(path, "animation")


def test_further_images_in_a_phones_jpeg_are_ignored(tmp_path: Path) -> None:
    first, second = Image.fromarray(smooth(16, 16)), Image.fromarray(noise(16, 16))
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded(first, "MPO", save_all=True, append_images=[second]))
    with Image.open(path) as image:
        np.testing.assert_array_equal(read_rgb(path), np.array(image))


@pytest.mark.parametrize("format_name", ["PPM", "ICO"])
def test_other_formats_are_refused(tmp_path: Path, format_name: str) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded(Image.fromarray(smooth(8, 8)), format_name))
    assert_refused(path, "not a PNG, JPEG, WebP")


def test_what_is_no_file_of_pixels_is_refused(tmp_path: Path) -> None:
    assert_refused(tmp_path / "missing.png", "does not exist")
    assert_refused(tmp_path / "missing" / "a.png", "does not exist")
    (tmp_path / "folder.png").mkdir()
    assert_refused(tmp_path / "folder.png", "folder")
    (tmp_path / "empty.png").touch()
    assert_refused(tmp_path / "empty.png", "empty")
    (tmp_path / "text.png").write_text("This is not an image.\n")
    assert_refused(tmp_path / "text.png", "not a PNG, JPEG, WebP")
    (tmp_path / "link.png").symlink_to("nowhere.png")
    assert_refused(tmp_path / "link.png", "does not exist")
    assert_refused(tmp_path / "a\0b.png")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_named_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    assert_refused(tmp_path / "pipe.png", "device")


def test_unreadable_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    path.touch()

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    assert_refused(path, "Permission denied", "permissions")


@pytest.mark.parametrize("format_name", ["PNG", "JPEG", "WEBP", "progressive", "lossless"])
@pytest.mark.parametrize("tenths", range(1, 10))
def test_truncated_image_is_refused(tmp_path: Path, format_name: str, tenths: int) -> None:
    source = Image.fromarray(noise(40, 40))
    data = {
        "PNG": lambda: encoded(source, "PNG"),
        "JPEG": lambda: encoded(source, "JPEG"),
        "WEBP": lambda: encoded(source, "WEBP"),
        "progressive": lambda: encoded(source, "JPEG", progressive=True),
        "lossless": lambda: encoded(source, "WEBP", lossless=True),
    }[format_name]()
    path = tmp_path / "a"
    path.write_bytes(data[: len(data) * tenths // 10])
    assert_refused(path)


@pytest.mark.slow
@pytest.mark.parametrize("format_name", ["PNG", "JPEG", "WEBP"])
def test_flipped_bytes_raise_nothing_else(tmp_path: Path, format_name: str) -> None:
    generator = random.Random(1)
    source = Image.fromarray(noise(12, 12, 3))
    good = encoded(source, format_name, exif=exif_block(6, thumbnail=b"T"), icc_profile=SRGB)
    path = tmp_path / "a"
    for _ in range(150):
        data = bytearray(good)
        for _ in range(generator.randint(1, 6)):
            data[generator.randrange(len(data))] = generator.randrange(256)
        path.write_bytes(data)
        try:
            image = read_image(path, max_pixels=100_000)
        except ImageError as error:
            assert "\n" not in str(error)
        else:
            assert image.rgb.dtype == np.uint8


@pytest.mark.parametrize(
    "start",
    [
        b"",
        PNG_SIGNATURE,
        PNG_SIGNATURE + b"\0\0\0\rIHDR\0\0\0\x05\0\0\0\x05\x08\x02\0\0\0",
        b"\xff\xd8\xff",
        b"\xff\xd8\xff\xe0",
        b"\xff\xd8\xff\xe1",
        b"RIFF\xff\0\0\0WEBPVP8 ",
        b"RIFF\xff\0\0\0WEBPVP8L",
        b"RIFF\xff\0\0\0WEBPVP8X",
    ],
)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_random_bytes_are_refused(tmp_path: Path, start: bytes, suffix: str) -> None:
    generator = random.Random(2)
    path = tmp_path / f"a{suffix}"
    for length in (1, 2, 9, 40, 300):
        path.write_bytes(start + generator.randbytes(length))
        assert_refused(path)
    if start:
        path.write_bytes(start)
        assert_refused(path)


def test_too_many_pixels_are_refused_before_decoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    huge = tmp_path / "huge.png"
    huge.write_bytes(png(2**31 - 1, 2**31 - 1, 8, 2, b""))
    assert_refused(huge, "2147483647", "limit")
    jpeg = bytearray(encoded(Image.new("RGB", (8, 8)), "JPEG"))
    place = jpeg.index(b"\xff\xc0") + 5
    jpeg[place : place + 4] = b"\xff\xff\xff\xff"
    (tmp_path / "huge.jpg").write_bytes(jpeg)
    assert_refused(tmp_path / "huge.jpg", "65535", "limit")
    webp = bytearray(encoded(Image.fromarray(noise(8, 8)), "WEBP", exif=exif_block(1)))
    assert webp[12:16] == b"VP8X"
    webp[24:30] = b"\xff" * 6
    (tmp_path / "huge.webp").write_bytes(webp)
    assert_refused(tmp_path / "huge.webp")

    write_image(tmp_path / "a.png", RasterImage(noise(10, 10)))
    monkeypatch.setattr(Image.Image, "load", lambda _: pytest.fail("decoded"))
    assert_refused(tmp_path / "a.png", "10 x 10", "99", max_pixels=99)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_pillows_own_limit_is_neither_used_nor_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    path = tmp_path / f"a{suffix}"
    write_image(path, RasterImage(noise(10, 10)))
    for limit in (1, 60, None):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        assert read_image(path, max_pixels=100).rgb.shape == (10, 10, 3)
        assert limit == Image.MAX_IMAGE_PIXELS


def test_pillows_limit_on_webp_is_a_clear_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.webp"
    write_image(path, RasterImage(noise(10, 10)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60)
    assert read_rgb(path).shape == (10, 10, 3)  # up to twice the limit Pillow only warns
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1)
    assert_refused(path, "MAX_IMAGE_PIXELS")


def test_image_refuses_arrays_of_another_kind() -> None:
    rgb = noise(3, 4)
    for bad in (rgb[..., 0], rgb[..., :2], rgb.astype(np.float32), rgb[:0]):
        with pytest.raises(ImageError, match="rgb is uint8"):
            RasterImage(bad)
    for bad in (noise(3, 3, 1), rgb, noise(3, 4, 1).astype(np.int32)):
        with pytest.raises(ImageError, match="alpha is uint8"):
            RasterImage(rgb, bad)


# Writing


def test_existing_file_is_kept_unless_overwriting(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_text("precious")
    with pytest.raises(OutputError, match=r"a\.png exists already"):
        write_image(path, RasterImage(noise(3, 3)))
    assert path.read_text() == "precious"
    write_image(path, RasterImage(noise(3, 3)), overwrite=True)
    np.testing.assert_array_equal(read_rgb(path), noise(3, 3))
    assert os.listdir(tmp_path) == ["a.png"]


def test_dangling_link_counts_as_existing(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to("nowhere.png")
    with pytest.raises(OutputError, match="exists already"):
        write_image(tmp_path / "a.png", RasterImage(noise(3, 3)))


def without_links(*_: object) -> None:
    raise OSError(errno.EPERM, "Operation not permitted")


@pytest.mark.parametrize("links", [True, False])
def test_file_that_appears_meanwhile_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    path = tmp_path / "a.png"
    encode = io.encode_into

    def slow_encode(*arguments: object) -> None:
        path.write_text("precious")
        encode(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(io, "encode_into", slow_encode)
    if not links:
        monkeypatch.setattr(os, "link", without_links)
    with pytest.raises(OutputError, match="exists already"):
        write_image(path, RasterImage(noise(3, 3)))
    assert path.read_text() == "precious"
    assert os.listdir(tmp_path) == ["a.png"]


def test_file_is_written_where_there_are_no_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", without_links)
    write_image(tmp_path / "a.png", RasterImage(noise(3, 3)))
    monkeypatch.delattr(os, "link")
    write_image(tmp_path / "b.png", RasterImage(noise(3, 3)))
    assert sorted(os.listdir(tmp_path)) == ["a.png", "b.png"]
    np.testing.assert_array_equal(read_rgb(tmp_path / "b.png"), noise(3, 3))


@pytest.mark.parametrize("failure", [OSError(errno.EIO, "I/O error"), KeyboardInterrupt()])
@pytest.mark.parametrize("overwrite", [True, False])
def test_nothing_is_left_when_the_last_step_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException, overwrite: bool
) -> None:
    def fail(*_: object) -> None:
        raise failure

    monkeypatch.setattr(os, "link", without_links)
    monkeypatch.setattr(os, "replace", fail)
    expected = OutputError if isinstance(failure, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        write_image(tmp_path / "a.png", RasterImage(noise(3, 3)), overwrite=overwrite)
    assert os.listdir(tmp_path) == []


def test_full_disk_is_reported_and_leaves_the_old_file(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    path = tmp_path / "a.png"
    path.write_text("old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # A limit on file sizes stops a write midway, as a full disk does.
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
    try:
        with pytest.raises(OutputError) as caught:
            write_image(path, RasterImage(noise(64, 64)), overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "a.png cannot be written" in str(caught.value)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.png"]


def test_interrupt_while_writing_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:  # the file exists by then
        raise KeyboardInterrupt

    monkeypatch.setattr(temporary.os, "fdopen", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_image(tmp_path / "a.png", RasterImage(noise(3, 3)))
    assert os.listdir(tmp_path) == []


def test_unwritable_folder_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(temporary.os, "open", refuse)
    with pytest.raises(OutputError, match=r"a\.png cannot be written .Permission denied"):
        write_image(tmp_path / "a.png", RasterImage(noise(3, 3)))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may do all")
def test_permissions_of_the_system_are_reported(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", RasterImage(noise(3, 3)))
    (tmp_path / "a.png").chmod(0)
    assert_refused(tmp_path / "a.png", "permissions")
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputError):
            write_image(tmp_path / "b.png", RasterImage(noise(3, 3)))
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize("name", ["a", "a.pcx", "a.png.txt", ".png", "a.jp2"])
def test_unknown_suffix_is_refused_and_known_ones_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError) as caught:
        write_image(tmp_path / name, RasterImage(noise(3, 3)))
    assert all(suffix in str(caught.value) for suffix in SUFFIXES)
    assert os.listdir(tmp_path) == []


def test_output_needs_a_folder_to_be_in(tmp_path: Path) -> None:
    image = RasterImage(noise(3, 3))
    with pytest.raises(OutputError, match="missing is not an existing folder"):
        write_image(tmp_path / "missing" / "a.png", image)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file is not an existing folder"):
        write_image(tmp_path / "file" / "a.png", image)
    (tmp_path / "folder.png").mkdir()
    for overwrite in (False, True):
        with pytest.raises(OutputError, match=r"folder\.png is a folder"):
            write_image(tmp_path / "folder.png", image, overwrite=overwrite)
    with pytest.raises(OutputError):
        write_image(tmp_path / "a\0b.png", image)
    with pytest.raises(OutputError):
        write_image(tmp_path / ("a" * 300 + ".png"), image)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.png"]


@pytest.mark.parametrize(("suffix", "longest"), [(".jpg", 65_500), (".webp", 16_383)])
def test_longest_side_of_a_format_is_kept_to(tmp_path: Path, suffix: str, longest: int) -> None:
    path = tmp_path / f"a{suffix}"
    for shape in ((1, longest + 1, 3), (longest + 1, 1, 3)):
        with pytest.raises(OutputError, match=rf"{longest} a side .* write a \.png"):
            write_image(path, RasterImage(np.zeros(shape, np.uint8)))
    write_image(path, RasterImage(np.zeros((1, longest, 3), np.uint8)))
    assert read_rgb(path).shape == (1, longest, 3)


@pytest.mark.slow
def test_more_pixels_than_readers_of_avif_accept_are_refused() -> None:
    for suffix, side in ((".avif", 16_385), (".avif", 32_769), (".heic", 16_889)):
        with pytest.raises(OutputError, match=r"write a \.png"):
            check_output(Path(f"a{suffix}"), side, side)
    check_output(Path("a.avif"), 16_384, 16_384)


@pytest.mark.skipif(os.name == "nt", reason="no umask")
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
@pytest.mark.parametrize("overwrite", [True, False])
def test_permissions_follow_the_umask(tmp_path: Path, umask: int, overwrite: bool) -> None:
    path = tmp_path / "a.png"
    previous = os.umask(umask)
    try:
        write_image(path, RasterImage(noise(3, 3)), overwrite=overwrite)
    finally:
        os.umask(previous)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


@pytest.mark.parametrize("name", ["ü" * 120 + ".png", "a" * 251 + ".png"])
def test_longest_names_can_be_written(tmp_path: Path, name: str) -> None:
    write_image(tmp_path / name, RasterImage(noise(3, 3)))
    assert os.listdir(tmp_path) == [name]


def test_views_and_read_only_arrays_can_be_written(tmp_path: Path) -> None:
    rgb = noise(6, 8)[::2, ::-1]
    rgb.flags.writeable = False
    write_image(tmp_path / "a.png", RasterImage(rgb, noise(3, 16, 1)[:, ::2]))
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.png"), rgb)


def test_threads_read_with_warning_filters_intact(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    write_image(path, RasterImage(noise(5, 7)))
    before = list(warnings.filters)
    threads = [
        threading.Thread(target=lambda: [read_rgb(path) for _ in range(30)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == before


# Folders


def test_images_of_a_folder_are_found_in_order(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpg", "c.Jpeg", "d.webp", "e.txt", ".hidden.png", "f.pcx"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "folder.png" / "z.png").touch()
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "y.png").touch()
    names = ["a.jpg", "b.PNG", "c.Jpeg", "d.webp"]
    assert find_images(tmp_path) == [tmp_path / name for name in names]
    with_folders = [*names, "folder.png/z.png"]
    assert find_images(tmp_path, recursive=True) == [tmp_path / name for name in with_folders]


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/a.png").touch()
    (tmp_path / "elsewhere/back").symlink_to(tmp_path / "given")
    (tmp_path / "given").mkdir()
    (tmp_path / "given/b.png").touch()
    (tmp_path / "given/linked").symlink_to(tmp_path / "elsewhere")
    found = find_images(tmp_path / "given", recursive=True)
    assert found == [tmp_path / "given/b.png", tmp_path / "given/linked/a.png"]


def test_folder_without_images_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="holds no image"):
        find_images(tmp_path)
    with pytest.raises(DataError, match="not an existing folder"):
        find_images(tmp_path / "missing")
    (tmp_path / "a.png").touch()
    with pytest.raises(DataError, match="not an existing folder"):
        find_images(tmp_path / "a.png")

    def refuse(path: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match="cannot be listed: Permission denied"):
        find_images(tmp_path)
