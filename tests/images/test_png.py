"""PNG files as other decoders read them."""

from __future__ import annotations

import importlib
import io
import sys
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from anchorsr.images import png
from anchorsr.images.image import Metadata


@pytest.fixture(params=["isal", "zlib"], autouse=True)
def _compressor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "zlib":
        monkeypatch.setattr(png, "isal_zlib", None)
    elif png.isal_zlib is None:
        pytest.skip("isal is not installed")


def pixels(seed: int, *shape: int, dtype: Any = np.uint8) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def encode_png(array: np.ndarray, metadata: Metadata) -> bytes:
    return b"".join(png.png_parts(len(array), [array], metadata))


def decoded(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (13, 1), (31, 17), (600, 701)])
@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (2, "LA"), (3, "RGB"), (4, "RGBA")])
def test_pillow_reads_the_same_pixels(size: tuple[int, int], channels: int, mode: str) -> None:
    array = pixels(0, *size, channels)
    image = decoded(encode_png(array, Metadata()))
    assert image.mode == mode
    np.testing.assert_array_equal(np.asarray(image).reshape(array.shape), array)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 40), st.integers(1, 40), st.integers(1, 4), st.booleans(), st.integers(1, 999)
)
def test_any_image_comes_back_whatever_the_bands(
    height: int, width: int, channels: int, deep: bool, band: int
) -> None:
    """Undo the filter by hand: each byte is the row above plus the stored difference."""
    array = pixels(2, height, width, channels, dtype=np.uint16 if deep else np.uint8)
    before, png._BAND_BYTES = png._BAND_BYTES, band
    try:
        data = encode_png(array, Metadata())
    finally:
        png._BAND_BYTES = before
    stream, place = b"", 8
    while place < len(data):
        length, name = int.from_bytes(data[place : place + 4]), data[place + 4 : place + 8]
        body = data[place + 8 : place + 8 + length]
        crc = int.from_bytes(data[place + 8 + length : place + 12 + length])
        assert crc == zlib.crc32(name + body)
        stream += body if name == b"IDAT" else b""
        place += 12 + length
    rows = np.frombuffer(zlib.decompress(stream), np.uint8).reshape(height, -1)
    assert (rows[:, 0] == 2).all()
    values = np.cumsum(rows[:, 1:], axis=0, dtype=np.uint8)
    found = values.copy().view(">u2" if deep else np.uint8).reshape(array.shape)
    np.testing.assert_array_equal(found, array)


def test_sixteen_bits_are_kept() -> None:
    array = pixels(3, 9, 8, 1, dtype=np.uint16)
    image = decoded(encode_png(array, Metadata()))
    np.testing.assert_array_equal(np.asarray(image), array[:, :, 0])


def test_any_layout_of_memory_serves_and_is_not_changed() -> None:
    array = pixels(4, 26, 22, 4)
    array.flags.writeable = False
    for view in (array[::2, ::-2, :3], array.transpose(1, 0, 2), np.asfortranarray(array)):
        np.testing.assert_array_equal(np.asarray(decoded(encode_png(view, Metadata()))), view)
    broadcast = np.broadcast_to(pixels(5, 9, 8, 1), (9, 8, 3))
    np.testing.assert_array_equal(np.asarray(decoded(encode_png(broadcast, Metadata()))), broadcast)


def test_profile_exif_and_resolution_are_written() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x010E] = "words"
    metadata = Metadata(icc_profile=profile, exif=exif.tobytes(), dpi=(300, 72))
    data = encode_png(pixels(6, 9, 8, 3), metadata)
    image = decoded(data)
    assert image.info["icc_profile"] == profile
    assert image.getexif()[0x010E] == "words"
    np.testing.assert_allclose(image.info["dpi"], (300, 72), atol=0.02)
    plain = decoded(encode_png(pixels(6, 9, 8, 3), Metadata())).info
    assert not {"icc_profile", "exif", "dpi"} & plain.keys()


def test_it_is_smaller_than_pillows_fastest(dog: np.ndarray) -> None:
    buffer = io.BytesIO()
    Image.fromarray(dog).save(buffer, "PNG", compress_level=1)
    assert len(encode_png(dog, Metadata())) < 1.1 * len(buffer.getvalue())


def test_it_is_there_without_isal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "isal", None)
    try:
        assert importlib.reload(png).isal_zlib is None
        np.testing.assert_array_equal(
            np.asarray(decoded(encode_png(pixels(7, 5, 5, 3), Metadata()))), pixels(7, 5, 5, 3)
        )
    finally:
        monkeypatch.undo()
        importlib.reload(png)
