"""A worker makes what `upscale` makes, and tells what became of each image. Needs no Ray."""

from __future__ import annotations

import errno
import hashlib
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anchorsr.cluster import retries, stores, work
from anchorsr.cluster.addresses import parse_address
from anchorsr.cluster.bulk import Progress
from anchorsr.cluster.retries import TRIES, is_passing, retrying
from anchorsr.cluster.rows import Row, Status, Task
from anchorsr.cluster.settings import Settings
from anchorsr.cluster.work import Worker
from anchorsr.errors import OutputError, StoreError
from anchorsr.inference.batch import plan_jobs
from anchorsr.inference.pipeline import FileOptions, upscale_files
from anchorsr.inference.sizes import TargetSize
from helpers.images import noise


def make(folder: Path) -> dict[str, Path]:
    """Images of several kinds: 16 bits, alpha, an animation, a book, EXIF, and a bad one."""
    folder.mkdir()
    rgb = noise(12, 16)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(rgb).save(folder / "turned.jpg", exif=exif)
    Image.fromarray(noise(9, 7, 4)).save(folder / "clear.png")
    Image.fromarray(noise(8, 8).astype(np.uint16)[..., 0] * 257).save(folder / "deep.png")
    frames = [Image.fromarray(noise(6, 6, seed=seed)) for seed in (1, 2)]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:], duration=70)
    with zipfile.ZipFile(folder / "book.cbz", "w") as book:
        book.write(folder / "clear.png", "1.png")
    (folder / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    return {path.name: path for path in folder.iterdir()}


def run(source: Path, target: Path, names: list[str], **options: object) -> list[Row]:
    settings = Settings(
        parse_address(str(source)), parse_address(str(target)), model="fast", **options
    )
    return list(Worker(settings).run([Task(str(source / name), name) for name in names]))


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{}, {"size": TargetSize(scale=1.5), "files": FileOptions(quality=70)}]
)
def test_results_have_the_bytes_of_upscale(tmp_path: Path, options: dict[str, object]) -> None:
    files = make(tmp_path / "in")
    rows = run(tmp_path / "in", tmp_path / "out", sorted(files), **options)
    settings = Settings(
        parse_address("in"), parse_address("out"), model="fast", **{"threads": 1, **options}
    )
    jobs = plan_jobs([tmp_path / "in"], tmp_path / "ref", label="x")
    list(upscale_files(jobs, settings.upscaler(), settings.files))
    made = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    assert made == {p.name: p.read_bytes() for p in (tmp_path / "ref").iterdir()}
    assert sorted(made) == sorted(set(files) - {"bad.png"})
    for row in rows:
        if row.target == "bad.png":
            assert row.status is Status.FAILED
            assert str(files["bad.png"]) in row.error
            continue
        assert row.status is Status.DONE
        assert row.sha256 == hashlib.sha256(made[row.target]).hexdigest()
        assert row.target_bytes == len(made[row.target])
        assert row.source_bytes == files[row.target].stat().st_size
    by_name = {row.target: row for row in rows}
    assert (by_name["turned.jpg"].width, by_name["turned.jpg"].height) == (12, 16)
    assert by_name["book.cbz"].pages == 1
    assert by_name["clear.png"].model == "fast"


def test_what_is_there_is_not_done_again_but_gets_its_digest(tmp_path: Path) -> None:
    make(tmp_path / "in")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "clear.png").write_bytes(b"mine")
    (row,) = run(tmp_path / "in", tmp_path / "out", ["clear.png"])
    assert (row.status, row.target_bytes) == (Status.PRESENT, 4)
    assert row.sha256 == hashlib.sha256(b"mine").hexdigest()
    (row,) = run(
        tmp_path / "in", tmp_path / "out", ["clear.png"], files=FileOptions(overwrite=True)
    )
    assert row.status is Status.DONE


def test_a_problem_and_a_missing_image_are_rows(tmp_path: Path) -> None:
    make(tmp_path / "in")
    settings = Settings(parse_address(str(tmp_path / "in")), parse_address(str(tmp_path / "out")))
    tasks = [
        Task("/in/a.png", "a.png", "/in/a.png: no"),
        Task(str(tmp_path / "gone.png"), "gone.png"),
        Task(str(tmp_path / "in" / "clear.png"), "clear.png"),
    ]
    refused, missing, done = Worker(settings).run(tasks)
    assert (refused.status, refused.error) == (Status.FAILED, "/in/a.png: no")
    assert missing.status is Status.UNFINISHED  # it may be back the next time
    assert done.status is Status.DONE


def test_a_full_disk_is_no_fault_of_the_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = make(tmp_path / "in")

    def full(*_: object, **__: object) -> None:
        raise OutputError("out/clear.png cannot be written") from OSError(errno.ENOSPC, "full")

    monkeypatch.setattr("anchorsr.inference.pipeline.write_file", full)
    (row,) = run(tmp_path / "in", tmp_path / "out", ["clear.png"])
    assert row.status is Status.UNFINISHED
    assert not any((tmp_path / "out").iterdir())
    assert files["clear.png"].exists()


