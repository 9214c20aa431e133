"""A video that was interrupted or killed goes on where it was, with the frames of a whole run."""

import contextlib
import signal
import struct
import subprocess
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from anchorsr.errors import OutputError
from anchorsr.video import encoder, journal, pipeline, upscale, workfiles
from anchorsr.video.journal import EncodedPacket, Journal
from anchorsr.video.output_file import OutputFile
from anchorsr.video.source import Source
from anchorsr.video.upscale import VideoProgress, VideoResult, upscale_video
from anchorsr.video.workfiles import WorkFiles
from helpers.videos import Repeat, make_video, moving


class Slow(Repeat):
    def upscale_rgb(self, rgb: np.ndarray) -> np.ndarray:
        time.sleep(0.02)
        return super().upscale_rgb(rgb)


@pytest.fixture(autouse=True)
def short_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "SEGMENT", 20)
    monkeypatch.setattr(encoder, "SEGMENT", 20)


def enlarge(source: Path, target: Path, upscaler: Any = None, **options: Any) -> VideoResult:
    return upscale_video(source, target, upscaler=upscaler or Repeat(), threads=1, **options)


def frames(path: Path) -> list[tuple[Fraction, bytes]]:
    with av.open(str(path)) as container:
        return [(f.pts * f.time_base, f.to_ndarray().tobytes()) for f in container.decode(video=0)]


def begin(source: Path, target: Path, after: int = 25, **options: Any) -> list[str]:
    """Stop once so many frames are encoded; returns the notes."""
    notes: list[str] = []

    def stop(progress: VideoProgress) -> None:
        if progress.frames >= after:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        enlarge(source, target, Slow(), on_progress=stop, on_note=notes.append, **options)
    return notes


def times(*, variable: bool) -> list[int] | None:
    steps = np.random.default_rng(0).integers(1, 5, 70)
    return np.cumsum(steps).tolist() if variable else None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("codec", "suffix", "variable"),
    [
        ("h264", ".mp4", True),
        ("h264", ".mkv", False),
        ("hevc", ".mov", True),
        ("vp9", ".webm", False),
        ("av1", ".mp4", True),
    ],
)
def test_a_resumed_video_is_the_undisturbed_one_frame_by_frame(
    tmp_path: Path, codec: str, suffix: str, variable: bool
) -> None:
    webm = suffix == ".webm"
    source = make_video(
        tmp_path / f"in{suffix}",
        moving(70),
        pts=times(variable=variable),
        audio="libopus" if webm else "aac",
        codec="libvpx-vp9" if webm else "libx264",
    )
    whole, resumed = tmp_path / f"whole{suffix}", tmp_path / f"resumed{suffix}"
    enlarge(source, whole, codec=codec)
    notes = begin(source, resumed, codec=codec)
    assert "the same command goes on after" in notes[0]
    result = enlarge(source, resumed, codec=codec, on_note=notes.append)
    assert "going on after the" in notes[-1]
    assert (result.frames, result.problems) == (70, ())
    assert 20 <= result.earlier_frames < 70
    assert frames(resumed) == frames(whole)
    assert not list(tmp_path.glob("*.resume"))
    assert not list(tmp_path.glob("*.part.*"))


