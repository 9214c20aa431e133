"""The model files on emulated ARM64 cores, by the means of benchmarks/arm64.py."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

import arm64
from anchorsr.bench.baselines import PUBLISHED
from anchorsr.graph.executor import run_graph
from anchorsr.models.registry import list_models
from anchorsr.serialization.tflite.writer import write_tflite
from anchorsr.utils.sample_image import sample_image
from helpers.graphs import float_graph, integer_graph

FOLDER = arm64.default_folder()  # the user's, before the tests get a cache of their own
IMAGES = [sample_image(24, 32, seed=0)[None], sample_image(13, 7, seed=1)[None]]


@pytest.fixture(scope="module")
def emulator() -> tuple[str, tuple[int, int]]:
    """QEMU and its version; skips without it, or without the system, which no test downloads."""
    if not shutil.which("qemu-aarch64-static") and not shutil.which("qemu-aarch64"):
        pytest.skip("needs qemu-aarch64-static: apt-get install qemu-user-static")
    if not arm64.system_in(FOLDER).is_dir():
        pytest.skip("needs the ARM64 system that python benchmarks/arm64.py downloads")
    found: tuple[str, tuple[int, int]] = arm64.find_qemu()
    return found


@pytest.mark.parametrize("core", arm64.CORES, ids=lambda core: core.name)
def test_every_model_gives_the_bytes_of_the_arithmetic(
    core: arm64.Core, emulator: tuple[str, tuple[int, int]]
) -> None:
    qemu, release = emulator
    if release < core.qemu:
        pytest.skip(f"QEMU {release} computes {core.instruction} wrong")
    models = arm64.load_models([*(model.path.stem for model in list_models()), PUBLISHED])
    assert len(models) >= 7
    jobs = [(data, images) for _, data, _ in models for images in IMAGES]
    results, seen = arm64.emulate(arm64.system_in(FOLDER), core, jobs, qemu)
    assert arm64.wrong_instructions(core, seen) == []
    expected = [run_graph(graph, images) for _, _, graph in models for images in IMAGES]
    for made, wanted in zip(results, expected, strict=True):
        np.testing.assert_array_equal(made, wanted)


def test_another_model_is_told_apart(emulator: tuple[str, tuple[int, int]]) -> None:
    (_, data, graph), (_, _, other) = arm64.load_models(["fast_x3", "abpn_x3"])
    system = arm64.system_in(FOLDER)
    (made,), _ = arm64.emulate(system, arm64.CORES[0], [(data, IMAGES[0])], emulator[0])
    assert arm64.difference(made, run_graph(graph, IMAGES[0])) is None
    assert "differ, up to" in arm64.difference(made, run_graph(other, IMAGES[0]))


def test_a_file_that_litert_refuses_is_one_line(emulator: tuple[str, tuple[int, int]]) -> None:
    with pytest.raises(arm64.BenchmarkError, match="cannot run on an emulated cortex-a53: ") as e:
        arm64.emulate(arm64.system_in(FOLDER), arm64.CORES[0], [(b"x", IMAGES[0])], emulator[0])
    assert "\n" not in str(e.value)


# What follows needs no emulator.


@pytest.fixture
def emulated_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The arguments of a run on one model, for which this machine plays each core."""
    model = tmp_path / "mine.tflite"
    model.write_bytes(write_tflite(integer_graph(0), size=(5, 9)))
    monkeypatch.setattr(arm64, "find_qemu", lambda path: ("qemu", (10, 0)))
    monkeypatch.setattr(arm64, "prepare", lambda folder, qemu: folder)

    def emulate(
        system: Path, core: arm64.Core, jobs: list[arm64.Job], qemu: str
    ) -> tuple[list[np.ndarray], set[str]]:
        results = [arm64.LiteRT(data, 1)(images) for data, images in jobs]
        return results, {core.instruction} - {None}

    monkeypatch.setattr(arm64, "emulate", emulate)
    return ["--model", str(model)]


