"""Several videos and folders of videos, by the rules that images have."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from anchorsr.cli import app
from anchorsr.cli.commands import video
from anchorsr.errors import DataError, OutputError
from anchorsr.utils.locks import FileLocks
from anchorsr.video.batch import find_videos, plan_videos
from helpers.videos import Repeat, make_video, moving


class NamedRepeat(Repeat):
    """One that is made as an Upscaler is."""

    engine, why = "repeat", ""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two videos, one of them in a folder below, a bad one, a text, and a hidden file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(video, "Upscaler", NamedRepeat)
    (tmp_path / "in" / "below").mkdir(parents=True)
    make_video(Path("in/a.mp4"), moving(3))
    make_video(Path("in/below/b.avi"), moving(3), codec="mpeg4")
    Path("in/bad.mkv").write_bytes(b"nothing")
    Path("in/notes.txt").write_text("notes")
    Path("in/.hidden.mp4").write_bytes(b"nothing")
    return tmp_path


def names(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = app.run(["video", *arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_a_folder_is_mirrored_and_a_bad_video_does_not_stop_the_others(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = call(capsys, "in", "-o", "out")
    assert code == 1
    assert names(folder / "out") == ["a.mp4", "below/b.mkv"]
    assert out == "out/a.mp4\nout/below/b.mkv\n"
    assert "note: 1 other files in folders are left out" in err
    assert "in/bad.mkv cannot be opened as a video" in err
    assert err.endswith("error: 1 of 3 failed or are damaged:\n  in/bad.mkv\n")
    before = names(folder)
    code, out, err = call(capsys, "in", "-o", "out")
    assert (code, out) == (1, "")
    assert "note: 2 skipped: already exists" in err
    assert names(folder) == before


def test_the_same_glob_again_leaves_results_and_their_originals(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_video(Path("c.mp4"), moving(3))
    make_video(Path("d.mp4"), moving(3))
    assert call(capsys, "c.mp4", "d.mp4")[:2] == (0, "c_x2.mp4\nd_x2.mp4\n")
    code, out, err = call(capsys, "c.mp4", "c_x2.mp4", "d.mp4", "d_x2.mp4")
    assert (code, out) == (0, "")
    assert "2 skipped: already exists" in err
    assert "2 skipped: named as the result of an earlier run" in err


def test_json_has_a_row_for_each(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("in/a_x2.mp4").write_bytes(b"there")
    code, out, _ = call(capsys, "in", "--json")
    rows = {row["input"]: row for row in json.loads(out)}
    assert code == 1
    assert rows["in/a.mp4"]["status"] == "skipped"
    assert rows["in/a_x2.mp4"]["reason"] == "named as the result of an earlier run"
    assert rows["in/bad.mkv"]["status"] == "failed"
    assert rows["in/below/b.avi"]["status"] == "done"
    assert rows["in/below/b.avi"]["frames"] == 3


def test_what_another_process_is_making_is_left_to_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("out").mkdir()
    with FileLocks() as locks:
        assert locks.acquire(Path("out/a.mp4"))
        _, out, err = call(capsys, "in", "-o", "out")
    assert out == "out/below/b.mkv\n"
    assert "1 skipped: being written by another process" in err


def test_one_video_goes_into_a_folder_that_is_named(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(capsys, "in/below/b.avi", "-o", "new", "--no-sound")[:2] == (0, "new/b.mkv\n")
    assert names(folder / "new") == ["b.mkv"]


def test_a_name_with_a_slash_is_a_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "in/below/b.avi", "-o", "tapes.2024/")[:2] == (0, "tapes.2024/b.mkv\n")
    _, out, _ = call(capsys, "in/below", "-o", "tapes.mp4/")
    assert out == "tapes.mp4/b.mkv\n"


@pytest.mark.parametrize("words", [["-"], ["in/a.mp4", "-o", "-"]])
def test_pipes_are_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    before = names(folder)
    code, _, err = call(capsys, *words)
    assert code == 2
    assert "videos do not go through pipes" in err
    assert names(folder) == before


def test_impossible_plans_are_refused(folder: Path) -> None:
    a, b = Path("in/a.mp4"), Path("in/below/b.avi")
    with pytest.raises(OutputError, match="is the name of one video"):
        plan_videos([a, b], Path("both.mp4"), factor=2)
    with pytest.raises(OutputError, match="is an input: write to another folder"):
        plan_videos([Path("in"), b], Path("in"), factor=2)
    make_video(Path("in/below/a.mp4"), moving(3))
    with pytest.raises(OutputError, match="two videos would become"):
        plan_videos([a, Path("in/below/a.mp4")], Path("out"), factor=2)
    Path("empty").mkdir()
    with pytest.raises(DataError, match=re.escape("empty holds no video: the names end with")):
        plan_videos([Path("empty")], None, factor=2)


def test_links_are_followed_once_and_the_output_is_not_searched(folder: Path) -> None:
    Path("in/loop").symlink_to(folder / "in", target_is_directory=True)
    Path("in/out").mkdir()
    make_video(Path("in/out/a.mp4"), moving(3))
    found, others = find_videos(Path("in"), leave_out=Path("in/out"))
    assert [str(path) for path in found] == ["in/a.mp4", "in/bad.mkv", "in/below/b.avi"]
    assert others == 1


def test_a_mode_that_does_not_exist_is_wrong_usage(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = call(capsys, "in/a.mp4", "--deinterlace", "yes")
    assert code == 2
    assert "no deinterlacing 'yes'; choose from: auto, on, off" in err
