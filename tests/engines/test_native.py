"""The native kernel: the bytes of the exact arithmetic on every instruction set, and what it is
not made for is refused, in words."""

from __future__ import annotations

import dataclasses
import itertools
import threading
from pathlib import Path

import numpy as np
import pytest

from anchorsr.engines import selection
from anchorsr.engines.native import library
from anchorsr.engines.native.engine import Native, _bands
from anchorsr.engines.native.library import Network, instruction_sets, load_library
from anchorsr.engines.native.packing import pack_graph
from anchorsr.engines.runtimes import load_engine
from anchorsr.engines.selection import choose_engine
from anchorsr.errors import AnchorSRError, GraphError, ModelError
from anchorsr.graph import operators as ops
from anchorsr.graph.executor import run_graph
from anchorsr.graph.graph import Graph
from anchorsr.models.registry import Model, list_models, read_model
from anchorsr.serialization.tflite.writer import write_tflite
from helpers.graphs import float_graph, integer_graph, reference_run
from helpers.graphs import image as image_of
from helpers.models import each_model_but_most_slowly
from random_graphs import random_graph, random_image

needs_kernel = pytest.mark.skipif(
    not library.PATH.exists(), reason="the native kernel is not built: pip install -e ."
)
SETS = (
    [name for name, there in instruction_sets().items() if there] if library.PATH.exists() else []
)
every_set = pytest.mark.parametrize("instructions", SETS)
SIZES = [(1, 1), (1, 2), (2, 1), (1, 97), (53, 1), (5, 4), (7, 8), (13, 11), (41, 37), (3, 211)]


def run(graph: Graph, images: np.ndarray, instructions: str) -> np.ndarray:
    network = Network(pack_graph(graph), graph.factor, instructions)
    _, height, width, _ = images.shape
    # Neither what is there before nor what lies beside it may matter.
    upscaled = np.full((height * graph.factor, width * graph.factor, 3), 77, np.uint8)
    workspace = network.workspace(width)
    workspace[:] = 0xA5
    network.run(images[0], 0, height, upscaled, workspace)
    return upscaled[None]


# Exactness


@needs_kernel
@every_set
@each_model_but_most_slowly
def test_shipped_networks_give_the_bytes_of_the_arithmetic(model: Model, instructions: str) -> None:
    _, graph = read_model(model.path)
    for seed, size in enumerate(SIZES):
        images = random_image(seed, *size)
        np.testing.assert_array_equal(run(graph, images, instructions), run_graph(graph, images))


@pytest.mark.slow
@needs_kernel
@every_set
def test_random_networks_give_the_bytes_of_the_arithmetic(instructions: str) -> None:
    for seed in range(200):
        graph = random_graph(seed)
        images = random_image(seed, *SIZES[seed % len(SIZES)])
        made = run(graph, images, instructions)
        expected = reference_run(graph, images)
        assert np.array_equal(made, expected), f"random_graph({seed}) on {images.shape}"


@pytest.mark.slow
@needs_kernel
@every_set
@pytest.mark.parametrize("value", [0, 128, 255])
def test_a_flat_image_reaches_the_largest_sums(value: int, instructions: str) -> None:
    for seed in range(20):
        graph = integer_graph(seed, channels=32, weight_limit=127 if seed % 2 else 64)
        images = np.full((1, 9, 10, 3), value, np.uint8)
        np.testing.assert_array_equal(
            run(graph, images, instructions), reference_run(graph, images)
        )


@needs_kernel
@every_set
@pytest.mark.parametrize("sign", [-1, 1])
def test_weights_at_their_limit_do_not_saturate(sign: int, instructions: str) -> None:
    graph = integer_graph(1, channels=16)
    for limit in (64, 127):
        operators: list[ops.Operator] = []
        for operator in graph.operators:
            if isinstance(operator, ops.Conv2D) and not operator.copies_channels:
                weights = np.full_like(operator.weights, sign * limit)
                operator = dataclasses.replace(operator, weights=weights)
            operators.append(operator)
        full = dataclasses.replace(graph, operators=tuple(operators))
        images = random_image(0, 11, 13)
        np.testing.assert_array_equal(run(full, images, instructions), reference_run(full, images))


