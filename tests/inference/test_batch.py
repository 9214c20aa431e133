"""Which files become which, and that a folder is completed whatever happens meanwhile."""

from __future__ import annotations

import importlib
import os
import time
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from anchorsr.errors import DataError, ImageError, OutputError
from anchorsr.images.io import RasterImage, read_image
from anchorsr.inference import pipeline
from anchorsr.inference.automatic import Selection
from anchorsr.inference.batch import Job, plan_jobs
from anchorsr.inference.image_upscaler import ImageUpscaler
from anchorsr.inference.pipeline import FileOptions, JobResult, preview, upscale_files
from anchorsr.inference.sizes import TargetSize
from anchorsr.utils.locks import FileLocks
from helpers.graphs import image


@pytest.fixture(scope="module")
def upscaler() -> ImageUpscaler:
    return ImageUpscaler(threads=1)


def write_png(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def small(seed: int = 0, height: int = 6, width: int = 5, channels: int = 3) -> np.ndarray:
    return image(seed, height, width, channels)[0]


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder, including hidden files: bytes of files, None for folders."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


# Plans


def test_without_an_output_the_result_is_beside_the_original() -> None:
    sources = [Path("a/photo.JPG"), Path("b.c/my.photo.webp"), Path("x.bmp"), Path("noname")]
    assert [str(job.target) for job in plan_jobs(sources, None, label="x3")] == [
        "a/photo_x3.JPG",
        "b.c/my.photo_x3.webp",
        "x_x3.bmp",
        "noname_x3.png",
    ]


def test_an_output_file_is_taken_as_it_is(tmp_path: Path) -> None:
    source = write_png(tmp_path / "a.png", small())
    target = tmp_path / "other.WEBP"
    assert plan_jobs([source], target, label="x3") == [Job(source, target)]


def test_a_folder_is_mirrored_without_what_is_hidden_or_no_image(tmp_path: Path) -> None:
    for name in ("b.png", "A.PNG", "a.png", ".hidden.png", "deep/d.er/c.png", ".git/d.png"):
        write_png(tmp_path / "in" / name, small())
    (tmp_path / "in" / "notes.txt").write_text("words")
    (tmp_path / "in" / "folder.png").mkdir()
    jobs = plan_jobs([tmp_path / "in"], tmp_path / "out", label="x3")
    assert places(jobs, tmp_path) == [
        ("in/A.PNG", "out/A.PNG"),
        ("in/a.png", "out/a.png"),
        ("in/b.png", "out/b.png"),
        ("in/deep/d.er/c.png", "out/deep/d.er/c.png"),
    ]


def places(jobs: list[Job], folder: Path) -> list[tuple[str, str]]:
    return [
        (job.source.relative_to(folder).as_posix(), job.target.relative_to(folder).as_posix())
        for job in jobs
    ]


def test_several_folders_keep_their_names(tmp_path: Path) -> None:
    for name in ("x/a.png", "y/a.png", "y/z/a.png"):
        write_png(tmp_path / name, small())
    jobs = plan_jobs([tmp_path / "x", tmp_path / "y"], tmp_path / "out", label="x3")
    assert [target for _, target in places(jobs, tmp_path)] == [
        "out/x/a.png",
        "out/y/a.png",
        "out/y/z/a.png",
    ]


def test_without_an_output_the_results_are_beside_the_originals_at_any_depth(
    tmp_path: Path,
) -> None:
    for name in ("a.png", "deep/b.jpg"):
        write_png(tmp_path / name, small())
    jobs = plan_jobs([tmp_path], None, label="x2.5", suffix=".webp")
    assert places(jobs, tmp_path) == [
        ("a.png", "a_x2.5.webp"),
        ("deep/b.jpg", "deep/b_x2.5.webp"),
    ]


def test_the_output_folder_inside_the_input_is_not_looked_into(tmp_path: Path) -> None:
    for name in ("a.png", "large/a.png", "deep/large/b.png"):
        write_png(tmp_path / name, small())
    for output in (tmp_path / "large", tmp_path / "deep" / ".." / "large"):
        jobs = plan_jobs([tmp_path], output, label="x3")
        assert [job.source.name for job in jobs] == ["a.png", "b.png"]


def test_links_to_folders_are_followed_and_no_folder_is_taken_twice(tmp_path: Path) -> None:
    write_png(tmp_path / "in" / "real" / "a.png", small())
    write_png(tmp_path / "elsewhere" / "b.png", small())
    (tmp_path / "in" / "again").symlink_to(tmp_path / "in" / "real")
    (tmp_path / "in" / "other").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "real" / "loop").symlink_to(tmp_path / "in")
    jobs = plan_jobs([tmp_path / "in"], tmp_path / "out", label="x3")
    assert [target for _, target in places(jobs, tmp_path)] == ["out/other/b.png", "out/real/a.png"]


