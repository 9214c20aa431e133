"""The runtimes that run a model file, behind one interface.

An engine takes uint8 RGB (1, H, W, 3) and returns uint8 RGB (1, factor · H, factor · W, 3), for any
size unless the file has a fixed one. For benchmarks it also takes int8 or float32 and any number of
channels. LiteRT is in the base installation; OpenVINO comes with `anchorsr[fast]`, ONNX Runtime
with `anchorsr[onnx]`. `engines.selection` chooses between them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

import numpy as np

from anchorsr.arrays import Array
from anchorsr.engines.native.engine import Native
from anchorsr.engines.openvino_graph import depth_to_space, remove_depth_to_space
from anchorsr.errors import ModelError, needs, unknown_choice
from anchorsr.graph.graph import Graph
from anchorsr.serialization.onnx import write_onnx
from anchorsr.serialization.tflite.reader import read_tflite
from anchorsr.serialization.tflite.summary import fixed_size
from anchorsr.utils.files import cannot_read, reason
from anchorsr.utils.temporary import temporary_folder

Number = type[np.uint8] | type[np.int8] | type[np.float32]

# Runtimes that run every graph; the first is in the base installation.
ENGINES = ("litert", "openvino", "onnxruntime")
# Our own kernel, for images and the networks that it is made for.
NATIVE = Native.name
# Runtimes abort the process with far more.
MOST_THREADS = 1024


class Engine(Protocol):
    """Runs one model. Only one thread at a time may use it.

    Attributes:
        name: `NATIVE` or one of `ENGINES`.
    """

    name: str

    def __call__(self, images: Array) -> Array:
        """Run the model.

        Args:
            images: Uint8 (1, H, W, 3).

        Returns:
            Uint8 (1, factor · H, factor · W, 3), which belongs to the caller: no later call
            writes into it.

        Raises:
            ModelError: The runtime fails.
        """
        ...

    def prepare(self, images: Array) -> Callable[[], object]:
        """Prepare a benchmark of the model alone, without copies and changes of layout.

        Args:
            images: The input, (1, H, W, C).

        Returns:
            A function that runs the model on these images each time it is called. It is valid
            until the engine is used in another way.
        """
        ...


def default_threads() -> int:
    """Count the processors that this process may use, up to MOST_THREADS."""
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
    graph: Graph | None = None,
) -> Engine:
    """Load a model into a runtime, without comparing it with the exact arithmetic.

    Args:
        model: A `.tflite` or `.onnx` file, or its contents.
        name: `NATIVE` or one of `ENGINES` for a `.tflite` file, LiteRT by default. ONNX Runtime
            gets the `.onnx` file that `export` would write. An `.onnx` file runs in ONNX Runtime
            only.
        threads: Number of threads; by default all processors.
        dtype: Expected type of the input; with int8, the output is int8 too.
        channels: Expected number of input channels; None for any.
        graph: What `read_tflite` reads from the file, if it was read before.

    Returns:
        The engine.

    Raises:
        ModelError: The file is neither, its input is not as expected, or the runtime refuses it.
        GraphError: The model has no `.onnx` form, or the native kernel does not run it.
        MissingDependencyError: The runtime is not installed.
        ValueError: The number of threads is out of range.
    """
    data = model if isinstance(model, bytes) else _read(model)
    count = threads or default_threads()
    if not 1 <= count <= MOST_THREADS:
        raise ValueError(f"threads must be 1 to {MOST_THREADS}, not {count}")
    is_tflite = data[4:8] == b"TFL3"
    engine = name or ("litert" if is_tflite else "onnxruntime")
    if engine not in (NATIVE, *ENGINES):
        raise ModelError(unknown_choice("engine", engine, (NATIVE, *ENGINES)))
    if engine == NATIVE:
        if dtype is not np.uint8 or channels != 3:
            raise ModelError("the native kernel takes uint8 RGB only")
        return Native(graph or read_tflite(data), count, size=fixed_size(data))
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
        """Run the model, as `Engine.__call__`."""
        self.prepare(images)()
        # A copy costs 0.4 % of the time; LiteRT refuses to run while a view is held.
        return np.asarray(self._interpreter.get_tensor(self._output))

    def prepare(self, images: Array) -> Callable[[], object]:
        """Prepare a benchmark, as `Engine.prepare`."""
        if images.shape != self._shape:
            if not self._free:
                raise ModelError(f"this model takes only shape {self._shape}, not {images.shape}")
            self._shape = ()  # unknown if the next lines fail
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

    It rounds some ties differently from the exact arithmetic: a few bytes differ by a level or two.
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
            # If pinned, the first threads of two processes would share the first processor.
            "ENABLE_CPU_PINNING": False,
            # Otherwise each new size keeps another 0.7 MB, for thousands of sizes.
            "CPU_RUNTIME_CACHE_CAPACITY": 0,
            # Otherwise a processor with bfloat16 computes in that, with 8 significant bits.
            "INFERENCE_PRECISION_HINT": "f32",
        }
        try:
            # OpenVINO tells the format by the suffix of a file, and cannot from bytes.
            with temporary_folder() as folder:
                path = folder / "model.tflite"
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
        """Run the model, as `Engine.__call__`."""
        output, _, block = self._infer(images)
        return depth_to_space(output, block)

    def prepare(self, images: Array) -> Callable[[], object]:
        """Prepare a benchmark, as `Engine.prepare`."""
        request, block = self._infer(images)[1:]

        def run() -> object:
            output = request.infer(share_outputs=True)[0]  # with the inputs it has
            return output if block == 1 else depth_to_space(output, block)

        return run

    def _infer(self, images: Array) -> tuple[Array, Any, int]:
        """The output, the infer request, and the block of the depth-to-space that remains."""
        if self._fixed not in (None, images.shape):
            raise ModelError(f"this model takes only shape {self._fixed}, not {images.shape}")
        try:
            request, block = self._request_for(images.shape)
            output = request.infer({0: images}, share_inputs=True, share_outputs=True)[0]
        except Exception as error:
            raise ModelError(
                f"OpenVINO cannot run shape {images.shape}: {_cause(error)}"
            ) from error
        return output, request, block

    def _request_for(self, shape: tuple[int, ...]) -> tuple[Any, int]:
        """The request for every size, or one for this size once it came several times in a row."""
        if shape != self._shape:
            self._shape, self._calls, self._one_size = shape, 0, None
        self._calls += 1
        if self._calls > _CALLS_BEFORE_COMPILING and self._one_size is None:
            self._one_size = self._compile(shape)
        return self._one_size or self._every_size

    def _compile(self, shape: tuple[int, ...] | None) -> tuple[Any, int]:
        model, block = self._model.clone(), 1
        if shape is not None:
            model.reshape(shape)
            block = remove_depth_to_space(model) if self._is_image_model else 1
        program = self._core.compile_model(model, "CPU", self._settings)
        return program.create_infer_request(), block


# Compiling for one size takes as long as running a tile of 512x512 (35 ms), and gains 15 to 18 %.
_CALLS_BEFORE_COMPILING = 4

# From 1.29 on, importing ONNX Runtime on Linux, too, writes a device id to the user's cache and
# contacts its maker's server, unless this is set before.
_NO_TELEMETRY = "ORT_DISABLE_TELEMETRY"

# ONNX Runtime's severity. Below it, it writes to stderr, for instance about unused constants.
_ERRORS = 3


class OnnxRuntime:
    """ONNX Runtime on the CPU with its default options; transposes from and to (N, H, W, C)."""

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
        onnxruntime.disable_telemetry_events()  # that of Windows
        try:
            self._session: Any = onnxruntime.InferenceSession(
                model, options, providers=["CPUExecutionProvider"]
            )
            details = self._session.get_inputs()[0]
        except Exception as error:  # its exceptions share no base class but this one
            raise ModelError(f"ONNX Runtime does not load this model: {reason(error)}") from error
        # Our files store int8 as uint8, 128 higher.
        self._int8 = dtype is np.int8 and details.type == "tensor(uint8)"
        taken: Number = np.uint8 if details.type == "tensor(uint8)" else np.float32
        _check_input(np.int8 if self._int8 else taken, details.shape, 1, dtype, channels)
        self._input = details.name
        self._output = self._session.get_outputs()[0].name

    def __call__(self, images: Array) -> Array:
        """Run the model, as `Engine.__call__`."""
        planes = self._planes(images)
        (output,) = self._run(self._session.run, [self._output], {self._input: planes})
        if output.ndim != 4:
            raise ModelError(f"the output must be (N, C, H, W), not {output.shape}")
        output = np.ascontiguousarray(output.transpose(0, 2, 3, 1))
        return (output ^ 128).view(np.int8) if self._int8 else output

    def prepare(self, images: Array) -> Callable[[], object]:
        """Prepare a benchmark, as `Engine.prepare`."""
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
        except (ImportError, OSError) as error:  # a system library is missing
            raise ModelError(
                f"{package} is installed but does not load: {reason(error)}"
            ) from error


_lock = Lock()


@cache
def _singleton(kind: Callable[[], Any]) -> Any:
    return kind()


def _openvino_core() -> Any:
    """A single core, kept until the process ends.

    A core gives the thread that creates it an alternate signal stack and frees that when it is
    destroyed (https://github.com/openvinotoolkit/openvino/pull/11894). If it is destroyed in
    another thread, or not in reverse order, the thread is left with a freed stack, and the next
    signal, such as Ctrl-C, kills the process silently.
    """
    with _lock, _importing("openvino", "fast"), _without_telemetry():
        import openvino

        return _singleton(openvino.Core)


@contextmanager
def _without_telemetry() -> Iterator[None]:
    """Importing OpenVINO reports to Google Analytics, unless this package cannot be imported."""
    package = "openvino_telemetry"
    earlier = sys.modules.get(package)
    sys.modules[package] = None  # type: ignore[assignment]  # makes the import fail
    try:
        yield
    finally:
        if earlier is None:
            del sys.modules[package]
        else:
            sys.modules[package] = earlier


def _cause(error: Exception) -> str:
    """OpenVINO's message without the source locations in it."""
    if isinstance(error, OSError):  # from the temporary file
        return reason(error)
    lines = [line.strip() for line in str(error).splitlines()]
    said = [line for line in lines if line and not line.startswith(("Exception from", "Check "))]
    return " ".join(said) or reason(error)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} {cannot_read(error)}") from error


def _check_input(
    dtype: Any, shape: Sequence[Any], axis: int, wanted: Number, count: int | None
) -> None:
    """Check the input of a model; `axis` is that of the channels in its shape."""
    if len(shape) != 4:
        raise ModelError(f"the input must be a batch of images, not {list(shape)}")
    channels = shape[axis]
    if dtype != wanted or count not in (None, channels):
        few = "" if count is None else f" with {count} channels"
        raise ModelError(
            f"the input must be {np.dtype(wanted)}{few}, not {np.dtype(dtype)} with {channels}"
        )
