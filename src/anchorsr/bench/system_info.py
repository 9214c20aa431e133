"""What a measurement was made on: the processor, and the versions of what ran."""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from anchorsr.engines.runtimes import default_threads

# Which instructions decide how fast 8-bit integers are multiplied, as Linux names them.
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
    """Processor, its integer instructions, cores that this process may use, system, versions."""
    information = _processor_information()
    flags = set(information.get("flags", information.get("Features", "")).split())
    return {
        "processor": information.get("model name") or platform.processor() or platform.machine(),
        "architecture": platform.machine(),
        "instructions": [flag for flag in _FLAGS if flag in flags],
        "cores": default_threads(),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": {name: version for name in _PACKAGES if (version := _version(name))},
    }


def _processor_information() -> dict[str, str]:
    """What Linux says about the first processor; nothing elsewhere."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    first = text.split("\n\n")[0].splitlines()
    pairs = (line.split(":", 1) for line in first if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
