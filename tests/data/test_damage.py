"""The damages that models are compared on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from anchorsr.cli import app
from anchorsr.data.damage import USUAL, Damage, damage_pair, parse_damage
from anchorsr.data.films import FILMS, pan, write_films
from anchorsr.data.imresize import downscale
from anchorsr.data.pairs import STRENGTHS_FILE, Pair, load_given_pairs
from anchorsr.data.strengths import CLEAN, STRENGTHS
from anchorsr.errors import DataError
from anchorsr.images.io import RasterImage, write_image


def photograph(height: int, width: int) -> Pair:
    """Grey waves, of which a codec that halves the chroma keeps everything."""
    y, x = np.mgrid[0 : 3 * height, 0 : 3 * width]
    waves = 127 + 100 * np.sin((x + y * y / 90) / 25)
    hr = np.repeat(waves[..., None], 3, axis=-1).astype(np.uint8)
    return Pair("photograph", downscale(hr, 3), hr)


@pytest.fixture(scope="module")
def pair() -> Pair:
    return photograph(100, 104)


@pytest.mark.slow
@pytest.mark.parametrize("name", USUAL)
def test_usual_damages_are_the_same_pixels_every_time(pair: Pair, name: str) -> None:
    damaged = damage_pair(pair, parse_damage(name))
    assert np.array_equal(damaged.lr, damage_pair(pair, parse_damage(name)).lr)
    assert damaged.hr.shape == (3 * damaged.lr.shape[0], 3 * damaged.lr.shape[1], 3)
    told = any(getattr(damaged.strengths, strength) for strength in STRENGTHS)
    assert told is (name != "clean")
    assert (damaged is pair) is (name == "clean")


def test_seed_and_image_decide_the_noise(pair: Pair) -> None:
    noise = parse_damage("noise5")
    first = damage_pair(pair, noise)
    assert not np.array_equal(first.lr, damage_pair(pair, noise, seed=1).lr)
    other = damage_pair(Pair("another", pair.lr, pair.hr), noise)
    assert not np.array_equal(first.lr, other.lr)


def test_worse_damage_errs_more(pair: Pair) -> None:
    for worse in (["jpeg90", "jpeg30"], ["noise5", "noise30"], ["webp90", "webp10"]):
        errors = [damage_pair(pair, parse_damage(name)).bicubic_error for name in worse]
        assert pair.bicubic_error < errors[0] < errors[1]


def test_frame_of_a_film_lies_where_its_hr_side_does(pair: Pair) -> None:
    frame = damage_pair(pair, parse_damage("h264-12"))
    assert frame.lr.shape < pair.lr.shape
    clean = downscale(frame.hr, 3)
    assert np.abs(clean[4:-4, 4:-4].astype(int) - frame.lr[4:-4, 4:-4]).mean() < 3
    with pytest.raises(DataError, match="too small for a film"):
        damage_pair(photograph(40, 200), parse_damage("h264-28"))


@pytest.mark.parametrize(
    "name", ["", "dust", "jpeg", "jpeg0", "jpeg101", "clean5", "h264", "JPEG75", "jpeg75 "]
)
def test_unknown_damage_is_an_error(name: str) -> None:
    with pytest.raises(DataError, match="choose from: clean, jpeg1 to jpeg100"):
        parse_damage(name)


def test_damage_is_named_as_it_is_read() -> None:
    assert [parse_damage(name).name for name in USUAL] == list(USUAL)
    assert parse_damage("jpeg75") == Damage("jpeg", 75)


@pytest.mark.parametrize("speed", [(0.0, 0.0), (1.5, -0.7)])
def test_pan_moves_over_the_image(pair: Pair, speed: tuple[float, float]) -> None:
    frames = pan(pair.lr, FILMS["h264"], 10, frames=5, speed=speed)
    assert len(frames) == 5
    for frame, top, left in frames:
        height, width = frame.shape[:2]
        shown = pair.lr[top : top + height, left : left + width]
        assert np.abs(frame.astype(int) - shown).mean() < 3
        assert abs(frame.mean() - shown.mean()) < 0.5
    ways = [abs(frames[-1][axis] - frames[0][axis]) for axis in (1, 2)]
    assert ways == [round(abs(step) * 4) for step in speed]


@pytest.mark.slow
@pytest.mark.parametrize("codec", FILMS)
def test_every_codec_makes_the_same_frames_again(pair: Pair, codec: str) -> None:
    best = FILMS[codec].crf[0]
    films = [pan(pair.lr, FILMS[codec], best, frames=3, speed=(1.0, 0.0)) for _ in range(2)]
    for (frame, top, _), (again, *_) in zip(*films, strict=True):
        assert np.array_equal(frame, again)
        assert np.abs(frame.astype(int) - pair.lr[top : top + frame.shape[0]]).mean() < 8


def test_films_are_pairs_with_strengths(tmp_path: Path) -> None:
    for number, pair in enumerate([photograph(90, 110), photograph(40, 40)]):
        write_image(tmp_path / f"{number}.png", RasterImage(pair.hr))
    images = sorted(tmp_path.glob("*.png"))
    done: list[int] = []
    for folder in ("films", "again"):
        out = tmp_path / folder
        write_films(images, out, 3, codecs=["h264"], on_image=lambda: done.append(1))
    assert len(done) == 4
    made, again = (load_given_pairs([tmp_path / name], 3, patch=8) for name in ("films", "again"))
    assert 1 <= len(made) <= 2  # nothing of the small one
    for one, other in zip(made, again, strict=True):
        assert np.array_equal(one.lr, other.lr)
        assert 0 < one.strengths.video == other.strengths.video
        assert one.strengths != CLEAN
        clean = downscale(one.hr, 3)
        assert np.abs(clean[4:-4, 4:-4].astype(int) - one.lr[4:-4, 4:-4]).mean() < 12
    table = json.loads((tmp_path / "films" / STRENGTHS_FILE).read_text())
    assert set(table) == {one.name for one in made}


def test_command_makes_films(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("av", reason="needs anchorsr[video]")
    (tmp_path / "images").mkdir()
    write_image(tmp_path / "images" / "a.png", RasterImage(photograph(90, 90).hr))
    wanted = ["data", "films", str(tmp_path / "images"), "--codec", "h264"]
    assert app.run([*wanted, "-o", str(tmp_path / "films")]) == 0
    assert load_given_pairs([tmp_path / "films"], 3, patch=8)
    assert app.run([*wanted, "-o", str(tmp_path / "films")]) != 0
    assert "exists" in capsys.readouterr().err
    assert app.run([*wanted, "-o", str(tmp_path / "images" / "films")]) != 0
    assert "inside" in capsys.readouterr().err
    assert app.run([*wanted, "--codec", "dust", "-o", str(tmp_path / "other")]) != 0
    assert "no codec 'dust'" in capsys.readouterr().err
