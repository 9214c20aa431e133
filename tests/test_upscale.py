"""Pictures made larger: arrays, alpha, and what becomes of files."""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anchorsr.engines import LiteRT
from anchorsr.errors import DataError, GraphError, ModelError, OutputError, PictureError
from anchorsr.images import read_picture
from anchorsr.integer import run_graph
from anchorsr.jobs import Done, Job, plan, upscale_files
from anchorsr.models import model_path
from anchorsr.tflite import read_tflite, write_tflite
from anchorsr.tiling import upscale_tiled
from anchorsr.upscale import Upscaler
from anchorsr.upscale import upscale as upscale_with_any_engine
from graphs import float_graph, integer_graph, picture, reference_run

SIZES = [(1, 1), (1, 7), (2, 2), (13, 11), (31, 17)]

# Other engines may round a tie otherwise (test_choosing).
upscale = functools.partial(upscale_with_any_engine, engine="litert")


@pytest.fixture(scope="module")
def upscaler() -> Upscaler:
    return Upscaler(threads=1, engine="litert")


def executed(rgb: np.ndarray) -> np.ndarray:
    """What the integer arithmetic says that the shipped model makes of it."""
    graph = read_tflite(model_path("abpn", 3).read_bytes())
    return run_graph(graph, np.ascontiguousarray(rgb)[None])[0]


def write_png(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def small(seed: int = 0, height: int = 6, width: int = 5, channels: int = 3) -> np.ndarray:
    return picture(seed, height, width, channels)[0]


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder, hidden files too: the bytes of files, None for folders."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


# Arrays


@pytest.mark.parametrize("size", SIZES)
def test_rgb_gives_the_bytes_of_the_integer_arithmetic(size: tuple[int, int]) -> None:
    rgb = small(1, *size)
    larger = upscale(rgb)
    assert larger.dtype == np.uint8
    np.testing.assert_array_equal(larger, executed(rgb))


def test_a_photograph_gives_the_bytes_of_the_integer_arithmetic(dog: np.ndarray) -> None:
    np.testing.assert_array_equal(upscale(dog), executed(dog))


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
    larger = upscale(array)
    larger[:] = 7
    np.testing.assert_array_equal(array, before)


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 3), np.uint16),
        np.zeros((4, 4, 3), bool),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((4, 4, 1), np.uint8),
        np.zeros((4, 4, 5), np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
        np.zeros(4, np.uint8),
        np.zeros((), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 0), np.uint8),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_another_type_or_shape_is_a_value_error_that_says_so(wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match="a picture") as caught:
        upscale(wrong)
    assert str(wrong.dtype) in str(caught.value) or "channels" in str(caught.value)


# Alpha


def test_an_opaque_picture_stays_exactly_opaque_and_keeps_its_colours() -> None:
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
    """Alpha: an opaque disc with an edge of one step, nothing around it."""
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


def test_a_wholly_transparent_picture_stays_transparent() -> None:
    rgba = np.dstack([small(9, 5, 6), np.zeros((5, 6), np.uint8)])
    larger = upscale(rgba)
    assert not larger[:, :, 3].any()


def test_grey_with_alpha_stays_grey_with_alpha(tmp_path: Path, upscaler: Upscaler) -> None:
    grey = np.dstack([small(10, 12, 9)[:, :, 0], disc(12, 9)])
    source, target = write_png(tmp_path / "a.png", grey), tmp_path / "b.png"
    with Image.open(source) as image:
        assert image.mode == "LA"
    assert [done.error for done in upscale_files([Job(source, target)], upscaler)] == [None]
    with Image.open(target) as image:
        assert (image.mode, image.size) == ("LA", (27, 36))


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_grey_file_stays_grey(tmp_path: Path, upscaler: Upscaler, suffix: str) -> None:
    source = write_png(tmp_path / "a.png", small(11, 12, 9)[:, :, 0])
    target = tmp_path / f"b{suffix}"
    assert [done.error for done in upscale_files([Job(source, target)], upscaler)] == [None]
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


