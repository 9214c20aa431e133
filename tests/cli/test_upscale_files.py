"""`upscale` and whatever files people have: pipes, globs, folders, comic books, hostile names."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anchorsr.cli import app, terminal
from anchorsr.images.io import read_image, read_rgb
from anchorsr.inference import books, pipeline
from anchorsr.inference.image_upscaler import upscale
from helpers.command_line import Call, Result, run_app
from helpers.images import encoded, noise, smooth


@pytest.fixture
def call(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Call:
    """Run `upscale` in this process, in an empty folder, with an image for standard input."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object, stdin: bytes = b"") -> Result:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        return run_app(capsys, "upscale", *words, "--threads", 1)

    return run


def photo(path: Path, seed: int = 0, size: tuple[int, int] = (8, 12)) -> np.ndarray:
    rgb = noise(*size, seed=seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rgb).save(path)
    return rgb


# Pipes


def test_an_image_goes_through_pipes(
    capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    rgb = noise(8, 12)
    for options, kind in (([], "PNG"), (["--format", "webp"], "WEBP")):
        given = io.TextIOWrapper(io.BytesIO(encoded(Image.fromarray(rgb), "PNG")))
        monkeypatch.setattr(sys, "stdin", given)
        assert app.run(["upscale", "-", "-o", "-", *options]) == 0
        captured = capsysbinary.readouterr()
        with Image.open(io.BytesIO(captured.out)) as image:
            assert (image.format, image.size) == (kind, (36, 24))
            if kind == "PNG":
                np.testing.assert_array_equal(np.asarray(image), upscale(rgb))
        assert captured.err == b""
    assert list(tmp_path.iterdir()) == []


def test_one_side_of_the_pipe_can_be_a_file(call: Call, tmp_path: Path) -> None:
    data = encoded(Image.fromarray(noise(8, 12)), "PNG")
    assert call("-", "-o", "b.png", stdin=data) == (0, "b.png\n", "")
    assert read_image(tmp_path / "b.png").size == (24, 36)
    planned = call("-", "-o", "c.png", "--dry-run", stdin=data)
    assert planned.out == "standard input.png 12x8 -> c.png 36x24\n"
    row = json.loads(call("-", "-o", "c.png", "--json", stdin=data).out)[0]
    assert (row["input"], row["output"]) == ("standard input.png", "c.png")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-"], "needs a name for its result"),
        (["-", "a.png", "-o", "b"], "stands for a single image"),
        (["a.png", "b.png", "-o", "-"], "stands for a single image"),
        (["folder", "-o", "-"], "one image, not a folder"),
        (["a.png", "-o", "-", "--json"], "cannot both go to standard output"),
    ],
)
def test_pipes_that_cannot_be(call: Call, tmp_path: Path, words: list[str], message: str) -> None:
    (tmp_path / "folder").mkdir()
    photo(tmp_path / "a.png")
    code, out, err = call(*words)
    assert (code, out) == (2, "")
    assert message in err


@pytest.mark.parametrize("data", [b"", b"not an image"])
def test_a_bad_image_from_a_pipe_has_no_name_of_a_temporary_file(call: Call, data: bytes) -> None:
    code, _, err = call("-", "-o", "b.png", stdin=data)
    assert code == 1
    assert err.startswith("error: standard input ")
    assert "anchorsr-" not in err


# Outputs


