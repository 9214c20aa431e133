"""What is not pixels makes no file unreadable, is kept where it can be, and else is told."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageChops, ImageCms

from anchorsr.errors import ImageError, OutputError
from anchorsr.images.animation import for_format, read_file, read_header
from anchorsr.images.encode import not_kept
from anchorsr.images.io import RasterImage, read_image, write_image
from anchorsr.images.png_chunks import read_chunks
from anchorsr.images.view import size_of, view
from helpers.images import (
    HEIC,
    PNG_SIGNATURE,
    SRGB,
    chunk,
    encoded,
    needs_heic,
    noise,
    png,
    smooth,
)

ROWS = smooth(16, 24)
PLAIN = png(24, 16, 8, 2, b"".join(b"\0" + row.tobytes() for row in ROWS))
HEADER_END = len(PNG_SIGNATURE) + 25


def read(data: bytes, tmp_path: Path, name: str = "a.bin") -> RasterImage:
    path = tmp_path / name
    path.write_bytes(data)
    image = read_image(path)
    assert read_header(path).size == image.size
    return image


def with_chunks(*chunks: bytes, late: bool = False) -> bytes:
    at = len(PLAIN) - 12 if late else HEADER_END
    return PLAIN[:at] + b"".join(chunks) + PLAIN[at:]


def spoiled(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


# PNG


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("name", [b"tEXt", b"tIME", b"gAMA", b"eXIf", b"iCCP", b"prVt"])
def test_a_wrong_checksum_beside_pixels_is_a_note(tmp_path: Path, name: bytes, late: bool) -> None:
    image = read(with_chunks(spoiled(chunk(name, b"what\0ever")), late=late), tmp_path)
    np.testing.assert_array_equal(image.rgb, ROWS)
    assert f"{name.decode()} (damaged)" in image.notes[0]


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"tEXt"])
def test_a_text_of_megabytes_is_left_out_with_a_note(tmp_path: Path, kind: bytes) -> None:
    text = b"x" * 2_000_000
    data = {
        b"zTXt": b"workflow\0\0" + zlib.compress(text),
        b"iTXt": b"workflow\0\1\0\0\0" + zlib.compress(text),
        b"tEXt": b"workflow\0" + text,
    }[kind]
    image = read(with_chunks(chunk(kind, data)), tmp_path)
    np.testing.assert_array_equal(image.rgb, ROWS)
    assert "'workflow' (too long" in image.notes[0]
    assert image.png_text is None


def test_a_profile_of_megabytes_is_kept(tmp_path: Path) -> None:
    profile = (len(SRGB) + 2_000_000).to_bytes(4) + SRGB[4:] + bytes(2_000_000)
    image = read(with_chunks(chunk(b"iCCP", b"a\0\0" + zlib.compress(profile))), tmp_path)
    assert image.icc_profile == profile


@pytest.mark.parametrize("lost", [12, 14, 16, 5])
def test_a_png_whose_end_is_missing_is_whole(tmp_path: Path, lost: int) -> None:
    image = read(PLAIN[:-lost], tmp_path)
    np.testing.assert_array_equal(image.rgb, ROWS)


@pytest.mark.slow
@pytest.mark.parametrize("lost", [17, 30, 60])
def test_a_png_whose_pixels_are_missing_is_not(tmp_path: Path, lost: int) -> None:
    with pytest.raises(ImageError, match="damaged"):
        read(PLAIN[: len(PLAIN) - 12 - lost], tmp_path)


def test_text_of_a_png_is_kept_in_a_png_and_named_for_others(tmp_path: Path) -> None:
    texts = [
        chunk(b"tEXt", b"Author\0Somebody"),
        chunk(b"zTXt", b"prompt\0\0" + zlib.compress(b"a dog")),
        chunk(b"iTXt", "Title\0\0\0de\0Titel\0Größe".encode()),
    ]
    image = read(with_chunks(texts[0], late=True) + b"", tmp_path)
    assert image.png_text == texts[0]
    image = read(with_chunks(*texts), tmp_path)
    write_image(tmp_path / "b.png", image)
    with Image.open(tmp_path / "b.png") as written:
        assert written.text == {"Author": "Somebody", "prompt": "a dog", "Title": "Größe"}
    assert not_kept(image, "PNG") == []
    assert not_kept(image, "JPEG") == ["text (Author, prompt, Title)"]


def test_an_orientation_after_the_pixels_is_seen(tmp_path: Path) -> None:
    block = Image.Exif()
    block[0x0112] = 6
    data = with_chunks(chunk(b"eXIf", block.tobytes().removeprefix(b"Exif\0\0")), late=True)
    assert read(data, tmp_path).size == (24, 16)


# JPEG

PHOTO = encoded(Image.fromarray(smooth(64, 96)), "JPEG", quality=80)
PROGRESSIVE = encoded(Image.fromarray(smooth(64, 96)), "JPEG", quality=80, progressive=True)


@pytest.mark.slow
@pytest.mark.parametrize("data", [PHOTO, PROGRESSIVE])
@pytest.mark.parametrize("end", [b"", b"\0" * 500, b"\xff"])
def test_a_jpeg_without_its_end_marker_is_whole(tmp_path: Path, data: bytes, end: bytes) -> None:
    image = read(data[:-2] + end, tmp_path)
    np.testing.assert_array_equal(image.rgb, read(data, tmp_path, "whole.bin").rgb)
    assert "end of the file is missing" in image.notes[-1]


@pytest.mark.parametrize("padding", [b"", b"\0" * 500, b"\xff\xd9"[:1]])
@pytest.mark.parametrize("lost", [20, 100, 300])
def test_a_jpeg_whose_pixels_are_missing_is_not(tmp_path: Path, lost: int, padding: bytes) -> None:
    for data in (PHOTO, PROGRESSIVE):
        with pytest.raises(ImageError, match="damaged"):
            read(data[:-lost] + padding, tmp_path)


@pytest.mark.parametrize(
    ("marker", "bits", "kind"),
    [
        (0xC1, 12, "12-bit"),
        (0xC2, 12, "12-bit"),
        (0xC3, 8, "lossless"),
        (0xC3, 16, "lossless"),
        (0xC5, 8, "hierarchical"),
        (0xF7, 8, "JPEG-LS"),
    ],
)
def test_an_unusual_kind_of_jpeg_is_refused_by_name(
    tmp_path: Path, marker: int, bits: int, kind: str
) -> None:
    at = PHOTO.index(b"\xff\xc0")
    data = PHOTO[:at] + bytes((0xFF, marker)) + PHOTO[at + 2 : at + 4] + bytes([bits])
    with pytest.raises(ImageError, match=rf"{kind}.*convert it"):
        read(data + PHOTO[at + 5 :], tmp_path)


def test_a_repeated_end_marker_is_nothing_that_is_left_out(tmp_path: Path) -> None:
    assert read(PHOTO + b"\xff\xd9", tmp_path).notes == ()


def test_a_progressive_jpeg_without_its_last_scan_is_not_whole(tmp_path: Path) -> None:
    last = PROGRESSIVE.rindex(b"\xff\xda")
    with pytest.raises(ImageError, match="damaged"):
        read(PROGRESSIVE[:last], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("before", [b"\n", b"\r\n\r\n", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "GIF", "WEBP", "TIFF"])
def test_line_breaks_before_an_image_are_ignored(
    tmp_path: Path, before: bytes, format_name: str
) -> None:
    data = encoded(Image.fromarray(smooth(16, 24)), format_name)
    image = read(before + data, tmp_path)
    np.testing.assert_array_equal(image.rgb, read(data, tmp_path).rgb)
    assert f"{len(before)} B" in image.notes[0]


def segment(marker: int, content: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(content) + 2) + content


IPTC = b"\x1c\x02\x78\x00\x05A dog"
RESOURCES = b"Photoshop 3.0\0" + b"".join(
    b"8BIM" + struct.pack(">HHI", number, 0, len(data)) + data + bytes(len(data) % 2)
    for number, data in ((0x03ED, b"resolution"), (0x0404, IPTC))
)


def test_iptc_and_comment_are_kept_where_they_can_be(tmp_path: Path) -> None:
    data = PHOTO[:2] + segment(0xED, RESOURCES) + segment(0xFE, b"a comment") + PHOTO[2:]
    image = read(data, tmp_path)
    assert (image.iptc, image.comment) == (IPTC, b"a comment")
    assert image.notes == ("left out of the JPEG: Photoshop settings",)
    for name in ("b.jpg", "b.tif"):
        write_image(tmp_path / name, image)
        assert read_image(tmp_path / name).iptc == IPTC
    with Image.open(tmp_path / "b.jpg") as written:
        assert written.info["comment"] == b"a comment"
        assert written.info["photoshop"][0x0404] == IPTC
    assert not_kept(image, "JPEG") == []
    assert not_kept(image, "PNG") == ["IPTC", "the comment"]
    assert not_kept(image, "GIF") == ["IPTC"]


def test_what_else_a_jpeg_holds_is_told(tmp_path: Path) -> None:
    data = PHOTO[:2] + segment(0xEB, b"JP\0\0\0\0\0\0\0\0jumb") + segment(0xE7, b"Maker\0x")
    image = read(data + PHOTO[2:] + b"\0\0\0\x18ftypmp42" + bytes(9), tmp_path)
    assert image.notes == (
        "left out of the JPEG: content credentials (C2PA), APP7 'Maker'",
        "what follows the image is left out: a video (motion photo)",
    )


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP", "JPEG"])
def test_what_follows_an_image_is_told_unless_it_is_padding(tmp_path: Path, kind: str) -> None:
    data = encoded(Image.fromarray(smooth(8, 12)), kind)
    assert read(data, tmp_path).notes == ()
    assert read(data + bytes(7) + b"\r\n", tmp_path).notes == ()
    assert read(data + b"PK\3\4 an archive", tmp_path).notes == (
        "what follows the image is left out: 15 B",
    )


def test_a_colour_chunk_of_another_length_is_told(tmp_path: Path) -> None:
    for name, content in ((b"cICP", bytes([12, 13])), (b"gAMA", bytes(5))):
        image = read(with_chunks(chunk(name, content)), tmp_path)
        assert image.notes == (f"left out of the PNG: {name.decode()} (damaged)",)


def test_other_chunks_of_a_webp_are_told(tmp_path: Path) -> None:
    data = encoded(Image.fromarray(smooth(8, 12)), "WEBP", exif=b"Exif\0\0MM\0*\0\0\0\10\0\0")
    data += b"C2PA" + struct.pack("<I", 4) + b"jumb"
    data = data[:4] + struct.pack("<I", len(data) - 8) + data[8:]
    assert read(data, tmp_path).notes == ("left out of the WebP: C2PA",)


def test_other_extensions_of_a_gif_are_told(tmp_path: Path) -> None:
    data = encoded(Image.fromarray(smooth(8, 12)).quantize(8), "GIF")
    at = 13 + 3 * (2 << (data[10] & 7))
    for block, said in (
        (b"!\xff\x0bXMP DataXMP\x02<x\0", "XMP"),
        (b"!\xff\x0bICCRGBG1012\x02ab\0", "colour profile"),
        (b"!\xff\x0bMGK8BIM0000\x02ab\0", "MGK8BIM0000"),
        (b"!\x01\x0c" + bytes(12) + b"\x02hi\0", "plain text"),
        (b"!\xff\x0bNETSCAPE2.0\x03\1\0\0\0", ""),
    ):
        notes = (f"left out of the GIF: {said}",) if said else ()
        assert read(data[:at] + block + data[at:], tmp_path).notes == notes


def test_other_boxes_of_an_avif_are_told(tmp_path: Path) -> None:
    data = encoded(Image.fromarray(smooth(8, 12)), "AVIF")
    credentials = bytes.fromhex("d8fec3d61b0e483c92975828877ec481") + b"manifest"
    for name, content, said in (
        (b"mpvd", b"a film", "a video (motion photo)"),
        (b"uuid", credentials, "content credentials (C2PA)"),
        (b"uuid", bytes(20), ""),
        (b"free", bytes(20), ""),
    ):
        box = struct.pack(">I4s", 8 + len(content), name) + content
        notes = (f"left out of the AVIF: {said}",) if said else ()
        assert read(data + box, tmp_path).notes == notes


def test_the_second_image_of_a_file_is_told(tmp_path: Path) -> None:
    first, second = (Image.fromarray(noise(16, 24, seed=seed)) for seed in (0, 1))
    data = encoded(first, "MPO", save_all=True, append_images=[second])
    image = read(data, tmp_path)
    assert "2 images" in image.notes[0]
    np.testing.assert_array_equal(image.rgb, read(encoded(first, "JPEG"), tmp_path).rgb)


@pytest.mark.slow
@needs_heic
def test_the_primary_image_of_a_heic_is_read_and_the_others_told(tmp_path: Path) -> None:
    import pillow_heif

    file = pillow_heif.from_pillow(Image.fromarray(smooth(64, 64)))
    file.add_from_pillow(Image.fromarray(smooth(32, 96)))
    file.save(tmp_path / "a.heic", primary_index=1)
    image = read_image(tmp_path / "a.heic")
    assert image.size == (32, 96)
    assert "2 images" in image.notes[0]


def test_cmyk_without_adobes_marker_is_plain(tmp_path: Path) -> None:
    """Only Adobe's programs store inks inverted, and they say so."""
    cmyk = Image.fromarray(smooth(16, 24)).convert("CMYK")
    data = encoded(ImageChops.invert(cmyk), "JPEG", quality=95)
    start = data.index(b"\xff\xee")
    image = read(data[:start] + data[start + 16 :], tmp_path)
    marked = read(encoded(cmyk, "JPEG", quality=95), tmp_path)
    np.testing.assert_allclose(image.rgb.astype(int), marked.rgb, atol=6)
    assert "CMYK" in image.notes[0]
    assert marked.notes == ()


