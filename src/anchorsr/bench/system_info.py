"""The machine that a measurement was made on."""

from __future__ import annotations

import platform
from typing import Any

from anchorsr.engines.runtimes import default_threads
from anchorsr.utils.system_info import package_version, processor_flags, processor_name

# The instructions that 8-bit products depend on, as Linux names them.
_FLAGS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "amx_int8", "asimddp", "i8mm", "sve")
_PACKAGES = (
    "anchorsr",
    "ai-edge-litert",
    "openvino",
    "onnxruntime",
    "numpy",
    "pillow",
    "opencv-contrib-python-headless",
)


def describe_machine() -> dict[str, Any]:
    """Describe the processor, the system and the versions of the packages that compute.

    Returns:
        Plain JSON: processor, architecture, instructions (those of 8-bit products), cores (that
        this process may use), system, python, and versions by package.
    """
    flags = processor_flags()
    return {
        "processor": processor_name(),
        "architecture": platform.machine(),
        "instructions": [flag for flag in _FLAGS if flag in flags],
        "cores": default_threads(),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": {name: version for name in _PACKAGES if (version := package_version(name))},
    }
