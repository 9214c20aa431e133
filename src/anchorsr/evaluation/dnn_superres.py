"""OpenCV's dnn_superres with a model file that the user has: a method to compare with.

The files are those of its documentation, `FSRCNN_x3.pb` and the like; they are not shipped with
OpenCV. Which network a file holds is told by its name.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from anchorsr.errors import ModelError, needs
from anchorsr.utils.files import reason

UInt8Array = npt.NDArray[np.uint8]

_NETWORKS = ("edsr", "espcn", "fsrcnn", "lapsrn")


def load_dnn_superres(
    path: Path, factor: int, *, threads: int | None = None
) -> Callable[[UInt8Array], UInt8Array]:
    """uint8 RGB (H, W, 3) to (factor · H, factor · W, 3), with OpenCV's number of threads.

    Raises ModelError for a file that is missing, damaged, or of no network that OpenCV knows,
    MissingDependencyError without OpenCV.
    """
    network = next((name for name in _NETWORKS if path.name.lower().startswith(name)), None)
    if network is None:
        raise ModelError(f"{path} begins with the name of none of: {', '.join(_NETWORKS)}")
    if not path.is_file():
        raise ModelError(f"the model {path} is not there")
    with needs("opencv-contrib-python-headless", "opencv"):
        import cv2
    try:
        upscaler = cv2.dnn_superres.DnnSuperResImpl_create()
        upscaler.readModel(str(path))
        upscaler.setModel(network, factor)
    except AttributeError as error:
        raise ModelError(
            "this OpenCV has no dnn_superres: pip install opencv-contrib-python-headless"
        ) from error
    except cv2.error as error:
        raise ModelError(f"OpenCV does not load {path}: {reason(error)}") from error

    def upscale(rgb: UInt8Array) -> UInt8Array:
        cv2.setNumThreads(threads or -1)  # for the whole process, so another may have changed it
        try:
            larger = upscaler.upsample(np.ascontiguousarray(rgb[:, :, ::-1]))
        except cv2.error as error:
            raise ModelError(f"OpenCV cannot run {path}: {reason(error)}") from error
        return np.ascontiguousarray(larger[:, :, ::-1])

    return upscale
