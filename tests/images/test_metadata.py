"""EXIF, XMP, colour profiles and resolution: read, adjusted and written."""

import io
import json
import random
import shutil
import struct
import subprocess
import warnings
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps, PngImagePlugin

from anchorsr.images import exif, xmp
from anchorsr.images.image import Metadata
from anchorsr.images.io import RasterImage, read_image, read_rgb, write_image
from anchorsr.images.tiff import read_tiff_fields, write_tiff
from anchorsr.inference.upscaler import Upscaler, upscale_image
from helpers.images import HEIC, KEEPING, SRGB, chunk, encoded, exif_block, noise, png, smooth


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("format_name", ["PNG", "JPEG", "WEBP"])
def test_orientation_is_applied_once(
    tmp_path: Path, orientation: int, order: str, format_name: str
) -> None:
    block = exif_block(orientation, order)
    path = tmp_path / "a"
    path.write_bytes(encoded(Image.fromarray(noise(5, 7)), format_name, exif=block))
    with Image.open(path) as pil_image:
        expected = np.array(ImageOps.exif_transpose(pil_image))
    image = read_image(path)
    np.testing.assert_array_equal(image.rgb, expected)
    for suffix in (".png", ".jpg", ".webp", ".tif", ".avif"):
        write_image(tmp_path / f"b{suffix}", image)
        with Image.open(tmp_path / f"b{suffix}") as pil_image:
            assert pil_image.size == image.rgb.shape[1::-1]
            assert pil_image.getexif().get(0x0112, 1) == 1
    np.testing.assert_array_equal(read_rgb(tmp_path / "b.png"), expected)


