"""What is measured for an operator and a network, and what follows from it; never how long."""

from __future__ import annotations

import dataclasses
import json
import math
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from anchorsr.bench.plots import RowPoint, draw_rows
from anchorsr.cli import app
from anchorsr.engines.runtimes import load_engine
from anchorsr.engines.selection import installed_engines
from anchorsr.errors import BenchmarkError, GraphError, ModelError
from anchorsr.graph import operators as ops
from anchorsr.graph.graph import Graph
from anchorsr.models.registry import model_path, read_model
from anchorsr.serialization.tflite.writer import write_tflite
from anchorsr.studies import networks, operators
from anchorsr.studies.networks import (
    Prediction,
    choose_size,
    count_classes,
    load_network,
    measure_networks,
    median_error,
    network_terms,
)
from anchorsr.studies.op_costs import (
    CALL,
    Estimate,
    Probe,
    Residual,
    Terms,
    combine,
    cost_terms,
    file_io_terms,
    io_terms,
    sum_terms,
)
from anchorsr.studies.op_graphs import (
    OperatorClass,
    Precision,
    ResidualForm,
    classify,
    operator_graph,
    residual_graph,
)
from anchorsr.studies.operators import (
    AFFORDABLE,
    PRECISIONS,
    REFERENCE,
    Cost,
    catalogue,
    choose,
    compare_with_paper,
    measure_operators,
    prepare_call,
)
from anchorsr.studies.tables import (
    cost_grids,
    draw_costs,
    draw_predictions,
    output_stage_grids,
    study_grids,
)
from anchorsr.utils.timing import Times

SIZE = (8, 12)
CONV = OperatorClass("Conv2D", 8, 8, size=3)


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (operators, networks):
        monkeypatch.setattr(module, "PAUSE_S", 0.0)


# The graphs


def all_operators(channels: int) -> list[OperatorClass]:
    return [one for one in catalogue(channels).values() if isinstance(one, OperatorClass)]


@pytest.mark.parametrize("convolution", ["Conv2D", "DepthwiseConv2D", "TransposedConv2D"])
def test_a_kernel_that_is_not_square_is_measured_as_it_is(convolution: str) -> None:
    one = OperatorClass(convolution, 8, 8, size=3, columns=5)
    graph = operator_graph(one, "int8")
    assert classify(graph.operators[0], graph) == one
    depth = 1 if convolution == "DepthwiseConv2D" else 8
    assert graph.macs_per_pixel == 3 * 5 * 8 * depth


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("one", all_operators(8), ids=lambda one: one.label)
def test_a_graph_holds_its_operator_alone(one: OperatorClass, precision: Precision) -> None:
    graph = operator_graph(one, precision)
    kinds = [type(operator).__name__ for operator in graph.operators]
    if one.kind == "ChannelAttention":
        assert kinds == ["GlobalAveragePool", "Conv2D", "Conv2D", "Sigmoid", "Multiply"]
    else:
        assert kinds == [one.kind]
        assert classify(graph.operators[0], graph) == one
    assert graph.tensors[graph.input].channels == one.inputs
    assert graph.tensors[graph.output].channels == one.outputs
    assert graph.extents[graph.output] == one.output_extent
    assert {tensor.dtype for tensor in graph.tensors.values()} == {precision}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_what_keeps_its_shape_is_applied_to_its_own_output(precision: Precision) -> None:
    graph = operator_graph(CONV, precision, count=3)
    for earlier, later in zip(graph.operators, graph.operators[1:], strict=False):
        assert later.inputs == (earlier.output,)
    assert len(graph.operators) == 3
    added = operator_graph(OperatorClass("Add", 8, 8), precision, count=3).operators
    # Two tensors, not one twice, but for the first.
    assert [len(set(operator.inputs)) for operator in added] == [1, 2, 2]
    gated = operator_graph(OperatorClass("Multiply", 8, 8, detail="gate"), precision, count=3)
    assert len({operator.inputs[1] for operator in gated.operators[1:]}) == 1
    assert gated.extents[gated.operators[1].inputs[1]] == 0


