"""A quantized model and its card are written together, or neither is."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs anchorsr[train]")

from anchorsr.errors import OutputError
from anchorsr.export import release
from anchorsr.models.card import ModelCard, read_card
from anchorsr.serialization.tflite.writer import write_tflite
from helpers.graphs import integer_graph

GRAPH = integer_graph(0, depth=1)
DATA = write_tflite(GRAPH)
CARD = ModelCard.of_file(DATA, GRAPH, figures=[], runs={})
OTHER = ModelCard.of_file(b"another", GRAPH, figures=[], runs={})


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> None:
    """No space for the model's file; its card was small enough."""
    publish = release.publish

    def fail(data: bytes, path: Path, *, overwrite: bool) -> None:
        if path.suffix == ".tflite":
            raise OutputError("no space")
        publish(data, path, overwrite=overwrite)

    monkeypatch.setattr(release, "publish", fail)


def test_a_card_without_its_model_is_no_obstacle_if_it_is_of_the_same_file(tmp_path: Path) -> None:
    output = tmp_path / "a.tflite"
    release.write_card(tmp_path / "a.json", CARD, overwrite=False)
    release._check_output(output, overwrite=False)
    release._publish(output, DATA, CARD, overwrite=False)
    assert read_card(output) == CARD
    output.unlink()
    release.write_card(tmp_path / "a.json", OTHER, overwrite=True)
    with pytest.raises(OutputError, match=r"a\.json exists already"):
        release._publish(output, DATA, CARD, overwrite=False)
    assert read_card(output) == OTHER
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(OutputError, match=r"a\.json exists already"):
        release._check_output(output, overwrite=False)


def test_a_model_that_cannot_be_written_leaves_no_card(tmp_path: Path, full: None) -> None:
    with pytest.raises(OutputError, match="no space"):
        release._publish(tmp_path / "a.tflite", DATA, CARD, overwrite=False)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a.tflite").write_bytes(b"another")
    release.write_card(tmp_path / "a.json", OTHER, overwrite=False)
    with pytest.raises(OutputError, match="no space"):
        release._publish(tmp_path / "a.tflite", DATA, CARD, overwrite=True)
    assert read_card(tmp_path / "a.tflite") == OTHER


def test_an_output_that_cannot_be_written_is_told_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "a.tflite").write_bytes(DATA)
    (tmp_path / "b.json").write_text("{}")
    for name, said in {
        "a.onnx": "does not end with .tflite",
        "a.tflite": "a.tflite exists already",
        "b.tflite": "b.json exists already",
        "missing/a.tflite": "missing is not an existing folder",
    }.items():
        with pytest.raises(OutputError, match=said):
            release._check_output(tmp_path / name, overwrite=False)
