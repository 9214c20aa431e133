"""Super-resolution for phones, browsers and plain CPUs, in 8-bit integers.

>>> import anchorsr
>>> anchorsr.upscale("photo.jpg", scale=2.5)          # doctest: +SKIP
>>> upscaler = anchorsr.Upscaler("fast", factor=2)
>>> upscaler.factor
2

`upscale` and `Upscaler` take arrays, Pillow images and files; `upscale_video` takes videos. How
damaged an image is, is measured, or told by `strengths=parse_strengths("jpeg=75,noise=5")`.
`list_models` lists the shipped models. `train`, `quantize`, `evaluate` and `export_model` make,
measure and convert models, and `convert` makes one of any PyTorch network. A bad file, model or
machine raises an `AnchorSRError`; an array or number that makes no sense raises a ValueError.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from anchorsr.errors import AnchorSRError, MissingDependencyError

if TYPE_CHECKING:
    from anchorsr.data.strengths import Strengths, parse_strengths
    from anchorsr.evaluation.evaluate import evaluate
    from anchorsr.export.convert import convert
    from anchorsr.export.export import export_model
    from anchorsr.export.module import load_module
    from anchorsr.inference.image_upscaler import upscale
    from anchorsr.inference.upscaler import Upscaler
    from anchorsr.metrics import Score
    from anchorsr.models.card import ModelCard
    from anchorsr.models.registry import list_models
    from anchorsr.quantization.qat import quantize
    from anchorsr.training.trainer import train
    from anchorsr.video.upscale import upscale_video

__all__ = [
    "AnchorSRError",
    "ModelCard",
    "Score",
    "Strengths",
    "Upscaler",
    "convert",
    "evaluate",
    "export_model",
    "list_models",
    "load_module",
    "parse_strengths",
    "quantize",
    "train",
    "upscale",
    "upscale_video",
]

__version__ = "0.1.0"

# Imported when they are first used, so that `import anchorsr` takes a few milliseconds.
_LAZY = {
    "ModelCard": "anchorsr.models.card:ModelCard",
    "Score": "anchorsr.metrics:Score",
    "Strengths": "anchorsr.data.strengths:Strengths",
    "Upscaler": "anchorsr.inference.upscaler:Upscaler",
    "convert": "anchorsr.export.convert:convert",
    "evaluate": "anchorsr.evaluation.evaluate:evaluate",
    "export_model": "anchorsr.export.export:export_model",
    "list_models": "anchorsr.models.registry:list_models",
    "load_module": "anchorsr.export.module:load_module",
    "parse_strengths": "anchorsr.data.strengths:parse_strengths",
    "quantize": "anchorsr.quantization.qat:quantize",
    "train": "anchorsr.training.trainer:train",
    "upscale": "anchorsr.inference.image_upscaler:upscale",
    "upscale_video": "anchorsr.video.upscale:upscale_video",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _LAZY[name].partition(":")
    try:
        value = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("anchorsr"):
            raise
        value = _missing(name, MissingDependencyError(str(error.name), "train"))
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


def _missing(name: str, error: MissingDependencyError) -> Any:
    """Return a function in place of one whose package is missing, so that `help` still works."""

    def missing(*arguments: object, **options: object) -> None:
        raise error

    missing.__name__ = missing.__qualname__ = name
    missing.__doc__ = f"Not available: {error}"
    return missing
