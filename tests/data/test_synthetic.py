"""Synthetic training images: reproducible, with the flat areas and edges photographs lack."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anchorsr.cli.app import run
from anchorsr.data import synthetic
from anchorsr.data.synthetic import SIDE, draw_image
from anchorsr.images.io import read_rgb


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    """The first images of seed 3."""
    return [np.asarray(draw_image(3, index)) for index in range(3)]


@pytest.mark.slow
def test_an_image_depends_on_its_numbers_alone(images: list[np.ndarray]) -> None:
    first, second, _ = images
    assert first.shape == (SIDE, SIDE, 3)
    assert np.array_equal(first, np.asarray(draw_image(3, 0)))
    assert not np.array_equal(first, np.asarray(draw_image(4, 0)))
    assert not np.array_equal(first, second)


@pytest.mark.slow
def test_images_have_flat_areas_sharp_edges_and_every_colour(images: list[np.ndarray]) -> None:
    images = [image.astype(int) for image in images]
    steps = np.concatenate([np.abs(np.diff(one, axis=1)).max(axis=2).ravel() for one in images])
    assert (steps == 0).mean() > 0.4
    assert (steps > 128).mean() > 0.005
    for color in range(3):
        values = {int(value) for one in images for value in np.unique(one[..., color])}
        assert values == set(range(256))


@pytest.mark.parametrize("command", ["synthetic", "drawn"])  # its name in scripts of before
def test_the_command_writes_images_and_replaces_none(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
) -> None:
    def noise(seed: int, index: int) -> Image.Image:
        values = np.random.default_rng((seed, index)).integers(0, 256, (5, 6, 3), dtype=np.uint8)
        return Image.fromarray(values)

    monkeypatch.setattr(synthetic, "draw_image", noise)
    folder = tmp_path / "synthetic"
    arguments = ["data", command, "-o", str(folder), "--count", "2", "--seed", "5"]
    assert run(arguments) == 0
    assert capsys.readouterr().out.strip() == str(folder)
    names = ["000.png", "001.png"]
    assert sorted(path.name for path in folder.iterdir()) == names
    for index, name in enumerate(names):
        assert np.array_equal(read_rgb(folder / name), np.asarray(noise(5, index)))
    (folder / "000.png").write_bytes(b"mine")
    assert run(arguments) == 1
    assert "exists" in capsys.readouterr().err
    assert (folder / "000.png").read_bytes() == b"mine"
    assert run([*arguments, "--force"]) == 0
    assert np.array_equal(read_rgb(folder / "000.png"), np.asarray(noise(5, 0)))


def test_a_folder_that_cannot_be_made_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert run(["data", "synthetic", "-o", str(tmp_path / "file" / "synthetic")]) == 1
    assert "cannot be made" in capsys.readouterr().err
