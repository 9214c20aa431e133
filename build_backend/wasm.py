"""Build the native kernel as WebAssembly, for the page in `src/anchorsr/serve/page`.

    pip install ziglang==0.17.1
    python build_backend/wasm.py

writes `kernel.wasm`, for browsers with WebAssembly SIMD, and `kernel-relaxed.wasm`, for those with
relaxed SIMD. Both are in the repository, so that an installation needs no compiler for them;
`kernel.json` beside them says which sources they were made of, and tests compare both.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
KERNEL = ROOT / "src/anchorsr/engines/native"
PAGE = ROOT / "src/anchorsr/serve/page"
SOURCES = ("load.c", "order.c", "portable.c", "sets.c", "stream.c", "wasm.c")
HEADERS = ("api.h", "kernel.h")
FLAGS = (
    "-target", "wasm32-wasi", "-mexec-model=reactor", "-std=c11", "-O3", "-ffp-contract=off",
    "-fvisibility=hidden", "-s", "-msimd128",
    "-Wl,--export-dynamic", "-Wl,--export=malloc", "-Wl,--export=free", "-Wl,--strip-all",
)  # fmt: skip
MODULES: dict[str, tuple[str, ...]] = {
    "kernel.wasm": (),
    "kernel-relaxed.wasm": ("-mrelaxed-simd",),
}
ZIG = "0.17.1"


def record(page: Path = PAGE) -> dict[str, str]:
    """Say what the modules in a folder are, and what they are made of."""
    sources = hashlib.sha256(repr((ZIG, FLAGS, MODULES)).encode())
    for name in (*SOURCES, *HEADERS):
        sources.update((KERNEL / name).read_bytes())
    digests = {name: hashlib.sha256((page / name).read_bytes()).hexdigest() for name in MODULES}
    return {"sources": sources.hexdigest(), **digests}


def build(page: Path) -> None:
    """Compile the modules into a folder."""
    for name, more in MODULES.items():
        files = [str(KERNEL / source) for source in SOURCES]
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder, name)
            command = [sys.executable, "-m", "ziglang", "cc", *FLAGS, *more, *files]
            subprocess.run([*command, "-o", str(made)], check=True)
            (page / name).write_bytes(made.read_bytes())


if __name__ == "__main__":
    build(PAGE)
    text = json.dumps(record(), indent=1)
    (PAGE / "kernel.json").write_text(text + "\n")
