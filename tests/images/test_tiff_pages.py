"""Which page of a TIFF is the picture, what is refused by name, and GeoTIFF."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anchorsr.errors import ImageError
from anchorsr.images import tiff_pages
from anchorsr.images.animation import read_header
from anchorsr.images.encode import not_kept
from anchorsr.images.io import read_image, write_image
from anchorsr.inference.raster import RgbUpscaler
from anchorsr.inference.upscaler import upscale_image
from helpers.images import smooth

Fields = dict[int, tuple[str, tuple[float, ...]]]
SMALL, LARGE = smooth(8, 12), smooth(16, 24)
SUBFILE, OLD_SUBFILE, PHOTOMETRIC, SUB_PAGES = 0x00FE, 0x00FF, 0x0106, 0x014A
_KINDS = {"B": 1, "s": 2, "H": 3, "I": 4, "d": 12, "b": 6}


def tiff(*pages: tuple[np.ndarray, Fields], order: str = "<", below: int = 0) -> bytes:
    """Build an uncompressed TIFF by hand; the last `below` pages are SubIFDs of the first."""
    data = b""
    places = []
    start = 8
    blocks = []
    for pixels, extra in pages:
        channels = pixels.shape[2] if pixels.ndim == 3 else 1
        fields: Fields = {
            0x0100: ("H", (pixels.shape[1],)),
            0x0101: ("H", (pixels.shape[0],)),
            0x0102: ("H", (8,) * channels),
            0x0103: ("H", (1,)),
            PHOTOMETRIC: ("H", (2 if channels > 2 else 1,)),
            0x0111: ("I", (start,)),
            0x0115: ("H", (channels,)),
            0x0116: ("H", (pixels.shape[0],)),
            0x0117: ("I", (pixels.nbytes,)),
            **extra,
        }
        data += pixels.tobytes()
        start += pixels.nbytes
        blocks.append(fields)

    def size(fields: Fields) -> int:
        longer = [v for v in map(packed, fields.values()) if len(v) > 4]
        return 2 + 12 * len(fields) + 4 + sum(len(value) for value in longer)

    def packed(field: tuple[str, tuple[float, ...]]) -> bytes:
        return struct.pack(f"{order}{len(field[1])}{field[0]}", *field[1])

    if below:
        blocks[0][SUB_PAGES] = ("I", (0,) * below)
    for fields in blocks:
        places.append(start)
        start += size(fields)
    if below:
        blocks[0][SUB_PAGES] = ("I", tuple(places[-below:]))
    chain = [*places[1 : len(places) - below], *[0] * (below + 1)]
    out = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "I", places[0]) + data
    for place, fields, following in zip(places, blocks, chain, strict=True):
        entries, rest = struct.pack(order + "H", len(fields)), b""
        for tag, field in sorted(fields.items()):
            value = packed(field)
            entries += struct.pack(order + "HHI", tag, _KINDS[field[0]], len(field[1]))
            if len(value) > 4:
                entries += struct.pack(order + "I", place + 6 + 12 * len(fields) + len(rest))
                rest += value
            else:
                entries += value.ljust(4, b"\0")
        out += entries + struct.pack(order + "I", following) + rest
    return out


def save(tmp_path: Path, data: bytes, name: str = "a.tif") -> Path:
    (tmp_path / name).write_bytes(data)
    return tmp_path / name


REDUCED: Fields = {SUBFILE: ("I", (1,))}
OLD_REDUCED: Fields = {OLD_SUBFILE: ("H", (2,))}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("mark", [REDUCED, OLD_REDUCED])
@pytest.mark.parametrize(("small_first", "below"), [(True, 0), (False, 0), (True, 1), (False, 1)])
def test_the_picture_is_read_and_not_its_thumbnail(
    tmp_path: Path, order: str, mark: Fields, small_first: bool, below: int
) -> None:
    pages = [(SMALL, mark), (LARGE, Fields())][:: 1 if small_first else -1]
    path = save(tmp_path, tiff(*pages, order=order, below=below))
    np.testing.assert_array_equal(read_image(path).rgb, LARGE)
    assert read_header(path).size == (16, 24)


def test_a_compressed_picture_behind_its_thumbnail(tmp_path: Path) -> None:
    """libtiff reads such pages itself, by their place in the file."""
    buffer = io.BytesIO()
    small, large = Image.fromarray(SMALL), Image.fromarray(LARGE)
    small.save(buffer, "TIFF", save_all=True, append_images=[large], compression="tiff_lzw",
               tiffinfo={SUBFILE: 1})  # fmt: skip
    data = bytearray(buffer.getvalue())
    mark = struct.pack("<HHII", SUBFILE, 4, 1, 1)
    at = data.rindex(mark)
    assert data.index(mark) < at  # Pillow marks both pages
    data[at + 8] = 0
    path = save(tmp_path, bytes(data))
    np.testing.assert_array_equal(read_image(path).rgb, LARGE)


def test_two_pictures_are_refused_at_the_second(tmp_path: Path) -> None:
    path = save(tmp_path, tiff((LARGE, {}), (SMALL, {}), (SMALL, REDUCED)))
    with pytest.raises(ImageError, match="several pages"):
        read_image(path)


@pytest.mark.parametrize("mark", [{}, REDUCED])
def test_the_pages_of_a_long_file_are_not_all_walked(
    tmp_path: Path, mark: Fields, monkeypatch: pytest.MonkeyPatch
) -> None:
    dot = np.zeros((1, 1), np.uint8)
    path = save(tmp_path, tiff(*[(dot, mark)] * 500))
    walked = []
    read_page = tiff_pages._Reader._page

    def counting(self: object, offset: int) -> object:
        walked.append(offset)
        return read_page(self, offset)  # type: ignore[arg-type]

    monkeypatch.setattr(tiff_pages._Reader, "_page", counting)
    with pytest.raises(ImageError, match="several pages"):
        read_image(path)
    assert len(walked) == (101 if mark else 2)


RAW_MARKS: list[tuple[Fields, Fields]] = [
    (REDUCED, {PHOTOMETRIC: ("H", (32803,))}),
    ({}, {PHOTOMETRIC: ("H", (34892,))}),
    (REDUCED | {0xC612: ("B", (1, 4, 0, 0))}, {}),
    (REDUCED, {0x0103: ("H", (34713,))}),
]


@pytest.mark.parametrize("below", [0, 1])
@pytest.mark.parametrize("marks", RAW_MARKS)
def test_a_camera_raw_file_is_refused_by_that_name(
    tmp_path: Path, marks: tuple[Fields, Fields], below: int
) -> None:
    path = save(tmp_path, tiff((SMALL, marks[0]), (LARGE, marks[1]), below=below))
    with pytest.raises(ImageError, match="camera raw file; develop it first"):
        read_image(path)


@pytest.mark.parametrize(
    "start",
    [
        b"IIRO\x08\0\0\0",
        b"IIU\0\x18\0\0\0",
        b"FUJIFILMCCD-RAW 0201",
        b"\0\0\0\x18ftypcrx ",
        b"FOVb",
    ],
)
def test_other_camera_raw_files_too(tmp_path: Path, start: bytes) -> None:
    with pytest.raises(ImageError, match="camera raw file"):
        read_image(save(tmp_path, start + bytes(100), "a.bin"))


FOUR, FIVE = np.dstack((LARGE, LARGE[:, :, 0])), np.dstack((LARGE, LARGE[:, :, :2]))


@pytest.mark.parametrize(
    ("pixels", "extras"), [(FOUR, (0,)), (FOUR, None), (FIVE, (2, 0)), (LARGE[:, :, :2], (0,))]
)
def test_channels_that_are_neither_colour_nor_transparency_are_refused(
    tmp_path: Path, pixels: np.ndarray, extras: tuple[int, ...] | None
) -> None:
    fields: Fields = {} if extras is None else {0x0152: ("H", extras)}
    path = save(tmp_path, tiff((np.ascontiguousarray(pixels), fields)))
    with pytest.raises(ImageError, match="more than its colours have, such as near infrared"):
        read_image(path)


@pytest.mark.parametrize("kind", [1, 2])
def test_transparency_is_no_such_channel(tmp_path: Path, kind: int) -> None:
    opaque = np.dstack((LARGE, np.full(LARGE.shape[:2], 255, np.uint8)))
    path = save(tmp_path, tiff((opaque, {0x0152: ("H", (kind,))})))
    np.testing.assert_array_equal(read_image(path).rgb, LARGE)


def test_signed_numbers_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path, tiff((LARGE[:, :, 0].copy(), {0x0153: ("H", (2,))})))
    with pytest.raises(ImageError, match="signed numbers"):
        read_image(path)


@pytest.mark.parametrize("numbers", [1, 3])
def test_numbers_that_are_not_handled_are_refused_by_name(tmp_path: Path, numbers: int) -> None:
    wide: Fields = {0x0102: ("H", (32, 32, 32)), 0x0153: ("H", (numbers,))}
    path = save(tmp_path, tiff((LARGE, wide)))
    with pytest.raises(ImageError, match={1: "32-bit numbers", 3: "floating-point"}[numbers]):
        read_image(path)


def test_a_big_endian_bigtiff_is_refused_by_name(tmp_path: Path) -> None:
    """Pillow takes it for an ordinary TIFF, which would be called damaged."""
    path = tmp_path / "a.tif"
    path.write_bytes(b"MM\0+\0\x08\0\0" + struct.pack(">QQ", 16, 0) + bytes(64))
    with pytest.raises(ImageError, match="BigTIFF in big-endian order"):
        read_image(path)


# GeoTIFF

PLACE: Fields = {
    0x830E: ("d", (10.0, 20.0, 0.0)),
    0x8482: ("d", (2.0, 1.0, 0.0, 500_000.0, 4_100_000.0, 0.0)),
    0x87AF: ("H", (1, 1, 0, 1, 1025, 0, 1, 1)),
}
MATRIX: Fields = {
    0x85D8: ("d", (10, 1, 0, 5e5, 2, -20, 0, 4e6, 0, 0, 0, 0, 0, 0, 0, 1)),
    0x87AF: ("H", (1, 1, 0, 1, 1025, 0, 1, 1)),
}


def as_points(fields: Fields) -> Fields:
    return fields | {0x87AF: ("H", (1, 1, 0, 1, 1025, 0, 1, 2))}


def on_the_map(path: Path, column: float, row: float) -> tuple[float, float]:
    """Where a point is, in pixels from the upper left corner of the image."""
    with Image.open(path) as image:
        tags = dict(image.tag_v2)  # type: ignore[attr-defined]
    if tags[0x87AF][7] == 2:
        column, row = column - 0.5, row - 0.5
    if 0x85D8 in tags:
        m = tags[0x85D8]
        return m[0] * column + m[1] * row + m[3], m[4] * column + m[5] * row + m[7]
    (i, j, _, x, y, _), (across, down, _) = tags[0x8482], tags[0x830E]
    return x + (column - i) * across, y - (row - j) * down


class Repeating:
    """In place of a network."""

    factor = 3

    def upscale_rgb(self, rgb: np.ndarray) -> np.ndarray:
        return rgb.repeat(3, axis=0).repeat(3, axis=1)

    def strips(self, rgb: np.ndarray) -> None:
        raise NotImplementedError


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("fields", [PLACE, as_points(PLACE), MATRIX, as_points(MATRIX)])
def test_a_geotiff_stays_where_it_is(tmp_path: Path, fields: Fields, order: str) -> None:
    text = {tag: value for tag, value in fields.items() if value[0] != "s"}
    path = save(tmp_path, tiff((LARGE, text), order=order))
    upscaler: RgbUpscaler = Repeating()  # type: ignore[assignment]
    image = upscale_image(read_image(path), upscaler)
    write_image(tmp_path / "b.tif", image)
    for column, row in ((0, 0), (24, 16), (7, 3)):
        expected = on_the_map(path, column, row)
        np.testing.assert_allclose(on_the_map(tmp_path / "b.tif", 3 * column, 3 * row), expected)
    assert read_image(tmp_path / "b.tif").notes == ()
    assert not_kept(image, "PNG") == ["the place on the map (GeoTIFF)"]


def test_fields_that_are_not_kept_are_told(tmp_path: Path) -> None:
    fields: Fields = {0x935C: ("B", (1,) * 9), 0xC000: ("H", (7,)), 0x010D: ("B", (65, 0))}
    image = read_image(save(tmp_path, tiff((LARGE, fields))))
    assert image.notes == ("left out of the TIFF: document name, Photoshop layers, field 49152",)


def test_primaries_of_a_tiff_become_a_profile(tmp_path: Path) -> None:
    from PIL.TiffImagePlugin import IFDRational

    path = tmp_path / "a.tif"
    white = tuple(IFDRational(value, 10_000) for value in (3127, 3290))
    p3 = tuple(IFDRational(value, 1000) for value in (680, 320, 265, 690, 150, 60))
    Image.fromarray(LARGE).save(path, tiffinfo={0x013E: white, 0x013F: p3})
    assert read_image(path).icc_profile is not None
