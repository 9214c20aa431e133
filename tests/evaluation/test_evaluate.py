"""Scores of methods on test sets, against published figures and against the metrics themselves."""

from __future__ import annotations

import dataclasses
import doctest
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anchorsr.cli import app
from anchorsr.data.imresize import downscale
from anchorsr.data.strengths import Strengths, noise_strength
from anchorsr.errors import AnchorSRError, CheckpointError, DataError, ModelError
from anchorsr.evaluation.evaluate import ConditionedMethod, Score, evaluate, load_method
from anchorsr.export.export import export_graph
from anchorsr.inference.image_upscaler import upscale
from anchorsr.metrics import luma, psnr, ssim
from anchorsr.models.registry import model_path
from anchorsr.serialization.tflite.reader import read_tflite
from anchorsr.serialization.tflite.writer import write_tflite
from anchorsr.utils.sample_image import sample_image
from helpers.graphs import integer_graph


@pytest.fixture(scope="module")
def crops(dog: np.ndarray) -> dict[str, np.ndarray]:
    """Sides that are, and are not, multiples of the factor."""
    return {"a": dog[60:150, 40:139], "b": dog[100:201, 90:172], "c": dog[:96, 150:]}


def save(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ascontiguousarray(image)).save(path)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, crops: dict[str, np.ndarray]) -> Path:
    """A folder of images."""
    folder = tmp_path_factory.mktemp("sets") / "plain"
    for name, crop in crops.items():
        save(folder / f"{name}.png", crop)
    return folder


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory: pytest.TempPathFactory, crops: dict[str, np.ndarray]) -> Path:
    """The same in the layout of the benchmark sets."""
    folder = tmp_path_factory.mktemp("sets") / "Crops3"
    for name, crop in crops.items():
        height, width = crop.shape[:2]
        save(folder / "HR" / f"{name}.png", crop)
        reduced = downscale(crop[: height // 3 * 3, : width // 3 * 3], 3)
        save(folder / "LR_bicubic" / "X3" / f"{name}x3.png", reduced)
    return folder


def numbers(score: Score) -> tuple[float, float, float]:
    return score.psnr_rgb, score.psnr_y, score.ssim_y


@pytest.mark.slow
def test_a_score_is_the_mean_of_the_metrics_of_every_image(
    plain: Path, crops: dict[str, np.ndarray]
) -> None:
    rows = []
    for crop in crops.values():
        hr = crop[: crop.shape[0] // 3 * 3, : crop.shape[1] // 3 * 3]
        sr = upscale(downscale(hr, 3), model="abpn")
        y = luma(sr), luma(hr)
        rows.append((psnr(sr, hr, border=3), psnr(*y, border=3), ssim(*y, border=3)))
    score = evaluate("abpn", plain)
    assert (score.method, score.test_set, score.images) == ("abpn", "plain", 3)
    np.testing.assert_allclose(numbers(score), np.mean(rows, axis=0), rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["bicubic", "abpn"])
def test_both_layouts_of_a_set_give_one_score(plain: Path, benchmark: Path, method: str) -> None:
    assert numbers(evaluate(method, plain)) == numbers(evaluate(method, benchmark))


def test_the_given_low_resolution_images_are_used(
    benchmark: Path, tmp_path: Path, crops: dict[str, np.ndarray]
) -> None:
    for name in crops:
        lr_name = f"LR_bicubic/X3/{name}x3.png"
        save(tmp_path / "HR" / f"{name}.png", np.asarray(Image.open(benchmark / f"HR/{name}.png")))
        with Image.open(benchmark / lr_name) as image:
            save(tmp_path / lr_name, 255 - np.asarray(image))
    assert evaluate("bicubic", tmp_path).psnr_rgb < 15


def test_the_shipped_model_is_better_than_bicubic(plain: Path) -> None:
    model, bicubic = evaluate("abpn", plain), evaluate("bicubic", plain)
    assert all(ours > theirs for ours, theirs in zip(numbers(model), numbers(bicubic), strict=True))


@pytest.mark.slow
def test_every_form_of_a_model_has_one_score(plain: Path, tmp_path: Path) -> None:
    path = model_path("abpn", 3)
    export_graph(read_tflite(path.read_bytes()), tmp_path / "abpn.onnx")
    shutil.copy(tmp_path / "abpn.onnx", tmp_path / "LOUD.ONNX")
    onnx = [tmp_path / "abpn.onnx", str(tmp_path / "LOUD.ONNX")]
    scores = [evaluate(name, str(plain)) for name in ("abpn", path, str(path), *onnx)]
    assert len({numbers(score) for score in scores}) == 1


def test_the_border_is_the_factor_unless_given(plain: Path) -> None:
    assert evaluate("bicubic", plain) == evaluate("bicubic", plain, border=3)
    assert numbers(evaluate("bicubic", plain)) != numbers(evaluate("bicubic", plain, border=0))


@pytest.mark.parametrize("factor", [2, 4])
def test_other_factors_are_measured(plain: Path, factor: int) -> None:
    nearer, further = (evaluate("bicubic", plain, factor=f).psnr_rgb for f in (factor, factor + 1))
    assert nearer > further


def test_every_image_is_reported(plain: Path) -> None:
    seen: list[str] = []
    evaluate("bicubic", plain, on_image=seen.append)
    assert seen == ["a", "b", "c"]


def test_the_set_has_the_name_of_its_folder(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(plain)
    assert evaluate("bicubic", Path()).test_set == "plain"


def test_a_perfect_result_is_infinitely_good(tmp_path: Path) -> None:
    save(tmp_path / "flat.png", np.full((60, 60, 3), 90, np.uint8))
    score = evaluate("bicubic", tmp_path)
    assert score.psnr_rgb == math.inf
    assert score.ssim_y == pytest.approx(1)


def test_the_example_in_the_docstring_runs(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(plain, tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    (example,) = doctest.DocTestFinder(recurse=False).find(evaluate, "evaluate")
    assert len(example.examples) == 3
    assert doctest.DocTestRunner().run(example).failed == 0


# What is refused


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nonesuch", "no model 'nonesuch' for factor 3"),
        ("nowhere.tflite", "nowhere.tflite does not exist"),
        (Path("nowhere"), "nowhere does not exist"),
        ("nowhere.onnx", "nowhere.onnx does not exist"),
    ],
)
def test_an_unknown_method_is_refused(plain: Path, name: str | Path, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        evaluate(name, plain)


def test_a_folder_that_is_no_run_is_refused(plain: Path) -> None:
    pytest.importorskip("torch")
    with pytest.raises(CheckpointError, match=r"weights\.pt does not exist"):
        evaluate(plain, plain)


def test_a_run_is_measured_with_the_threads_that_are_asked_for(
    plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    with pytest.raises(CheckpointError):
        evaluate(plain, plain, threads=3)
    assert asked == [3]


def test_a_folder_with_the_name_of_a_model_does_not_hide_it(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [evaluate(name, plain) for name in ("abpn", "bicubic")]
    monkeypatch.chdir(tmp_path)
    for name in ("abpn", "bicubic"):
        (tmp_path / name).mkdir()
    assert [evaluate(name, plain) for name in ("abpn", "bicubic")] == expected
    pytest.importorskip("torch")
    with pytest.raises(CheckpointError):
        evaluate("./abpn", plain)


@pytest.mark.parametrize("suffix", [".tflite", ".onnx"])
def test_a_model_of_another_factor_is_refused(plain: Path, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"twice{suffix}"
    export_graph(integer_graph(0, factor=2), path)
    with pytest.raises(ModelError, match=r"upscales 2 times, not 3|not 3 times larger"):
        evaluate(path, plain)


def test_a_file_of_another_size_is_named_with_the_image(plain: Path, tmp_path: Path) -> None:
    path = tmp_path / "small.onnx"
    export_graph(integer_graph(0), path, size=(10, 20))
    with pytest.raises(ModelError, match=r"small\.onnx on \w+: "):
        evaluate(path, plain)


def test_no_factor_is_a_value_error(plain: Path) -> None:
    with pytest.raises(ValueError, match="a factor is at least 1, not 0"):
        evaluate("bicubic", plain, factor=0)


def test_sets_of_one_name_are_told_apart(
    plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other" / plain.name
    shutil.copytree(plain, other)
    assert app.run(["evaluate", str(plain), str(other), "-m", "bicubic", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["test_set"] for row in rows] == [str(plain), str(other)]


def test_bytes_that_are_no_model_are_refused(plain: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.onnx"
    for data in (b"", b"words", write_tflite(integer_graph(0))[:100]):
        path.write_bytes(data)
        with pytest.raises(ModelError) as caught:
            evaluate(path, plain)
        assert "\n" not in str(caught.value)


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("words")
    for folder in (tmp_path, tmp_path / "missing", tmp_path / "notes.txt"):
        with pytest.raises(DataError):
            evaluate("bicubic", folder)


def test_a_missing_low_resolution_image_is_named(tmp_path: Path) -> None:
    save(tmp_path / "HR" / "a.png", np.zeros((60, 60, 3), np.uint8))
    with pytest.raises(DataError, match=r"ax3\.png is missing"):
        evaluate("bicubic", tmp_path)


def test_a_low_resolution_image_of_another_size_is_named(tmp_path: Path) -> None:
    save(tmp_path / "HR" / "a.png", np.zeros((60, 60, 3), np.uint8))
    save(tmp_path / "LR_bicubic" / "X3" / "ax3.png", np.zeros((20, 21, 3), np.uint8))
    with pytest.raises(DataError, match=r"a\.png is 60x60, .* image of 21x20 does not fit at x3"):
        evaluate("bicubic", tmp_path)


@pytest.mark.parametrize(("side", "border"), [(2, None), (9, None), (15, None), (60, 30), (60, 25)])
def test_an_image_that_is_too_small_is_named(tmp_path: Path, side: int, border: int | None) -> None:
    save(tmp_path / "tiny.png", np.zeros((side, side, 3), np.uint8))
    with pytest.raises(DataError, match="tiny") as caught:
        evaluate("bicubic", tmp_path, border=border)
    assert "\n" not in str(caught.value)


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(AnchorSRError, match=r"bad\.png is damaged"):
        evaluate("bicubic", tmp_path)


def test_a_method_is_a_function_of_arrays(dog: np.ndarray) -> None:
    for name in ("bicubic", "abpn"):
        larger = load_method(name, 3)(dog[:20, :30])
        assert (larger.shape, larger.dtype) == ((60, 90, 3), np.uint8)


# Known figures


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "rgb", "y"),
    [
        ("Set5", 28.625, 30.405),
        ("Set14", 25.944, 27.631),
        ("BSD100", 25.884, 27.209),
    ],
)
def test_bicubic_has_its_known_figures(shared_data: Path, name: str, rgb: float, y: float) -> None:
    """PSNR of Pillow's bicubic at x3, border 3: what every other figure is compared with."""
    score = evaluate("bicubic", shared_data / "test" / name)
    assert (round(score.psnr_rgb, 3), round(score.psnr_y, 3)) == (rgb, y)


# Damage


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory, dog: np.ndarray) -> Path:
    """Images that are large enough for noise and blocks to count."""
    folder = tmp_path_factory.mktemp("sets") / "large"
    save(folder / "dog.png", dog[:240, :240])
    return folder


def test_damage_is_done_before_and_every_time_the_same(large: Path) -> None:
    clean, *damaged = (
        evaluate("bicubic", large, damage=name) for name in ("clean", "noise20", "noise20")
    )
    assert damaged[0] == damaged[1]
    assert (clean.damage, damaged[0].damage) == ("clean", "noise20")
    assert damaged[0].psnr_y < clean.psnr_y - 1


def test_unknown_damage_is_told_before_a_model_is_loaded(large: Path) -> None:
    with pytest.raises(DataError, match="no damage 'dust'"):
        evaluate("nonesuch", large, damage="dust")


def test_lanczos_is_sharper_than_bicubic(large: Path) -> None:
    assert evaluate("lanczos", large).psnr_y > evaluate("bicubic", large).psnr_y


@pytest.mark.slow
def test_conditioned_run_is_told_what_was_done(large: Path, tmp_path: Path) -> None:
    """Its figure is that of the network folded for the true strengths."""
    torch = pytest.importorskip("torch")
    from anchorsr.networks.registry import build_network
    from anchorsr.training.checkpoint import WEIGHTS

    shape = {"channels": 4, "body": 1, "image_convolution": False, "expansion": 0}
    options = {"name": "conditioned_abpn", **shape, "strengths": ["noise"], "hidden": 3}
    torch.manual_seed(0)
    network = build_network(options)
    torch.nn.init.normal_(network.modulator.output.weight)
    torch.save({"network": options, "state": network.state_dict()}, tmp_path / WEIGHTS)
    told = evaluate(tmp_path, large, damage="noise20")
    folded = network.fold({"noise": noise_strength(20)})
    plain = {"name": "abpn", **shape}
    folder = tmp_path / "folded"
    folder.mkdir()
    torch.save({"network": plain, "state": folded.state_dict()}, folder / WEIGHTS)
    assert numbers(evaluate(folder, large, damage="noise20")) == numbers(told)
    assert numbers(evaluate(folder, large)) != numbers(evaluate(tmp_path, large))


@pytest.mark.slow
def test_command_prints_every_damage(large: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = ["--damage", "jpeg75", "--damage", "noise5", "-m", "bicubic"]
    assert app.run(["evaluate", str(large), *wanted, "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert [score["damage"] for score in scores] == ["jpeg75", "noise5"]
    assert app.run(["evaluate", str(large), *wanted]) == 0
    assert "jpeg75" in capsys.readouterr().out
    assert app.run(["evaluate", str(large), "-m", "bicubic"]) == 0
    assert "damage" not in capsys.readouterr().out


def test_a_model_gets_the_strengths_that_it_takes() -> None:
    """`video` takes no `earlier`: of an image that was a JPEG twice, it is told the last."""
    method = load_method("video", 3)
    assert isinstance(method, ConditionedMethod)
    lr = sample_image(24, 32, seed=0)
    known = Strengths(jpeg=0.5)
    both = method.upscale(lr, dataclasses.replace(known, earlier=0.5))
    assert np.array_equal(both, method.upscale(lr, known))
    assert not np.array_equal(both, method(lr))
