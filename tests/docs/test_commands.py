"""The commands and examples of the README and of `docs/` do what they say.

Blocks marked `<!-- run -->` run, page by page, each page in a folder of its own with a small
image, a folder of images, a test set and a video. Every other `anchorsr` command is parsed, so
that no page names an option that does not exist.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from anchorsr.cli import app
from helpers.markdown import PAGES, ROOT, blocks

_NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
_RUN = [name for name in _NAMES if any(block.run for block in blocks(ROOT / name))]
_COMMAND = re.compile(r"^(?:python -m )?anchorsr .*$", re.MULTILINE)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dog: np.ndarray) -> Path:
    """A folder with the files that the pages name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    image = Image.fromarray(dog[64:112, 64:144])
    for name in ("photo.jpg", "docs/dog.jpg", "holiday/1.jpg", "holiday/beach/2.jpg"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    (tmp_path / "Set5").mkdir()
    Image.fromarray(dog[:96, :120]).save(tmp_path / "Set5" / "dog.png")
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("name", _RUN)
def test_marked_blocks_run(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scope = {"__name__": "example"}
    for block in blocks(ROOT / name):
        if not block.run:
            continue
        for package in block.needs:
            pytest.importorskip(package)
        if "av" in block.needs:
            from helpers.videos import make_video, moving

            make_video(folder / "film.mp4", moving(4))
        if block.file:
            (folder / block.file).write_text(block.text)
        elif block.language == "python":
            exec(compile(block.text, name, "exec"), scope)
        if block.language in ("python", "toml"):
            continue
        for program, *arguments in block.commands():
            assert program == "anchorsr", f"{name}: a block that runs has anchorsr commands only"
            code = app.run(arguments)
            printed = capsys.readouterr()
            assert code == 0, f"{name}: anchorsr {shlex.join(arguments)}: {printed.err}"


@pytest.mark.parametrize("name", _NAMES)
def test_commands_are_understood(name: str) -> None:
    program = app.command_line()
    for line in _commands(ROOT / name):
        words = shlex.split(line.split(" && ")[0].split("; ")[0], comments=True)
        try:
            _parse(program, words[words.index("anchorsr") + 1 :])
        except Exception as error:  # a usage error, whose class depends on Typer's version
            if type(error).__name__ != "MissingParameter":  # prose names a part of a command
                pytest.fail(f"{name}: {line}: {error}")


def _commands(page: Path) -> Iterator[str]:
    """The anchorsr commands of a page, from its blocks and between backquotes."""
    for block in blocks(page):
        yield from _COMMAND.findall(block.text.replace("\\\n", " "))
    prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for found in re.findall(r"`(anchorsr [^`]+)`", prose):
        yield " ".join(found.split())


def _parse(program: Any, arguments: list[str]) -> None:
    """Parse a command line as Typer would, without running the command."""
    command, context, name = program, None, "anchorsr"
    while True:
        context = command.make_context(name, list(arguments), parent=context)
        if not hasattr(command, "commands"):
            return
        rest = [*context._protected_args, *context.args]
        if not rest:
            return
        name, command, arguments = command.resolve_command(context, rest)
