"""The processor of this machine and the versions of installed packages."""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path


def processor_facts() -> dict[str, str]:
    """Read what Linux says about the first processor.

    Returns:
        The first block of `/proc/cpuinfo` by key; empty on other systems.
    """
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    first = text.split("\n\n")[0].splitlines()
    pairs = (line.split(":", 1) for line in first if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def processor_name() -> str:
    """Return the processor's model name, or its architecture where no name is known."""
    return processor_facts().get("model name") or platform.processor() or platform.machine()


def processor_flags() -> list[str]:
    """List the instruction set flags as Linux names them; empty on other systems."""
    facts = processor_facts()
    return (facts.get("flags") or facts.get("Features") or "").split()


def package_version(distribution: str) -> str | None:
    """Return the version of an installed distribution, or None if it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
