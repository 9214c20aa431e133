"""Upscaling arrays, Pillow images and files; alpha, models and other sizes."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anchorsr.engines.runtimes import LiteRT
from anchorsr.errors import GraphError, ImageError, ModelError, OutputError
from anchorsr.graph import operators as ops
from anchorsr.graph.executor import run_graph
from anchorsr.graph.graph import Graph
from anchorsr.inference.batch import Job
from anchorsr.inference.image_upscaler import ImageUpscaler
from anchorsr.inference.image_upscaler import upscale as upscale_with_any_engine
from anchorsr.inference.pipeline import upscale_files
from anchorsr.inference.sizes import TargetSize
from anchorsr.inference.tiling import upscale_tiled
from anchorsr.inference.upscaler import Upscaler
from anchorsr.models.card import ModelCard, write_card
from anchorsr.models.registry import DEFAULT, list_models, model_path, read_model
from anchorsr.networks.registry import build_network
from anchorsr.quantization.ptq import quantize_graph
from anchorsr.serialization.tflite.reader import read_tflite
from anchorsr.serialization.tflite.writer import write_tflite
from helpers.graphs import float_graph, image, integer_graph, reference_run

SIZES = [(1, 1), (1, 7), (2, 2), (13, 11), (31, 17)]

# Other engines may round a tie differently (test_selection).
# And `auto` would choose by the pixels (test_estimate).
upscale = functools.partial(upscale_with_any_engine, model=DEFAULT, engine="litert")


@pytest.fixture(scope="module")
def upscaler() -> Upscaler:
    return Upscaler(DEFAULT, threads=1, engine="litert")


def executed(rgb: np.ndarray) -> np.ndarray:
    """The default model's result, in the exact integer arithmetic."""
    graph = read_tflite(model_path(DEFAULT, 3).read_bytes())
    return run_graph(graph, np.ascontiguousarray(rgb)[None])[0]


def write_png(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def small(seed: int = 0, height: int = 6, width: int = 5, channels: int = 3) -> np.ndarray:
    return image(seed, height, width, channels)[0]


# Arrays


@pytest.mark.parametrize("size", SIZES)
def test_rgb_gives_the_bytes_of_the_integer_arithmetic(size: tuple[int, int]) -> None:
    rgb = small(1, *size)
    larger = upscale(rgb)
    assert larger.dtype == np.uint8
    np.testing.assert_array_equal(larger, executed(rgb))


def test_a_photograph_gives_the_bytes_of_the_integer_arithmetic(dog: np.ndarray) -> None:
    np.testing.assert_array_equal(upscale(dog), executed(dog))


@pytest.mark.slow
def test_a_photograph_in_tiles_gives_the_same_bytes(dog: np.ndarray, upscaler: Upscaler) -> None:
    engine, halo = upscaler._engine, upscaler.graph.halo
    tiled = upscale_tiled(engine, dog, factor=3, halo=halo, tile=101)
    np.testing.assert_array_equal(tiled, upscaler(dog))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [None, 3, 4])
def test_the_shape_is_kept_but_for_the_factor(size: tuple[int, int], channels: int | None) -> None:
    array = small(2, *size, 4)
    array = array[:, :, 0] if channels is None else array[:, :, :channels]
    larger = upscale(array)
    assert larger.shape == (3 * size[0], 3 * size[1], *array.shape[2:])
    assert larger.dtype == np.uint8
    assert larger.flags.c_contiguous


def test_grey_is_the_mean_of_what_the_network_makes_of_three_equal_channels() -> None:
    grey = small(3, 13, 11)[:, :, 0]
    three = executed(np.repeat(grey[:, :, None], 3, axis=2)).astype(int)
    np.testing.assert_array_equal(upscale(grey), np.rint(three.sum(axis=2) / 3))


def test_views_and_other_memory_layouts_give_the_same_bytes() -> None:
    array = small(4, 26, 22, 4)
    for view in (
        array[::2, ::-2, :3],
        array[:, :, 2::-1],
        array[1:, 1:, 0],
        array.transpose(1, 0, 2),
        np.asfortranarray(array[:, :, :3]),
    ):
        np.testing.assert_array_equal(upscale(view), upscale(np.ascontiguousarray(view)))


