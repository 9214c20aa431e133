"""Load a server on loopback, and time a folder through it beside the command line.

    python benchmarks/serve_load.py [--requests 10000] [--clients 4] [--images 40]

starts `anchorsr serve` and prints requests a second, the median and the 99th percentile of their
times, and the memory of the server before and after; then how long a folder of JPEGs takes through
`POST /api/upscale`, as a share of `anchorsr upscale` on the same folder.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

from anchorsr.errors import BenchmarkError
from anchorsr.images.io import read_rgb
from anchorsr.utils.sample_image import sample_image
from exactness import PHOTOGRAPH, crop, exit_code

ROUNDS = 3


def start_server(clients: int) -> tuple[str, subprocess.Popen[str]]:
    """Start a server on a free port; returns its address and process."""
    command = ["serve", "--no-open", "--port", "0", "--max-waiting", str(2 * clients + 2)]
    process = subprocess.Popen(
        [sys.executable, "-m", "anchorsr", *command], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("http://"):
            return line.split()[0], process
    raise BenchmarkError(f"the server ended with {process.wait()}")


def upscale(address: str, data: bytes, model: str) -> float:
    """Upscale an image; returns the seconds it took."""
    start = time.perf_counter()
    request = urllib.request.Request(f"{address}api/upscale?model={model}", data)
    with urllib.request.urlopen(request, timeout=600) as answer:
        answer.read()
    return time.perf_counter() - start


def memory_megabytes(address: str) -> float:
    """The server's memory, without its workers."""
    with urllib.request.urlopen(f"{address}metrics") as answer:
        found = re.search(r"^process_resident_memory_bytes (\d+)", answer.read().decode(), re.M)
    return int(found[1]) / 1e6 if found else float("nan")


def run_all(call: Callable[[bytes], float], items: Sequence[bytes], clients: int) -> list[float]:
    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        return list(pool.map(call, items))


def load(address: str, requests: int, clients: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "small.png")
        Image.fromarray(sample_image(32, 32)).save(path)
        data = path.read_bytes()
    run_all(lambda one: upscale(address, one, "fast"), [data] * 50, clients)
    before = memory_megabytes(address)
    start = time.perf_counter()
    times = run_all(lambda one: upscale(address, one, "fast"), [data] * requests, clients)
    elapsed = time.perf_counter() - start
    percentiles = statistics.quantiles(times, n=100)
    after = memory_megabytes(address)
    print(
        f"{requests} requests of 32x32 by {clients} clients: {requests / elapsed:.0f} a second,"
        f" median {1000 * percentiles[49]:.0f} ms, 99 % within {1000 * percentiles[98]:.0f} ms;"
        f" memory of the server {before:.0f} MB before and {after:.0f} MB after",
        flush=True,
    )


def compare(address: str, images: int, clients: int, model: str) -> None:
    photograph = read_rgb(PHOTOGRAPH)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "in")
        folder.mkdir()
        for number in range(images):
            pixels = crop(photograph, 360, 640)[0]
            Image.fromarray(pixels).save(folder / f"{number:03}.jpg", quality=90)
        files = [path.read_bytes() for path in sorted(folder.iterdir())]
        served, command_line = [], []
        for number in range(ROUNDS):
            start = time.perf_counter()
            run_all(lambda one: upscale(address, one, model), files, clients)
            served.append(time.perf_counter() - start)
            out = Path(name, f"out{number}")
            command = ["upscale", str(folder), "-o", str(out), "--model", model]
            start = time.perf_counter()
            subprocess.run(
                [sys.executable, "-m", "anchorsr", *command], check=True, capture_output=True
            )
            command_line.append(time.perf_counter() - start)
    one, other = statistics.median(served), statistics.median(command_line)
    print(
        f"{images} JPEGs of 640x360 with {model}, medians of {ROUNDS}: served {one:.1f} s,"
        f" anchorsr upscale {other:.1f} s; {other / one:.2f} of its throughput"
    )


def measure(options: argparse.Namespace) -> list[str]:
    """Print the figures; nothing that they show is wrong."""
    address, process = start_server(options.clients)
    try:
        load(address, options.requests, options.clients)
        compare(address, options.images, options.clients, options.model)
    finally:
        process.terminate()
        process.wait()
    return []


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--requests", type=int, default=10_000, help="of the load")
    parser.add_argument("--clients", type=int, default=4, help="how many ask at a time")
    parser.add_argument("--images", type=int, default=40, help="of the folder")
    parser.add_argument("--model", default="quality", help="a shipped model, for the folder")
    options = parser.parse_args(arguments)
    return exit_code("serve_load.py", lambda: measure(options))


if __name__ == "__main__":
    sys.exit(main())
