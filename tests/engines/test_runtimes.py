"""The engines: one contract for three runtimes, whatever the sizes that come."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

import anchorsr
from anchorsr.bench.baselines import published_graph
from anchorsr.engines import runtimes
from anchorsr.engines.openvino_graph import depth_to_space
from anchorsr.engines.runtimes import ENGINES, load_engine
from anchorsr.errors import MissingDependencyError, ModelError
from anchorsr.graph import kernels
from anchorsr.graph import operators as ops
from anchorsr.graph.graph import Graph
from anchorsr.serialization.onnx import write_onnx
from anchorsr.serialization.tflite.summary import fixed_size
from anchorsr.serialization.tflite.writer import write_tflite
from helpers.graphs import float_graph, image, integer_graph, reference_run

every_engine = pytest.mark.parametrize("name", ENGINES)


def assert_close(name: str, made: np.ndarray, expected: np.ndarray) -> None:
    """OpenVINO rounds some ties otherwise; the others are exact."""
    assert (made.dtype, made.shape) == (np.uint8, expected.shape)
    distance = np.abs(made.astype(int) - expected)
    assert distance.max() <= (1 if name == "openvino" else 0)
    assert (distance > 0).mean() <= 0.001 or distance.sum() <= 1


@every_engine
@pytest.mark.parametrize("factor", [2, 3, 4])
def test_an_engine_gives_the_bytes_of_the_arithmetic(name: str, factor: int) -> None:
    graph = integer_graph(factor, factor=factor)
    engine = load_engine(write_tflite(graph), name=name, threads=1)
    assert engine.name == name
    for size in ((1, 1), (64, 48), (1, 7), (13, 11), (31, 17), (64, 48)):
        images = image(1, *size)
        assert_close(name, engine(images), reference_run(graph, images))


@pytest.mark.slow
@every_engine
def test_a_size_that_comes_again_and_again_gives_the_same_bytes(name: str) -> None:
    graph = integer_graph(5)
    engine = load_engine(write_tflite(graph), name=name, threads=1)
    images = image(2, 24, 31)
    first = engine(images)
    for _ in range(runtimes._CALLS_BEFORE_COMPILING + 2):
        np.testing.assert_array_equal(engine(images), first)
    other = image(3, 5, 6)
    assert_close(name, engine(other), reference_run(graph, other))
    np.testing.assert_array_equal(engine(images), first)


@pytest.mark.slow
@every_engine
def test_a_result_is_not_written_into_by_later_calls(name: str) -> None:
    engine = load_engine(write_tflite(integer_graph(6)), name=name, threads=1)
    kept = [engine(image(seed, 16, 16)) for seed in range(8)]
    copies = [array.copy() for array in kept]
    engine(image(99, 16, 16))
    engine(image(99, 9, 9))
    for array, copy in zip(kept, copies, strict=True):
        np.testing.assert_array_equal(array, copy)
    kept[0][:] = 0  # and may be written into
    np.testing.assert_array_equal(engine(image(1, 16, 16)), copies[1])


@every_engine
def test_views_and_arrays_that_may_not_be_written_are_taken(name: str) -> None:
    engine = load_engine(write_tflite(integer_graph(7)), name=name, threads=1)
    images = image(4, 22, 18)
    view = images[:, ::-1, ::2]
    expected = engine(np.ascontiguousarray(view))
    np.testing.assert_array_equal(engine(view), expected)
    frozen = np.ascontiguousarray(view)
    frozen.flags.writeable = False
    np.testing.assert_array_equal(engine(frozen), expected)


@every_engine
def test_a_file_of_fixed_size_takes_only_that(name: str) -> None:
    graph = integer_graph(1, factor=2)
    data = write_tflite(graph, size=(9, 14))
    assert fixed_size(data) == (9, 14)
    assert fixed_size(write_tflite(graph)) is None
    engine = load_engine(data, name=name, threads=1)
    images = image(1, 9, 14)
    assert_close(name, engine(images), reference_run(graph, images))
    with pytest.raises(ModelError):
        engine(image(1, 14, 9))
    assert_close(name, engine(images), reference_run(graph, images))


def test_a_model_of_something_else_than_images_is_a_model_error() -> None:
    def model(kind: str, before: list[int], after: list[int], **options: int) -> bytes:
        node = helper.make_node(kind, ["x"], ["y"], **options)
        ends = [
            [helper.make_tensor_value_info(name, TensorProto.UINT8, shape)]
            for name, shape in (("x", before), ("y", after))
        ]
        graph = helper.make_graph([node], "g", *ends)
        opsets = [helper.make_opsetid("", 17)]
        made = helper.make_model(graph, opset_imports=opsets, ir_version=8)
        return bytes(made.SerializeToString())

    flat = load_engine(model("Flatten", [1, 3, 4, 5], [1, 60], axis=1))
    with pytest.raises(ModelError, match="output must be"):
        flat(image(0, 4, 5))
    for shape in ([], [9]):
        with pytest.raises(ModelError, match="batch of images"):
            load_engine(model("Identity", shape, shape))


@pytest.mark.slow
@pytest.mark.parametrize("calls", range(6))
def test_what_is_prepared_has_its_image_however_often_it_was_called(calls: int) -> None:
    graph = integer_graph(2)
    engine = load_engine(write_tflite(graph), name="openvino", threads=1)
    images = image(5, 9, 14)
    for _ in range(calls):
        engine(image(6, 9, 14))
    made = engine.prepare(images)()
    assert_close("openvino", np.asarray(made), reference_run(graph, images))


@every_engine
def test_a_call_that_fails_is_a_model_error_and_the_engine_is_as_good_as_before(name: str) -> None:
    graph = integer_graph(0)
    engine = load_engine(write_tflite(graph), name=name, threads=1)
    with pytest.raises(ModelError):
        engine(np.zeros((1, 5, 5, 4), np.uint8))
    images = image(0, 5, 5)
    assert_close(name, engine(images), reference_run(graph, images))


@every_engine
@pytest.mark.parametrize("length", [8, 100, 3000])
def test_a_damaged_file_is_one_line_of_model_error(name: str, length: int) -> None:
    data = write_tflite(integer_graph(0))[:length]
    with pytest.raises(ModelError) as caught:
        load_engine(data, name=name)
    assert "\n" not in str(caught.value)
    assert ".cpp" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["litert", "openvino"])
@pytest.mark.parametrize("graph", [float_graph(0), integer_graph(0, colors=1)], ids=str)
def test_a_model_that_takes_no_images_is_refused(name: str, graph: object) -> None:
    with pytest.raises(ModelError, match="must be uint8 with 3 channels"):
        load_engine(write_tflite(graph), name=name)  # type: ignore[arg-type]


def plain_graph(dtype: str, channels: int) -> Graph:
    """A 3 × 3 convolution that keeps a number of channels, over floats or integers."""
    generator = np.random.default_rng(channels)
    shape = (channels, 3, 3, channels)
    if dtype == "float32":
        spread = 1 / np.sqrt(9 * channels)
        weights = generator.normal(0, spread, shape).astype(np.float32)
        bias = generator.normal(0, 10, channels).astype(np.float32)
        kind = ops.TensorType(channels, "float32")
        conv = ops.Conv2D("images", "upscaled", weights, bias)
        return Graph("plain", {"images": kind, "upscaled": kind}, (conv,), "images", "upscaled")
    weights = generator.integers(-64, 65, shape, dtype=np.int8)
    scales = np.full(channels, 1 / (64 * np.sqrt(9 * channels)), np.float32)
    int8 = ops.TensorType(channels, "int8", ops.Quantization(0.5, -8))
    names = ("before", "after") if dtype == "uint8" else ("images", "upscaled")
    conv = ops.Conv2D(*names, weights, np.zeros(channels, np.int32), scales)
    kinds = dict.fromkeys(names, int8)
    operators: tuple[ops.Operator, ...] = (conv,)
    if dtype == "uint8":
        kinds |= dict.fromkeys(
            ("images", "upscaled"), ops.TensorType(channels, "uint8", ops.Quantization(0.5, 120))
        )
        operators = (ops.Requantize("images", "before"), conv, ops.Requantize("after", "upscaled"))
    return Graph("plain", kinds, operators, "images", "upscaled")


@pytest.mark.slow
@every_engine
@pytest.mark.parametrize("channels", [1, 28])
@pytest.mark.parametrize("dtype", [np.float32, np.uint8, np.int8])
def test_any_number_of_channels_and_other_numbers_run_where_they_are_asked_for(
    name: str, dtype: type, channels: int
) -> None:
    graph, size = plain_graph(dtype.__name__, channels), (13, 18)
    data = write_tflite(graph, size=size)
    engine = load_engine(data, name=name, threads=1, dtype=dtype, channels=None)
    images = image(1, *size, channels).astype(dtype)
    expected = reference_run(graph, images)
    made = engine(images)
    if dtype is not np.float32:
        assert made.dtype == dtype
        assert np.abs(made.astype(int) - expected).max() <= (1 if name == "openvino" else 0)
    else:
        assert made.dtype == np.float32
        # bfloat16, which OpenVINO takes on its own, would be off by 0.5 and more.
        np.testing.assert_allclose(made, expected, rtol=0, atol=1e-3)
    prepared = engine.prepare(images)
    prepared()
    prepared()
    np.testing.assert_array_equal(engine(images), made)
    load_engine(data, name=name, threads=1, dtype=dtype, channels=channels)
    words = f"be {dtype.__name__} with 4 channels, not {dtype.__name__} with {channels}"
    with pytest.raises(ModelError, match=words):
        load_engine(data, name=name, threads=1, dtype=dtype, channels=4)
    other = np.uint8 if dtype is np.float32 else np.float32
    with pytest.raises(ModelError, match=f"must be {other.__name__}, not"):
        load_engine(data, name=name, threads=1, dtype=other, channels=None)


@pytest.mark.slow
@every_engine
def test_a_prepared_call_harms_no_later_one(name: str) -> None:
    graph = integer_graph(2)
    engine = load_engine(write_tflite(graph), name=name, threads=1)
    images, other = image(1, 12, 9), image(2, 7, 15)
    expected = engine(images)
    for seen in (images, other, images):
        engine.prepare(seen)()
    np.testing.assert_array_equal(engine(images), expected)
    with pytest.raises(ModelError):
        engine.prepare(np.zeros((1, 5, 5, 4), np.uint8))()
    np.testing.assert_array_equal(engine(images), expected)


@pytest.mark.parametrize(("name", "extra"), [("openvino", "fast"), ("onnxruntime", "onnx")])
def test_a_runtime_that_is_not_installed_is_named(
    name: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_tflite(integer_graph(0))
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDependencyError, match=rf"anchorsr\[{extra}\]"):
        load_engine(data, name=name)


def test_a_runtime_that_is_broken_is_a_model_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "openvino.py").write_text("raise ImportError('libtbb.so.12: cannot open')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "openvino", raising=False)
    with pytest.raises(ModelError, match=r"installed but does not load: libtbb\.so\.12"):
        load_engine(write_tflite(integer_graph(0)), name="openvino")


@pytest.mark.parametrize("threads", [-1, 10**6, 10**12])
def test_more_threads_than_there_can_be_are_refused(threads: int) -> None:
    with pytest.raises(ValueError, match=f"threads must be 1 to 1024, not {threads}"):
        load_engine(write_tflite(integer_graph(0)), threads=threads)


def test_an_engine_that_there_is_not_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ModelError, match="no engine 'ncnn'; choose from: native, litert, open"):
        load_engine(write_tflite(integer_graph(0)), name="ncnn")


def test_an_onnx_file_runs_in_onnx_runtime() -> None:
    graph = integer_graph(3)
    engine = load_engine(write_onnx(graph), threads=1)
    assert engine.name == "onnxruntime"
    images = image(3, 20, 11)
    np.testing.assert_array_equal(engine(images), reference_run(graph, images))


def test_openvino_leaves_no_file_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    data = write_tflite(integer_graph(0))
    engine = load_engine(data, name="openvino", threads=1)
    with pytest.raises(ModelError):
        load_engine(data[:3000], name="openvino")
    assert list(tmp_path.iterdir()) == []
    assert engine(image(0, 5, 5)).shape == (1, 15, 15, 3)


def test_without_a_folder_for_temporary_files_openvino_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(ModelError, match="OpenVINO does not load this model: No such file"):
        load_engine(write_tflite(integer_graph(0)), name="openvino")


IMPORT = """
import socket, sys
def no_network(*_): raise AssertionError("a connection")
socket.socket.connect = no_network
from pathlib import Path
from anchorsr.engines.runtimes import load_engine
load_engine(Path(sys.argv[1]), name=sys.argv[2], threads=1)
print([name for name in sys.modules if name.startswith("openvino_telemetry")])
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_an_engine_reports_nothing_to_anybody(name: str, tmp_path: Path) -> None:
    """Importing one otherwise leaves a count or a number in the user's folder and sends it."""
    model = tmp_path / "mine.tflite"
    model.write_bytes(write_tflite(integer_graph(0)))
    home = tmp_path / "home"
    home.mkdir()
    source = str(Path(anchorsr.__file__).parents[1])
    ended = subprocess.run(
        [sys.executable, "-c", IMPORT, model, name],
        env={"PYTHONPATH": source, "HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "[]\n", "")
    assert list(home.iterdir()) == []


def test_what_was_imported_before_is_there_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "openvino_telemetry", raising=False)
    for earlier in (None, sys):
        if earlier is not None:
            sys.modules["openvino_telemetry"] = earlier
        with runtimes._without_telemetry(), pytest.raises(ModuleNotFoundError):
            import openvino_telemetry  # noqa: F401
        assert sys.modules.pop("openvino_telemetry", None) is earlier


SIGNAL_AFTER_ENGINES = """
import signal, sys
from threading import Thread
from anchorsr.engines.runtimes import load_engine

model = open(sys.argv[1], "rb").read()
engines = [load_engine(model, name="openvino", threads=1) for _ in range(3)]
del engines[0]
thread = Thread(target=engines.clear)
thread.start()
thread.join()
signal.signal(signal.SIGINT, lambda *_: print("here"))
signal.raise_signal(signal.SIGINT)
"""


@pytest.mark.slow
def test_a_signal_still_comes_when_openvinos_engines_have_gone_in_any_order(tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(write_tflite(integer_graph(3)))
    command = [sys.executable, "-c", SIGNAL_AFTER_ENGINES, str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "here\n", "")


@pytest.mark.slow
@pytest.mark.parametrize("factor", [1, 2, 3, 4])
@pytest.mark.parametrize("last", ["depth-to-space", "more after it"])
def test_openvino_without_its_depth_to_space_gives_the_bytes_it_gives_with_it(
    factor: int, last: str, tmp_path: Path
) -> None:
    graph = integer_graph(factor, factor=factor)
    if last == "more after it":
        graph = published_graph(max(factor, 2), channels=8, body=1)
    path = tmp_path / "model.tflite"
    path.write_bytes(write_tflite(graph, size=(17, 22)))
    images = image(1, 17, 22)
    compiled = runtimes._openvino_core().compile_model(path, "CPU")
    np.testing.assert_array_equal(
        load_engine(path, name="openvino", threads=1)(images), compiled(images)[0]
    )


def test_the_program_of_one_size_leaves_depth_to_space_to_numpy() -> None:
    """Else the test above compares the same with the same."""
    engine = load_engine(write_tflite(integer_graph(3), size=(8, 9)), name="openvino", threads=1)
    assert isinstance(engine, runtimes.OpenVINO)
    assert list(engine._every_size[0].get_output_tensor(0).shape) == [1, 8, 9, 27]


def test_depth_to_space_follows_the_arithmetic() -> None:
    for block in (1, 2, 3, 4):
        packed = np.arange(2 * 5 * 7 * 3 * block**2).reshape(2, 5, 7, -1).astype(np.uint8)
        np.testing.assert_array_equal(
            depth_to_space(packed, block), kernels.depth_to_space(packed, block)
        )