def test_a_file_of_fixed_size_runs_only_at_that_size(tmp_path: Path) -> None:
    graph = integer_graph(0)
    path = tmp_path / "fixed.tflite"
    path.write_bytes(write_tflite(graph, size=(9, 8)))
    rgb = small(12, 9, 8)
    np.testing.assert_array_equal(upscale(rgb, model=path), reference_run(graph, rgb[None])[0])
    with pytest.raises(ModelError, match="takes only"):
        upscale(small(12, 8, 9), model=path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "esrgan"}, "no model 'esrgan' for factor 3; there are: abpn_x3"),
        ({"factor": 7}, "no model 'abpn' for factor 7; there are: abpn_x3"),
        ({"model": "nowhere.tflite"}, "nowhere.tflite cannot be read"),
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
    with pytest.raises(ModelError, match="enlarges 2 times, not 3"):
        upscale(small(), model=path, factor=3)


def test_the_factor_is_the_model_files_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.tflite"
    path.write_bytes(write_tflite(integer_graph(0, factor=2)))
    assert upscale(small(0, 6, 5), model=path).shape == (12, 10, 3)


@pytest.mark.parametrize("graph", [float_graph(0), integer_graph(0, colors=1)], ids=str)
def test_a_model_that_does_not_take_pictures_is_refused(tmp_path: Path, graph: object) -> None:
    path = tmp_path / "mine.tflite"
    path.write_bytes(write_tflite(graph))  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="takes uint8 with 3 channels"):
        upscale(small(), model=path)


@pytest.mark.parametrize("length", [0, 3, 8, 5000])
def test_a_damaged_model_is_named(tmp_path: Path, length: int) -> None:
    path = tmp_path / "mine.tflite"
    path.write_bytes(model_path("abpn", 3).read_bytes()[:length])
    with pytest.raises((ModelError, GraphError), match=r"mine\.tflite"):
        upscale(small(), model=path)


def test_a_runtime_that_fails_is_a_model_error() -> None:
    engine = LiteRT(write_tflite(integer_graph(0)), 1)
    with pytest.raises(ModelError, match="LiteRT cannot run"):
        engine(np.zeros((1, 5, 5, 4), np.uint8))
    images = picture(0, 5, 5)
    expected = reference_run(integer_graph(0), images)
    np.testing.assert_array_equal(engine(images), expected)  # and the engine is as good as before


# What becomes of which file


def test_without_an_output_the_result_is_beside_the_original() -> None:
    sources = [Path("a/photo.JPG"), Path("b.c/my.photo.webp"), Path("x.bmp"), Path("noname")]
    assert [str(job.target) for job in plan(sources, None, factor=3)] == [
        "a/photo_x3.JPG",
        "b.c/my.photo_x3.webp",
        "x_x3.png",
        "noname_x3.png",
    ]


def test_an_output_file_is_taken_as_it_is(tmp_path: Path) -> None:
    source = write_png(tmp_path / "a.png", small())
    target = tmp_path / "other.WEBP"
    assert plan([source], target, factor=3) == [Job(source, target)]


def test_a_folder_keeps_the_names_and_leaves_out_what_is_no_picture(tmp_path: Path) -> None:
    for name in ("b.png", "A.PNG", "a.png", ".hidden.png", "deep/c.png"):
        write_png(tmp_path / "in" / name, small())
    (tmp_path / "in" / "notes.txt").write_text("words")
    jobs = plan([tmp_path / "in"], tmp_path / "out", factor=3)
    names = [(job.source.name, str(job.target.relative_to(tmp_path))) for job in jobs]
    assert names == [("A.PNG", "out/A.PNG"), ("a.png", "out/a.png"), ("b.png", "out/b.png")]


def test_files_and_folders_can_be_mixed(tmp_path: Path) -> None:
    first = write_png(tmp_path / "in" / "a.png", small())
    second = write_png(tmp_path / "b.png", small())
    jobs = plan([second, tmp_path / "in"], tmp_path / "out", factor=3)
    assert [job.source for job in jobs] == [second, first]


