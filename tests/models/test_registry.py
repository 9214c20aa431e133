"""The shipped models: their cards are true, every runtime agrees, and quality is as stated."""

from __future__ import annotations

import functools
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.compiled_model import CompiledModel, CpuOptions, Environment, Options
from ai_edge_litert.interpreter import Interpreter

from anchorsr.data.damage import USUAL
from anchorsr.data.imresize import downscale
from anchorsr.engines.runtimes import load_engine
from anchorsr.errors import ModelError
from anchorsr.evaluation.evaluate import evaluate, load_method
from anchorsr.graph.executor import accumulator_bound, run_graph
from anchorsr.graph.graph import Graph
from anchorsr.graph.operators import Conv2D
from anchorsr.metrics import Score, psnr
from anchorsr.models.card import ModelCard, read_card, write_card
from anchorsr.models.registry import (
    CONDITIONING,
    DEFAULT,
    Model,
    model_path,
    takes_strengths,
)
from anchorsr.serialization.onnx import write_onnx
from anchorsr.serialization.tflite.reader import read_tflite
from anchorsr.serialization.tflite.schema import INPUT_NAME, OUTPUT_NAME, SIGNATURE
from anchorsr.serialization.tflite.summary import read_metadata
from anchorsr.serialization.tflite.writer import write_tflite
from helpers.graphs import image, integer_graph
from helpers.models import SHIPPED, each_model, each_model_but_most_slowly

SIZES = [(1, 1), (1, 7), (7, 2), (13, 31), (64, 48), (97, 101)]


def graph_of(model: Model) -> Graph:
    return read_tflite(model.path.read_bytes(), name=model.path.stem)


def file_of(model: Model) -> Any:
    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(model.path.read_bytes()))


# What is shipped


def test_the_default_is_shipped_and_found() -> None:
    assert model_path(DEFAULT, 3) in [model.path for model in SHIPPED]


def test_every_file_is_a_model_or_its_card() -> None:
    folder = SHIPPED[0].path.parent
    files = {path.name for path in folder.iterdir() if path.suffix not in (".py", ".pyc")}
    files.discard("__pycache__")
    names = [model.path.stem for model in SHIPPED]
    assert files == {f"{name}{suffix}" for name in names for suffix in (".tflite", ".json")}


def test_an_unknown_model_lists_what_there_is() -> None:
    for model in SHIPPED:
        with pytest.raises(ModelError, match=f"choose from: .*{model.path.stem}"):
            model_path("nonesuch", model.factor)


# Cards


@each_model
def test_integers_lose_next_to_nothing(model: Model) -> None:
    """The mean RGB PSNR of the three sets, by the card, drops by at most 0.01 dB."""
    if takes_strengths(model.path):  # at every damage
        luma = {(row.method, row.damage): row.psnr_y for row in model.card.figures}
        assert max(luma["float", name] - luma["int8", name] for name in USUAL) <= 0.02
        return
    scores = {(row.method, row.test_set): row.psnr_rgb for row in model.card.figures}
    sets = ("Set5", "Set14", "BSD100")
    assert sum(scores["float", name] - scores["int8", name] for name in sets) / len(sets) <= 0.01


@each_model
def test_the_card_says_what_the_file_is(model: Model) -> None:
    data, graph, card = model.path.read_bytes(), graph_of(model), model.card
    assert card.sha256 == hashlib.sha256(data).hexdigest()
    assert card.size_bytes == len(data)
    assert card.model == model.path.stem == f"{model.name}_x{model.factor}"
    assert card.factor == model.factor == graph.factor
    # The anchor's 1×1 copies are not trained.
    made_of = [op for op in graph.operators if isinstance(op, Conv2D)]
    convolutions = [conv for conv in made_of if conv.weights.shape[1:] != (1, 1, 3)]
    assert len(convolutions) == len(made_of) - 1
    weights = [conv.weights for conv in convolutions]
    biases = [conv.bias for conv in convolutions]
    assert card.parameters == sum(array.size for array in weights + biases)
    assert card.macs_per_lr_pixel == sum(array.size for array in weights)
    kernels = [array.shape[1] for array in weights if array.shape[1] > 1]
    assert card.receptive_field == 1 + sum(kernel - 1 for kernel in kernels)