def test_a_signal_while_the_header_is_written_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyAV prints and drops what is raised where it writes."""
    write = OutputFile.write
    calls = []

    def signalled(self: OutputFile, data: bytes) -> int:
        if not calls:
            signal.raise_signal(signal.SIGTERM)
        calls.append(len(data))
        return write(self, data)

    monkeypatch.setattr(OutputFile, "write", signalled)
    source = make_video(tmp_path / "in.mp4", moving(20))
    with pytest.raises(KeyboardInterrupt):
        enlarge(source, tmp_path / "out.mp4", Slow())
    assert calls
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


def test_a_signal_while_the_video_gets_its_name_leaves_the_video_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    move = workfiles.move_into_place

    def signalled(finished: Path, path: Path, **options: Any) -> None:
        move(finished, path, **options)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(workfiles, "move_into_place", signalled)
    source = make_video(tmp_path / "in.mp4", moving(5))
    with pytest.raises(KeyboardInterrupt):
        enlarge(source, tmp_path / "out.mp4")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mp4", "out.mp4"]
    assert len(frames(tmp_path / "out.mp4")) == 5


def test_a_kill_while_the_video_has_two_names_leaves_nothing_after_the_next_run(
    tmp_path: Path,
) -> None:
    source = make_video(tmp_path / "in.mp4", moving(5))
    enlarge(source, tmp_path / "out.mp4")
    files = WorkFiles(tmp_path / "out.mp4")
    files.part.hardlink_to(files.target)
    files.finished.write_bytes(b"a journal")
    with pytest.raises(OutputError, match="exists already"):
        enlarge(source, tmp_path / "out.mp4")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mp4", "out.mp4"]


@pytest.mark.slow
def test_a_signal_as_the_threads_start_waits_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It used to free the container while the decoder was using it."""
    alive: list[bool] = []

    class Interrupted(threading.Thread):
        def start(self) -> None:
            super().start()
            signal.raise_signal(signal.SIGTERM)

    class Watched(Source):
        def close(self) -> None:
            names = [thread.name for thread in threading.enumerate()]
            alive.append(any(name.startswith("video-") for name in names))
            super().close()

    monkeypatch.setattr(pipeline.threading, "Thread", Interrupted)
    monkeypatch.setattr(upscale, "Source", Watched)
    source = make_video(tmp_path / "in.mp4", moving(70))
    with pytest.raises(KeyboardInterrupt):
        enlarge(source, tmp_path / "out.mp4", Slow())
    assert alive == [False]
    assert not list(tmp_path.glob("out*.mp4"))


@pytest.mark.slow
def test_no_frame_is_upscaled_twice(tmp_path: Path) -> None:
    calls = []

    class Counting(Repeat):
        def upscale_rgb(self, rgb: np.ndarray) -> np.ndarray:
            calls.append(rgb.shape)
            return super().upscale_rgb(rgb)

    generator = np.random.default_rng(0)
    noise = list(generator.integers(0, 256, (70, 48, 64, 3), np.uint8))  # every tile changes
    source, target = make_video(tmp_path / "in.mp4", noise), tmp_path / "out.mp4"
    begin(source, target, 40)
    enlarge(source, target, Counting())
    assert sum(shape == (48, 64, 3) for shape in calls) <= 30


@pytest.mark.slow
def test_other_options_or_another_input_do_not_go_on(tmp_path: Path) -> None:
    source, target = make_video(tmp_path / "in.mp4", moving(70)), tmp_path / "out.mp4"
    begin(source, target)
    kept = (tmp_path / "out.mp4.resume").read_bytes()
    with pytest.raises(
        OutputError, match="another codec or rate limit and another quality: repeat its options"
    ):
        enlarge(source, target, quality=30)
    assert (tmp_path / "out.mp4.resume").read_bytes() == kept
    make_video(source, moving(69))
    with pytest.raises(OutputError, match="earlier run with another input"):
        enlarge(source, target)
    assert enlarge(source, target, overwrite=True).frames == 69
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4", "out.mp4"]


@pytest.mark.slow
def test_a_kill_in_the_last_steps_leaves_nothing_in_the_next_run(tmp_path: Path) -> None:
    source, target = make_video(tmp_path / "in.mp4", moving(30)), tmp_path / "out.mp4"
    files = WorkFiles(target)
    begin(source, target)
    files.resume.rename(files.finished)  # killed before the video had its name
    files.part.unlink()
    target.write_bytes(b"whole")  # killed after it
    with pytest.raises(OutputError, match="exists already"):
        enlarge(source, target)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4", "out.mp4"]
    target.unlink()
    begin(source, target)
    files.resume.rename(files.finished)
    notes: list[str] = []
    assert enlarge(source, target, on_note=notes.append).frames == 30
    assert "going on after the 20 frames" in notes[0]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4", "out.mp4"]


