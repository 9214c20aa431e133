"""The native kernel: C files compiled into one library inside the package.

It is no extension module but a plain library that `ctypes` loads, so one wheel serves every
version of Python. All else about the package stands in pyproject.toml.

Environment:
    CC: the compiler, with arguments; by default the first of cc, gcc and clang, else ziglang's.
    CFLAGS: more arguments, such as -fsanitize=address.
    ANCHORSR_TARGET: a target of ziglang's, such as aarch64-windows-gnu, for which to build.
    ANCHORSR_KERNEL: `required` makes a kernel that does not build an error, not a warning.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

KERNEL = Path("src/anchorsr/engines/native")
# No flag here is for one processor: functions say for themselves which instructions they use.
# Products and sums are not contracted to one operation, which would round otherwise.
FLAGS = ("-std=c11", "-O3", "-ffp-contract=off", "-fvisibility=hidden", "-shared")
# Without it, zig compiles for the very processor that it runs on.
ANY_PROCESSOR = "-mcpu=baseline"


def _target() -> str:
    return os.environ.get("ANCHORSR_TARGET", "")


def _suffix() -> str:
    system = _target() or sys.platform
    if "windows" in system or system == "win32":
        return ".dll"
    return ".dylib" if "macos" in system or system == "darwin" else ".so"


def _compiler() -> list[str]:
    """Command and first arguments; empty where there is no compiler."""
    zig = [sys.executable, "-m", "ziglang", "cc", ANY_PROCESSOR, "-s"]
    if _target():
        return [*zig, "-target", _target()]
    if os.environ.get("CC"):
        return shlex.split(os.environ["CC"])
    for name in ("cc", "gcc", "clang"):
        if shutil.which(name):
            # On macOS: for which of the two processors.
            return [name, *shlex.split(os.environ.get("ARCHFLAGS", ""))]
    if importlib.util.find_spec("ziglang"):
        return zig
    return []


class BuildKernel(build_ext):
    """Compiles the kernel; where that fails, the package is built without it."""

    def get_ext_filename(self, fullname: str) -> str:
        """Name the library without the version of Python."""
        return str(Path(*fullname.split("."))) + _suffix()

    def build_extension(self, ext: Extension) -> None:
        """Compile the library, or warn that there will be none."""
        output = Path(self.get_ext_fullpath(ext.name))
        output.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._compile([str(source) for source in ext.sources], output)
        except (OSError, subprocess.CalledProcessError) as error:
            if os.environ.get("ANCHORSR_KERNEL") == "required":
                raise
            self.warn(f"anchorsr is built without its native kernel: {error}")

    def _compile(self, sources: list[str], output: Path) -> None:
        compiler = _compiler()
        if not compiler:
            raise OSError("no C compiler (cc, gcc, clang or the package ziglang)")
        plain = [] if _suffix() == ".dll" else ["-fPIC"]
        more = shlex.split(os.environ.get("CFLAGS", ""))
        libraries = ["-lm"] if _suffix() == ".so" else []
        with tempfile.TemporaryDirectory() as folder:  # linkers for Windows write more than that
            made = Path(folder, output.name)
            command = [*compiler, *FLAGS, *plain, *more, *sources, "-o", str(made), *libraries]
            subprocess.run(command, check=True)
            shutil.copyfile(made, output)

    def copy_extensions_to_source(self) -> None:
        """Copy the library, where it was built, beside the sources of an editable installation."""
        every = self.extensions
        built = [Path(self.build_lib, self.get_ext_filename(ext.name)) for ext in every]
        pairs = zip(every, built, strict=True)
        self.extensions = [ext for ext, path in pairs if path.exists()]
        super().copy_extensions_to_source()
        self.extensions = every


class PlatformWheel(bdist_wheel):
    """For one system and processor, and any Python 3."""

    def get_tag(self) -> tuple[str, str, str]:
        """Name any version of Python 3 and this system."""
        return ("py3", "none", super().get_tag()[2])


setup(
    ext_modules=[
        Extension(
            "anchorsr.engines.native._kernel",
            sources=sorted(str(path) for path in KERNEL.glob("*.c")),
            depends=sorted(str(path) for path in KERNEL.glob("*.h")),
        )
    ],
    cmdclass={"build_ext": BuildKernel, "bdist_wheel": PlatformWheel},
)