def test_the_same_bytes_are_a_success(
    emulated_here: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert arm64.main(emulated_here) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    (row,) = [line for line in printed.out.splitlines() if line.startswith("mine")]
    assert row.split("  ")[0] == "mine 9x5"
    assert row.count("the same") == 1 + len(arm64.CORES)


def test_one_other_byte_is_a_failure_that_is_told(
    emulated_here: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = arm64.emulate

    def emulate(*given: object) -> tuple[list[np.ndarray], set[str]]:
        results, seen = honest(*given)
        results[0][0, 7, 3, 1] ^= 1
        return results, seen

    monkeypatch.setattr(arm64, "emulate", emulate)
    assert arm64.main(emulated_here) == 1
    size = 3 * (3 * 5) * (3 * 9)
    told = [f"mine 9x5, {core.name}: 1 of {size} differ, up to 1" for core in arm64.CORES]
    assert capsys.readouterr().err.splitlines() == told


def test_a_core_without_its_instruction_is_a_failure(
    emulated_here: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = arm64.emulate
    monkeypatch.setattr(arm64, "emulate", lambda *given: (honest(*given)[0], {"sdot"}))
    assert arm64.main(emulated_here) == 1
    assert capsys.readouterr().err.splitlines() == [
        "cortex-a53 has no sdot, but ran it",
        "i8mm ran no smmla",
        "sme ran no smopa",
    ]


def test_instructions_are_found_in_what_qemu_logs(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("IN: \n0x55:  4e9c96b4  .byte    0xb4\n0x59:  d503201f  nop\n\n")
    assert arm64._instructions(log) == {"sdot"}
    log.write_text("0x55:  4e82a424  smmla\n0x59:  4f9ce2b4  sdot\n0x5d:  a0810000  smopa\n")
    assert arm64._instructions(log) == {"sdot", "smmla", "smopa"}


@pytest.mark.parametrize(("height", "width"), [(4, 6), (5, 3), (9, 20)])
def test_a_crop_has_its_size_even_where_the_photograph_is_smaller(height: int, width: int) -> None:
    photograph = sample_image(7, 9, seed=0)
    images = arm64.crop(photograph, height, width)
    assert images.shape == (1, height, width, 3)
    assert {tuple(pixel) for pixel in images.reshape(-1, 3)} <= {
        tuple(pixel) for pixel in photograph.reshape(-1, 3)
    }


def tools(folder: Path, **programs: str) -> str:
    """A folder of shell scripts to be found as programs."""
    for name, text in programs.items():
        program = folder / name.replace("_", "-")
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(0o755)
    return str(folder)


QEMU = "echo qemu-aarch64 version 8.2.2"
FAILURES = {
    "apt-get install qemu-user-static": {},
    "is not QEMU: 'hello'": {"qemu_aarch64_static": "echo hello"},
    "(no network, or sources without arm64?): apt-get: No such file": {"qemu_aarch64_static": QEMU},
    "without arm64?): E: Unable to locate package python3": {
        "qemu_aarch64": QEMU,
        "apt_get": "echo 'E: Unable to locate package python3' >&2; exit 100",
    },
    "apt-get downloaded no Python 3": {"qemu_aarch64": QEMU, "apt_get": "exit 0"},
}


@pytest.mark.skipif(os.name == "nt", reason="needs /bin/sh")
@pytest.mark.parametrize("message", FAILURES)
def test_what_is_missing_is_one_line_and_leaves_nothing(
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    programs, folder = tmp_path / "programs", tmp_path / "cache"
    programs.mkdir()
    monkeypatch.setenv("PATH", tools(programs, **FAILURES[message]))
    assert arm64.main(["--model", "fast_x3", "--folder", str(folder)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("arm64.py: ")
    assert message in line
    assert not folder.exists() or list(folder.iterdir()) == []


@pytest.mark.slow
def test_a_model_or_image_that_is_none_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    real = tmp_path / "real.tflite"
    real.write_bytes(write_tflite(float_graph(0)))
    file = tmp_path / "file"
    file.write_text("nothing")
    for arguments, message in (
        (["--model", "none_x3"], "no model 'none_x3'"),
        (["--model", str(real)], "real is a float model"),
        (["--image", str(file)], str(file)),
        (["--qemu", str(tmp_path / "qemu")], "does not run"),
    ):
        assert arm64.main(arguments) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