def test_the_given_array_is_neither_changed_nor_shared() -> None:
    array = small(5, 9, 8, 4)
    array[:4, :, 3] = 0
    before = array.copy()
    array.flags.writeable = False
    for view in (array, array[:, :, :3], array[:, :, 0]):
        for scale in (None, 1, 2.5):
            larger = upscale(view, scale=scale)
            larger[:] = 7
    np.testing.assert_array_equal(array, before)


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 3), bool),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((4, 4, 5), np.uint8),
        np.zeros((1, 4, 4, 2), np.uint8),
        np.zeros((0, 4, 4, 3), np.uint8),
        np.zeros((1, 1, 4, 4, 3), np.uint8),
        np.zeros(4, np.uint8),
        np.zeros((), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 0), np.uint8),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_another_type_or_shape_is_a_value_error_that_says_so(wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match="an image") as caught:
        upscale(wrong)
    assert str(wrong.dtype) in str(caught.value) or "channels" in str(caught.value)


# What an Upscaler takes


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 1), (6, 5, 3), (6, 5, 4)], ids=str)
def test_an_array_becomes_one_of_its_type_and_layout(
    upscaler: Upscaler, dtype: type, shape: tuple[int, ...]
) -> None:
    array = np.random.default_rng(1).integers(0, np.iinfo(dtype).max, shape).astype(dtype)
    for result in (upscaler(array), upscale(array)):
        assert (result.dtype, result.shape) == (dtype, (18, 15, *shape[2:]))
        np.testing.assert_array_equal(result, upscale(array))
    if len(shape) == 3:
        batch = np.stack((array, array[::-1]))
        expected = np.stack((upscaler(array), upscaler(array[::-1])))
        np.testing.assert_array_equal(upscaler(batch), expected)
        np.testing.assert_array_equal(upscale(batch, scale=2.5).shape, (2, 15, 13, *shape[2:]))


def test_a_call_is_the_fast_method_for_8_bit_rgb(upscaler: Upscaler) -> None:
    np.testing.assert_array_equal(upscaler(small()), upscaler.upscale_rgb(small()))
    with pytest.raises(ValueError, match=r"uint8 \(H, W, 3\), not uint16"):
        upscaler.upscale_rgb(small().astype(np.uint16))  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_a_pillow_image_becomes_one(upscaler: Upscaler, mode: str) -> None:
    rgba = Image.fromarray(small(3, 6, 5, 4))
    if mode == "I;16":
        source = Image.fromarray(small(3)[:, :, 0].astype(np.uint16) * 257)
    else:
        source = rgba.convert("RGB").convert(mode) if mode in "1LP" else rgba.convert(mode)
    source.info["dpi"] = (300, 300)
    before = (source.mode, source.tobytes(), dict(source.info))
    expected_mode = {"1": "L", "P": "RGB"}.get(mode, mode)
    for result in (upscaler(source), upscale(source)):
        assert (result.mode, result.size, result.info) == (expected_mode, (15, 18), source.info)
        if mode not in ("LA", "I;16"):
            array = np.asarray(source.convert(expected_mode))
            np.testing.assert_array_equal(np.asarray(result), upscaler(array))
    assert (source.mode, source.tobytes(), source.info) == before


def test_other_pillow_images_are_a_value_error(upscaler: Upscaler) -> None:
    with pytest.raises(ValueError, match="mode F is not handled"):
        upscaler(Image.new("F", (4, 4)))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_path_is_read(upscaler: Upscaler, tmp_path: Path, channels: int) -> None:
    array = small(4, 6, 5, 4)[:, :, :channels].squeeze()
    path = write_png(tmp_path / "a.png", array)
    for name in (path, str(path)):
        np.testing.assert_array_equal(upscaler(name), upscaler(array))
        np.testing.assert_array_equal(upscale(name), upscaler(array))
    with pytest.raises(ImageError, match="missing"):
        upscaler(tmp_path / "missing.png")


