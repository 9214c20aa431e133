"""The containers that can be written and the encoders for them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from anchorsr.errors import OutputError, unknown_choice

_FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
SUFFIXES = tuple(_FORMATS)
# Names under which folders are searched for videos. Whatever FFmpeg reads can be named itself.
READ_SUFFIXES = (
    *SUFFIXES, ".avi", ".wmv", ".asf", ".flv", ".3gp", ".3g2", ".mpg", ".mpeg", ".vob", ".ts",
    ".m2ts", ".mts", ".ogv", ".dv", ".mxf",
)  # fmt: skip

# The longest side that x264 has an H.264 level for.
MAX_SIDE = 16_384


@dataclass(frozen=True)
class Codec:
    """An encoder and its settings.

    Attributes:
        encoder: FFmpeg's name of the encoder.
        quality: Default CRF; lower is better and larger.
        worst: Highest CRF that the encoder takes.
        options: Encoder options as FFmpeg takes them.
        max_rate: Highest frame rate that can be declared to the encoder.
    """

    encoder: str
    quality: int
    worst: int
    options: dict[str, str]
    max_rate: int = 100_000


CODECS = {
    "h264": Codec("libx264", 19, 51, {"preset": "veryfast"}),
    "hevc": Codec("libx265", 22, 51, {"preset": "superfast", "x265-params": "log-level=error"}),
    "vp9": Codec(
        "libvpx-vp9", 28, 63, {"deadline": "realtime", "cpu-used": "6", "row-mt": "1", "b": "0"}
    ),
    "av1": Codec("libsvtav1", 30, 63, {"preset": "10"}, max_rate=240),
}


def choose_codec(path: Path, name: str | None, quality: int | None) -> tuple[Codec, int]:
    """Choose the codec and CRF for an output file.

    Args:
        path: The output file, whose suffix says which container it is.
        name: A key of `CODECS`; by default h264, or vp9 in a `.webm` file.
        quality: CRF; by default that of the codec.

    Returns:
        The codec and the CRF.

    Raises:
        OutputError: The suffix or the codec is unknown, or the CRF is out of range.
    """
    container_format(path)
    name = name or ("vp9" if path.suffix.lower() == ".webm" else "h264")
    codec = CODECS.get(name)
    if codec is None:
        raise OutputError(unknown_choice("codec", name, CODECS))
    quality = codec.quality if quality is None else quality
    if not 0 <= quality <= codec.worst:
        raise OutputError(f"the quality of {name} is 0 (best) to {codec.worst}, not {quality}")
    return codec, quality


def container_format(path: Path) -> str:
    """Look up FFmpeg's name of the container that a suffix stands for.

    Raises:
        OutputError: The suffix is unknown.
    """
    name = _FORMATS.get(path.suffix.lower())
    if name is None:
        raise OutputError(f"{path} has no suffix that can be written: {', '.join(SUFFIXES)}")
    return name
