"""Streaming into a PNG file: the same image as without, in little memory."""

from __future__ import annotations

import dataclasses
import os
import struct
import subprocess
import sys
import tracemalloc
import weakref
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

import anchorsr
from anchorsr.errors import OutputError
from anchorsr.images import resize
from anchorsr.images.encode import Coding
from anchorsr.images.io import RasterImage, read_image, read_rgb, write_image
from anchorsr.images.strips import write_strips
from anchorsr.inference import memory, pipeline, streaming
from anchorsr.inference.batch import Job
from anchorsr.inference.image_upscaler import ImageUpscaler
from anchorsr.inference.pipeline import upscale_files
from anchorsr.inference.sizes import TargetSize
from anchorsr.inference.streaming import should_stream, upscale_to_file
from anchorsr.inference.tiling import upscale_strips
from anchorsr.inference.upscaler import Upscaler, upscale_image
from helpers.graphs import image

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.fixture(scope="module")
def upscaler() -> Upscaler:
    return Upscaler("quality", threads=1, engine="litert")


@pytest.fixture
def short_strips(upscaler: Upscaler, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of 24 pixels, so that a small image has several strips."""

    def made(rgb: np.ndarray) -> Iterator[np.ndarray]:
        return upscale_strips(upscaler._engine, rgb, factor=3, halo=upscaler.graph.halo, tile=24)

    monkeypatch.setattr(upscaler, "strips", made)


def exif() -> bytes:
    block = Image.Exif()
    block[0x010F] = "maker"
    block[0x0112] = 1
    block.get_ifd(0x8769)[0xA002] = 5
    return block.tobytes()


def plain(height: int, width: int, seed: int = 0, **fields: object) -> RasterImage:
    return RasterImage(image(seed, height, width)[0], **fields)  # type: ignore[arg-type]


def chunks(path: Path) -> list[tuple[bytes, bytes]]:
    """Kind and data of every chunk, after checking its checksum."""
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    found, at = [], 8
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        assert data[at + 8 + length : at + 12 + length] == struct.pack(
            ">I", zlib.crc32(kind + body)
        )
        found.append((kind, body))
        at += 12 + length
    return found


FIELDS = [
    {},
    {"icc_profile": SRGB},
    {"dpi": (300.0, 72.5)},
    {"dpi": (0.5, 1e9)},  # no file could say so
    {"exif": exif()},
    {"icc_profile": SRGB, "dpi": (96.0, 96.0), "exif": exif()},
    {"icc_profile": SRGB[:16] + b"GRAY" + SRGB[20:]},  # does not fit, and is dropped
]


@pytest.mark.parametrize("fields", FIELDS, ids=lambda fields: "+".join(fields))
@pytest.mark.usefixtures("short_strips")
def test_the_file_says_what_the_ordinary_one_says(
    tmp_path: Path, upscaler: Upscaler, fields: dict[str, object]
) -> None:
    small = plain(61, 45, **fields)
    ordinary, streamed = tmp_path / "ordinary.png", tmp_path / "streamed.png"
    write_image(ordinary, upscale_image(small, upscaler))
    upscale_to_file(small, upscaler, streamed)
    one, other = read_image(ordinary), read_image(streamed)
    np.testing.assert_array_equal(one.rgb, other.rgb)
    assert (one.icc_profile, one.exif, one.dpi) == (other.icc_profile, other.exif, other.dpi)
    assert (other.alpha, other.grey) == (None, False)
    known = [
        {kind: data for kind, data in chunks(path) if kind not in (b"IDAT", b"iCCP")}
        for path in (ordinary, streamed)
    ]
    assert known[0] == known[1]
    order = [kind for kind, _ in chunks(streamed)]
    assert order[0] == b"IHDR"
    assert order[-1] == b"IEND"
    assert all(
        order.index(kind) < order.index(b"IDAT") for kind in (b"iCCP", b"pHYs") if kind in order
    )


@pytest.mark.parametrize("size", [(1, 1), (1, 37), (37, 1), (24, 24), (25, 23), (100, 3)])
@pytest.mark.usefixtures("short_strips")
def test_every_size_has_the_pixels_of_the_whole(
    tmp_path: Path, upscaler: Upscaler, size: tuple[int, int]
) -> None:
    small = plain(*size, seed=2)
    upscale_to_file(small, upscaler, tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").rgb, upscaler(small.rgb))


@pytest.mark.slow
def test_a_photograph_takes_no_more_bytes_than_the_ordinary_way(
    tmp_path: Path, upscaler: Upscaler, dog: np.ndarray
) -> None:
    upscale_to_file(RasterImage(dog), upscaler, tmp_path / "streamed.png")
    write_image(tmp_path / "ordinary.png", RasterImage(upscaler(dog)))
    streamed, ordinary = (
        (tmp_path / f"{name}.png").stat().st_size for name in ("streamed", "ordinary")
    )
    assert streamed < 1.02 * ordinary


def alike(**fields: object) -> dict[str, RasterImage]:
    """Images of every kind, with the same metadata."""
    rgb, alpha = image(3, 40, 30)[0], image(4, 40, 30)[0][:, :, 0]
    grey = rgb[:, :, :1].repeat(3, axis=2)
    return {
        "rgb": RasterImage(rgb, **fields),  # type: ignore[arg-type]
        "rgba": RasterImage(rgb, alpha, **fields),  # type: ignore[arg-type]
        "grey": RasterImage(grey, grey=True, **fields),  # type: ignore[arg-type]
        "grey and alpha": RasterImage(grey, alpha, True, **fields),  # type: ignore[arg-type]
        "black and white": RasterImage(grey, **fields),  # type: ignore[arg-type]
        "16 bits": RasterImage(rgb.astype(np.uint16) * 257, **fields),  # type: ignore[arg-type]
    }


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg"])
@pytest.mark.parametrize("kind", alike())
@pytest.mark.usefixtures("short_strips")
def test_every_kind_is_written_as_the_whole(
    tmp_path: Path, upscaler: Upscaler, suffix: str, kind: str
) -> None:
    gamma = b"\0\0\0\4gAMA\0\1\x86\xa0" + struct.pack(">I", zlib.crc32(b"gAMA\0\1\x86\xa0"))
    for fields in ({"icc_profile": SRGB, "exif": exif()}, {"png_colour": gamma, "comment": b"a"}):
        small = alike(**fields)[kind]
        ordinary, streamed = tmp_path / f"ordinary{suffix}", tmp_path / f"streamed{suffix}"
        write_image(ordinary, upscale_image(small, upscaler), overwrite=True)
        upscale_to_file(small, upscaler, streamed, overwrite=True)
        one, other = read_image(ordinary), read_image(streamed)
        np.testing.assert_array_equal(one.rgb, other.rgb)
        assert (one.alpha is None) == (other.alpha is None)
        if one.alpha is not None and other.alpha is not None:
            np.testing.assert_array_equal(one.alpha, other.alpha)
        for name in ("grey", "icc_profile", "exif", "dpi", "png_colour", "comment", "notes"):
            assert getattr(one, name) == getattr(other, name), name
        if suffix == ".tif":
            assert ordinary.read_bytes() == streamed.read_bytes()


@pytest.mark.parametrize("kind", alike())
@pytest.mark.parametrize("target", [(101, 70), (17, 33), (119, 89)])
@pytest.mark.usefixtures("short_strips")
def test_a_resized_result_is_that_of_the_whole(
    tmp_path: Path,
    upscaler: Upscaler,
    kind: str,
    target: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resize, "_STRIP_PIXELS", 700)
    small = alike()[kind]
    soft = small.rgb // 4 + np.iinfo(small.rgb.dtype).max // 3  # so that no value is clipped
    small = dataclasses.replace(small, rgb=soft)
    upscale_to_file(small, upscaler, tmp_path / "a.png", target=target)
    made = read_image(tmp_path / "a.png")
    whole = resize.resize_image(upscale_image(small, upscaler), *target)
    for one, other in ((made.rgb, whole.rgb), (made.alpha, whole.alpha)):
        if one is not None and other is not None:
            np.testing.assert_allclose(one.astype(int), other.astype(int), atol=2)


@pytest.mark.parametrize("kind", alike())
def test_an_image_that_only_becomes_smaller_is_streamed_too(tmp_path: Path, kind: str) -> None:
    large = alike()[kind]
    soft = large.rgb // 4 + np.iinfo(large.rgb.dtype).max // 3
    large = dataclasses.replace(large, rgb=soft)
    upscale_to_file(large, None, tmp_path / "a.png", target=(20, 17))
    made, whole = read_image(tmp_path / "a.png"), resize.resize_image(large, 20, 17)
    for one, other in ((made.rgb, whole.rgb), (made.alpha, whole.alpha)):
        if one is not None and other is not None:
            np.testing.assert_allclose(one.astype(int), other.astype(int), atol=2)


@pytest.mark.parametrize("kind", alike())
@pytest.mark.parametrize("target", [(20, 15), (14, 30), (120, 90), (70, 61)])
@pytest.mark.usefixtures("short_strips")
def test_a_texture_that_is_streamed_is_that_of_the_whole(
    tmp_path: Path,
    upscaler: Upscaler,
    kind: str,
    target: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The edges of a wrong one differ by tens of levels."""
    monkeypatch.setattr(resize, "_STRIP_PIXELS", 300)
    monkeypatch.setattr(streaming, "_BAND", 16)
    small = alike()[kind]
    passes = target != (20, 15) and target != (14, 30)
    if passes and target != (120, 90) and small.alpha is not None:
        pytest.skip("not streamed")
    network = upscaler if passes else None
    upscale_to_file(small, network, tmp_path / "a.png", target=target, wraps=True)
    made, whole = read_image(tmp_path / "a.png"), small
    if network is not None:
        margin = network.wrapped_margin
        whole = upscale_image(resize.wrapped(small, margin), network)
        whole = resize.without_margin(whole, 3 * margin)
    whole = resize.resize_image(whole, *target, wraps=True)
    levels = np.iinfo(small.rgb.dtype).max // 255
    for one, other in ((made.rgb, whole.rgb), (made.alpha, whole.alpha)):
        if one is not None and other is not None:
            np.testing.assert_allclose(one.astype(int), other.astype(int), atol=2 * levels)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.jpg"])
def test_a_strip_is_freed_before_the_next_is_made(tmp_path: Path, name: str) -> None:
    """Of 100 megapixels times three, each has 67 MB, and three were in memory."""
    made: list[weakref.ref[np.ndarray]] = []

    def strips() -> Iterator[np.ndarray]:
        for _ in range(4):
            assert not any(strip() is not None for strip in made)
            strip = np.zeros((150, 40, 3), np.uint8)
            made.append(weakref.ref(strip))
            yield strip
            del strip

    with (tmp_path / name).open("wb") as file:
        kind = {".png": "PNG", ".tif": "TIFF", ".jpg": "JPEG"}[Path(name).suffix]
        write_strips(file, strips(), plain(2, 2), (600, 40), kind, Coding())
    assert len(made) == 4
    assert read_image(tmp_path / name).size == (600, 40)


def test_transparency_takes_few_copies() -> None:
    """Beside the strip there are those of its result, and not one in float32 for each step."""
    strip = np.zeros((1500, 2000, 4), np.uint8)
    tracemalloc.start()
    for _ in resize.resize_strips([strip], (1500, 2000), (750, 1000), translucent=True):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * strip.nbytes


def test_a_large_texture_is_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_image(tmp_path / "a.png", plain(40, 30, seed=5))
    made = []
    for number, available in enumerate((2**40, 1000)):
        monkeypatch.setattr(streaming, "available_memory", lambda available=available: available)
        if number:
            monkeypatch.setattr(pipeline, "write_file", None)
        for target in (TargetSize(), TargetSize(scale=0.5)):
            upscaler = ImageUpscaler("fast", target=target, threads=1, engine="litert", wraps=True)
            job = Job(tmp_path / "a.png", tmp_path / f"{number}{target.scale}.png")
            (done,) = upscale_files([job], upscaler)
            assert done.error is None
            made.append(read_rgb(job.target))
    np.testing.assert_array_equal(made[0], made[2])
    np.testing.assert_array_equal(made[1], made[3])


def test_a_jpeg_of_many_strips_has_every_restart_marker(tmp_path: Path, upscaler: Upscaler) -> None:
    small = RasterImage(image(7, 400, 9)[0])  # 1200 rows: two strips of 512, and a shorter one
    upscale_to_file(small, upscaler, tmp_path / "a.jpg", Coding(quality=80))
    write_image(tmp_path / "b.jpg", upscale_image(small, upscaler), quality=80)
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.jpg"), read_rgb(tmp_path / "b.jpg"))
    assert not read_image(tmp_path / "a.jpg").notes


def test_a_file_that_exists_is_replaced_only_when_asked(tmp_path: Path, upscaler: Upscaler) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"precious")
    with pytest.raises(OutputError, match="exists already"):
        upscale_to_file(plain(4, 4), upscaler, path)
    assert path.read_bytes() == b"precious"
    upscale_to_file(plain(4, 4), upscaler, path, overwrite=True)
    assert read_image(path).rgb.shape == (12, 12, 3)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), MemoryError(), OSError(28, "No space")])
