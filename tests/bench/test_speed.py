"""What is measured, how often and in which order, and what follows from it; never how long."""

from __future__ import annotations

import json
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from anchorsr.bench import plots, scaling
from anchorsr.bench.baselines import BICUBIC, PUBLISHED
from anchorsr.bench.end_to_end import measure_end_to_end
from anchorsr.bench.plots import Point, check_matplotlib, draw_scatter
from anchorsr.bench.process import run_process
from anchorsr.bench.scaling import measure_scaling
from anchorsr.bench.speed import (
    check_fixed_sizes,
    default_models,
    find_quality,
    measure_speed,
)
from anchorsr.bench.system_info import describe_machine
from anchorsr.cli import app
from anchorsr.engines import selection
from anchorsr.engines.runtimes import NATIVE
from anchorsr.engines.selection import installed_engines
from anchorsr.errors import BenchmarkError, GraphError, MissingDependencyError, ModelError
from anchorsr.evaluation.dnn_superres import load_dnn_superres
from anchorsr.evaluation.evaluate import evaluate, load_method
from anchorsr.images.io import RasterImage, write_image
from anchorsr.lowering.trace import lower
from anchorsr.metrics import Score
from anchorsr.models.card import ModelCard
from anchorsr.models.registry import list_models, model_path
from anchorsr.quantization.ptq import quantize_graph
from anchorsr.serialization.tflite.writer import write_tflite
from anchorsr.utils import timing
from anchorsr.utils.sample_image import sample_image
from anchorsr.utils.strict_json import to_json
from helpers.graphs import integer_graph

SIZE = (8, 12)


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "PAUSE_S", 0.0)


