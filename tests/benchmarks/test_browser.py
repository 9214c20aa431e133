"""The model files in a browser, by the means of benchmarks/browser.py."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import browser
import browser_speed
from anchorsr.errors import BenchmarkError
from anchorsr.graph.executor import run_graph
from anchorsr.models.registry import list_models
from anchorsr.serialization.tflite.writer import write_tflite
from anchorsr.utils.sample_image import sample_image
from exactness import load_models
from helpers.graphs import integer_graph


@pytest.fixture(scope="module")
def program() -> str:
    """A browser; skips without it."""
    if not any(map(shutil.which, browser.BROWSERS)):
        pytest.skip("needs a browser: apt-get install chromium")
    return browser.find_browser()


@pytest.mark.slow
def test_every_model_gives_the_bytes_of_the_arithmetic(program: str) -> None:
    models = load_models([model.path.stem for model in list_models()])
    images = [sample_image(*size, seed=0)[None] for size in ((30, 690), (110, 30))]
    jobs = [browser.Job(write_tflite(graph), one) for _, _, graph in models for one in images]
    results = browser.run_in_browser(program, jobs)
    expected = [run_graph(graph, one) for _, _, graph in models for one in images]
    for (made, ms), wanted in zip(results, expected, strict=True):
        np.testing.assert_array_equal(made, wanted)
        assert ms > 0


@pytest.mark.slow
def test_what_goes_wrong_in_the_browser_is_told(program: str) -> None:
    job = browser.Job(b"no model", sample_image(4, 5, seed=0)[None])
    with pytest.raises(BenchmarkError, match=r"in the browser: .* not a \.tflite file"):
        browser.run_in_browser(program, [job])


# What follows needs no browser.


@pytest.fixture
def played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The arguments of a run on one model, for which the integer arithmetic plays the browser."""
    model = tmp_path / "mine.tflite"
    graph = integer_graph(0)
    model.write_bytes(write_tflite(graph))
    monkeypatch.setattr(browser, "find_browser", lambda path: "browser")
    monkeypatch.setattr(browser, "run_command", lambda *given: "Browser 1.0\n")

    def run(program: str, jobs: Sequence[browser.Job]) -> list[object]:
        return [(run_graph(graph, job.image), 1.0) for job in jobs]

    monkeypatch.setattr(browser, "run_in_browser", run)
    return ["--model", str(model)]


@pytest.mark.slow
def test_the_same_bytes_are_a_success(
    played: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert browser.main(played) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert printed.out.count("the same") == len(browser.SIZES)


@pytest.mark.slow
def test_one_other_byte_is_a_failure_that_is_told(
    played: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = browser.run_in_browser

    def run(*given: object) -> list[object]:
        results = honest(*given)
        results[1][0][0, 7, 3, 1] ^= 1
        return results

    monkeypatch.setattr(browser, "run_in_browser", run)
    assert browser.main(played) == 1
    height, width = browser.SIZES[1]
    size = 3 * 3 * height * 3 * width
    told = f"mine {width}x{height}: 1 of {size} differ, up to 1"
    assert capsys.readouterr().err.splitlines() == [told]


# As Debian's browsers, a script that starts a program, which knows nothing but what it is asked.
PLAYER = """#!/bin/sh
echo $$ > "{pids}"
{python} - "$@" <<'END' &
import sys, time, urllib.error, urllib.request
page = sys.argv[-1]
place = page.rpartition("/")[0]
get = lambda name: urllib.request.urlopen(f"{{place}}/{{name}}").read()
post = lambda name, data: urllib.request.urlopen(f"{{place}}/{{name}}", data).close()
{does}
time.sleep(60)
END
echo $! >> "{pids}"
wait $!
"""


def player(folder: Path, does: str) -> str:
    program = folder / "browser"
    program.write_text(PLAYER.format(python=sys.executable, pids=folder / "pids", does=does))
    program.chmod(0o755)
    return str(program)


def is_running(pid: int) -> bool:
    """Whether a process is there and has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="needs /bin/sh")
def test_the_page_its_files_and_the_jobs_are_served(tmp_path: Path) -> None:
    image = sample_image(2, 3, seed=0)[None]
    does = """
assert b"[[3, 2]]" in get("check.html") and b"cutUp" in get("upscale.mjs")
assert get("kernel.wasm")[:4] == bytes([0]) + b"asm" and get("0.tflite") == b"model"
try:
    get("node_modules/../../pids")
    sys.exit("got what is none of its business")
except urllib.error.HTTPError as error:
    assert error.code == 404
post("made?height=2&ms=1.5", get("0.rgba"))
"""
    program = player(tmp_path, does)
    ((made, ms),) = browser.run_in_browser(program, [browser.Job(b"model", image)])
    np.testing.assert_array_equal(made, image)
    assert ms == 1.5


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="needs /bin/sh")
@pytest.mark.parametrize(
    ("does", "message", "seconds"),
    [
        ("post('failed', b'no model')", "in the browser: no model", 60),
        ("sys.exit(3)", "exited with code 3", 60),
        ("sys.exit(0)", "exited with code 0", 60),
        ("", "no result from the browser within 2 seconds", 2),
    ],
)
def test_a_browser_that_makes_nothing_is_told_and_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str, message: str, seconds: int
) -> None:
    monkeypatch.setattr(browser, "TIMEOUT_SECONDS", seconds)
    job = browser.Job(b"model", sample_image(2, 3, seed=0)[None])
    with pytest.raises(BenchmarkError, match=message):
        browser.run_in_browser(player(tmp_path, does), [job])
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    for _ in range(100):  # a killed process takes a moment to end
        if not any(map(is_running, pids)):
            break
        time.sleep(0.05)
    assert not any(map(is_running, pids))


def test_no_browser_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for more, message in (([], "no browser was found"), (["--browser", "x"], "no program x")):
        assert browser.main(["--model", "fast_x3", *more]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("browser.py: ")
        assert message in line


def test_no_npm_is_one_line_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BenchmarkError, match=r"npm cannot download onnxruntime-web.*: npm"):
        browser_speed.prepare(tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
