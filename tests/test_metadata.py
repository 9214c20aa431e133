"""EXIF, XMP, colour profiles and resolution, read, made true and written."""

import random
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from anchorsr import exif
from anchorsr.images import (
    Picture,
    read_picture,
    read_rgb,
    write_picture,
)
from pictures import (
    KEEPING,
    SRGB,
    chunk,
    encoded,
    exif_block,
    noise,
    png,
    smooth,
)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("format_name", ["PNG", "JPEG", "WEBP"])
def test_orientation_is_applied_once(
    tmp_path: Path, orientation: int, order: str, format_name: str
) -> None:
    block = exif_block(orientation, order)
    path = tmp_path / "a"
    path.write_bytes(encoded(Image.fromarray(noise(5, 7)), format_name, exif=block))
    with Image.open(path) as image:
        expected = np.array(ImageOps.exif_transpose(image))
    picture = read_picture(path)
    np.testing.assert_array_equal(picture.rgb, expected)
    for suffix in (".png", ".jpg", ".webp", ".tif", ".avif"):
        write_picture(tmp_path / f"b{suffix}", picture)
        with Image.open(tmp_path / f"b{suffix}") as image:
            assert image.size == picture.rgb.shape[1::-1]
            assert image.getexif().get(0x0112, 1) == 1
    np.testing.assert_array_equal(read_rgb(tmp_path / "b.png"), expected)


def test_orientation_turns_alpha_and_resolution_too(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    source = Image.fromarray(noise(5, 7, 4))
    source.save(path, exif=exif_block(6), dpi=(100, 300))
    picture = read_picture(path)
    assert picture.alpha is not None
    np.testing.assert_array_equal(picture.alpha, np.rot90(noise(5, 7, 4)[..., 3], -1))
    assert picture.dpi == pytest.approx((300, 100), rel=1e-3)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_impossible_orientation_is_ignored(tmp_path: Path, orientation: int) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(noise(5, 7)).save(path, exif=exif_block(orientation))
    np.testing.assert_array_equal(read_rgb(path), noise(5, 7))


@pytest.mark.parametrize("suffix", KEEPING)
@pytest.mark.parametrize("order", ["<", ">"])
def test_exif_sizes_are_true_when_written(tmp_path: Path, suffix: str, order: str) -> None:
    stated = exif_block(1, order, size=(4, 5))
    path = tmp_path / f"a{suffix}"
    write_picture(path, Picture(smooth(13, 17), exif=stated))
    written = read_picture(path).exif
    assert written is not None
    block = Image.Exif()
    block.load(written)
    fields = block.get_ifd(0x8769)
    assert (fields[0xA003], fields[0xA002]) == (13, 17)


@pytest.mark.parametrize("trailer", [b"", b"maker note"])
def test_thumbnail_is_dropped_and_what_follows_it_stays(tmp_path: Path, trailer: bytes) -> None:
    block = exif_block(3, thumbnail=b"THUMBNAIL" * 20, trailer=trailer)
    path = tmp_path / "a.jpg"
    Image.fromarray(smooth(8, 8)).save(path, exif=block)
    picture = read_picture(path)
    assert picture.exif is not None
    assert b"THUMBNAIL" not in picture.exif
    assert picture.exif.endswith(trailer)
    if trailer:
        assert picture.exif.index(trailer) == block.index(trailer)
    write_picture(tmp_path / "b.jpg", picture)
    with Image.open(tmp_path / "b.jpg") as image:
        assert not image.getexif().get_ifd(0x014A)
        assert not image.getexif().get_ifd(1)


def test_doubled_exif_prefix_is_understood(tmp_path: Path) -> None:
    # Pillow's writer takes one prefix away and leaves the other in the file.
    path = tmp_path / "a.webp"
    Image.fromarray(noise(5, 7)).save(path, exif=b"Exif\0\0" + exif_block(6), lossless=True)
    np.testing.assert_array_equal(read_rgb(path), np.rot90(noise(5, 7), -1))


@pytest.mark.parametrize("format_name", ["PNG", "JPEG", "WEBP"])
def test_damaged_exif_is_ignored(tmp_path: Path, format_name: str) -> None:
    block = exif_block(6, thumbnail=b"THUMBNAIL")
    generator = random.Random(0)
    path = tmp_path / "a"
    source = Image.fromarray(smooth(8, 8))
    blocks = [block[:length] for length in range(6, len(block), 7)]
    blocks += [block[:6] + generator.randbytes(60) for _ in range(5)]
    blocks += [block[:14] + generator.randbytes(60) for _ in range(5)]
    for damaged in blocks:
        path.write_bytes(encoded(source, format_name, exif=damaged))
        picture = read_picture(path)
        assert picture.rgb.shape == (8, 8, 3)
        for suffix in (".png", ".jpg", ".webp", ".tif"):
            write_picture(tmp_path / f"b{suffix}", picture, overwrite=True)
            assert read_rgb(tmp_path / f"b{suffix}").shape == (8, 8, 3)


def test_damaged_exif_without_other_resolution_is_ignored(tmp_path: Path) -> None:
    # Without a JFIF resolution, Pillow looks into EXIF as it opens a JPEG, and warns.
    data = encoded(Image.fromarray(smooth(8, 8)), "JPEG", exif=exif_block(6)[:30])
    path = tmp_path / "a.jpg"
    path.write_bytes(data[:2] + data[20:] if data[2:4] == b"\xff\xe0" else data)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert read_picture(path).exif is None
    assert not caught


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80), st.sampled_from([b"II*\0", b"MM\0*", b""]))
def test_any_exif_bytes_are_survived(data: bytes, start: bytes) -> None:
    orientation, block = exif.upright_exif(b"Exif\0\0" + start + data)
    assert 1 <= orientation <= 8
    if block is not None:
        exif.sized_exif(block, 70_000, 1)


