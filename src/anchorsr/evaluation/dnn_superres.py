"""OpenCV's dnn_superres, as a method to compare with.

It needs model files such as `FSRCNN_x3.pb`, which its documentation links to and which are not
shipped with OpenCV. The name of a file says which network it holds.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from anchorsr.arrays import UInt8Array
from anchorsr.errors import ModelError, needs
from anchorsr.utils.files import reason

_NETWORKS = ("edsr", "espcn", "fsrcnn", "lapsrn")


def load_dnn_superres(
    path: Path, factor: int, *, threads: int | None = None
) -> Callable[[UInt8Array], UInt8Array]:
    """Load a model file.

    Args:
        path: A `.pb` file whose name begins with that of its network.
        factor: The super-resolution ratio.
        threads: Processor threads; by default OpenCV's choice.

    Returns:
        A function from uint8 RGB (H, W, 3) to (factor · H, factor · W, 3).

    Raises:
        ModelError: The file is missing, damaged, or of no network that OpenCV knows.
        MissingDependencyError: OpenCV is not installed.
    """
    network = next((name for name in _NETWORKS if path.name.lower().startswith(name)), None)
    if network is None:
        raise ModelError(f"the name of {path} begins with none of: {', '.join(_NETWORKS)}")
    if not path.is_file():
        raise ModelError(f"{path} does not exist")
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
        raise ModelError(f"OpenCV cannot load {path}: {reason(error)}") from error

    def upscale(rgb: UInt8Array) -> UInt8Array:
        cv2.setNumThreads(threads or -1)  # a setting of the whole process, which others may change
        try:
            larger = upscaler.upsample(np.ascontiguousarray(rgb[:, :, ::-1]))
        except cv2.error as error:
            raise ModelError(f"OpenCV cannot run {path}: {reason(error)}") from error
        return np.ascontiguousarray(larger[:, :, ::-1])

    return upscale
