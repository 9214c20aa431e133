"""The fenced code blocks of the documentation."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

_BLOCK = re.compile(
    r"(?:^<!-- run(?P<needs>[ \w]*) -->\n)?^```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    A block runs in the tests if the line above it is `<!-- run -->`; names after `run` are the
    optional packages that it needs. A block that runs and whose first line names a file, such as
    `# NAME.toml` or `# NAME.py`, is written to that file.
    """

    language: str
    text: str
    run: bool
    needs: tuple[str, ...]

    @property
    def file(self) -> str:
        """The name of the file in the first line, if there is one."""
        first, _, _ = self.text.partition("\n")
        return first.removeprefix("# ") if re.fullmatch(r"# \w+\.(toml|py)", first) else ""

    def commands(self) -> Iterator[list[str]]:
        """The arguments of each line of a shell block, without comments."""
        for line in self.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words:
                yield words


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a Markdown file, in order."""
    return [
        Block(
            found["language"],
            found["text"],
            found["needs"] is not None,
            tuple((found["needs"] or "").split()),
        )
        for found in _BLOCK.finditer(page.read_text())
    ]