@pytest.mark.parametrize("kind", ["ReLU", "DepthToSpace"])
def test_what_does_not_repeat_is_not_repeated(kind: str) -> None:
    one = OperatorClass(kind, 12, 3 if kind == "DepthToSpace" else 12, size=2)
    assert not one.repeats
    with pytest.raises(GraphError, match="cannot be applied to its own output"):
        operator_graph(one, "int8", count=2)


def test_an_operator_without_a_graph_is_named() -> None:
    with pytest.raises(GraphError, match="SquareRoot; 4 cannot be measured alone"):
        operator_graph(OperatorClass("SquareRoot", 4, 4), "float32")


def test_input_and_output_of_a_file_are_uint8_and_mean_the_same() -> None:
    graph = operator_graph(CONV, "int8", file_io=True)
    kinds = [type(operator) for operator in graph.operators]
    assert kinds == [ops.Requantize, ops.Conv2D, ops.Requantize]
    source, inner = (graph.tensors[name].quantization for name in ("images", "t0"))
    assert source is not None
    assert inner is not None
    assert (source.scale, source.zero_point) == (inner.scale, inner.zero_point + 128)
    assert len(operator_graph(CONV, "float32", file_io=True).operators) == 1


@pytest.mark.parametrize("precision", PRECISIONS)
def test_residual_forms_differ_by_their_residual_alone(precision: Precision) -> None:
    plain = Counter(type(op).__name__ for op in residual_graph("none", 8, precision).operators)
    assert plain == {"Conv2D": 3, "DepthToSpace": 1}
    expected: Mapping[ResidualForm, dict[str, int]] = {
        "fsrl": {"Add": 1},
        "isrl_nearest": {"Resize": 1, "Add": 1},
        "isrl_bilinear": {"Resize": 1, "Add": 1},
        "anchor_concat": {"Concat": 1, "Add": 1},
        "anchor_tile": {"Tile": 1, "Add": 1},
        "anchor_conv": {"Conv2D": 1, "Add": 1},
        "anchor_folded": {"Concat": 1},
    }
    assert {"none", *expected} == set(get_args(ResidualForm))
    for form, more in expected.items():
        graph = residual_graph(form, 8, precision)
        assert Counter(type(op).__name__ for op in graph.operators) - plain == more
        assert graph.factor == 3
        large = [op for op in graph.operators if graph.extents[op.output] == 3]
        assert any(isinstance(op, ops.Add) for op in large) == form.startswith("isrl")


def test_three_anchors_compute_the_same() -> None:
    image = np.random.default_rng(0).integers(-128, 128, (1, *SIZE, 3), np.int8)
    outputs = []
    for form in ("anchor_concat", "anchor_tile", "anchor_conv"):
        data = write_tflite(residual_graph(form, 8, "int8"), size=SIZE)
        engine = load_engine(data, threads=1, dtype=np.int8)
        outputs.append(engine(image))
    for other in outputs[1:]:
        np.testing.assert_array_equal(outputs[0], other)


# Classes


def test_classes_of_a_shipped_network() -> None:
    graph = read_model(model_path("abpn"))[1]
    counts = count_classes(graph)
    assert counts[OperatorClass("Conv2D", 28, 28, size=3, relu=True)] == 4
    assert counts[OperatorClass("Conv2D", 3, 28, size=3, relu=True)] == 1
    assert counts[OperatorClass("DepthToSpace", 27, 3, size=3)] == 1
    # All but the changes of number type at the edges.
    assert counts.total() == len(graph.operators) - 2


def test_classes_tell_extents_and_gates_apart_and_leave_out_what_is_1x1() -> None:
    attention = operator_graph(OperatorClass("ChannelAttention", 8, 8), "float32")
    classes = [classify(operator, attention) for operator in attention.operators]
    assert classes == [
        OperatorClass("GlobalAveragePool", 8, 8),
        None,
        None,
        None,
        OperatorClass("Multiply", 8, 8, detail="gate"),
    ]
    graph = residual_graph("isrl_nearest", 8, "float32")
    assert classify(graph.operators[-1], graph) == OperatorClass("Add", 3, 3, extent=3)