def test_a_link_to_itself_is_a_bad_file_among_good_ones(
    tmp_path: Path, upscaler: ImageUpscaler
) -> None:
    write_png(tmp_path / "in" / "a.png", small())
    (tmp_path / "in" / "b.png").symlink_to("b.png")
    first, second = upscale_files(
        plan_jobs([tmp_path / "in"], tmp_path / "o", label="x3"), upscaler
    )
    assert first.error is None
    assert "b.png cannot be read" in str(second.error)


def test_a_folder_that_cannot_be_listed_is_a_problem_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, upscaler: ImageUpscaler
) -> None:
    for name in ("a.png", "locked/b.png"):
        write_png(tmp_path / name, small())
    real = os.scandir

    def scandir(path: Path) -> object:
        if path.name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    jobs = plan_jobs([tmp_path], tmp_path / "out", label="x3")
    first, second = upscale_files(jobs, upscaler)
    assert (first.job.source.name, first.error) == ("a.png", None)
    assert "locked cannot be listed: Permission denied" in str(second.error)


def test_two_images_of_a_folder_with_one_result_are_the_problem_of_the_second(
    tmp_path: Path, upscaler: ImageUpscaler
) -> None:
    for name in ("a.jpg", "a.png", "b.png"):
        write_png(tmp_path / "in" / name, small())
    jobs = plan_jobs([tmp_path / "in"], tmp_path / "out", label="x3", suffix=".webp")
    problems = [done.error for done in upscale_files(jobs, upscaler)]
    assert [problem is None for problem in problems] == [True, False, True]
    assert "a.png: two images would become" in str(problems[1])


def test_a_suffix_that_the_output_file_says_already_is_refused(tmp_path: Path) -> None:
    source = write_png(tmp_path / "a.png", small())
    with pytest.raises(OutputError, match="names a format already"):
        plan_jobs([source], tmp_path / "b.png", label="x3", suffix=".jpg")


def test_files_and_folders_can_be_mixed(tmp_path: Path) -> None:
    first = write_png(tmp_path / "in" / "a.png", small())
    second = write_png(tmp_path / "b.png", small())
    jobs = plan_jobs([second, tmp_path / "in"], tmp_path / "out", label="x3")
    assert [job.source for job in jobs] == [second, first]


@pytest.mark.parametrize("name", ["out", "out.d/deeper", "deep/deeper/out"])
def test_a_planned_folder_is_made_when_there_is_something_to_put_in(
    tmp_path: Path, upscaler: ImageUpscaler, name: str
) -> None:
    sources = [write_png(tmp_path / name, small()) for name in ("a.png", "b.png")]
    jobs = plan_jobs(sources, tmp_path / name, label="x3")
    assert sorted(tree(tmp_path)) == ["a.png", "b.png"]
    assert all(done.error is None for done in upscale_files(jobs, upscaler))
    assert sorted(path.name for path in (tmp_path / name).iterdir()) == ["a.png", "b.png"]


def test_a_folder_in_which_nothing_would_be_is_not_made(
    tmp_path: Path, upscaler: ImageUpscaler
) -> None:
    jobs = plan_jobs([tmp_path / "missing.png"], tmp_path / "out", label="x3")
    assert [type(done.error) for done in upscale_files(jobs, upscaler)] == [ImageError]
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
            plan_jobs(inputs, output, label="x3", overwrite=overwrite)
    assert tree(tmp_path) == before


def test_a_result_that_would_replace_another_input_is_refused(tmp_path: Path) -> None:
    both = [write_png(tmp_path / name, small()) for name in ("a.png", "out/a.jpg")]
    with pytest.raises(OutputError, match=r"a\.jpg is an input"):
        plan_jobs(both, tmp_path / "out", label="x3", suffix=".jpg", overwrite=True)


