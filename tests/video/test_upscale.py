"""Videos: times and copied streams to the byte, colours to the level, and no file lost or half."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import anchorsr
from anchorsr.cli import app
from anchorsr.errors import AnchorSRError, MissingDependencyError, OutputError, VideoError
from anchorsr.inference.upscaler import Upscaler
from anchorsr.utils.locks import FileLocks
from anchorsr.video import codecs, output_file
from anchorsr.video.colour import Colours, FromRgb, planes
from anchorsr.video.source import Source
from anchorsr.video.tile_reuse import Rectangle
from anchorsr.video.upscale import VideoProgress, VideoResult, upscale_video
from helpers.videos import (
    FFPROBE,
    Repeat,
    decoded,
    make_video,
    moving,
    packets,
    probe,
    probed_packets,
)

upscaler = Upscaler(threads=1)


def enlarge(source: Path, output: Path, **options: Any) -> VideoResult:
    return upscale_video(source, output, upscaler=upscaler, threads=1, **options)


def uneven(count: int) -> list[int]:
    """Times of a variable frame rate: steps of 1 to 80, and one long pause."""
    steps = np.random.default_rng(1).integers(1, 80, count)
    steps[count // 2] = 900
    return [int(n) for n in np.cumsum(steps)]


# --- times and copies ---------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["mono", "stereo", "5.1"])
def test_sound_that_does_not_say_where_its_channels_are_goes_into_mp4(
    tmp_path: Path, layout: str
) -> None:
    def pcm(container: Any) -> Callable[[], list[Any]]:
        stream = container.add_stream("pcm_s16le", 48_000, layout=layout)
        samples = np.arange(9600 * stream.codec_context.layout.nb_channels, dtype=np.int16)[None]
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout=layout)
        frame.sample_rate, frame.pts = 48_000, 0
        return lambda: [*stream.encode(frame), *stream.encode(None)]

    source = make_video(tmp_path / "in.mkv", moving(6), extra=pcm)
    result = enlarge(source, tmp_path / "out.mp4")
    assert (result.frames, result.problems) == (6, ())
    heard = []
    for path in (source, tmp_path / "out.mp4"):
        with av.open(str(path)) as container:
            heard.append(b"".join(bytes(packet) for packet in container.demux(audio=0)))
    assert len(heard[0]) >= 19_200
    assert heard[0] == heard[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("suffix", "audio", "variable"),
    [
        (".mp4", "aac", False),
        (".mp4", "libopus", True),
        (".mkv", "libopus", False),
        (".mkv", "aac", True),
    ],
)
def test_every_time_and_every_byte_of_sound_stays(
    tmp_path: Path, suffix: str, audio: str, variable: bool
) -> None:
    count = 300
    source = make_video(
        tmp_path / f"in{suffix}",
        moving(count, 32, 32),
        pts=uneven(count) if variable else None,
        time_base=Fraction(1, 1000) if variable else Fraction(1, 30),
        audio=audio,
        options={"bf": "2"},
    )
    output = tmp_path / f"out{suffix}"
    notes: list[str] = []
    result = enlarge(source, output, on_note=notes.append)
    assert (result.frames, result.problems, notes) == (count, (), [])
    readers = [packets, probed_packets] if FFPROBE else [packets]
    for read in readers:
        before, after = read(source, "video"), read(output, "video")
        assert len(after) == count
        assert sorted(pts for pts, _ in before) == sorted(pts for pts, _ in after)
        assert read(source, "audio") == read(output, "audio")
        assert len(read(output, "audio")) > count


@pytest.mark.slow
def test_a_constant_rate_is_still_called_one(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mp4", moving(60), rate=Fraction(30000, 1001),
                        time_base=Fraction(1001, 30000))  # fmt: skip
    enlarge(source, tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == Fraction(30000, 1001)
        assert stream.duration * stream.time_base == Fraction(60 * 1001, 30000)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize(("video_first", "audio_first"), [(0, "1/2"), (20, "0")])
def test_sound_and_image_that_begin_apart_stay_apart(
    tmp_path: Path, suffix: str, video_first: int, audio_first: str
) -> None:
    source = make_video(
        tmp_path / f"in{suffix}",
        moving(60),
        pts=range(video_first, video_first + 60),
        audio="libopus",
        audio_start=Fraction(audio_first),
        options={"bf": "2"},
    )
    output = tmp_path / f"out{suffix}"
    enlarge(source, output)
    assert sorted(packets(source, "video"))[0][0] == sorted(packets(output, "video"))[0][0]
    assert packets(source, "audio") == packets(output, "audio")


@pytest.mark.slow
def test_times_that_the_container_rounds_are_announced(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mp4", moving(30), audio="aac")
    notes: list[str] = []
    enlarge(source, tmp_path / "out.mkv", on_note=notes.append)
    names = "stream 0 (video, h264) to 1 ms, stream 1 (audio, aac) to 1 ms"
    assert notes == [f".mkv files round the timestamps of {names}"]
    before = [pts / 15360 for pts, _ in sorted(packets(source, "video"))]
    after = [pts / 1000 for pts, _ in sorted(packets(tmp_path / "out.mkv", "video"))]
    offsets = np.subtract(after, before)  # Matroska has no negative times: all may be moved
    assert np.ptp(offsets) <= 0.001
    notes.clear()
    enlarge(tmp_path / "out.mkv", tmp_path / "back.mp4", on_note=notes.append)
    assert not [note for note in notes if "video" in note]


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_cut_begins_and_ends_at_its_frames_with_their_sound(tmp_path: Path, suffix: str) -> None:
    source = make_video(
        tmp_path / f"in{suffix}", moving(300), audio="libopus", options={"g": "50", "bf": "2"},
        chapters=[(0, 2, "one"), (2, 5, "two"), (5, 9, "three"), (9, 10, "four")],
    )  # fmt: skip
    output = tmp_path / f"out{suffix}"
    result = enlarge(source, output, start=4.0, duration=3.0)
    assert (result.frames, result.problems) == (90, ())
    assert result.seconds == pytest.approx(3, abs=0.002)
    with av.open(str(source)) as container:
        base = container.streams.video[0].time_base
        sound_base = container.streams.audio[0].time_base
    original = sorted(packets(source, "video"))[120:210]
    shift = original[0][0] * base
    times = [pts * base for pts, _ in sorted(packets(output, "video"))]
    assert times[0] < Fraction(2, 100)  # Matroska moves all by the sound's first, negative time
    expected = [pts * base - shift for pts, _ in original]
    assert np.ptp(np.subtract(times, expected)) == 0
    with av.open(str(output)) as container:
        steps = container.streams.audio[0].time_base
    sound = [(digest, pts * steps) for pts, digest in packets(output, "audio")]
    inside = [
        (digest, pts * sound_base - shift) for pts, digest in packets(source, "audio")
        if shift <= pts * sound_base < shift + 3
    ]  # fmt: skip
    assert [digest for digest, _ in inside] == [digest for digest, _ in sound]
    moved = [after - before for (_, after), (_, before) in zip(sound, inside, strict=True)]
    assert np.ptp(moved) <= Fraction(1, 1000)
    assert abs(moved[0] - (times[0] - expected[0])) <= Fraction(1, 1000)
    with av.open(str(output)) as container:
        found = [(c["start"] * c["time_base"], c["end"] * c["time_base"], c["metadata"]["title"])
                 for c in container.chapters()]  # fmt: skip
    assert [title for *_, title in found] == ["two", "three"]
    assert found[0][0] == 0
    assert float(found[0][1]) == pytest.approx(1, abs=0.01)
    assert float(found[1][1]) == pytest.approx(3, abs=0.01)


@pytest.mark.slow
def test_a_cut_has_the_images_of_the_whole(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mp4", moving(200), options={"g": "50", "bf": "2"})
    lossless = {"quality": 0, "codec": "h264"}
    enlarge(source, tmp_path / "all.mp4", **lossless)
    enlarge(source, tmp_path / "cut.mp4", start=4.0, duration=1.0, **lossless)
    whole, cut = decoded(tmp_path / "all.mp4"), decoded(tmp_path / "cut.mp4")
    assert len(cut) == 30
    np.testing.assert_array_equal(cut, whole[120:150])


@pytest.mark.slow
def test_subtitles_chapters_tags_cover_and_fonts_are_copied(tmp_path: Path) -> None:
    def extra(container: Any) -> Callable[[], list[av.Packet]]:
        subtitles = container.add_mux_stream("subrip", time_base=Fraction(1, 1000))
        subtitles.metadata.update(language="deu", title="Untertitel")
        subtitles.disposition = av.stream.Disposition.forced
        container.add_attachment("font.ttf", "application/x-truetype-font", b"a font" * 20)

        def write() -> list[av.Packet]:
            lines = []
            for number, text in enumerate((b"Guten Tag", b"Tsch\xc3\xbcss")):
                packet = av.Packet(text)
                packet.stream, packet.time_base = subtitles, Fraction(1, 1000)
                packet.pts = packet.dts = number * 400 + 100
                packet.duration = 300
                lines.append(packet)
            return lines

        return write

    source = make_video(
        tmp_path / "in.mkv", moving(30), audio="libopus", extra=extra, language="fra",
        metadata={"title": "Été", "artist": "nobody"}, chapters=[(0, 0.5, "a"), (0.5, 1, "b")],
    )  # fmt: skip
    notes: list[str] = []
    enlarge(source, tmp_path / "out.mkv", on_note=notes.append)
    assert not notes
    assert packets(source, "subtitles") == packets(tmp_path / "out.mkv", "subtitles")
    with av.open(str(source)) as before, av.open(str(tmp_path / "out.mkv")) as after:
        assert [s.type for s in before.streams] == [s.type for s in after.streams]
        assert after.metadata["title"] == "Été"
        assert after.metadata["ARTIST"] == before.metadata["ARTIST"] == "nobody"
        assert after.streams.video[0].metadata["language"] == "fra"
        subtitles = after.streams.subtitles[0]
        assert (subtitles.metadata["language"], subtitles.metadata["title"]) == (
            "deu",
            "Untertitel",
        )
        assert subtitles.disposition & av.stream.Disposition.forced
        assert before.streams.attachments[0].data == after.streams.attachments[0].data
        assert after.streams.attachments[0].name == "font.ttf"
        assert [c["metadata"] for c in after.chapters()] == [{"title": "a"}, {"title": "b"}]
    enlarge(source, tmp_path / "out.mp4", on_note=notes.append)
    assert [note.split(": .mp4")[0] for note in notes if "left out" in note] == [
        "stream 2 (subtitle, srt, deu) is left out",
        "stream 3 (attachment, font.ttf) is left out",
    ]
    assert [s.type for s in av.open(str(tmp_path / "out.mp4")).streams if s.type != "data"] == [
        "video",
        "audio",
    ]


@pytest.mark.slow
def test_a_cover_stays_a_cover(tmp_path: Path) -> None:
    cover = io.BytesIO()
    from PIL import Image

    Image.fromarray(moving(1)[0]).save(cover, "PNG")

    def extra(container: Any) -> Callable[[], list[av.Packet]]:
        image = container.add_mux_stream("png", width=64, height=48)
        image.disposition = av.stream.Disposition.attached_pic

        def write() -> list[av.Packet]:
            packet = av.Packet(cover.getvalue())
            packet.stream, packet.pts, packet.dts = image, 0, 0
            packet.time_base = Fraction(1, 1000)
            return [packet]

        return write

    source = make_video(tmp_path / "in.mp4", moving(60), audio="aac", extra=extra)
    for options in ({}, {"start": 1.0}):
        enlarge(source, tmp_path / "out.mp4", overwrite=True, **options)
        with av.open(str(tmp_path / "out.mp4")) as container:
            found = container.streams.video
            assert [bool(s.disposition & av.stream.Disposition.attached_pic) for s in found] == [
                False,
                True,
            ]
            (packet,) = (p for p in container.demux(found[1]) if p.size)
            assert bytes(packet) == cover.getvalue()


# --- images -----------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [2**30, -(2**31)])
def test_a_translation_beyond_all_screens_is_no_error(
    tmp_path: Path, place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_video(tmp_path / "in.mp4", moving(2), rotation=90)
    turned = [0, 65536, 0, -65536, 0, 0, place, place, 2**30]
    monkeypatch.setattr(Source, "display_matrix", property(lambda _: list(turned)))
    enlarge(source, tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert abs(next(container.decode(video=0)).rotation) == 90


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("rotation", [90, -90, 180])
def test_rotation_and_pixel_aspect_are_kept(tmp_path: Path, suffix: str, rotation: int) -> None:
    source = make_video(
        tmp_path / f"in{suffix}", moving(4), rotation=rotation, aspect=Fraction(16, 11)
    )
    output = tmp_path / f"out{suffix}"
    enlarge(source, output)
    for path in (source, output):
        with av.open(str(path)) as container:
            assert container.streams.video[0].sample_aspect_ratio == Fraction(16, 11)
            assert abs(next(container.decode(video=0)).rotation) == abs(rotation)
    if FFPROBE:
        found = [probe(path, "-show_streams")["streams"][0] for path in (source, output)]
        assert found[0]["sample_aspect_ratio"] == found[1]["sample_aspect_ratio"] == "16:11"
        turned = [stream["side_data_list"][0]["rotation"] for stream in found]
        assert turned[0] == turned[1]


class RepeatThrice(Repeat):
    factor = 3


def test_marks_that_cannot_be_kept_are_announced(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mkv", moving(4), options={"x264-params": "frame-packing=3"})
    notes: list[str] = []
    enlarge(source, tmp_path / "out.mkv", on_note=notes.append)
    assert notes == ["the stereo 3D metadata of stream 0 (video, h264) are not kept"]


FLAT = [(16, 16, 16), (235, 235, 235), (180, 60, 60), (60, 180, 60), (60, 60, 180), (200, 190, 20)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("matrix", "full", "transfer", "primaries"),
    [(1, False, 1, 1), (1, True, 13, 1), (6, False, 6, 6), (5, True, 6, 5), (2, None, 2, 2)],
)
def test_colours_and_what_they_mean_are_carried_through(
    tmp_path: Path, matrix: int, full: bool | None, transfer: int, primaries: int
) -> None:
    frames = []
    for colour in FLAT:
        frames += [np.full((48, 64, 3), colour, np.uint8)] * 2
    source = make_video(
        tmp_path / "in.mp4", frames, options={"qp": "0"},
        matrix=matrix, full=full, transfer=transfer, primaries=primaries,
    )  # fmt: skip
    upscale_video(source, tmp_path / "out.mp4", upscaler=RepeatThrice(), quality=0)
    with av.open(str(tmp_path / "out.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert context.colorspace == (matrix if matrix != 2 else 6)  # small: BT.601, and said so
        assert context.color_range == (2 if full else 1)
        assert (context.color_trc, context.color_primaries) == (transfer, primaries)
        assert context.pix_fmt.replace("yuvj", "yuv") == "yuv420p"
    for before, after in zip(raw_planes(source), raw_planes(tmp_path / "out.mp4"), strict=True):
        for plane, larger in zip(before, after, strict=True):
            resized = plane.repeat(3, axis=0).repeat(3, axis=1).astype(int)
            assert np.abs(resized - larger).max() <= 1
    # The network itself puts a grain of a level or two on a flat area; its colour is the mean. The
    # conversions' own level, which `out` has as well, is not the network's.
    enlarge(source, tmp_path / "grain.mp4", quality=0)
    repeated, grain = (raw_planes(tmp_path / f"{name}.mp4") for name in ("out", "grain"))
    for before, after in zip(repeated, grain, strict=True):
        for plane, larger in zip(before, after, strict=True):
            assert abs(float(plane.mean()) - float(larger.mean())) <= 1


def raw_planes(path: Path) -> list[list[np.ndarray]]:
    with av.open(str(path)) as container:
        return [[plane.copy() for plane in planes(f)] for f in container.decode(video=0)]


def test_a_large_image_of_unknown_matrix_is_bt709(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mp4", moving(2, 16, 1280), pixel_format="yuv420p")
    enlarge(source, tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.streams.video[0].codec_context.colorspace == 1


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv422p", "yuv444p"])
def test_chroma_resolution_is_kept(tmp_path: Path, pixel_format: str) -> None:
    source = make_video(tmp_path / "in.mkv", moving(4), pixel_format=pixel_format)
    enlarge(source, tmp_path / "out.mkv")
    with av.open(str(tmp_path / "out.mkv")) as container:
        assert container.streams.video[0].codec_context.pix_fmt == pixel_format


def test_rgb_video_is_stored_as_bt709_without_subsampling(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mkv", [np.full((32, 32, 3), (200, 30, 90), np.uint8)] * 3,
                        codec="ffv1", pixel_format="bgr0")  # fmt: skip
    enlarge(source, tmp_path / "out.mkv", quality=0)
    with av.open(str(tmp_path / "out.mkv")) as container:
        context = container.streams.video[0].codec_context
        assert (context.pix_fmt, context.colorspace) == ("yuv444p", 1)
    luma, blue, red = raw_planes(tmp_path / "out.mkv")[0]
    r, g, b = 200 / 255, 30 / 255, 90 / 255
    y = 0.2126 * r + 0.7152 * g + 0.0722 * b
    assert abs(luma[40, 40] - (16 + 219 * y)) <= 1
    assert abs(blue[40, 40] - (128 + 224 * (b - y) / 1.8556)) <= 1
    assert abs(red[40, 40] - (128 + 224 * (r - y) / 1.5748)) <= 1


def test_an_odd_side_is_made_even_by_its_last_line(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mkv", moving(4, 33, 35), codec="libvpx-vp9")
    enlarge(source, tmp_path / "out.mkv", quality=0)
    frame = decoded(tmp_path / "out.mkv")[0]
    assert frame.shape == (100, 106, 3)
    assert np.abs(frame[-1].astype(int) - frame[-2]).mean() < 4
    assert np.abs(frame[:, -1].astype(int) - frame[:, -2]).mean() < 4


@pytest.mark.slow
@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    pixel_format=st.sampled_from(["yuv420p", "yuv422p", "yuv444p"]),
    factor=st.integers(2, 4),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    areas=st.lists(st.tuples(*[st.integers(0, 39)] * 2, *[st.integers(1, 20)] * 2), max_size=3),
    full=st.booleans(),
)
def test_converting_what_has_changed_is_converting_all(
    pixel_format: str,
    factor: int,
    height: int,
    width: int,
    areas: list[tuple[int, int, int, int]],
    full: bool,
) -> None:
    generator = np.random.default_rng(height * 41 + width)
    colours = Colours(pixel_format, 1, full, 2, 2, rgb=False)
    rgb = generator.integers(0, 256, (height * factor, width * factor, 3), dtype=np.uint8)
    part = FromRgb(colours, factor)
    first = part(rgb, [])
    before = [plane.copy() for plane in planes(first)]
    changed = []
    for top, left, rows, columns in areas:
        area = Rectangle(
            min(top, height - 1), min(left, width - 1),
            min(min(top, height - 1) + rows, height), min(min(left, width - 1) + columns, width),
        )  # fmt: skip
        shape = (area.bottom - area.top) * factor, (area.right - area.left) * factor, 3
        rgb = rgb.copy()
        rgb[area.top * factor : area.bottom * factor, area.left * factor : area.right * factor] = (
            generator.integers(0, 256, shape, dtype=np.uint8)
        )
        changed.append(area)
    partly, whole = part(rgb, changed), FromRgb(colours, factor)(rgb, [])
    for a, b in zip(planes(partly), planes(whole), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(planes(first), before, strict=True):
        np.testing.assert_array_equal(a, b)  # an encoder may still read it


@pytest.mark.slow
def test_unchanged_tiles_are_reported_and_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_video(tmp_path / "in.mkv", moving(60, 128, 192), options={"qp": "0"})
    seen: list[VideoProgress] = []
    result = enlarge(source, tmp_path / "out.mkv", on_progress=seen.append)
    assert result.reused > 0.6
    assert seen[-1].frames <= 60
    monkeypatch.setattr(
        "anchorsr.video.tile_reuse.ReusingUpscaler._changed", lambda *_: np.ones((8, 12), bool)
    )
    result = enlarge(source, tmp_path / "whole.mkv")
    assert result.reused < 0.3  # equal frames only
    assert packets(tmp_path / "out.mkv", "video") == packets(tmp_path / "whole.mkv", "video")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("codec", "suffix", "name"),
    [("hevc", ".mp4", "hevc"), ("vp9", ".webm", "vp9"), ("av1", ".mp4", "av1")],
)
def test_other_codecs_keep_the_times_too(
    tmp_path: Path, codec: str, suffix: str, name: str
) -> None:
    source = make_video(
        tmp_path / f"in{suffix}", moving(40, 64, 64), pts=uneven(40), time_base=Fraction(1, 1000),
        codec="libvpx-vp9",
    )  # fmt: skip
    enlarge(source, tmp_path / f"out{suffix}", codec=codec)
    with av.open(str(tmp_path / f"out{suffix}")) as container:
        assert container.streams.video[0].codec_context.codec.canonical_name == name
    times = [
        sorted(p for p, _ in packets(tmp_path / f"{n}{suffix}", "video")) for n in ("in", "out")
    ]
    assert times[0] == times[1]


# --- what is refused ----------------------------------------------------------------------------


def refused(source: Path, folder: Path, error: type[AnchorSRError] = VideoError) -> str:
    before = sorted(folder.iterdir())
    with pytest.raises(error) as caught:
        enlarge(source, folder / "refused.mkv")
    assert sorted(folder.iterdir()) == before
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pixel_format": "yuv420p10le"}, "10 bits per channel (yuv420p10le)"),
        ({"transfer": 16}, "HDR (PQ)"),
        ({"transfer": 18}, "HDR (HLG)"),
        ({"matrix": 9}, "BT.2020"),
        ({"primaries": 9}, "BT.2020"),
        ({"codec": "ffv1", "pixel_format": "bgra"}, "transparency (bgra)"),
    ],
)
def test_what_would_be_flattened_is_refused_by_name(
    tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    source = make_video(tmp_path / "in.mkv", moving(4, 64, 64), **options)
    assert words in refused(source, tmp_path)


def test_files_that_are_no_videos_are_refused(tmp_path: Path, dog: np.ndarray) -> None:
    from PIL import Image

    assert "does not exist" in refused(tmp_path / "missing.mp4", tmp_path)
    (tmp_path / "empty.mp4").touch()
    assert "is empty" in refused(tmp_path / "empty.mp4", tmp_path)
    (tmp_path / "folder.mp4").mkdir()
    assert "is a folder" in refused(tmp_path / "folder.mp4", tmp_path)
    (tmp_path / "text.mp4").write_text("no video\n" * 100)
    text = refused(tmp_path / "text.mp4", tmp_path)
    assert "cannot be opened as a video (Invalid data found when processing input);" in text
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile 'list.mp4'\n")
    assert "is a list of videos" in refused(tmp_path / "list.mp4", tmp_path)
    Image.fromarray(dog).save(tmp_path / "dog.png")
    assert "is an image: use anchorsr upscale" in refused(tmp_path / "dog.png", tmp_path)
    with av.open(str(tmp_path / "sound.m4a"), "w", format="mp4") as container:
        stream = container.add_stream("aac", 44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), format="fltp")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert "holds no video" in refused(tmp_path / "sound.m4a", tmp_path)


def test_outputs_that_would_cost_a_file_are_refused(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mp4", moving(6), audio="aac")
    original = source.read_bytes()
    taken = tmp_path / "taken.mp4"
    taken.write_bytes(b"dear")
    (tmp_path / "link.mp4").symlink_to(source)
    cases = {
        taken: "exists already",
        source: "is an input",
        tmp_path / "link.mp4": "is an input",
        tmp_path / "out.avi": "no suffix that can be written",
        tmp_path / "nowhere" / "out.mp4": "not an existing folder",
    }
    for output, words in cases.items():
        with pytest.raises(OutputError, match=words.replace("(", r"\(")):
            enlarge(source, output)
    for output in (source, tmp_path / "link.mp4"):
        with pytest.raises(OutputError, match="is an input"):
            enlarge(source, output, overwrite=True)
    assert source.read_bytes() == original
    assert taken.read_bytes() == b"dear"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4", "link.mp4", "taken.mp4"]
    enlarge(source, taken, overwrite=True)
    assert len(decoded(taken)) == 6
    (tmp_path / "new.part.mp4").write_bytes(b"hours of work")
    with pytest.raises(OutputError, match="of no earlier run that could go on"):
        enlarge(source, tmp_path / "new.mp4")
    assert (tmp_path / "new.part.mp4").read_bytes() == b"hours of work"


def test_the_input_is_safe_also_where_it_has_the_name_of_a_part(tmp_path: Path) -> None:
    source = make_video(tmp_path / "film.part.mp4", moving(6))
    original = source.read_bytes()
    for overwrite in (False, True):
        with pytest.raises(OutputError, match=r"film\.mp4 would first be .*, which is the input"):
            enlarge(source, tmp_path / "film.mp4", overwrite=overwrite)
    assert source.read_bytes() == original


def test_a_part_is_kept_until_there_is_something_to_put_in_its_place(tmp_path: Path) -> None:
    part = tmp_path / "out.part.mp4"
    part.write_bytes(b"hours of work")
    with pytest.raises(VideoError, match="does not exist"):
        enlarge(tmp_path / "missing.mp4", tmp_path / "out.mp4", overwrite=True)
    assert part.read_bytes() == b"hours of work"
    source = make_video(tmp_path / "in.mp4", moving(6))
    enlarge(source, tmp_path / "out.mp4", overwrite=True)
    assert not part.exists()
    part.mkdir()
    with pytest.raises(OutputError, match="is a folder: move it away"):
        enlarge(source, tmp_path / "out.mp4", overwrite=True)
    other = tmp_path / "out.part.webm"
    other.write_bytes(b"hours of work")
    with pytest.raises(OutputError, match=r"cannot hold what libx265 writes|cannot be started"):
        enlarge(source, tmp_path / "out.webm", codec="hevc", overwrite=True)
    assert other.read_bytes() == b"hours of work"
    assert not list(tmp_path.glob(".*"))


@pytest.mark.skipif(sys.platform == "win32", reason="no locks")
def test_what_another_run_is_making_is_left_to_it(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mp4", moving(6))
    part = tmp_path / "out.part.mp4"
    part.write_bytes(b"of the other run")
    with FileLocks() as locks:
        assert locks.acquire(tmp_path / "out.mp4")
        with pytest.raises(OutputError, match="is being written by another process"):
            enlarge(source, tmp_path / "out.mp4", overwrite=True)
    assert part.read_bytes() == b"of the other run"
    enlarge(source, tmp_path / "out.mp4", overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4", "out.mp4"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"codec": "mpeg2"}, "no codec 'mpeg2'; choose from: h264"),
        ({"quality": 52}, "0 (best) to 51, not 52"),
        ({"start": -1.0}, "at least 0 seconds, not -1.0"),
        ({"duration": 0.0}, "more than 0 seconds, not 0.0"),
        ({"start": 9.0}, "no frame at or after this start"),
    ],
)
def test_impossible_options_are_refused(
    tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    source = make_video(tmp_path / "in.mp4", moving(6))
    with pytest.raises(AnchorSRError) as caught:
        enlarge(source, tmp_path / "out.mp4", **options)
    assert words in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4"]


def test_more_pixels_than_codecs_take_are_refused(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mkv", [np.zeros((16, 6000, 3), np.uint8)] * 2, codec="ffv1")
    assert "18000x48 pixels; codecs take up to 16384" in refused(source, tmp_path, OutputError)


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'anchorsr\[video\]'"):
        upscale_video(tmp_path / "in.mp4", tmp_path / "out.mp4")


def test_an_encoder_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_video(tmp_path / "in.mp4", moving(6))
    monkeypatch.setitem(codecs.CODECS, "h264", codecs.Codec("libnothing", 19, 51, {}, bits=1))
    with pytest.raises(OutputError, match="this PyAV has no encoder libnothing"):
        enlarge(source, tmp_path / "out.mp4")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4"]


# --- what goes wrong on the way -----------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_source_that_is_cut_off_gives_what_it_has(tmp_path: Path, suffix: str) -> None:
    source = make_video(
        tmp_path / f"in{suffix}", moving(300), audio="aac",
        container_options={"movflags": "faststart"} if suffix == ".mp4" else None,
    )  # fmt: skip
    data = source.read_bytes()
    source.write_bytes(data[: len(data) * 6 // 10])
    output = tmp_path / f"out{suffix}"
    result = enlarge(source, output)
    assert 100 < result.frames < 250
    assert len(decoded(output)) == result.frames
    (problem,) = result.problems
    assert "is damaged or cut off after" in problem
    assert "of 10.0 seconds" in problem
    told = float(problem.split(" after ")[1].split()[0])
    assert told == pytest.approx(result.frames / 30, abs=0.4)


@pytest.mark.slow
def test_a_source_without_its_end_that_holds_the_index_is_refused(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mp4", moving(300))
    data = source.read_bytes()
    source.write_bytes(data[: len(data) // 2])
    assert "cut off" in refused(source, tmp_path)


@pytest.mark.slow
def test_damaged_frames_are_counted_and_the_rest_is_done(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mkv", moving(100), options={"g": "10"}, audio="libopus")
    with av.open(str(source)) as container:
        places = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    data = bytearray(source.read_bytes())
    for position, size in places[45:48]:
        data[position + 8 : position + size] = bytes(size - 8)
    source.write_bytes(data)
    result = enlarge(source, tmp_path / "out.mkv")
    assert 90 <= result.frames <= 100
    (problem,) = result.problems
    assert "frames are damaged" in problem
    assert packets(source, "audio") == packets(tmp_path / "out.mkv", "audio")


def test_an_avi_that_repeats_frames_is_not_called_cut_off(tmp_path: Path) -> None:
    """It counts them, and has no packet for them."""
    times = [*range(10), *range(15, 25)]
    source = make_video(
        tmp_path / "in.avi", moving(20), pts=times, time_base=Fraction(1, 25), rate=25,
        codec="mpeg4",
    )  # fmt: skip
    with av.open(str(source)) as container:
        assert container.streams.video[0].frames == 25
    result = enlarge(source, tmp_path / "out.mkv")
    assert (result.frames, result.problems) == (20, ())
    with av.open(str(source)) as container:
        places = [packet.pos for packet in container.demux(video=0) if packet.size]
    source.write_bytes(source.read_bytes()[: places[4]])
    result = enlarge(source, tmp_path / "cut.mkv")
    assert result.frames <= 4
    assert "is damaged or cut off" in result.problems[0]


@pytest.mark.slow
def test_a_size_that_changes_ends_the_video_there(tmp_path: Path) -> None:
    parts = [
        make_video(tmp_path / f"{n}.ts", moving(30, 48, n), pts=range(i * 30, i * 30 + 30),
                   container_options={"mpegts_flags": "resend_headers"})
        for i, n in enumerate((64, 80))
    ]  # fmt: skip
    source = tmp_path / "in.ts"
    source.write_bytes(b"".join(part.read_bytes() for part in parts))
    result = enlarge(source, tmp_path / "out.mkv")
    assert result.frames == 30
    assert "changes from 64x48 to 80x48" in result.problems[0]


@pytest.mark.slow
def test_times_that_go_back_are_told_and_left_out(tmp_path: Path) -> None:
    data = make_video(tmp_path / "once.ts", moving(60), audio="aac").read_bytes()
    source = tmp_path / "twice.ts"
    source.write_bytes(data * 2)
    result = enlarge(source, tmp_path / "out.mp4")
    assert result.frames == 60
    assert "60 frames are not later than the previous one" in result.problems[0]
    assert "packets of stream 1 (audio, aac) are not later" in result.problems[1]


class Limited(io.FileIO):
    """A file on a disk with little room; what a second file holds comes back when it is closed."""

    room = 0

    def write(self, data: Any) -> int:
        size = min(len(data), Limited.room)
        if not size:
            raise OSError(errno.ENOSPC, "No space left on device")
        Limited.room -= size
        return super().write(bytes(data)[:size])


@pytest.fixture
def little_room(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Room for as many bytes, and as many again once the reserve is given up."""

    def limit(room: int, reserve: int) -> None:
        class Reserve(io.BytesIO):
            def close(self) -> None:
                Limited.room += 0 if self.closed else reserve
                super().close()

        Limited.room = room
        monkeypatch.setattr(output_file.io, "FileIO", Limited)
        monkeypatch.setattr(output_file.tempfile, "TemporaryFile", lambda **_: Reserve())

    return limit


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_full_disk_leaves_a_part_that_can_be_played(
    tmp_path: Path, little_room: Any, suffix: str
) -> None:
    source = make_video(tmp_path / f"in{suffix}", moving(600), audio="aac")
    little_room(200_000, 500_000)
    said = r"the disk is full: .* the first .* of 20.\d+ seconds"
    with pytest.raises(OutputError, match=said):
        enlarge(source, tmp_path / f"out{suffix}", quality=10)
    part = tmp_path / f"out.part{suffix}"
    resume = tmp_path / f"out{suffix}.resume"
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        [f"in{suffix}", resume.name, part.name]
    )
    frames = len(decoded(part))
    assert 10 < frames < 590
    Limited.room = 10**9
    whole = enlarge(source, tmp_path / f"out{suffix}", quality=10)
    assert whole.frames == 600
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"in{suffix}", f"out{suffix}"]


