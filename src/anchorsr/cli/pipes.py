"""Standard input and output in place of files.

An image from standard input is kept in a temporary file while it is upscaled, and a result for
standard output until it is whole, so a reader never gets half of one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from anchorsr.cli.usage import UsageError
from anchorsr.errors import AnchorSRError, ImageError
from anchorsr.images.formats import suffix_of_content
from anchorsr.utils.temporary import temporary_folder

PIPE = "-"


@dataclass(frozen=True)
class Places:
    """Where inputs are read and the output is written.

    Attributes:
        inputs: The files to read.
        output: The file or folder to write; None for beside the inputs.
        is_folder: Whether the output is a folder, whatever its name.
        is_piped: Whether the output goes to standard output.
        temporary: The folder of temporary files, with a separator; empty if there is none.
    """

    inputs: list[Path]
    output: Path | None
    is_folder: bool
    is_piped: bool
    temporary: str

    def shown(self, text: object) -> str:
        """Return a text in which temporary files have the names that a person knows."""
        return str(text).replace(self.temporary, "") if self.temporary else str(text)


def is_folder_name(output: str | None) -> bool:
    """Whether an output is a folder by the end of its name, a separator."""
    return output is not None and output.endswith(("/", os.sep))


@contextlib.contextmanager
def piped(inputs: list[Path], output: str | None, suffix: str | None) -> Iterator[Places]:
    """Replace `-` by temporary files; afterwards, copy the result to standard output.

    Args:
        inputs: The files that a person names.
        output: The output that a person names.
        suffix: The suffix of the result, if a person names its format.

    Raises:
        UsageError: If `-` is used with several images, or without a place for the result.
        ImageError: If standard input is empty or holds no image.
    """
    from_pipe, to_pipe = Path(PIPE) in inputs, output == PIPE
    if (from_pipe or to_pipe) and len(inputs) != 1:
        raise UsageError("- stands for a single image: name no other")
    if from_pipe and output is None:
        raise UsageError(
            "an image from standard input needs a name for its result: -o FILE or -o -"
        )
    if to_pipe and inputs[0].is_dir():
        raise UsageError("-o - takes one image, not a folder")
    if to_pipe and sys.stdout.isatty():
        raise UsageError("-o - writes an image, not text: redirect it to a file or a program")
    is_folder = is_folder_name(output)
    place = None if output is None else Path(output)
    if not from_pipe and not to_pipe:
        yield Places(inputs, place, is_folder, False, "")
        return
    with temporary_folder() as folder:
        if from_pipe:
            inputs = [_standard_input(Path(folder))]
        if to_pipe:
            kind = suffix or inputs[0].suffix or suffix_of_content(inputs[0]) or ""
            place = Path(folder, f"standard output{kind}")
        places = Places(inputs, place, is_folder, to_pipe, f"{folder}{os.sep}")
        try:
            yield places
        except AnchorSRError as error:
            raise type(error)(places.shown(error)) from error
        if to_pipe and place is not None and place.is_file():
            with place.open("rb") as file:
                shutil.copyfileobj(file, sys.stdout.buffer)
            sys.stdout.buffer.flush()


def _standard_input(folder: Path) -> Path:
    """Keep standard input in a file, named by what it holds."""
    path = folder / "standard input"
    if sys.stdin is None or sys.stdin.isatty():
        raise ImageError("standard input is a terminal: pipe an image into the command")
    with path.open("wb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
    return path.rename(path.with_suffix(suffix_of_content(path) or ""))