def test_two_images_do_not_become_one_file(call: Call, tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        photo(tmp_path / name)
    result = call("a.jpg", "b.jpg", "-o", "both.jpg")
    assert (result.code, result.out) == (1, "")
    assert "both.jpg is the name of one image, and there are several" in result.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jpg", "b.jpg"]


def test_a_name_with_a_slash_is_a_folder(call: Call, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    for folder in ("results.2024", "called.jpg"):
        assert call("a.png", "-o", f"{folder}/").out == f"{Path(folder, 'a.png')}\n"


def test_a_glob_can_be_run_again(call: Call, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        photo(tmp_path / name)
    assert call("a.png").code == 0
    named = sorted(path.name for path in tmp_path.iterdir())
    assert named == ["a.png", "a_x3.png", "b.png"]
    result = call(*named)
    assert (result.code, result.out) == (0, "b_x3.png\n")
    assert "1 skipped: already exists" in result.err
    assert "1 skipped: named as the result of an earlier run" in result.err
    assert call("a_x3.png").out == "a_x3_x3.png\n"  # alone, it is what a person wants


def test_modification_times_can_be_kept(call: Call, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    os.utime(tmp_path / "a.png", ns=(10**18, 10**18 + 5000))
    assert call("a.png", "--keep-times").code == 0
    assert (tmp_path / "a_x3.png").stat().st_mtime_ns == (tmp_path / "a.png").stat().st_mtime_ns


@pytest.mark.skipif(os.name == "nt", reason="no such permissions")
def test_what_is_replaced_keeps_its_permissions(call: Call, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    for mode in (0o600, 0o640, 0o444):
        photo(tmp_path / "b.png")
        (tmp_path / "b.png").chmod(mode)
        assert call("a.png", "-o", "b.png", "--force").code == 0
        assert (tmp_path / "b.png").stat().st_mode & 0o777 == mode
        (tmp_path / "b.png").unlink()


# Folders


def test_files_of_every_name_are_done_and_others_counted(call: Call, tmp_path: Path) -> None:
    names = [
        "a.jfif",
        "b.JPG",
        "c.jpe",
        "d.bmp",
        "e.mpo",
        "f.DIB",
        "i.jif",
        "j.JFI",
        "k.pjp",
        "l.pjpeg",
    ]
    for name in names:
        kind = "BMP" if name[0] in "df" else "JPEG"
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.fromarray(smooth(8, 12)).save(tmp_path / "in" / name, kind)
    for name in ("g.jp2", "h.txt", "noname"):
        (tmp_path / "in" / name).write_bytes(b"x")
    result = call("in", "-o", "out")
    made = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert made == ["e.jpg" if name == "e.mpo" else name for name in names]
    assert result.err.splitlines() == ["note: 3 of other kinds left out: .jp2, .txt, no suffix"]
    for name in made:
        with Image.open(tmp_path / "out" / name) as image:
            assert image.format == ("BMP" if name[0] in "df" else "JPEG")
            assert image.size == (36, 24)


def test_notes_name_one_image_and_count_several(call: Call, tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        Image.fromarray(smooth(8, 12)).save(tmp_path / name, comment=b"words")
    told = "PNG cannot hold: the comment"
    assert call("a.jpg", "-o", "x.png").err == f"note: a.jpg: {told}\n"
    assert call("a.jpg", "b.jpg", "-o", "y", "--format", "png").err == f"note: 2 images: {told}\n"
    assert json.loads(call("a.jpg", "-o", "z.png", "--json").out)[0]["notes"] == [told]


# Comic books


def book(path: Path, *, hidden: bool = True) -> None:
    with zipfile.ZipFile(path, "w") as made:
        for number in (2, 1):
            data = encoded(Image.fromarray(noise(8, 12, seed=number)), "PNG")
            made.writestr(f"pages/{number}.png", data)
        made.writestr("ComicInfo.xml", b"<ComicInfo/>")
        if hidden:
            made.writestr("__MACOSX/pages/._1.png", b"no image")


def test_a_comic_book_is_upscaled_page_by_page(call: Call, tmp_path: Path) -> None:
    book(tmp_path / "a.cbz")
    assert call("a.cbz", "--dry-run").out == "a.cbz 2 pages -> a_x3.cbz\n"
    assert call("a.cbz") == (0, "a_x3.cbz\n", "")
    with zipfile.ZipFile(tmp_path / "a_x3.cbz") as made:
        assert made.namelist() == [
            "pages/2.png", "pages/1.png", "ComicInfo.xml", "__MACOSX/pages/._1.png"
        ]  # fmt: skip
        assert made.read("ComicInfo.xml") == b"<ComicInfo/>"
        with Image.open(io.BytesIO(made.read("pages/1.png"))) as page:
            np.testing.assert_array_equal(np.asarray(page), upscale(noise(8, 12, seed=1)))
    assert "exists already" in call("a.cbz").err


def test_a_folder_of_comic_books_and_their_format(call: Call, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    book(tmp_path / "in" / "a.CBZ", hidden=False)
    photo(tmp_path / "in" / "b.png")
    result = call("in", "-o", "out", "--format", "webp", "--lossless")
    assert result.out == f"{Path('out/a.CBZ')}\n{Path('out/b.webp')}\n"
    with zipfile.ZipFile(tmp_path / "out" / "a.CBZ") as made:
        assert made.namelist() == ["pages/2.webp", "pages/1.webp", "ComicInfo.xml"]


def test_a_comic_book_is_whole_or_not_at_all(call: Call, tmp_path: Path) -> None:
    book(tmp_path / "a.cbz")
    with zipfile.ZipFile(tmp_path / "a.cbz", "a") as made:
        made.writestr("pages/3.png", b"\x89PNG\r\n\x1a\n")
    result = call("a.cbz")
    assert result.code == 1
    assert result.err.startswith("error: a.cbz: pages/3.png is damaged")
    (tmp_path / "b.cbz").write_bytes(b"PK no archive")
    assert "is no sound .cbz archive" in call("b.cbz").err
    with zipfile.ZipFile(tmp_path / "c.cbz", "w") as empty:
        empty.writestr("words.txt", "words")
    assert "holds no image" in call("c.cbz").err
    assert "comic books stay .cbz files" in call("a.cbz", "-o", "b.png").err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.cbz", "b.cbz", "c.cbz"]


# Limits, and what is refused before any work


def test_frames_have_a_limit_that_can_be_raised(call: Call, tmp_path: Path) -> None:
    frames = [Image.new("P", (1000, 1000), number % 2) for number in range(9)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    for name in ("--dry-run", "--force"):
        result = call("a.gif", "--max-megapixels", 2, name)
        assert result.code == 1
        assert "9 frames of 1000 x 1000 pixels" in result.err
        assert "--max-megapixels 3" in result.err
    assert call("a.gif", "--max-megapixels", 3, "--dry-run").code == 0


@pytest.mark.slow
def test_the_largest_photographs_of_phones_are_read(call: Call, tmp_path: Path) -> None:
    Image.new("1", (16_320, 12_240)).save(tmp_path / "a.png")
    assert call("a.png", "--scale", 0.01, "--dry-run").code == 0


def test_what_a_format_cannot_hold_is_refused_before_decoding(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decoding(*_: object, **__: object) -> None:
        raise AssertionError("decoded")

    photo(tmp_path / "a.png", size=(6, 6000))
    monkeypatch.setattr(pipeline, "read_file", decoding)
    assert "WEBP can hold" in call("a.png", "-o", "b.webp").err
    assert "cannot be lossless" in call("a.png", "-o", "b.jpg", "--lossless").err


def test_an_animation_that_is_replaced_while_it_is_read_is_an_error(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = [Image.fromarray(noise(8, 8, seed=seed)) for seed in range(3)]
    for name in ("a.gif", "b.gif"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    write_file = pipeline.write_file

    def replacing(*words: object, **options: object) -> None:
        (tmp_path / "b.gif").replace(tmp_path / "a.gif")
        write_file(*words, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(pipeline, "write_file", replacing)
    result = call("a.gif")
    assert result.code == 1
    assert "a.gif was changed while it was read" in result.err
    assert [path.name for path in tmp_path.iterdir()] == ["a.gif"]


# Names that would control a terminal

HOSTILE = "\x1b]0;title\x07\x9b31m\u202e"


def is_visible(text: str) -> bool:
    return not set(text) & set(HOSTILE.replace("0;title", "").replace("31m", "").replace("]", ""))


@pytest.mark.skipif(os.name == "nt", reason="no such names")
@pytest.mark.parametrize("is_terminal", [True, False])
def test_control_characters_of_names_are_escaped(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_terminal: bool
) -> None:
    (tmp_path / f"{HOSTILE}.png").write_bytes(b"no image")
    photo(tmp_path / f"good{HOSTILE}.png")
    (tmp_path / "in").mkdir()
    photo(tmp_path / "in" / "a.png")
    (tmp_path / "in" / f"b.{HOSTILE}").touch()
    sys_stdout = sys.stdout
    monkeypatch.setattr(type(sys_stdout), "isatty", lambda self: is_terminal, raising=False)
    bad = call(f"{HOSTILE}.png")
    assert bad.code == 1
    assert "\\x1b]0;title\\x07\\x9b31m\\u202e.png is not" in bad.err
    good = call(f"good{HOSTILE}.png")
    assert is_visible(bad.err + good.err + call("in", "-o", "out").err)
    assert is_visible(good.out) is is_terminal
    assert good.code == 0


def test_keys_and_text_in_notes_are_escaped(call: Call, tmp_path: Path) -> None:
    from PIL.PngImagePlugin import PngInfo

    text = PngInfo()
    text.add_text(f"a{chr(0x9B)}\x1b[2J", "words")
    Image.fromarray(noise(8, 12)).save(tmp_path / "a.png", pnginfo=text)
    result = call("a.png", "-o", "b.jpg")
    assert result.err == "note: a.png: JPEG cannot hold: text (a\\x9b\\x1b[2J)\n"


@pytest.mark.parametrize("text", ["a\nb", "a\x7fb", "\udc9b", "\u2028", "\u2066"])
def test_every_control_character_is_made_visible(text: str) -> None:
    shown = terminal.visible(text)
    assert shown.isascii()
    assert shown.isprintable()
    assert terminal.visible("größer 写真 🐕.png") == "größer 写真 🐕.png"


def test_tables_are_escaped_for_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rich.table import Table

    monkeypatch.setattr(type(sys.stdout), "isatty", lambda self: True, raising=False)
    table = Table("name")
    table.add_row("a\x1b[31mb")
    terminal.print_table(table)
    assert "a\\x1b[31mb" in capsys.readouterr().out


def test_commands_print_by_what_escapes() -> None:
    folder = Path(app.__file__).parent
    for path in folder.rglob("*.py"):
        printing = re.findall(r"(?<![\w.])print\(.*", path.read_text())
        allowed = {"terminal.py": 2, "app.py": 1}.get(path.name, 0)  # JSON and the version
        assert len(printing) <= allowed, f"{path}: use terminal.say, not {printing}"


def test_bmp_is_read_and_written(call: Call, tmp_path: Path) -> None:
    rgb = photo(tmp_path / "a.bmp")
    assert call("a.bmp").out == "a_x3.bmp\n"
    np.testing.assert_array_equal(read_rgb(tmp_path / "a_x3.bmp"), upscale(rgb))


@pytest.mark.skipif(not hasattr(os, "O_NOFOLLOW"), reason="no such flag")
def test_a_link_in_the_place_of_a_lock_is_not_followed(call: Call, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    digest = hashlib.sha256(b"a_x3.png").hexdigest()[:16]
    link = tmp_path / f".anchorsr-{digest}.lock"
    link.symlink_to(tmp_path / "elsewhere")
    result = call("a.png")
    assert result.code == 1
    assert "is a link in the place of a lock" in result.err
    assert link.is_symlink()
    assert not (tmp_path / "elsewhere").exists()


def test_many_pages_of_a_small_archive_have_a_limit(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = encoded(Image.new("1", (1000, 1000)), "PNG")
    with zipfile.ZipFile(tmp_path / "a.cbz", "w") as made:
        for number in range(3):
            made.writestr(f"{number}.png", page)
    monkeypatch.setattr(books, "_PAGES_TIMES", 2)
    result = call("a.cbz", "--max-megapixels", 1, "--scale", 0.1)
    assert result.code == 1
    assert "a.cbz has pages of more than 2 megapixels in all" in result.err