def test_a_class_is_put_into_words() -> None:
    assert CONV.label == "Conv2D 3x3; 8"
    assert OperatorClass("Conv2D", 8, 8, size=1, columns=9).label == "Conv2D 1x9; 8"
    one = OperatorClass("Conv2D", 8, 16, extent=3, size=5, groups=4, relu=True)
    assert one.label == "Conv2D 5x5, 4 groups, ReLU; 8->16 at x3"
    assert OperatorClass("Resize", 3, 3, size=3, detail="nearest").label == "Resize x3, nearest; 3"
    assert Residual("anchor_tile", 28).label == "anchor tile; 28"


# What is subtracted from what


def clocked(terms: Terms, seconds: Mapping[str, float], edges: float) -> dict[Any, Times]:
    """Times as they would be if each kind of operator took so long, and each graph's edges."""

    def total(one: Probe) -> float:
        if isinstance(one.of, Residual):
            return edges + seconds[one.of.form]
        works = one.count if one.extent else 0
        return edges + works * seconds[one.of.kind]

    return {one: Times((total(one),) * 3) for one in terms}


SECONDS = {"Conv2D": 0.010, "Add": 0.002, "ReLU": 0.001, "Resize": 0.020, "Concat": 0.004}


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (CONV, 10.0),
        (OperatorClass("Conv2D", 8, 4, size=3), 10.0),
        (OperatorClass("Add", 8, 8), 2.0),
        (OperatorClass("ReLU", 8, 8), 1.0),
        (OperatorClass("Resize", 3, 3, size=3, detail="nearest"), 20.0),
        (OperatorClass("Concat", 3, 27, size=9), 4.0),
    ],
)
def test_a_cost_excludes_input_and_output(one: OperatorClass, expected: float) -> None:
    terms = cost_terms(one)
    for edges in (0.0, 0.5):
        times = clocked(terms, SECONDS, edges)
        median, half = sum_terms(terms, times)
        assert median == pytest.approx(expected)
        assert half == 0


def test_a_residual_costs_what_the_graph_takes_longer_with_it() -> None:
    terms = cost_terms(Residual("isrl_nearest", 8))
    times = clocked(terms, {"isrl_nearest": 0.030, "none": 0.025}, 0.1)
    assert sum_terms(terms, times).median == pytest.approx(5.0)


def test_input_and_output_cost_what_is_left_without_the_operator() -> None:
    for terms in (io_terms(8, 1), io_terms(3, 3), file_io_terms(3), CALL):
        assert sum_terms(terms, clocked(terms, SECONDS, 0.5)).median == pytest.approx(500.0)
    for extent in (1, 3):
        assert file_io_terms(3)[Probe(OperatorClass("Add", 3, 3, extent), file_io=True)] == 0.5


def test_sums_add_up_and_spreads_as_of_independent_numbers() -> None:
    first, second = Probe(CONV), Probe(CONV, 4)
    terms = combine([({first: 1.0}, 2.0), ({first: 1.0, second: 3.0}, 1.0)])
    assert terms == {first: 3.0, second: 3.0}
    times = {first: Times((0.001, 0.002, 0.003)), second: Times((0.010, 0.014, 0.018))}
    median, half = sum_terms(terms, times)
    assert median == pytest.approx(3 * 2 + 3 * 14)
    assert half == pytest.approx(math.hypot(3 * 0.5, 3 * 2.0))


# Operators


def test_every_operator_of_the_issue_is_in_the_catalogue() -> None:
    names = set(catalogue(28))
    assert len(names) == 22 + 7
    assert set(choose(["add"], 28)) == {REFERENCE, "add"}
    assert set(choose([], 28)) == names
    with pytest.raises(BenchmarkError, match="no operator 'adds'; choose from: conv3x3, conv1x1"):
        choose(["adds"], 28)
    with pytest.raises(BenchmarkError, match="at least 2 channels"):
        catalogue(1)


