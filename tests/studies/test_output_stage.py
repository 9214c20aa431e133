"""Output stages differ in what they are named after, and cost what they must."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from anchorsr.engines.runtimes import load_engine
from anchorsr.errors import GraphError
from anchorsr.graph.executor import run_graph
from anchorsr.graph.graph import Graph
from anchorsr.graph.operators import Quantization
from anchorsr.images.io import RasterImage, write_image
from anchorsr.quantization.calibration import observe_ranges
from anchorsr.quantization.ptq import quantize_graph
from anchorsr.quantization.rounding import avoid_ties
from anchorsr.serialization.tflite.writer import write_tflite
from anchorsr.studies.output_stage import measure_output_stages, quantize_output_stages, wrap_around
from anchorsr.training.recipe import Recipe
from anchorsr.utils.config import parse_table
from helpers.float_graphs import FloatChain, anchored
from helpers.graphs import image

LR = image(0, 24, 20)


def small_network() -> Graph:
    chain = FloatChain(4)
    return anchored(chain.convolve("images", "body", 8, relu=True), chain)


@pytest.fixture(scope="module")
def stages() -> dict[str, Graph]:
    graph = small_network()
    return dict(quantize_output_stages(graph, observe_ranges(graph, [LR[0]], 100)))


def quantization(graph: Graph, name: str) -> Quantization:
    found = graph.tensors[name].quantization
    assert found is not None
    return found


@pytest.mark.slow
def test_ours_is_what_is_quantized_otherwise(stages: dict[str, Graph]) -> None:
    otherwise = avoid_ties(quantize_graph(small_network(), [LR[0]], percentile=100))
    expected = run_graph(otherwise, LR)
    np.testing.assert_array_equal(run_graph(stages["scale 1"], LR), expected)


def test_a_coarser_sum_leaves_fewer_levels(stages: dict[str, Graph]) -> None:
    images = image(1, 64, 64)
    assert quantization(stages["scale 1.25"], "sum") == Quantization(1.25, -128)
    levels = {name: len(np.unique(run_graph(graph, images))) for name, graph in stages.items()}
    assert levels["scale 1"] == 256
    assert levels["scale 1.25"] == 205  # 0, 1.25, .. 255


def test_the_calibrated_range_holds_the_sum_before_its_clip(stages: dict[str, Graph]) -> None:
    low, high = observe_ranges(small_network(), [LR[0]], 100)["sum"]
    found = quantization(stages["calibrated"], "sum")
    assert low < -5 and high > 260
    assert found.scale * (-128 - found.zero_point) == pytest.approx(low, abs=found.scale)
    assert found.scale * (127 - found.zero_point) == pytest.approx(high, abs=found.scale)


def test_bytes_as_made_are_the_calibrated_sum_read_without_its_scale(
    stages: dict[str, Graph],
) -> None:
    found = quantization(stages["calibrated"], "sum")
    stored = run_graph(stages["bytes as made"], LR).astype(float)
    real = found.scale * (stored - 128 - found.zero_point)
    calibrated = run_graph(stages["calibrated"], LR)
    assert np.abs(np.clip(real, 0, 255) - calibrated).max() < 0.8  # LiteRT's ratio has 8 bits
    assert np.abs(stored - calibrated).max() > 20


def test_what_wraps_around_is_off_by_256_outside_the_range_and_only_there() -> None:
    graph = small_network()
    made: dict[str, np.ndarray] = {}
    run_graph(graph, LR.astype(np.float32), observe=made.__setitem__)
    expected = np.rint(made["large"])
    wrapped = wrap_around(graph)(LR[0])[None]
    assert ((expected < 0) | (expected > 255)).mean() > 0.01
    np.testing.assert_array_equal(wrapped, expected - 256 * np.floor(expected / 256))


def test_litert_gives_the_bytes_of_every_output_stage(stages: dict[str, Graph]) -> None:
    for graph in stages.values():
        engine = load_engine(write_tflite(graph), threads=1)
        np.testing.assert_array_equal(engine(LR), run_graph(graph, LR))


def test_a_network_that_copies_its_input_has_no_output_stage() -> None:
    chain = FloatChain()
    chain.anchor("images", "anchor", 1)
    graph = chain.graph("anchor")
    with pytest.raises(GraphError, match="scale 1"):
        quantize_output_stages(graph, {"anchor": (0.0, 255.0)})


@pytest.mark.slow
def test_a_run_is_scored_with_each_output_stage(tmp_path: Path) -> None:
    from anchorsr.training.machine import Machine
    from anchorsr.training.trainer import train

    folder = tmp_path / "images"
    folder.mkdir()
    for seed in range(2):
        write_image(folder / f"{seed}.png", RasterImage(image(seed, 60, 72)[0]))
    table = {
        "network": {"name": "abpn", "channels": 4, "body": 0, "expansion": 0},
        "data": {"folders": [str(folder)], "patch": 12, "batch": 1},
        "schedule": {"steps": 1},
        "quantization": {"calibration": 2},
        "validation": {"folders": [str(folder)]},
    }
    run = tmp_path / "run"
    train(parse_table(Recipe, table, ""), run, machine=Machine(threads=1))
    scores = {score.method: score for score in measure_output_stages(run)}
    assert list(scores)[:3] == ["scale 1", "scale 1.25", "calibrated"]
    assert list(scores)[3:] == ["bytes as made", "wrapped"]
    best = scores["scale 1"].psnr_rgb
    assert all(best - scores[name].psnr_rgb < 0.5 for name in ("scale 1.25", "calibrated"))
