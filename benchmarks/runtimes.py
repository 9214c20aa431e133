"""The shipped models in other runtimes, beside the integer arithmetic.

Run from the repository, in an environment of its own beside anchorsr[train,onnx,fast]:

    pip install MNN ncnn pnnx onnxruntime-qnn
    pip install --no-deps executorch "torchao>=0.18,<0.19"
    python benchmarks/runtimes.py mnn ncnn executorch qnn openvino

Each cell says how many of the bytes differ from the integer arithmetic, and by how much at most.
`qnn` is Qualcomm's HTP, emulated on x86-64, without falling back to the processor. MNN's converter
is called inside Python: its command `mnnconvert` installs a package that reports its use.
"""

from __future__ import annotations

import argparse
import multiprocessing
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

import anchorsr
from anchorsr.graph.executor import run_graph
from anchorsr.images.io import read_rgb
from anchorsr.models.registry import model_path, read_model

HEIGHT, WIDTH = 90, 120
MODELS = (("fast", 2), ("fast", 3), ("abpn", 3), ("quality", 2), ("quality", 3))

Run = Callable[[str, int, np.ndarray, Path], np.ndarray]


def mnn(model: str, factor: int, image: np.ndarray, folder: Path) -> np.ndarray:
    """The integer `.tflite`, converted."""
    import _tools
    import MNN

    source, converted = folder / "model.tflite", folder / "model.mnn"
    anchorsr.export_model(model, source, factor=factor, size=image.shape[:2])
    arguments = ["-f", "TFLITE", "--modelFile", str(source), "--MNNModel", str(converted)]
    _tools.mnnconvert(["mnnconvert", *arguments, "--bizCode", "MNN"])
    interpreter = MNN.Interpreter(str(converted))
    session = interpreter.createSession({"numThread": 1})
    shape = (1, HEIGHT * factor, WIDTH * factor, 3)
    kind = (MNN.Halide_Type_Uint8, MNN.Tensor_DimensionType_Tensorflow)
    given, made = image[None], np.zeros(shape, np.uint8)
    interpreter.getSessionInput(session).copyFrom(MNN.Tensor(given.shape, kind[0], given, kind[1]))
    interpreter.runSession(session)
    host = MNN.Tensor(shape, kind[0], made, kind[1])
    interpreter.getSessionOutput(session).copyToHostTensor(host)
    return np.array(host.getData()).reshape(shape[1:])


def ncnn(model: str, factor: int, image: np.ndarray, folder: Path) -> np.ndarray:
    """The module through pnnx, traced in its own process: PyTorch and ncnn lock up in one."""
    import ncnn as runtime

    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context) as pool:
        pool.submit(trace, model, factor, str(folder / "model.pt")).result()
    shape = f"inputshape=[1,3,{HEIGHT},{WIDTH}]"
    command = [str(Path(sys.executable).with_name("pnnx")), "model.pt", shape, "fp16=0"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    network = runtime.Net()
    network.opt.num_threads = 1
    network.load_param(str(folder / "model.ncnn.param"))
    network.load_model(str(folder / "model.ncnn.bin"))
    extractor = network.create_extractor()
    numbers = channels_first(image)[0].astype(np.float32) / 255
    extractor.input("in0", runtime.Mat(numbers).clone())
    return as_bytes(np.array(extractor.extract("out0")[1]) * 255)


def trace(model: str, factor: int, path: str) -> None:
    import torch

    network = anchorsr.load_module(model, factor)
    torch.jit.trace(network, torch.zeros(1, 3, HEIGHT, WIDTH)).save(path)


def executorch(model: str, factor: int, image: np.ndarray, folder: Path) -> np.ndarray:
    """The module, with XNNPACK."""
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower
    from executorch.runtime import Runtime

    numbers = torch.from_numpy(channels_first(image)).float() / 255
    program = torch.export.export(anchorsr.load_module(model, factor), (numbers,))
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    path = folder / "model.pte"
    path.write_bytes(lowered.to_executorch().buffer)
    method = Runtime.get().load_program(path).load_method("forward")
    return as_bytes(method.execute([numbers])[0][0].numpy() * 255)


def qnn(model: str, factor: int, image: np.ndarray, folder: Path) -> np.ndarray:
    """The QDQ `.onnx` in ONNX Runtime's plugin for Qualcomm's chips."""
    import onnxruntime
    import onnxruntime_qnn

    libraries = Path(onnxruntime_qnn.__file__).parent
    path = folder / "model.onnx"
    anchorsr.export_model(model, path, factor=factor, size=image.shape[:2])
    devices = [each for each in onnxruntime.get_ep_devices() if each.ep_name == "qnn"]
    if not devices:
        onnxruntime.register_execution_provider_library(
            "qnn", str(libraries / "libonnxruntime_providers_qnn.so")
        )
        devices = [each for each in onnxruntime.get_ep_devices() if each.ep_name == "qnn"]
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    htp = {"backend_path": str(libraries / "libQnnHtp.so"), "soc_model": "57", "htp_arch": "75"}
    options.add_provider_for_devices(devices[:1], htp)
    session = onnxruntime.InferenceSession(str(path), options)
    (made,) = session.run(None, {session.get_inputs()[0].name: channels_first(image)})
    return made[0].transpose(1, 2, 0)


def openvino(model: str, factor: int, image: np.ndarray, folder: Path) -> np.ndarray:
    """The QDQ `.onnx`."""
    import openvino as runtime

    path = folder / "model.onnx"
    anchorsr.export_model(model, path, factor=factor)
    compiled = runtime.Core().compile_model(str(path), "CPU")
    return compiled(channels_first(image))[0][0].transpose(1, 2, 0)


def channels_first(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(image.transpose(2, 0, 1)[None])


def as_bytes(numbers: np.ndarray) -> np.ndarray:
    """Numbers (3, H, W) on [0, 255] as an image."""
    return np.clip(np.rint(numbers), 0, 255).astype(np.uint8).transpose(1, 2, 0)


RUNTIMES: dict[str, Run] = {
    "mnn": mnn,
    "ncnn": ncnn,
    "executorch": executorch,
    "qnn": qnn,
    "openvino": openvino,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runtime", nargs="+", choices=RUNTIMES, help="%(choices)s")
    parser.add_argument("--image", type=Path, default=Path("docs/dog.jpg"), help="%(default)s")
    options = parser.parse_args()
    image = np.ascontiguousarray(read_rgb(options.image)[30 : 30 + HEIGHT, 20 : 20 + WIDTH])
    print("| runtime | model | bytes that differ | at most |\n|---|---|---|---|", flush=True)
    for name in options.runtime:
        for model, factor in MODELS:
            exact = run_graph(read_model(model_path(model, factor))[1], image[None])[0]
            with tempfile.TemporaryDirectory() as folder:
                made = RUNTIMES[name](model, factor, image, Path(folder))
            apart = np.abs(made.astype(int) - exact)
            row = f"{(apart > 0).mean():.2%} | {apart.max()}"
            print(f"| {name} | {model} ×{factor} | {row} |", flush=True)


if __name__ == "__main__":
    try:
        main()
    except (anchorsr.AnchorSRError, ModuleNotFoundError) as error:
        sys.exit(f"runtimes.py: {error}")
