"""What is to be done, what is left out, and what results are called. Needs no Ray."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from anchorsr.cluster.addresses import Address, check_name, parse_address
from anchorsr.cluster.manifest import Ended, check_settings, nothing_ended
from anchorsr.cluster.names import NameSet, digests, repeated
from anchorsr.cluster.plan import Found, Sieve, chunks, list_tasks, twice_named
from anchorsr.cluster.rows import Task
from anchorsr.cluster.settings import Settings
from anchorsr.errors import DataError, OutputError
from anchorsr.inference.sizes import TargetSize


def settings(source: object, target: object = "/out", **options: object) -> Settings:
    return Settings(parse_address(str(source)), parse_address(str(target)), **options)


def listed(tmp_path: Path, *lines: str, **options: object) -> list[Task]:
    path = tmp_path / "list.txt"
    path.write_text("\n".join(lines))
    return list(list_tasks(settings(path, **options), Found()))


# Addresses


def test_addresses_are_paths_or_those_of_stores(tmp_path: Path) -> None:
    assert parse_address("a/b", base="/x") == Address("", "/x/a/b")
    assert parse_address("file:///x/y") == Address("", "/x/y")
    assert str(parse_address("S3://bucket/a b/")) == "s3://bucket/a b"
    assert parse_address("gcs://b") == Address("gs", "b")
    with_options = parse_address("s3://b/k?endpoint_override=localhost:9000&scheme=http")
    assert with_options.options == (("endpoint_override", "localhost:9000"), ("scheme", "http"))
    assert str(with_options) == "s3://b/k"
    assert str(with_options.below("x/y.png")) == "s3://b/k/x/y.png"
    assert with_options.below("x/y.png").name_in(with_options) == "x/y.png"
    assert parse_address("s3://b/kk").name_in(with_options) is None


def test_a_question_mark_in_a_list_is_a_letter() -> None:
    assert parse_address("s3://b/what?.png", options=False).path == "b/what?.png"


@pytest.mark.parametrize("text", ["s3://key:secret@bucket/x", "", "  ", "s3:///x", "a\0b"])
def test_other_texts_are_refused_without_secrets(text: str) -> None:
    with pytest.raises(DataError) as caught:
        parse_address(text)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/x", "a//b", "", ".", "a/./b", "a\0"])
def test_a_name_does_not_lead_out_of_the_target(name: str) -> None:
    assert check_name(name)
    assert check_name("a/..b/c.png") is None


# Sources


def test_a_folder_keeps_its_names(tmp_path: Path) -> None:
    for name in ("1.jpg", "a/2.PNG", "a/3.bmp", "a/b.cbz", "a/.hidden.png", "a/notes.txt"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).touch()
    (tmp_path / "in" / "out").mkdir()
    (tmp_path / "in" / "out" / "old.png").touch()
    found = Found()
    one = settings(tmp_path / "in", tmp_path / "in" / "out")
    tasks = {task.target for task in list_tasks(one, found)}
    assert tasks == {"1.jpg", "a/2.PNG", "a/3.bmp", "a/b.cbz"}
    assert found.others == {".txt": 1}
    webp = list_tasks(dataclasses.replace(one, suffix=".webp"), found)
    assert {task.target for task in webp} == {"1.webp", "a/2.webp", "a/3.webp", "a/b.cbz"}


def test_a_list_names_results_by_their_whole_addresses(tmp_path: Path) -> None:
    """So that a list that grows later, or is divided, does not rename what is done."""
    tasks = listed(tmp_path, "s3://photos/2024/1.jpg", "", "  gs://photos/2024/2.jpg ", "x/3.jpg")
    assert [task.target for task in tasks] == ["photos/2024/1.jpg", "photos/2024/2.jpg", "x/3.jpg"]
    assert tasks[2].source == str(tmp_path / "x" / "3.jpg")
    (task,) = listed(tmp_path, "/data/4.jpg", suffix=".png")
    assert task == Task("/data/4.jpg", "data/4.png")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("s3://b/../../etc/x.png", "lead out of the folder"),
        ("../x.png", "lead out of the folder"),
        ("s3://b//x.png", "empty"),
        ("notes.txt", "not that of an image"),
        ("/out/x.png", "is in the target /out"),
        ("s3://u:p@b/x.png", "keys or passwords"),
        ("_manifest/x.png", "where the manifest is"),
    ],
)
def test_a_line_that_cannot_be_done_is_a_task_with_a_problem(
    line: str, words: str, tmp_path: Path
) -> None:
    first, bad, last = listed(tmp_path, "1.png", line, "2.png")
    assert not first.problem
    assert not last.problem
    assert words in bad.problem


def test_sources_of_other_kinds_are_refused(tmp_path: Path) -> None:
    (tmp_path / "photo.png").touch()
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe")
    (tmp_path / "out" / "in").mkdir(parents=True)
    cases = {
        "photo.png": "use anchorsr upscale",
        "list.txt": "no list in UTF-8",
        "out/in": "is in the target",
        "out": "is in the target",
        "missing": "does not exist",
    }
    for name, words in cases.items():
        with pytest.raises(DataError, match=words):
            list(list_tasks(settings(tmp_path / name, tmp_path / "out"), Found()))


def test_names_that_are_not_utf_8_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    (tmp_path / "\udcff.png").touch()
    found = Found()
    assert len(list(list_tasks(settings(tmp_path), found))) == 1
    assert "not UTF-8" in str(found.problems[0])


# What is left out


def test_what_the_manifest_has_is_left_out_and_the_rest_is_not() -> None:
    tasks = [Task(f"/in/{n}.png", f"{n}.png") for n in range(10)]
    ended = Ended(*(NameSet(digests(t.key for t in part)) for part in (tasks[:4], tasks[4:6])))
    for again, kept in ((False, tasks[6:]), (True, tasks[4:])):
        sieve = Sieve(ended, twice_named([]), again=again)
        assert [task for some in chunks(tasks, 3) for task in sieve(some)] == kept
        assert (sieve.made, sieve.failed) == (4, 0 if again else 2)


def test_of_two_images_with_one_name_the_first_is_done_and_the_second_told() -> None:
    tasks = [Task("/in/a.jpg", "a.png"), Task("/in/b.png", "b.png"), Task("/in/a.png", "a.png")]
    parts = [digests(task.target for task in some) for some in chunks(tasks, 2)]
    sieve = Sieve(nothing_ended(), twice_named(parts))
    first, other, second = [task for some in chunks(tasks, 2) for task in sieve(some)]
    assert (first, other) == tuple(tasks[:2])
    assert second.problem == "/in/a.png: /in/a.jpg has the same name in the target"
    made = Ended(NameSet(digests([first.key])), NameSet(digests([second.key])))
    sieve = Sieve(made, twice_named(parts))
    assert [task for some in chunks(tasks, 2) for task in sieve(some)] == [other]


def test_sets_of_names_are_exact() -> None:
    names = [f"photos/{n}.jpg" for n in range(2000)]
    some = NameSet(digests(names[::2]))
    assert some.contains(names).tolist() == [n % 2 == 0 for n in range(2000)]
    assert not NameSet(digests([])).contains(names).any()
    assert len(repeated(digests([*names, *names[:7]]))) == 7
    assert len(NameSet(np.concatenate([digests(names), digests(names)]))) == 2000


# Options


def test_a_target_takes_one_set_of_options() -> None:
    target = parse_address("s3://b/out")
    first = settings("/in", target).of_results()
    other = settings("/in", target, size=TargetSize(scale=2.0), suffix=".webp").of_results()
    check_settings(target, None, other, overwrite=False)
    check_settings(target, first, first, overwrite=False)
    check_settings(target, first, other, overwrite=True)
    with pytest.raises(OutputError, match=r"\(size of the model, format of each image\)"):
        check_settings(target, first, other, overwrite=False)
    with pytest.raises(OutputError, match="again with --force"):
        check_settings(target, {**other, "replacing": True}, other, overwrite=False)


def test_another_model_file_under_the_same_name_is_another_option(tmp_path: Path) -> None:
    path = tmp_path / "own.tflite"
    path.write_bytes(b"one")
    before = settings("/in", model=str(path)).of_results()
    path.write_bytes(b"two")
    assert settings("/in", model=str(path)).of_results() != before