@pytest.mark.parametrize("name", ["out", "out.d/deeper", "deep/deeper/out"])
def test_a_planned_folder_is_made_when_there_is_something_to_put_in(
    tmp_path: Path, upscaler: Upscaler, name: str
) -> None:
    sources = [write_png(tmp_path / name, small()) for name in ("a.png", "b.png")]
    jobs = plan(sources, tmp_path / name, factor=3)
    assert sorted(tree(tmp_path)) == ["a.png", "b.png"]
    assert all(done.error is None for done in upscale_files(jobs, upscaler))
    assert sorted(path.name for path in (tmp_path / name).iterdir()) == ["a.png", "b.png"]


def test_a_folder_in_which_nothing_would_be_is_not_made(tmp_path: Path, upscaler: Upscaler) -> None:
    jobs = plan([tmp_path / "missing.png"], tmp_path / "out", factor=3)
    assert [type(done.error) for done in upscale_files(jobs, upscaler)] == [PictureError]
    assert tree(tmp_path) == {}


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_output_that_is_an_input_is_refused(tmp_path: Path, overwrite: bool) -> None:
    first, second = (write_png(tmp_path / f"{name}.png", small()) for name in "ab")
    link = tmp_path / "link.png"
    link.symlink_to(first)
    other_name = tmp_path / "other.png"
    os.link(first, other_name)  # as A.PNG and a.png are on some file systems
    before = tree(tmp_path)
    for inputs, output in (
        ([first], first),
        ([first], tmp_path / "." / "x" / ".." / "a.png"),
        ([first], link),
        ([link], first),
        ([first], other_name),
        ([first], tmp_path),
        ([tmp_path], tmp_path),
        ([second, first], tmp_path),
    ):
        with pytest.raises(OutputError, match="is an input"):
            plan(inputs, output, factor=3, overwrite=overwrite)
    assert tree(tmp_path) == before


def test_a_result_that_would_replace_another_input_is_refused(tmp_path: Path) -> None:
    both = [write_png(tmp_path / name, small()) for name in ("a.png", "a_x3.png")]
    with pytest.raises(OutputError, match=r"a_x3\.png is an input"):
        plan(both, None, factor=3, overwrite=True)


def test_results_of_an_earlier_run_in_a_folder_are_not_upscaled_again(tmp_path: Path) -> None:
    for name in ("a.png", "a_x3.png", "b_x3.png"):  # the last has no picture it could be from
        write_png(tmp_path / name, small())
    jobs = plan([tmp_path], None, factor=3, overwrite=True)
    assert [job.source.name for job in jobs] == ["a.png", "b_x3.png"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_two_pictures_with_one_result_are_refused(tmp_path: Path, overwrite: bool) -> None:
    sources = [write_png(tmp_path / folder / "a.png", small()) for folder in "xy"]
    with pytest.raises(OutputError, match="two pictures would become"):
        plan(sources, tmp_path / "out", factor=3, overwrite=overwrite)
    with pytest.raises(OutputError, match="two pictures would become"):
        plan([sources[0], sources[0]], None, factor=3, overwrite=overwrite)


def test_names_that_differ_in_case_are_two_where_files_are(tmp_path: Path) -> None:
    write_png(tmp_path / "in" / "a.png", small())
    write_png(tmp_path / "in" / "A.png", small())
    here = len(list((tmp_path / "in").iterdir()))
    assert len(plan([tmp_path / "in"], tmp_path / "out", factor=3)) == here


def test_an_existing_file_is_replaced_only_when_asked(tmp_path: Path) -> None:
    source = write_png(tmp_path / "a.png", small())
    target = write_png(tmp_path / "a_x3.png", small(1))
    with pytest.raises(OutputError, match="exists already"):
        plan([source], None, factor=3)
    assert plan([source], None, factor=3, overwrite=True) == [Job(source, target)]


def test_a_dangling_link_is_an_existing_file(tmp_path: Path) -> None:
    source = write_png(tmp_path / "a.png", small())
    (tmp_path / "b.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(OutputError, match="exists already"):
        plan([source], tmp_path / "b.png", factor=3)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("missing/b.png", "not an existing folder"),
        ("b.gif", "no suffix that can be written"),
        ("a.png/b", "a.png is not a folder"),
        ("file", "file is not a folder"),
        ("file/b/c", "file is not a folder"),
        ("file/b.png", "not an existing folder"),
    ],
)
def test_an_output_that_cannot_be_is_refused_before_any_work(
    tmp_path: Path, output: str, message: str
) -> None:
    source = write_png(tmp_path / "a.png", small())
    (tmp_path / "file").write_text("words")
    before = tree(tmp_path)
    with pytest.raises(OutputError, match=message):
        plan([source], tmp_path / output, factor=3)
    assert tree(tmp_path) == before


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write all")
def test_a_folder_without_permission_is_refused_before_any_work(tmp_path: Path) -> None:
    source = write_png(tmp_path / "a.png", small())
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    with pytest.raises(OutputError, match="may not be written in"):
        plan([source], locked / "out", factor=3)