def test_named_results_of_an_earlier_run_are_left_out_as_in_folders(tmp_path: Path) -> None:
    named = [write_png(tmp_path / name, small()) for name in ("a.png", "a_x3.png", "b_x3.png")]
    jobs = plan_jobs(named, None, label="x3")
    assert [bool(job.left_out) for job in jobs] == [False, True, False]
    elsewhere = plan_jobs(named, tmp_path / "out", label="x3")
    assert not any(job.left_out for job in elsewhere)


def test_results_of_an_earlier_run_in_a_folder_are_not_upscaled_again(tmp_path: Path) -> None:
    made = ["a_x3.png", "a_x2.5.jpg", "a_3840x2160.png", "a_w1920.png", "a_h9.png", "a_x3_x2.png"]
    others = ["b_x3.png", "a_xmas.png", "a_w.png"]  # the first has no image it could be from
    for name in ["a.png", *made, *others]:
        write_png(tmp_path / "deep" / name, small())
    for label in ("x3", "w7"):
        jobs = plan_jobs([tmp_path], None, label=label, overwrite=True)
        assert len(jobs) == 10
        left = [job.source.name for job in jobs if not job.left_out]
        assert left == sorted(["a.png", *others])
        assert [job for job in jobs if job.left_out and job.target != job.source] == []
    assert len(plan_jobs([tmp_path], tmp_path / "out", label="x3")) == 10


@pytest.mark.skipif(os.name == "nt", reason="no such names")
def test_a_name_of_two_lines_has_a_result_of_an_earlier_run_too(tmp_path: Path) -> None:
    for name in ("two\nlines.png", "two\nlines_x3.png"):
        write_png(tmp_path / name, small())
    one, other = plan_jobs([tmp_path], None, label="x3")
    assert (one.left_out, one.target) == ("", other.source)
    assert other.left_out


@pytest.mark.parametrize("overwrite", [False, True])
def test_two_images_with_one_result_are_refused(tmp_path: Path, overwrite: bool) -> None:
    sources = [write_png(tmp_path / folder / "a.png", small()) for folder in "xy"]
    with pytest.raises(OutputError, match="two images would become"):
        plan_jobs(sources, tmp_path / "out", label="x3", overwrite=overwrite)
    with pytest.raises(OutputError, match="two images would become"):
        plan_jobs([sources[0], sources[0]], None, label="x3", overwrite=overwrite)


def test_names_that_differ_in_case_are_two_where_files_are(tmp_path: Path) -> None:
    write_png(tmp_path / "in" / "a.png", small())
    write_png(tmp_path / "in" / "A.png", small())
    here = len(list((tmp_path / "in").iterdir()))
    assert len(plan_jobs([tmp_path / "in"], tmp_path / "out", label="x3")) == here


def test_an_existing_file_is_replaced_only_when_asked(tmp_path: Path) -> None:
    source = write_png(tmp_path / "a.png", small())
    target = write_png(tmp_path / "a_x3.png", small(1))
    with pytest.raises(OutputError, match="exists already"):
        plan_jobs([source], None, label="x3")
    assert plan_jobs([source], None, label="x3", overwrite=True) == [Job(source, target)]


def test_a_dangling_link_is_an_existing_file(tmp_path: Path) -> None:
    source = write_png(tmp_path / "a.png", small())
    (tmp_path / "b.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(OutputError, match="exists already"):
        plan_jobs([source], tmp_path / "b.png", label="x3")


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("missing/b.png", "not an existing folder"),
        ("b.pcx", "no suffix that can be written"),
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
        plan_jobs([source], tmp_path / output, label="x3")
    assert tree(tmp_path) == before


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write all")
def test_a_folder_without_permission_is_refused_before_any_work(tmp_path: Path) -> None:
    source = write_png(tmp_path / "a.png", small())
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    with pytest.raises(OutputError, match="is not writable"):
        plan_jobs([source], locked / "out", label="x3")


def test_nothing_to_do_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="nothing to do"):
        plan_jobs([], None, label="x3")
    with pytest.raises(DataError, match="holds no image"):
        plan_jobs([tmp_path], None, label="x3")


# Files


