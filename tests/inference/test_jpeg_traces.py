"""JPEG compression found in pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from anchorsr.arrays import UInt8Array
from anchorsr.data.effects import encode_jpeg
from anchorsr.data.imresize import downscale
from anchorsr.images.io import read_rgb
from anchorsr.inference.jpeg_traces import JPEGTraces, find_grid, find_jpeg

LUMA = np.array([0.299, 0.587, 0.114], np.float32)


@pytest.fixture(scope="module")
def photograph() -> UInt8Array:
    """A part of a photograph, reduced so that nothing is left of its own compression."""
    rgb = read_rgb(Path(__file__).parents[2] / "docs" / "dog.jpg")
    return downscale(np.ascontiguousarray(rgb[:480, :600]), 3)


def luma(rgb: UInt8Array) -> np.ndarray:
    return rgb.astype(np.float32) @ LUMA


@pytest.mark.parametrize("quality", [12, 30, 50, 75, 85, 90])
@pytest.mark.parametrize("full_chroma", [False, True])
def test_quality_is_found(photograph: UInt8Array, quality: int, full_chroma: bool) -> None:
    image = encode_jpeg(photograph, quality, full_chroma=full_chroma)
    assert find_jpeg(luma(image)) == JPEGTraces(quality)


def test_quality_is_found_in_a_part(photograph: UInt8Array) -> None:
    image = luma(encode_jpeg(photograph, 75))[3:, 6:]
    assert find_grid(image) == (5, 2)
    found = find_jpeg(image)
    assert found is not None
    assert found.quality == 75


def test_earlier_compression_is_found(photograph: UInt8Array) -> None:
    found = find_jpeg(luma(encode_jpeg(encode_jpeg(photograph, 60), 85)))
    assert found is not None
    assert found.quality == 85
    assert found.earlier is not None
    assert abs(found.earlier - 60) <= 6


def test_clean_image_has_no_traces(photograph: UInt8Array) -> None:
    assert find_jpeg(luma(photograph)) is None
    reduced = encode_jpeg(photograph, 50)[: 2 * 80 : 2, : 2 * 100 : 2]  # no longer multiples
    assert find_jpeg(luma(np.ascontiguousarray(reduced))) is None


def test_known_quality_is_kept(photograph: UInt8Array) -> None:
    assert find_jpeg(luma(photograph), known=80) == JPEGTraces(80)
    again = luma(encode_jpeg(encode_jpeg(photograph, 60), 85))
    found = find_jpeg(again, known=85)
    assert found is not None
    assert found.earlier is not None


@pytest.mark.parametrize("shape", [(1, 1), (7, 50), (8, 8), (20, 24)])
def test_small_and_flat_images_tell_nothing(shape: tuple[int, int]) -> None:
    assert find_jpeg(np.full(shape, 77, np.float32)) is None
    assert find_jpeg(np.zeros(shape, np.float32), known=40) == JPEGTraces(40)
