"""Videos as people have them: sound of old codecs, interlaced frames."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from anchorsr.errors import VideoError
from anchorsr.video.upscale import VideoResult, upscale_video
from helpers.videos import Repeat, make_video, moving, packets


def enlarge(source: Path, target: Path, **options: Any) -> VideoResult:
    return upscale_video(source, target, upscaler=Repeat(), threads=1, quality=0, **options)


def add_sound(path: Path, codec: str, rate: int, layout: str = "mono") -> Path:
    """A second of a rising tone, with 15 frames of video."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", 15)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        sound = container.add_stream(codec, rate)
        sound.layout, sound.bit_rate = layout, 96_000
        if codec == "tta":
            sound.codec_context.format = "s16"
        for image in moving(15):
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        seconds = np.arange(rate) / rate
        wave = np.sin(2 * np.pi * (200 + 300 * seconds) * seconds) * 0.3  # it repeats nowhere
        channels = sound.codec_context.channels
        samples = np.repeat((wave * 32767).astype(np.int16), channels)[None]
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
        container.mux(video.encode(None))
    return path


def heard(path: Path, times: np.ndarray) -> tuple[np.ndarray, str]:
    """The first channel of the sound at these times in seconds, and its codec."""
    with av.open(str(path)) as container:
        codec = container.streams.audio[0].codec_context.codec.canonical_name
        frames = list(container.decode(audio=0))
    waves = [frame.to_ndarray() for frame in frames]
    channels = 1 if frames[0].format.is_planar else frames[0].layout.nb_channels
    wave = np.concatenate([wave[0, ::channels] for wave in waves])
    start = float(frames[0].pts * frames[0].time_base)
    return np.interp(times, start + np.arange(len(wave)) / frames[0].rate, wave), codec


@pytest.mark.slow
@pytest.mark.parametrize(
    ("codec", "rate", "layout", "suffix", "target", "becomes"),
    [
        ("adpcm_ms", 44_100, "mono", ".avi", ".mp4", "aac"),
        ("adpcm_ms", 11_025, "mono", ".avi", ".webm", "opus"),
        ("wmav2", 44_100, "stereo", ".wmv", ".mkv", "aac"),
        ("wmav1", 22_050, "mono", ".wmv", ".mov", "aac"),
        ("pcm_s24le", 96_000, "stereo", ".mkv", ".webm", "opus"),
        ("tta", 44_100, "stereo", ".mkv", ".mp4", "flac"),
        ("tta", 44_100, "mono", ".mkv", ".mov", "alac"),
    ],
)
def test_sound_that_a_container_cannot_hold_is_converted(
    tmp_path: Path, codec: str, rate: int, layout: str, suffix: str, target: str, becomes: str
) -> None:
    source = add_sound(tmp_path / f"in{suffix}", codec, rate, layout)
    notes: list[str] = []
    result = enlarge(source, tmp_path / f"out{target}", on_note=notes.append)
    assert result.problems == ()
    assert f"is converted to {becomes}: {target} files cannot hold it" in "\n".join(notes)
    times = np.linspace(0.2, 0.8, 20_000)
    before, _ = heard(source, times)
    # The same sound at the same time; MP4 rounds the beginning to a millisecond.
    likeness = []
    for shift in np.linspace(-0.002, 0.002, 17):
        after, now = heard(result.target, times + shift)
        likeness.append(np.corrcoef(before, after)[0, 1])
    assert now == becomes
    assert max(likeness) > 0.95


def test_lossless_sound_stays_so(tmp_path: Path) -> None:
    source = add_sound(tmp_path / "in.mkv", "tta", 44_100, "stereo")
    enlarge(source, tmp_path / "out.mp4")
    heard = [
        np.concatenate([f.to_ndarray().reshape(-1) for f in av.open(str(path)).decode(audio=0)])
        for path in (source, tmp_path / "out.mp4")
    ]
    np.testing.assert_array_equal(heard[0], heard[1])