def test_frames_are_upscaled_when_they_are_asked_for(upscaler: Upscaler) -> None:
    taken = []

    def video() -> Iterator[np.ndarray]:
        for number in range(3):
            taken.append(number)
            yield small(number)

    frames = upscaler.frames(video())
    np.testing.assert_array_equal(next(frames), upscaler(small(0)))
    assert taken == [0]
    assert len(list(frames)) == 2


# Alpha


def test_an_opaque_image_stays_exactly_opaque_and_keeps_its_colours() -> None:
    rgb = small(6, 31, 17)
    opaque = np.dstack([rgb, np.full(rgb.shape[:2], 255, np.uint8)])
    larger = upscale(opaque)
    assert (larger[:, :, 3] == 255).all()
    np.testing.assert_array_equal(larger[:, :, :3], upscale(rgb))


@pytest.mark.parametrize("value", [0, 1, 127, 254])
def test_an_even_alpha_stays_even(value: int) -> None:
    translucent = np.dstack([small(7, 13, 11), np.full((13, 11), value, np.uint8)])
    assert (upscale(translucent)[:, :, 3] == value).all()


def disc(height: int, width: int) -> np.ndarray:
    """Alpha of an opaque disc with an edge of one step."""
    y, x = np.mgrid[0:height, 0:width]
    radius = np.hypot(y - height / 2, x - width / 2)
    return (np.clip(min(height, width) / 3 - radius, 0, 1) * 255).astype(np.uint8)


@pytest.mark.parametrize("size", [(24, 24), (13, 37), (40, 9)])
def test_colour_below_transparent_pixels_never_bleeds(size: tuple[int, int]) -> None:
    alpha = disc(*size)
    results = []
    for hidden in ((255, 0, 0), (0, 255, 0), (0, 0, 0), (255, 255, 255)):
        rgb = np.where(alpha[:, :, None] > 0, small(8, *size), np.array(hidden, np.uint8))
        results.append(upscale(np.dstack([rgb, alpha])))
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def test_a_flat_colour_with_a_transparent_region_stays_as_flat_as_without() -> None:
    alpha = disc(24, 31)
    flat = np.full((24, 31, 3), (200, 90, 30), np.uint8)
    holed = np.where(alpha[:, :, None] > 0, flat, np.uint8(0))
    np.testing.assert_array_equal(upscale(np.dstack([holed, alpha]))[:, :, :3], upscale(flat))


def test_one_visible_pixel_gives_its_colour_to_all() -> None:
    rgba = np.zeros((19, 7, 4), np.uint8)
    rgba[11, 2] = (10, 200, 60, 255)
    flat = np.full((19, 7, 3), (10, 200, 60), np.uint8)
    np.testing.assert_array_equal(upscale(rgba)[:, :, :3], upscale(flat))


def test_a_wholly_transparent_image_stays_transparent() -> None:
    rgba = np.dstack([small(9, 5, 6), np.zeros((5, 6), np.uint8)])
    larger = upscale(rgba)
    assert not larger[:, :, 3].any()


def test_grey_with_alpha_stays_grey_with_alpha(tmp_path: Path) -> None:
    grey = np.dstack([small(10, 12, 9)[:, :, 0], disc(12, 9)])
    source, target = write_png(tmp_path / "a.png", grey), tmp_path / "b.png"
    with Image.open(source) as image:
        assert image.mode == "LA"
    assert [
        done.error for done in upscale_files([Job(source, target)], ImageUpscaler(threads=1))
    ] == [None]
    with Image.open(target) as image:
        assert (image.mode, image.size) == ("LA", (27, 36))


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_grey_file_stays_grey(tmp_path: Path, suffix: str) -> None:
    source = write_png(tmp_path / "a.png", small(11, 12, 9)[:, :, 0])
    target = tmp_path / f"b{suffix}"
    assert [
        done.error for done in upscale_files([Job(source, target)], ImageUpscaler(threads=1))
    ] == [None]
    with Image.open(target) as image:
        assert (image.mode, image.size) == ("L", (27, 36))


# Models


def test_a_model_of_ones_own_runs_by_its_path(tmp_path: Path) -> None:
    graph = integer_graph(0, factor=2)
    path = tmp_path / "mine.tflite"
    path.write_bytes(write_tflite(graph))
    rgb = small(12, 9, 8)
    for model in (path, str(path)):
        np.testing.assert_array_equal(
            upscale(rgb, model=model, factor=2), reference_run(graph, rgb[None])[0]
        )