@pytest.mark.parametrize("source_suffix", [".png", ".jpg", ".webp", ".tif", ".avif"])
@pytest.mark.parametrize("suffix", KEEPING)
def test_profile_is_kept(tmp_path: Path, source_suffix: str, suffix: str) -> None:
    source = tmp_path / f"a{source_suffix}"
    Image.fromarray(smooth(8, 8)).save(source, icc_profile=SRGB)
    picture = read_picture(source)
    assert picture.icc_profile == SRGB
    write_picture(tmp_path / f"b{suffix}", picture)
    assert read_picture(tmp_path / f"b{suffix}").icc_profile == SRGB


def test_profile_that_does_not_fit_the_channels_is_not_written(tmp_path: Path) -> None:
    grey_profile = SRGB[:16] + b"GRAY" + SRGB[20:]
    picture = Picture(np.zeros((2, 2, 3), np.uint8), grey=True, icc_profile=grey_profile)
    for suffix, expected in ((".png", grey_profile), (".jpg", grey_profile), (".webp", None)):
        write_picture(tmp_path / f"a{suffix}", picture)
        assert read_picture(tmp_path / f"a{suffix}").icc_profile == expected


@pytest.mark.parametrize("profile", [b"no profile", b"x" * 500, SRGB[: len(SRGB) // 2]])
@pytest.mark.parametrize("format_name", ["PNG", "JPEG", "WEBP"])
def test_damaged_profile_is_ignored(tmp_path: Path, profile: bytes, format_name: str) -> None:
    path = tmp_path / "a"
    path.write_bytes(encoded(Image.fromarray(smooth(8, 8)), format_name, icc_profile=profile))
    assert read_picture(path).icc_profile is None


def test_profile_that_does_not_decompress_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(1, 1, 8, 0, b"\0\7", chunk(b"iCCP", b"name\0\0not deflated")))
    assert read_picture(path).icc_profile is None


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_resolution_is_kept(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    write_picture(path, Picture(smooth(4, 4), dpi=(300.0, 150.0)))
    assert read_picture(path).dpi == pytest.approx((300, 150), rel=1e-3)


@pytest.mark.parametrize("suffix", [*KEEPING, ".gif"])
@pytest.mark.parametrize("dpi", [(0.0, 72.0), (1e9, 1e9), (float("nan"), 72.0)])
def test_impossible_resolution_is_not_written(
    tmp_path: Path, suffix: str, dpi: tuple[float, float]
) -> None:
    write_picture(tmp_path / f"a{suffix}", Picture(smooth(4, 4), dpi=dpi))
    assert read_picture(tmp_path / f"a{suffix}").dpi is None


def test_webp_of_a_picture_with_resolution_is_written_without_it(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.webp", Picture(smooth(4, 4), dpi=(300.0, 150.0)))
    assert read_picture(tmp_path / "a.webp").dpi is None


@pytest.mark.parametrize("name", ["dpi", "exif", "icc_profile", "transparency"])
@pytest.mark.parametrize("colour_type", [0, 2])
def test_text_named_like_metadata_is_ignored(tmp_path: Path, name: str, colour_type: int) -> None:
    path = tmp_path / "a.png"
    text = chunk(b"tEXt", name.encode() + b"\x0072")
    path.write_bytes(png(1, 1, 8, colour_type, b"\0\7\7\7"[: 2 + colour_type], text))
    picture = read_picture(path)
    assert picture.rgb.tolist() == [[[7, 7, 7]]]
    assert picture.alpha is picture.dpi is picture.icc_profile is picture.exif is None


def test_long_exif_is_left_out_of_jpeg_only(tmp_path: Path) -> None:
    picture = Picture(smooth(4, 4), exif=exif_block(1) + bytes(70_000))
    write_picture(tmp_path / "a.jpg", picture)
    write_picture(tmp_path / "a.png", picture)
    assert read_picture(tmp_path / "a.jpg").exif is None
    assert read_picture(tmp_path / "a.png").exif is not None