# WebP


def test_a_webp_whose_metadata_is_cut_off_is_whole(tmp_path: Path) -> None:
    block = Image.Exif()
    block[0x010F] = "maker" * 20
    data = encoded(Image.fromarray(ROWS), "WEBP", lossless=True, exif=block.tobytes())
    image = read(data[:-30], tmp_path)
    np.testing.assert_array_equal(image.rgb, ROWS)
    assert "EXIF with it" in image.notes[0]
    with pytest.raises(ImageError, match="damaged"):
        read(data[: len(data) // 2 - 40], tmp_path)


@pytest.mark.parametrize("suffix", [".webp", HEIC])
def test_lossless_stays_lossless_and_can_be_asked_for(tmp_path: Path, suffix: str) -> None:
    art = noise(16, 24) // 64 * 64
    source, result = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    write_image(source, RasterImage(art), lossless=True)
    image = read_image(source)
    np.testing.assert_array_equal(image.rgb, art)
    assert image.lossless
    write_image(result, image)
    np.testing.assert_array_equal(read_image(result).rgb, art)
    for other in (".jpg", ".avif", ".gif"):
        with pytest.raises(OutputError, match="cannot be lossless"):
            write_image(tmp_path / f"c{other}", image, lossless=True)


def test_a_lossless_avif_that_becomes_lossy_is_told(tmp_path: Path) -> None:
    data = bytearray(encoded(Image.fromarray(ROWS), "AVIF", subsampling="4:4:4"))
    for matrix, is_lossless in ((6, False), (0, True)):
        at = data.index(b"nclx") + 8
        data[at : at + 2] = matrix.to_bytes(2)
        image = read(bytes(data), tmp_path)
        assert image.lossless == is_lossless
        told = ["pixels without loss (PNG, WebP and HEIC files can)"] if is_lossless else []
        assert not_kept(image, "AVIF") == told
        assert not_kept(image, "WEBP") == []


@pytest.mark.parametrize(
    "raised",
    [ValueError("encoding error 6"), RuntimeError("ERROR adding frame. WebPEncodingError: 6")],
)
def test_what_does_not_fit_into_a_webp_is_told_with_advice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: Exception
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OutputError, match=r"more detail than a lossy WebP .* --lossless"):
        write_image(tmp_path / "a.webp", RasterImage(ROWS))
    assert list(tmp_path.iterdir()) == []


def test_a_lossless_animation_stays_so(tmp_path: Path) -> None:
    frames = [Image.fromarray(noise(8, 8, seed=seed)) for seed in range(3)]
    for lossless in (True, False):
        data = encoded(
            frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=lossless
        )
        (tmp_path / "a.webp").write_bytes(data)
        assert read_file(tmp_path / "a.webp").lossless is lossless


def test_a_view_reads_its_parts_from_any_place() -> None:
    file = io.BytesIO(bytes(range(200)))
    parts: list[bytes | tuple[int, int]] = [(10, 50), b"between", (50, 60), (60, 90), b"", (5, 7)]
    whole = b"".join(p if isinstance(p, bytes) else file.getvalue()[slice(*p)] for p in parts)
    made = view(file, parts)
    assert made.read() == whole
    for start in range(len(whole) + 3):
        made.seek(start)
        assert made.read(11) == whole[start : start + 11]
    assert size_of(made) == len(whole)


def test_a_png_of_many_chunks_is_read_in_one_go(tmp_path: Path) -> None:
    start = PLAIN.index(b"IDAT") - 4
    data = PLAIN[start + 8 : start + 8 + int.from_bytes(PLAIN[start : start + 4])]
    pieces = b"".join(chunk(b"IDAT", bytes([byte])) for byte in data)
    (tmp_path / "a.png").write_bytes(PLAIN[:start] + pieces + chunk(b"IEND", b""))
    with (tmp_path / "a.png").open("rb") as file:
        raw = read_chunks(file).pixels.raw  # type: ignore[attr-defined]
        assert len(raw._parts) == 1
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").rgb, ROWS)


# Colours


def displayed(image: RasterImage) -> np.ndarray:
    """What a viewer with colour management shows, in sRGB."""
    if image.icc_profile is None:
        return image.rgb
    profile = ImageCms.ImageCmsProfile(io.BytesIO(image.icc_profile))
    shown = ImageCms.profileToProfile(
        Image.fromarray(image.rgb), profile, ImageCms.createProfile("sRGB"), renderingIntent=1
    )
    assert shown is not None
    return np.asarray(shown)


def light(gamma: float) -> bytes:
    return chunk(b"gAMA", struct.pack(">I", round(100_000 / gamma)))


CHROMATICITIES_P3 = chunk(
    b"cHRM", struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
)
P3_IN_SRGB = (234, 51, 35)  # sRGB's red, as values of Display P3


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".tif", ".avif", ".bmp", ".gif", HEIC])
@pytest.mark.parametrize("gamma", [1.0, 1.8])
def test_linear_light_becomes_srgb_in_other_formats(
    tmp_path: Path, suffix: str, gamma: float
) -> None:
    wanted = np.full((16, 24, 3), 99)
    stored = np.rint(((((99 / 255) + 0.055) / 1.055) ** 2.4) ** (1 / gamma) * 255)
    rows = b"".join(b"\0" + bytes([int(stored)]) * 72 for _ in range(16))
    image = read(png(24, 16, 8, 2, rows, light(gamma)), tmp_path)
    write_image(tmp_path / f"b{suffix}", image)
    np.testing.assert_allclose(read_image(tmp_path / f"b{suffix}").rgb, wanted, atol=3)
    write_image(tmp_path / "b.png", image)
    assert read_image(tmp_path / "b.png").png_colour == light(gamma)