def test_a_bad_file_does_not_keep_the_others_from_being_done(
    tmp_path: Path, upscaler: ImageUpscaler
) -> None:
    for name in ("a.png", "c.png"):
        write_png(tmp_path / "in" / name, small())
    (tmp_path / "in" / "b.png").write_text("words")
    (tmp_path / "in" / "d.png").write_bytes(b"")
    done = list(upscale_files(plan_jobs([tmp_path / "in"], tmp_path / "out", label="x3"), upscaler))
    errors = {d.job.source.name: type(d.error) for d in done if d.error is not None}
    assert errors == {"b.png": ImageError, "d.png": ImageError}
    assert sorted(tree(tmp_path / "out")) == ["a.png", "c.png"]
    expected = upscaler(RasterImage(small())).rgb
    np.testing.assert_array_equal(read_image(tmp_path / "out" / "a.png").rgb, expected)


def test_an_existing_result_of_several_is_skipped_and_counts_as_done(
    tmp_path: Path, upscaler: ImageUpscaler
) -> None:
    for name in ("a.png", "b.png"):
        write_png(tmp_path / "in" / name, small())
    old = write_png(tmp_path / "out" / "b.png", small(1))
    before = old.read_bytes()
    inputs = [tmp_path / "in"]
    done = list(upscale_files(plan_jobs(inputs, tmp_path / "out", label="x3"), upscaler))
    assert [(d.error, d.skipped) for d in done] == [(None, ""), (None, "already exists")]
    assert old.read_bytes() == before
    os.utime(old, (1, 1))
    *_, last = upscale_files(plan_jobs(inputs, tmp_path / "out", label="x3"), upscaler)
    assert last.skipped == "already exists, older than the original"

    jobs = plan_jobs(inputs, tmp_path / "out", label="x3", overwrite=True)
    assert not any(
        d.skipped or d.error for d in upscale_files(jobs, upscaler, FileOptions(overwrite=True))
    )
    assert old.read_bytes() != before


def test_a_folder_in_the_place_of_a_result_is_an_error(
    tmp_path: Path, upscaler: ImageUpscaler
) -> None:
    write_png(tmp_path / "in" / "a.png", small())
    (tmp_path / "out" / "a.png").mkdir(parents=True)
    (done,) = upscale_files(plan_jobs([tmp_path / "in"], tmp_path / "out", label="x3"), upscaler)
    assert "is a folder" in str(done.error)


def test_sizes_are_told_and_a_preview_tells_the_same(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "in").mkdir()
    Image.fromarray(small()).save(tmp_path / "in" / "turned.jpg", exif=exif)
    write_png(tmp_path / "in" / "b.png", small())
    (tmp_path / "in" / "bad.png").write_text("words")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "b.png").write_text("there")
    upscaler = ImageUpscaler(target=TargetSize(width=9), threads=1)
    jobs = plan_jobs([tmp_path / "in"], tmp_path / "out", label=upscaler.label)
    before = tree(tmp_path)
    expected = list(preview(jobs, upscaler))
    assert tree(tmp_path) == before
    done = list(upscale_files(jobs, upscaler))
    assert (done[2].size, done[2].target_size) == ((5, 6), (8, 9))
    for one, other in zip(expected, done, strict=True):
        assert (one.size, one.target_size, one.skipped) == (
            other.size,
            other.target_size,
            other.skipped,
        )
        assert (one.error is None) == (other.error is None)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", ".avif"])
def test_a_preview_turns_an_image_as_it_will_be_turned(
    tmp_path: Path, suffix: str, upscaler: ImageUpscaler
) -> None:
    (tmp_path / "in").mkdir()
    for orientation in (1, 3, 6, 8):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(small()).save(tmp_path / "in" / f"{orientation}{suffix}", exif=exif)
    said_elsewhere = b"<x:xmpmeta xmlns:x='adobe:ns:meta/' tiff:Orientation='6'></x:xmpmeta>"
    if suffix not in (".tif", ".avif"):
        source = tmp_path / "in" / f"xmp{suffix}"
        Image.fromarray(small()).save(source, xmp=said_elsewhere)
    jobs = plan_jobs([tmp_path / "in"], tmp_path / "out", label="x3")
    expected = list(preview(jobs, upscaler))
    for one, other in zip(expected, upscale_files(jobs, upscaler), strict=True):
        assert (one.size, one.target_size) == (other.size, other.target_size)
        assert other.error is None
        assert read_image(other.job.target).size == one.target_size


