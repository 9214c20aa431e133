"""The containers that are written and the encoders for them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from anchorsr.errors import OutputError

_FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
SUFFIXES = tuple(_FORMATS)

# The longest side that H.264 has a level for, as x264 counts.
LONGEST_SIDE = 16_384


@dataclass(frozen=True)
class Codec:
    """An encoder, its usual and worst quality (CRF: lower is better and larger), its speed, and the
    most frames a second that it can be told of."""

    encoder: str
    quality: int
    worst: int
    options: dict[str, str]
    most_rate: int = 100_000


CODECS = {
    "h264": Codec("libx264", 19, 51, {"preset": "veryfast"}),
    "hevc": Codec("libx265", 22, 51, {"preset": "superfast", "x265-params": "log-level=error"}),
    "vp9": Codec(
        "libvpx-vp9", 28, 63, {"deadline": "realtime", "cpu-used": "6", "row-mt": "1", "b": "0"}
    ),
    "av1": Codec("libsvtav1", 30, 63, {"preset": "10"}, most_rate=240),
}


def choose_codec(path: Path, name: str | None, quality: int | None) -> tuple[Codec, int]:
    """The encoder and quality for a file. Raises OutputError for what there is not."""
    container_format(path)
    name = name or ("vp9" if path.suffix.lower() == ".webm" else "h264")
    codec = CODECS.get(name)
    if codec is None:
        raise OutputError(f"there is no codec {name!r}: take one of {', '.join(CODECS)}")
    quality = codec.quality if quality is None else quality
    if not 0 <= quality <= codec.worst:
        raise OutputError(f"the quality of {name} is 0 (best) to {codec.worst}, not {quality}")
    return codec, quality


def container_format(path: Path) -> str:
    """What FFmpeg calls the container of a suffix. Raises OutputError for another suffix."""
    name = _FORMATS.get(path.suffix.lower())
    if name is None:
        raise OutputError(f"{path} has no suffix that can be written: {', '.join(SUFFIXES)}")
    return name
