"""The runtimes that run a model file, behind one call.

An engine takes uint8 RGB (1, H, W, 3) and returns uint8 RGB (1, factor · H, factor · W, 3), of
any size unless its file is of fixed size; to be measured, it also takes int8 or float32 and any
number of channels. LiteRT is in the base install; OpenVINO comes with `anchorsr[fast]`, ONNX
Runtime with `anchorsr[onnx]`. Which of them may run a model on a machine is found out in
`choosing`.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from anchorsr.engines.openvino_graph import depth_to_space, leave_out_depth_to_space
from anchorsr.errors import ModelError, needs
from anchorsr.serialization.onnx import write_onnx
from anchorsr.serialization.tflite.reader import read_tflite
from anchorsr.serialization.tflite.summary import fixed_size
from anchorsr.utils.files import reason

Array = npt.NDArray[Any]
Number = type[np.uint8] | type[np.int8] | type[np.float32]


# Their names; the first is in the base install.
ENGINES = ("litert", "openvino", "onnxruntime")
# Far more than this end the process.
MOST_THREADS = 1024


class Engine(Protocol):
    """uint8 (1, H, W, 3) in, uint8 (1, factor · H, factor · W, 3) out.

    The result is the caller's own: no later call writes into it. One thread at a time may call
    an engine. Raises ModelError where the runtime fails.

    `prepare` is for measuring: what it returns runs the model on these images, as often as it is
    called, and only that; copies and changes of layout are done before or left out. It holds
    until the engine is used otherwise.
    """

    name: str

    def __call__(self, images: Array) -> Array: ...

    def prepare(self, images: Array) -> Callable[[], object]: ...


def default_threads() -> int:
    """The number of processors that this process may use, up to MOST_THREADS."""
    known = hasattr(os, "sched_getaffinity")
    count = len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1
    return min(count, MOST_THREADS)


def load_engine(
    model: bytes | Path,
    *,
    name: str | None = None,
    threads: int | None = None,
    dtype: Number = np.uint8,
    channels: int | None = 3,
) -> Engine:
    """The engine that runs a `.tflite` or `.onnx` model, unchecked: see `choosing`.

    name: one of ENGINES for a `.tflite`, LiteRT by default. ONNX Runtime gets it as the `.onnx`
    file that `export` would write. An `.onnx` file runs in ONNX Runtime only.
    dtype, channels: of the model's input, as expected; None for any number of channels. With int8
    its output is int8 as well.
    Raises ModelError for a file that is neither, that takes something else than expected or that
    its runtime refuses, GraphError for one
    that has no `.onnx` form, MissingDependencyError where the runtime is not installed, ValueError
    for a number of threads that cannot be.
    """
    data = model if isinstance(model, bytes) else _read(model)
    count = threads or default_threads()
    if not 1 <= count <= MOST_THREADS:
        raise ValueError(f"threads are from 1 to {MOST_THREADS}, not {count}")
    is_tflite = data[4:8] == b"TFL3"
    engine = name or ("litert" if is_tflite else "onnxruntime")
    if engine not in ENGINES:
        raise ModelError(f"no engine {engine!r}; there are: {', '.join(ENGINES)}")
    if engine == "onnxruntime":
        if is_tflite:
            data = write_onnx(read_tflite(data), size=fixed_size(data))
        return OnnxRuntime(data, count, dtype, channels)
    kind = LiteRT if engine == "litert" else OpenVINO
    return kind(data, count, dtype, channels)


class LiteRT:
    """LiteRT's interpreter with its XNNPACK kernels."""

    name = "litert"

    def __init__(
        self, model: bytes, threads: int, dtype: Number = np.uint8, channels: int | None = 3
    ) -> None:
        from ai_edge_litert.interpreter import Interpreter

        try:
            self._interpreter = Interpreter(model_content=model, num_threads=threads)
            self._interpreter.allocate_tensors()
            details = self._interpreter.get_input_details()[0]
        except (ValueError, RuntimeError, IndexError) as error:
            raise ModelError(f"LiteRT does not load this model: {reason(error)}") from error
        _check_input(details["dtype"], details["shape_signature"].tolist(), -1, dtype, channels)
        self._input = details["index"]
        self._output = self._interpreter.get_output_details()[0]["index"]
        self._shape = tuple(int(side) for side in details["shape"])
        self._free = -1 in details["shape_signature"]

    def __call__(self, images: Array) -> Array:
        self.prepare(images)()
        # A copy, for 0.4 % of the time: LiteRT refuses to run while somebody holds a view.
        return np.asarray(self._interpreter.get_tensor(self._output))

    def prepare(self, images: Array) -> Callable[[], object]:
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
        except (ValueError, RuntimeError) as error:
            raise ModelError(f"LiteRT cannot take {images.shape}: {reason(error)}") from error
        return self._invoke

    def _invoke(self) -> None:
        try:
            self._interpreter.invoke()
        except (ValueError, RuntimeError) as error:
            raise ModelError(f"LiteRT cannot run {self._shape}: {reason(error)}") from error