def test_a_model_file_that_was_written_anew_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "mine.tflite"
    rgb = small(12, 9, 8)
    for seed in (0, 1):
        graph = integer_graph(seed)
        path.write_bytes(write_tflite(graph))
        os.utime(path, ns=(seed, seed))  # two writes can fall into one tick of the clock
        np.testing.assert_array_equal(upscale(rgb, model=path), reference_run(graph, rgb[None])[0])


def test_a_relative_path_is_that_of_the_folder_that_one_is_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rgb = small(12, 9, 8)
    for seed in (0, 1):
        graph = integer_graph(seed)
        folder = tmp_path / str(seed)
        folder.mkdir()
        (folder / "mine.tflite").write_bytes(write_tflite(graph))
        os.utime(folder / "mine.tflite", ns=(5, 5))
        monkeypatch.chdir(folder)
        larger = upscale(rgb, model="mine.tflite")
        np.testing.assert_array_equal(larger, reference_run(graph, rgb[None])[0])


@pytest.mark.parametrize("rgb", [None, [[[1, 2, 3]]]])
def test_what_is_no_array_is_a_value_error(rgb: object) -> None:
    upscaler = Upscaler("fast", threads=1)
    for call in (upscaler, upscaler.upscale_rgb, upscale):
        with pytest.raises(ValueError, match=r"an image is a numpy array.* not"):
            call(rgb)  # type: ignore[operator]


def test_a_file_of_fixed_size_enlarges_every_image(tmp_path: Path) -> None:
    graph = integer_graph(0)
    path = tmp_path / "fixed.tflite"
    path.write_bytes(write_tflite(graph, size=(9, 8)))
    for size in ((9, 8), (8, 9), (5, 530)):
        rgb = small(12, *size)
        np.testing.assert_array_equal(upscale(rgb, model=path), reference_run(graph, rgb[None])[0])


def test_a_network_that_sees_far_takes_larger_tiles(tmp_path: Path) -> None:
    graph = integer_graph(0)
    first, *others = graph.operators
    wide = np.zeros((3, 1, 601, 3), np.int8)
    wide[range(3), 0, 0, range(3)] = 1  # the pixel 300 to the left
    scales = np.ones(3, np.float32)
    shift = ops.Conv2D("image", "moved", wide, np.zeros(3, np.int32), scales)
    others = [
        dataclasses.replace(one, input="moved") if getattr(one, "input", "") == "image" else one
        for one in others
    ]
    tensors = {**graph.tensors, "moved": graph.tensors["image"]}
    far = dataclasses.replace(graph, tensors=tensors, operators=[first, shift, *others])
    assert far.halo > 300
    path = tmp_path / "far.tflite"
    path.write_bytes(write_tflite(far))
    for width in (40, 1300):
        rgb = small(3, 4, width)
        np.testing.assert_array_equal(
            upscale(rgb, model=path, engine="litert"), run_graph(far, rgb[None])[0]
        )


def test_a_network_that_sees_the_whole_image_enlarges_it_in_one_tile(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="needs anchorsr[train]")
    from anchorsr.lowering.trace import lower

    network = build_network({"name": "imdn", "channels": 16, "blocks": 1})
    graph = quantize_graph(lower(network, name="imdn"), [small(1, 20, 24)])
    assert not graph.is_local
    path = tmp_path / "imdn.tflite"
    path.write_bytes(write_tflite(graph))
    rgb = small(2, 11, 13)
    np.testing.assert_array_equal(
        upscale(rgb, model=path, engine="litert"), run_graph(graph, rgb[None])[0]
    )
    with pytest.raises(GraphError, match="whole image"):
        upscale(small(2, 4, 513), model=path, engine="litert")


