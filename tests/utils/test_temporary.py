"""Temporary files: they are unique while they are used, and gone after the next run."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from anchorsr.errors import OutputError
from anchorsr.utils import temporary
from anchorsr.utils.files import check_free, publish, publishing
from anchorsr.utils.locks import FileLocks
from anchorsr.utils.temporary import lock_name, remove_leftovers, temporary_folder

pytestmark = pytest.mark.skipif(temporary.fcntl is None, reason="needs flock")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def kill_in(program: str, folder: Path) -> None:
    """Run a program that kills itself."""
    code = f"import os, signal\nfrom pathlib import Path\n{program}"
    ended = subprocess.run([sys.executable, "-c", code], cwd=folder, check=False)
    assert ended.returncode == -9


DIE = "os.kill(os.getpid(), signal.SIGKILL)"
KILLED_IN_PUBLISHING = f"""
from anchorsr.utils.files import publishing
with publishing(Path("a.png"), overwrite=False) as file:
    file.write(b"half")
    file.flush()
    {DIE}
"""
KILLED_BEFORE_THE_LAST_NAME_IS_GONE = f"""
from anchorsr.utils import files
real = os.link
def link(*names):
    real(*names)
    {DIE}
os.link = link
files.publish(b"whole", Path("a.png"), overwrite=False)
"""
KILLED_WITH_A_LOCK = f"""
from anchorsr.utils.locks import FileLocks
FileLocks().acquire(Path("a.png"))
{DIE}
"""


def test_the_next_run_replaces_what_a_kill_left(tmp_path: Path) -> None:
    kill_in(KILLED_IN_PUBLISHING, tmp_path)
    assert names(tmp_path) == [".a.png.0.tmp"]
    publish(b"whole", tmp_path / "a.png", overwrite=False)
    assert names(tmp_path) == ["a.png"]
    assert (tmp_path / "a.png").read_bytes() == b"whole"


def test_a_second_name_of_a_finished_output_is_removed_and_never_written_to(tmp_path: Path) -> None:
    kill_in(KILLED_BEFORE_THE_LAST_NAME_IS_GONE, tmp_path)
    assert names(tmp_path) == [".a.png.0.tmp", "a.png"]
    with publishing(tmp_path / "a.png", overwrite=True) as file:
        file.write(b"new")
        file.flush()
        assert (tmp_path / "a.png").read_bytes() == b"whole"
    assert names(tmp_path) == ["a.png"]
    assert (tmp_path / "a.png").read_bytes() == b"new"


@pytest.mark.slow
@pytest.mark.parametrize("program", [KILLED_BEFORE_THE_LAST_NAME_IS_GONE, KILLED_WITH_A_LOCK])
def test_also_a_run_that_is_refused_cleans_up(tmp_path: Path, program: str) -> None:
    kill_in(program, tmp_path)
    (tmp_path / "a.png").write_bytes(b"whole")
    with pytest.raises(OutputError, match="exists already"):
        check_free(tmp_path / "a.png", overwrite=False)
    assert names(tmp_path) == ["a.png"]


def test_what_is_in_use_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    with FileLocks() as locks, publishing(path, overwrite=True) as first:
        assert locks.acquire(path)
        with publishing(path, overwrite=True) as second:
            remove_leftovers(path)
            assert names(tmp_path) == [".a.png.0.tmp", ".a.png.1.tmp", lock_name(path).name]
            second.write(b"second")
        first.write(b"first")
    assert names(tmp_path) == ["a.png"]
    assert path.read_bytes() == b"first"


def test_many_writers_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    files = [publishing(path, overwrite=True) for _ in range(10)]
    for number, file in enumerate(files):
        file.__enter__().write(bytes([number]))
    assert len(names(tmp_path)) == 10
    for file in files:
        file.__exit__(None, None, None)
    assert names(tmp_path) == ["a.png"]


def test_a_link_in_the_place_of_a_temporary_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / ".a.png.0.tmp").symlink_to("precious")
    lock_name(tmp_path / "a.png").symlink_to("made")
    publish(b"whole", tmp_path / "a.png", overwrite=False)
    with FileLocks() as locks, pytest.raises(OutputError, match="is a link in the place of a lock"):
        locks.acquire(tmp_path / "a.png")
    assert (tmp_path / "precious").read_bytes() == b"precious"
    assert not (tmp_path / "made").exists()


def test_a_folder_of_a_killed_process_is_removed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(temporary.tempfile, "tempdir", None)
    other = tmp_path / "anchorsr-notes"
    other.mkdir()
    program = f"""
from anchorsr.utils.temporary import temporary_folder
with temporary_folder() as folder:
    (folder / "model.tflite").write_bytes(b"model")
    {DIE}
"""
    kill_in(program, tmp_path)
    assert len(names(tmp_path)) == 2
    with temporary_folder() as first, temporary_folder() as second:
        assert names(tmp_path) == sorted(["anchorsr-notes", first.name, second.name])
        assert os.access(first, os.W_OK)
    assert names(tmp_path) == ["anchorsr-notes"]


def test_a_folder_that_is_taken_for_a_leftover_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when another process looks for leftovers before the folder is locked."""
    real = tempfile.mkdtemp
    made: list[str] = []

    def removed_at_once(prefix: str) -> str:
        made.append(real(prefix=prefix, dir=tmp_path))
        if len(made) == 1:
            os.rmdir(made[0])
        return made[-1]

    monkeypatch.setattr(tempfile, "mkdtemp", removed_at_once)
    with temporary_folder() as folder:
        assert names(tmp_path) == [folder.name]
    assert len(made) == 2