@each_model
def test_the_card_says_how_the_file_was_made(model: Model) -> None:
    for record in model.card.runs.values():
        assert record["recipe"]["network"]["factor"] == model.factor
        assert record["recipe"]["data"]["folders"]
        # A run without steps has the weights of others.
        assert record["step"] > 0 or record["recipe"]["initial_weights"]
        assert record["history"][-1]["step"] <= record["step"]


@each_model
def test_no_card_holds_a_path_of_the_machine_that_made_it(model: Model) -> None:
    text = model.path.with_suffix(".json").read_text()
    assert '"/' not in text
    assert "\\" not in text


def test_a_card_is_written_for_the_bytes_it_is_given(tmp_path: Path) -> None:
    graph = integer_graph(0, factor=2)
    path = tmp_path / "random0.json"
    figures = (
        Score("int8", "Set5", 5, 30.5, 32.5, 0.9),
        Score("int8", "flat", 1, math.inf, 9, 1, "jpeg 0.47"),
    )
    card = ModelCard.of_file(b"bytes", graph, figures=figures, runs={"float": {"step": 1}})
    write_card(path, card, overwrite=False)
    table = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert table["sha256"] == hashlib.sha256(b"bytes").hexdigest()
    assert (table["size_bytes"], table["factor"]) == (5, 2)
    assert table["runs"] == {"float": {"step": 1}}
    assert [row["psnr_rgb"] for row in table["figures"]] == [30.5, None]  # JSON has no infinity
    assert [row.get("damage") for row in table["figures"]] == [None, "jpeg 0.47"]  # None: clean
    (tmp_path / "random0.tflite").write_bytes(b"bytes")
    assert read_card(tmp_path / "random0.tflite") == card


@each_model
def test_a_card_is_written_as_it_was_read(model: Model, tmp_path: Path) -> None:
    write_card(tmp_path / "card.json", model.card, overwrite=False)
    assert (tmp_path / "card.json").read_bytes() == model.path.with_suffix(".json").read_bytes()


def card_table(data: bytes) -> dict[str, Any]:
    return ModelCard.of_file(data, integer_graph(0), figures=[], runs={}).to_dict()


def test_keys_of_a_later_version_are_ignored_and_those_of_the_first_are_enough(
    tmp_path: Path,
) -> None:
    (tmp_path / "a.tflite").write_bytes(b"bytes")
    table = {**card_table(b"bytes"), "energy_mj": 3}
    del table["figures"], table["runs"]  # the first cards had neither
    (tmp_path / "a.json").write_text(json.dumps(table))
    card = read_card(tmp_path / "a.tflite")
    assert (card.figures, card.runs, card.model) == ((), {}, integer_graph(0).name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"factor": "3"}, "factor is int, not '3'"),
        ({"parameters": True}, "parameters is int, not True"),
        ({"sha256": None}, "sha256 is str, not None"),
        ({"figures": 5}, "figures is a list, not 5"),
        ({"figures": [5]}, "an entry of figures holds no table"),
        ({"figures": [{"method": "int8"}]}, "test_set is missing"),
        ({"runs": []}, "runs holds no table"),
    ],
)
def test_a_damaged_card_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    (tmp_path / "a.json").write_text(json.dumps({**card_table(b"bytes"), **changes}))
    with pytest.raises(ModelError, match=rf"the card of .*a\.tflite is damaged: {message}"):
        read_card(tmp_path / "a.tflite")


def test_a_card_without_a_digest_is_damaged(tmp_path: Path) -> None:
    table = card_table(b"bytes")
    del table["sha256"]
    (tmp_path / "a.json").write_text(json.dumps(table))
    with pytest.raises(ModelError, match="sha256 is missing"):
        read_card(tmp_path / "a.tflite")