class OpenVINO:
    """OpenVINO's CPU plugin reading the `.tflite`.

    It rounds some ties otherwise than the integer arithmetic: a level or two on few bytes.
    """

    name = "openvino"

    def __init__(
        self, model: bytes, threads: int, dtype: Number = np.uint8, channels: int | None = 3
    ) -> None:
        self._core = _openvino_core()
        self._settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": threads,
            # Pinned, the first threads of two processes would share the first processor.
            "ENABLE_CPU_PINNING": False,
            # Else each new size keeps 0.7 MB more, for thousands of sizes.
            "CPU_RUNTIME_CACHE_CAPACITY": 0,
            # Else a processor that has bfloat16 computes in that: 8 bits of a number are left.
            "INFERENCE_PRECISION_HINT": "f32",
        }
        try:
            # Read as bytes, OpenVINO does not know the format; it does by the suffix of a file.
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
                path = Path(folder, "model.tflite")
                path.write_bytes(model)
                self._model: Any = self._core.read_model(path)
            taken = self._model.input()
            shape = tuple(
                side.get_length() if side.is_static else -1 for side in taken.partial_shape
            )
            self._fixed = None if -1 in shape else shape
            self._is_image_model = (dtype, channels) == (np.uint8, 3)
            self._every_size = self._compile(self._fixed)
        except Exception as error:  # its exceptions share no base class but this one
            raise ModelError(f"OpenVINO does not load this model: {_cause(error)}") from error
        _check_input(taken.element_type.to_dtype(), shape, -1, dtype, channels)
        self._one_size: tuple[Any, int] | None = None
        self._shape: tuple[int, ...] = ()
        self._calls = 0

    def __call__(self, images: Array) -> Array:
        output, _, block = self._infer(images)
        return depth_to_space(output, block)

    def prepare(self, images: Array) -> Callable[[], object]:
        request, block = self._infer(images)[1:]

        def run() -> object:
            output = request.infer(share_outputs=True)[0]  # with the inputs it has
            return output if block == 1 else depth_to_space(output, block)

        return run

    def _infer(self, images: Array) -> tuple[Array, Any, int]:
        """What the program made, the program, and the block that is still to be moved to space."""
        if self._fixed not in (None, images.shape):
            raise ModelError(f"this model takes only {self._fixed}, not {images.shape}")
        try:
            request, block = self._program_for(images.shape)
            made = request.infer({0: images}, share_inputs=True, share_outputs=True)[0]
        except Exception as error:
            raise ModelError(f"OpenVINO cannot run {images.shape}: {_cause(error)}") from error
        return made, request, block

    def _program_for(self, shape: tuple[int, ...]) -> tuple[Any, int]:
        """The program for every size, or for this one once it has come several times in a row."""
        if shape != self._shape:
            self._shape, self._calls, self._one_size = shape, 0, None
        self._calls += 1
        if self._calls > _CALLS_BEFORE_OWN_PROGRAM and self._one_size is None:
            self._one_size = self._compile(shape)
        return self._one_size or self._every_size

    def _compile(self, shape: tuple[int, ...] | None) -> tuple[Any, int]:
        model, block = self._model.clone(), 1
        if shape is not None:
            model.reshape(shape)
            block = leave_out_depth_to_space(model) if self._is_image_model else 1
        program = self._core.compile_model(model, "CPU", self._settings)
        return program.create_infer_request(), block


# A program for one size takes as long to make (35 ms) as a tile of 512 x 512 to run, and is 15 to
# 18 % faster.
_CALLS_BEFORE_OWN_PROGRAM = 4


# From 1.29 on, importing ONNX Runtime on Linux, too, writes a device's number into the user's cache
# and asks for its maker's server, unless this is set before.
_NO_TELEMETRY = "ORT_DISABLE_TELEMETRY"

# What ONNX Runtime calls so. It otherwise writes to stderr, for instance of constants unused.
_ERRORS = 3


