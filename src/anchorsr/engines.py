"""The runtimes that run a model file, behind one call.

An engine takes uint8 RGB (1, H, W, 3) and returns uint8 RGB (1, factor · H, factor · W, 3), of
any size unless its file is of fixed size. LiteRT is in the base install; ONNX Runtime comes
with `anchorsr[onnx]`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from anchorsr.errors import ModelError, needs
from anchorsr.files import reason

UInt8Array = npt.NDArray[np.uint8]


class Engine(Protocol):
    """uint8 (1, H, W, 3) in, uint8 (1, factor · H, factor · W, 3) out."""

    name: str

    def __call__(self, images: UInt8Array) -> UInt8Array: ...


def default_threads() -> int:
    """The number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def load_engine(model: bytes | Path, *, threads: int | None = None) -> Engine:
    """The engine that runs a `.tflite` (LiteRT) or `.onnx` (ONNX Runtime) model.

    Raises ModelError for a file that is neither or that its runtime refuses.
    """
    data = model if isinstance(model, bytes) else _read(model)
    count = threads or default_threads()
    return LiteRT(data, count) if data[4:8] == b"TFL3" else OnnxRuntime(data, count)


class LiteRT:
    """LiteRT's interpreter with its XNNPACK kernels.

    dtype: float32 for a float model, which then takes and gives that.
    """

    name = "litert"

    def __init__(self, model: bytes, threads: int, dtype: Any = np.uint8) -> None:
        from ai_edge_litert.interpreter import Interpreter

        try:
            self._interpreter = Interpreter(model_content=model, num_threads=threads)
            self._interpreter.allocate_tensors()
            details = self._interpreter.get_input_details()[0]
        except (ValueError, RuntimeError, IndexError) as error:
            raise ModelError(f"LiteRT does not load this model: {reason(error)}") from error
        _check_picture_model(details["dtype"], details["shape_signature"][-1], dtype)
        self._dtype = dtype
        self._input = details["index"]
        self._output = self._interpreter.get_output_details()[0]["index"]
        self._shape = tuple(int(side) for side in details["shape"])
        self._free = -1 in details["shape_signature"]

    def __call__(self, images: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if images.shape != self._shape:
            if not self._free:
                raise ModelError(f"this model takes only {self._shape}, not {images.shape}")
            self._shape = ()  # unknown, should the next lines fail
        try:
            if images.shape != self._shape:
                self._interpreter.resize_tensor_input(self._input, images.shape)
                self._interpreter.allocate_tensors()
                self._shape = images.shape
            self._interpreter.set_tensor(self._input, images)
            self._interpreter.invoke()
        except (ValueError, RuntimeError) as error:
            raise ModelError(f"LiteRT cannot run {images.shape}: {reason(error)}") from error
        return np.asarray(self._interpreter.get_tensor(self._output), self._dtype)


class OnnxRuntime:
    """ONNX Runtime on the CPU with its default options; (N, H, W, C) is turned to its layout."""

    name = "onnxruntime"

    def __init__(self, model: bytes, threads: int) -> None:
        with needs("onnxruntime", "onnx"):
            import onnxruntime
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        try:
            self._session: Any = onnxruntime.InferenceSession(
                model, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its exceptions share no base class but this one
            raise ModelError(f"not a model that can be run: {reason(error)}") from error
        details = self._session.get_inputs()[0]
        is_uint8 = details.type == "tensor(uint8)"
        _check_picture_model(np.uint8 if is_uint8 else np.float32, details.shape[1])
        self._input = details.name

    def __call__(self, images: UInt8Array) -> UInt8Array:
        planes = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        try:
            (output,) = self._session.run(None, {self._input: planes})
        except Exception as error:
            raise ModelError(f"ONNX Runtime: {reason(error)}") from error
        return np.ascontiguousarray(output.transpose(0, 2, 3, 1))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {reason(error)}") from error


def _check_picture_model(dtype: Any, channels: Any, expected: Any = np.uint8) -> None:
    if dtype != expected or channels != 3:
        raise ModelError(
            f"a picture model takes {np.dtype(expected)} with 3 channels,"
            f" this one {np.dtype(dtype)} with {channels}"
        )
