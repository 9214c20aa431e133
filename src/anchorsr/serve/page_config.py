"""What the page is told about the server or the folder that it comes from."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from anchorsr import __version__
from anchorsr.images.formats import READ_SUFFIXES as IMAGE_SUFFIXES
from anchorsr.images.formats import SUFFIXES, format_of
from anchorsr.models.registry import AUTO_MODEL, DEFAULT, DEFAULT_FACTOR, list_models
from anchorsr.serve.limits import Limits
from anchorsr.video.codecs import READ_SUFFIXES


def shipped_models() -> list[dict[str, Any]]:
    """List the shipped models by name: their factors, and the sizes of their files in bytes."""
    found: dict[str, dict[str, Any]] = {}
    for model in list_models():
        row = found.setdefault(model.name, {"name": model.name, "factors": [], "bytes": {}})
        row["factors"].append(model.factor)
        row["bytes"][str(model.factor)] = model.card.size_bytes
    return list(found.values())


def _formats() -> list[str]:
    """The formats that can be written, by the first suffix of each."""
    first: dict[str, str] = {}
    for suffix in SUFFIXES:
        first.setdefault(format_of(Path(f"image{suffix}")), suffix.removeprefix("."))
    if find_spec("pillow_heif") is None:
        del first["HEIC"]
    return list(first.values())


def page_config(engine: str, *, limits: Limits | None = None) -> dict[str, Any]:
    """Return the page's configuration.

    Args:
        engine: `server`, or `browser`, where the visitor's browser does the work.
        limits: Those of the server.
    """
    config: dict[str, Any] = {
        "engine": engine,
        "version": __version__,
        "models": shipped_models(),
        "model": DEFAULT,
        "factor": DEFAULT_FACTOR,
        "formats": ["png", "jpg", "webp"],
        "images": list(IMAGE_SUFFIXES),
        "videos": [],
    }
    if engine == "server":
        factors = sorted({model.factor for model in list_models()})
        config["models"].append({"name": AUTO_MODEL, "factors": factors, "bytes": {}})
        config["model"] = AUTO_MODEL
        config["formats"] = _formats()
        if find_spec("av") is not None:
            config["videos"] = list(READ_SUFFIXES)
    if limits is not None:
        config["limits"] = {"bytes": limits.bytes, "pixels": limits.pixels}
    return config
