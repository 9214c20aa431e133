"""Time the kernel in a browser, beside ONNX Runtime Web.

    python benchmarks/browser_speed.py [--model fast_x3] [--size 640x360] [--rounds 7]

In turn: the kernel with one worker, the kernel with as many workers as there are processors, and
ONNX Runtime Web in one thread, which is all that it gets on a page without special headers. The
first run downloads ONNX Runtime Web, 140 MB, into --folder through npm. Needs npm, a
Chromium-based browser, and anchorsr[onnx].
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import browser
from anchorsr.images.io import read_rgb
from anchorsr.inference.sizes import parse_size
from anchorsr.serialization.onnx import write_onnx
from anchorsr.serialization.tflite.writer import write_tflite
from anchorsr.utils.cache import cache_folder
from exactness import PHOTOGRAPH, crop, downloaded, exit_code, load_models, run_command

RUNTIME = "onnxruntime-web@1.30.0"

PAGE = """<!doctype html>
<script type="importmap">
  {"imports": {"onnxruntime-web": "./node_modules/onnxruntime-web/dist/ort.wasm.bundle.min.mjs"}}
</script>
<script type="module">
  const post = (path, body) => fetch(path, {method: "POST", body});
  const bytes = async (path) => new Uint8Array(await (await fetch(path)).arrayBuffer());
  try {
    const {load, upscale} = await import("./upscale.mjs");
    const ort = await import("onnxruntime-web");
    for (const [number, [width, height]] of JOBS.entries()) {
      const picture = {data: new Uint8ClampedArray(await bytes(`${number}.rgba`)), width, height};
      const planes = new Uint8Array(3 * width * height);
      for (let c = 0; c < 3; c++)
        for (let i = 0; i < width * height; i++)
          planes[c * width * height + i] = picture.data[4 * i + c];
      const images = new ort.Tensor("uint8", planes, [1, 3, height, width]);
      const model = await bytes(`${number}.tflite`);
      const one = await load(model, {workers: 1}), all = await load(model);
      const runtime = await ort.InferenceSession.create(
        await bytes(`${number}.onnx`), {executionProviders: ["wasm"]});
      const calls = [() => upscale(one, picture), () => upscale(all, picture),
        async () => (await runtime.run({images})).upscaled.dispose()];
      const times = calls.map(() => []);
      for (let round = -2; round < ROUNDS; round++) {
        for (const [i, call] of calls.entries()) {
          const start = performance.now();
          await call();
          if (round >= 0) times[i].push(performance.now() - start);
        }
      }
      await post("times", JSON.stringify(
        {times, workers: navigator.hardwareConcurrency, instructions: one.instructions}));
      one.release(); all.release(); await runtime.release();
    }
  } catch (error) {
    await post("failed", String(error));
  }
</script>
"""


def prepare(folder: Path) -> Path:
    """Return the folder with ONNX Runtime Web, which is downloaded if it is missing."""

    def make(packages: Path, _: Path) -> None:
        command = ["npm", "install", "--ignore-scripts", "--no-audit", "--prefix", str(packages)]
        run_command([*command, RUNTIME], f"npm cannot download {RUNTIME}")

    return downloaded(folder / RUNTIME.replace("@", "-"), RUNTIME, make)


def measure(options: argparse.Namespace) -> list[str]:
    """Print the table; nothing that it shows is wrong."""
    program = browser.find_browser(options.browser)
    packages = prepare(options.folder or cache_folder() / "browser")
    size = parse_size(options.size)
    if size is None:
        raise browser.BenchmarkError(f"--size is WIDTHxHEIGHT, not {options.size!r}")
    image = crop(read_rgb(PHOTOGRAPH), *size)
    height, width = image.shape[1:3]
    models = load_models(options.model or ["quality_x3", "fast_x3"])
    page = PAGE.replace("JOBS", json.dumps([[width, height] for _ in models]))
    files = {"/check.html": page.replace("ROUNDS", str(options.rounds)).encode()}
    for number, (_, _, graph) in enumerate(models):
        files[f"/{number}.tflite"] = write_tflite(graph)
        files[f"/{number}.onnx"] = write_onnx(graph)
        files[f"/{number}.rgba"] = browser.with_alpha(image)
    version = run_command([program, "--version"], f"{program} cannot be run").strip()
    print(f"{RUNTIME}, {version}, {width}x{height}, medians of {options.rounds} rounds")
    with browser.opened(program, files, packages) as following:
        for name, _, _ in models:
            told = json.loads(following()[1])
            one, many, runtime = map(statistics.median, told["times"])
            print(
                f"{name}: kernel ({told['instructions']}) {one:.0f} ms, {told['workers']} workers"
                f" {many:.0f} ms ({one / many:.2f} times as fast), ONNX Runtime Web"
                f" {runtime:.0f} ms ({runtime / one:.2f} times as long)",
                flush=True,
            )
    return []


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", action="append", help="a shipped model or a .tflite file")
    parser.add_argument("--size", default="640x360", help="of the image, WIDTHxHEIGHT")
    parser.add_argument("--rounds", type=int, default=7, help="how often each is timed")
    parser.add_argument("--folder", type=Path, help="where to keep the packages")
    parser.add_argument("--browser", help="the browser to use")
    options = parser.parse_args(arguments)
    return exit_code("browser_speed.py", lambda: measure(options))


if __name__ == "__main__":
    sys.exit(main())
