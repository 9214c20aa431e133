"""Latency against the depth of the body: which convolutions are counted as free."""

from __future__ import annotations

import numpy as np
import pytest

from anchorsr.engines.native import library
from anchorsr.errors import BenchmarkError, ModelError
from anchorsr.graph.executor import run_graph
from anchorsr.graph.operators import Conv2D
from anchorsr.studies import depth
from anchorsr.studies.depth import DEPTHS, FORMS, depth_grid, measure_depths
from anchorsr.studies.op_graphs import residual_graph
from anchorsr.utils.timing import Times


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("count", [0, 1, 5])
def test_graph_has_as_many_convolutions_with_relu(form: str, count: int) -> None:
    for precision in ("float32", "int8"):
        graph = residual_graph(form, 6, precision, depth=count)  # type: ignore[arg-type]
        convolutions = [op for op in graph.operators if isinstance(op, Conv2D)]
        assert [op.relu for op in convolutions].count(True) == count
        images = np.zeros((1, 4, 5, 3), graph.tensors[graph.input].dtype)
        assert run_graph(graph, images).shape == (1, 12, 15, 3)


def measured(monkeypatch: pytest.MonkeyPatch, milliseconds: list[float]) -> depth.DepthTimes:
    monkeypatch.setattr(depth, "prepare_call", lambda *_, **__: lambda: None)
    monkeypatch.setattr(
        depth,
        "time_interleaved",
        lambda calls, **_: {key: Times((milliseconds[key] / 1000,) * 3) for key in calls},
    )
    options = {"precisions": ["int8"], "engines": ["litert"], "threads": [2], "size": (36, 64)}
    (row,) = measure_depths(["anchor_conv"], **options)  # type: ignore[arg-type]
    return row


@pytest.mark.parametrize(
    ("slope", "free"), [([0.0] * 9, 8), ([0, 0, 0.4, 1, 2, 3, 4, 5, 6], 2), ([0, *[9] * 8], 0)]
)
def test_convolutions_are_free_until_the_first_that_costs(
    monkeypatch: pytest.MonkeyPatch, slope: list[float], free: int
) -> None:
    row = measured(monkeypatch, [10 + more for more in slope])
    assert row.free == free
    assert row.median_ms[0] == pytest.approx(10)
    grid = depth_grid([row])
    assert grid.rows[0][:4] == ("anchor_conv", "int8", "litert", "2")
    assert grid.rows[0][-1] == str(free)
    assert len(grid.head) == len(grid.rows[0]) == 5 + len(DEPTHS)


def test_what_cannot_be_measured_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ModelError("no such thing")

    monkeypatch.setattr(depth, "prepare_call", fail)
    options = {"precisions": ["int8"], "engines": ["litert"], "threads": [1]}
    (row,) = measure_depths(["anchor_tile"], **options)  # type: ignore[arg-type]
    assert row.failure == "no such thing"
    assert depth_grid([row]).rows[0][4] == "failed"
    with pytest.raises(BenchmarkError, match="no form of the anchor 'best'"):
        measure_depths(["best"], **options)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_real_measurement_has_a_time_for_every_depth() -> None:
    engines = ["litert", *["native"] * library.PATH.exists()]
    options = {"precisions": ["int8"], "engines": engines, "threads": [1], "rounds": 1}
    rows = measure_depths(["anchor_conv"], size=(8, 8), channels=4, **options)  # type: ignore[arg-type]
    assert [row.engine for row in rows] == engines
    for row in rows:
        assert len(row.median_ms) == len(row.low_ms) == len(row.high_ms) == len(DEPTHS)
        assert all(ms > 0 for ms in row.median_ms)