@pytest.mark.slow
@pytest.mark.parametrize("channels", [2, 7, 28, 32, 100])
def test_the_catalogue_suits_every_width(channels: int) -> None:
    for one in catalogue(channels).values():
        for precision in PRECISIONS:
            for each in cost_terms(one):
                assert isinstance(each.graph(precision), Graph)


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("engine", installed_engines())
def test_every_operator_is_measured_in_every_engine(engine: str, precision: Precision) -> None:
    ticks: list[tuple[int, int]] = []
    rows = measure_operators(
        channels=[8],
        precisions=[precision],
        engines=[engine],
        threads=[1],
        size=SIZE,
        rounds=1,
        on_progress=lambda *each: ticks.append(each),
    )
    assert {row.operator: row.failure for row in rows} == dict.fromkeys(catalogue(8))
    assert ticks == [(done, len(ticks)) for done in range(1, len(ticks) + 1)]
    for row in rows:
        assert (row.precision, row.engine, row.threads, row.rounds) == (precision, engine, 1, 1)
        assert (row.channels, row.height, row.width) == (8, *SIZE)
        assert row.low_ms is not None and row.median_ms is not None and row.high_ms is not None
        assert row.low_ms <= row.median_ms <= row.high_ms
        assert row.graph_ms is not None and row.graph_ms > 0
        assert Cost(**json.loads(json.dumps(dataclasses.asdict(row)))) == row


def fake_costs(monkeypatch: pytest.MonkeyPatch, **milliseconds: float | str) -> list[Cost]:
    """Costs of operators that take so long, or fail with such words."""
    there = catalogue(8)
    wanted = {id_: there[name] for name, id_ in zip(milliseconds, milliseconds, strict=True)}

    def measure(one: Any, *_: Any) -> Any:
        name = next(name for name, other in wanted.items() if other == one)
        took = milliseconds[name]
        if isinstance(took, str):
            return took
        return operators.Measurement(Estimate(took, 0.1), Estimate(took + 1, 0.1))

    monkeypatch.setattr(operators, "_measure", measure)
    names = list(milliseconds)
    return measure_operators(names, channels=[8], precisions=["int8"], engines=["e"], threads=[1])