def test_what_fails_halfway_leaves_nothing(
    tmp_path: Path, upscaler: Upscaler, failure: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(rgb: np.ndarray) -> Iterator[np.ndarray]:
        yield np.zeros((6, rgb.shape[1] * 3, 3), np.uint8)
        raise failure

    monkeypatch.setattr(upscaler, "strips", fails)
    expected = OutputError if isinstance(failure, OSError) else type(failure)
    (tmp_path / "old.png").write_bytes(b"precious")
    for name in ("new.png", "old.png"):
        with pytest.raises(expected):
            upscale_to_file(plain(4, 4), upscaler, tmp_path / name, overwrite=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"old.png": b"precious"}


# When to stream


def test_only_what_is_large_for_the_memory_should_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    small = plain(10, 10)  # 2,700 bytes three times larger
    for available, expected in ((10_800, False), (10_799, True)):
        monkeypatch.setattr(streaming, "available_memory", lambda available=available: available)
        assert should_stream(small, Path("a.PNG"), 3, resized=False) is expected
        assert not should_stream(small, Path("a.webp"), 3, resized=False)


@pytest.mark.parametrize(
    ("name", "factor", "resized", "expected"),
    [
        ("a.png", 2, True, True),
        ("a.png", 2, False, False),
        ("a.png", 4, False, True),
        ("a.jpg", 2, False, True),
        ("a.jpg", 1, False, False),
    ],
)
def test_what_pillow_copies_is_streamed_sooner(
    name: str, factor: int, resized: bool, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To resize 100 megapixels, 1.8 GB were in memory; to write them as JPEG, 0.8 GB."""
    monkeypatch.setattr(streaming, "available_memory", lambda: 2**40)
    rgb = np.broadcast_to(np.zeros(3, np.uint8), (5000, 5000, 3))
    assert should_stream(RasterImage(rgb), Path(name), factor, resized=resized) is expected


def test_the_memory_of_this_machine_is_known() -> None:
    assert 2**26 < memory.available_memory() < 2**46


@pytest.mark.usefixtures("short_strips")
def test_the_pipeline_takes_the_way_that_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image_upscaler = ImageUpscaler(threads=1, engine="litert")
    source = tmp_path / "a.png"
    write_image(source, plain(40, 30, seed=5))
    (done,) = upscale_files([Job(source, tmp_path / "whole.png")], image_upscaler)
    assert done.error is None
    monkeypatch.setattr(streaming, "available_memory", lambda: 10_000)
    monkeypatch.setattr(pipeline, "write_file", None)
    (done,) = upscale_files([Job(source, tmp_path / "out" / "streaming.png")], image_upscaler)
    assert done.error is None
    whole, streamed = (
        read_image(tmp_path / name).rgb for name in ("whole.png", "out/streaming.png")
    )
    np.testing.assert_array_equal(whole, streamed)


@pytest.mark.parametrize("suffix", [".webp", ".avif", ".heic"])
def test_what_codecs_need_more_memory_for_than_there_is_is_refused(
    suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 10**9)
    large = Path(f"a{suffix}")
    with pytest.raises(OutputError, match=r"1\.0 GB are free; write a \.png"):
        memory.check_memory(large, (3333, 3333), (9999, 9999), 3)
    memory.check_memory(large, (1000, 1000), (3000, 3000), 3)
    memory.check_memory(Path("a.jpg"), (3333, 3333), (9999, 9999), 3)


def test_the_pipeline_looks_at_the_memory_before_it_decodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 1000)
    monkeypatch.setattr(memory, "_LEAST_PIXELS", 0)
    monkeypatch.setattr(pipeline, "read_file", None)
    write_image(tmp_path / "a.png", plain(40, 30, seed=5))
    job = Job(tmp_path / "a.png", tmp_path / "a.webp")
    (done,) = upscale_files([job], ImageUpscaler(threads=1, engine="litert"))
    assert "GB of memory" in str(done.error)
    assert not job.target.exists()


MEMORY = """
import sys
from pathlib import Path
import numpy as np
from anchorsr.images.image import RasterImage
from anchorsr.inference.streaming import upscale_to_file
from anchorsr.inference.tiling import upscale_strips

class Repeating:  # in place of a network, which takes its time and little memory
    factor = 3

    def strips(self, rgb):
        return upscale_strips(
            lambda image: image.repeat(3, axis=1).repeat(3, axis=2), rgb, factor=3, halo=8
        )

rgb = np.random.default_rng(0).integers(0, 256, (2200, 3000, 3), np.uint8)
rgb //= 8  # compresses, and takes no part in what is measured
upscale_to_file(RasterImage(rgb), Repeating(), Path(sys.argv[1]))
status = open("/proc/self/status").read()  # what getrusage says begins with the parent's peak
peak = int(status.split("VmHWM:")[1].split()[0]) * 1024
print((peak - rgb.nbytes) / 1e6)
"""


def extra_megabytes(script: str, *arguments: str | Path) -> float:
    """Run a script that prints the megabytes that it took beside its pixels."""
    source = str(Path(anchorsr.__file__).parents[1])
    printed = subprocess.check_output(
        [sys.executable, "-c", script, *arguments],
        env={**os.environ, "PYTHONPATH": source},
        text=True,
        stderr=subprocess.DEVNULL,
    )
    return float(printed)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is measured as Linux does")
def test_the_whole_result_is_never_in_memory(tmp_path: Path) -> None:
    """It has 178 MB; without streaming, memory holds it more than once: more than 450 MB."""
    path = tmp_path / "large.png"
    assert extra_megabytes(MEMORY, path) < 350
    with Image.open(path) as image:
        assert image.size == (9000, 6600)


DECODING = """
import sys
from pathlib import Path
from anchorsr.images.io import read_image

def megabytes(name):
    return int(open("/proc/self/status").read().split(name)[1].split()[0]) / 1e3

before = megabytes("VmRSS:")
image = read_image(Path(sys.argv[1]))
print(megabytes("VmHWM:") - before - image.rgb.nbytes / 1e6)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is measured as Linux does")
@pytest.mark.parametrize("orientation", [1, 3])
def test_pixels_are_not_in_memory_twice(tmp_path: Path, orientation: int) -> None:
    """Of 24 megapixels, Pillow's copy of the 72 MB has 96 MB, and a flipped one 72 MB."""
    block = Image.Exif()
    block[0x0112] = orientation
    Image.new("RGB", (6000, 4000), (1, 2, 3)).save(tmp_path / "a.jpg", exif=block)
    assert extra_megabytes(DECODING, tmp_path / "a.jpg") < 50
