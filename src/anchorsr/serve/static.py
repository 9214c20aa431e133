"""The page as files for any web host: the visitor's browser does the work."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from anchorsr.models.registry import DEFAULT, DEFAULT_FACTOR, list_models
from anchorsr.serve.page_config import page_config
from anchorsr.serve.page_files import page_files
from anchorsr.utils.files import check_folder, check_free, make_folder, publish

# What a first visit fetches for use without a network; other models follow when they are used.
_FIRST_MODELS = (f"{DEFAULT}_x{DEFAULT_FACTOR}", f"fast_x{DEFAULT_FACTOR}")


def write_static(folder: Path, *, overwrite: bool = False) -> list[Path]:
    """Write the page into a folder.

    Args:
        folder: Made if need be.
        overwrite: Replace existing files.

    Returns:
        The files.

    Raises:
        OutputError: If a file exists and `overwrite` is false, or cannot be written.
    """
    files = {name: path.read_bytes() for name, path in page_files().items()}
    models = {f"models/{model.path.name}": model.path.read_bytes() for model in list_models()}
    config = json.dumps(page_config("browser"))
    files["config.mjs"] = f"export default {config};\n".encode()
    first = [name for name in files if name not in ("sw.js", "kernel.wasm")]
    first += [f"models/{name}.tflite" for name in _FIRST_MODELS]
    everything = files | models
    digest = hashlib.sha256()
    for name, data in sorted(everything.items()):
        digest.update(name.encode() + b"\0" + data)
    worker = files["sw.js"].decode()
    worker = worker.replace('"VERSION"', json.dumps(digest.hexdigest()[:16]))
    everything["sw.js"] = worker.replace('["FILES"]', json.dumps(["./", *first])).encode()
    check_folder(folder)
    make_folder(folder / "models")
    for name in everything:
        check_free(folder / name, overwrite=overwrite)
    for name, data in everything.items():
        publish(data, folder / name, overwrite=overwrite)
    return [folder / name for name in everything]