@pytest.mark.slow
def test_a_disk_without_even_the_reserve_leaves_nothing(tmp_path: Path, little_room: Any) -> None:
    source = make_video(tmp_path / "in.mp4", moving(600), audio="aac")
    little_room(200_000, 1_000)
    with pytest.raises(OutputError, match=r"No space left on device.*: free some space"):
        enlarge(source, tmp_path / "out.mp4", quality=10)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs a small file system of its own")
def test_a_real_full_disk(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mp4", moving(400, 96, 128), audio="aac")
    small = tmp_path / "small"
    small.mkdir()
    program = (
        "import sys\nfrom anchorsr.video.upscale import upscale_video\n"
        "from anchorsr.errors import OutputError\n"
        f"try: upscale_video({str(source)!r}, {str(small / 'out.mp4')!r}, quality=0)\n"
        "except OutputError as error: print(error)\n"
        f"import av\ncontainer = av.open({str(small / 'out.part.mp4')!r})\n"
        "print(sum(1 for _ in container.decode(video=0)))"
    )
    script = f'mount -t tmpfs -o size=17m tmpfs {small} && exec {sys.executable} -c "$0"'
    command = ["unshare", "-rm", "sh", "-c", script, program]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, check=False,
                               env=environment())  # fmt: skip
    except FileNotFoundError:
        pytest.skip("needs unshare")
    if "unshare:" in ended.stderr or "mount:" in ended.stderr:
        pytest.skip("needs the right to mount")
    lines = ended.stdout.splitlines()
    assert lines[0].startswith("the disk is full: "), ended.stderr
    assert 10 < int(lines[1]) < 400