@each_model
def test_the_operators_are_those_that_integer_hardware_is_fast_at(model: Model) -> None:
    file = file_of(model)
    names = {value: name for name, value in vars(schema.BuiltinOperator).items()}
    (subgraph,) = file.subgraphs
    kinds = [names[file.operatorCodes[op.opcodeIndex].builtinCode] for op in subgraph.operators]
    assert set(kinds) <= {"CONV_2D", "ADD", "DEPTH_TO_SPACE", "QUANTIZE"}
    assert kinds.count("DEPTH_TO_SPACE") == 1


@each_model
def test_every_tensor_is_integer_and_quantized(model: Model) -> None:
    integer = {schema.TensorType.UINT8, schema.TensorType.INT8, schema.TensorType.INT32}
    for tensor in file_of(model).subgraphs[0].tensors:
        assert tensor.type in integer
        assert (tensor.quantization.scale > 0).all()


@each_model
def test_images_are_bytes_in_and_out(model: Model) -> None:
    interpreter = Interpreter(model_content=model.path.read_bytes())
    for details in (interpreter.get_input_details(), interpreter.get_output_details()):
        (tensor,) = details
        assert tensor["dtype"] == np.uint8
        assert tensor["quantization"] == (1.0, 0)
        assert tensor["shape_signature"].tolist() == [1, -1, -1, 3]


@each_model
def test_the_signature_has_the_names_that_are_documented(model: Model) -> None:
    interpreter = Interpreter(model_content=model.path.read_bytes())
    assert interpreter.get_signature_list() == {
        SIGNATURE: {"inputs": [INPUT_NAME], "outputs": [OUTPUT_NAME]}
    }


@each_model
def test_weights_are_small_enough_for_kernels_that_add_in_16_bits(model: Model) -> None:
    for operator in graph_of(model).operators:
        if isinstance(operator, Conv2D):
            assert np.abs(operator.weights.astype(int)).max() <= 64


@each_model
def test_no_sum_leaves_the_integers_that_float32_holds(model: Model) -> None:
    for operator in graph_of(model).operators:
        if isinstance(operator, Conv2D):
            assert accumulator_bound(operator) < 2**24


@each_model
def test_the_file_is_small(model: Model) -> None:
    with_table = takes_strengths(model.path)  # of about 64 rows for each filter
    assert model.path.stat().st_size <= (250_000 if with_table else 100_000)


@each_model
def test_reading_and_writing_gives_the_same_bytes(model: Model) -> None:
    data = model.path.read_bytes()
    table = read_metadata(data, CONDITIONING)
    metadata = None if table is None else {CONDITIONING: table}
    assert write_tflite(read_tflite(data), metadata=metadata) == data


# Every runtime


def samples(dog: np.ndarray) -> list[np.ndarray]:
    """Random bytes of many sizes, and a part of a photograph."""
    return [*(image(index, *size) for index, size in enumerate(SIZES)), dog[None, 90:210, 60:220]]