@needs_kernel
@every_set
def test_bands_are_those_of_the_whole_image(instructions: str) -> None:
    _, graph = read_model(next(m.path for m in list_models() if m.path.stem == "fast_x2"))
    images = random_image(3, 45, 19)
    network = Network(pack_graph(graph), 2, instructions)
    whole = run(graph, images, instructions)[0]
    for edges in ((0, 1, 45), (0, 7, 8, 22, 45), (0, 44, 45), tuple(range(46))):
        upscaled = np.full_like(whole, 1)
        workspace = network.workspace(19)
        for first, end in itertools.pairwise(edges):
            before = upscaled.copy()
            network.run(images[0], first, end, upscaled, workspace)
            untouched = [*range(2 * first), *range(2 * end, 90)]
            assert np.array_equal(before[untouched], upscaled[untouched])
        np.testing.assert_array_equal(upscaled, whole)


@pytest.mark.slow
@needs_kernel
@pytest.mark.parametrize("threads", [1, 2, 5, 64])
def test_an_engine_of_several_threads_gives_the_same_bytes(threads: int) -> None:
    graph = integer_graph(2, depth=3)
    engine = Native(graph, threads)
    for size in [*SIZES, (130, 20), (131, 21)]:
        images = image_of(5, *size)
        np.testing.assert_array_equal(engine(images), reference_run(graph, images))
        run_again = engine.prepare(images)
        run_again()


@needs_kernel
def test_several_threads_may_run_one_network() -> None:
    graph = integer_graph(4, depth=3)
    network = Network(pack_graph(graph), graph.factor)
    images = [image_of(seed, 40, 30 + seed) for seed in range(8)]
    made: dict[int, np.ndarray] = {}

    def work(index: int) -> None:
        _, height, width, _ = images[index].shape
        upscaled = np.zeros((height * 3, width * 3, 3), np.uint8)
        network.run(images[index][0], 0, height, upscaled, network.workspace(width))
        made[index] = upscaled

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, image in enumerate(images):
        np.testing.assert_array_equal(made[index][None], reference_run(graph, image))


@pytest.mark.parametrize("height", [1, 15, 16, 100, 511, 513, 4000])
@pytest.mark.parametrize("threads", [1, 2, 3, 64])
def test_bands_cover_the_image_once(height: int, threads: int) -> None:
    bands = _bands(height, threads)
    assert bands[0][0] == 0
    assert bands[-1][1] == height
    assert all(one[1] == other[0] for one, other in itertools.pairwise(bands))
    assert all(0 < end - first <= 512 for first, end in bands)
    assert len(bands) <= threads or height > 512


# What it does not run


def with_operator(operator: ops.Operator, tensor: ops.TensorType) -> Graph:
    """The image's way to the network, another operator, and a convolution after it."""
    quantization = ops.Quantization(1.0, -128)
    tensors = {
        "images": ops.TensorType(3, "uint8", ops.Quantization(1.0, 0)),
        "image": ops.TensorType(3, "int8", quantization),
        operator.output: tensor,
        "last": ops.TensorType(3, "int8", quantization),
        "upscaled": ops.TensorType(3, "uint8", ops.Quantization(1.0, 0)),
    }
    weights = np.ones((3, 1, 1, tensor.channels), np.int8)
    conv = ops.Conv2D(
        operator.output, "last", weights, np.zeros(3, np.int32), np.ones(3, np.float32)
    )
    operators = (
        ops.Requantize("images", "image"),
        operator,
        conv,
        ops.Requantize("last", "upscaled"),
    )
    return Graph("refused", tensors, operators, "images", "upscaled")