def test_nothing_to_do_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="nothing to do"):
        plan([], None, factor=3)
    with pytest.raises(DataError, match="holds no picture"):
        plan([tmp_path], None, factor=3)


# Files


def test_a_bad_file_does_not_keep_the_others_from_being_done(
    tmp_path: Path, upscaler: Upscaler
) -> None:
    for name in ("a.png", "c.png"):
        write_png(tmp_path / "in" / name, small())
    (tmp_path / "in" / "b.png").write_text("words")
    (tmp_path / "in" / "d.png").write_bytes(b"")
    done = list(upscale_files(plan([tmp_path / "in"], tmp_path / "out", factor=3), upscaler))
    errors = {d.job.source.name: type(d.error) for d in done if d.error is not None}
    assert errors == {"b.png": PictureError, "d.png": PictureError}
    assert sorted(tree(tmp_path / "out")) == ["a.png", "c.png"]
    expected = upscaler(small())
    np.testing.assert_array_equal(read_picture(tmp_path / "out" / "a.png").rgb, expected)


def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path: Path, upscaler: Upscaler) -> None:
    source = write_png(tmp_path / "a.png", small())
    jobs = plan([source], None, factor=3)
    taken = write_png(tmp_path / "a_x3.png", small(1))
    before = taken.read_bytes()
    (done,) = upscale_files(jobs, upscaler)
    assert isinstance(done.error, OutputError)
    assert taken.read_bytes() == before


def test_a_picture_too_large_for_the_memory_is_reported_and_the_others_are_done(
    tmp_path: Path, upscaler: Upscaler, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = [write_png(tmp_path / f"{name}.png", small()) for name in "ab"]
    module = importlib.import_module("anchorsr.jobs")
    real = module.read_picture

    def read(path: Path) -> object:
        if path.name == "a.png":
            raise MemoryError
        return real(path)

    monkeypatch.setattr(module, "read_picture", read)
    first, second = upscale_files(plan(sources, None, factor=3), upscaler)
    assert "a.png is too large for this machine's memory" in str(first.error)
    assert second == Done(second.job)


def test_an_interrupt_leaves_whole_files_only(tmp_path: Path, upscaler: Upscaler) -> None:
    for name in ("a.png", "b.png", "c.png"):
        write_png(tmp_path / "in" / name, small())
    calls: Iterator[int] = iter(range(9))

    def interrupted(rgb: np.ndarray) -> np.ndarray:
        if next(calls) == 1:
            raise KeyboardInterrupt
        return upscaler(rgb)

    interrupted.factor = 3  # type: ignore[attr-defined]
    jobs = plan([tmp_path / "in"], tmp_path / "out", factor=3)
    with pytest.raises(KeyboardInterrupt):
        list(upscale_files(jobs, interrupted))  # type: ignore[arg-type]
    assert sorted(tree(tmp_path / "out")) == ["a.png"]