def test_what_does_not_enlarge_images_is_refused(tmp_path: Path) -> None:
    graph = integer_graph(0)
    last = graph.operators[-1]
    assert isinstance(last, ops.Requantize)
    tensors = {name: tensor for name, tensor in graph.tensors.items() if name != graph.output}
    signed = dataclasses.replace(
        graph, tensors=tensors, operators=graph.operators[:-1], output=last.input
    )
    for other, message in (
        (signed, "the output of this one is int8 with 3"),
        (integer_graph(0, colors=1), "the input of this one is uint8 with 1"),
        (integer_graph(0, factor=1), "does not upscale: its factor is 1"),
    ):
        path = tmp_path / "other.tflite"
        path.write_bytes(write_tflite(other))
        with pytest.raises(ModelError, match=message):
            upscale(small(0, 4, 5), model=path, scale=2.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "esrgan"}, "no model 'esrgan' for factor 3; choose from: abpn_x3"),
        ({"factor": 7}, f"no model '{DEFAULT}' for factor 7; choose from: abpn_x3"),
        ({"model": "nowhere.tflite"}, "nowhere.tflite does not exist"),
        ({"model": "mine.onnx"}, r"mine\.onnx is an ONNX file: give the \.tflite file"),
        ({"model": Path("mine.ONNX")}, "is an ONNX file"),
    ],
)
def test_an_unknown_model_or_factor_says_what_there_is(
    arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        upscale(small(), **arguments)  # type: ignore[arg-type]


def test_a_model_of_another_factor_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.tflite"
    path.write_bytes(write_tflite(integer_graph(0, factor=2)))
    with pytest.raises(ModelError, match="upscales 2 times, not 3"):
        upscale(small(), model=path, factor=3)


def test_the_factor_is_the_model_files_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.tflite"
    path.write_bytes(write_tflite(integer_graph(0, factor=2)))
    assert upscale(small(0, 6, 5), model=path).shape == (12, 10, 3)


@pytest.mark.parametrize("graph", [float_graph(0), integer_graph(0, colors=1)], ids=str)
def test_a_model_that_does_not_take_images_is_refused(tmp_path: Path, graph: object) -> None:
    path = tmp_path / "mine.tflite"
    path.write_bytes(write_tflite(graph))  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="takes and returns uint8 with 3 channels"):
        upscale(small(), model=path)


@pytest.mark.parametrize("length", [0, 3, 8, 5000])
def test_a_damaged_model_is_named(tmp_path: Path, length: int) -> None:
    path = tmp_path / "mine.tflite"
    path.write_bytes(model_path(DEFAULT, 3).read_bytes()[:length])
    with pytest.raises((ModelError, GraphError), match=r"mine\.tflite"):
        upscale(small(), model=path)


def test_a_runtime_that_fails_is_a_model_error() -> None:
    engine = LiteRT(write_tflite(integer_graph(0)), 1)
    with pytest.raises(ModelError, match="LiteRT cannot take"):
        engine(np.zeros((1, 5, 5, 4), np.uint8))
    images = image(0, 5, 5)
    expected = reference_run(integer_graph(0), images)
    np.testing.assert_array_equal(engine(images), expected)  # and the engine is as good as before


# Other sizes


def test_the_scale_of_the_factor_gives_the_bytes_of_the_factor(dog: np.ndarray) -> None:
    rgb = dog[:31, :17]
    for same in ({"scale": 3.0}, {"size": (93, 51)}, {"factor": 3, "scale": 3}):
        np.testing.assert_array_equal(upscale(rgb, **same), upscale(rgb))


def test_another_scale_is_the_next_product_reduced(dog: np.ndarray) -> None:
    upscale = functools.partial(upscale_with_any_engine, model="abpn", engine="litert")  # x3 alone
    rgb = dog[:31, :17]
    lanczos = Image.Resampling.LANCZOS
    expected = Image.fromarray(upscale(rgb)).resize((43, 78), lanczos)
    np.testing.assert_array_equal(upscale(rgb, scale=2.5), np.asarray(expected))
    expected = Image.fromarray(upscale(upscale(rgb))).resize((102, 186), lanczos)
    np.testing.assert_array_equal(upscale(rgb, scale=6), np.asarray(expected))


