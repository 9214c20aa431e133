"""The containers that can be written and the encoders for them."""

from __future__ import annotations

import dataclasses
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
        bits: Bits that it needs for the quality of H.264, which needs 1.
        max_rate: Highest frame rate that can be declared to the encoder.
    """

    encoder: str
    quality: int
    worst: int
    options: dict[str, str]
    bits: float
    max_rate: int = 100_000

    def limited(self, rate: int) -> Codec:
        """Return the codec with a limit on its rate, in bits a second, whatever the CRF asks."""
        if self.encoder == "libvpx-vp9":
            limits = {"b": str(rate)}
        else:
            limits = {"maxrate": str(rate), "bufsize": str(rate)}
        return dataclasses.replace(self, options={**self.options, **limits})


CODECS = {
    "h264": Codec("libx264", 19, 51, {"preset": "veryfast"}, bits=1.0),
    "hevc": Codec(
        "libx265", 22, 51, {"preset": "superfast", "x265-params": "log-level=error"}, bits=0.6
    ),
    "vp9": Codec(
        "libvpx-vp9",
        28,
        63,
        {"deadline": "realtime", "cpu-used": "6", "row-mt": "1", "b": "0"},
        bits=0.7,
    ),
    "av1": Codec("libsvtav1", 30, 63, {"preset": "10"}, bits=0.5, max_rate=240),
}

# The same of other codecs that lose detail and predict frames from others.
_BITS = {
    "vp8": 1.1, "vc1": 1.1, "wmv3": 1.2, "mpeg4": 1.6, "wmv2": 1.6, "theora": 1.7, "msmpeg4v3": 1.8,
    "h263": 2.0, "flv1": 2.0, "mpeg2video": 2.0, "mpeg1video": 2.5,
}  # fmt: skip
# No rate is limited to less, in bits a second.
_LEAST_RATE = 100_000


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


def largest_rate(source: str, rate: float, factor: int, codec: Codec) -> int | None:
    """Return the rate beyond which an upscaled video has nothing to show, in bits a second.

    At equal quality, an enlarged video needs about factor^1.5 times the rate. A CRF spends more on
    a source of a low rate: it copies that source's artifacts well. There is no limit, None, for
    sources whose codec is lossless or of single frames.

    Args:
        source: FFmpeg's name of the source's codec.
        rate: Bits a second of the source's video.
        factor: Upscaling factor.
        codec: The codec of the upscaled video.
    """
    bits = relative_bits(source)
    if bits is None:
        return None
    largest: float = rate * codec.bits / bits * factor**1.5
    return max(round(largest), _LEAST_RATE)


def relative_bits(name: str) -> float | None:
    """Return about how many bits a codec needs where H.264 needs 1, by FFmpeg's name.

    None for codecs that are lossless or of single frames, whose rate says little.
    """
    known = CODECS.get(name)
    return known.bits if known else _BITS.get(name)


def container_format(path: Path) -> str:
    """Look up FFmpeg's name of the container that a suffix stands for.

    Raises:
        OutputError: The suffix is unknown.
    """
    name = _FORMATS.get(path.suffix.lower())
    if name is None:
        raise OutputError(f"{path} has no suffix that can be written: {', '.join(SUFFIXES)}")
    return name
