"""Drawn training images: the same for the same numbers, and with what photographs lack."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from anchorsr.cli.app import run
from anchorsr.data.synthetic import SIDE, draw_image
from anchorsr.images.io import read_rgb


def test_an_image_depends_on_its_numbers_alone() -> None:
    first, again, other, second = (
        np.asarray(draw_image(*numbers)) for numbers in ((0, 0), (0, 0), (1, 0), (0, 1))
    )
    assert first.shape == (SIDE, SIDE, 3)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first, second)


def test_images_have_flat_areas_sharp_edges_and_every_colour() -> None:
    images = [np.asarray(draw_image(3, index)).astype(int) for index in range(12)]
    steps = np.concatenate([np.abs(np.diff(one, axis=1)).max(axis=2).ravel() for one in images])
    assert (steps == 0).mean() > 0.4
    assert (steps > 128).mean() > 0.005
    for color in range(3):
        values = {int(value) for one in images for value in np.unique(one[..., color])}
        assert values == set(range(256))


def test_the_command_writes_images_and_replaces_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "drawn"
    arguments = ["data", "drawn", "-o", str(folder), "--count", "2", "--seed", "5"]
    assert run(arguments) == 0
    assert capsys.readouterr().out.strip() == str(folder)
    names = ["000.png", "001.png"]
    assert sorted(path.name for path in folder.iterdir()) == names
    for index, name in enumerate(names):
        assert np.array_equal(read_rgb(folder / name), np.asarray(draw_image(5, index)))
    (folder / "000.png").write_bytes(b"mine")
    assert run(arguments) == 1
    assert "exists" in capsys.readouterr().err
    assert (folder / "000.png").read_bytes() == b"mine"
    assert run([*arguments, "--force"]) == 0
    assert read_rgb(folder / "000.png").shape == (SIDE, SIDE, 3)


def test_a_folder_that_cannot_be_made_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert run(["data", "drawn", "-o", str(tmp_path / "file" / "drawn")]) == 1
    assert "cannot be made" in capsys.readouterr().err