@pytest.mark.slow
def test_an_interrupt_leaves_a_part_that_can_be_played(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mp4", moving(300), audio="aac")
    notes: list[str] = []

    def stop(progress: VideoProgress) -> None:
        if progress.frames > 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        enlarge(source, tmp_path / "out.mp4", on_progress=stop, on_note=notes.append)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "in.mp4", "out.mp4.resume", "out.part.mp4",
    ]  # fmt: skip
    frames = len(decoded(tmp_path / "out.part.mp4"))
    assert 20 < frames < 300
    assert f"the first {frames / 30:.2f} of 10." in notes[0]
    assert enlarge(source, tmp_path / "out.mp4").frames == 300
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4", "out.mp4"]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(anchorsr.__file__).parents[1])}


@pytest.mark.slow
def test_ctrl_c_is_one_line_and_130(tmp_path: Path) -> None:
    make_video(tmp_path / "in.mp4", moving(1000, 96, 128), audio="aac")
    process = subprocess.Popen(
        [sys.executable, "-m", "anchorsr", "video", "in.mp4", "-o", "out.mp4"],
        cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        until = time.monotonic() + 60
        part = tmp_path / "out.part.mp4"
        while not (part.exists() and part.stat().st_size > 10_000) and time.monotonic() < until:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert "out.part.mp4 holds the first" in err
    assert err.splitlines()[-1] == "stopped"
    assert 0 < len(decoded(part)) < 1000


@pytest.mark.slow
def test_a_second_interrupt_leaves_nothing(tmp_path: Path) -> None:
    """It comes while the frames that were begun are waited for."""
    source = make_video(tmp_path / "in.mp4", moving(100))
    notes: list[str] = []

    class Slow(RepeatThrice):
        def upscale_rgb(self, rgb: np.ndarray) -> np.ndarray:
            time.sleep(0.2)
            return super().upscale_rgb(rgb)

    def stop(progress: VideoProgress) -> None:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        upscale_video(source, tmp_path / "out.mp4", upscaler=Slow(), on_progress=stop,
                      on_note=notes.append)  # fmt: skip
    assert notes == ["0 frames are kept: the same command starts over"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4"]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("video-")]


@pytest.mark.slow
@pytest.mark.parametrize("step", ["ToRgb.__call__", "FromRgb.__call__"])
def test_what_a_thread_raises_is_raised_once_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    source = make_video(tmp_path / "in.mp4", moving(100), audio="aac")

    def fail(*_: Any) -> None:
        raise MemoryError("no room for a frame")

    monkeypatch.setattr(f"anchorsr.video.colour.{step}", fail)
    with pytest.raises(MemoryError, match="no room for a frame"):
        enlarge(source, tmp_path / "out.mp4")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4"]


# --- memory, and the command --------------------------------------------------------------------


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length(tmp_path: Path) -> None:
    """900 frames after 50, of which each upscaled one has 81 kB as RGB and 41 kB as YUV."""
    sources = [
        make_video(
            tmp_path / f"{seconds}.mp4", moving(seconds * 5), time_base=Fraction(1, 5), rate=5,
            audio="aac",
        )
        for seconds in (10, 180)
    ]  # fmt: skip
    program = (
        "import resource, sys; from anchorsr.video.upscale import upscale_video\n"
        "for path in sys.argv[1:]:\n"
        "    upscale_video(path, threads=1, model='fast')\n"
        "    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    out = subprocess.check_output(
        [sys.executable, "-c", program, *map(str, sources)],
        env=environment(), text=True, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    short, long = map(int, out.split())
    bytes_each = 1024 if sys.platform != "darwin" else 1
    assert (long - short) * bytes_each < 20 * 2**20


@pytest.mark.slow
def test_the_command_says_what_it_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    source = make_video(tmp_path / "in.mp4", moving(60), audio="aac")
    assert app.run(["video", "in.mp4"]) == 0
    printed = capsys.readouterr()
    assert printed.out == "in_x3.mp4\n"
    assert printed.err.startswith("note: 60 frames in ")
    assert "of the tiles reused; in parallel: decoding" in printed.err
    assert app.run(["video", "in.mp4", "-o", "b.mkv", "--duration", "1", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["frames"], row["output"], row["problems"]) == (30, "b.mkv", [])
    assert row["frames_per_second"] > 0
    data = make_video(tmp_path / "c.mkv", moving(90)).read_bytes()
    source.write_bytes(data[: len(data) // 2])
    assert app.run(["video", "in.mp4", "-o", "d.mp4"]) == 1
    assert "error: in.mp4 is damaged or cut off after" in capsys.readouterr().err
    assert (tmp_path / "d.mp4").exists()