def test_an_unexpected_error_of_the_machine_is_for_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "in")

    def gone() -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    monkeypatch.setattr(work, "temporary_folder", gone)
    (row,) = run(tmp_path / "in", tmp_path / "out", ["clear.png"])
    assert row.status is Status.UNFINISHED
    assert "unexpected FileNotFoundError" in row.error


@pytest.mark.slow
def test_an_unexpected_error_costs_one_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = make(tmp_path / "in")
    real = work.upscale_files

    def fragile(jobs: object, *rest: object) -> object:
        def checked() -> object:
            for job in jobs:  # type: ignore[attr-defined]
                if job.source.name == "deep.png":
                    raise RuntimeError("never seen before")
                yield job

        return real(checked(), *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(work, "upscale_files", fragile)
    rows = {row.target: row for row in run(tmp_path / "in", tmp_path / "out", sorted(files))}
    assert len(rows) == len(files)
    assert "unexpected RuntimeError: never seen before" in rows["deep.png"].error
    bad = {name for name, row in rows.items() if row.status is Status.FAILED}
    assert bad == {"deep.png", "bad.png"}


# Progress


def test_the_time_left_does_not_count_the_start_of_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("anchorsr.cluster.bulk.time.monotonic", lambda: now)
    progress = Progress(100, made=0, failed=0)
    assert (progress.images_per_second, progress.seconds_left) == (0, None)
    now += 60  # the workers start, and each does its first block of ten
    block = [Row("s", "t", Status.DONE, milliseconds=500)] * 10
    progress.add(block)
    progress.add(block)
    assert progress.images_per_second == 4
    assert progress.seconds_left == 20
    now += 5
    progress.add(block)
    assert progress.seconds_left == pytest.approx(70 / 3)


# Retries


def failing(errors: list[Exception]) -> Callable[[], str]:
    def action() -> str:
        if errors:
            raise errors.pop(0)
        return "done"

    return action


def test_what_may_pass_is_tried_again_later_and_later() -> None:
    pauses: list[float] = []
    errors: list[Exception] = [
        OSError("AWS Error SLOW_DOWN during PutObject: Please reduce your request rate"),
        OSError("AWS Error UNKNOWN (HTTP status 503) during PutObject operation"),
        OSError("UploadFrom failed. Azure Error: [ServerBusy] 503 Service Unavailable"),
        TimeoutError(),
        ConnectionResetError(errno.ECONNRESET, "reset"),
    ]
    assert retrying(failing(errors), sleep=pauses.append) == "done"
    assert len(pauses) == 5
    for number, pause in enumerate(pauses):
        assert 0.125 * 2**number <= pause <= 0.375 * 2**number


def test_what_will_not_pass_is_not_tried_again() -> None:
    for error in (
        FileNotFoundError(errno.ENOENT, "gone"),
        PermissionError(errno.EACCES, "no"),
        OSError("AWS Error ACCESS_DENIED during GetObject operation"),
        OSError("AWS Error NO_SUCH_BUCKET during ListObjectsV2 operation"),
        OSError("AWS Error UNKNOWN (HTTP status 501) during PutObject operation"),
        OSError("AWS Error UNKNOWN (HTTP status 403) during HeadObject operation"),
        OSError("UploadFrom failed. Azure Error: [OutOfRangeInput] 400 The name is too short"),
        OSError("google::cloud::Status(UNAUTHENTICATED: Permanent error, with a last message of"),
        OSError("St13runtime_error: Unexpected end of Base64 encoded string."),
        ValueError("a mistake"),
    ):
        assert not is_passing(error)
        with pytest.raises(type(error)):
            retrying(failing([error]), sleep=lambda _: pytest.fail("it has waited"))


def test_trying_ends() -> None:
    pauses: list[float] = []
    with pytest.raises(OSError, match="503"):
        retrying(failing([OSError("503")] * 99), sleep=pauses.append)
    assert len(pauses) == TRIES - 1
    assert max(pauses) <= 1.5 * retries._MOST_SECONDS


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "When listing objects under key 'in/' in bucket 'b': AWS Error SLOW_DOWN during"
            " ListObjectsV2 operation: Wait a moment.",
            "AWS Error SLOW_DOWN during ListObjectsV2 operation: Wait a moment.",
        ),
        (
            "google::cloud::Status(PERMISSION_DENIED: Permanent error, with a last message of No"
            " access. error_info={reason=, metadata={gcloud-cpp.retry.function=ListObjects}})",
            "PERMISSION_DENIED: No access; are the keys of this store right?",
        ),
        (
            "Check for support on 'http://h/b' failed. Azure Error: [AuthenticationFailed] 403 The"
            " signature is wrong. Request ID: 12-34",
            "[AuthenticationFailed] 403 The signature is wrong; are the keys of this store right?",
        ),
        (
            "Path does not exist 'b/in'. Detail: [errno 2] No such file",
            "Path does not exist 'b/in'",
        ),
    ],
)
def test_what_a_store_says_is_told_in_short(text: str, words: str) -> None:
    assert stores._short(OSError(text)) == words


def test_errors_of_stores_are_for_the_next_run() -> None:
    error = OutputError("x")
    error.__cause__ = StoreError("s3://b/x cannot be written (503)")
    assert work._status_of(error) is Status.UNFINISHED
    assert work._status_of(OutputError("has more pixels than WebP can hold")) is Status.FAILED
