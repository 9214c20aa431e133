"""`upscale --watch`: what comes into a folder is upscaled, until Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from PIL import Image

from anchorsr.cli import app
from anchorsr.utils.sample_image import sample_image


def save(path: Path, *, age: float = 5) -> None:
    Image.fromarray(sample_image(6, 8, seed=0)).save(path)
    then = time.time() - age
    os.utime(path, (then, then))


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="stops the program with a signal")
def test_images_are_upscaled_as_they_come(tmp_path: Path) -> None:
    pytest.importorskip("watchfiles", reason="needs anchorsr[watch]")
    scans, large = tmp_path / "scans", tmp_path / "large"
    scans.mkdir()
    command = ["upscale", str(scans), "-o", str(large), "--watch", "--model", "fast"]
    process = subprocess.Popen(
        [sys.executable, "-m", "anchorsr", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    watchdog = threading.Timer(60, process.kill)  # reading a line has no time limit of its own
    watchdog.start()
    assert process.stdout is not None and process.stderr is not None
    assert "watching" in process.stderr.readline()  # the folder is empty, and that is no error
    save(scans / "one.png")
    assert process.stdout.readline() == f"{large / 'one.png'}\n"
    (scans / "bad.png").write_bytes(b"no image")
    assert "bad.png" in process.stderr.readline()
    save(scans / "two.png", age=0)  # perhaps still being copied: a second later
    assert process.stdout.readline() == f"{large / 'two.png'}\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    watchdog.cancel()
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert sorted(path.name for path in large.iterdir()) == ["one.png", "two.png"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["photo.png", "-o", "out"], "--watch takes folders, and photo.png is none"),
        (["."], "--watch needs -o and a folder"),
        ([".", "-o", "out.png"], "--watch needs -o and a folder"),
        ([".", "-o", "out", "--dry-run"], "--watch excludes --dry-run and --json"),
    ],
)
def test_what_cannot_be_watched_is_said(
    more: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "photo.png")
    assert app.run(["upscale", "--watch", *more]) == 2
    assert message in capsys.readouterr().err
