"""What containers say of times, lengths and streams, each in its own way."""

from __future__ import annotations

import contextlib
import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from anchorsr.errors import OutputError, VideoError
from anchorsr.inference.upscaler import Upscaler
from anchorsr.video.source import Source
from anchorsr.video.upscale import VideoResult, default_target, upscale_video
from helpers.videos import make_video, moving

upscaler = Upscaler("fast", 2, threads=1, engine="litert")


def enlarge(source: Path, output: Path, **options: Any) -> VideoResult:
    return upscale_video(source, output, upscaler=upscaler, threads=1, **options)


def times(path: Path, kind: str = "video") -> list[float]:
    with av.open(str(path)) as container:
        frames = container.decode(getattr(container.streams, kind)[0])
        return [float(frame.pts * frame.time_base) for frame in frames]


def thirtieths(count: int) -> Any:
    return pytest.approx([i / 30 for i in range(count)], abs=0.001)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("libx264", {"preset": "medium", "x264-params": "bframes=3:b-adapt=0:keyint=12"}),
        ("mpeg4", {"bf": "2"}),
        ("mjpeg", {}),
    ],
)
@pytest.mark.parametrize("threads", [1, 4])
def test_an_avi_gives_its_frames_in_turn(
    tmp_path: Path, codec: str, options: dict[str, str], threads: int
) -> None:
    source = make_video(
        tmp_path / "in.avi", moving(40), codec=codec, options=options,
        pixel_format="yuvj420p" if codec == "mjpeg" else "yuv420p",
    )  # fmt: skip
    result = upscale_video(source, tmp_path / "out.mkv", upscaler=upscaler, threads=threads)
    assert (result.frames, result.problems) == (40, ())
    assert times(tmp_path / "out.mkv") == thirtieths(40)
    cut = enlarge(source, tmp_path / "cut.mkv", start=0.8)
    assert (cut.frames, cut.problems) == (16, ())
    assert times(tmp_path / "cut.mkv") == thirtieths(16)


def trimmed(path: Path, start: float, seconds: float) -> Path:
    """An MP4 of 3 seconds whose edit list shows a part of it, as telephones trim."""
    make_video(
        path, moving(90), audio="aac", options={"g": "10"},
        container_options={"movflags": "faststart"},
    )  # fmt: skip
    data, place = bytearray(path.read_bytes()), 0
    for rate in (15_360, 44_100):
        place = data.index(b"elst", place + 1)
        _, begin = struct.unpack(">Ii", data[place + 12 : place + 20])
        data[place + 12 : place + 20] = struct.pack(
            ">Ii", int(seconds * 1000), begin + int(rate * start)
        )
    path.write_bytes(data)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize(("start", "seconds"), [(0, 1), (1.5, 1), (0.75, 1)])
def test_what_an_edit_list_hides_stays_hidden(
    tmp_path: Path, suffix: str, start: float, seconds: float
) -> None:
    source, output = trimmed(tmp_path / "in.mp4", start, seconds), tmp_path / f"out{suffix}"
    result = enlarge(source, output)
    assert (result.frames, result.problems) == (round(seconds * 30), ())
    assert times(output)[0] < 0.05
    heard = times(output, "audio")
    assert heard[0] >= -0.05
    assert heard[-1] == pytest.approx(seconds, abs=0.06)


