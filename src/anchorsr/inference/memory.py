"""How much memory codecs take, and how much there is.

A system that runs out of memory kills programs. So what needs more than there is is refused before
it begins.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

from anchorsr.errors import OutputError
from anchorsr.images.formats import format_of

_UNKNOWN_MEMORY = 4 * 2**30
# Bytes a pixel of the result and its codec, as measured at 100 megapixels. Other formats are
# written in strips.
_ENCODING = {"WEBP": 15, "AVIF": 44, "HEIC": 26}
_RESIZING = 7
# Smaller results are not looked at.
_LEAST_PIXELS = 40_000_000


def check_memory(path: Path, size: tuple[int, int], target: tuple[int, int], factor: int) -> None:
    """Check that the codec of a format that is not written in strips has the memory it needs.

    Args:
        path: The file to be written.
        size: (height, width) of the image.
        target: (height, width) of the result.
        factor: The product of all passes; 1 without any.

    Raises:
        OutputError: If there is less memory than that.
    """
    per_pixel = _ENCODING.get(format_of(path))
    pixels, result = math.prod(size), math.prod(target)
    passed = pixels * factor**2
    if per_pixel is None or max(result, passed) < _LEAST_PIXELS:
        return
    needed = 3 * pixels + per_pixel * result + (_RESIZING * passed if passed != result else 0)
    available = available_memory()
    if needed > available:
        raise OutputError(
            f"{path} would take {needed / 1e9:.1f} GB of memory, and {available / 1e9:.1f} GB are "
            f"free; write a .png, .tif or .jpg file, which is written in strips"
        )


def available_memory() -> int:
    """Return the bytes this process can still allocate, as far as the system tells."""
    found = [_UNKNOWN_MEMORY]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")]
    except (OSError, ValueError, LookupError):
        if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
            found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2]
    groups = Path("/sys/fs/cgroup")  # a container's limit
    try:
        used = int((groups / "memory.current").read_text())
        found.append(int((groups / "memory.max").read_text()) - used)
    except (OSError, ValueError):
        pass  # no limit: no such file, or `max`
    return min(found, default=_UNKNOWN_MEMORY)
