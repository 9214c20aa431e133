"""Check that a browser gives the bytes of the integer arithmetic.

    python benchmarks/browser.py [--model abpn_x3] [--browser chromium]

Each `.tflite` file is run by `src/anchorsr/serve/page/upscale.mjs` in a headless browser, and every
byte is compared with `anchorsr.graph.executor.run_graph`; one image takes several tiles. Exits with
1 on any difference. Needs a Chromium-based browser, such as Debian's chromium.
"""

from __future__ import annotations

import argparse
import contextlib
import http.server
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from anchorsr.errors import BenchmarkError
from anchorsr.graph.executor import run_graph
from anchorsr.images.io import read_rgb
from anchorsr.models.registry import list_models
from anchorsr.serialization.tflite.writer import write_tflite
from exactness import (
    PHOTOGRAPH,
    UInt8Array,
    crop,
    difference,
    exit_code,
    load_models,
    run_command,
)

PAGES = Path(__file__).parents[1] / "src/anchorsr/serve/page"
BROWSERS = ("chromium", "chromium-headless-shell", "google-chrome", "chrome")
SIZES = ((96, 128), (213, 1397))
TIMEOUT_SECONDS = 120

# The page fetches N.tflite and N.rgba for each job and posts the result.
CHECK = """<!doctype html>
<script type="module">
  const post = (path, body) => fetch(path, {method: "POST", body});
  try {
    const {load, upscale} = await import("./upscale.mjs");
    for (const [number, [width, height]] of JOBS.entries()) {
      const [model, pixels] = await Promise.all(
        ["tflite", "rgba"].map(async (kind) => (await fetch(`${number}.${kind}`)).arrayBuffer()));
      const session = await load(new Uint8Array(model));
      const image = {data: new Uint8ClampedArray(pixels), width, height};
      const start = performance.now();
      const larger = await upscale(session, image);
      const ms = performance.now() - start;
      await post(`made?height=${larger.height}&ms=${ms}`, larger.data);
      session.release();
    }
  } catch (error) {
    await post("failed", String(error));
  }
</script>
"""


@dataclass(frozen=True)
class Job:
    """A `.tflite` file and its input (1, H, W, 3)."""

    model: bytes
    image: UInt8Array


def find_browser(path: str | None = None) -> str:
    """Find a browser, or raise BenchmarkError."""
    for name in BROWSERS if path is None else (path,):
        found = shutil.which(name)
        if found is not None:
            return found
    raise BenchmarkError(
        f"there is no program {path}"
        if path
        else "no browser was found: apt-get install chromium, or give --browser"
    )


