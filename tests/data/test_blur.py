"""Blurred training images: reproducible, and blurrier than their sources."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from anchorsr.cli.app import run
from anchorsr.data.blur import SIDE, blur
from anchorsr.images.io import RasterImage, read_rgb, write_image


def noise(seed: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(700, 900), (40, 30), (1, 1)])
def test_a_crop_is_upscaled_a_little(size: tuple[int, int]) -> None:
    rgb = noise(0, *size)
    for seed in range(8):
        blurred = blur(rgb, np.random.default_rng(seed))
        again = blur(rgb, np.random.default_rng(seed))
        assert np.array_equal(blurred, again)
        assert max(blurred.shape[:2]) <= SIDE
        assert all(
            made >= min(side, SIDE / 1.6 - 1)
            for made, side in zip(blurred.shape[:2], size, strict=True)
        )
        if min(size) > 1:
            after, before = (
                np.abs(np.diff(one.astype(int), axis=1)).mean() for one in (blurred, rgb)
            )
            assert after < 0.8 * before


@pytest.mark.parametrize("command", ["blurred", "soft"])  # its name in scripts of before
def test_the_command_writes_one_of_each_and_replaces_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    (tmp_path / "in/below").mkdir(parents=True)
    write_image(tmp_path / "in/a.png", RasterImage(noise(1, 60, 50)))
    write_image(tmp_path / "in/below/a.png", RasterImage(noise(2, 60, 50)))
    arguments = ["data", command, str(tmp_path / "in"), "-o", str(tmp_path / "out")]
    assert run(arguments) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "out")
    names = ["0000_a.png", "0001_a.png"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    expected = blur(noise(2, 60, 50), np.random.default_rng((0, 1)))
    assert np.array_equal(read_rgb(tmp_path / "out/0001_a.png"), expected)
    (tmp_path / "out/0001_a.png").write_bytes(b"mine")
    assert run(arguments) == 1
    assert "exists" in capsys.readouterr().err
    assert (tmp_path / "out/0001_a.png").read_bytes() == b"mine"
    assert run([*arguments, "--force"]) == 0
    assert np.array_equal(read_rgb(tmp_path / "out/0001_a.png"), expected)
    assert run(["data", "blurred", str(tmp_path / "out"), "-o", str(tmp_path / "in/a.png")]) == 1
    assert run(["data", "blurred", str(tmp_path / "nowhere")]) == 1
    assert "not an existing folder" in capsys.readouterr().err


def test_a_second_run_does_not_take_the_results_of_the_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    write_image(tmp_path / "data/a.png", RasterImage(noise(1, 60, 50)))
    for arguments in (["data"], ["data", "-o", "data"], [".", "-o", "data/new"]):
        assert run(["data", "blurred", *arguments]) == 1
        assert "would read its own results" in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*")] == ["data", "a.png"]