@functools.cache
def executed(path: Path, images: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """The result of the exact arithmetic, which every runtime is compared with."""
    graph = read_tflite(path.read_bytes())
    return run_graph(graph, np.frombuffer(images, np.uint8).reshape(shape))


def expected(model: Model, images: np.ndarray) -> np.ndarray:
    return executed(model.path, images.tobytes(), images.shape)


@pytest.mark.slow
@each_model
def test_the_interpreter_gives_the_bytes_of_the_arithmetic(model: Model, dog: np.ndarray) -> None:
    interpreter = Interpreter(model_content=model.path.read_bytes())
    index = interpreter.get_input_details()[0]["index"]
    for images in samples(dog):
        interpreter.resize_tensor_input(index, images.shape, strict=True)
        interpreter.allocate_tensors()
        interpreter.set_tensor(index, images)
        interpreter.invoke()
        output = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
        np.testing.assert_array_equal(output, expected(model, images))


@each_model_but_most_slowly
def test_the_compiled_model_gives_the_bytes_of_the_arithmetic(
    model: Model, dog: np.ndarray
) -> None:
    options = Options(cpu_options=CpuOptions(num_threads=2))
    compiled = CompiledModel.from_buffer(
        model.path.read_bytes(), environment=Environment.create(), options=options
    )
    for images in samples(dog):
        compiled.resize_input_tensor_by_name(SIGNATURE, INPUT_NAME, images.shape)
        inputs, outputs = compiled.create_input_buffers(0), compiled.create_output_buffers(0)
        inputs[0].write(images)
        compiled.run_by_index(0, inputs, outputs)
        exact = expected(model, images)
        output = outputs[0].read(exact.size, np.uint8).reshape(exact.shape)
        np.testing.assert_array_equal(output, exact)


@pytest.mark.slow
@each_model
def test_onnx_runtime_gives_the_bytes_of_the_arithmetic(model: Model, dog: np.ndarray) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs anchorsr[onnx]")
    graph = graph_of(model)
    session = onnxruntime.InferenceSession(write_onnx(graph), providers=["CPUExecutionProvider"])
    for images in samples(dog):
        planes = images.transpose(0, 3, 1, 2)
        (output,) = session.run(None, {session.get_inputs()[0].name: planes})
        np.testing.assert_array_equal(output.transpose(0, 2, 3, 1), expected(model, images))


@pytest.mark.slow
@each_model
def test_the_number_of_threads_changes_no_byte(model: Model, dog: np.ndarray) -> None:
    expected = load_engine(model.path, threads=1)(dog[None])
    for threads in (1, 2, 3):
        np.testing.assert_array_equal(load_engine(model.path, threads=threads)(dog[None]), expected)


# Quality


@each_model
def test_a_photograph_is_restored_far_better_than_by_bicubic(model: Model, dog: np.ndarray) -> None:
    """Measured for abpn_x3: 1.7 dB. Only a bug would halve that."""
    factor = model.factor
    lr = downscale(dog, factor)
    gain = psnr(load_method(model.name, factor)(lr), dog, border=factor) - psnr(
        load_method("bicubic", factor)(lr), dog, border=factor
    )
    assert gain > 0.85


@each_model
@pytest.mark.parametrize("level", [0, 1, 63, 128, 254, 255])
def test_a_flat_image_stays_almost_flat(model: Model, level: int) -> None:
    """No dots, no grid, no shift of colour: within two levels, of 255."""
    flat = np.full((1, 40, 40, 3), level, np.uint8)
    inner = run_graph(graph_of(model), flat)[0, 30:-30, 30:-30]
    assert np.abs(inner.astype(int) - level).max() <= 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "name", "least"),
    [
        # The INT8 file of ABPN's authors, on the same images.
        ("abpn", "Set5", 31.471),
        ("abpn", "Set14", 27.830),
        ("abpn", "BSD100", 27.320),
        # NCNet, the best published network of this cost.
        ("quality", "Set5", 31.573),
        ("quality", "Set14", 27.876),
        ("quality", "BSD100", 27.354),
    ],
)
def test_x3_keeps_its_quality(shared_data: Path, model: str, name: str, least: float) -> None:
    """RGB PSNR in dB of the INT8 model, border 3."""
    assert evaluate(model, shared_data / "test" / name).psnr_rgb >= least


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("Set5", 33.20),
        ("Set14", 29.57),
        ("BSD100", 28.59),
    ],
)
def test_fast_keeps_its_quality_in_luma(shared_data: Path, name: str, least: float) -> None:
    """Above float networks of its cost: ETDS-T (33.14 / 29.53 / 28.54) and ECBSR-M4C16."""
    assert evaluate("fast", shared_data / "test" / name).psnr_y >= least