@pytest.fixture(autouse=True)
def quick_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines are tried with small images; the measured processes recall what was found."""
    monkeypatch.setattr(selection, "_SIZES", ((7, 9),))
    monkeypatch.setattr(selection, "_TIMED_SIZE", (8, 8))


# A process


def test_a_process_is_measured_and_its_output_kept() -> None:
    ended = run_process([sys.executable, "-c", "print('words')"])
    assert ended.output == "words\n"
    assert ended.seconds > 0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not report the peak")
def test_peak_memory_is_that_of_the_process_and_not_of_this_one() -> None:
    ballast = np.ones(200_000_000, np.uint8)
    small = run_process([sys.executable, "-c", "pass"])
    large = run_process([sys.executable, "-c", "b = bytes(b'x') * 150_000_000"])
    assert small.peak_bytes is not None
    assert large.peak_bytes is not None
    assert small.peak_bytes < 100_000_000 < 150_000_000 < large.peak_bytes < 200_000_000
    assert ballast.all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "message"),
    [
        ([sys.executable, "-c", "import sys; sys.exit('error: no such thing')"], "no such thing"),
        ([sys.executable, "-c", "import sys; sys.exit(3)"], "it printed nothing"),
        (["/no/such/program"], "failed: /no/such/program: No such file"),
        pytest.param(
            [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"],
            "killed by signal 9",
            marks=pytest.mark.skipif(sys.platform == "win32", reason="no signals"),
        ),
    ],
)
def test_a_process_that_fails_is_an_error_of_one_line(command: list[str], message: str) -> None:
    with pytest.raises(BenchmarkError, match=message) as caught:
        run_process(command)
    assert "\n" not in str(caught.value)


# Speed


@pytest.mark.slow
def test_every_model_runs_in_every_engine_with_every_number_of_threads() -> None:
    models, engines, threads = ["abpn", PUBLISHED, BICUBIC], ["litert", "onnxruntime"], [1, 2]
    ticks: list[tuple[int, int]] = []
    rows = measure_speed(
        models,
        engines=engines,
        threads=threads,
        size=SIZE,
        rounds=3,
        on_progress=lambda done, total: ticks.append((done, total)),
    )
    assert ticks == [(done, len(ticks)) for done in range(1, len(ticks) + 1)]
    found = [(row.model, row.engine, row.threads) for row in rows]
    expected = [(m, e, t) for m in models[:2] for e in engines for t in threads]
    assert found == [*expected, (BICUBIC, "pillow", 1)]
    for row in rows:
        assert (row.height, row.width, row.factor, row.rounds) == (*SIZE, 3, 3)
        assert 0 < row.low_ms <= row.median_ms <= row.high_ms
        assert row.frames_per_s == pytest.approx(1000 / row.median_ms)
        if row.model == BICUBIC:
            assert (row.gmac_per_s, row.ceiling_gmac_per_s, row.share) == (None, None, None)
            continue
        macs = 42345 * SIZE[0] * SIZE[1]
        assert row.gmac_per_s == pytest.approx(macs / row.median_ms / 1e6)
        assert row.ceiling_gmac_per_s is not None
        assert row.share == pytest.approx(row.gmac_per_s / row.ceiling_gmac_per_s)
    ceilings = {(row.engine, row.threads, row.ceiling_gmac_per_s) for row in rows}
    assert len(ceilings) == len(engines) * len(threads) + 1
    own = [row for row in rows if (row.model, row.engine) == (PUBLISHED, "litert")]
    assert [row.times_published for row in own] == [1.0, 1.0]


def test_without_the_published_network_there_is_no_comparison_with_it() -> None:
    rows = measure_speed(["abpn"], engines=["litert"], threads=[1], size=SIZE, rounds=1)
    assert [row.times_published for row in rows] == [None]


def test_a_model_of_another_factor_is_refused() -> None:
    with pytest.raises(GraphError, match="upscales 3 times, not 2"):
        measure_speed([str(model_path("abpn"))], engines=["litert"], threads=[1], factor=2)
    with pytest.raises(ModelError, match="no model 'nothing'"):
        measure_speed(["nothing"], engines=["litert"], threads=[1])


def test_the_default_is_all_that_is_shipped_and_two_to_compare_with() -> None:
    shipped = [model.path.stem for model in list_models() if model.factor == 3]
    assert default_models(3) == [*shipped, PUBLISHED, BICUBIC]


# From end to end


@pytest.mark.slow
def test_a_shipped_model_is_measured_from_array_file_and_start() -> None:
    ticks: list[tuple[int, int]] = []
    (row,) = measure_end_to_end(
        ["abpn"], threads=1, size=SIZE, rounds=1, on_progress=lambda *each: ticks.append(each)
    )
    assert ticks == [(done, 6) for done in range(1, 7)]  # warm-up and one round of three kinds
    assert (row.model, row.threads, row.height, row.width) == ("abpn", 1, *SIZE)
    assert row.engine in (NATIVE, *installed_engines())
    assert row.frames_per_s == pytest.approx(1000 / row.frame_ms)
    assert row.files_per_s == pytest.approx(1000 / row.file_ms)
    assert min(row.cold_ms, row.file_ms, row.frame_ms) > 0
    assert sys.platform == "win32" or (row.peak_bytes or 0) > 10_000_000


@pytest.mark.slow
def test_each_size_runs_in_its_own_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "_ROUNDS", 1)
    ticks: list[tuple[int, int]] = []
    sizes = [(4, 5), (700, 600)]
    rows = measure_scaling(
        ["abpn"], threads=1, sizes=sizes, on_progress=lambda *each: ticks.append(each)
    )
    assert ticks == [(1, 2), (2, 2)]
    assert [(row.height, row.width) for row in rows] == sizes
    for row in rows:
        pixels = row.height * row.width
        assert row.ns_per_lr_pixel == pytest.approx(row.seconds / pixels * 1e9)
        assert row.pictures_bytes == 30 * pixels
    if rows[0].peak_bytes is not None and rows[1].peak_bytes is not None:
        # The engines are tried before, in this process: it takes 140 MB, and then the first
        # process would have the largest peak.
        assert rows[0].peak_bytes < rows[1].peak_bytes
        assert rows[1].peak_bytes > rows[1].pictures_bytes


def test_sizes_go_from_an_icon_to_24_megapixels() -> None:
    pixels = [height * width for height, width in scaling.SIZES]
    assert pixels == sorted(pixels)
    assert (scaling.SIZES[0], scaling.SIZES[-1]) == ((64, 64), (4000, 6000))
    assert (1080, 1920) in scaling.SIZES


# Machine and quality


def test_the_machine_is_described() -> None:
    machine = describe_machine()
    assert machine["processor"]
    assert machine["cores"] >= 1
    assert {"ai-edge-litert", "numpy", "pillow"} <= machine["versions"].keys()
    assert json.loads(json.dumps(machine)) == machine


def test_quality_is_that_of_the_cards_and_of_the_published_file() -> None:
    found = find_quality(["abpn", PUBLISHED, BICUBIC, "x.pb"], factor=3, test_set="BSD100")
    assert found == {"abpn": pytest.approx(27.379, abs=5e-4), PUBLISHED: 27.320, BICUBIC: 25.884}
    assert find_quality(["abpn", PUBLISHED], factor=3, test_set="unknown") == {}
    assert find_quality([PUBLISHED, BICUBIC], factor=2, test_set="BSD100") == {}


def test_quality_is_that_of_the_file_and_not_of_a_shipped_one_of_its_name(tmp_path: Path) -> None:
    mine = tmp_path / "abpn_x3.tflite"
    mine.write_bytes(write_tflite(integer_graph(0)))
    assert find_quality([str(mine)], factor=3, test_set="BSD100") == {}
    score = Score("int8", "BSD100", 100, 12.5, 14.5, 0.5)
    card = ModelCard.of_file(mine.read_bytes(), integer_graph(0), figures=[score], runs={})
    table = card.to_dict()
    for changed, known in (
        ({}, {str(mine): 12.5}),
        ({"sha256": "of another file"}, {}),
        ({"figures": [{**table["figures"][0], "psnr_rgb": None}]}, {}),
        ({"figures": [{"method": "int8"}, 5]}, {}),
        ({"figures": None}, {}),
    ):
        mine.with_suffix(".json").write_text(json.dumps({**table, **changed}))
        assert find_quality([str(mine)], factor=3, test_set="BSD100") == known


def test_quality_is_measured_on_a_test_set_that_is_given(tmp_path: Path) -> None:
    folder = tmp_path / "BSD100"
    folder.mkdir()
    Image.fromarray(sample_image(48, 36)).save(folder / "a.png")
    names = ["abpn", PUBLISHED, BICUBIC]
    found = find_quality(names, factor=3, test_set="BSD100", images=folder)
    assert found == {
        "abpn": evaluate("abpn", folder).psnr_rgb,
        BICUBIC: evaluate(BICUBIC, folder).psnr_rgb,
        PUBLISHED: 27.320,
    }


# The plot


SVG = "{http://www.w3.org/2000/svg}"
POINTS = [
    Point(40, 38, 45, 27.35, "abpn", "litert"),
    Point(20, 19, 30, 27.35, "abpn", "openvino"),
    Point(41, 40, 47, 27.32, "published <form>", "litert"),
    Point(30, 30, 30, 25.88, "bicubic", "pillow"),
]


def draw(points: list[Point]) -> ElementTree.Element:
    pytest.importorskip("matplotlib", reason="anchorsr[plots] is not installed")
    text = draw_scatter(points, title="a & b", subtitle="", x_label="ms", y_label="dB")
    return ElementTree.fromstring(text)


def texts(root: ElementTree.Element) -> dict[str, tuple[float, float]]:
    """Where each text stands."""
    return {
        element.text or "": (float(element.attrib["x"]), float(element.attrib["y"]))
        for element in root.iter(f"{SVG}text")
    }


def markers(root: ElementTree.Element) -> list[tuple[float, float]]:
    """Where the markers stand: series by series, each followed by that of the legend."""
    uses = root.iter(f"{SVG}use")
    filled = [use for use in uses if "stroke: #ffffff" in use.attrib["style"]]
    return [(float(use.attrib["x"]), float(use.attrib["y"])) for use in filled]


@pytest.mark.slow
def test_markers_stand_where_their_values_are() -> None:
    root = draw(POINTS)
    abpn, published, openvino = markers(root)[:3]
    assert abpn[0] < published[0]  # 40 ms is left of 41 ms
    assert abpn[1] < published[1]  # 27.35 dB is above 27.32 dB
    assert openvino[1] == pytest.approx(abpn[1])  # the same model in another engine
    # The axis is logarithmic: from 20 to 40 ms is as far as between the labels.
    labels = texts(root)
    assert abpn[0] - openvino[0] == pytest.approx(labels["40"][0] - labels["20"][0], abs=0.2)


@pytest.mark.slow
def test_words_are_escaped_and_names_do_not_overlap() -> None:
    found = texts(draw(POINTS))
    assert {"a & b", "published <form>", "abpn", "bicubic", "litert", "pillow"} <= found.keys()
    crowd = [Point(40, 38, 45, 27 + i / 100, f"network {i}", "litert") for i in range(6)]
    found = texts(draw(crowd))
    places = [found[point.group] for point in crowd]
    for i, (x, y) in enumerate(places):
        for other_x, other_y in places[:i]:
            assert abs(y - other_y) >= 11 or abs(x - other_x) >= 60


@pytest.mark.slow
@pytest.mark.parametrize("points", [POINTS[:1], [POINTS[0]] * 3, POINTS[2:]])
def test_few_points_make_a_plot_too(points: list[Point]) -> None:
    root = draw(points)
    width, height = (float(root.attrib[side].removesuffix("pt")) for side in ("width", "height"))
    for x, y in [*markers(root), *texts(root).values()]:
        assert 0 <= x <= width and 0 <= y <= height


@pytest.mark.slow
def test_a_plot_depends_on_its_values_alone() -> None:
    pytest.importorskip("matplotlib", reason="anchorsr[plots] is not installed")
    words = {"title": "a", "subtitle": "b", "x_label": "c", "y_label": "d"}
    text = draw_scatter(POINTS, **words)
    assert draw_scatter(POINTS, **words) == text
    assert "date" not in text
    assert "matplotlib.pyplot" not in plots.__dict__


def test_a_plot_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one point"):
        draw_scatter([], title="", subtitle="", x_label="", y_label="")


def test_without_matplotlib_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.backends", None)
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_svg", None)
    with pytest.raises(MissingDependencyError, match=r"matplotlib .*'anchorsr\[plots\]'"):
        check_matplotlib()
    monkeypatch.setattr(timing.time, "sleep", lambda _: pytest.fail("measured"))
    code, _, err = call(capsys, BICUBIC, "--plot", tmp_path / "a.svg")
    assert code == 1
    assert "anchorsr[plots]" in err


# OpenCV


def tensorflow_nearest(factor: int) -> bytes:
    """A frozen TensorFlow graph that repeats every pixel of a luma plane, in wire format."""

    def number(value: int) -> bytes:
        low = bytes([value & 127 | (128 if value > 127 else 0)])
        return low + (number(value >> 7) if value > 127 else b"")

    def field(index: int, value: int | str | bytes) -> bytes:
        if isinstance(value, int):
            return number(index << 3) + number(value)
        data = value.encode() if isinstance(value, str) else value
        return number(index << 3 | 2) + number(len(data)) + data

    def node(name: str, kind: str, *inputs: str, **attributes: bytes) -> bytes:
        body = field(1, name) + field(2, kind) + b"".join(field(3, source) for source in inputs)
        for key, value in attributes.items():
            body += field(5, field(1, key) + field(2, value))
        return field(1, body)

    def shape(*sides: int) -> bytes:
        return b"".join(field(2, field(1, side % 2**64)) for side in sides)

    float32, nhwc = field(6, 1), field(2, "NHWC")
    ones = np.ones((1, 1, 1, factor**2), np.float32)
    tensor = field(1, 1) + field(2, shape(*ones.shape)) + field(4, ones.tobytes())
    strides = field(1, field(3, bytes([1, 1, 1, 1])))
    return (
        node("in", "Placeholder", dtype=float32, shape=field(7, shape(-1, -1, -1, 1)))
        + node("w", "Const", dtype=float32, value=field(8, tensor))
        + node("c", "Conv2D", "in", "w", T=float32, data_format=nhwc, strides=strides,
               padding=field(2, "SAME"))
        + node("out", "DepthToSpace", "c", T=float32, data_format=nhwc, block_size=field(3, factor))
    )  # fmt: skip


def test_opencv_runs_the_model_file_that_is_given(tmp_path: Path) -> None:
    pytest.importorskip("cv2", reason="opencv-contrib-python-headless is not installed")
    path = tmp_path / "FSRCNN_x3.pb"
    path.write_bytes(tensorflow_nearest(3))
    image = sample_image(40, 50)
    larger = load_method(path, 3, threads=1)(image)
    expected = image.repeat(3, axis=0).repeat(3, axis=1).astype(int)
    # Luma is repeated, chroma interpolated: in RGB nearly the same, in BGR far from it.
    assert np.abs(larger - expected).mean() < 1
    assert np.abs(larger[:, :, ::-1] - expected).mean() > 5
    path.write_bytes(b"")
    with pytest.raises(ModelError, match="OpenCV cannot load"):
        load_dnn_superres(path, 3)


def test_what_opencv_needs_is_told_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelError, match="none of: edsr, espcn, fsrcnn, lapsrn"):
        load_dnn_superres(tmp_path / "other_x3.pb", 3)
    with pytest.raises(ModelError, match="does not exist"):
        load_dnn_superres(tmp_path / "ESPCN_x3.pb", 3)
    (tmp_path / "ESPCN_x3.pb").write_bytes(tensorflow_nearest(3))
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingDependencyError, match=r"anchorsr\[opencv\]"):
        load_dnn_superres(tmp_path / "ESPCN_x3.pb", 3)


# The command


QUICK = ["--engine", "litert", "--threads", "1", "--size", "12x8", "--rounds", "1"]


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = app.run(["benchmark", *QUICK, *map(str, arguments)])
    return (code, *capsys.readouterr())


@pytest.mark.slow
def test_tables_and_a_plot(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="anchorsr[plots] is not installed")
    plot = tmp_path / "speed.svg"
    names = ["abpn", BICUBIC]
    code, out, err = call(capsys, *names, "--plot", plot)
    assert (code, err) == (0, "")
    assert all(word in out for word in [*names, "litert", "pillow", "frames/s", "cold start"])
    assert names[0] in texts(ElementTree.fromstring(plot.read_text()))
    assert [path.name for path in tmp_path.iterdir()] == [plot.name]


@pytest.mark.slow
def test_json_is_all_that_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    names = ["abpn", PUBLISHED, BICUBIC]
    code, out, err = call(capsys, *names, "--json")
    assert (code, err) == (0, "")
    report: dict[str, Any] = json.loads(out)
    assert report["machine"] == describe_machine()
    assert [row["model"] for row in report["speed"]] == names
    assert [row["model"] for row in report["end_to_end"]] == ["abpn"]
    assert report["growth"] == []
    assert [(row["height"], row["width"]) for row in report["speed"]] == [SIZE] * 3


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--plot", "speed.png"], 1, "does not end with .svg"),
        (["--plot", "there.svg"], 1, "exists already"),
        (["--plot", "no/such/speed.svg"], 1, "not an existing folder"),
        (["x.pb", "--plot", "a.svg"], 1, "nothing to plot"),
        (["nothing"], 1, "no model 'nothing'"),
        (["--engine", "other"], 2, "no engine 'other'"),
        (["--size", "large"], 2, "WIDTHxHEIGHT"),
        (["abpn", "--images", "nowhere", "--plot", "a.svg"], 1, "nowhere"),
    ],
)
def test_a_mistake_is_reported_before_anything_is_measured(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(timing.time, "sleep", lambda _: pytest.fail("measured"))
    Path("there.svg").write_text("precious")
    found, out, err = call(capsys, *arguments)
    assert (found, out) == (code, "")
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"there.svg": "precious"}


def test_a_file_of_fixed_size_is_measured_at_that_size_only(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    fixed = tmp_path / "fixed.tflite"
    fixed.write_bytes(write_tflite(integer_graph(0), size=(24, 32)))
    code, out, err = call(capsys, str(fixed), "--size", "64x48")
    assert (code, out) == (1, "")
    assert err.endswith("fixed.tflite only takes 32x24 images: give --size 32x24\n")
    check_fixed_sizes([str(fixed)], factor=3, size=(24, 32), scaling=True)  # in tiles of any size
    from anchorsr.networks.registry import build_network

    bilinear = build_network(
        {"name": "residual_form", "form": "bilinear", "channels": 4, "body": 0}
    )
    graph = quantize_graph(lower(bilinear, name="bilinear"), [sample_image(16, 16)])
    fixed.write_bytes(write_tflite(graph, size=(24, 32)))
    with pytest.raises(ModelError, match="without --scaling"):
        check_fixed_sizes([str(fixed)], factor=3, size=(24, 32), scaling=True)


def test_an_infinite_psnr_is_not_plotted(tmp_path: Path) -> None:
    images = tmp_path / "grey"
    images.mkdir()
    write_image(images / "a.png", RasterImage(np.full((48, 48, 3), 128, np.uint8)))
    assert find_quality([BICUBIC], factor=3, test_set="grey", images=images) == {}
    assert json.loads(to_json({"psnr": [np.inf, 1.5]}, indent=1)) == {"psnr": [None, 1.5]}