def test_orientation_turns_alpha_and_resolution_too(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    source = Image.fromarray(noise(5, 7, 4))
    source.save(path, exif=exif_block(6), dpi=(100, 300))
    image = read_image(path)
    assert image.alpha is not None
    np.testing.assert_array_equal(image.alpha, np.rot90(noise(5, 7, 4)[..., 3], -1))
    assert image.dpi == pytest.approx((300, 100), rel=1e-3)


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
    write_image(path, RasterImage(smooth(13, 17), exif=stated))
    written = read_image(path).exif
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
    image = read_image(path)
    assert image.exif is not None
    assert b"THUMBNAIL" not in image.exif
    assert image.exif.endswith(trailer)
    if trailer:
        assert image.exif.index(trailer) == block.index(trailer)
    write_image(tmp_path / "b.jpg", image)
    with Image.open(tmp_path / "b.jpg") as pil_image:
        assert not pil_image.getexif().get_ifd(0x014A)
        assert not pil_image.getexif().get_ifd(1)


def test_doubled_exif_prefix_is_understood(tmp_path: Path) -> None:
    # Pillow's writer removes one prefix and leaves the other in the file.
    path = tmp_path / "a.webp"
    Image.fromarray(noise(5, 7)).save(path, exif=b"Exif\0\0" + exif_block(6), lossless=True)
    np.testing.assert_array_equal(read_rgb(path), np.rot90(noise(5, 7), -1))


@pytest.mark.slow
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
        image = read_image(path)
        assert image.rgb.shape == (8, 8, 3)
        for suffix in (".png", ".jpg", ".webp", ".tif"):
            write_image(tmp_path / f"b{suffix}", image, overwrite=True)
            assert read_rgb(tmp_path / f"b{suffix}").shape == (8, 8, 3)


def test_damaged_exif_without_other_resolution_is_ignored(tmp_path: Path) -> None:
    # Without a JFIF resolution, Pillow reads EXIF as it opens a JPEG, and warns.
    data = encoded(Image.fromarray(smooth(8, 8)), "JPEG", exif=exif_block(6)[:30])
    path = tmp_path / "a.jpg"
    path.write_bytes(data[:2] + data[20:] if data[2:4] == b"\xff\xe0" else data)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert read_image(path).exif is None
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
    image = read_image(source)
    assert image.icc_profile == SRGB
    write_image(tmp_path / f"b{suffix}", image)
    assert read_image(tmp_path / f"b{suffix}").icc_profile == SRGB


def test_profile_that_does_not_fit_the_channels_is_not_written(tmp_path: Path) -> None:
    grey_profile = SRGB[:16] + b"GRAY" + SRGB[20:]
    image = RasterImage(np.zeros((2, 2, 3), np.uint8), grey=True, icc_profile=grey_profile)
    for suffix, expected in ((".png", grey_profile), (".jpg", grey_profile), (".webp", None)):
        write_image(tmp_path / f"a{suffix}", image)
        assert read_image(tmp_path / f"a{suffix}").icc_profile == expected


@pytest.mark.parametrize("profile", [b"no profile", b"x" * 500, SRGB[: len(SRGB) // 2]])
@pytest.mark.parametrize("format_name", ["PNG", "JPEG", "WEBP"])
def test_damaged_profile_is_ignored(tmp_path: Path, profile: bytes, format_name: str) -> None:
    path = tmp_path / "a"
    path.write_bytes(encoded(Image.fromarray(smooth(8, 8)), format_name, icc_profile=profile))
    assert read_image(path).icc_profile is None


def test_profile_that_does_not_decompress_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(1, 1, 8, 0, b"\0\7", chunk(b"iCCP", b"name\0\0not deflated")))
    assert read_image(path).icc_profile is None


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_resolution_is_kept(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    write_image(path, RasterImage(smooth(4, 4), dpi=(300.0, 150.0)))
    assert read_image(path).dpi == pytest.approx((300, 150), rel=1e-3)


@pytest.mark.parametrize("suffix", [*KEEPING, ".gif"])
@pytest.mark.parametrize("dpi", [(0.0, 72.0), (1e9, 1e9), (float("nan"), 72.0)])
def test_impossible_resolution_is_not_written(
    tmp_path: Path, suffix: str, dpi: tuple[float, float]
) -> None:
    write_image(tmp_path / f"a{suffix}", RasterImage(smooth(4, 4), dpi=dpi))
    assert read_image(tmp_path / f"a{suffix}").dpi is None


def test_webp_of_an_image_with_resolution_is_written_without_it(tmp_path: Path) -> None:
    write_image(tmp_path / "a.webp", RasterImage(smooth(4, 4), dpi=(300.0, 150.0)))
    assert read_image(tmp_path / "a.webp").dpi is None


@pytest.mark.parametrize("name", ["dpi", "exif", "icc_profile", "transparency"])
@pytest.mark.parametrize("colour_type", [0, 2])
def test_text_named_like_metadata_is_ignored(tmp_path: Path, name: str, colour_type: int) -> None:
    path = tmp_path / "a.png"
    text = chunk(b"tEXt", name.encode() + b"\x0072")
    path.write_bytes(png(1, 1, 8, colour_type, b"\0\7\7\7"[: 2 + colour_type], text))
    image = read_image(path)
    assert image.rgb.tolist() == [[[7, 7, 7]]]
    assert image.alpha is image.dpi is image.icc_profile is image.exif is None


def test_long_exif_is_left_out_of_jpeg_only(tmp_path: Path) -> None:
    image = RasterImage(smooth(4, 4), exif=exif_block(1) + bytes(70_000))
    write_image(tmp_path / "a.jpg", image)
    write_image(tmp_path / "a.png", image)
    assert read_image(tmp_path / "a.jpg").exif is None
    assert read_image(tmp_path / "a.png").exif is not None


@pytest.mark.parametrize("suffix", [".webp", ".avif", HEIC])
def test_resolution_that_only_exif_states_is_kept(tmp_path: Path, suffix: str) -> None:
    block = Image.Exif()
    block[0x011A], block[0x011B], block[0x0128] = 100.0, 50.0, 3  # a centimetre
    path = tmp_path / f"a{suffix}"
    write_image(path, RasterImage(smooth(8, 8), exif=b"Exif\0\0" + block.tobytes()[6:]))
    image = read_image(path)
    assert image.dpi == pytest.approx((254, 127))
    write_image(tmp_path / "b.png", image)
    assert read_image(tmp_path / "b.png").dpi == pytest.approx((254, 127), rel=1e-3)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80), st.sampled_from([b"II*\0", b"MM\0*", b""]))
def test_any_exif_bytes_are_survived_by_tiff_and_avif(data: bytes, start: bytes) -> None:
    block = b"Exif\0\0" + start + data
    exif.exif_dpi(block)
    assert exif.without_orientation(block).startswith(b"Exif\0\0")
    file = io.BytesIO()
    write_tiff(file, (2, 2), [np.zeros((2, 2, 3), np.uint8)], Metadata(exif=block))
    encoded_tiff = file.getvalue()
    read_tiff_fields(io.BytesIO(encoded_tiff), (1, 1))
    read_tiff_fields(io.BytesIO(start + data), (1, 1))


def test_orientation_is_taken_out_and_nothing_else_moves() -> None:
    block = exif_block(6, ">", thumbnail=b"T" * 9, trailer=b"maker note")
    shorter = exif.without_orientation(block)
    assert len(shorter) == len(block)
    assert shorter.index(b"maker note") == block.index(b"maker note")
    read = Image.Exif()
    read.load(shorter)
    assert 0x0112 not in read
    assert read.get_ifd(0x8769) == {0xA002: 9, 0xA003: 9}
    assert b"T" * 9 in shorter
    assert b"T" * 9 not in (exif.upright_exif(shorter)[1] or b"")
    assert exif.without_orientation(shorter) == shorter


# XMP

PACKET = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF
 xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
 <rdf:Description rdf:about="" xmlns:t="http://ns.adobe.com/tiff/1.0/"
  xmlns:exif="http://ns.adobe.com/exif/1.0/" xmlns:dc="http://purl.org/dc/elements/1.1/"
  xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:xmpNote="http://ns.adobe.com/xmp/note/"
  xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/"
  t:Orientation="6" exif:PixelXDimension="7" xmp:Rating="4" hdrgm:Version="1.0"
  xmpNote:HasExtendedXMP="0123">
  <exif:PixelYDimension>5</exif:PixelYDimension><t:ImageWidth>7</t:ImageWidth>
  <xmp:Thumbnails><rdf:Alt><rdf:li>base64</rdf:li></rdf:Alt></xmp:Thumbnails>
  <dc:title><rdf:Alt><rdf:li xml:lang="x-default">Ein süßer Hund &amp; mehr</rdf:li></rdf:Alt>
  </dc:title>
 </rdf:Description></rdf:RDF></x:xmpmeta>
<?xpacket end="w"?>""".encode()


def xmp_source(path: Path, packet: bytes) -> None:
    options: dict[str, object] = {"xmp": packet}
    if path.suffix == ".png":
        text = PngImagePlugin.PngInfo()
        text.add_itxt("XML:com.adobe.xmp", packet.decode())
        options = {"pnginfo": text}
    if path.suffix == ".tif":
        options = {"tiffinfo": {700: packet}}
    Image.fromarray(smooth(5, 7)).save(path, **options)


@pytest.mark.slow
@pytest.mark.parametrize("source_suffix", [".png", ".jpg", ".webp", ".tif", ".avif"])
@pytest.mark.parametrize("suffix", KEEPING)
def test_xmp_is_kept_and_true(tmp_path: Path, source_suffix: str, suffix: str) -> None:
    source = tmp_path / f"a{source_suffix}"
    xmp_source(source, PACKET)
    write_image(tmp_path / f"b{suffix}", replace(read_image(source), rgb=smooth(15, 21)))
    written = read_image(tmp_path / f"b{suffix}").xmp
    assert written is not None
    text = written.decode()
    for kept in (
        't:Orientation="1"',
        'exif:PixelXDimension="21"',
        "<exif:PixelYDimension>15<",
        "<t:ImageWidth>21<",
        'xmp:Rating="4"',
        "Ein süßer Hund &amp; mehr",
        '<?xpacket begin="\ufeff"',
        '<?xpacket end="w"?>',
    ):
        assert kept in text
    for gone in ("Thumbnails", "base64", "HasExtendedXMP", "hdrgm:Version"):
        assert gone not in text


@pytest.mark.parametrize(
    "packet",
    [b"no xml", PACKET[: len(PACKET) // 2], b"<a>" * 5000 + b"</a>" * 5000, b"\xff\xfe<\0a\0/\0>"],
    ids=["words", "half", "deep", "other encoding"],
)
def test_damaged_xmp_is_ignored(tmp_path: Path, packet: bytes) -> None:
    xmp_source(tmp_path / "a.jpg", packet)
    assert read_image(tmp_path / "a.jpg").rgb.shape == (5, 7, 3)
    for suffix in (".png", ".webp"):
        image = RasterImage(smooth(5, 7), xmp=packet)
        write_image(tmp_path / f"b{suffix}", image, overwrite=True)
        assert read_image(tmp_path / f"b{suffix}").xmp in (None, b"<a/>")


@pytest.mark.slow
def test_entities_without_end_are_not_followed() -> None:
    names = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 30))
    packet = f'<!DOCTYPE x [<!ENTITY a0 "aaaaaaaaaa">{names}]><x>&a29;</x>'
    assert xmp.upright_xmp(packet.encode()) is None


def test_what_a_png_says_of_its_values_is_kept_in_a_png(tmp_path: Path) -> None:
    gamma = chunk(b"gAMA", struct.pack(">I", 100_000))
    primaries = chunk(b"cICP", bytes([12, 13, 0, 1]))  # Display P3
    wrong = chunk(b"cICP", b"no")
    rows = b"".join(b"\0" + bytes(row) for row in smooth(5, 7).reshape(5, -1))
    source = tmp_path / "a.png"
    source.write_bytes(png(7, 5, 8, 2, rows, gamma, wrong, primaries))
    image = read_image(source)
    assert image.png_colour == gamma + primaries
    for suffix, kept in ((".png", gamma + primaries), (".webp", None), (".tif", None)):
        write_image(tmp_path / f"b{suffix}", image)
        written = read_image(tmp_path / f"b{suffix}")
        assert written.png_colour == kept
    # A profile that the file cannot hold, and that was applied instead, replaces both.
    grey_profile = SRGB[:16] + b"GRAY" + SRGB[20:]
    write_image(tmp_path / "c.png", replace(image, icc_profile=grey_profile))
    assert read_image(tmp_path / "c.png").png_colour is None


def test_line_breaks_and_tabs_of_a_packet_stay_what_they_are() -> None:
    packet = (
        b'<r:RDF xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><r:Description xmlns:p="p:"'
        b' p:Instructions="line 1&#xA;line&#9;2&#13;" ><p:Title>a&#xD;b\nc</p:Title>'
        b"</r:Description></r:RDF>"
    )
    upright = xmp.upright_xmp(packet)
    assert upright is not None
    before, after = (ElementTree.fromstring(one)[0] for one in (packet, upright))
    assert after.attrib == before.attrib == {"{p:}Instructions": "line 1\nline\t2\r"}
    assert after[0].text == before[0].text == "a\rb\nc"


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(st.integers(0, len(PACKET) - 1), st.binary(min_size=1, max_size=6))
def test_any_changed_packet_is_survived(place: int, change: bytes) -> None:
    packet = PACKET[:place] + change + PACKET[place + len(change) :]
    upright = xmp.upright_xmp(packet)
    if upright is not None:
        xmp.sized_xmp(upright, 1, 70_000)


def test_long_xmp_is_left_out_of_jpeg_only(tmp_path: Path) -> None:
    packet = PACKET.replace(b"mehr", b"mehr" * 20_000)
    for suffix, kept in ((".jpg", False), (".png", True), (".tif", True)):
        write_image(tmp_path / f"a{suffix}", RasterImage(smooth(5, 7), xmp=packet))
        assert (read_image(tmp_path / f"a{suffix}").xmp is not None) == kept


# TIFF


def test_exif_goes_into_a_tiff_and_comes_out_of_it(tmp_path: Path) -> None:
    for order in "<>":
        block = Image.Exif()
        block.endian = order
        block[0x010F], block[0x0110], block[0x013B] = "Maker", "Model", "An artist"
        block.get_ifd(0x8769).update({0x9003: "2020:01:02 03:04:05", 0x829A: 0.008, 0xA002: 9})
        block.get_ifd(0x8825).update({1: "N", 2: (48.0, 30.0, 1.5)})
        data = block.tobytes()
        write_image(tmp_path / "a.tif", RasterImage(smooth(4, 5), exif=data), overwrite=True)
        written = read_image(tmp_path / "a.tif").exif
        assert written is not None
        again = Image.Exif()
        again.load(written)
        assert (again[0x010F], again[0x0110], again[0x013B]) == ("Maker", "Model", "An artist")
        assert again.get_ifd(0x8769)[0x9003] == "2020:01:02 03:04:05"
        assert again.get_ifd(0x8769)[0xA002] == 5
        assert float(again.get_ifd(0x8769)[0x829A]) == 0.008
        assert again.get_ifd(0x8825) == {1: "N", 2: (48.0, 30.0, 1.5)}


def test_tiff_without_exif_or_resolution_says_none(tmp_path: Path) -> None:
    write_image(tmp_path / "a.tif", RasterImage(smooth(4, 5)))
    image = read_image(tmp_path / "a.tif")
    assert image.exif is image.xmp is image.dpi is image.icc_profile is None


@pytest.mark.parametrize("orientation", range(1, 9))
def test_tiff_is_turned_once(tmp_path: Path, orientation: int) -> None:
    source = Image.fromarray(noise(5, 7))
    source.save(tmp_path / "a.tif", tiffinfo={274: orientation}, dpi=(100, 300))
    tagged = Image.Exif()
    tagged[0x0112] = orientation
    source.getexif()[0x0112] = orientation
    expected = np.array(ImageOps.exif_transpose(source))
    image = read_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(image.rgb, expected)
    assert image.dpi == ((100, 300) if orientation < 5 else (300, 100))
    for suffix in (".tif", ".jpg"):
        write_image(tmp_path / f"b{suffix}", image)
        assert read_image(tmp_path / f"b{suffix}").rgb.shape == expected.shape
    np.testing.assert_array_equal(read_rgb(tmp_path / "b.tif"), expected)


@pytest.mark.parametrize("suffix", [HEIC])
def test_heic_is_turned_once(tmp_path: Path, suffix: str) -> None:
    import pillow_heif

    pixels = smooth(16, 32)
    buffer = io.BytesIO()
    pillow_heif.encode("RGB", (32, 16), pixels.tobytes(), buffer, quality=100, exif=exif_block(6))
    (tmp_path / "a.heic").write_bytes(buffer.getvalue())
    image = read_image(tmp_path / "a.heic")
    assert image.rgb.shape == (32, 16, 3)
    assert np.abs(image.rgb.astype(int) - np.rot90(pixels, -1)).mean() < 8
    write_image(tmp_path / f"b{suffix}", image)
    assert read_image(tmp_path / f"b{suffix}").rgb.shape == (32, 16, 3)


# Colours


@pytest.mark.slow
@pytest.mark.parametrize(("model", "grain"), [("abpn", 0), ("quality", 1)])
@pytest.mark.parametrize("suffix", [*KEEPING, ".gif"])
def test_colours_of_an_image_with_a_profile_stay(
    tmp_path: Path, suffix: str, model: str, grain: int
) -> None:
    """Flat areas of an upscaled image are within a level of a plain resize, under one profile.

    `quality` leaves dots of one level there, of which JPEG makes up to four more, and AVIF a mean
    that is a tenth of a level further off.
    """
    colours = np.array([[[200, 30, 60], [20, 180, 90]], [[128, 128, 128], [250, 240, 10]]])
    rgb = colours.repeat(24, axis=0).repeat(24, axis=1).astype(np.uint8)
    write_image(tmp_path / "a.png", RasterImage(rgb, icc_profile=SRGB))
    larger = upscale_image(read_image(tmp_path / "a.png"), Upscaler(model, threads=1))
    write_image(tmp_path / f"b{suffix}", larger, quality=100)
    again = read_image(tmp_path / f"b{suffix}")
    assert again.icc_profile == (None if suffix == ".gif" else SRGB)
    limit = {".png": 1, ".tif": 1, ".gif": 1}.get(suffix, 3)  # what the format itself rounds
    for row in range(2):
        for column in range(2):
            place = np.s_[72 * row + 30 : 72 * row + 42, 72 * column + 30 : 72 * column + 42]
            off = again.rgb[place].astype(int) - colours[row, column]
            assert np.abs(off).max() <= (limit + 2 * grain if suffix == ".jpg" else limit)
            mean_limit = 2 + grain / 5 if limit == 3 else 1
            assert np.abs(off.mean(axis=(0, 1))).max() <= mean_limit


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_colours_are_converted_where_their_profile_cannot_be_kept(
    tmp_path: Path, suffix: str
) -> None:
    linear = grey_profile()
    image = RasterImage(np.full((16, 16, 3), 128, np.uint8), grey=True, icc_profile=linear)
    write_image(tmp_path / f"a{suffix}", image, quality=100)
    again = read_image(tmp_path / f"a{suffix}")
    assert again.icc_profile is None
    assert np.abs(again.rgb.astype(int) - 188).max() <= 2  # half of the light, in sRGB


def grey_profile() -> bytes:
    """Build a one-channel profile whose values are proportional to light."""
    curve = b"curv" + bytes(8)
    white = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
    tags = struct.pack(">I", 2) + b"kTRC" + struct.pack(">II", 156, 12)
    tags += b"wtpt" + struct.pack(">II", 168, 20)
    size = 128 + len(tags) + len(curve) + len(white)
    header = struct.pack(">I4sI", size, bytes(4), 0x02400000) + b"mntrGRAYXYZ " + bytes(12)
    header += b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + tags + curve + white


# As another program shows it


@pytest.mark.parametrize("suffix", KEEPING)
def test_exiftool_finds_what_was_there_before(tmp_path: Path, suffix: str) -> None:
    exiftool = shutil.which("exiftool")
    if exiftool is None:
        pytest.skip("needs exiftool")
    source, target = tmp_path / "a.jpg", tmp_path / f"b{suffix}"
    thumbnail = encoded(Image.fromarray(noise(4, 4)), "JPEG")
    block = exif_block(1, size=(40, 60), thumbnail=thumbnail)
    Image.fromarray(smooth(40, 60)).save(source, dpi=(300, 300), icc_profile=SRGB, exif=block)
    about = {
        "IFD0:Make": "Maker", "IFD0:Model": "Model", "IFD0:Artist": "Zoë",
        "ExifIFD:ISO": 200, "ExifIFD:ExposureTime": 0.008, "ExifIFD:FNumber": 2.8,
        "ExifIFD:DateTimeOriginal": "2020:01:02 03:04:05",
        "GPS:GPSLatitudeRef": "N", "GPS:GPSLatitude": 48.5,
        "XMP-dc:Title": "A title", "XMP-xmp:Rating": 4, "XMP-crs:Exposure2012": 0.5,
    }  # fmt: skip
    sizes = {
        "IFD0:Orientation": 6, "XMP-tiff:Orientation": 6,
        "XMP-tiff:ImageWidth": 60, "XMP-exif:ExifImageHeight": 40,
    }  # fmt: skip
    changes = [f"-{name}#={value}" for name, value in (about | sizes).items()]
    subprocess.check_call([exiftool, "-q", "-overwrite_original", *changes, source])
    image = read_image(source)
    write_image(target, replace(image, rgb=smooth(180, 120)))
    shown = subprocess.check_output([exiftool, "-j", "-G1", "-n", "-a", target])
    tags = json.loads(shown)[0]
    assert {name: tags.get(name) for name in about} == about
    assert tags.get("IFD0:Orientation", 1) == 1
    assert tags["XMP-tiff:Orientation"] == 1
    assert (tags["ExifIFD:ExifImageWidth"], tags["ExifIFD:ExifImageHeight"]) == (120, 180)
    assert (tags["XMP-tiff:ImageWidth"], tags["XMP-exif:ExifImageHeight"]) == (120, 180)
    assert tags["ICC_Profile:ProfileDescription"] == "sRGB built-in"
    assert not any("Thumbnail" in name for name in tags)
    if suffix == ".png":
        assert tags["PNG-pHYs:PixelsPerUnitX"] == round(300 / 0.0254)
    else:
        resolution = "JFIF" if suffix == ".jpg" else "IFD0"
        if f"{resolution}:XResolution" in tags or suffix in (".jpg", ".tif"):
            assert tags[f"{resolution}:XResolution"] == 300
    checked = subprocess.check_output([exiftool, "-validate", "-warning", "-a", target], text=True)
    lines = [line for line in checked.splitlines() if line.startswith("Warning")]
    minor = ("minor", "Missing required", "tag 0x0103 Compression")  # the last: Deflate is newer
    assert not [line for line in lines if not any(word in line for word in minor)]
