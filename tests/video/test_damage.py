"""What a film is taken for: its rate, its strengths, and the model that follows."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from anchorsr.data.strengths import CLEAN, Strengths, video_strength
from anchorsr.inference.automatic import Selection, film_model, select_film_model
from anchorsr.inference.estimate import Estimate
from anchorsr.inference.upscaler import Upscaler
from anchorsr.models.registry import CONDITIONED, DEFAULT
from anchorsr.video.chroma import ChromaUpscaler
from anchorsr.video.codecs import CODECS, largest_rate
from anchorsr.video.colour import FromRgb, ToRgb, planes, read_colours
from anchorsr.video.damage import estimate_film
from anchorsr.video.upscale import upscale_video
from helpers.videos import Repeat, make_video

DOG = Path(__file__).parents[2] / "docs" / "dog.jpg"


def pan(count: int = 20, height: int = 120, width: int = 160) -> list[np.ndarray]:
    """Frames of a pan over a photograph."""
    with Image.open(DOG) as image:
        pixels = np.asarray(image.convert("RGB"))
    return [
        np.ascontiguousarray(pixels[40 + k : 40 + k + height, 2 * k : 2 * k + width])
        for k in range(count)
    ]


def estimated(path: Path, codec: str, crf: int) -> float:
    options = {"crf": str(crf), "preset": "medium"}
    if codec == "libx265":
        options["x265-params"] = "log-level=error"
    film = make_video(path, pan(), codec=codec, options=options)
    return estimate_film(film).strengths.video


@pytest.mark.slow
@pytest.mark.parametrize(
    ("codec", "equal"), [("libx264", (18, 24, 34)), ("libx265", (20, 26, 36))], ids=["h264", "hevc"]
)
def test_the_rate_of_a_film_tells_how_coarse_it_is(
    tmp_path: Path, codec: str, equal: tuple[int, int, int]
) -> None:
    strengths = [estimated(tmp_path / f"{crf}.mkv", codec, crf) for crf in equal]
    offset = 2.2 if codec == "libx265" else 0  # x265's CRF is about x264's and two
    for strength, crf in zip(strengths, equal, strict=True):
        assert strength == pytest.approx(video_strength(crf - offset), abs=0.14)


def test_a_lossless_film_has_no_strength(tmp_path: Path) -> None:
    film = make_video(tmp_path / "in.mkv", pan(6), codec="ffv1", pixel_format="yuv420p")
    assert estimate_film(film).strengths.video == 0


def test_what_cannot_be_measured_counts_as_clean(tmp_path: Path) -> None:
    (tmp_path / "in.mp4").write_bytes(b"no film")
    estimate = estimate_film(tmp_path / "in.mp4")
    assert (estimate.strengths, "cannot be measured" in estimate.why) == (CLEAN, True)


@pytest.mark.slow
def test_large_frames_are_measured_in_their_middle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    film = make_video(
        tmp_path / "in.mp4",
        pan(),
        codec="mpeg4",
        options={"flags": "+qscale", "global_quality": "944"},
    )
    whole = estimate_film(film).strengths.video
    monkeypatch.setattr("anchorsr.video.damage._MOST_PIXELS", 120 * 160 // 3)
    assert estimate_film(film).strengths.video == pytest.approx(whole, abs=0.25)


@pytest.mark.slow
def test_a_film_of_a_low_rate_does_not_become_much_larger(tmp_path: Path) -> None:
    film = make_video(tmp_path / "in.mp4", pan(60), options={"crf": "38"})
    sizes = {}
    for name, quality in (("limited", None), ("whole", 10)):
        target = tmp_path / f"{name}.mp4"
        upscale_video(film, target, upscaler=Repeat(), threads=1, quality=quality)
        sizes[name] = target.stat().st_size
    assert sizes["limited"] < 4 * film.stat().st_size < sizes["whole"]


def test_the_limit_follows_from_rate_codecs_and_factor() -> None:
    h264, av1 = CODECS["h264"], CODECS["av1"]
    assert largest_rate("h264", 1e6, 2, h264) == round(1e6 * 2**1.5)
    assert largest_rate("h264", 1e6, 3, av1) == round(0.5e6 * 3**1.5)
    assert largest_rate("hevc", 1e6, 2, h264) == round(1e6 / 0.6 * 2**1.5)
    assert largest_rate("ffv1", 1e6, 2, h264) is None
    assert av1.limited(10).options["maxrate"] == "10"
    assert CODECS["vp9"].limited(10).options["b"] == "10"


@pytest.mark.slow
@pytest.mark.parametrize("codec", list(CODECS))
def test_every_encoder_keeps_to_its_limit(tmp_path: Path, codec: str) -> None:
    limit = 30_000
    limited = CODECS[codec].limited(limit)
    sizes = []
    for name, options in (("free", CODECS[codec].options), ("limited", limited.options)):
        path = tmp_path / f"{name}.mkv"
        options = {**options, "crf": "15"}
        make_video(path, pan(60), codec=limited.encoder, options=options)
        sizes.append(path.stat().st_size * 8 / 2)  # of two seconds
    assert sizes[1] < 2 * limit < sizes[0]


@pytest.mark.parametrize(("height", "width"), [(48, 64), (45, 63)])
@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv422p"])
def test_chroma_is_that_of_lanczos(
    tmp_path: Path, height: int, width: int, pixel_format: str
) -> None:
    frames = pan(2, height, width)
    make_video(tmp_path / "in.mkv", frames, codec="ffv1", pixel_format=pixel_format)
    with av.open(str(tmp_path / "in.mkv")) as container:
        frame = next(container.decode(video=0))
        colours = read_colours(frame, container.streams.video[0].codec_context)
    rgb = ToRgb(colours)(frame).repeat(3, 0).repeat(3, 1)
    chroma = ChromaUpscaler(colours, 3)(frame)
    made = planes(FromRgb(colours, 3)(rgb, [], chroma))
    assert all(np.array_equal(plane, kept) for plane, kept in zip(made[1:], chroma, strict=True))
    assert np.array_equal(made[0], planes(FromRgb(colours, 3)(rgb, []))[0])
    for plane, small in zip(chroma, planes(frame)[1:], strict=True):
        rows, columns = small.shape
        size = (3 * columns, 3 * rows)
        resized = np.asarray(Image.fromarray(small.copy()).resize(size, Image.Resampling.LANCZOS))
        resized = resized[: plane.shape[0], : plane.shape[1]]
        assert np.abs(plane.astype(int) - resized).max() <= 3


def test_chroma_of_full_resolution_is_the_networks(tmp_path: Path) -> None:
    make_video(tmp_path / "in.mkv", pan(2, 32, 32), codec="ffv1", pixel_format="yuv444p")
    with av.open(str(tmp_path / "in.mkv")) as container:
        frame = next(container.decode(video=0))
        colours = read_colours(frame, container.streams.video[0].codec_context)
    assert ChromaUpscaler(colours, 3)(frame) == []


def test_the_model_of_a_film() -> None:
    damaged = Estimate(Strengths(video=0.5), "h264")
    assert select_film_model(damaged, 3).strengths == damaged.strengths
    assert select_film_model(damaged, 3).model == film_model(3)
    automatic = Upscaler("auto", 3, threads=1)
    assert automatic.is_automatic
    chosen = automatic.for_selection(Selection(CONDITIONED, Strengths(video=0.5)))
    assert (chosen.is_automatic, chosen.graph.name) == (False, f"{CONDITIONED}_x3")
    named = Upscaler(DEFAULT, 3, threads=1)
    assert named.for_selection(Selection(CONDITIONED)) is named


@pytest.mark.slow
def test_a_result_names_its_model(tmp_path: Path) -> None:
    film = make_video(tmp_path / "in.mp4", pan(4, 48, 64), options={"crf": "30"})
    result = upscale_video(film, tmp_path / "out.mp4", threads=1)
    assert result.selection.model == film_model(3)
    assert result.selection.strengths.video > 0.4
    assert "h264" in result.selection.why
