"""Engines by name from the bytes of a `.tflite` file; gives way to the same in `engines`."""

from __future__ import annotations

import tempfile
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from anchorsr import engines
from anchorsr.engines import Engine
from anchorsr.errors import ModelError, needs
from anchorsr.onnx import write_onnx
from anchorsr.tflite import read_tflite

UInt8Array = npt.NDArray[np.uint8]

ENGINES = ("litert", "openvino", "onnxruntime")


def installed_engines() -> list[str]:
    """Those of ENGINES whose packages are installed."""
    packages = {"litert": ["ai_edge_litert"], "onnxruntime": ["onnx", "onnxruntime"]}
    return [name for name in ENGINES if all(map(find_spec, packages.get(name, [name])))]


def load_engine(model: bytes, *, name: str, threads: int) -> Engine:
    """The engine of that name for a `.tflite` file's bytes."""
    if name == "openvino":
        return _OpenVINO(model, threads)
    if name == "onnxruntime":
        return engines.load_engine(write_onnx(read_tflite(model)), threads=threads)
    if name == "litert":
        return engines.load_engine(model, threads=threads)
    raise ModelError(f"no engine {name!r}; there are: {', '.join(ENGINES)}")


class _OpenVINO:
    name = "openvino"

    def __init__(self, model: bytes, threads: int) -> None:
        with needs("openvino", "fast"):
            openvino: Any = import_module("openvino")
        self._settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
        self._core: Any = openvino.Core()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "model.tflite")
            path.write_bytes(model)
            self._model: Any = self._core.read_model(path)
        self._shape: tuple[int, ...] = ()
        self._request: Any = None

    def __call__(self, images: UInt8Array) -> UInt8Array:
        if images.shape != self._shape:
            model = self._model.clone()
            model.reshape(images.shape)
            program = self._core.compile_model(model, "CPU", self._settings)
            self._shape, self._request = images.shape, program.create_infer_request()
        outputs = self._request.infer({0: images}, share_inputs=True, share_outputs=True)
        return np.array(outputs[0], np.uint8)