class OnnxRuntime:
    """ONNX Runtime on the CPU with its default options; (N, H, W, C) is turned to its layout."""

    name = "onnxruntime"

    def __init__(
        self, model: bytes, threads: int, dtype: Number = np.uint8, channels: int | None = 3
    ) -> None:
        os.environ.setdefault(_NO_TELEMETRY, "1")
        with _importing("onnxruntime", "onnx"):
            import onnxruntime
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = _ERRORS
        onnxruntime.disable_telemetry_events()  # Windows only, and of its own kind
        try:
            self._session: Any = onnxruntime.InferenceSession(
                model, options, providers=["CPUExecutionProvider"]
            )
            details = self._session.get_inputs()[0]
        except Exception as error:  # its exceptions share no base class but this one
            raise ModelError(f"not a model that can be run: {reason(error)}") from error
        # In our files, int8 is stored 128 higher.
        self._int8 = dtype is np.int8 and details.type == "tensor(uint8)"
        taken: Number = np.uint8 if details.type == "tensor(uint8)" else np.float32
        _check_input(np.int8 if self._int8 else taken, details.shape, 1, dtype, channels)
        self._input = details.name
        self._output = self._session.get_outputs()[0].name

    def __call__(self, images: Array) -> Array:
        planes = self._planes(images)
        (output,) = self._run(self._session.run, [self._output], {self._input: planes})
        if output.ndim != 4:
            raise ModelError(f"a model here makes (N, C, H, W), this one {output.shape}")
        output = np.ascontiguousarray(output.transpose(0, 2, 3, 1))
        return (output ^ 128).view(np.int8) if self._int8 else output

    def prepare(self, images: Array) -> Callable[[], object]:
        binding = self._session.io_binding()
        self._run(binding.bind_cpu_input, self._input, self._planes(images))
        binding.bind_output(self._output)
        return lambda: self._run(self._session.run_with_iobinding, binding)

    def _planes(self, images: Array) -> Array:
        planes = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        return planes.view(np.uint8) ^ 128 if self._int8 else planes

    def _run(self, call: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return call(*arguments)
        except Exception as error:
            raise ModelError(f"ONNX Runtime: {reason(error)}") from error


@contextmanager
def _importing(package: str, extra: str) -> Iterator[None]:
    with needs(package, extra):
        try:
            yield
        except ModuleNotFoundError:
            raise
        except (ImportError, OSError) as error:  # a library of the system is missing
            raise ModelError(
                f"{package} is installed but does not load: {reason(error)}"
            ) from error


_lock = Lock()


@cache
def _made_once(kind: Callable[[], Any]) -> Any:
    return kind()


def _openvino_core() -> Any:
    """One, kept to the end of the process.

    A core gives the thread that makes it a stack for signals and takes that away when it goes
    (https://github.com/openvinotoolkit/openvino/pull/11894). One that goes in another thread, or
    not in the reverse order, leaves a stack that is not there any more, and the next signal, such
    as that of Ctrl-C, ends the process without a word.
    """
    with _lock, _importing("openvino", "fast"), _without_telemetry():
        import openvino

        return _made_once(openvino.Core)


@contextmanager
def _without_telemetry() -> Iterator[None]:
    """Importing OpenVINO tells Google Analytics so, unless that package cannot be imported."""
    package = "openvino_telemetry"
    earlier = sys.modules.get(package)
    sys.modules[package] = None  # type: ignore[assignment]  # how Python marks a missing one
    try:
        yield
    finally:
        if earlier is None:
            del sys.modules[package]
        else:
            sys.modules[package] = earlier


def _cause(error: Exception) -> str:
    """What OpenVINO says, without the places in its source where it says so."""
    if isinstance(error, OSError):  # of the temporary file
        return reason(error)
    lines = [line.strip() for line in str(error).splitlines()]
    said = [line for line in lines if line and not line.startswith(("Exception from", "Check "))]
    return " ".join(said) or reason(error)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {reason(error)}") from error


def _check_input(
    dtype: Any, shape: Sequence[Any], axis: int, wanted: Number, count: int | None
) -> None:
    """axis: that of the channels in a shape of four."""
    if len(shape) != 4:
        raise ModelError(f"a model here takes images, this one {list(shape)}")
    channels = shape[axis]
    if dtype != wanted or count not in (None, channels):
        few = "" if count is None else f" with {count} channels"
        raise ModelError(
            f"a model here takes {np.dtype(wanted)}{few},"
            f" this one {np.dtype(dtype)} with {channels}"
        )
