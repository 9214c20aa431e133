"""What the exactness checks share: models, inputs, comparison, downloads, exit codes."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from anchorsr.arrays import UInt8Array
from anchorsr.bench.baselines import PUBLISHED, published_graph
from anchorsr.errors import AnchorSRError, BenchmarkError
from anchorsr.graph.graph import Graph
from anchorsr.models.registry import model_path, read_model
from anchorsr.serialization.tflite.writer import write_tflite
from anchorsr.utils.files import reason

# The prefixes of error lines of apt-get, pip, QEMU and npm.
_SAYS_WHY = ("E:", "ERROR:", "qemu:", "npm error code")
PHOTOGRAPH = Path(__file__).parents[1] / "docs" / "dog.jpg"


def load_models(names: Sequence[str]) -> list[tuple[str, bytes, Graph]]:
    """Load shipped models, `.tflite` files and the published network: name, file and graph."""
    models = []
    for name in names:
        if name == PUBLISHED:
            graph = published_graph()
            models.append((name, write_tflite(graph), graph))
        else:
            path = model_path(name)
            models.append((path.stem, *read_model(path)))
    for name, _, graph in models:
        if not graph.is_integer:
            raise BenchmarkError(f"{name} is a float model, whose bytes differ between machines")
    return models


def crop(photograph: UInt8Array, height: int, width: int) -> UInt8Array:
    """Crop (1, height, width, 3) from the centre, mirrored where the photograph is smaller."""
    rows, columns = photograph.shape[:2]
    missing = (0, max(0, height - rows)), (0, max(0, width - columns)), (0, 0)
    padded = np.pad(photograph, missing, "symmetric")
    top, left = (padded.shape[0] - height) // 2, (padded.shape[1] - width) // 2
    return padded[None, top : top + height, left : left + width]


def difference(made: UInt8Array, expected: UInt8Array) -> str | None:
    """Describe how two results differ; None if every byte is the same."""
    if (made.shape, made.dtype) != (expected.shape, expected.dtype):
        return f"{made.dtype} {made.shape}, not {expected.dtype} {expected.shape}"
    levels = np.abs(made.astype(int) - expected)
    if not levels.any():
        return None
    return f"{np.count_nonzero(levels)} of {levels.size} differ, up to {levels.max()}"


def run_command(command: list[str], failure: str, environment: dict[str, str] | None = None) -> str:
    """Run a command and return its output, or raise BenchmarkError with its last error line."""
    try:
        ended = subprocess.run(
            command, capture_output=True, text=True, errors="replace", env=environment
        )
    except OSError as error:
        raise BenchmarkError(f"{failure}: {command[0]}: {reason(error)}") from error
    if ended.returncode:
        lines = [line.strip() for line in (ended.stderr + ended.stdout).splitlines()]
        said = [line for line in lines if line.startswith(_SAYS_WHY)] or lines
        last = next((line for line in reversed(said) if line), f"exit code {ended.returncode}")
        raise BenchmarkError(f"{failure}: {last}")
    return ended.stdout


def downloaded(folder: Path, what: str, make: Callable[[Path, Path], None]) -> Path:
    """Return a folder, which is downloaded if it is missing; it appears complete or not at all.

    `make` fills the first folder that it is given; the second is for temporary files.
    """
    if folder.is_dir():
        return folder
    print(f"downloading {what} into {folder.parent}", flush=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="unfinished-") as unfinished:
        made = Path(unfinished, "made")
        made.mkdir()
        make(made, Path(unfinished))
        try:
            made.rename(folder)
        except OSError:
            if not folder.is_dir():  # unless another process was faster
                raise
    return folder


def exit_code(script: str, check: Callable[[], list[str]]) -> int:
    """Run a check, print what it finds or raises, and return 1 if that is anything, else 0."""
    try:
        faults = check()
    except (AnchorSRError, OSError, RuntimeError) as error:
        faults = [f"{script}: {error}"]
    except KeyboardInterrupt:
        faults = [f"{script}: stopped"]
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0
