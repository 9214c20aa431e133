"""Super-resolution for phones, browsers and plain CPUs, in 8-bit integers.

>>> import anchorsr
>>> larger = anchorsr.upscale(image)  # uint8 (H, W, 3) to (3 H, 3 W, 3)

`Upscaler` keeps a model ready for many images; `evaluate` scores methods on test sets;
`list_models` says what is shipped. Training, quantization and export are in
`anchorsr.training.trainer`, `anchorsr.quantization.qat` and `anchorsr.export.export`. What is
wrong with a file, a model or the machine is an `AnchorSRError`; an array or a number that cannot be
meant is a ValueError.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anchorsr.errors import AnchorSRError
    from anchorsr.evaluation.evaluate import Score, evaluate
    from anchorsr.inference.upscaler import Upscaler, upscale
    from anchorsr.models.registry import list_models

__all__ = ["AnchorSRError", "Score", "Upscaler", "evaluate", "list_models", "upscale"]

__version__ = "0.1.0"

# Imported when first used: the command line is then ready to handle Ctrl-C from its first moment.
_MODULES = {
    "AnchorSRError": "anchorsr.errors",
    "Score": "anchorsr.evaluation.evaluate",
    "Upscaler": "anchorsr.inference.upscaler",
    "evaluate": "anchorsr.evaluation.evaluate",
    "list_models": "anchorsr.models.registry",
    "upscale": "anchorsr.inference.upscaler",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
