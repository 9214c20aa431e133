"""The command line: what it prints where, its exit codes, and that no mistake costs a file.

Most calls are made in this process; those that are about streams, signals and missing packages
are processes of their own.
"""

from __future__ import annotations

import errno
import io
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.table import Table

import anchorsr
from anchorsr.cli import app
from anchorsr.cli.commands import models
from anchorsr.cli.commands import upscale as upscale_module
from anchorsr.cli.terminal import print_table
from anchorsr.inference.image_upscaler import upscale
from anchorsr.models.registry import DEFAULT, model_path
from anchorsr.serialization.tflite.writer import write_tflite
from helpers.command_line import Call, Result, run_app
from helpers.extras import hiding
from helpers.graphs import float_graph, image, integer_graph, reference_run

COMMANDS = ["upscale", "video", "serve", "compare", "models", "evaluate"]
COMMANDS += ["bulk", "train", "quantize", "study", "export", "challenge", "engines", "benchmark"]
COMMANDS += ["report"]
needs_shell = pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell")
IN_GROUPS = ["data div2k", "data synthetic", "probe operators", "probe network"]


@pytest.fixture
def call(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Call:
    """Run a command line in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return partial(run_app, capsys)


def environment(path: str = "") -> dict[str, str]:
    """Variables for a process that imports from `path` first, and leaves no file there."""
    source = str(Path(anchorsr.__file__).parents[1])
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [path, source])),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def start(*arguments: object, folder: Path, path: str = "", shell: str = "", **options: Any) -> Any:
    """The same as a process of its own, after a line of shell if one is given."""
    command = [sys.executable, "-m", "anchorsr", *map(str, arguments)]
    return subprocess.Popen(
        ["sh", "-c", f'{shell}; exec "$@"', "sh", *command] if shell else command,
        cwd=folder,
        env=environment(path),
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options},
    )


def finish(process: Any) -> Result:
    try:
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    return Result(process.returncode, out, err)


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder, hidden files too: the bytes of files, None for folders."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def write_png(path: Path, seed: int = 0, height: int = 6, width: int = 5) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image(seed, height, width)[0]).save(path)
    return path


def assert_one_error(result: Result, code: int = 1) -> None:
    """One line that starts with error: on standard error, nothing on the other."""
    assert result.code == code, result
    assert result.out == ""
    assert result.err.startswith("error: "), result.err
    assert result.err.count("\n") == 1, result.err
    assert result.err.endswith("\n")


# Good calls


def test_upscale_writes_beside_the_original_and_prints_the_name(call: Call, tmp_path: Path) -> None:
    source = write_png(tmp_path / "photo.png")
    result = call("upscale", "photo.png")
    assert result == (0, "photo_x3.png\n", "")
    with Image.open(tmp_path / "photo_x3.png") as image:
        np.testing.assert_array_equal(np.asarray(image), upscale(np.asarray(Image.open(source))))


def test_upscale_of_a_folder_prints_every_name(call: Call, tmp_path: Path) -> None:
    for name in "ab":
        write_png(tmp_path / "in" / f"{name}.png")
    out = Path("out")
    result = call("upscale", "in", "-o", "out", "--threads", 1)
    assert result == (0, f"{out / 'a.png'}\n{out / 'b.png'}\n", "")


@pytest.mark.slow
def test_quality_is_that_of_the_file(call: Call, tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", height=40, width=40)
    for quality in (10, 95):
        assert call("upscale", "a.png", "-o", f"{quality}.jpg", "--quality", quality).code == 0
    assert (tmp_path / "10.jpg").stat().st_size < (tmp_path / "95.jpg").stat().st_size


def test_cmyk_is_handled(call: Call, tmp_path: Path) -> None:
    Image.fromarray(image(0, 8, 8, 4)[0], "CMYK").save(tmp_path / "print.jpg")
    assert call("upscale", "print.jpg").code == 0
    with Image.open(tmp_path / "print_x3.jpg") as pil_image:
        assert (pil_image.mode, pil_image.size) == ("RGB", (24, 24))


def test_a_model_of_ones_own_is_used(call: Call, tmp_path: Path) -> None:
    graph = integer_graph(0, factor=2)
    (tmp_path / "mine.tflite").write_bytes(write_tflite(graph))
    write_png(tmp_path / "a.png")
    assert call("upscale", "a.png", "-m", "mine.tflite", "-f", 2).out == "a_x2.png\n"
    with Image.open(tmp_path / "a_x2.png") as pil_image:
        expected = reference_run(graph, image(0, 6, 5))[0]
        np.testing.assert_array_equal(np.asarray(pil_image), expected)


def test_force_replaces(call: Call, tmp_path: Path) -> None:
    write_png(tmp_path / "a.png")
    (tmp_path / "a_x3.png").write_bytes(b"old")
    assert call("upscale", "a.png", "--force").code == 0
    with Image.open(tmp_path / "a_x3.png") as image:
        assert image.size == (15, 18)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "name", "size"),
    [
        ("--scale 2.5", "a_x2.5.png", (100, 75)),
        ("--scale 6", "a_x6.png", (240, 180)),
        ("--scale 0.5", "a_x0.5.png", (20, 15)),
        ("--width 96", "a_w96.png", (96, 72)),
        ("--height 96", "a_h96.png", (128, 96)),
        ("--size 96x96", "a_96x96.png", (96, 72)),
        ("--width 96 --height 9", "a_96x9.png", (12, 9)),
        ("--size 96x96 --stretch", "a_96x96.png", (96, 96)),
        ("--scale 2 --format JPG", "a_x2.jpg", (80, 60)),
    ],
)
def test_any_size(
    call: Call, tmp_path: Path, options: str, name: str, size: tuple[int, int]
) -> None:
    write_png(tmp_path / "a.png", height=30, width=40)
    line = f"a.png 40x30 -> {name} {size[0]}x{size[1]}\n"
    assert call("upscale", "a.png", *options.split(), "--dry-run") == (0, line, "")
    assert call("upscale", "a.png", *options.split()) == (0, f"{name}\n", "")
    with Image.open(tmp_path / name) as image:
        assert image.size == size


def test_a_folder_is_mirrored_and_what_is_there_is_skipped(call: Call, tmp_path: Path) -> None:
    for name in ("a.png", "deep/b.png", "deep/c.png"):
        write_png(tmp_path / "in" / name)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.png").write_text("there")
    os.utime(tmp_path / "out" / "a.png", (1, 1))
    write_png(tmp_path / "out" / "deep" / "c.png")
    first, second, third = (
        str(Path("out") / name) for name in ("a.png", "deep/b.png", "deep/c.png")
    )
    older = "note: 1 skipped: already exists, older than the original\n"
    before = tree(tmp_path)
    planned = call("upscale", "in", "-o", "out", "--dry-run")
    assert planned.out.splitlines() == [
        f"{first}: skipped, already exists, older than the original",
        f"{Path('in/deep/b.png')} 5x6 -> {second} 15x18",
        f"{third}: skipped, already exists",
    ]
    assert tree(tmp_path) == before
    result = call("upscale", "in", "-o", "out")
    assert result == (0, f"{second}\n", f"{older}note: 1 skipped: already exists\n")
    result = call("upscale", "in", "-o", "out")
    assert result == (0, "", f"{older}note: 2 skipped: already exists\n")
    result = call("upscale", "in", "-o", "out", "--force")
    assert result == (0, f"{first}\n{second}\n{third}\n", "")


@pytest.mark.slow
def test_export_writes_both_formats(call: Call, tmp_path: Path) -> None:
    for arguments in (("-o", "a.onnx"), ("-o", "b.tflite", "--size", "36X64")):
        assert call("export", "abpn", *arguments) == (0, f"{arguments[1]}\n", "")
    (tmp_path / "own.tflite").write_bytes(model_path("abpn", 3).read_bytes())
    assert call("export", "own.tflite", "-o", "c.tflite").code == 0


@pytest.mark.slow
def test_export_writes_floats_and_both_forms_of_onnx(call: Call, tmp_path: Path) -> None:
    for name, *options in (
        ("a.tflite", "--float32"),
        ("b.onnx", "--float16"),
        ("c.onnx", "--onnx", "qlinear"),
    ):
        assert call("export", "fast", "-o", name, *options, "--factor", "2").code == 0
    assert b"QLinearConv" in (tmp_path / "c.onnx").read_bytes()
    for wrong in (
        ("d.onnx", "--float32", "--float16"),
        ("d.onnx", "--onnx", "best"),
        ("d.tflite", "--onnx", "qdq"),
        ("d.onnx", "--onnx", "qdq", "--float32"),
    ):
        assert call("export", "fast", "-o", *wrong).code == 2
    assert not (tmp_path / "d.onnx").exists()


def test_model_card_for_hugging_face(call: Call) -> None:
    result = call("models", "quality_x3", "--hugging-face")
    assert result.code == 0
    assert result.out.startswith("---\nlicense:")
    assert call("models", "--hugging-face").code == 2


def test_models_are_listed(call: Call) -> None:
    result = call("models")
    assert result.code == 0
    assert f"{DEFAULT} (default)" in result.out
    assert max(map(len, result.out.splitlines())) <= 80
    assert str(model_path(DEFAULT, 3)) in call("models", "--paths").out


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS + IN_GROUPS)
def test_the_help_of_every_command_has_an_example(
    call: Call, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    for flag in ("--help", "-h"):
        result = call(*command.split(), flag)
        assert (result.code, result.err) == (0, "")
        examples = result.out.partition("Examples:")[2]
        assert f"anchorsr {command}" in examples


@pytest.mark.slow
def test_the_help_names_every_command(call: Call) -> None:
    result = call("--help")
    assert result.code == 0
    groups = {command.split()[0] for command in IN_GROUPS}
    for command in [*COMMANDS, *groups]:
        assert command in result.out
    assert set(app.command_line().commands) == {*COMMANDS, *groups}


@pytest.mark.slow
def test_a_command_imports_no_other(tmp_path: Path) -> None:
    code = "from anchorsr.cli import app; import sys; app.run(['upscale']); print(*sys.modules)"
    printed = subprocess.check_output([sys.executable, "-c", code], text=True, cwd=tmp_path)
    commands = {name for name in printed.split() if name.startswith("anchorsr.cli.commands.")}
    commands -= {"anchorsr.cli.commands.options", "anchorsr.cli.commands.file_options"}
    assert commands == {"anchorsr.cli.commands.upscale"}


# JSON


def test_json_of_upscale(call: Call, tmp_path: Path) -> None:
    write_png(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "b.png").write_text("words")
    result = call("upscale", "in", "-o", "out", "--json")
    assert result.code == 1
    good, bad = json.loads(result.out)
    names = {"input": str(Path("in/a.png")), "output": str(Path("out/a.png"))}
    sizes = {"input_height": 6, "input_width": 5, "output_height": 18, "output_width": 15}
    chosen = {"model": "quality", "strengths": {}, "why": "clean (too small to be measured)"}
    assert good == {**names, "status": "done", **sizes, **chosen}
    assert (bad["input"], bad["status"]) == (str(Path("in/b.png")), "failed")
    assert "not a PNG, JPEG, WebP" in bad["error"]
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1
    (tmp_path / "in" / "b.png").unlink()
    assert json.loads(call("upscale", "in", "-o", "out", "--json").out) == [
        {**names, "status": "skipped", "reason": "already exists"}
    ]
    result = call("upscale", "in", "-o", "out", "--json", "--dry-run", "--force")
    assert json.loads(result.out) == [{**names, "status": "planned", **sizes}]


def test_what_is_named_as_a_result_is_left_out_and_told(call: Call, tmp_path: Path) -> None:
    for name in ("a.png", "a_640x480.png"):
        write_png(tmp_path / name)
    result = call("upscale", ".")
    words = "skipped: named as the result of an earlier run"
    assert result == (0, "a_x3.png\n", f"note: 1 {words}\n")
    assert call("upscale", ".").err.splitlines() == [
        "note: 1 skipped: already exists",
        f"note: 2 {words}",
    ]


def test_json_of_models(call: Call) -> None:
    listed = json.loads(call("models", "--json").out)
    assert Path(listed[0]["path"]).is_file()
    card = json.loads(call("models", "abpn_x3").out)
    assert card["sha256"] in [entry["sha256"] for entry in listed]
    assert json.loads(call("models", listed[0]["path"]).out)["sha256"] == listed[0]["sha256"]


def test_json_of_evaluate_is_strict(call: Call, tmp_path: Path) -> None:
    """An infinite PSNR is null: JSON has no word for it."""
    Image.new("RGB", (60, 60), (90, 90, 90)).save(tmp_path / "flat.png")

    def refuse(word: str) -> None:
        raise AssertionError(word)

    result = call("evaluate", ".", "-m", "bicubic", "-m", "abpn", "--json")
    scores = json.loads(result.out, parse_constant=refuse)
    assert [score["method"] for score in scores] == ["bicubic", "abpn"]
    assert scores[0]["psnr_rgb"] is None
    assert scores[0]["ssim_y"] == pytest.approx(1)


def test_a_table_shows_names_as_they_are(call: Call, tmp_path: Path) -> None:
    write_png(tmp_path / "[red]:dog:" / "a.png", height=60, width=60)
    result = call("evaluate", "[red]:dog:", "-m", "bicubic")
    assert "[red]:dog:" in result.out


def test_a_table_shows_long_names_whole(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("model", "file")
    table.add_row("abpn", "/long" * 50)
    print_table(table)
    assert "/long" * 50 in re.sub(r"[│\s]", "", capsys.readouterr().out)


# Bad images


def png_header(width: int, height: int, depth: int = 8) -> bytes:
    """The start of a PNG file, cut where its pixels would begin."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0)
    size, crc = struct.pack(">I", 13), struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + size + header + crc + struct.pack(">I", 100) + b"IDAT"


def jpeg(size: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image(0, size, size)[0]).save(buffer, "JPEG")
    return buffer.getvalue()


BAD_IMAGES = {
    "text.png": (b"words", "not a PNG, JPEG, WebP"),
    "empty.png": (b"", "empty"),
    "cut.jpg": (jpeg(64)[:1000], "damaged"),
    "cut.png": (png_header(10, 10), "damaged"),
    "bomb.png": (png_header(60_000, 60_000), "60000 x 60000 pixels"),
    "deep.png": (png_header(10, 10, 16), "damaged"),
    "[bold]:bug:.png": (b"words", r"[bold]:bug:.png is not"),
}


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_a_bad_image_is_one_line(call: Call, tmp_path: Path, name: str) -> None:
    data, words = BAD_IMAGES[name]
    (tmp_path / name).write_bytes(data)
    before = tree(tmp_path)
    for output in ((), ("-o", "out"), ("-o", "out.png"), ("--force",)):
        result = call("upscale", name, *output)
        assert_one_error(result)
        assert name in result.err
        assert words in result.err
        assert tree(tmp_path) == before


def test_a_16_bit_image_stays_one(call: Call, tmp_path: Path) -> None:
    grey = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    Image.fromarray(grey).save(tmp_path / "deep.png")
    assert call("upscale", "deep.png").code == 0
    with Image.open(tmp_path / "deep_x3.png") as image:
        assert (image.mode, image.size) == ("I;16", (24, 24))


def test_an_animation_stays_one_and_becomes_no_still_image(call: Call, tmp_path: Path) -> None:
    frames = [Image.fromarray(image(seed, 8, 8)[0]) for seed in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=70)
    assert call("upscale", "a.gif").code == 0
    with Image.open(tmp_path / "a_x3.gif") as pil_image:
        assert (pil_image.n_frames, pil_image.size, pil_image.info["duration"]) == (3, (24, 24), 70)
    before = tree(tmp_path)
    result = call("upscale", "a.gif", "-o", "a.jpg")
    assert_one_error(result)
    assert "a.jpg would be an animation, which JPEG cannot hold" in result.err
    assert tree(tmp_path) == before


def test_a_bad_file_among_good_ones_is_reported_and_the_others_are_done(
    call: Call, tmp_path: Path
) -> None:
    for name in ("a.png", "c.png"):
        write_png(tmp_path / "in" / name)
    (tmp_path / "in" / "b.png").write_text("words")
    result = call("upscale", "in", "missing.png", "-o", "out")
    assert result.code == 1
    assert result.out.splitlines() == [str(Path("out") / name) for name in ("a.png", "c.png")]
    first, second, *summary = result.err.splitlines()
    assert first.startswith(f"error: {Path('in/b.png')} ")
    assert second.startswith("error: missing.png ")
    assert summary == ["error: 2 of 4 failed:", f"  {Path('in/b.png')}", "  missing.png"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "c.png"]


# Bad calls


@pytest.fixture
def furnished(tmp_path: Path) -> Path:
    """What the bad calls below need to be bad in one way only."""
    write_png(tmp_path / "a.png")
    write_png(tmp_path / "images" / "b.png", height=40, width=40)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("words")
    (tmp_path / "taken.png").write_bytes(b"precious")
    (tmp_path / "taken.onnx").write_bytes(b"precious")
    (tmp_path / "taken.json").write_bytes(b"precious")
    shipped = model_path("abpn", 3).read_bytes()
    (tmp_path / "good.tflite").write_bytes(shipped)
    (tmp_path / "cut.tflite").write_bytes(shipped[:9000])
    (tmp_path / "text.tflite").write_text("words")
    (tmp_path / "float.tflite").write_bytes(write_tflite(float_graph(0)))
    (tmp_path / "twice.tflite").write_bytes(write_tflite(integer_graph(0, factor=2)))
    (tmp_path / "text.onnx").write_text("words")
    (tmp_path / "unknown.toml").write_text("[network]\nname = 'abpn'\n[data]\nfoldres = ['x']\n")
    (tmp_path / "broken.toml").write_text("[network\n")
    return tmp_path


FAILURES = {
    # Inputs
    "upscale missing.png": "missing.png does not exist",
    "upscale missing/deeper.png": "deeper.png does not exist",
    "upscale empty": "empty holds no image",
    "upscale file": "file is not a PNG, JPEG, WebP",
    "upscale film.mp4": "film.mp4 is a video: use anchorsr video film.mp4",
    "upscale film.mp4 -o larger.mp4": "film.mp4 is a video: use anchorsr video film.mp4",
    "upscale a.png -m mine.onnx": "mine.onnx is an ONNX file: give the .tflite file",
    # Outputs
    "upscale a.png -o a.png": "a.png is an input",
    "upscale a.png -o a.png --force": "a.png is an input",
    "upscale a.png -o . --force": "a.png is an input",
    "upscale a.png -o taken.png": "taken.png exists already: choose another name, or replace it"
    " with --force",
    "upscale a.png -o file": "file is not a folder",
    "upscale a.png -o file/out.png": "not an existing folder",
    "upscale a.png -o missing/out.png": "missing is not an existing folder",
    "upscale a.png images -o taken.png": "taken.png is the name of one image",
    "upscale a.png -o out.pcx": "no suffix that can be written",
    "upscale a.png a.png": "two images would become a_x3.png",
    "upscale a.png -o out.png --format jpg": "names a format already",
    "upscale a.png -o out.webp --size 17000x9 --stretch": "16383 a side that WEBP can hold",
    "upscale a.png --scale 1e9": "would have to be computed; ask for a smaller size",
    "upscale a.png --scale 1e9 --dry-run": "would have to be computed; ask for a smaller size",
    "upscale missing.png --dry-run": "missing.png does not exist",
    "upscale empty --dry-run": "empty holds no image",
    # Models
    "upscale a.png -m esrgan": "no model 'esrgan' for factor 3; choose from: abpn_x3",
    "models nonesuch": "no model 'nonesuch' for factor 3; choose from: abpn_x3",
    "models missing.tflite": "missing.tflite does not exist",
    "export fast_x2 -f 4 -o larger.onnx": "fast_x2 upscales 2 times, not 4",
    "models good.tflite": "good.tflite has no card beside it",
    "models taken.tflite": "the card of taken.tflite is damaged",
    "upscale a.png -m abpn -f 2": "no model 'abpn' for factor 2; choose from: abpn_x3",
    "upscale a.png -m missing.tflite": "missing.tflite does not exist",
    "upscale a.png -m empty.tflite/x.tflite": "x.tflite does not exist",
    "upscale a.png -m text.tflite": "text.tflite: this is not a .tflite file",
    "upscale a.png -m cut.tflite": "cut.tflite",
    "upscale a.png -m float.tflite": "takes and returns uint8 with 3 channels",
    "upscale a.png -m twice.tflite -f 3": "upscales 2 times, not 3",
    "upscale a.png -m esrgan -o new-folder": "no model 'esrgan'",
    # Test sets
    "evaluate empty": "empty holds no image",
    "evaluate missing": "missing is not an existing folder",
    "evaluate a.png": "a.png is not an existing folder",
    "evaluate images -m esrgan": "no model 'esrgan'",
    "evaluate images -m text.onnx": "ONNX Runtime does not load this model",
    "evaluate images -m missing.onnx": "missing.onnx does not exist",
    "evaluate images -m twice.tflite": "upscales 2 times, not 3",
    "evaluate images -m empty": "weights.pt",
    "evaluate images -m bicubic --border 20": "b in images",
    # Recipes and runs
    "train missing.toml": "missing.toml does not exist",
    "train empty": "empty is a folder",
    "train unknown.toml": "unknown key data.foldres",
    "train broken.toml": "broken.toml is not a TOML file",
    "quantize empty -o out.tflite": "empty does not hold a run",
    "quantize missing -o out.tflite": "missing does not hold a run",
    "quantize file -o out.tflite": "file does not hold a run",
    "quantize empty -o good.tflite": "empty does not hold a run",
    # Files of models
    "export abpn -o out": "ends with none of",
    "export abpn -o out.pb": "ends with none of",
    "export abpn -o taken.onnx": "taken.onnx exists already",
    "export abpn -o missing/out.onnx": "missing is not an existing folder",
    "export abpn -f 4 -o out.onnx": "no model 'abpn' for factor 4",
    "export text.tflite -o out.onnx": "text.tflite: this is not a .tflite file",
    "export float.tflite -o out.onnx": "float graph: quantize it first, or say --float32",
    "export good.tflite -o good.tflite --force --size 36x64": "good.tflite is an input",
}


def test_links_that_go_round_in_circles_are_a_file_that_exists(call: Call, tmp_path: Path) -> None:
    (tmp_path / "loop.tflite").symlink_to("loop.tflite")
    result = call("export", "abpn", "-o", "loop.tflite")
    assert result.code == 1
    assert (
        result.err
        == "error: loop.tflite exists already: choose another name, or replace it with --force"
        " (overwrite=True in Python)\n"
    )


@pytest.mark.parametrize("line", FAILURES)
def test_a_failure_is_one_line_and_changes_nothing(call: Call, furnished: Path, line: str) -> None:
    before = tree(furnished)
    result = call(*line.split())
    assert_one_error(result)
    assert FAILURES[line] in result.err
    assert tree(furnished) == before


USAGE = {
    "upscale": "name at least one image or folder to upscale",
    "upscale --force": "name at least one image or folder to upscale",
    "upscale --quality 0 a.png": "--quality",
    "upscale --quality 101 a.png": "--quality",
    "upscale --quality high a.png": "--quality",
    "upscale --factor 9 a.png": "--factor",
    "upscale --threads -1 a.png": "--threads",
    "upscale --threads 999999999999 a.png": "--threads",
    "upscale --fast a.png": "--fast",
    "upscale --scale 0 a.png": "above 0",
    "upscale --scale nan a.png": "above 0",
    "upscale --scale large a.png": "--scale",
    "upscale --width 0 a.png": "--width",
    "upscale --size 3840 a.png": "640x360",
    "upscale --size 0x9 a.png": "640x360",
    "upscale --size 9x9 --width 9 a.png": "--size excludes",
    "upscale --size 9x9 --scale 2 a.png": "exclude one another",
    "upscale --width 9 --stretch a.png": "both a width and a height",
    "upscale --format pcx a.png": "no format 'pcx'; choose from: png",
    "upscale -o": "-o",
    "enlarge a.png": "enlarge",
    "--enlarge": "--enlarge",
    "evaluate images --border -1": "--border",
    "quantize empty": "--output",
    "train unknown.toml extra": "extra",
    "train good.toml --device": "--device",
    "export abpn": "--output",
    "export abpn -o out.onnx --size 360": "640x360",
    "export abpn -o out.onnx --size 0x640": "640x360",
    "export abpn -o out.onnx --size -3x640": "640x360",
    "export abpn -o out.onnx --size 3x4x5": "640x360",
    "export abpn -o out.onnx --size 3.5x4": "640x360",
    "export abpn -o out.onnx --size ²x³": "640x360",
    "export abpn -o out.onnx --size 9999999999x1": "640x360",
}


@pytest.mark.slow
@pytest.mark.parametrize("line", USAGE)
def test_wrong_usage_is_one_line_that_points_to_the_help(
    call: Call, furnished: Path, line: str
) -> None:
    before = tree(furnished)
    result = call(*line.split())
    assert_one_error(result, code=2)
    assert USAGE[line] in result.err
    command = line.split()[0]
    help_line = f"anchorsr {command} --help" if command in COMMANDS else "anchorsr --help"
    assert result.err.endswith(f" (see {help_line})\n")
    assert tree(furnished) == before


def test_usage_errors_are_in_our_own_words(call: Call, furnished: Path) -> None:
    """Neither Typer's nor Click's nor Pydantic's: the wording does not depend on their versions."""
    lines = {
        "upscale --quality 101 a.png": "--quality is a whole number from 1 to 100, not '101'",
        "upscale --quality high a.png": "--quality is a whole number from 1 to 100, not 'high'",
        "upscale --scale large a.png": "--scale is a number, not 'large'",
        "challenge abpn -o a --runtime nan": "--runtime is a number from 0.001 to 1000000.0,"
        " not 'nan'",
        "report -o a.md --minutes nan": "--minutes is a number from 1.0 to 10000.0, not 'nan'",
        "upscale --width 0 a.png": "--width is a whole number of at least 1, not '0'",
        "upscale --forc a.png": "there is no option --forc; did you mean --factor or --force or",
        "upscale --force=1 a.png": "--force takes no value",
        "upscale a.png -o": "-o needs a value",
        "upscale --engine tpu a.png": "no engine 'tpu'; choose from: auto, native, litert",
        "benchmark --engine tpu": "no engine 'tpu'; choose from: native, litert",
        "benchmark --threads -1": "--threads is a whole number from 0 to 1024, not '-1'",
        "enlarge a.png": "there is no command 'enlarge'",
        "upscal a.png": "there is no command 'upscal'; did you mean upscale? (see anchorsr --help)",
        "data coco": "there is no command 'coco'",
        "train unknown.toml extra": "unexpected argument: extra",
        "train unknown.toml extra words": "unexpected argument: extra words",
    }
    for line, words in lines.items():
        result = call(*line.split())
        assert_one_error(result, code=2)
        assert result.err.startswith(f"error: {words}"), line


def test_nothing_asked_for_is_the_help(call: Call) -> None:
    for line in ("", "data", "probe"):
        result = call(*line.split())
        assert (result.code, result.err) == (2, "")
        assert "Usage:" in result.out


@pytest.mark.parametrize(
    ("command", "missing"),
    [
        ("upscale", "name at least one image or folder to upscale"),
        ("video", "VIDEOS is missing"),
        ("train", "RECIPE is missing"),
        ("quantize", "RUN is missing"),
        ("quantize run", "--output is missing"),
        ("export abpn", "--output is missing"),
    ],
)
def test_a_command_without_arguments_says_what_is_missing(
    call: Call, command: str, missing: str
) -> None:
    result = call(*command.split())
    assert_one_error(result, code=2)
    assert missing in result.err


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("ups", ["upscale"]),
        ("upscale a.png --model fas", ["fast", "fast_x2", "fast_x3", "fast_x4"]),
        ("upscale a.png --engine o", ["openvino", "onnxruntime"]),
        ("benchmark --engine l", ["litert"]),
        ("video a.mp4 --codec a", ["av1"]),
        ("upscale a.png --format ti", ["tif", "tiff"]),
    ],
)
def test_shells_complete_names(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    line: str,
    found: list[str],
) -> None:
    """As the script that `anchorsr --install-completion` installs for Bash asks for them."""
    monkeypatch.setenv("_ANCHORSR_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", f"anchorsr {line}")
    monkeypatch.setenv("COMP_CWORD", str(len(line.split())))
    assert app.run([]) == 0
    assert sorted(capsys.readouterr().out.split()) == sorted(found)