def test_a_network_sees_the_curve_of_srgb(tmp_path: Path) -> None:
    rows = b"".join(b"\0" + bytes([32]) * 72 for _ in range(16))
    image = read(png(24, 16, 8, 2, rows, light(1.0), CHROMATICITIES_P3), tmp_path)
    assert for_format(image, "PNG") is image
    seen = for_format(image, "JPEG")
    assert isinstance(seen, RasterImage)
    np.testing.assert_allclose(seen.rgb, 99, atol=1)
    assert (seen.png_colour, seen.icc_profile is None) == (None, False)
    write_image(tmp_path / "b.jpg", image)  # and so it is written by those who do not ask
    np.testing.assert_allclose(read_image(tmp_path / "b.jpg").rgb, 99, atol=1)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".tif", ".avif", ".gif", ".bmp", HEIC])
@pytest.mark.parametrize("label", [chunk(b"cICP", bytes((12, 13, 0, 1))), CHROMATICITIES_P3])
def test_display_p3_is_kept_as_a_profile(tmp_path: Path, suffix: str, label: bytes) -> None:
    rows = b"".join(b"\0" + bytes(P3_IN_SRGB) * 24 for _ in range(16))
    image = read(png(24, 16, 8, 2, rows, label), tmp_path)
    write_image(tmp_path / f"b{suffix}", image)
    written = read_image(tmp_path / f"b{suffix}")
    assert (written.icc_profile is None) == (suffix in (".gif", ".bmp"))
    np.testing.assert_allclose(displayed(written)[8, 8], (255, 0, 0), atol=6)


