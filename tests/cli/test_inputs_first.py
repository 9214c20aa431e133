"""What is wrong with an input is told before what is wrong with the output, by every command."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from anchorsr.export.challenge import FREE
from helpers.command_line import run_app
from helpers.images import noise

MISSING = {
    "upscale mine.pgn": "mine.pgn",
    "upscale mine.png -o there.png": "mine.png",
    "upscale mine.png -o no-folder/a.png": "mine.png",
    "upscale mine.png -o there.xyz": "mine.png",
    "upscale mine.png --dry-run": "mine.png",
    "upscale mine.png good.png": "mine.png",
    "upscale mine.png good.png --dry-run": "mine.png",
    "upscale mine.cbz -o there.png": "mine.cbz",
    "upscale folder/ -o there.png": "folder",
    "compare mine.png": "mine.png",
    "compare mine.png -o there.txt": "mine.png",
    "compare good.png --original mine.png -o there.html": "mine.png",
    "export mine.tflite -o there.onnx": "mine.tflite",
    "challenge mine.tflite -o submission": "mine.tflite",
    "challenge abpn -o submission --images folder": "folder",
    "benchmark mine.tflite --plot there.svg": "mine.tflite",
    "benchmark abpn --plot there.svg --images folder": "folder",
    "report -o there.md --study mine.json": "mine.json",
    "video mine.mp4": "mine.mp4",
    "video mine.mp4 -o there.xyz": "mine.mp4",
    "video mine.mp4 -o there.mp4/": "mine.mp4",
    "video mine.mp4 other.mp4": "mine.mp4",
    "quantize folder -o there.tflite": "folder",
    "quantize folder -o there.txt": "folder",
    "train mine.toml -o there.png": "mine.toml",
    "data blurred folder -o there.png": "folder",
    "bulk folder there.png": "folder",
}
DAMAGED = [
    "upscale damaged.png",
    "upscale damaged.png -o there.png",
    "compare damaged.png",
    "video damaged.mp4",
    "export damaged.tflite -o there.onnx",
    "challenge damaged.tflite -o submission",
]


@pytest.fixture(autouse=True)
def outputs_that_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(noise(8, 12)).save("good.png")
    (tmp_path / "submission").mkdir()
    names = ["mine_x3.png", "damaged_x3.png", "mine_x3.cbz", "mine_compare.html"]
    names += ["damaged_compare.html", "mine_x3.mp4", "damaged_x3.mp4", "other_x3.mp4"]
    names += [f"there.{suffix}" for suffix in ("png", "html", "onnx", "svg", "md", "mp4", "tflite")]
    names += [f"submission/{FREE}", "damaged.png", "damaged.mp4", "damaged.tflite"]
    for name in names:
        (tmp_path / name).write_text("something else")


@pytest.mark.slow
@pytest.mark.parametrize("command", MISSING)
def test_a_missing_input_is_told_first(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str
) -> None:
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    result = run_app(capsys, *command.split())
    assert result.code == 1
    assert "Traceback" not in result.err
    lines = [line for line in result.err.splitlines() if line.startswith("error: ")]
    assert MISSING[command] in lines[0]
    told = ("does not exist", "is not an existing folder", "does not hold a run")
    assert any(words in lines[0] for words in told)
    assert before.items() <= {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}.items()


@pytest.mark.slow
@pytest.mark.parametrize("command", DAMAGED)
def test_an_unreadable_input_is_told_first(
    capsys: pytest.CaptureFixture[str], command: str
) -> None:
    result = run_app(capsys, *command.split())
    assert result.code == 1
    assert result.err.splitlines()[-1].startswith(f"error: {command.split()[1]}")
    assert "exists already" not in result.err


def test_an_output_that_exists_is_told_of_a_good_input(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    result = run_app(capsys, "upscale", "good.png", "-o", "there.png")
    assert (result.code, "there.png exists already" in result.err) == (1, True)
    assert (tmp_path / "there.png").read_text() == "something else"