class _Server(http.server.SimpleHTTPRequestHandler):
    """Serves the page's modules and the given files; puts what is posted into a queue."""

    extensions_map: ClassVar = {
        **http.server.SimpleHTTPRequestHandler.extensions_map,
        ".mjs": "text/javascript",
    }

    def __init__(
        self,
        *given: Any,
        files: Mapping[str, bytes],
        packages: Path | None,
        posted: queue.Queue[tuple[str, bytes]],
    ) -> None:
        self._files, self._packages, self._posted = files, packages, posted
        super().__init__(*given, directory=str(PAGES))

    def do_GET(self) -> None:
        data = self._files.get(self.path)
        if data is None:
            super().do_GET()
            return
        self.send_response(http.HTTPStatus.OK)
        kind = "text/html" if self.path.endswith(".html") else "application/octet-stream"
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_POST(self) -> None:
        self._posted.put((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(http.HTTPStatus.NO_CONTENT)
        self.end_headers()

    def translate_path(self, path: str) -> str:
        packages = self._packages if path.startswith("/node_modules/") else None
        self.directory = str(packages or PAGES)
        return super().translate_path(path)

    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def opened(
    browser: str, files: Mapping[str, bytes], packages: Path | None = None
) -> Iterator[Callable[[], tuple[str, bytes]]]:
    """Open /check.html in a headless browser.

    Args:
        browser: The program.
        files: What is served beside the page's modules, by path.
        packages: A folder with `node_modules`, for pages that import from it.

    Yields:
        A call that waits for what the page posts next: its path and body. It raises
        BenchmarkError for an error in the page, and where nothing comes.
    """
    posted: queue.Queue[tuple[str, bytes]] = queue.Queue()
    handler = partial(_Server, files=files, packages=packages, posted=posted)
    with (
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server,
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
    ):
        threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True).start()
        command = [browser, "--headless", "--disable-gpu", f"--user-data-dir={profile}"]
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            command.append("--no-sandbox")  # Chromium has no sandbox for root
        command.append(f"http://127.0.0.1:{server.server_port}/check.html")
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            yield lambda: _next(posted, process)
        finally:
            _end(process)
            server.shutdown()


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the process group: Debian's browsers are scripts that start the program."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()


def _next(
    posted: queue.Queue[tuple[str, bytes]], process: subprocess.Popen[bytes]
) -> tuple[str, bytes]:
    for _ in range(TIMEOUT_SECONDS):
        try:
            path, data = posted.get(timeout=1)
            break
        except queue.Empty:
            if process.poll() is not None:
                raise BenchmarkError(f"the browser exited with code {process.returncode}") from None
    else:
        raise BenchmarkError(f"no result from the browser within {TIMEOUT_SECONDS} seconds")
    if path == "/failed":
        raise BenchmarkError(f"in the browser: {data.decode()}")
    return path, data


def run_in_browser(browser: str, jobs: Sequence[Job]) -> list[tuple[UInt8Array, float]]:
    """Run the jobs; returns the result (1, H, W, 3) and the milliseconds of each.

    Raises BenchmarkError for an error in the page, and where no result comes.
    """
    sizes = [job.image.shape[2:0:-1] for job in jobs]
    files = {"/check.html": CHECK.replace("JOBS", json.dumps(sizes)).encode()}
    for number, job in enumerate(jobs):
        files[f"/{number}.tflite"] = job.model
        files[f"/{number}.rgba"] = with_alpha(job.image)
    with opened(browser, files) as following:
        return [_result(*following()) for _ in jobs]


def with_alpha(image: UInt8Array) -> bytes:
    """An image (1, H, W, 3) as opaque RGBA."""
    opaque = np.full((*image.shape[1:3], 1), 255, np.uint8)
    return np.concatenate((image[0], opaque), axis=2).tobytes()


def _result(path: str, data: bytes) -> tuple[UInt8Array, float]:
    told = urllib.parse.parse_qs(urllib.parse.urlsplit(path).query)
    rgba = np.frombuffer(data, np.uint8).reshape(1, int(told["height"][0]), -1, 4)
    if (rgba[..., 3] != 255).any():
        raise BenchmarkError("the result in the browser is not opaque")
    return rgba[..., :3], float(told["ms"][0])


def check(options: argparse.Namespace) -> list[str]:
    """Print the table, and return what is wrong."""
    models = load_models(options.model)
    photograph = read_rgb(PHOTOGRAPH)
    browser = find_browser(options.browser)
    titles, jobs, expected = [], [], []
    for name, _, graph in models:
        model = write_tflite(graph)
        for height, width in SIZES:
            image = crop(photograph, height, width)
            titles.append(f"{name} {width}x{height}")
            jobs.append(Job(model, image))
            expected.append(run_graph(graph, image))
    version = run_command([browser, "--version"], f"{browser} cannot be run").strip()
    print(version, flush=True)
    faults = []
    results = run_in_browser(browser, jobs)
    for title, (made, ms), wanted in zip(titles, results, expected, strict=True):
        found = difference(made, wanted)
        print(f"{title:22} {'differs' if found else 'the same':>8} {ms:8.0f} ms")
        faults += [f"{title}: {found}"] if found else []
    return faults


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--model",
        action="append",
        help="a shipped model or a .tflite file; by default all shipped models; repeatable",
    )
    parser.add_argument("--browser", help="the browser to use")
    options = parser.parse_args(arguments)
    options.model = options.model or [model.path.stem for model in list_models()]
    return exit_code("browser.py", lambda: check(options))


if __name__ == "__main__":
    sys.exit(main())