SIGNED = ops.Quantization(1.0, -128)
REFUSED = [
    (
        with_operator(ops.Concat(("image", "image"), "twice"), ops.TensorType(6, "int8", SIGNED)),
        "Concat",
    ),
    (
        with_operator(
            ops.Resize("image", "large", 2, "nearest"), ops.TensorType(3, "int8", SIGNED)
        ),
        "Resize",
    ),
    (
        with_operator(ops.ReLU("image", "positive"), ops.TensorType(3, "int8", SIGNED)),
        "ReLU after a conv",
    ),
    (
        with_operator(ops.Add(("image", "image"), "sum"), ops.TensorType(3, "int8", SIGNED)),
        "adds to the",
    ),
    (
        with_operator(
            ops.Requantize("image", "other"), ops.TensorType(3, "int8", ops.Quantization(0.5, -128))
        ),
        "does not change scales",
    ),
    (
        with_operator(
            ops.Conv2D(
                "image",
                "wide",
                np.ones((3, 5, 5, 3), np.int8),
                np.zeros(3, np.int32),
                np.ones(3, np.float32),
            ),
            ops.TensorType(3, "int8", SIGNED),
        ),
        "not 5x5",
    ),
    (
        with_operator(
            ops.Conv2D(
                "image",
                "many",
                np.ones((300, 1, 1, 3), np.int8),
                np.zeros(300, np.int32),
                np.ones(300, np.float32),
            ),
            ops.TensorType(300, "int8", SIGNED),
        ),
        "up to 256 channels, not 300",
    ),
    (integer_graph(0, colors=1), "uint8 RGB"),
    (float_graph(0), "uint8 RGB"),
]


@pytest.mark.parametrize(("graph", "reason"), REFUSED, ids=[reason for _, reason in REFUSED])
def test_a_graph_that_the_kernel_has_not_is_refused_with_the_reason(
    graph: Graph, reason: str
) -> None:
    with pytest.raises(GraphError, match=reason):
        pack_graph(graph)


def test_operators_after_depth_to_space_are_refused() -> None:
    graph = integer_graph(0, factor=2, quantize_last=False)
    tensors = {**graph.tensors, "again": ops.TensorType(3, "uint8", ops.Quantization(1.0, 0))}
    more = ops.DepthToSpace(graph.output, "again", 1)
    longer = dataclasses.replace(
        graph, tensors=tensors, operators=(*graph.operators, more), output="again"
    )
    with pytest.raises(GraphError, match="ends with depth-to-space"):
        pack_graph(longer)


@needs_kernel
def test_sums_that_might_not_fit_32_bits_are_refused() -> None:
    graph = integer_graph(0)
    operators = [
        dataclasses.replace(operator, bias=np.full_like(operator.bias, 2**31 - 5))
        if isinstance(operator, ops.Conv2D) and not operator.copies_channels
        else operator
        for operator in graph.operators
    ]
    packed = pack_graph(dataclasses.replace(graph, operators=tuple(operators)))
    with pytest.raises(GraphError, match="sums of 32 bits"):
        Network(packed, 3)


# Nothing crashes it


@pytest.mark.slow
@needs_kernel
def test_damaged_bytes_are_refused_or_run() -> None:
    """Whatever the bytes are, what is loaded can be run, and reads and writes only its own."""
    packed = pack_graph(random_graph(7))
    generator = np.random.default_rng(0)
    refused = loaded = 0
    image = random_image(0, 5, 6)[0]
    for trial in range(2000):
        damaged = bytearray(packed)
        if trial % 4 == 0:
            damaged = damaged[: generator.integers(0, len(packed))]
        for _ in range(generator.integers(1, 4)):
            if damaged:
                # Mostly in the numbers of the first layers, and not in weights.
                place = int(len(damaged) ** generator.random()) % len(damaged)
                damaged[place] = generator.integers(0, 256)
        try:
            network = Network(bytes(damaged), 1)
        except AnchorSRError:
            refused += 1
            continue
        loaded += 1
        workspace = network.workspace(6)
        for factor in range(1, 9):
            upscaled = np.zeros((5 * factor, 6 * factor, 3), np.uint8)
            network._factor = factor
            try:
                network.run(image, 0, 5, upscaled, workspace)
            except ModelError:
                continue
            break
        else:
            pytest.fail("no size of the output is the right one")
    assert refused > 100
    assert loaded > 100


