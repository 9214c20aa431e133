"""What is to be done for an image, and what became of it."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field
from enum import StrEnum


@dataclass(frozen=True)
class Task:
    """An image to upscale.

    Attributes:
        source: Its address.
        target: The name of its result, relative to the target; with slashes.
        problem: Why it cannot be done, if that is known already; else empty.
    """

    source: str
    target: str
    problem: str = ""

    @property
    def key(self) -> str:
        """What tells the task from all others."""
        return f"{self.source}\0{self.target}"


class Status(StrEnum):
    """How an image ended."""

    DONE = "done"
    PRESENT = "present"
    """The result was there already."""
    FAILED = "failed"
    """It is the image's own fault, so it is not tried again."""
    UNFINISHED = "unfinished"
    """A store, a disk or the memory failed; the next run tries again."""


@dataclass(frozen=True)
class Row:
    """What became of an image: a row of the manifest.

    Attributes:
        source: The image's address.
        target: The name of the result, relative to the target.
        status: How it ended.
        error: Why it failed; else empty.
        notes: What was left out or repaired.
        sha256: Of the result's bytes, in hexadecimal digits.
        source_bytes: The size of the image file.
        target_bytes: The size of the result's file.
        width: Of the image, in pixels.
        height: Of the image, in pixels.
        target_width: Of the result, in pixels.
        target_height: Of the result, in pixels.
        pages: The number of images in a comic book.
        model: The model that was taken.
        strengths: The strengths it was given, as text.
        milliseconds: The time that its worker took, from the image before it on.
        finished: When it ended, in UTC.
    """

    source: str
    target: str
    status: Status
    error: str = ""
    notes: tuple[str, ...] = ()
    sha256: str | None = None
    source_bytes: int | None = None
    target_bytes: int | None = None
    width: int | None = None
    height: int | None = None
    target_width: int | None = None
    target_height: int | None = None
    pages: int | None = None
    model: str | None = None
    strengths: str | None = None
    milliseconds: int = 0
    finished: datetime.datetime = field(default_factory=lambda: datetime.datetime.now(datetime.UTC))
