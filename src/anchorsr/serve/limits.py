"""What a server accepts."""

from __future__ import annotations

from dataclasses import dataclass

from anchorsr.images.formats import MAX_PIXELS


@dataclass(frozen=True)
class Limits:
    """The limits of a server.

    Attributes:
        bytes: The largest body of a request.
        pixels: The largest image, before it is upscaled.
        queue: How many jobs may wait or run at a time.
        seconds: How long a job may run.
        memory: How many bytes of memory a worker may use (not on Windows and macOS).
        kept: How many finished jobs are kept until they are collected or deleted.
        kept_seconds: How long a finished job is kept.
    """

    bytes: int = 1 << 30
    pixels: int = MAX_PIXELS
    queue: int = 100
    seconds: float = 3600
    memory: int = 6 << 30
    kept: int = 1000
    kept_seconds: float = 3600
