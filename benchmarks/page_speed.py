"""Time the page of `anchorsr serve` in Chromium, with the server's engine and with the browser's.

    python benchmarks/page_speed.py [--browser chromium] [--rounds 5]

prints how long the page takes until it can be used and how many bytes that loads; how long a
dropped image of 640x360 takes until its result is shown, and how much of that is the network; and
how long one megapixel takes with `fast` in the browser alone.
"""

from __future__ import annotations

import argparse
import base64
import http.server
import io
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image

from anchorsr.errors import needs
from anchorsr.images.io import read_rgb
from anchorsr.inference.upscaler import ready_upscaler
from anchorsr.serve.static import write_static
from browser import find_browser
from exactness import PHOTOGRAPH, crop, exit_code
from serve_load import start_server

DROPPED = (360, 640)
MEGAPIXEL = (900, 1111)
# Drops an image, and resolves with the milliseconds until its result is shown.
DROP = """async (encoded) => {
  const bytes = Uint8Array.from(atob(encoded), (letter) => letter.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], "image.jpg", {type: "image/jpeg"}));
  const start = performance.now();
  document.dispatchEvent(
    new DragEvent("drop", {dataTransfer: transfer, bubbles: true, cancelable: true}));
  const shown = () => !document.getElementById("stage").hidden &&
    document.querySelector("#right img").naturalWidth > 0;
  while (!shown()) {
    const failed = document.querySelector("li.failed .state");
    if (failed) throw new Error(failed.textContent);
    await new Promise(requestAnimationFrame);
  }
  return performance.now() - start;
}"""


class _Files(http.server.SimpleHTTPRequestHandler):
    extensions_map: ClassVar = {
        **http.server.SimpleHTTPRequestHandler.extensions_map,
        ".mjs": "text/javascript",
    }

    def log_message(self, *_: Any) -> None:
        pass


def image_file(size: tuple[int, int]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(crop(read_rgb(PHOTOGRAPH), *size)[0]).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def opened(chromium: Any, address: str) -> tuple[Any, float]:
    """A page of a new visitor, and the seconds until it can be used."""
    page = chromium.new_context().new_page()
    start = time.perf_counter()
    page.goto(address)
    page.wait_for_selector("body[data-ready]")
    elapsed = time.perf_counter() - start
    page.click("label:has(input[value=fast])")
    return page, elapsed


def drop(page: Any, size: tuple[int, int], rounds: int) -> float:
    """Median seconds until a dropped image's result is shown; the first one warms up."""
    encoded = base64.b64encode(image_file(size)).decode()
    times = []
    for _ in range(rounds + 1):
        times.append(page.evaluate(DROP, encoded) / 1000)
        page.click("#clear")
    return statistics.median(times[1:])


def network(rounds: int) -> float:
    """Median seconds of the network alone for the dropped image, in this process."""
    upscaler = ready_upscaler("fast", 3)
    rgb = crop(read_rgb(PHOTOGRAPH), *DROPPED)[0]
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        upscaler.upscale_rgb(rgb)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def measure_served(chromium: Any, rounds: int) -> None:
    address, process = start_server(4)
    try:
        visits = [opened(chromium, address) for _ in range(rounds)]
        page = visits[-1][0]
        loaded = page.evaluate(
            "['resource', 'navigation'].flatMap((kind) => performance.getEntriesByType(kind))"
            ".reduce((sum, entry) => sum + entry.encodedBodySize, 0)"
        )
        ready = statistics.median(seconds for _, seconds in visits)
        print(f"served page: usable after {ready:.2f} s, {loaded / 1000:.0f} kB", flush=True)
        shown, alone = drop(page, DROPPED, rounds), network(rounds)
        print(
            f"640x360 with fast, dropped on it: shown after {shown:.2f} s, of which the network"
            f" takes {alone:.2f} s; {shown - alone:.2f} s more",
            flush=True,
        )
    finally:
        process.terminate()
        process.wait()


def measure_static(chromium: Any, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_static(Path(folder))
        handler = partial(_Files, directory=folder)
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            page, _ = opened(chromium, f"http://127.0.0.1:{server.server_port}/")
            shown = drop(page, MEGAPIXEL, rounds)
            server.shutdown()
    megapixels = MEGAPIXEL[0] * MEGAPIXEL[1] / 1e6
    print(
        f"{megapixels:.1f} megapixel x3 with fast, in the browser alone: shown after {shown:.2f} s"
    )


def measure(options: argparse.Namespace) -> list[str]:
    """Print the figures; nothing that they show is wrong."""
    with needs("playwright", "dev"):
        from playwright.sync_api import sync_playwright
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(
            executable_path=find_browser(options.browser), args=["--no-sandbox"]
        )
        measure_served(chromium, options.rounds)
        measure_static(chromium, options.rounds)
        chromium.close()
    return []


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--browser", help="the program; by default the first that is found")
    parser.add_argument("--rounds", type=int, default=5, help="of which the median is printed")
    options = parser.parse_args(arguments)
    return exit_code("page_speed.py", lambda: measure(options))


if __name__ == "__main__":
    sys.exit(main())
