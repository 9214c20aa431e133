"""Whatever befalls a command: signals, kills and full disks at any step, other processes beside it.

The next run of the same command must give what an undisturbed run gives, and leave nothing else.
By default a few steps of each command are tried. `docs/reliability.md` has the command for all of
them; ANCHORSR_TRIALS is the number of random trials of each kind and command, or "all" steps.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.trials import Ended, Trials

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="forks and audits as on Linux"),
]

AMOUNT = os.environ.get("ANCHORSR_TRIALS", "1")
RECIPE = """
validation.every = 2
[network]
name = "abpn"
channels = 4
body = 0
expansion = 4
[data]
folders = ["in"]
patch = 8
batch = 1
[schedule]
steps = 4
[quantization]
calibration = 1
schedule.steps = 2
"""
COMMANDS = {
    "upscale": "upscale in -o out --engine litert --threads 1 --model fast",
    "video": "video film.mp4 -o large.mp4 --engine litert --threads 1 --model fast",
    "train": "train tiny.toml -o run --threads 1",
    "quantize": "quantize done -o tiny.tflite --threads 1",
    "export": "export fast -o fast.onnx",
}
NEEDS = {"video": "av", "train": "torch", "quantize": "torch", "export": "onnxruntime"}
SIGNALS = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP]


@pytest.fixture(scope="module")
def trials(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trials]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANCHORSR_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("tmp")))
        with Trials() as running:
            yield running


@pytest.fixture(scope="module", params=COMMANDS)
def case(
    request: pytest.FixtureRequest, trials: Trials, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, Path, int]:
    """A command's name, a folder with its inputs, one with its results, and its steps."""
    name = request.param
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    inputs = tmp_path_factory.mktemp("inputs")
    (inputs / "in").mkdir()
    generator = np.random.default_rng(0)
    for number in range(3):
        pixels = generator.integers(0, 256, (24, 30, 3), np.uint8)
        Image.fromarray(pixels).save(inputs / "in" / f"{number}.png")
    (inputs / "tiny.toml").write_text(RECIPE)
    if name == "video":
        from helpers.videos import make_video, moving

        make_video(inputs / "film.mp4", moving(12), audio="aac", time_base=Fraction(1, 30))
    if name == "quantize":
        made = trials.run(["train", "tiny.toml", "-o", "done", "--threads", "1"], inputs)
        assert made.code == 0, made
    whole = tmp_path_factory.mktemp("whole")
    shutil.copytree(inputs, whole, dirs_exist_ok=True)
    ended = trials.run(COMMANDS[name].split(), whole)
    assert ended.code == 0, ended
    return name, inputs, whole, ended.steps


def chosen(steps: int, name: str) -> list[int]:
    """The steps to try."""
    if AMOUNT == "all":
        return list(range(1, steps + 1))
    source = random.Random(name) if AMOUNT == "1" else random.Random()
    return [source.randint(1, steps) for _ in range(int(AMOUNT))]


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a folder, without what differs from run to run in their records."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            name = str(path.relative_to(folder))
            found[name] = b"" if name.endswith((".pt", ".json")) else path.read_bytes()
    return found


def assert_whole(trials: Trials, name: str, folder: Path, whole: Path) -> None:
    """The next run completes the work and removes what the others left."""
    ended = trials.run(COMMANDS[name].split(), folder)
    already = name in ("export", "quantize", "video") and "exists already" in ended.err
    assert ended.code == 0 or already, ended
    assert contents(folder) == contents(whole)
    assert temporary_files() == []
    if name == "train":
        assert json.loads((folder / "run" / "run.json").read_text())["step"] == 4


def temporary_files() -> list[str]:
    """Folders of earlier trials; those of libraries are their own."""
    return [path.name for path in Path(os.environ["TMPDIR"]).glob("anchorsr-*")]


def assert_clean(ended: Ended, codes: tuple[int, ...]) -> None:
    assert ended.code in codes, ended
    assert "Traceback" not in ended.err, ended
    assert "Exception ignored" not in ended.err, ended


def test_signals_at_any_step_and_moment(
    case: tuple[str, Path, Path, int], trials: Trials, tmp_path: Path
) -> None:
    name, inputs, whole, steps = case
    folder = tmp_path / "work"
    shutil.copytree(inputs, folder)
    source = random.Random(name) if AMOUNT == "1" else random.Random()
    numbers = SIGNALS if AMOUNT != "1" else [signal.SIGKILL, source.choice(SIGNALS[1:])]
    ends: list[tuple[int, dict[str, float]]] = [
        (number, {"at": step}) for number in numbers for step in chosen(steps, f"{name} {number}")
    ]
    ends += [
        (source.choice(SIGNALS), {"after": source.uniform(0.02, 1)})
        for _ in range(50 if AMOUNT == "all" else int(AMOUNT))
    ]
    for number, when in ends:
        ended = trials.run(COMMANDS[name].split(), folder, signal=number, **when)
        # Whoever was faster is done, and whoever came later finds the result.
        codes = (-9, 0, 1) if number == signal.SIGKILL else (128 + number, 0, 1)
        if not ended.steps:  # it came before the command had begun
            codes = (*codes, -number)
        assert_clean(ended, codes)
        if ended.code == 1:
            assert "exists already" in ended.err, ended
    assert_whole(trials, name, folder, whole)


def test_a_disk_that_is_full_from_any_step_on(
    case: tuple[str, Path, Path, int], trials: Trials, tmp_path: Path
) -> None:
    name, inputs, whole, steps = case
    for step in chosen(steps, f"{name} disk"):
        folder = tmp_path / f"{step}"
        shutil.copytree(inputs, folder)
        ended = trials.run(COMMANDS[name].split(), folder, at=step)
        assert_clean(ended, (0, 1))
        if ended.code:
            assert [line for line in ended.err.splitlines() if line.startswith("error: ")], ended
            assert "No space left on device" in ended.err or "disk is full" in ended.err, ended
        assert_whole(trials, name, folder, whole)
        shutil.rmtree(folder)


def test_processes_beside_each_other_and_a_kill(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    generator = np.random.default_rng(0)
    for number in range(16):
        pixels = generator.integers(0, 256, (24, 30, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "in" / f"{number:02}.png")
    command = [sys.executable, "-m", "anchorsr", *COMMANDS["upscale"].split()]

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            command, cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    processes = [start() for _ in range(3)]
    wait_until(lambda: len(list(tmp_path.glob("out/[!.]*"))) > 3, processes)
    processes[0].kill()
    made: list[str] = []
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert process.returncode in (0, -9), err
        made += out.splitlines()
    last = start()
    out, err = last.communicate(timeout=120)
    assert last.returncode == 0, err
    made += out.splitlines()
    assert len(made) == len(set(made)), "two processes made one image"
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        f"{n:02}.png" for n in range(16)
    ]
    for path in (tmp_path / "out").iterdir():
        with Image.open(path) as image:
            image.load()


def wait_until(condition: Callable[[], bool], processes: list[subprocess.Popen[str]]) -> None:
    end = time.monotonic() + 60
    while not condition() and time.monotonic() < end:
        if all(process.poll() is not None for process in processes):
            return
        time.sleep(0.005)
