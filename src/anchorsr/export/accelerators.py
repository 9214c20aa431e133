"""Which operators the accelerators of devices accept from a `.tflite`, according to their sources.

A driver can still refuse an accepted operator for its size or its scales, or run it slowly. Refused
operators run on the processor, with copies between the two. Only operators of super-resolution
networks are listed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Accelerator:
    """What runs `.tflite` files on a device other than its processor.

    Attributes:
        operators: The operators of `LOOKED_UP` that it accepts, as the TensorFlow Lite schema names
            them.
        source: The file that says so, and its commit.
        remark: What else the source says.
    """

    name: str
    operators: frozenset[str]
    source: str
    remark: str = ""

    def refuses(self, operators: Iterable[str]) -> tuple[str, ...]:
        """List the operators that were looked up and that it does not accept, sorted."""
        return tuple(sorted(set(operators) & LOOKED_UP - self.operators))


def not_looked_up(operators: Iterable[str]) -> tuple[str, ...]:
    """List the operators that were not looked up, sorted."""
    return tuple(sorted(set(operators) - LOOKED_UP))


_ELEMENTWISE = frozenset({"ADD", "MUL", "MAXIMUM", "MINIMUM", "RELU", "QUANTIZE", "DEQUANTIZE"})
_MOVES = frozenset({"CONCATENATION", "RESHAPE", "RESIZE_BILINEAR", "DEPTH_TO_SPACE"})
# The operators of the shipped networks, of the published one and of its output stages.
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
