"""Every image is in exactly one shard, whoever asks and wherever the folder lies."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from anchorsr.errors import DataError
from anchorsr.inference.batch import Job, plan_jobs
from anchorsr.inference.shards import Shard, parse_shard, shard_jobs
from helpers.command_line import Result, run_app
from helpers.images import encoded, noise


def folder_of_images(folder: Path, count: int) -> Path:
    data = encoded(Image.fromarray(noise(4, 5)), "PNG")
    for number in range(count):
        path = folder / f"{number % 3}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def names(folder: Path, shard: Shard) -> set[str]:
    jobs = shard_jobs(plan_jobs([folder], folder / "out", label="x3"), [folder], shard)
    return {job.source.relative_to(folder).as_posix() for job in jobs}


@given(st.text(max_size=40), st.integers(1, 200))
def test_a_name_is_in_exactly_one_shard(name: str, count: int) -> None:
    name = name.replace("\0", "").encode("utf-8", "replace").decode()
    assert sum(Shard(number, count).holds(name) for number in range(1, count + 1)) == 1


def test_shards_are_about_equally_large() -> None:
    counts = [sum(Shard(k, 10).holds(f"a/{n}.jpg") for n in range(5000)) for k in range(1, 11)]
    assert sum(counts) == 5000
    assert all(400 < count < 600 for count in counts)


def test_the_hash_is_the_same_everywhere_and_for_ever() -> None:
    """A cluster whose machines have other versions must agree; so the hash is pinned."""
    assert [Shard(k, 4).holds("holiday/1.jpg") for k in (1, 2, 3, 4)].index(True) == 0


def test_a_folder_is_divided_alike_wherever_it_lies(tmp_path: Path) -> None:
    here = folder_of_images(tmp_path / "here", 30)
    there = Path(shutil.copytree(here, tmp_path / "mnt" / "there"))
    parts = [names(here, Shard(k, 3)) for k in (1, 2, 3)]
    assert parts == [names(there, Shard(k, 3)) for k in (1, 2, 3)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 30
    (here / "new.png").write_bytes((here / "0" / "0.png").read_bytes())
    assert all(part <= names(here, Shard(k, 3)) for k, part in enumerate(parts, 1))


def test_named_images_are_divided_by_the_path_that_names_them() -> None:
    jobs = [Job(Path(f"a/{n}.png"), Path(f"b/{n}.png")) for n in range(20)]
    inputs = [job.source for job in jobs]
    parts = [shard_jobs(jobs, inputs, Shard(k, 2)) for k in (1, 2)]
    assert all(parts)
    assert sorted(map(str, parts[0] + parts[1])) == sorted(map(str, jobs))


def test_a_folder_that_cannot_be_listed_fails_in_every_shard(tmp_path: Path) -> None:
    job = Job(tmp_path, tmp_path, DataError("cannot be listed"))
    assert all(shard_jobs([job], [tmp_path], Shard(k, 9)) == [job] for k in range(1, 10))


OTHER = ["0/3", "4/3", "3", "1/0", "a/b", "-1/3", "1/3/5", "", " 1/3", "¹/3"]


@pytest.mark.parametrize("text", OTHER)
def test_other_text_is_no_shard(text: str) -> None:
    assert parse_shard(text) is None


def test_the_shards_of_a_command_make_all_images_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder_of_images(tmp_path / "in", 7)

    def upscale(target: str, *words: str) -> Result:
        return run_app(
            capsys, "upscale", tmp_path / "in", "-o", tmp_path / target, "--threads", 1, *words
        )

    made: list[str] = []
    for k in (1, 2, 3):
        result = upscale("out", "--shard", f"{k}/3", "--model", "fast")
        lines = result.out.splitlines()
        assert result.code == 0
        assert f"note: shard {k}/3 has {len(lines)} of 7 images" in result.err
        assert "skipped" not in result.err
        made += lines
    assert upscale("whole", "--model", "fast").code == 0
    assert len(made) == len(set(made)) == 7
    for path in (tmp_path / "whole").rglob("*.png"):
        same = tmp_path / "out" / path.relative_to(tmp_path / "whole")
        assert same.read_bytes() == path.read_bytes()


def test_a_shard_without_images_is_no_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder_of_images(tmp_path / "in", 1)
    codes = []
    for k in (1, 2):
        words = ["upscale", tmp_path / "in", "-o", tmp_path / "out", "--shard", f"{k}/2"]
        codes.append(run_app(capsys, *words, "--dry-run"))
    assert [result.code for result in codes] == [0, 0]
    assert sorted(result.out.count("->") for result in codes) == [0, 1]


@pytest.mark.parametrize("text", ["0/3", "4/3", "three"])
def test_a_wrong_shard_is_one_line(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    result = run_app(capsys, "upscale", "holiday/", "--shard", text)
    assert result.code == 2
    assert result.err.startswith("error: --shard is K/N with K from 1 to N, such as 3/100, not ")
    assert result.err.count("\n") == 1


def test_a_pipe_has_no_shards(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(Image.fromarray(noise(4, 5)), "PNG"))
    result = run_app(capsys, "upscale", tmp_path / "a.png", "-o", "-", "--shard", "1/2")
    assert result.code == 2
    assert "--shard divides files" in result.err