@needs_kernel
def test_arrays_that_do_not_belong_together_are_refused() -> None:
    graph = integer_graph(0)
    network = Network(pack_graph(graph), 3)
    image, upscaled = np.zeros((4, 5, 3), np.uint8), np.zeros((12, 15, 3), np.uint8)
    workspace = network.workspace(5)
    network.run(image, 0, 4, upscaled, workspace)
    frozen = upscaled.copy()
    frozen.flags.writeable = False
    wrong = [
        (image[:, :4], 0, 4, upscaled, workspace),
        (image.astype(np.int8), 0, 4, upscaled, workspace),
        (image[..., :1].copy(), 0, 4, upscaled, workspace),
        (image, 0, 5, upscaled, workspace),
        (image, 3, 3, upscaled, workspace),
        (image, -1, 3, upscaled, workspace),
        (image, 0, 2**31, upscaled, workspace),
        (image, 0, 4, upscaled[:11].copy(), workspace),
        (image, 0, 4, frozen, workspace),
        (image, 0, 4, upscaled, workspace[:-1]),
        (np.zeros((0, 5, 3), np.uint8), 0, 0, np.zeros((0, 15, 3), np.uint8), workspace),
    ]
    for arguments in wrong:
        with pytest.raises(ModelError):
            network.run(*arguments)
    for width in (0, -3, 2**24 + 1, 2**40):
        with pytest.raises(ModelError, match="wide"):
            network.workspace(width)


@needs_kernel
def test_an_instruction_set_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match=r"portable, not mmx"):
        Network(pack_graph(integer_graph(0)), 3, "mmx")


@needs_kernel
def test_images_that_a_model_does_not_take_are_refused() -> None:
    engine = Native(integer_graph(0), 2, size=(6, 7))
    assert engine(image_of(0, 6, 7)).shape == (1, 18, 21, 3)
    for images in (
        image_of(0, 7, 6),
        image_of(0, 6, 7).astype(np.float32),
        image_of(0, 6, 7, channels=1),
        image_of(0, 6, 7)[0],
        np.zeros((2, 6, 7, 3), np.uint8),
    ):
        with pytest.raises(ModelError, match="this model takes"):
            engine(images)
    with pytest.raises(ModelError, match="takes uint8 RGB only"):
        load_engine(write_tflite(integer_graph(0)), name="native", dtype=np.int8)


# Which engine is taken


@needs_kernel
def test_auto_takes_the_kernel_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        pytest.fail("an engine was put on trial")

    monkeypatch.setattr(selection, "_try", never)
    graph = integer_graph(0)
    for name in ("auto", "native"):
        choice = choose_engine(write_tflite(graph), graph, name=name)
        assert choice.engine.name == "native"
        assert choice.why == "it gives the bytes of the exact arithmetic, by construction"


@pytest.mark.slow
@needs_kernel
def test_what_the_kernel_does_not_run_goes_to_another_engine() -> None:
    graph, reason = REFUSED[0]
    data = write_tflite(graph)
    choice = choose_engine(data, graph)
    assert choice.engine.name == "litert"
    assert "not native: the kernel has no Concat" in choice.why
    with pytest.raises(GraphError, match=reason):
        choose_engine(data, graph, name="native")


@pytest.mark.slow
def test_an_installation_without_the_kernel_has_the_other_engines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "PATH", tmp_path / "_kernel.so")
    load_library.cache_clear()
    graph = integer_graph(0)
    try:
        choice = choose_engine(write_tflite(graph), graph)
        assert choice.engine.name == "litert"
        assert "not native: the native kernel is not in this installation" in choice.why
        with pytest.raises(ModelError, match="install anchorsr again"):
            choose_engine(write_tflite(graph), graph, name="native")
        (tmp_path / "_kernel.so").write_bytes(b"no library")
        with pytest.raises(ModelError, match="does not load"):
            choose_engine(write_tflite(graph), graph, name="native")
    finally:
        load_library.cache_clear()