def test_verdicts_are_relative_to_the_convolution_and_compared_with_the_paper(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = fake_costs(
        monkeypatch, conv3x3=10.0, add=5.0, conv1x1=5.1, relu=1.0, anchor_concat=7.0, prelu="no"
    )
    found = {row.operator: row for row in rows}
    assert AFFORDABLE == 0.5
    assert {name: (row.affordable, row.differs) for name, row in found.items()} == {
        "conv3x3": (None, False),
        "add": (True, True),
        "conv1x1": (False, False),
        "relu": (True, False),
        "anchor_concat": (False, True),
        "prelu": (None, False),
    }
    add = found["add"]
    assert (add.low_ms, add.median_ms, add.high_ms, add.graph_ms) == (4.9, 5.0, 5.1, 6.0)
    assert (add.share, add.paper_affordable) == (0.5, False)
    assert (found["prelu"].failure, found["prelu"].median_ms) == ("no", None)


def test_without_the_reference_there_is_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    for took in ("it failed", 0.0, -1.0):
        rows = fake_costs(monkeypatch, conv3x3=took, add=5.0)
        assert [(row.share, row.affordable) for row in rows] == [(None, None)] * 2


def test_claims_of_the_paper_are_checked_against_ratios(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = fake_costs(
        monkeypatch, conv3x3=10.0, conv1x1=9.0, add=2.0, anchor_concat=6.0, isrl_nearest=6.0,
        isrl_bilinear=5.0, relu=1.0, leaky_relu=0.0,
    )  # fmt: skip
    claims = {claim.statement.split()[0]: claim for claim in compare_with_paper(rows)}
    # ReLU over LeakyReLU would divide by zero.
    found = {word: (claim.ratio, claim.holds) for word, claim in claims.items()}
    assert found == {
        "an": (0.2, False),
        "1x1": (0.9, True),
        "the": (3.0, True),
        "nearest": (1.0, False),
        "bilinear": (pytest.approx(5 / 6), False),
    }


def test_what_an_engine_refuses_is_reported_and_the_rest_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = operators.write_tflite

    def refuse(graph: Graph, **more: Any) -> bytes:
        if any(isinstance(operator, ops.Multiply) for operator in graph.operators):
            raise GraphError("no Multiply here")
        return real(graph, **more)

    monkeypatch.setattr(operators, "write_tflite", refuse)
    rows = measure_operators(
        ["add", "multiply"], channels=[8], precisions=["int8"], engines=["litert"], threads=[1],
        size=SIZE, rounds=1,
    )  # fmt: skip
    failures = {row.operator: row.failure for row in rows}
    assert failures == {"conv3x3": None, "add": None, "multiply": "no Multiply here"}


# Networks


@pytest.mark.slow
def test_a_network_is_predicted_from_its_operators_and_measured() -> None:
    engines = installed_engines()
    ticks: list[tuple[int, int]] = []
    network = load_network("fast_x3")
    rows = measure_networks(
        [network],
        engines=engines,
        threads=[1],
        size=SIZE,
        rounds=1,
        on_progress=lambda *each: ticks.append(each),
    )
    assert ticks == [(done, len(ticks)) for done in range(1, len(ticks) + 1)]
    assert [(row.precision, row.engine) for row in rows] == [
        (precision, engine) for precision in PRECISIONS for engine in engines
    ]
    for row in rows:
        graph = network.graphs[row.precision]
        assert row.failure is None
        assert row.macs_per_pixel == graph.macs_per_pixel
        # The number type changes at the edges, which are counted apart.
        edges = 2 if row.precision == "int8" else 0
        assert sum(part.count for part in row.parts) == len(graph.operators) - edges
        assert row.predicted_ms is not None and row.edges_ms is not None
        total = sum(part.total_ms for part in row.parts) + row.edges_ms
        assert row.predicted_ms == pytest.approx(total)
        assert row.measured_ms is not None and row.ratio is not None
        assert row.ratio == pytest.approx(row.predicted_ms / row.measured_ms)
    made = json.loads(json.dumps([dataclasses.asdict(row) for row in rows]))
    assert made[0]["parts"][0]["count"] == rows[0].parts[0].count


def test_terms_of_a_network_predict_the_sum_of_its_operators() -> None:
    graph = read_model(model_path("fast_x3"))[1]
    terms = network_terms(graph)
    seconds = {"Conv2D": 0.010, "Add": 0.002, "DepthToSpace": 0.003, "Clip": 0.0}
    times = clocked(terms, seconds, 0.5)
    kinds = Counter(type(operator).__name__ for operator in graph.operators)
    expected = sum(seconds.get(kind, 0.0) * count for kind, count in kinds.items())
    assert sum_terms(terms, times).median == pytest.approx(1000 * expected + 500)


def test_the_median_error_is_of_shares() -> None:
    common: dict[str, Any] = dict.fromkeys(("network", "precision", "engine"), "")
    common |= dict.fromkeys(("threads", "height", "width", "rounds", "macs_per_pixel"), 1)
    rows = [
        Prediction(**common, predicted_ms=predicted, measured_ms=10.0)
        for predicted in (9.0, 13.0, 10.5, None)
    ]
    assert median_error(rows) == pytest.approx(0.1)
    assert median_error(rows[3:]) is None


@pytest.mark.slow
def test_the_size_suits_the_work() -> None:
    graph = read_model(model_path("abpn"))[1]
    assert choose_size(graph) == (360, 640)
    wide = operator_graph(OperatorClass("Conv2D", 512, 512, size=3), "int8")
    assert choose_size(wide) == (45, 80)
    widest = operator_graph(OperatorClass("Conv2D", 1024, 1024, size=3), "int8")
    assert choose_size(widest) == (24, 40)


def test_a_network_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="no network 'nothing'; choose from: abpn"):
        load_network("nothing")
    with pytest.raises(ModelError, match="does not exist"):
        load_network(str(tmp_path / "none.tflite"))
    (tmp_path / "bad.tflite").write_bytes(b"TFL3 not at all")
    with pytest.raises(ModelError, match=r"bad\.tflite"):
        load_network(str(tmp_path / "bad.tflite"))


def test_a_network_of_ours_has_random_weights_and_both_precisions() -> None:
    pytest.importorskip("torch")
    network = load_network("residual_form")
    assert list(network.graphs) == ["float32", "int8"]
    assert [graph.is_integer for graph in network.graphs.values()] == [False, True]
    again = load_network("residual_form", ["float32"]).graphs["float32"]
    for one, other in zip(network.graphs["float32"].operators, again.operators, strict=True):
        if isinstance(one, ops.Conv2D) and isinstance(other, ops.Conv2D):
            np.testing.assert_array_equal(one.weights, other.weights)


def test_a_call_runs_the_graph_at_its_size() -> None:
    call = prepare_call(operator_graph(CONV, "int8"), engine="litert", threads=1, size=SIZE)
    call()
    with pytest.raises(ModelError, match="no engine 'none'"):
        prepare_call(operator_graph(CONV, "int8"), engine="none", threads=1, size=SIZE)


# Tables and plots


def test_plots_are_svg_and_tables_have_a_cell_for_every_column(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("matplotlib", reason="anchorsr[plots] is not installed")
    rows = fake_costs(monkeypatch, conv3x3=10.0, add=-0.5, prelu="no")
    (grid,) = cost_grids(rows)
    assert [row[0] for row in grid.rows] == ["conv3x3", "add", "prelu"]
    assert all(len(row) == len(grid.head) for row in grid.rows)
    assert grid.rows[1][2:] == ("-0.50 (-0.60 - -0.40) yes*", "no")
    assert grid.rows[2][2] == "-"
    assert grid.markdown().splitlines()[2].startswith("| operator | what | e, 1 thread |")
    text = draw_costs(rows, "a <processor>")
    assert text is not None
    words = "".join(ElementTree.fromstring(text).itertext())
    assert "add" in words
    assert "a <processor>" in words
    assert "prelu" not in words
    assert draw_costs(rows[2:], "") is None


def test_points_stand_in_their_rows_at_their_values() -> None:
    pytest.importorskip("matplotlib", reason="anchorsr[plots] is not installed")
    points = [RowPoint("a", ("e", "int8"), 1.0, 0.5, 2.0)]
    points += [RowPoint("b", ("f", "int8"), 0.001, 0.001, 0.001)]
    text = draw_rows(points, title="", subtitle="", x_label="", least=0.01)
    uses = ElementTree.fromstring(text).iter("{http://www.w3.org/2000/svg}use")
    places = [
        (float(use.attrib["x"]), float(use.attrib["y"]))
        for use in uses
        if "stroke: #ffffff" in use.attrib["style"]
    ]
    (a, b), legend = places[:2], places[2:]
    assert len(legend) == 2
    assert a[0] > b[0]  # a larger value is further right
    assert a[1] < b[1]  # the first row is the upper one
    with pytest.raises(ValueError, match="at least one point"):
        draw_rows([], title="", subtitle="", x_label="", least=0.01)


def test_a_study_and_its_output_stages_in_tables() -> None:
    common = {"parameters": 42_539, "macs_per_pixel": 42_345}
    rows = [
        {
            "run": "residual_none", **common, "float_psnr": {"Set5": 31.0},
            "calibrated_psnr": {"Set5": 29.5}, "trained_psnr": None, "latency_ms": {"litert": 20.0},
        },
        {
            "run": "fsrcnn", **common, "float_psnr": {"Set5": 30.0}, "calibrated_psnr": None,
            "trained_psnr": {"Set5": 29.75}, "latency_ms": {"openvino": 9.04},
        },
    ]  # fmt: skip
    quality, cost = study_grids(rows)
    assert quality.rows == (
        ("residual_none", "Set5", "31.000", "29.500", "1.500", "-", "-", "1.93"),
        ("fsrcnn", "Set5", "30.000", "-", "-", "29.750", "0.250", "-"),
    )
    assert cost.rows == (
        ("residual_none", "42,539", "42,345", "20.0", "-"),
        ("fsrcnn", "42,539", "42,345", "-", "9.0"),
    )
    score = {"method": "wrapped", "test_set": "Set5", "psnr_rgb": 28.0}
    (grid,) = output_stage_grids({"residual_none": [score]})
    assert (grid.head, grid.rows) == (("output stage", "Set5"), (("wrapped", "28.000"),))


# The command line


def probe_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert app.run(["probe", *arguments, "--json"]) == 0
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    return report


FEW = ("--threads", "1", "--size", "9x8", "--rounds", "1", "--engine", "litert")


@pytest.mark.slow
def test_the_command_measures_operators(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib", reason="anchorsr[plots] is not installed")
    plot = tmp_path / "o.svg"
    words = ["operators", "add", "conv1x1", "--channels", "8", *FEW]
    assert app.run(["probe", *words, "--plot", str(plot)]) == 0
    printed = capsys.readouterr().out
    for word in ("conv3x3", "add", "conv1x1", "float32, 8 channels, 9x8", "Claims of the paper"):
        assert word in printed
    assert ElementTree.parse(plot).getroot().tag.endswith("svg")
    assert app.run(["probe", *words, "--plot", str(plot)]) == 1
    assert "exists" in capsys.readouterr().err
    report = probe_json(capsys, *words)
    assert len(report["operators"]) == 2 * 3
    assert (report["operators"][0]["height"], report["operators"][0]["width"]) == (8, 9)
    assert report["machine"]["cores"] >= 1


@pytest.mark.slow
def test_the_command_measures_networks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib", reason="anchorsr[plots] is not installed")
    plot = tmp_path / "n.svg"
    words = ["probe", "network", "abpn", "fast_x3", *FEW, "--precision", "int8"]
    assert app.run([*words, "--plot", str(plot)]) == 0
    printed = capsys.readouterr().out
    for word in ("Conv2D 3x3, ReLU; 28", "predicted / measured", "median error", "abpn, int8"):
        assert word in printed
    assert "float32" not in printed
    assert ElementTree.parse(plot).getroot().tag.endswith("svg")
    report = probe_json(capsys, "network", "fast_x3", *FEW)
    assert [row["precision"] for row in report["networks"]] == ["float32", "int8"]
    assert all(row["ratio"] for row in report["networks"])


@pytest.mark.parametrize(
    "arguments", [["operators", "add", "--channels", "8"], ["network", "abpn"]]
)
def test_nothing_measured_is_a_failure(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> bytes:
        raise GraphError("not today")

    monkeypatch.setattr(operators, "write_tflite", refuse)
    assert app.run(["probe", *arguments, *FEW]) == 1
    assert "not today" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["operators", "adds"], 1, "no operator 'adds'"),
        (["operators", "--precision", "int4"], 2, "no precision 'int4'; choose from: fp32, int8"),
        (["operators", "--engine", "none"], 2, "no engine 'none'"),
        (["operators", "--size", "0x5"], 2, "WIDTHxHEIGHT"),
        (["operators", "--channels", "1"], 2, "--channels"),
        (["operators", "--plot", "a.png"], 1, "does not end with .svg"),
        pytest.param(["network", "nothing"], 1, "no network 'nothing'", marks=pytest.mark.torch),
        (["network"], 2, ""),
        (["networks"], 2, "networks"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.run(["probe", *arguments]) == code
    captured = capsys.readouterr()
    assert message in captured.err + captured.out
    assert "Traceback" not in captured.err


def test_failed_predictions_are_reported_and_not_drawn() -> None:
    pytest.importorskip("matplotlib", reason="anchorsr[plots] is not installed")
    common: dict[str, Any] = {"network": "n", "precision": "int8", "engine": "e"}
    common |= dict.fromkeys(("threads", "height", "width", "rounds", "macs_per_pixel"), 1)
    assert draw_predictions([Prediction(**common, failure="no")], "") is None
    measured = {"measured_ms": 1.0, "low_ms": 1.0, "high_ms": 1.0}
    below = Prediction(**common, **measured, predicted_ms=-0.1)
    assert draw_predictions([below], "") is None
    assert draw_predictions([below, Prediction(**common, **measured, predicted_ms=1.5)], "")
