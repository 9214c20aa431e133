"""Files that are not what they claim to be: one clear error each, and nothing lost."""

from __future__ import annotations

import contextlib
import io
import os
import random
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anchorsr.errors import AnchorSRError, DataError, ImageError, MissingDependencyError
from anchorsr.images.animation import Animation, read_file
from anchorsr.images.formats import SUFFIXES
from anchorsr.images.image import RasterImage
from anchorsr.images.io import find_images, read_image, write_image
from anchorsr.inference.batch import plan_jobs
from anchorsr.inference.image_upscaler import ImageUpscaler
from anchorsr.inference.pipeline import upscale_files
from helpers.images import HEIC, SRGB, chunk, encoded, exif_block, noise, png

MAX_PIXELS = 4_000_000


def good_files() -> dict[str, bytes]:
    """A valid file of each kind, by name; of noise, so that no large part is padding."""
    rgb, rgba = Image.fromarray(noise(40, 40)), Image.fromarray(noise(40, 40, 4))
    frames = [Image.fromarray(noise(24, 24, seed=seed)) for seed in range(3)]
    moving: dict[str, object] = {"save_all": True, "append_images": frames[1:], "duration": 50}
    about: dict[str, object] = {"exif": exif_block(6, thumbnail=b"T" * 50), "icc_profile": SRGB}
    grey = Image.fromarray(noise(40, 40, 1))
    deep = b"".join(b"\0" + row.tobytes() for row in np.tile(noise(40, 40), 2))
    return {
        "plain.png": encoded(rgb, "PNG", **about),
        "alpha.png": encoded(rgba, "PNG"),
        "deep.png": png(40, 40, 16, 2, deep),
        "plain.jpg": encoded(rgb, "JPEG", **about),
        "progressive.jpg": encoded(rgb, "JPEG", progressive=True),
        "cmyk.jpg": encoded(rgb.convert("CMYK"), "JPEG"),
        "plain.webp": encoded(rgb, "WEBP", **about),
        "lossless.webp": encoded(rgba, "WEBP", lossless=True),
        "plain.tif": encoded(rgb, "TIFF", icc_profile=SRGB),
        "lzw.tif": encoded(rgb, "TIFF", compression="tiff_lzw"),
        "deflate.tif": encoded(grey, "TIFF", compression="tiff_adobe_deflate"),
        "fax.tif": encoded(grey.convert("1"), "TIFF", compression="group4"),
        "jpeg.tif": encoded(rgb, "TIFF", compression="jpeg"),
        "plain.avif": encoded(rgba, "AVIF", **about),
        "plain.gif": encoded(grey, "GIF"),
        "moving.gif": encoded(frames[0], "GIF", **moving),
        "moving.webp": encoded(frames[0], "WEBP", **moving),
        "moving.png": encoded(frames[0], "PNG", **moving),
        "moving.avif": encoded(frames[0], "AVIF", **moving),
    }


def heic_file() -> bytes:
    import pillow_heif

    buffer = io.BytesIO()
    pillow_heif.encode("RGB", (40, 40), noise(40, 40).tobytes(), buffer, exif=exif_block(6))
    return buffer.getvalue()


def read(path: Path) -> RasterImage | Animation:
    return read_file(path, max_pixels=MAX_PIXELS)


def assert_one_line(path: Path) -> None:
    with pytest.raises(ImageError) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


GOOD = good_files()


