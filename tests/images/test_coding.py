"""What files say about their lossy coding."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anchorsr.images.coding import (
    SourceCoding,
    coding_of,
    jpeg_luma_table,
    jpeg_quality_of,
    webp_quality,
)
from anchorsr.images.io import read_image
from anchorsr.images.pillow import from_pillow
from helpers.images import noise, smooth


def stored(kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    rgb = (smooth(70, 90)[..., :3] // 2 + noise(70, 90) // 2).astype(np.uint8)
    Image.fromarray(rgb).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("quality", [1, 10, 49, 50, 75, 92, 96])
def test_tables_of_jpeg_tell_its_quality(tmp_path: Path, quality: int) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(stored("JPEG", quality=quality))
    assert read_image(path).coding == SourceCoding("JPEG", quality)
    with Image.open(path) as image:
        assert image.quantization[0] == jpeg_luma_table(quality).ravel().tolist()
        assert from_pillow(image).coding == SourceCoding("JPEG", quality)
        assert from_pillow(image.rotate(90)).coding is None


def test_tables_of_other_programs_have_the_nearest_quality() -> None:
    table = (jpeg_luma_table(75) * 1.1).astype(int).ravel().tolist()
    assert 71 <= jpeg_quality_of(table) <= 75
    assert jpeg_quality_of([1] * 64) >= 99
    assert jpeg_quality_of([255] * 64) <= 5


@pytest.mark.parametrize("method", [0, 4, 6])
@pytest.mark.parametrize("quality", [5, 40, 75, 90, 100])
def test_quantizer_of_webp_tells_about_its_quality(quality: int, method: int) -> None:
    found = webp_quality(stored("WEBP", quality=quality, method=method))
    assert found is not None
    assert abs(found - quality) <= 16


def test_webp_with_metadata_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.webp"
    path.write_bytes(stored("WEBP", quality=60, exif=b"Exif\0\0" + b"x" * 999))
    coding = read_image(path).coding
    assert coding is not None
    assert abs(coding.quality - 60) <= 16


@pytest.mark.parametrize(
    ("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True}), ("GIF", {}), ("TIFF", {})]
)
def test_lossless_files_say_nothing(tmp_path: Path, kind: str, options: dict[str, bool]) -> None:
    path = tmp_path / f"a.{kind.lower()}"
    path.write_bytes(stored(kind, **options))
    assert read_image(path).coding is None


@pytest.mark.parametrize("end", [0, 12, 30, 40, 60])
def test_cut_webp_is_no_error(end: int) -> None:
    webp_quality(stored("WEBP", quality=60)[:end])


def test_image_without_tables_says_nothing() -> None:
    assert coding_of(None, Image.new("RGB", (4, 4))) is None
