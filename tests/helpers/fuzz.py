"""Damage files of every kind at random, and read them: an error of our own, or a result.

Anything else (another exception, a signal, more than 30 seconds for a file) is a failure, and the
file is kept. As a program: `python tests/helpers/fuzz.py KIND,KIND SECONDS SEED FOLDER`.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import json
import math
import random
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

_SECONDS_EACH = 30
_NUMBERS = [0, 1, 2, 127, 128, 255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1]
_VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 3, 10**6, 2**63, 10**30, -(10**30), 0.5, 1e308, math.inf, math.nan,
    "", "x", "abpn", "\x1b[31m", "ÿ" * 300, [], {}, [[]], [1], ["x"], {"a": 1}, {"": None},
]  # fmt: skip


def damaged_bytes(data: bytes, source: random.Random) -> bytes:
    """Change some bytes: flip, overwrite, insert, delete, repeat or cut off."""
    content = bytearray(data)
    for _ in range(source.choice([1, 1, 1, 2, 4, 16])):
        if not content:
            break
        place = source.randrange(len(content))
        length = source.choice([1, 1, 2, 4, 8, 64, 1024])
        kind = source.randrange(7)
        if kind == 0:
            content[place] ^= 1 << source.randrange(8)
        elif kind == 1:
            content[place : place + length] = source.randbytes(length)
        elif kind == 2:
            number, size = source.choice(_NUMBERS), source.choice([1, 2, 4])
            order = source.choice(["big", "little"])
            content[place : place + size] = (number % 256**size).to_bytes(size, order)
        elif kind == 3:
            content[place:place] = source.randbytes(length)
        elif kind == 4:
            del content[place : place + length]
        elif kind == 5:
            content[place:place] = content[place : place + length]
        else:
            del content[place:]
    return bytes(content)


def damaged_value(value: Any, source: random.Random) -> Any:
    """Replace one value somewhere in nested tables and lists."""
    if isinstance(value, dict) and value and source.random() < 0.9:
        key = source.choice(list(value))
        kind = source.randrange(12)
        if kind == 0:
            return {each: value[each] for each in value if each != key}
        if kind == 1:
            return {**value, source.choice(["new", "", "step", "name"]): source.choice(_VALUES)}
        return {**value, key: damaged_value(value[key], source)}
    if isinstance(value, list | tuple) and value and source.random() < 0.8:
        place = source.randrange(len(value))
        return [*value[:place], damaged_value(value[place], source), *value[place + 1 :]]
    if source.random() < 0.05:
        deep: Any = 1
        for _ in range(source.choice([50, 200, 800])):
            deep = [deep] if source.random() < 0.5 else {"a": deep}
        return deep
    return source.choice(_VALUES)


# Kinds. Each returns what makes a damaged file in a folder, and what reads it.
Make = Callable[[random.Random, Path], Path]
Kind = tuple[Make, Callable[[Path], object]]


def _any_of(files: dict[str, bytes]) -> Make:
    def make(source: random.Random, folder: Path) -> Path:
        name = source.choice(list(files))
        path = folder / f"case{Path(name).suffix}"
        path.write_bytes(damaged_bytes(files[name], source))
        return path

    return make


def _images(_: Path) -> Kind:
    import numpy as np
    from PIL import Image

    from anchorsr.images.animation import Animation, read_file

    pixels = np.random.default_rng(0).integers(0, 256, (3, 20, 24, 4), np.uint8)
    frames = [Image.fromarray(each) for each in pixels]
    files: dict[str, bytes] = {}

    def add(name: str, image: Image.Image, **options: Any) -> None:
        buffer = io.BytesIO()
        image.save(buffer, Path(name).suffix[1:].replace("jpg", "jpeg"), **options)
        files[name] = buffer.getvalue()

    rgb = frames[0].convert("RGB")
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "words"
    add("rgba.png", frames[0])
    add("palette.png", rgb.quantize(8))
    add("deep.png", Image.fromarray(pixels[0, ..., 0].astype(np.uint16) * 257))
    add("film.png", frames[0], save_all=True, append_images=frames[1:], duration=50)
    add("plain.jpg", rgb, exif=exif, quality=90)
    add("progressive.jpg", rgb, progressive=True)
    add("ink.jpg", rgb.convert("CMYK"))
    add("plain.webp", frames[0], exif=exif)
    add("lossless.webp", frames[0], lossless=True)
    add("film.webp", frames[0], save_all=True, append_images=frames[1:], duration=50)
    add("plain.tiff", rgb, exif=exif)
    add("packed.tiff", rgb, compression="tiff_lzw")
    add("plain.gif", rgb.quantize(8))
    add("film.gif", rgb, save_all=True, append_images=frames[1:], duration=50)
    add("plain.avif", rgb)

    def read(path: Path) -> None:
        image = read_file(path)
        if isinstance(image, Animation):
            for _ in image.frames():
                pass

    return _any_of(files), read


def _videos(folder: Path) -> Kind:
    from anchorsr.video.upscale import upscale_video
    from helpers.videos import Repeat, make_video, moving

    files = {}
    for name, options in {
        "a.mp4": {"audio": "aac", "rotation": 90},
        "b.mkv": {"audio": "libopus", "chapters": [(0, 0.1, "one")]},
        "c.avi": {"codec": "mpeg4"},
        "d.webm": {"codec": "libvpx-vp9"},
        "e.ts": {"codec": "mpeg2video", "options": {"flags": "+ildct+ilme"}, "audio": "aac"},
        "f.mov": {"codec": "mjpeg", "pixel_format": "yuvj420p"},
    }.items():
        made: Any = options
        files[name] = make_video(folder / name, moving(5, 32, 48), **made).read_bytes()

    def read(path: Path) -> None:
        target = path.with_name("out.mkv")
        try:
            upscale_video(path, target, upscaler=Repeat(), threads=1, overwrite=True)  # type: ignore[arg-type]
        finally:
            left = [each.name for each in path.parent.iterdir() if ".part" in each.name]
            assert not left, left
            target.unlink(missing_ok=True)

    return _any_of(files), read


def _tflite(_: Path) -> Kind:
    import numpy as np

    from anchorsr.engines.runtimes import load_engine
    from anchorsr.models.registry import model_path, read_model

    files = {f"{name}.tflite": model_path(name, 3).read_bytes() for name in ("fast", "abpn")}
    image = np.zeros((1, 5, 7, 3), np.uint8)

    def read(path: Path) -> None:
        data, graph = read_model(path)
        if graph.macs_per_pixel < 10**6:
            load_engine(data, threads=1)(image)

    return _any_of(files), read


def _cards(_: Path) -> Kind:
    from anchorsr.models.card import read_card
    from anchorsr.models.registry import model_path
    from anchorsr.utils.strict_json import to_json

    text = model_path("abpn", 3).with_suffix(".json").read_bytes()
    table = json.loads(text)

    def make(source: random.Random, folder: Path) -> Path:
        path = folder / "case.json"
        changed = json.dumps(damaged_value(table, source)).encode()
        path.write_bytes(damaged_bytes(text, source) if source.random() < 0.5 else changed)
        return path

    def read(path: Path) -> None:
        to_json(read_card(path.with_suffix(".tflite")).to_dict())

    return make, read


def _recipes(_: Path) -> Kind:
    from anchorsr.training.recipe import read_recipe

    folder = Path(__file__).parents[2] / "recipes"
    files = {path.name: path.read_bytes() for path in sorted(folder.glob("*.toml"))}
    tables = ["network", "data", "schedule", "optimizer", "quantization", "validation"]

    def make(source: random.Random, folder: Path) -> Path:
        path = folder / "case.toml"
        text = files[source.choice(list(files))]
        if source.random() < 0.5:
            path.write_bytes(damaged_bytes(text, source))
            return path
        lines = text.decode().splitlines()
        for _ in range(source.choice([1, 2])):
            place = source.randrange(len(lines))
            key = lines[place].partition("=")[0]
            value = json.dumps(damaged_value(source.choice(_VALUES), source))
            lines[place] = source.choice([f"{key} = {value}", f"[{source.choice(tables)}]", ""])
        path.write_text("\n".join(lines), encoding="utf-8")
        return path

    return make, read_recipe


def _checkpoints(folder: Path) -> Kind:
    import numpy as np
    import torch

    from anchorsr.images.io import RasterImage, write_image
    from anchorsr.training.checkpoint import read_content
    from anchorsr.training.machine import Machine
    from anchorsr.training.recipe import Recipe
    from anchorsr.training.trainer import train
    from anchorsr.utils.config import parse_table

    torch.set_num_threads(1)
    images = folder / "images"
    images.mkdir()
    rgb = np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)
    write_image(images / "a.png", RasterImage(rgb))
    table: dict[str, Any] = {
        "network": {"name": "abpn", "channels": 4, "body": 0, "expansion": 4},
        "data": {"folders": [str(images)], "patch": 8, "batch": 1},
        "schedule": {"steps": 2},
    }
    machine = Machine(threads=1)
    run = folder / "run"
    train(parse_table(Recipe, table, ""), run, machine=machine)
    longer = parse_table(Recipe, {**table, "schedule": {"steps": 3}}, "")
    names = ["checkpoint.pt", "weights.pt", "run.json"]
    files = {name: (run / name).read_bytes() for name in names}
    contents = {name: read_content(run / name) for name in names[:2]}
    contents["run.json"] = json.loads(files["run.json"])

    def make(source: random.Random, place: Path) -> Path:
        for name in names:
            (place / name).write_bytes(files[name])
        name = source.choice([*names, "checkpoint.pt"])
        if source.random() < 0.3:
            (place / name).write_bytes(damaged_bytes(files[name], source))
            return place
        value = damaged_value(contents[name], source)
        if name == "run.json":
            (place / name).write_text(json.dumps(value))
        else:
            with contextlib.suppress(RecursionError):  # too deep for PyTorch to write
                torch.save(value, place / name)
        return place

    def read(place: Path) -> None:
        from anchorsr.errors import AnchorSRError
        from anchorsr.training.checkpoint import load_run

        for use in (lambda: load_run(place).step, lambda: train(longer, place, machine=machine)):
            try:
                use()
            except AnchorSRError:
                continue

    return make, read


KINDS: dict[str, Callable[[Path], Kind]] = {
    "images": _images,
    "videos": _videos,
    "tflite": _tflite,
    "cards": _cards,
    "recipes": _recipes,
    "checkpoints": _checkpoints,
}


def fuzz(kind: str, seconds: float, seed: int, folder: Path) -> int:
    """Read damaged files for so many seconds; returns their number.

    Raises:
        SystemExit: A file fails. It is kept in `folder`, and `python -X dev` reads it again.
    """
    from anchorsr.errors import AnchorSRError

    seeds = folder / "seeds"
    seeds.mkdir()
    make, read = KINDS[kind](seeds)
    end, count = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        place = folder / "case"
        place.mkdir(exist_ok=True)
        path = make(random.Random(f"{seed} {count}"), place)
        faulthandler.dump_traceback_later(_SECONDS_EACH, exit=True)
        try:
            read(path)
        except AnchorSRError as error:
            text = str(error)
            assert text, path
            assert len(text) < 3000, text[:200]
        except BaseException:
            traceback.print_exc()
            print(f"seed {seed}, file {count}: {path}", file=sys.stderr)
            raise SystemExit(1) from None
        finally:
            faulthandler.cancel_dump_traceback_later()
        for made in place.iterdir():
            made.unlink()
        count += 1
    return count


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    faulthandler.enable()
    for each in sys.argv[1].split(","):
        kept = Path(sys.argv[4], each)
        kept.mkdir()
        print(each, fuzz(each, float(sys.argv[2]), int(sys.argv[3]), kept))