@pytest.mark.parametrize("transfer", [16, 18])
def test_hdr_stays_a_png_or_is_refused_by_name(tmp_path: Path, transfer: int) -> None:
    label = chunk(b"cICP", bytes((9, transfer, 0, 1)))
    image = read(with_chunks(label), tmp_path)
    write_image(tmp_path / "b.png", image)
    assert read_image(tmp_path / "b.png").png_colour == label
    with pytest.raises(OutputError, match=r"HDR \((PQ|HLG)\)"):
        write_image(tmp_path / "b.jpg", image)


@pytest.mark.slow
@needs_heic
@pytest.mark.parametrize(("primaries", "transfer"), [(12, 13), (9, 16), (9, 18), (1, 13), (1, 8)])
def test_colours_that_only_nclx_tells(tmp_path: Path, primaries: int, transfer: int) -> None:
    import pillow_heif

    path = tmp_path / "a.heic"
    rgb = np.broadcast_to(np.uint8(P3_IN_SRGB), (64, 64, 3)).copy()
    pillow_heif.encode(
        "RGB", (64, 64), rgb.tobytes(), path, quality=95, chroma=444,
        color_primaries=primaries, transfer_characteristics=transfer, save_nclx_profile=True,
    )  # fmt: skip
    if transfer in (16, 18):
        with pytest.raises(ImageError, match=r"HDR \((PQ|HLG)\)"):
            read_image(path)
        return
    image = read_image(path)
    if primaries == 12:
        np.testing.assert_allclose(displayed(image)[9, 9], (255, 0, 0), atol=6)
    else:
        assert image.icc_profile is None
        brighter = transfer == 8
        assert (image.rgb[9, 9, 1] > 100) == brighter


