"""Super-resolution for phones, browsers and plain CPUs, in 8-bit integers.

>>> import anchorsr
>>> larger = anchorsr.upscale(image)  # uint8 (H, W, 3) to (3 H, 3 W, 3)

`Upscaler` keeps a model ready for many images; `evaluate` scores methods on test sets;
`list_models` says what is shipped. Training, quantization and export are in
`anchorsr.training.trainer`, `anchorsr.quantization.qat` and `anchorsr.export.export`. What is
wrong with a file, a model or the machine is an `AnchorSRError`; an array or a number that cannot be
meant is a ValueError.
"""

from anchorsr.errors import AnchorSRError
from anchorsr.evaluation.evaluate import Score, evaluate
from anchorsr.inference.upscaler import Upscaler, upscale
from anchorsr.models.registry import list_models

__all__ = ["AnchorSRError", "Score", "Upscaler", "evaluate", "list_models", "upscale"]

__version__ = "0.1.0"
