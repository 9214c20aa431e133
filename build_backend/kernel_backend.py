"""How pip builds anchorsr: setuptools, and a C compiler from PyPI where the machine has none.

The native kernel (`src/anchorsr/engines/native`) is some C files without dependencies. Where there
is a compiler, it is used, and nothing is downloaded. Where there is none, `ziglang` is asked for:
a compiler for every system in one wheel of about 80 MB, which pip puts into the build's own
environment and throws away with it. A machine for which neither is to be had gets an installation
without the kernel (`setup.py` says so), in which another engine runs the models.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from typing import Any

from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403  # the hooks that stay as they are

COMPILERS = ("cc", "gcc", "clang")
# Those that ziglang has wheels for.
_ZIG_SYSTEMS = ("linux", "darwin", "win32")
_ZIG_MACHINES = ("x86_64", "amd64", "aarch64", "arm64")


def _compiler_to_fetch() -> list[str]:
    if os.environ.get("ANCHORSR_TARGET"):  # which setup.py leaves to ziglang
        return ["ziglang>=0.13"]
    if any(shutil.which(name) for name in COMPILERS):
        return []
    machine = platform.machine().lower()
    known = sys.platform in _ZIG_SYSTEMS and machine in _ZIG_MACHINES
    return ["ziglang>=0.13"] if known else []


def get_requires_for_build_wheel(config_settings: Any = None) -> list[str]:
    """Ask for what setuptools needs, and for a compiler where there is none."""
    return [*build_meta.get_requires_for_build_wheel(config_settings), *_compiler_to_fetch()]


def get_requires_for_build_editable(config_settings: Any = None) -> list[str]:
    """Ask for what setuptools needs, and for a compiler where there is none."""
    return [*build_meta.get_requires_for_build_editable(config_settings), *_compiler_to_fetch()]