@pytest.fixture
def named_shell(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The shell is the one that is named, not the one that the tests were started from."""
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    app.command_line.cache_clear()
    yield
    app.command_line.cache_clear()


@pytest.mark.usefixtures("named_shell")
def test_the_completion_script_is_shown(call: Call) -> None:
    result = call("--show-completion", "bash")
    assert (result.code, result.err) == (0, "")
    assert "_ANCHORSR_COMPLETE=complete_bash" in result.out


@pytest.mark.slow
@needs_shell
@pytest.mark.usefixtures("named_shell")
def test_completion_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    result = finish(start("--install-completion", "bash", folder=tmp_path))
    assert (result.code, result.err) == (0, "")
    assert (tmp_path / ".bash_completions" / "anchorsr.sh").is_file()


# Training


def recipe(folder: Path, **changes: str) -> str:
    """A recipe that takes a second, with some of its lines changed."""
    lines = {
        "steps": "steps = 3",
        "channels": "channels = 4",
        "learning_rate": "learning_rate = 1e-3",
        "every": "every = 2",
        **changes,
    }
    return f"""
[network]
name = "abpn"
factor = 3
{lines["channels"]}
body = 1
expansion = 4
[data]
folders = ["{folder.as_posix()}"]
patch = 8
batch = 2
[schedule]
{lines["steps"]}
[optimizer]
{lines["learning_rate"]}
[quantization]
calibration = 1
schedule = {{ steps = 2 }}
[validation]
folders = ["{folder.as_posix()}"]
{lines["every"]}
"""


@pytest.fixture
def workshop(tmp_path: Path) -> Path:
    """A folder with images to train on, and a recipe."""
    pytest.importorskip("torch")
    for seed in range(2):
        write_png(tmp_path / "images" / f"{seed}.png", seed, 40, 44)
    (tmp_path / "tiny.toml").write_text(recipe(Path("images")))
    return tmp_path


@pytest.mark.slow
def test_a_network_from_images_to_file(call: Call, workshop: Path) -> None:
    trained = call("train", "tiny.toml", "--threads", 1)
    assert trained.code == 0, trained.err
    first, *_, last = trained.out.splitlines()
    assert first.startswith(f"{Path('runs/tiny')}: 3 steps")
    assert last == f"Next: anchorsr quantize {Path('runs/tiny')} -o tiny.tflite"
    again = call("train", "tiny.toml", "--threads", 1)
    assert again == (0, again.out, "")  # nothing is left to do

    for flag in ("--no-train", "--train"):
        quantized = call("quantize", "runs/tiny", "-o", f"tiny{flag}.tflite", flag)
        assert quantized.code == 0, quantized.err
        assert quantized.out.splitlines()[-1] == f"tiny{flag}.tflite"
        card = json.loads((workshop / f"tiny{flag}.json").read_text())
        assert card["runs"]["float"]["step"] == 3
        assert ("integer" in card["runs"]) == (flag == "--train")
    before = tree(workshop)
    assert_one_error(call("quantize", "runs/tiny", "-o", "tiny--train.tflite"))
    assert tree(workshop) == before

    record = json.loads((workshop / "runs/tiny/run.json").read_text())
    record["recipe"]["quantization"]["schedule"] = None  # its integers of before are another file's
    shutil.copytree(workshop / "runs/tiny", workshop / "runs/plain")
    (workshop / "runs/plain/run.json").write_text(json.dumps(record))
    assert call("quantize", "runs/plain", "-o", "plain.tflite").code == 0
    assert "integer" not in json.loads((workshop / "plain.json").read_text())["runs"]

    methods = [m for name in ("runs/tiny", "tiny--train.tflite") for m in ("-m", name)]
    scores = json.loads(call("evaluate", "images", *methods, "--json").out)
    assert [score["images"] for score in scores] == [2, 2]
    assert call("upscale", "images/0.png", "-m", "tiny--train.tflite").code == 0
    assert call("export", "tiny--train.tflite", "-o", "tiny.onnx").code == 0
    assert call("evaluate", "images", "-m", "runs/tiny", "-f", 2).code == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"learning_rate": "learning_rate = 2e-3"}, "belongs to another recipe (optimizer differ"),
        ({"channels": "channels = 5"}, "belongs to another recipe (network differ"),
    ],
)
def test_a_run_of_another_recipe_is_not_touched(
    call: Call, workshop: Path, changes: dict[str, str], words: str
) -> None:
    assert call("train", "tiny.toml", "-o", "run").code == 0
    (workshop / "other.toml").write_text(recipe(Path("images"), **changes))
    before = tree(workshop)
    result = call("train", "other.toml", "-o", "run")
    assert_one_error(result)
    assert words in result.err
    assert tree(workshop) == before


def test_a_damaged_checkpoint_is_one_line(call: Call, workshop: Path) -> None:
    (workshop / "run").mkdir()
    (workshop / "run" / "checkpoint.pt").write_text("words")
    before = tree(workshop)
    result = call("train", "tiny.toml", "-o", "run")
    assert_one_error(result)
    assert "checkpoint.pt is damaged" in result.err
    assert tree(workshop) == before


@pytest.mark.parametrize("device", ["tpu9000", " ", "cuda:99"])
def test_a_device_that_is_not_there_is_one_line(call: Call, workshop: Path, device: str) -> None:
    before = tree(workshop)
    result = call("train", "tiny.toml", "--device", device)
    assert_one_error(result, code=2)
    assert f"no device {device!r}" in result.err
    assert tree(workshop) == before


@pytest.mark.parametrize("output", ["file", "file/run"])
def test_a_run_folder_that_cannot_be_made_is_one_line(
    call: Call, workshop: Path, output: str
) -> None:
    (workshop / "file").write_text("words")
    before = tree(workshop)
    assert_one_error(call("train", "tiny.toml", "-o", output))
    assert tree(workshop) == before


# What ends a command early


def raising(error: BaseException) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


def test_too_little_memory_is_one_line(
    call: Call, monkeypatch: pytest.MonkeyPatch, furnished: Path
) -> None:
    monkeypatch.setattr(models, "evaluate", raising(MemoryError()))
    result = call("evaluate", "images")
    assert_one_error(result)
    assert "not enough memory" in result.err


def test_a_system_error_is_one_line(
    call: Call, monkeypatch: pytest.MonkeyPatch, furnished: Path
) -> None:
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "run.json")
    monkeypatch.setattr(models, "evaluate", raising(error))
    result = call("evaluate", "images")
    assert_one_error(result)
    assert "run.json" in result.err
    assert os.strerror(errno.ENOSPC) in result.err


def test_a_bug_is_not_hidden(call: Call, monkeypatch: pytest.MonkeyPatch, furnished: Path) -> None:
    monkeypatch.setattr(models, "evaluate", raising(KeyError("bug")))
    with pytest.raises(KeyError):
        call("evaluate", "images")


def test_an_interrupt_is_one_line_and_code_130(
    call: Call, monkeypatch: pytest.MonkeyPatch, furnished: Path
) -> None:
    monkeypatch.setattr(upscale_module, "upscale_files", raising(KeyboardInterrupt()))
    assert call("upscale", "a.png") == (130, "", "stopped\n")


@pytest.mark.slow
@pytest.mark.parametrize("command", ["train", "quantize"])
def test_an_interrupted_training_says_how_to_go_on(
    call: Call, monkeypatch: pytest.MonkeyPatch, workshop: Path, command: str
) -> None:
    training = pytest.importorskip("anchorsr.training.trainer")
    release = pytest.importorskip("anchorsr.export.release")
    assert call("train", "tiny.toml", "-o", "run", "--threads", 1).code == 0
    monkeypatch.setattr(training, "train", raising(KeyboardInterrupt()))
    monkeypatch.setattr(release, "quantize", raising(KeyboardInterrupt()))
    arguments = ("tiny.toml",) if command == "train" else ("run", "-o", "out.tflite")
    result = call(command, *arguments)
    assert result.code == 130
    assert result.err == "stopped; the same command resumes from the last checkpoint\n"


# Processes of their own


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "advice"),
    [
        ([], "the same command resumes with the others"),
        (["--force"], "the same command without --force makes the missing ones"),
    ],
)
def test_ctrl_c_leaves_whole_images_only(tmp_path: Path, options: list[str], advice: str) -> None:
    for number in range(300):
        write_png(tmp_path / "in" / f"{number:03}.png", height=60, width=60)
    process = start("upscale", "in", "-o", "out", *options, folder=tmp_path)
    assert process.stdout.readline() == f"{Path('out/000.png')}\n"
    process.send_signal(signal.SIGINT)
    result = finish(process)
    assert result.code == 130
    said = re.fullmatch(rf"stopped: (\d+) of 300 images are done; {advice}\n", result.err)
    made = sorted((tmp_path / "out").iterdir())
    assert said is not None, result.err
    assert 1 <= int(said[1]) <= len(made) < 300
    for path in made:
        with Image.open(path) as image:
            image.load()
            assert image.size == (180, 180)


@pytest.mark.slow
def test_ctrl_c_in_training_keeps_a_checkpoint(workshop: Path) -> None:
    text = recipe(Path("images"), steps="steps = 100_000", every="every = 3")
    (workshop / "long.toml").write_text(text)
    process = start("train", "long.toml", "-o", "run", "--threads", 1, folder=workshop)
    assert process.stderr.readline().startswith("step 3: loss ")
    process.send_signal(signal.SIGINT)
    result = finish(process)
    assert (result.code, result.out) == (130, "")
    said = "stopped; the same command resumes from the last checkpoint"
    assert result.err.splitlines()[-1] == said
    assert "Traceback" not in result.err
    names = sorted(path.name for path in (workshop / "run").iterdir())
    assert names == ["checkpoint.pt", "run.json", "weights.pt"]
    assert json.loads((workshop / "run" / "run.json").read_text())["step"] >= 3


INTERRUPT = """
import os, signal, sys

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
"""


@pytest.mark.slow
@needs_shell
@pytest.mark.parametrize("module", ["anchorsr.cli.app", "numpy", "anchorsr.evaluation"])
def test_ctrl_c_during_the_imports_ends_without_a_traceback(tmp_path: Path, module: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(INTERRUPT.format(module=module))
    result = finish(start("models", folder=tmp_path, path=str(tmp_path)))
    assert result == (-signal.SIGINT, "", "")


@pytest.mark.slow
def test_a_closed_pipe_ends_quietly(tmp_path: Path) -> None:
    for number in range(5):
        write_png(tmp_path / "in" / f"{number}.png")
    for arguments in (("models", "--json"), ("models",), ("upscale", "in", "-o", "out")):
        process = start(*arguments, folder=tmp_path)
        process.stdout.close()
        process.stdout = None
        result = finish(process)
        assert (result.code, result.err) == (1, ""), arguments


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_under_standard_output_is_one_line(tmp_path: Path) -> None:
    for arguments in (("models",), ("models", "--json")):
        with open("/dev/full", "w") as full:
            process = start(*arguments, folder=tmp_path, stdout=full)
            _, err = process.communicate(timeout=120)
        assert_one_error(Result(process.returncode, "", err))


@pytest.mark.slow
@pytest.mark.onnxruntime
@needs_shell
def test_a_disk_that_fills_leaves_nothing_half_written(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", height=40, width=40)
    (tmp_path / "old.png").write_bytes(b"precious")
    (tmp_path / "old.onnx").write_bytes(b"precious")
    before = tree(tmp_path)
    for arguments in (
        ("upscale", "a.png"),
        ("upscale", "a.png", "-o", "old.png", "--force"),
        ("export", "abpn", "-o", "new.tflite"),
        ("export", "abpn", "-o", "old.onnx", "--force"),
    ):
        # As on a full disk, the first bytes of the file are written and the others are not.
        result = finish(start(*arguments, folder=tmp_path, shell="ulimit -f 6"))
        assert_one_error(result)
        assert "cannot be written" in result.err
        assert tree(tmp_path) == before


@pytest.mark.slow
@needs_shell
def test_a_disk_that_fills_in_training_is_one_line(workshop: Path) -> None:
    result = finish(start("train", "tiny.toml", "-o", "run", folder=workshop, shell="ulimit -f 6"))
    assert_one_error(Result(result.code, result.out, result.err.splitlines(True)[-1]))
    assert "Traceback" not in result.err
    assert not list((workshop / "run").glob(".*"))


@pytest.mark.slow
@needs_shell
@pytest.mark.parametrize("closed", [1, 2])
def test_a_closed_stream_is_no_reason_to_fail(tmp_path: Path, closed: int) -> None:
    write_png(tmp_path / "a.png")
    for arguments in (("upscale", "a.png", "--force"), ("models",)):
        result = finish(start(*arguments, folder=tmp_path, shell=f"exec {closed}>&-"))
        assert result.code == 0
        assert "Traceback" not in result.err
    with Image.open(tmp_path / "a_x3.png") as image:
        image.load()


@pytest.mark.slow
def test_a_name_of_any_bytes_is_printed_as_it_is(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/\xff.png"
    try:
        write_png(Path(os.fsdecode(name)))
    except (OSError, UnicodeError):
        pytest.skip("names are text on this file system")
    process = start("upscale", os.fsdecode(name), folder=tmp_path, text=False)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out, err) == (0, name.replace(b".png", b"_x3.png\n"), b"")


@pytest.mark.slow
def test_results_go_to_standard_output_while_a_bar_is_shown(tmp_path: Path) -> None:
    pty = pytest.importorskip("pty")
    for name in "ab":
        write_png(tmp_path / "in" / f"{name}.png")
    (tmp_path / "in" / "c.png").write_text("words")
    terminal, end = pty.openpty()
    process = start("upscale", "in", "-o", "out", folder=tmp_path, stderr=end)
    os.close(end)
    out, _ = process.communicate(timeout=120)
    shown = os.read(terminal, 100_000)
    os.close(terminal)
    assert out.splitlines() == [str(Path("out/a.png")), str(Path("out/b.png"))]
    assert b"Upscaling" in shown
    assert b"error:" in shown


@pytest.fixture
def bare(tmp_path: Path) -> str:
    """A folder that makes an installation without any extra of this one, when put first."""
    folder = tmp_path / "bare"
    folder.mkdir()
    hidden = ["torch", "pytorch_optimizer", "onnx", "onnxruntime", "openvino"]
    (folder / "sitecustomize.py").write_text(hiding(hidden))
    return str(folder)


@pytest.mark.slow
def test_the_base_installation_upscales(furnished: Path, bare: str) -> None:
    result = finish(start("upscale", "a.png", folder=furnished, path=bare))
    assert result == (0, "a_x3.png\n", "")


NEED_EXTRAS = {
    "train tiny.toml": "train",
    "quantize images -o out.tflite": "train",
    "evaluate images -m images": "train",
    "export abpn -o out.onnx": "onnx",
    "upscale a.png --engine openvino": "fast",
    "upscale a.png --engine onnxruntime": "onnx",
    "evaluate images -m text.onnx": "onnx",
}


@pytest.mark.slow
def test_a_missing_package_says_what_installs_it(furnished: Path, bare: str) -> None:
    (furnished / "tiny.toml").write_text(recipe(Path("images")))
    before = tree(furnished)
    program = "import sys; from anchorsr.cli.app import run"
    program += "; print([run(line.split()) for line in sys.argv[1:]])"
    ended = subprocess.run(
        [sys.executable, "-c", program, *NEED_EXTRAS],
        cwd=furnished,
        env=environment(bare),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.stdout == f"{[1] * len(NEED_EXTRAS)}\n", ended.stderr
    for line, said in zip(NEED_EXTRAS, ended.stderr.splitlines(True), strict=True):
        assert_one_error(Result(1, "", said))
        advice = f"is not installed: pip install 'anchorsr[{NEED_EXTRAS[line]}]'\n"
        assert said.endswith(advice), line
    assert tree(furnished) == before


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_pytorchs_lack_of_memory_is_one_line(
    call: Call, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("anchorsr.cli.app.command_line", lambda only: fail)
    result = call("train", "tiny.toml")
    assert_one_error(result)
    assert "not enough memory" in result.err


@pytest.mark.parametrize("command", ["upscale", "video", "compare"])
def test_an_empty_argument_is_not_the_folder_where_we_are(call: Call, command: str) -> None:
    result = call(command, "")
    assert_one_error(result, code=2)
    assert "is a shell variable not set?" in result.err


@pytest.mark.parametrize("command", ["compare"])
def test_the_folder_where_we_are_is_no_file(call: Call, command: str) -> None:
    result = call(command, ".")
    assert_one_error(result)
    assert "is a folder" in result.err


@pytest.mark.slow
def test_names_that_an_output_cannot_show_are_escaped(workshop: Path) -> None:
    name = "\u65e5\u672c.png"
    Image.new("RGB", (8, 8)).save(workshop / name)
    done = subprocess.run(
        [sys.executable, "-m", "anchorsr", "upscale", name, "-m", "fast", "-f", "2"],
        cwd=workshop, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, b"\\u65e5\\u672c_x2.png\n")
