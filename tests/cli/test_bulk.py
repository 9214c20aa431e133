"""What `bulk` refuses, in one line each, before any worker is started. Needs no Ray."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from PIL import Image

from anchorsr.cli import app
from helpers.command_line import Result, run_app
from helpers.images import noise


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    Image.fromarray(noise(6, 8)).save(tmp_path / "in" / "a.png")
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], code: int, *words: object) -> str:
    result: Result = run_app(capsys, "bulk", *words)
    assert result.code == code, result.err
    assert result.err.count("\n") == 1
    assert not result.out
    return result.err


def test_without_the_extra_it_is_named(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("pyarrow", "pyarrow.parquet", "ray"):
        monkeypatch.setitem(sys.modules, name, None)
    assert app.run(["bulk", str(folder / "in"), str(folder / "out")]) == 1
    words = capsys.readouterr().err
    assert words.count("\n") == 1
    assert "pip install 'anchorsr[cluster]'" in words
    assert not (folder / "out").exists()


def test_wrong_usage_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = folder / "in", folder / "out"
    for code, words, said in (
        (2, [source], "TARGET is missing"),
        (2, [source, "s3://b/out", "--keep-times"], "--keep-times takes folders"),
        (2, [source, target, "--format", "psd"], "no format 'psd'"),
        (2, [source, target, "--workers", "0"], "--workers is a whole number of at least 1"),
        (2, [source, target, "--size", "9x9", "--scale", "2"], "exclude one another"),
        (1, [source, target, "--model", "nonesuch"], "nonesuch"),
        (1, ["s3://key:secret@b/in", target], "holds no keys or passwords"),
        (1, [source, "s3:///out"], "names no bucket"),
    ):
        text = refused(capsys, code, *words)
        assert said in text
        assert "secret" not in text
    assert not target.exists()


def test_sources_that_are_none_are_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pyarrow", reason="needs anchorsr[cluster]")
    for source, said in (
        (folder / "missing", "does not exist"),
        (folder / "in" / "a.png", "use anchorsr upscale"),
        (folder / "out", "is in the target"),
        (folder / "no.parquet", "cannot be read"),
    ):
        assert said in refused(capsys, 1, source, folder / "out")


def test_a_dry_run_counts_and_estimates_and_writes_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pyarrow", reason="needs anchorsr[cluster]")
    words = ["bulk", folder / "in", folder / "out", "--model", "fast", "--dry-run"]
    result = run_app(capsys, *words, "--workers", "3")
    assert result.code == 0
    assert result.out.startswith("1 image to do, 0 done already\n")
    assert "with 3 workers" in result.out
    assert not (folder / "out").exists()