@pytest.mark.slow
def test_a_preview_refuses_what_the_headers_tell(tmp_path: Path, upscaler: ImageUpscaler) -> None:
    frames = [Image.fromarray(small(seed)) for seed in range(2)]
    frames[0].save(tmp_path / "moves.gif", save_all=True, append_images=frames[1:])
    Image.new("1", (50_000, 5_001)).save(tmp_path / "huge.png")
    moves = plan_jobs([tmp_path / "moves.gif"], tmp_path / "still.jpg", label="x3")
    huge = plan_jobs([tmp_path / "huge.png"], None, label="x3")
    for jobs, words in ((moves, "would be an animation"), (huge, "more than the limit of 2500")):
        for results in (preview(jobs, upscaler), upscale_files(jobs, upscaler)):
            (done,) = results
            assert words in str(done.error)


def test_too_many_pixels_are_a_problem_of_the_file(tmp_path: Path) -> None:
    source = write_png(tmp_path / "a.png", small())
    upscaler = ImageUpscaler(target=TargetSize(scale=1e7), threads=1)
    jobs = plan_jobs([source], None, label=upscaler.label)
    for results in (preview(jobs, upscaler), upscale_files(jobs, upscaler)):
        (done,) = results
        assert "a.png: 50000000 x 60000000 pixels" in str(done.error)
    (wide,) = upscale_files(
        plan_jobs([source], tmp_path / "a.webp", label=""),
        ImageUpscaler(target=TargetSize(width=20_000, height=9, stretch=True), threads=1),
    )
    assert "16383 a side that WEBP can hold" in str(wide.error)


# Several processes, and interrupts


def test_a_file_that_appears_meanwhile_is_not_replaced(
    tmp_path: Path, upscaler: ImageUpscaler
) -> None:
    source = write_png(tmp_path / "a.png", small())
    jobs = plan_jobs([source], None, label="x3")
    taken = write_png(tmp_path / "a_x3.png", small(1))
    before = taken.read_bytes()
    (done,) = upscale_files(jobs, upscaler)
    assert (done.error, done.skipped) == (None, "already exists")
    assert taken.read_bytes() == before


def test_a_file_that_appears_at_the_last_moment_counts_as_done(
    tmp_path: Path, upscaler: ImageUpscaler, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = write_png(tmp_path / "a.png", small()), tmp_path / "a_x3.png"
    real = pipeline.write_file

    def write(path: Path, *arguments: Any, **options: Any) -> None:
        path.write_text("faster")
        real(path, *arguments, **options)

    monkeypatch.setattr(pipeline, "write_file", write)
    (done,) = upscale_files([Job(source, target)], upscaler)
    assert (done.error, done.skipped) == (None, "already exists")
    assert target.read_text() == "faster"


@pytest.mark.slow
def test_two_runs_share_the_work_and_do_nothing_twice(
    tmp_path: Path, upscaler: ImageUpscaler, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("fcntl")
    for number in range(12):
        write_png(tmp_path / "in" / f"{number:02}.png", small(number))
    written = []
    real = pipeline.write_file

    def write(path: Path, *arguments: Any, **options: Any) -> None:
        time.sleep(0.01)
        real(path, *arguments, **options)
        written.append(path.name)

    monkeypatch.setattr(pipeline, "write_file", write)

    def run(overwrite: bool) -> list[JobResult]:
        jobs = plan_jobs([tmp_path / "in"], tmp_path / "out", label="x3", overwrite=overwrite)
        return list(upscale_files(jobs, upscaler, FileOptions(overwrite=overwrite)))

    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(run, [False, False]))
    assert not any(done.error for done in both[0] + both[1])
    assert all("" in (a.skipped, b.skipped) for a, b in zip(*both, strict=True))
    assert sorted(written) == [f"{number:02}.png" for number in range(12)]
    assert sorted(tree(tmp_path / "out")) == sorted(written)  # no lock file is left
    for number in range(12):
        result = read_image(tmp_path / "out" / f"{number:02}.png")
        np.testing.assert_array_equal(result.rgb, upscaler(RasterImage(small(number))).rgb)
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(run, [True, True]))
    assert not any(done.error for done in both[0] + both[1])
    assert sorted(tree(tmp_path / "out")) == sorted(set(written))