@pytest.fixture(autouse=True)
def _quiet(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """No library may print a line of its own beside the one error."""
    yield
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
@pytest.mark.parametrize("name", GOOD)
def test_the_files_are_good_before_they_are_spoilt(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(GOOD[name])
    assert isinstance(
        read(tmp_path / name), Animation if name.startswith("moving") else RasterImage
    )


@pytest.mark.slow
@pytest.mark.parametrize("tenths", range(10))
@pytest.mark.parametrize("name", GOOD)
def test_a_file_that_is_cut_off_is_refused(tmp_path: Path, name: str, tenths: int) -> None:
    data = GOOD[name]
    (tmp_path / name).write_bytes(data[: len(data) * tenths // 10])
    assert_one_line(tmp_path / name)


@pytest.mark.parametrize("suffix", [HEIC])
def test_a_cut_off_heic_is_refused(tmp_path: Path, suffix: str) -> None:
    data = heic_file()
    path = tmp_path / f"a{suffix}"
    for tenths in range(10):
        path.write_bytes(data[: len(data) * tenths // 10])
        assert_one_line(path)
    path.write_bytes(data)
    assert isinstance(read(path), RasterImage)


@pytest.mark.slow
@pytest.mark.parametrize("name", GOOD)
def test_flipped_bytes_raise_nothing_else(tmp_path: Path, name: str) -> None:
    generator = random.Random(name)
    path = tmp_path / name
    for _ in range(30):
        data = bytearray(GOOD[name])
        for _ in range(generator.randint(1, 6)):
            # Half of the changes are in the header, where they matter most.
            end = 200 if generator.random() < 0.5 else len(data)
            data[generator.randrange(min(end, len(data)))] = generator.randrange(256)
        path.write_bytes(data)
        with contextlib.suppress(ImageError):
            image = read(path)
            if isinstance(image, Animation):
                list(image.frames())


@pytest.mark.slow
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_name_does_not_matter_when_a_file_is_read(tmp_path: Path, suffix: str) -> None:
    for name, data in GOOD.items():
        path = tmp_path / f"{name}{suffix}"
        path.write_bytes(data)
        read(path)
    path = tmp_path / f"words{suffix}"
    path.write_text("These are words, and they are long enough to be read as a header of 64.\n")
    assert_one_line(path)
    path.write_bytes(b"PK\x03\x04" + bytes(200))
    assert_one_line(path)


def sized(name: str, width: int, height: int) -> bytes:
    """A file with a wrong size in its header, and correct otherwise."""
    data = bytearray(GOOD[name])
    if name.endswith(".png"):
        data[16:24] = struct.pack(">II", width, height)
        data[8:33] = chunk(b"IHDR", bytes(data[16:29]))
    elif name.endswith(".jpg"):
        place = data.index(b"\xff\xc0") + 5
        data[place : place + 4] = struct.pack(">HH", min(height, 65_535), min(width, 65_535))
    elif name.endswith(".gif"):
        size = struct.pack("<HH", min(width, 65_535), min(height, 65_535))
        data[6:10] = size
        if not width or not height:
            place = data.index(b",\0\0\0\0") + 5
            data[place : place + 4] = size
    elif name.endswith(".tif"):
        (start,) = struct.unpack_from("<I", data, 4)
        for at in range(start + 2, len(data) - 12, 12):
            tag = struct.unpack_from("<H", data, at)[0]
            if tag in (256, 257):
                value = width if tag == 256 else height
                data[at + 2 : at + 12] = struct.pack("<HII", 4, 1, value)
            if tag > 257:
                break
    elif name.endswith(".avif"):
        place = data.index(b"ispe") + 8
        data[place : place + 8] = struct.pack(">II", width, height)
    elif name == "plain.webp":
        data[24:30] = (
            struct.pack("<I", max(width - 1, 0))[:3] + struct.pack("<I", max(height - 1, 0))[:3]
        )
    return bytes(data)


SIZED = ["plain.png", "deep.png", "plain.jpg", "plain.gif", "plain.tif", "lzw.tif", "plain.avif"]


@pytest.mark.parametrize("name", [*SIZED, "plain.webp", "moving.gif", "moving.png"])
@pytest.mark.parametrize(
    ("width", "height"),
    [(2**31 - 1, 2**31 - 1), (65_535, 65_535), (60_000, 100), (200, 2**24)],
)
def test_a_huge_header_is_refused_without_the_memory_for_it(
    tmp_path: Path, name: str, width: int, height: int
) -> None:
    resource = pytest.importorskip("resource")
    path = tmp_path / name
    path.write_bytes(sized(name, width, height))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert_one_line(path)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert after - before < 200_000  # kilobytes


@pytest.mark.parametrize("name", SIZED)
@pytest.mark.parametrize(("width", "height"), [(0, 0), (0, 40), (40, 0)])
def test_a_size_of_zero_is_refused(tmp_path: Path, name: str, width: int, height: int) -> None:
    (tmp_path / name).write_bytes(sized(name, width, height))
    assert_one_line(tmp_path / name)


def test_a_tiff_whose_directories_run_in_a_circle_ends(tmp_path: Path) -> None:
    data = bytearray(GOOD["plain.tif"])
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    struct.pack_into("<I", data, start + 2 + 12 * count, start)
    (tmp_path / "a.tif").write_bytes(data)
    assert isinstance(read(tmp_path / "a.tif"), RasterImage)


def test_links_that_run_in_a_circle_are_refused(tmp_path: Path) -> None:
    for suffix in SUFFIXES:
        one, other = tmp_path / f"one{suffix}", tmp_path / f"other{suffix}"
        one.symlink_to(other)
        other.symlink_to(one)
        assert_one_line(one)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(DataError):
        find_images(tmp_path / "loop")
    assert_one_line(tmp_path / "loop" / "a.png")


@pytest.mark.slow
def test_a_folder_that_may_not_be_read_is_reported(tmp_path: Path) -> None:
    if not hasattr(os, "geteuid"):
        pytest.skip("needs a system with users")
    locked = tmp_path / "locked"
    locked.mkdir()
    write_image(locked / "a.png", RasterImage(noise(4, 4)))
    program = (
        "import os, sys\n"
        "from pathlib import Path; from anchorsr.images.io import find_images, read_image\n"
        "from anchorsr.errors import AnchorSRError\n"
        "if os.geteuid() == 0: os.setuid(65534)\n"
        "for call in (lambda: find_images(Path(sys.argv[1])),"
        " lambda: read_image(Path(sys.argv[1]) / 'a.png')):\n"
        "    try: call()\n"
        "    except AnchorSRError as error: print(type(error).__name__, error)\n"
    )
    locked.chmod(0)
    try:
        done = subprocess.run(
            [sys.executable, "-c", program, locked], capture_output=True, text=True, check=False
        )
    finally:
        locked.chmod(0o700)
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["DataError", "ImageError"]
    assert done.stderr == ""


@pytest.mark.parametrize("suffix", [".heic", ".heif"])
def test_without_its_package_heic_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / f"a{suffix}").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    with pytest.raises(MissingDependencyError, match=r"pip install 'anchorsr\[heic\]'"):
        read_image(tmp_path / f"a{suffix}")
    with pytest.raises(MissingDependencyError, match=r"pip install 'anchorsr\[heic\]'"):
        write_image(tmp_path / f"b{suffix}", RasterImage(noise(4, 4)))
    assert [path.name for path in tmp_path.iterdir()] == [f"a{suffix}"]


@pytest.fixture(scope="module")
def upscaler() -> ImageUpscaler:
    return ImageUpscaler(threads=1)


@pytest.mark.slow
def test_nothing_is_lost_among_many_bad_files(tmp_path: Path, upscaler: ImageUpscaler) -> None:
    """Of a mixed folder, every good file is upscaled, and every bad file is one error."""
    source = tmp_path / "in"
    source.mkdir()
    for name, data in GOOD.items():
        (source / name).write_bytes(data)
        (source / f"cut-{name}").write_bytes(data[: len(data) // 2])
        (source / f"empty-{name}").touch()
    before = {path.name: path.read_bytes() for path in source.iterdir()}
    jobs = plan_jobs([source], tmp_path / "out", label="x3")
    errors: dict[str, AnchorSRError] = {}
    for done in upscale_files(jobs, upscaler):
        if done.error is not None:
            errors[done.job.source.name] = done.error
    assert sorted(errors) == sorted(name for name in before if name not in GOOD)
    assert all("\n" not in str(error) for error in errors.values())
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(GOOD)
    assert {path.name: path.read_bytes() for path in source.iterdir()} == before
    for path in (tmp_path / "out").iterdir():
        side = 72 if path.name.startswith("moving") else 120
        assert read(path).size == (side, side)
