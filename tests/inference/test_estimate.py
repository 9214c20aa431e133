"""The estimate of an image's damage, and the model that is taken for it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import anchorsr
from anchorsr.arrays import UInt8Array
from anchorsr.cli import app
from anchorsr.data.damage import damage_pair, parse_damage
from anchorsr.data.effects import encode_jpeg
from anchorsr.data.imresize import downscale
from anchorsr.data.pairs import Pair
from anchorsr.data.strengths import CLEAN, jpeg_strength, noise_strength, webp_strength
from anchorsr.errors import ModelError
from anchorsr.images.coding import SourceCoding
from anchorsr.images.image import RasterImage
from anchorsr.images.io import read_rgb, write_image
from anchorsr.inference.automatic import Selection, select_model
from anchorsr.inference.estimate import estimate_damage
from anchorsr.inference.image_upscaler import ImageUpscaler
from anchorsr.inference.sizes import TargetSize
from anchorsr.inference.upscaler import Upscaler
from anchorsr.models.registry import DEFAULT


@pytest.fixture(scope="module")
def pair() -> Pair:
    """A part of a photograph, reduced so that nothing is left of its own compression."""
    rgb = read_rgb(Path(__file__).parents[2] / "docs" / "dog.jpg")
    hr = np.ascontiguousarray(rgb[:480, :600])
    return Pair("dog", downscale(hr, 3), hr)


def damaged(pair: Pair, name: str) -> UInt8Array:
    return damage_pair(pair, parse_damage(name)).lr


def test_clean_photograph_is_clean(pair: Pair) -> None:
    assert estimate_damage(pair.lr).strengths == CLEAN
    assert select_model(RasterImage(pair.lr)).model == DEFAULT


def test_jpeg_in_pixels_is_found_with_nothing_else(pair: Pair) -> None:
    strengths = estimate_damage(damaged(pair, "jpeg75")).strengths
    assert strengths.jpeg == jpeg_strength(75)
    assert strengths.earlier == 0
    assert strengths.noise < 0.3
    assert strengths.grain < 0.3


def test_a_few_blocks_raise_no_false_alarm() -> None:
    half = downscale(read_rgb(Path(__file__).parents[2] / "docs" / "dog.jpg"), 2)
    stored = encode_jpeg(np.ascontiguousarray(half[48:120, 24:96]), 50)
    assert estimate_damage(stored).strengths.as_table() == {"jpeg": jpeg_strength(50)}


@pytest.mark.parametrize("sigma", [5, 12, 25])
def test_noise_is_measured(pair: Pair, sigma: int) -> None:
    strengths = estimate_damage(damaged(pair, f"noise{sigma}")).strengths
    assert abs(strengths.noise - noise_strength(sigma)) < 0.15
    assert strengths.video == 0


def test_grain_of_a_scan_is_not_noise_of_a_sensor(pair: Pair) -> None:
    strengths = estimate_damage(damaged(pair, "scan")).strengths
    assert strengths.jpeg == jpeg_strength(88)
    assert strengths.grain > 0.4
    assert strengths.blur > 0.4


def test_files_tell_their_quality(pair: Pair) -> None:
    told = estimate_damage(pair.lr, SourceCoding("WEBP", 60))
    assert told.strengths.webp == webp_strength(60)
    assert "WebP quality 60 in the file" in told.why
    told = estimate_damage(encode_jpeg(pair.lr, 75), SourceCoding("JPEG", 75))
    assert "JPEG quality 75 in the file" in told.why
    small = estimate_damage(pair.lr[:9, :9], SourceCoding("JPEG", 40))
    assert small.strengths.as_table() == {"jpeg": jpeg_strength(40)}


@pytest.mark.parametrize("shape", [(1, 1, 3), (5, 300, 3), (24, 24, 3), (600, 700, 3)])
@pytest.mark.parametrize("value", [0, 128, 255])
def test_flat_images_are_clean(shape: tuple[int, int, int], value: int) -> None:
    assert estimate_damage(np.full(shape, value, np.uint8)).strengths.noise == 0


def test_like_images_have_one_estimate_on_every_run(pair: Pair) -> None:
    image = damaged(pair, "phone")
    assert estimate_damage(image) == estimate_damage(image.copy())
    strengths = estimate_damage(image).strengths
    assert (strengths.noise * 64).is_integer()  # so that they share a network


def test_slight_jpeg_goes_to_the_model_for_clean_images(pair: Pair) -> None:
    assert select_model(RasterImage(encode_jpeg(pair.lr, 98))).model == DEFAULT
    chosen = select_model(RasterImage(encode_jpeg(pair.lr, 60)))
    assert chosen.model == "photo"
    assert chosen.strengths.jpeg == jpeg_strength(60)


@pytest.mark.slow
def test_auto_is_the_default_and_gives_what_its_choice_gives(pair: Pair) -> None:
    image = damaged(pair, "jpeg50")
    made = anchorsr.upscale(image)
    chosen = select_model(RasterImage(image))
    named = Upscaler("photo", strengths=chosen.strengths)
    assert np.array_equal(made, named(image))
    assert np.array_equal(made, Upscaler()(image))
    assert np.array_equal(made, Upscaler().upscale_rgb(image))
    assert np.array_equal(made, np.concatenate(list(Upscaler().strips(image))))
    clean = anchorsr.upscale(pair.lr)
    assert np.array_equal(clean, Upscaler("quality")(pair.lr))


@pytest.mark.slow
def test_strengths_by_hand_replace_the_estimate(pair: Pair) -> None:
    given = anchorsr.parse_strengths("jpeg=40,noise=8")
    made = anchorsr.upscale(pair.lr, strengths=given)
    assert np.array_equal(made, Upscaler("photo", strengths=given)(pair.lr))
    assert not np.array_equal(made, Upscaler("photo")(pair.lr))
    with pytest.raises(ModelError, match="takes no strengths"):
        Upscaler("fast", strengths=given)
    for factor in (2, 4):
        assert Upscaler(factor=factor, strengths=given).graph.name == f"photo_x{factor}"
    height, width = pair.lr.shape[:2]
    larger = anchorsr.upscale(pair.lr, scale=2, strengths=given)
    assert larger.shape == (2 * height, 2 * width, 3)


def test_later_passes_see_a_clean_image(pair: Pair) -> None:
    image = RasterImage(damaged(pair, "jpeg50")[:40, :48])
    upscaler = ImageUpscaler(target=TargetSize(9))
    plan = upscaler.plan(*image.size)
    chosen = upscaler.select(image, plan)
    first = Upscaler("photo", strengths=chosen.strengths).upscale_image(image)
    expected = Upscaler("quality").upscale_image(first)
    assert np.array_equal(upscaler(image).rgb, expected.rgb)


@pytest.fixture
def folder(pair: Pair, tmp_path: Path) -> Path:
    write_image(tmp_path / "in.png", RasterImage(pair.lr))
    Image.fromarray(pair.lr).save(tmp_path / "in.jpg", quality=60)
    return tmp_path


def test_command_names_model_and_strengths(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [str(folder / "in.jpg"), str(folder / "in.png")]
    out = ["-o", str(folder / "out"), "--verbose"]
    assert app.run(["upscale", *files, *out, "--json"]) == 0
    said = capsys.readouterr()
    rows = json.loads(said.out)
    assert [row["model"] for row in rows] == ["photo", "quality"]
    assert rows[0]["strengths"]["jpeg"] == 60
    assert "JPEG quality 60 in the file" in rows[0]["why"]
    assert rows[1]["strengths"] == {}
    assert "in.jpg: model photo, jpeg=60" in said.err
    assert "in.png: model quality: clean" in said.err


def test_command_takes_strengths(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["upscale", str(folder / "in.png"), "--json", "--strength", "noise=8,jpeg=70"]
    assert app.run(command) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["model"], row["why"]) == ("photo", "")
    assert row["strengths"] == {"jpeg": 70, "noise": 8}
    assert app.run([*command, "--force", "--model", "fast"]) == 1
    assert "takes no strengths" in capsys.readouterr().err
    assert app.run([*command[:-1], "noise=none"]) == 1


def test_named_model_is_not_questioned(pair: Pair) -> None:
    upscaler = ImageUpscaler("fast")
    plan = upscaler.plan(*pair.lr.shape[:2])
    assert upscaler.select(RasterImage(encode_jpeg(pair.lr, 30)), plan) == Selection("fast")
