"""Which operators the accelerators of devices accept from a `.tflite`, as their sources say.

An operator that is accepted can still be refused by a driver, for its size or its scales, or
run slowly; one that is not runs on the processor, with copies between the two. Only operators
that image networks are made of are listed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Accelerator:
    """operators: the accepted ones of `LOOKED_UP`, by their names in the TensorFlow Lite schema;
    source: where that is said, with the commit that was read; remark: what else it says.
    """

    name: str
    operators: frozenset[str]
    source: str
    remark: str = ""

    def refuses(self, operators: Iterable[str]) -> tuple[str, ...]:
        """Those of the operators that were looked up and that it does not accept, sorted."""
        return tuple(sorted(set(operators) & LOOKED_UP - self.operators))


def not_looked_up(operators: Iterable[str]) -> tuple[str, ...]:
    """Those of the operators of which nothing is known here, sorted."""
    return tuple(sorted(set(operators) - LOOKED_UP))


_ELEMENTWISE = frozenset({"ADD", "MUL", "MAXIMUM", "MINIMUM", "RELU", "QUANTIZE", "DEQUANTIZE"})
_MOVES = frozenset({"CONCATENATION", "RESHAPE", "RESIZE_BILINEAR", "DEPTH_TO_SPACE"})
# What the shipped networks, the published form and its ends are made of.
LOOKED_UP = _ELEMENTWISE | _MOVES | {"CONV_2D"}

ACCELERATORS = (
    Accelerator(
        "GPU delegate",
        LOOKED_UP,
        "tensorflow/tensorflow 03a5e4e1: tensorflow/lite/tools/versioning/gpu_compatibility.cc",
        "computes 8-bit models in floating point, so the bytes differ",
    ),
    Accelerator(
        "NNAPI delegate",
        LOOKED_UP,
        "tensorflow/tensorflow 002e5f47: tensorflow/lite/delegates/nnapi/nnapi_delegate.cc",
        "QUANTIZE to int8 from Android 11 on",
    ),
    Accelerator(
        "MediaTek Neuron",
        LOOKED_UP,
        "MediaTek-NeuroPilot/tflite-neuron-delegate 1154203c: neuron/neuron_delegate_validation.cc",
    ),
    Accelerator(
        "VeriSilicon VX", LOOKED_UP, "VeriSilicon/tflite-vx-delegate 10085b37: op_status.md"
    ),
    Accelerator(
        "MediaTek NeuroPilot",
        LOOKED_UP - {"DEPTH_TO_SPACE"},
        "google-ai-edge/LiteRT 15511366:"
        " litert/vendors/mediatek/compiler/MediaTek_Neuro_Compiler.md",
        "through LiteRT's compiled models; the delegate above is older",
    ),
    Accelerator(
        "Qualcomm QNN",
        LOOKED_UP,
        "google-ai-edge/LiteRT 08c8bf6e: litert/vendors/qualcomm/compiler/Qualcomm_QNN_Compiler.md",
    ),
    Accelerator(
        "Samsung AI LiteCore",
        LOOKED_UP - {"DEPTH_TO_SPACE", "QUANTIZE", "DEQUANTIZE"},
        "google-ai-edge/LiteRT 08d678de: litert/vendors/samsung/compiler/create_model.cc",
        "fails where it refuses, and does not fall back",
    ),
    Accelerator(
        "Edge TPU",
        LOOKED_UP - {"DEPTH_TO_SPACE", "DEQUANTIZE"},
        "developer.axis.com/computer-vision/on-device/system-on-chip/artpec-7/supported-ops",
    ),
)
