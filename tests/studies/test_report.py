"""Which studies a report measures in the time that it has, and what its page says."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from anchorsr.cli import app
from anchorsr.errors import BenchmarkError, DataError, OutputError
from anchorsr.export import challenge
from anchorsr.studies import networks, operators, report
from anchorsr.studies.report import (
    Findings,
    Measurement,
    list_measurements,
    read_study,
    run_measurements,
    write_report,
)

pytest.importorskip("torch", reason="anchorsr[train] is not installed")
pytest.importorskip("matplotlib", reason="anchorsr[plots] is not installed")

STUDIED = {
    "run": "residual_none",
    "factor": 3,
    "parameters": 42_539,
    "macs_per_pixel": 42_345,
    "steps": 8000,
    "float_psnr": {"Set5": 31.2},
    "calibrated_psnr": {"Set5": 30.1},
    "trained_psnr": {"Set5": 31.15},
    "latency_ms": {"litert": 21.0},
}
TAIL = {"method": "wrapped", "test_set": "Set5", "psnr_rgb": 28.0}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "_SIZE", (8, 8))
    monkeypatch.setattr(report, "_ROUNDS", 1)
    monkeypatch.setattr(networks, "choose_size", lambda graph: (8, 8))
    monkeypatch.setattr(challenge, "SIZE", (8, 8))
    for module in (networks, operators):
        monkeypatch.setattr(module, "PAUSE_S", 0.0)
    monkeypatch.setattr(report, "installed_engines", lambda: ["litert"])


def test_measurements_run_while_there_is_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(report.time, "monotonic", lambda: clock[0])
    ran: list[str] = []

    def measurement(study: str, name: str, seconds: float) -> Measurement:
        def measure() -> None:
            clock[0] += seconds
            ran.append(name)
            if name == "fails":
                raise BenchmarkError("it broke")

        return Measurement(study, name, measure)

    found, told = Findings(), []
    measurements = [
        measurement("a", "first", 5), measurement("b", "fails", 1), measurement("a", "too long", 5),
        measurement("b", "short", 1), measurement("c", "unknown", 3), measurement("c", "late", 1),
    ]  # fmt: skip
    run_measurements(measurements, found, seconds=9, on_measurement=told.append)
    assert ran == ["first", "fails", "short", "unknown"]
    assert told == ["a: first", "b: fails", "b: short", "c: unknown"]
    assert found.left_out == ["a: too long", "c: late"]
    assert found.failed == ["b: fails: it broke"]


def test_the_studies_take_turns() -> None:
    measurements = list_measurements(Findings())
    studies = [each.study for each in measurements]
    assert studies[:4] == ["operators", "networks", "challenge", "operators"]
    assert {"abpn", "imdn"} <= {p.name for p in measurements if p.study == "networks"}


@pytest.mark.slow
def test_a_page_shows_what_was_measured_and_what_was_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tmp_path / "study.json"
    study.write_text(
        json.dumps(
            {
                "machine": {"processor": "Other CPU"},
                "study": [STUDIED],
                "tails": {"residual_none": [TAIL]},
            }
        )
    )
    everything = report.list_measurements

    def few(found: Findings) -> list[Measurement]:
        return [p for p in everything(found) if p.name in wanted] + [
            Measurement("networks", "a slow one", lambda: time.sleep(0)),
        ]

    first = next(each.name for each in everything(Findings()) if each.study == "operators")
    wanted = {first, "abpn", "fast_x3"}
    monkeypatch.setattr(report, "list_measurements", few)
    real = report.run_measurements

    def run(some: list[Measurement], found: Findings, **more: Any) -> None:
        real(some[:-1], found, **more)
        real(some[-1:], found, **{**more, "seconds": 0})

    monkeypatch.setattr(report, "run_measurements", run)
    monkeypatch.setattr(report, "load_network", _small_network)
    monkeypatch.setattr(report, "measure_time", lambda model: 40.0)
    output = tmp_path / "studies.md"
    found = write_report(output, minutes=60, study=study)
    assert not found.failed
    page = output.read_text()
    for words in (
        "# Studies", "--minutes 60 --study FILE", "Milliseconds were measured on Other CPU.",
        "## Operators", "| anchor_concat |", "## Networks",
        "![Operators](studies-operators.svg)", "| median error | int8 |",
        "## Residual forms and the baseline",
        "| residual_none | Set5 | 31.200 | 30.100 | 1.100 | 31.150 | 0.050 | 1.93 |",
        "| residual_none | 42,539 | 42,345 | 21.0 |", "| wrapped | 28.000 |",
        "## Challenge", "| fast_x3 |", "## Left out for lack of time",
        "- networks: a slow one",
    ):  # fmt: skip
        assert words in page
    for plot in ("operators", "networks"):
        assert (tmp_path / f"studies-{plot}.svg").read_text().startswith("<?xml")
    with pytest.raises(OutputError, match="exists"):
        write_report(output, minutes=0)


def test_an_infinite_psnr_is_not_missing(tmp_path: Path) -> None:
    row = {**STUDIED, "run": "x|y", "float_psnr": {"flat": None}, "trained_psnr": {"flat": None}}
    study = tmp_path / "study.json"
    study.write_text(json.dumps({"study": [row], "tails": {"x": [{**TAIL, "psnr_rgb": None}]}}))
    write_report(tmp_path / "page.md", minutes=0, study=study)
    page = (tmp_path / "page.md").read_text()
    assert r"| x\|y | flat | inf | - | - | inf | - | - |" in page
    assert "| wrapped | inf |" in page


def _small_network(name: str) -> Any:
    from anchorsr.studies.networks import load_network

    return load_network("fast_x3")


def test_no_time_at_all_makes_a_page_that_says_so(tmp_path: Path) -> None:
    output = tmp_path / "s.md"
    found = write_report(output, minutes=0)
    page = output.read_text()
    assert len(found.left_out) > 10
    assert "## Operators" not in page
    assert "- networks: abpn" in page
    assert [path.name for path in tmp_path.iterdir()] == ["s.md"]


def test_the_command_names_its_minimum_duration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")  # no line break in the words
    assert app.run(["report", "-o", str(tmp_path / "s.md"), "--minutes", "0.5"]) == 2
    error = capsys.readouterr().err
    assert "--minutes" in error and "1" in error
    assert error.count("\n") == 1
    assert app.run(["report", "--help"]) == 0
    assert "at least 1" in " ".join(capsys.readouterr().out.replace("│", " ").split())


def test_the_command_says_how_much_there_was_no_time_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def skip(measurements: list[Measurement], found: Findings, **_: Any) -> None:
        found.left_out += [each.name for each in measurements]

    monkeypatch.setattr(report, "run_measurements", skip)
    assert app.run(["report", "-o", str(tmp_path / "s.md")]) == 0
    assert "no time for" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        "not JSON", "[1]", "{}", '{"study": []}', '{"study": [1], "tails": {}}',
        '{"study": [{"run": "a", "float_psnr": 3}], "tails": {}}',
        '{"study": [], "tails": {"a": [{"method": "b"}]}}',
    ],
)  # fmt: skip
def test_a_file_that_is_no_study_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "study.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"study\.json"):
        read_study(path)
    with pytest.raises(DataError, match=r"none\.json"):
        read_study(tmp_path / "none.json")


def test_a_page_that_cannot_be_written_is_refused_before_anything_is_measured(
    tmp_path: Path,
) -> None:
    with pytest.raises(OutputError, match=r"does not end with \.md"):
        write_report(tmp_path / "s.txt", minutes=60)
    (tmp_path / "s-networks.svg").touch()
    with pytest.raises(OutputError, match=r"s-networks\.svg"):
        write_report(tmp_path / "s.md", minutes=60)
    (tmp_path / "study.md").write_text('{"study": [], "tails": {}}')
    with pytest.raises(OutputError, match=r"study\.md is an input"):
        write_report(tmp_path / "study.md", minutes=60, study=tmp_path / "study.md", overwrite=True)