@pytest.mark.parametrize("options", [{}, {"restart_marker_rows": 1}, {"subsampling": 0}])
def test_a_jpeg_with_an_end_marker_that_comes_too_early_is_refused(
    tmp_path: Path, options: dict[str, int]
) -> None:
    """Its decoder makes the missing blocks grey, without a word."""
    buffer = io.BytesIO()
    Image.fromarray(noise(96, 96)).save(buffer, "JPEG", quality=90, **options)
    whole = buffer.getvalue()
    assert not read(whole, tmp_path).notes
    with pytest.raises(ImageError, match="pixels with it"):
        read(whole[: len(whole) * 5 // 6] + b"\xff\xd9", tmp_path)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_a_jpeg_that_ends_in_grey_is_whole(tmp_path: Path, mode: str) -> None:
    buffer = io.BytesIO()
    Image.new(mode, (40, 40), (128,) * len(mode) if mode != "L" else 128).save(buffer, "JPEG")
    assert read(buffer.getvalue(), tmp_path).size == (40, 40)


@pytest.mark.parametrize("kind", [b"CMYK", b"Lab ", b"GRAY"])
def test_a_profile_of_other_channels_is_left_out_with_a_note(tmp_path: Path, kind: bytes) -> None:
    profile = SRGB[:16] + kind + SRGB[20:]
    buffer = io.BytesIO()
    Image.fromarray(smooth(16, 24)).save(buffer, "JPEG", icc_profile=profile)
    image = read(buffer.getvalue(), tmp_path)
    assert image.icc_profile is None
    assert any(f"other channels ({kind.decode().strip()})" in note for note in image.notes)