@pytest.mark.slow
def test_a_video_to_be_replaced_keeps_its_journal(tmp_path: Path) -> None:
    source, target = make_video(tmp_path / "in.mp4", moving(70)), tmp_path / "out.mp4"
    target.write_bytes(b"old")
    begin(source, target, overwrite=True)
    WorkFiles(target).part.unlink()
    with pytest.raises(OutputError, match="exists already"):
        enlarge(source, target)
    assert target.read_bytes() == b"old"
    notes: list[str] = []
    assert enlarge(source, target, overwrite=True, on_note=notes.append).frames == 70
    assert "going on after the" in notes[0]


def packet(number: int) -> EncodedPacket:
    return EncodedPacket(number, number - 2, 1, number % 20 == 0, bytes([number]) * number)


def test_a_torn_segment_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "x.resume"
    first, second = [packet(n) for n in range(20)], [packet(n) for n in range(20, 40)]
    book = Journal(path, {"a": 1}, restart=False)
    book.append(first)
    book.append(second)
    book.close()
    whole = path.read_bytes()
    start = whole.index(b"SEGM", whole.index(b"SEGM") + 1)
    for damaged in (whole[:-1], whole[: start + 7], whole[:-3] + b"x" + whole[-2:]):
        path.write_bytes(damaged)
        book = Journal(path, {"a": 1}, restart=False)
        assert book.frames == 20
        assert book.read(0) == first
        book.append(second)
        assert book.read(1) == second
        book.close()
        assert path.read_bytes() == whole


@pytest.mark.parametrize("length", [0, 5, 40, 45])
def test_a_journal_cut_off_before_its_settings_starts_over(tmp_path: Path, length: int) -> None:
    path = tmp_path / "x.resume"
    Journal(path, {"a": 1}, restart=False).close()
    path.write_bytes(path.read_bytes()[:length])
    book = Journal(path, {"a": 1}, restart=False)
    assert book.frames == 0
    book.append([packet(1)])
    book.close()
    with contextlib.closing(Journal(path, {"a": 1}, restart=False)) as book:
        assert book.frames == 20


def test_a_packet_count_that_cannot_be_is_a_torn_segment(tmp_path: Path) -> None:
    path = tmp_path / "x.resume"
    Journal(path, {"a": 1}, restart=False).close()
    with path.open("ab") as file:
        file.write(struct.pack("<4sIQI", b"SEGM", 2**32 - 1, 0, 0))
    with contextlib.closing(Journal(path, {"a": 1}, restart=False)) as book:
        assert book.frames == 0


def test_another_file_of_that_name_is_left_alone(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mp4", moving(6))
    other = tmp_path / "out.mp4.resume"
    other.write_text("dear diary")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="another file: move it away"):
            enlarge(source, tmp_path / "out.mp4", overwrite=overwrite)
    assert other.read_text() == "dear diary"
    assert not (tmp_path / "out.part.mp4").exists()


PROGRAM = f"""
import sys
from anchorsr.video import encoder, journal
from anchorsr.video.upscale import upscale_video
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from helpers.videos import Repeat

journal.SEGMENT = encoder.SEGMENT = 20
upscale_video(sys.argv[1], sys.argv[2], upscaler=Repeat(), threads=1)
"""


@pytest.mark.slow
def test_kills_at_random_moments_change_nothing(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mp4", moving(400), audio="aac")
    whole, target = tmp_path / "whole.mp4", tmp_path / "out.mp4"
    enlarge(source, whole)
    command = [sys.executable, "-c", PROGRAM, str(source), str(target)]
    kept = 0
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGINT):
        process = subprocess.Popen(command, stderr=subprocess.PIPE)
        until = time.monotonic() + 30
        resume = tmp_path / "out.mp4.resume"
        while process.poll() is None and time.monotonic() < until:
            size = resume.stat().st_size if resume.exists() else 0
            if size > kept:
                kept = size
                break
            time.sleep(0.001)
        process.send_signal(number)
        process.communicate(timeout=60)
        assert process.returncode not in (-signal.SIGSEGV, -signal.SIGABRT)
    if not target.exists():
        enlarge(source, target)
    assert frames(target) == frames(whole)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4", "out.mp4", "whole.mp4"]