@pytest.mark.parametrize("factor", [m.factor for m in list_models() if m.name == DEFAULT])
def test_the_default_enlarges_by_a_factor_that_it_has_in_one_pass(
    dog: np.ndarray, factor: int
) -> None:
    rgb = dog[:31, :17]
    whole = run_graph(read_tflite(model_path(DEFAULT, factor).read_bytes()), rgb[None])[0]
    np.testing.assert_array_equal(upscale(rgb, scale=factor), whole)


def test_the_default_enlarges_by_every_factor(dog: np.ndarray) -> None:
    for factor in (2, 3, 4):  # in one pass or in two
        assert upscale(dog[:31, :17], scale=factor).shape == (31 * factor, 17 * factor, 3)


def test_one_pass_is_known_before_its_network_was_needed() -> None:
    """So that the first large image is streamed too."""
    image_upscaler = ImageUpscaler(target=TargetSize(scale=4), threads=1)
    plan = image_upscaler.plan(9, 8)
    assert plan.is_single_pass
    assert image_upscaler.upscaler(*plan.factors).factor == 4
    image_upscaler = ImageUpscaler(target=TargetSize(scale=2.5), threads=1)
    assert not image_upscaler.plan(9, 8).is_single_pass


def test_a_smaller_size_sees_no_network() -> None:
    rgb = small(1, 31, 17)
    np.testing.assert_array_equal(upscale(rgb, scale=1), rgb)
    expected = Image.fromarray(rgb).resize((7, 9), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(upscale(rgb, size=(9, 7)), np.asarray(expected))


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 3), (6, 5, 4)])
def test_a_size_keeps_the_channels(shape: tuple[int, ...]) -> None:
    array = small(2, 6, 5, 4).reshape(6, 5, 4)
    array = array[:, :, 0] if len(shape) == 2 else array[:, :, : shape[2]]
    assert upscale(array, size=(20, 11)).shape == (20, 11, *shape[2:])


def test_the_best_factors_at_hand_serve(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With networks for 2 and 3: 2 where that suffices, both where neither does."""
    module = importlib.import_module("anchorsr.models.registry")
    graphs = {factor: integer_graph(0, factor=factor) for factor in (2, 3)}
    for factor, graph in graphs.items():
        (tmp_path / f"{DEFAULT}_x{factor}.tflite").write_bytes(write_tflite(graph))
        card = ModelCard.of_file(write_tflite(graph), graph, figures=[], runs={})
        write_card(tmp_path / f"{DEFAULT}_x{factor}.json", card, overwrite=False)
    monkeypatch.setattr(module, "_FOLDER", tmp_path)
    rgb = small(3, 9, 8)
    once = reference_run(graphs[2], rgb[None])
    np.testing.assert_array_equal(upscale(rgb, scale=2), once[0])
    np.testing.assert_array_equal(upscale(rgb, scale=6), reference_run(graphs[3], once)[0])
    np.testing.assert_array_equal(upscale(rgb), reference_run(graphs[3], rgb[None])[0])
    assert upscale(rgb, factor=2, scale=5).shape == (45, 40, 3)


def test_a_size_that_cannot_be_is_an_error_before_any_work() -> None:
    with pytest.raises(OutputError, match="ask for a smaller size"):
        upscale(small(), scale=1e6)
    with pytest.raises(OutputError, match="exclude one another"):
        upscale(small(), scale=2, size=(9, 9))
    for wrong in ({"scale": -1}, {"scale": float("nan")}, {"size": (10**400, 9)}):
        with pytest.raises(OutputError, match="above 0"):
            upscale(small(), **wrong)


def test_a_model_is_read_once_for_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading it takes longer than a small image; each pass asks for it by its factor."""
    module = importlib.import_module("anchorsr.inference.upscaler")
    read: list[Path] = []

    def count(path: Path) -> tuple[bytes, Graph]:
        read.append(path)
        return read_model(path)

    monkeypatch.setattr(module, "read_model", count)
    source = write_png(tmp_path / "a.png", small(11, 12, 9))
    model = tmp_path / "mine.tflite"
    model.write_bytes(model_path("fast", 3).read_bytes())
    upscaler = ImageUpscaler(model, threads=1)
    (done,) = upscale_files([Job(source, tmp_path / "b.png")], upscaler)
    assert (done.error, read) == (None, [model])