def test_what_another_process_has_locked_is_left_to_it(
    tmp_path: Path, upscaler: ImageUpscaler
) -> None:
    pytest.importorskip("fcntl")
    for name in ("a.png", "b.png"):
        write_png(tmp_path / "in" / name, small())
    (tmp_path / "out").mkdir()
    jobs = plan_jobs([tmp_path / "in"], tmp_path / "out", label="x3")
    with FileLocks() as other:
        assert other.acquire(jobs[0].target)
        first, second = upscale_files(jobs, upscaler)
        assert (first.skipped, second.skipped) == ("being written by another process", "")
        assert not jobs[0].target.exists()
    first, second = upscale_files(jobs, upscaler)
    assert (first.skipped, second.skipped) == ("", "already exists")
    assert sorted(tree(tmp_path / "out")) == ["a.png", "b.png"]


def test_a_lock_that_a_killed_process_left_is_taken_over(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    target = tmp_path / "a.png"
    with FileLocks() as dead:
        assert dead.acquire(target)
        (left,) = tmp_path.iterdir()
        dead.release(target)
    left.write_bytes(b"")
    with FileLocks() as locks:
        assert locks.acquire(target)
    assert list(tmp_path.iterdir()) == []


def test_a_lock_whose_file_its_holder_just_removed_is_taken_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The holder ends between our opening and our locking of the file."""
    fcntl = pytest.importorskip("fcntl")
    target = tmp_path / "a.png"
    real, removed = fcntl.flock, []

    def flock(descriptor: int, operation: int) -> None:
        if not removed:
            (path,) = tmp_path.iterdir()
            path.unlink()
            removed.append(path)
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with FileLocks() as locks:
        assert locks.acquire(target)
        assert list(tmp_path.iterdir()) == removed  # there again, and locked: see the next line
        assert not FileLocks().acquire(target)


def test_without_flock_every_lock_is_granted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module("anchorsr.utils.locks")
    monkeypatch.setattr(module, "fcntl", None)
    with FileLocks() as one, FileLocks() as other:
        assert one.acquire(tmp_path / "a.png")
        assert other.acquire(tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


def test_an_image_too_large_for_the_memory_is_reported_and_the_others_are_done(
    tmp_path: Path, upscaler: ImageUpscaler, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = [write_png(tmp_path / f"{name}.png", small()) for name in "abcd"]
    refused = {"read_file": "a.png", "write_file": "c_x3.png"}

    def refuse(name: str) -> None:
        real = getattr(pipeline, name)

        def maybe(path: Path, *arguments: Any, **options: Any) -> Any:
            if path.name == refused[name]:
                raise MemoryError
            return real(path, *arguments, **options)

        monkeypatch.setattr(pipeline, name, maybe)

    for name in refused:
        refuse(name)
    done = list(upscale_files(plan_jobs(sources, None, label="x3"), upscaler))
    errors = {d.job.source.name: str(d.error) for d in done if d.error is not None}
    assert list(errors) == ["a.png", "c.png"]
    assert all("is too large for this machine's memory" in error for error in errors.values())
    assert {"b_x3.png", "d_x3.png"} <= set(tree(tmp_path))


def test_results_come_in_the_order_of_the_jobs(
    tmp_path: Path, upscaler: ImageUpscaler, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(8):
        write_png(tmp_path / "in" / f"{number}.png", small(number))
    real = pipeline.write_file

    def write(path: Path, *arguments: Any, **options: Any) -> None:
        time.sleep(0.02 if path.name in ("0.png", "3.png") else 0)
        real(path, *arguments, **options)

    monkeypatch.setattr(pipeline, "write_file", write)
    jobs = plan_jobs([tmp_path / "in"], tmp_path / "out", label="x3")
    assert [done.job for done in upscale_files(jobs, upscaler)] == jobs


def test_reading_and_writing_go_on_while_the_network_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here the network waits until the next image is read and the last one written."""
    sources = [write_png(tmp_path / f"{name}.png", small()) for name in "abc"]
    read, written = set(), set()
    real_read, real_write = pipeline.read_file, pipeline.write_file

    def reading(path: Path, **options: Any) -> RasterImage:
        image = real_read(path, **options)
        read.add(path.stem)
        return image

    def writing(path: Path, *arguments: Any, **options: Any) -> None:
        real_write(path, *arguments, **options)
        written.add(path.stem)

    class Waiting(ImageUpscaler):
        calls = 0

        def run_passes(
            self, image: RasterImage, factors: Sequence[int], selection: Selection
        ) -> RasterImage:
            before, after = [(set(), "b"), ({"a_x3"}, "c"), ({"b_x3"}, "c")][self.calls]
            self.calls += 1
            deadline = time.monotonic() + 20
            while not (before <= written and after in read):
                assert time.monotonic() < deadline
                time.sleep(0.001)
            return image

    monkeypatch.setattr(pipeline, "read_file", reading)
    monkeypatch.setattr(pipeline, "write_file", writing)
    done = list(upscale_files(plan_jobs(sources, None, label="x3"), Waiting(threads=1)))
    assert [d.error for d in done] == [None] * 3


def test_what_is_in_memory_is_bounded(
    tmp_path: Path, upscaler: ImageUpscaler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With large images and a slow disk, one waits to be written, and two are read ahead."""
    for number in range(8):
        write_png(tmp_path / "in" / f"{number}.png", small(number))
    monkeypatch.setattr(pipeline, "_PIXELS_BEHIND", 100)
    alive, seen = weakref.WeakSet[RasterImage](), []
    real_read, real_write = pipeline.read_file, pipeline.write_file

    def reading(path: Path, **options: Any) -> RasterImage:
        image = real_read(path, **options)
        alive.add(image)
        return image

    class Counting(ImageUpscaler):
        def run_passes(
            self, image: RasterImage, factors: Sequence[int], selection: Selection
        ) -> RasterImage:
            larger = super().run_passes(image, factors, selection)
            alive.add(larger)
            seen.append(len(alive))
            return larger

    def writing(path: Path, *arguments: Any, **options: Any) -> None:
        time.sleep(0.02)
        real_write(path, *arguments, **options)

    monkeypatch.setattr(pipeline, "read_file", reading)
    monkeypatch.setattr(pipeline, "write_file", writing)
    jobs = plan_jobs([tmp_path / "in"], tmp_path / "out", label="x3")
    assert all(done.error is None for done in upscale_files(jobs, Counting(threads=1)))
    assert max(seen) <= 6  # two read ahead, one in and one out of the network, two being written


def test_an_interrupt_leaves_whole_files_only_and_reports_what_is_written(
    tmp_path: Path,
) -> None:
    for name in ("a.png", "b.png", "c.png"):
        write_png(tmp_path / "in" / name, small())

    class Interrupted(ImageUpscaler):
        calls: Iterator[int] = iter(range(9))

        def run_passes(
            self, image: RasterImage, factors: Sequence[int], selection: Selection
        ) -> RasterImage:
            if next(self.calls) == 1:
                raise KeyboardInterrupt
            return super().run_passes(image, factors, selection)

    jobs = plan_jobs([tmp_path / "in"], tmp_path / "out", label="x3")
    done = []
    with pytest.raises(KeyboardInterrupt):
        for each in upscale_files(jobs, Interrupted(threads=1)):
            done.append(each.job.target.name)
    assert done == ["a.png"]
    assert sorted(tree(tmp_path / "out")) == ["a.png"]


def test_an_interrupt_while_the_threads_end_is_raised_once_they_have(
    tmp_path: Path, upscaler: ImageUpscaler, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_png(tmp_path / "in" / "a.png", small())
    shutdowns = []

    class Pressed(ThreadPoolExecutor):
        def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
            shutdowns.append(self)
            if len(shutdowns) == 1:
                raise KeyboardInterrupt
            super().shutdown(wait, cancel_futures=cancel_futures)

    monkeypatch.setattr(pipeline, "ThreadPoolExecutor", Pressed)
    jobs = plan_jobs([tmp_path / "in"], tmp_path / "out", label="x3")
    done = []
    with pytest.raises(KeyboardInterrupt):
        for each in upscale_files(jobs, upscaler):
            done.append(each.error)
    assert done == [None]
    assert len(shutdowns) == 3  # one of both threads' pools once more


def test_who_stops_listening_stops_the_work(tmp_path: Path, upscaler: ImageUpscaler) -> None:
    for number in range(50):
        write_png(tmp_path / "in" / f"{number:02}.png", small())
    results = upscale_files(plan_jobs([tmp_path / "in"], tmp_path / "out", label="x3"), upscaler)
    next(results)
    results.close()  # type: ignore[attr-defined]
    names = sorted(tree(tmp_path / "out"))
    assert 1 <= len(names) < 50
    assert all(name.endswith(".png") and not name.startswith(".") for name in names)