@pytest.mark.slow
def test_sound_that_fits_is_copied_and_can_be_left_out(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mp4", moving(30), audio="aac")
    notes: list[str] = []
    enlarge(source, tmp_path / "with.mp4")
    enlarge(source, tmp_path / "without.mp4", sound=False, on_note=notes.append)
    assert packets(tmp_path / "with.mp4", "audio") == packets(source, "audio")
    assert notes == []
    with av.open(str(tmp_path / "without.mp4")) as container:
        assert [stream.type for stream in container.streams] == ["video"]


def interlace(images: list[np.ndarray]) -> list[np.ndarray]:
    """Frames of two fields each: even rows of one image, odd rows of the next."""
    frames = []
    for first, second in zip(images[::2], images[1::2], strict=True):
        frame = first.copy()
        frame[1::2] = second[1::2]
        frames.append(frame)
    return frames


def sliding(count: int) -> list[np.ndarray]:
    """A smooth wave that moves to the right."""
    columns = np.arange(64)
    waves = [128 + 100 * np.sin((columns - 3 * step) * (2 * np.pi / 64)) for step in range(count)]
    return [np.broadcast_to(w[None, :, None], (48, 64, 3)).astype(np.uint8) for w in waves]


def combing(path: Path) -> float:
    """Mean difference of neighbouring rows of the inner frames, which the waves do not have."""
    with av.open(str(path)) as container:
        frames = [f.to_ndarray()[: f.height].astype(int) for f in container.decode(video=0)]
    return float(np.mean([np.abs(np.diff(f[:, : 2 * 64], axis=0)).mean() for f in frames[2:-2]]))


FLAGGED = {"x264-params": "tff=1", "qp": "1"}


def test_interlaced_frames_are_deinterlaced(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mp4", interlace(sliding(24)), options=FLAGGED)
    combs = {}
    for mode in ("auto", "on", "off"):
        notes: list[str] = []
        target = tmp_path / f"{mode}.mp4"
        result = enlarge(source, target, deinterlace=mode, on_note=notes.append)
        assert (result.frames, result.problems) == (12, ())
        combs[mode] = combing(target)
        assert ("is interlaced" in "".join(notes)) == (mode != "off")
        with av.open(str(target)) as container:
            frames = list(container.decode(video=0))
        assert not any(frame.interlaced_frame for frame in frames)
        assert [float(f.pts * f.time_base) for f in frames] == pytest.approx(
            [n / 30 for n in range(12)]
        )
    assert combs["off"] > 5 * combs["auto"]
    assert combs["auto"] == pytest.approx(combs["on"], abs=0.1)


def test_off_and_unmarked_frames_are_taken_as_they_are(tmp_path: Path) -> None:
    """Such as progressive images in a video that is marked as interlaced."""
    images = moving(12)
    marked = make_video(tmp_path / "marked.mp4", images, options=FLAGGED)
    plain = make_video(tmp_path / "plain.mp4", images, options={"qp": "1"})
    enlarge(marked, tmp_path / "off.mp4", deinterlace="off")
    enlarge(plain, tmp_path / "auto.mp4")
    enlarge(plain, tmp_path / "none.mp4", deinterlace="off")
    assert (tmp_path / "auto.mp4").read_bytes() == (tmp_path / "none.mp4").read_bytes()
    with av.open(str(marked)) as before, av.open(str(tmp_path / "off.mp4")) as after:
        for old, new in zip(before.decode(video=0), after.decode(video=0), strict=True):
            wanted = old.to_ndarray(format="gray").repeat(2, 0).repeat(2, 1)
            assert np.abs(new.to_ndarray(format="gray").astype(int) - wanted).mean() < 3


def test_frames_that_become_interlaced_are_deinterlaced_from_there(tmp_path: Path) -> None:
    parts = [
        make_video(tmp_path / "a.ts", sliding(10), codec="mpeg2video", options={"qscale": "1"}),
        make_video(
            tmp_path / "b.ts",
            interlace(sliding(20)),
            pts=range(10, 20),
            codec="mpeg2video",
            options={"flags": "+ildct+ilme", "qscale": "1"},
        ),
    ]
    both = tmp_path / "both.ts"
    both.write_bytes(b"".join(part.read_bytes() for part in parts))
    with av.open(str(both)) as container:
        marks = [frame.interlaced_frame for frame in container.decode(video=0)]
    assert not marks[0]
    assert marks[-1]
    result = enlarge(both, tmp_path / "out.mp4")
    assert result.frames == len(marks)
    assert combing(tmp_path / "out.mp4") < 1.5


def test_a_mode_that_does_not_exist_is_named(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mp4", moving(4))
    with pytest.raises(VideoError, match="no deinterlacing 'yes'; choose from: auto, on, off"):
        enlarge(source, tmp_path / "out.mp4", deinterlace="yes")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4"]
