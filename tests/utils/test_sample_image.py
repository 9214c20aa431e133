"""The image that engines are verified and timed with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anchorsr.export.export import SIZES
from anchorsr.utils.sample_image import sample_image


@pytest.mark.parametrize("size", SIZES)
def test_equal_seeds_give_equal_images_and_others_do_not(size: tuple[int, int]) -> None:
    first = sample_image(*size, seed=3)
    assert (first.shape, first.dtype) == ((*size, 3), np.uint8)
    np.testing.assert_array_equal(first, sample_image(*size, seed=3))
    assert size == (1, 1) or (first != sample_image(*size, seed=4)).any()


@pytest.mark.parametrize("seed", range(len(SIZES)))
def test_it_has_every_level(seed: int) -> None:
    assert len(np.unique(sample_image(*SIZES[-1], seed=seed))) == 256


def test_the_image_is_about_as_hard_to_encode_as_a_photograph(
    tmp_path: Path, dog: np.ndarray
) -> None:
    def bits(rgb: np.ndarray) -> float:
        Image.fromarray(rgb).save(tmp_path / "a.jpg", quality=92)
        return (tmp_path / "a.jpg").stat().st_size * 8 / rgb.shape[0] / rgb.shape[1]

    assert 0.7 < bits(sample_image(288, 288)) / bits(dog) < 1.4
