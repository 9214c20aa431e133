"""The options of the command line, as query parameters."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from anchorsr.data.strengths import parse_strengths
from anchorsr.errors import AnchorSRError, RequestError, unknown_choice
from anchorsr.images.formats import SUFFIXES
from anchorsr.inference.sizes import TargetSize, parse_size
from anchorsr.models.registry import AUTO_MODEL, list_models, model_path
from anchorsr.video.codecs import READ_SUFFIXES

FORMATS = tuple(suffix.removeprefix(".") for suffix in SUFFIXES)
_MOST_NAME = 200
_MOST_SCALE = 999_999


@dataclass(frozen=True)
class Options:
    """What is asked for; as the options of `anchorsr upscale`."""

    model: str = AUTO_MODEL
    factor: int | None = None
    scale: float | None = None
    width: int | None = None
    height: int | None = None
    stretch: bool = False
    format: str | None = None
    quality: int = 92
    lossless: bool = False
    wrap: bool = False
    strength: str = ""

    @property
    def target(self) -> TargetSize:
        """The size of the result."""
        return TargetSize(self.scale, self.height, self.width, self.stretch)


def model_names() -> list[str]:
    """Name the shipped models, without and with their factor, and `auto`."""
    shipped = list_models()
    names = {name for model in shipped for name in (model.name, model.path.stem)}
    return sorted({AUTO_MODEL, *names})


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text) or not low <= int(text) <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return int(text)

    return parse


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= _MOST_SCALE:
        raise ValueError(f"a number above 0 and up to {_MOST_SCALE}, such as 2.5")
    return value


def _flag(text: str) -> bool:
    if text not in ("true", "false", "1", "0", ""):
        raise ValueError("true or false")
    return text in ("true", "1", "")


@dataclass(frozen=True)
class Parameter:
    """A query parameter: how it is parsed, and what OpenAPI says about it."""

    parse: Callable[[str], Any]
    schema: Mapping[str, Any]
    description: str


def parameters() -> dict[str, Parameter]:
    """Return the query parameters by name."""
    side = {"type": "integer", "minimum": 1, "maximum": 999_999_999}
    return {
        "model": Parameter(
            str,
            {"type": "string", "enum": model_names(), "default": AUTO_MODEL},
            "A shipped model.",
        ),
        "factor": Parameter(
            _whole(2, 4),
            {"type": "integer", "minimum": 2, "maximum": 4},
            "The model's upscaling factor; 3 by default.",
        ),
        "scale": Parameter(
            _positive,
            {"type": "number", "exclusiveMinimum": 0, "maximum": _MOST_SCALE},
            "How many times larger, or smaller; any number, like 2.5.",
        ),
        "size": Parameter(
            str,
            {"type": "string", "pattern": "^[1-9][0-9]{0,8}x[1-9][0-9]{0,8}$"},
            "WIDTHxHEIGHT in pixels; the result fits inside.",
        ),
        "width": Parameter(_whole(1, 999_999_999), side, "In pixels; the height follows."),
        "height": Parameter(_whole(1, 999_999_999), side, "In pixels; the width follows."),
        "stretch": Parameter(
            _flag, {"type": "boolean", "default": False}, "Exactly `size`, whatever the ratio."
        ),
        "format": Parameter(
            str,
            {"type": "string", "enum": list(FORMATS)},
            "Of the result; by default that of the image.",
        ),
        "quality": Parameter(
            _whole(1, 100),
            {"type": "integer", "minimum": 1, "maximum": 100, "default": 92},
            "Of JPEG, WebP, AVIF and HEIC.",
        ),
        "lossless": Parameter(
            _flag,
            {"type": "boolean", "default": False},
            "Write WebP and HEIC without loss, and nothing as JPEG, AVIF or GIF.",
        ),
        "wrap": Parameter(
            _flag,
            {"type": "boolean", "default": False},
            "For seamless textures: opposite edges of the result meet.",
        ),
        "strength": Parameter(
            str,
            {"type": "string", "pattern": "^[a-z]+=[0-9.]+(,[a-z]+=[0-9.]+)*$"},
            "How damaged the image is, for a model that takes strengths, such as jpeg=75,noise=5.",
        ),
    }


def parse_options(query: Mapping[str, str]) -> Options:
    """Parse query parameters.

    Raises:
        RequestError: With 400, for one that is unknown, out of range, or in conflict with another.
    """
    known = parameters()
    found: dict[str, Any] = {}
    for name, text in query.items():
        if name not in known:
            raise RequestError(400, unknown_choice("parameter", name[:80], known))
        try:
            found[name] = known[name].parse(text)
        except ValueError as error:
            raise RequestError(400, f"{name} is {error}, not {text[:80]!r}") from None
    try:
        return _options(found)
    except AnchorSRError as error:
        raise RequestError(400, str(error)) from None


def _options(found: dict[str, Any]) -> Options:
    size = found.pop("size", None)
    if size is not None:
        sides = parse_size(size)
        if sides is None:
            raise RequestError(400, f"size is WIDTHxHEIGHT, such as 3840x2160, not {size[:80]!r}")
        if "width" in found or "height" in found:
            raise RequestError(400, "size excludes width and height")
        found["height"], found["width"] = sides
    names = model_names()
    if found.get("model", AUTO_MODEL) not in names:
        raise RequestError(400, unknown_choice("model", found["model"][:80], names))
    if found.get("format", FORMATS[0]) not in FORMATS:
        raise RequestError(400, unknown_choice("format", found["format"][:80], FORMATS))
    options = Options(**found)
    if options.model != AUTO_MODEL:
        model_path(options.model, options.factor)
    _ = options.target  # a scale and a size exclude one another
    if "strength" in found:
        parse_strengths(options.strength)
    return options


def options_from_dict(table: Mapping[str, Any]) -> Options:
    """Read options that were stored with `dataclasses.asdict`."""
    names = {field.name for field in dataclasses.fields(Options)}
    return Options(**{key: value for key, value in table.items() if key in names})


def plain_name(name: str) -> str:
    """Return the last part of a client's file name, for messages and for the result's name."""
    name = PureWindowsPath(PurePosixPath(name).name).name
    name = "".join(
        letter if letter.isprintable() and letter not in '<>:"/\\|?*' else "_" for letter in name
    )
    return name.strip(" .")[-_MOST_NAME:] or "image"


def is_video_name(name: str) -> bool:
    """Whether a file is named as a video."""
    return name.lower().endswith(READ_SUFFIXES)