@pytest.mark.slow
def test_a_trimmed_video_that_is_cut_off_is_called_so(tmp_path: Path) -> None:
    source = trimmed(tmp_path / "in.mp4", 0.75, 2)
    data = source.read_bytes()
    source.write_bytes(data[: len(data) // 2])
    result = enlarge(source, tmp_path / "out.mp4")
    assert 0 < result.frames < 60
    assert "is damaged or cut off" in result.problems[0]


@pytest.mark.slow
def test_an_avi_without_its_first_packets_keeps_its_times(tmp_path: Path) -> None:
    """The first image that can be decoded is shown when it was."""
    options = {"preset": "medium", "x264-params": "bframes=3:b-adapt=0:keyint=20:scenecut=0"}
    whole = make_video(tmp_path / "whole.avi", moving(60), options=options)
    with (
        av.open(str(whole)) as container,
        av.open(str(tmp_path / "in.avi"), "w") as cut,
    ):
        template = container.streams.video[0]
        copy = cut.add_stream_from_template(template)
        for packet in list(container.demux(template)):
            if packet.size and packet.dts >= 5:
                packet.pts = packet.dts
                packet.stream = copy
                cut.mux(packet)
    with av.open(str(tmp_path / "in.avi")) as container:
        keys = [p.dts for p in container.demux(video=0) if p.size and p.is_keyframe]
    enlarge(tmp_path / "in.avi", tmp_path / "out.mkv")
    assert times(tmp_path / "out.mkv")[0] == pytest.approx(keys[0] / 30, abs=0.002)
    assert keys[0] > 0


def test_transparent_webm_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "in.webm"
    with av.open(str(source), "w") as container:
        stream = container.add_stream("libvpx-vp9", 30, options={"auto-alt-ref": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuva420p"
        frame = av.VideoFrame.from_ndarray(np.full((48, 64, 4), 99, np.uint8), format="rgba")
        frame = frame.reformat(format="yuva420p")
        frame.pts, frame.time_base = 0, Fraction(1, 30)
        container.mux([*stream.encode(frame), *stream.encode()])
    with pytest.raises(VideoError, match="transparency"):
        enlarge(source, tmp_path / "out.webm")


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_a_transport_stream_begins_at_nought(tmp_path: Path, suffix: str) -> None:
    hours = 10 * 3600
    source = make_video(
        tmp_path / "in.ts", moving(30), pts=range(hours * 30, hours * 30 + 30), audio="aac",
        audio_start=Fraction(hours),
    )  # fmt: skip
    apart = times(source)[0] - times(source, "audio")[0]
    result = enlarge(source, tmp_path / f"out{suffix}")
    assert (result.frames, result.problems) == (30, ())
    assert result.seconds == pytest.approx(1, abs=0.05)
    images, sound = times(tmp_path / f"out{suffix}"), times(tmp_path / f"out{suffix}", "audio")
    assert min(images[0], sound[0]) == pytest.approx(0, abs=0.05)
    assert images[0] - sound[0] == pytest.approx(apart, abs=0.002)


@pytest.mark.slow
def test_matroska_that_begins_late_is_whole(tmp_path: Path) -> None:
    source = make_video(
        tmp_path / "in.mkv", moving(30), pts=range(300, 330), audio="aac", audio_start=Fraction(10)
    )
    result = enlarge(source, tmp_path / "out.mkv")
    assert result.problems == ()
    assert times(tmp_path / "out.mkv")[0] == pytest.approx(10, abs=0.03)
    with contextlib.closing(Source(source)) as reading:
        assert reading.seconds == pytest.approx(1, abs=0.1)


@pytest.mark.slow
def test_a_fragmented_mp4_with_a_torn_end_is_called_cut_off(tmp_path: Path) -> None:
    source = make_video(
        tmp_path / "in.mp4", moving(60), options={"g": "10"},
        container_options={"movflags": "frag_keyframe+empty_moov"},
    )  # fmt: skip
    source.write_bytes(source.read_bytes()[:-3000])
    result = enlarge(source, tmp_path / "out.mp4")
    assert 0 < result.frames < 60
    (problem,) = result.problems
    assert "its last packet is not complete" in problem


def test_figures_of_the_old_stream_are_not_copied(tmp_path: Path) -> None:
    def tags(container: Any) -> Any:
        container.streams.video[0].metadata.update(
            {"BPS-eng": "999999", "NUMBER_OF_FRAMES-eng": "777", "title": "kept"}
        )
        return list

    source = make_video(tmp_path / "in.mkv", moving(6), extra=tags)
    enlarge(source, tmp_path / "out.mkv")
    with av.open(str(tmp_path / "out.mkv")) as container:
        found = container.streams.video[0].metadata
    assert found["title"] == "kept"
    assert not [key for key in found if key.startswith(("BPS", "NUMBER"))]


@pytest.mark.parametrize("suffix", [".mov", ".mp4"])
def test_where_a_telephone_was_is_kept(tmp_path: Path, suffix: str) -> None:
    place = {"com.apple.quicktime.location.ISO6709": "+48.1+011.5/", "title": "holiday"}
    source = make_video(
        tmp_path / "in.mov", moving(6), metadata=place,
        container_options={"movflags": "use_metadata_tags"},
    )  # fmt: skip
    enlarge(source, tmp_path / f"out{suffix}")
    with av.open(str(tmp_path / f"out{suffix}")) as container:
        assert place.items() <= container.metadata.items()


def test_the_container_for_an_old_telephone_holds_its_sound() -> None:
    assert default_target(Path("a.3gp"), 2) == Path("a_x2.mov")
    assert default_target(Path("a.avi"), 2) == Path("a_x2.mkv")
    assert default_target(Path("a.MP4"), 2) == Path("a_x2.MP4")


def test_a_name_taken_meanwhile_leaves_the_video_and_says_where(tmp_path: Path) -> None:
    source, output = make_video(tmp_path / "in.mp4", moving(6)), tmp_path / "out.mkv"
    with pytest.raises(OutputError, match=r"exists already.*the finished video is .*out\.part"):
        enlarge(
            source, output, on_note=lambda _: output.write_bytes(b"theirs")
        )  # times are rounded
    assert output.read_bytes() == b"theirs"
    assert len(times(tmp_path / "out.part.mkv")) == 6


def test_more_frames_a_second_than_av1_knows(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mkv", moving(6, 80, 80), rate=1000)
    result = enlarge(source, tmp_path / "out.mkv", codec="av1")
    assert (result.frames, result.problems) == (6, ())


def test_a_folder_and_an_animation_are_no_videos(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="is a folder"):
        upscale_video(".", upscaler=upscaler)
    source = make_video(
        tmp_path / "in.gif", moving(4), codec="gif", pixel_format="rgb8", time_base=Fraction(1, 100)
    )
    with pytest.raises(VideoError, match="is an image: use anchorsr upscale"):
        enlarge(source, tmp_path / "out.mp4")
