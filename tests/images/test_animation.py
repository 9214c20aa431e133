"""Animations: frames as a viewer shows them, their durations, and how they are written."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from anchorsr.errors import ImageError, OutputError
from anchorsr.images.animation import (
    Animation,
    read_animation,
    read_file,
    write_animation,
    write_file,
)
from anchorsr.images.formats import check_output
from anchorsr.images.image import RasterImage
from anchorsr.images.io import read_image, write_image
from anchorsr.inference.image_upscaler import ImageUpscaler
from anchorsr.inference.sizes import TargetSize
from anchorsr.inference.upscaler import Upscaler, upscale_image
from helpers.images import PNG_SIGNATURE, SRGB, chunk, exif_block, noise

SUFFIXES = [".gif", ".webp", ".png", ".avif"]
TIMES = (70, 130, 200, 40, 1000, 30)


@pytest.fixture(scope="module")
def upscaler() -> Upscaler:
    return Upscaler("quality", threads=1, engine="litert")


def drawn(transparent: bool) -> list[Image.Image]:
    """A disc that moves over a pattern, or over transparency; two frames are equal."""
    frames = []
    for step in (0, 1, 2, 2, 3, 4):
        if transparent:
            image = Image.new("RGBA", (40, 30), (0, 255, 0, 0))
        else:
            image = Image.fromarray(noise(6, 8)).resize((40, 30), Image.Resampling.NEAREST)
            image = image.convert("RGBA")
        place = (2 + 5 * step, 5, 16 + 5 * step, 19)
        ImageDraw.Draw(image).ellipse(place, fill=(220, 30, 60, 255), outline=(255, 255, 255, 255))
        frames.append(image)
    return frames


def made(transparent: bool, *, plays: int = 3) -> Animation:
    def frames() -> Iterator[RasterImage]:
        for image in drawn(transparent):
            rgba = np.array(image)
            yield RasterImage(rgba[..., :3], rgba[..., 3] if transparent else None)

    return Animation(
        size=(30, 40), durations_ms=TIMES, plays=plays, transparent=transparent, frames=frames
    )


def shown(animation: Animation) -> list[np.ndarray]:
    """Blend each frame with grey."""
    frames = []
    for image in animation.frames():
        weight = 1.0 if image.alpha is None else image.alpha[..., None] / 255
        frames.append(image.rgb * weight + 128 * (1 - weight))
    return frames


def timeline(animation: Animation) -> list[np.ndarray]:
    """The frame shown at every ten milliseconds, so that merged frames equal separate ones."""
    ends = np.cumsum(animation.durations_ms)
    frames = shown(animation)
    return [frames[int(np.searchsorted(ends, at, "right"))] for at in range(5, int(ends[-1]), 10)]


# Files


@pytest.mark.slow
@pytest.mark.parametrize("transparent", [False, True])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_written_shows_the_same_at_the_same_time(
    tmp_path: Path, suffix: str, transparent: bool
) -> None:
    path = tmp_path / f"a{suffix}"
    write_animation(path, made(transparent), quality=100)
    again = read_animation(path)
    assert again.size == (30, 40)
    assert again.plays == (0 if suffix == ".avif" else 3)
    assert again.transparent == transparent
    assert sum(again.durations_ms) == sum(TIMES)
    if suffix != ".webp":  # libwebp merges equal frames
        assert again.durations_ms == TIMES
    for expected, frame in zip(timeline(made(transparent)), timeline(again), strict=True):
        limit = {".png": 0, ".gif": 0, ".webp": 20, ".avif": 2}[suffix]
        assert np.abs(frame - expected).mean() <= limit


@pytest.mark.parametrize("transparent", [False, True])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_another_program_wrote_is_read_as_it_is_shown(
    tmp_path: Path, suffix: str, transparent: bool
) -> None:
    first, *others = drawn(transparent)
    path = tmp_path / f"a{suffix}"
    options: dict[str, object] = {
        ".gif": {"disposal": 2 if transparent else 1, "loop": 2},
        ".webp": {"lossless": True, "loop": 3},
        ".png": {"disposal": 1 if transparent else 0, "loop": 3},
        ".avif": {"quality": 100, "subsampling": "4:4:4"},
    }[suffix]
    first.save(path, save_all=True, append_images=others, duration=list(TIMES), **options)
    animation = read_animation(path)
    assert animation.plays == (0 if suffix == ".avif" else 3)
    assert sum(animation.durations_ms) == sum(TIMES)
    for expected, frame in zip(timeline(made(transparent)), timeline(animation), strict=True):
        limit = {".png": 0, ".gif": 1, ".webp": 0, ".avif": 2}[suffix]
        assert np.abs(frame - expected).mean() <= limit


@pytest.mark.parametrize("disposal", [0, 1, 2, 3])
def test_gif_frames_are_composed(tmp_path: Path, disposal: int) -> None:
    """Partial frames, assembled by hand, with each disposal method."""
    palette = bytes([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9])

    def frame(left: int, colour: int, disposal: int) -> bytes:
        control = b"!\xf9\x04" + struct.pack("<BHB", disposal << 2 | 1, 5, 3) + b"\0"
        packed = 0b100 | colour << 3 | 0b101 << 6  # clear, one pixel, end: three bits each
        place = b"," + struct.pack("<4HB", left, 0, 1, 1, 0)
        return control + place + b"\x02\x02" + struct.pack("<H", packed) + b"\0"

    data = b"GIF89a" + struct.pack("<HHBBB", 3, 1, 0x91, 0, 0) + palette
    data += frame(0, 0, 1) + frame(1, 1, disposal) + frame(2, 2, 1) + b";"
    path = tmp_path / "a.gif"
    path.write_bytes(data)
    animation = read_animation(path)
    last = list(animation.frames())[2]
    assert last.rgb[0, 0].tolist() == [255, 0, 0]
    assert last.rgb[0, 2].tolist() == [0, 0, 255]
    assert last.alpha is not None
    assert last.alpha.tolist() == [[255, 255 if disposal < 2 else 0, 255]]
    assert animation.plays == 1


def test_image_beside_an_apng_is_no_frame_of_it(tmp_path: Path) -> None:
    frames = drawn(False)
    path = tmp_path / "a.png"
    Image.new("RGBA", (40, 30)).save(
        path, save_all=True, append_images=frames, duration=50, default_image=True
    )
    animation = read_animation(path)
    assert len(animation.durations_ms) == len(frames) - 1  # Pillow has merged the equal ones
    np.testing.assert_array_equal(next(animation.frames()).rgb, np.array(frames[0])[..., :3])


def test_a_thirtieth_of_a_second_is_kept_by_png_and_does_not_drift_in_gif(tmp_path: Path) -> None:
    third = 1000 / 30
    pixels = [RasterImage(noise(4, 4, seed=seed)) for seed in range(30)]
    animation = Animation(
        size=(4, 4), durations_ms=(third,) * 30, plays=0, transparent=False,
        frames=lambda: iter(pixels),
    )  # fmt: skip
    for suffix in SUFFIXES:
        write_animation(tmp_path / f"a{suffix}", animation)
        again = read_animation(tmp_path / f"a{suffix}")
        assert sum(again.durations_ms) == pytest.approx(1000)
        assert again.plays == 0
    assert read_animation(tmp_path / "a.png").durations_ms[0] == pytest.approx(third)
    assert set(read_animation(tmp_path / "a.gif").durations_ms) == {30, 40}


@pytest.mark.slow
@pytest.mark.parametrize("plays", [0, 1, 2, 5])
@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
def test_repetitions_are_kept(tmp_path: Path, suffix: str, plays: int) -> None:
    write_animation(tmp_path / f"a{suffix}", made(False, plays=plays))
    assert read_animation(tmp_path / f"a{suffix}").plays == plays


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".webp", ".png", ".avif"])
def test_metadata_is_kept_and_true(tmp_path: Path, suffix: str) -> None:
    first, *others = drawn(False)
    path = tmp_path / f"a{suffix}"
    turned = suffix != ".avif"  # to write a turned sequence ends Pillow 13's process
    block = exif_block(6 if turned else 1, size=(30, 40))
    first.save(path, save_all=True, append_images=others, exif=block, icc_profile=SRGB)
    animation = read_animation(path)
    size = (40, 30) if turned else (30, 40)
    assert animation.size == size
    expected = np.rot90(np.array(first), -turned)[..., :3]
    assert np.abs(next(animation.frames()).rgb.astype(int) - expected).mean() < 20
    write_animation(tmp_path / f"b{suffix}", animation)
    again = read_animation(tmp_path / f"b{suffix}")
    assert again.icc_profile == SRGB
    assert again.size == size
    assert again.exif is not None
    exif = Image.Exif()
    exif.load(again.exif)
    assert (exif.get_ifd(0x8769)[0xA003], exif.get_ifd(0x8769)[0xA002]) == size


def test_an_image_stays_an_image(tmp_path: Path) -> None:
    for suffix in SUFFIXES:
        write_image(tmp_path / f"a{suffix}", RasterImage(noise(5, 6)))
        assert isinstance(read_file(tmp_path / f"a{suffix}"), RasterImage)
        with pytest.raises(ImageError, match="still image"):
            read_animation(tmp_path / f"a{suffix}")
    write_image(tmp_path / "a.jpg", RasterImage(noise(5, 6)))
    with pytest.raises(ImageError, match="give an animation"):
        read_animation(tmp_path / "a.jpg")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_animation_is_no_image(tmp_path: Path, suffix: str) -> None:
    write_animation(tmp_path / f"a{suffix}", made(True))
    assert isinstance(read_file(tmp_path / f"a{suffix}"), Animation)
    with pytest.raises(ImageError, match="is an animation"):
        read_image(tmp_path / f"a{suffix}")


@pytest.mark.parametrize("suffix", [".jpg", ".tif", ".heic"])
def test_a_format_of_still_images_is_refused_before_any_frame(tmp_path: Path, suffix: str) -> None:
    def frames() -> Iterator[RasterImage]:
        pytest.fail("a frame was made")

    animation = Animation(
        size=(9, 9), durations_ms=(1, 1), plays=0, transparent=False, frames=frames
    )
    for write in (write_file, write_animation):
        with pytest.raises(OutputError, match=r"cannot hold; write a \.gif"):
            write(tmp_path / f"a{suffix}", animation)
    (tmp_path / "a.gif").write_text("precious")
    with pytest.raises(OutputError, match="exists already"):
        write_file(tmp_path / "a.gif", animation)
    with pytest.raises(OutputError, match="16383 a side"):
        check_output(tmp_path / "a.webp", 18_000, 18_000, animated=True)
    assert (tmp_path / "a.gif").read_text() == "precious"


def test_an_error_in_a_frame_leaves_no_file(tmp_path: Path) -> None:
    def frames() -> Iterator[RasterImage]:
        yield RasterImage(noise(9, 9))
        raise ImageError("the second frame is gone")

    animation = Animation(
        size=(9, 9), durations_ms=(10, 10), plays=0, transparent=False, frames=frames
    )
    for suffix in SUFFIXES:
        with pytest.raises(ImageError, match="second frame"):
            write_file(tmp_path / f"a{suffix}", animation)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_file_that_changes_between_two_passes_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.gif"
    write_animation(path, made(False))
    animation = read_animation(path)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ImageError):
        list(animation.frames())
    path.unlink()
    with pytest.raises(ImageError, match="does not exist"):
        list(animation.frames())


@pytest.mark.slow
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_cut_off_animation_is_refused_before_any_work(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    write_animation(path, made(False))
    data = path.read_bytes()
    for tenths in range(1, 10):
        path.write_bytes(data[: len(data) * tenths // 10])
        with pytest.raises(ImageError):
            read_file(path)


def test_a_gif_that_ends_after_its_first_frame_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "a.gif"
    write_animation(path, made(False))
    data = path.read_bytes()
    second = data.index(b"!\xf9", data.index(b"!\xf9") + 1)
    path.write_bytes(data[:second])
    for read in (read_file, read_image):
        with pytest.raises(ImageError, match="cut off"):
            read(path)


@pytest.mark.parametrize("lost", [1, 2])  # the trailer; and the end of the last frame's blocks
def test_a_gif_without_its_last_bytes_is_whole(tmp_path: Path, lost: int) -> None:
    path = tmp_path / "a.gif"
    write_animation(path, made(False))
    whole = list(read_animation(path).frames())
    path.write_bytes(path.read_bytes()[:-lost])
    animation = read_animation(path)
    for one, other in zip(animation.frames(), whole, strict=True):
        np.testing.assert_array_equal(one.rgb, other.rgb)
    assert "end of the file is missing" in animation.notes[0]


def test_pixels_that_stay_are_not_drawn_again_in_gif(tmp_path: Path) -> None:
    """More colours than a palette has: still pixels keep their colour of the first frame."""
    ground = noise(64, 64)
    images = []
    for step in range(3):
        rgb = ground.copy()
        rgb[20:30, 10 * step : 10 * step + 10] = noise(10, 10, seed=step + 1)
        images.append(RasterImage(rgb))
    animation = Animation(
        size=(64, 64), durations_ms=(50,) * 3, plays=0, transparent=False,
        frames=lambda: iter(images),
    )  # fmt: skip
    write_animation(tmp_path / "a.gif", animation)
    first, second, third = (image.rgb for image in read_animation(tmp_path / "a.gif").frames())
    stays = np.ones((64, 64), bool)
    stays[20:30, :30] = False
    np.testing.assert_array_equal(first[stays], second[stays])
    np.testing.assert_array_equal(first[stays], third[stays])
    assert np.abs(first.astype(int) - ground).mean() < 40


@pytest.mark.parametrize("colours", [1, 2, 200, 255])
def test_gif_keeps_up_to_255_colours_exactly(tmp_path: Path, colours: int) -> None:
    table = noise(1, 255, seed=4)[0][:colours]
    rgb = table[np.arange(40 * 41).reshape(40, 41) % colours]
    write_image(tmp_path / "a.gif", RasterImage(rgb))
    np.testing.assert_array_equal(read_image(tmp_path / "a.gif").rgb, rgb)


# Upscaling


@pytest.mark.slow
@pytest.mark.parametrize("transparent", [False, True])
def test_each_frame_is_what_its_image_would_become(upscaler: Upscaler, transparent: bool) -> None:
    animation = made(transparent)
    image_upscaler = ImageUpscaler("quality", threads=1, engine="litert")
    larger = image_upscaler.animate(animation, image_upscaler.plan(*animation.size))
    assert (larger.size, larger.durations_ms, larger.plays) == ((90, 120), TIMES, 3)
    for before, after in zip(animation.frames(), larger.frames(), strict=True):
        expected = upscale_image(before, upscaler)
        np.testing.assert_array_equal(after.rgb, expected.rgb)
        if expected.alpha is not None:
            np.testing.assert_array_equal(after.alpha, expected.alpha)


def test_frames_take_any_size() -> None:
    animation = made(False)
    image_upscaler = ImageUpscaler(target=TargetSize(width=50), threads=1)
    larger = image_upscaler.animate(animation, image_upscaler.plan(*animation.size))
    assert larger.size == (38, 50)
    assert {frame.size for frame in larger.frames()} == {(38, 50)}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_each_frame_is_computed_once_and_an_equal_one_not_at_all(
    tmp_path: Path, suffix: str
) -> None:
    seen: list[RasterImage] = []

    def twice(image: RasterImage) -> RasterImage:
        seen.append(image)
        rgb = image.rgb.repeat(2, axis=0).repeat(2, axis=1)
        alpha = image.alpha
        return RasterImage(
            rgb, None if alpha is None else alpha.repeat(2, axis=0).repeat(2, axis=1)
        )

    animation = made(True)
    larger = animation.with_frames((2 * animation.size[0], 2 * animation.size[1]), twice)
    assert not seen
    write_animation(tmp_path / f"a{suffix}", larger)
    assert len(seen) == 5


@pytest.mark.slow
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_memory_does_not_grow_with_the_number_of_frames(tmp_path: Path, suffix: str) -> None:
    def animation(count: int) -> Animation:
        def frames() -> Iterator[RasterImage]:
            for number in range(count):
                rgb = np.full((200, 200, 3), number, np.uint8)
                yield RasterImage(rgb)

        return Animation(
            size=(200, 200), durations_ms=(10,) * count, plays=0, transparent=False, frames=frames
        )

    peaks = []
    for count in (8, 60):
        tracemalloc.start()
        write_animation(tmp_path / f"{count}{suffix}", animation(count))
        read_animation(tmp_path / f"{count}{suffix}")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 20 * 200 * 200 * 3


def test_chunks_of_an_apng_are_in_order(tmp_path: Path) -> None:
    write_animation(tmp_path / "a.png", made(False))
    data = (tmp_path / "a.png").read_bytes()
    assert data.startswith(PNG_SIGNATURE)
    names, numbers, at = [], [], 8
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        name, content = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        assert data[at : at + 12 + length] == chunk(name, content)
        names.append(name)
        if name in (b"fcTL", b"fdAT"):
            numbers.append(struct.unpack_from(">I", content)[0])
        at += 12 + length
    assert names[:2] == [b"IHDR", b"acTL"]
    assert names[2:] == [b"fcTL", b"IDAT", *[b"fcTL", b"fdAT"] * 5, b"IEND"]
    assert numbers == list(range(11))
