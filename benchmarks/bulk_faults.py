"""Lose a node and the driver of `anchorsr bulk` in the middle, and check that nothing else is lost.

    python benchmarks/bulk_faults.py --images 20000 --side 24
    python benchmarks/bulk_faults.py --images 200 --side 1000 --factor 2 --manifest-to times/

A Ray cluster of several nodes with one processor each runs on this machine. After a quarter of the
images a node is killed with its processes and another one added; after half of them the driver is
killed (SIGKILL), and the same command started again. Then every result must be there once, with the
digest of its manifest row, and a sample must have the bytes of `anchorsr upscale`. Exits with 1 on
any difference. Needs anchorsr[cluster].
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

DOG = Path(__file__).parents[1] / "docs" / "dog.jpg"
ANCHORSR = [sys.executable, "-m", "anchorsr"]
_STORE = 80 << 20  # bytes of each node's object store
_A_FOLDER = 1000  # images


def make_images(folder: Path, count: int, side: int) -> None:
    """Parts of a photograph, each another one, as JPEG and PNG."""
    dog = np.asarray(Image.open(DOG).convert("RGB"))
    whole = np.tile(dog, (-(-side // dog.shape[0]) + 1, -(-side // dog.shape[1]) + 1, 1))
    random = np.random.default_rng(0)
    for number in range(count):
        path = folder / f"{number // _A_FOLDER}" / f"{number}.{('jpg', 'png')[number % 2]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        y, x = random.integers(0, (whole.shape[0] - side, whole.shape[1] - side))
        Image.fromarray(whole[y : y + side, x : x + side]).save(path)


def results(folder: Path) -> set[str]:
    """The relative names of results, without the manifest and locks."""
    found: set[str] = set()
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != "_manifest"]
        inside = Path(place).relative_to(folder)
        found.update((inside / name).as_posix() for name in names if not name.endswith(".lock"))
    return found


def run_with_losses(source: Path, target: Path, options: list[str], total: int, nodes: int) -> int:
    """Run the command twice, and kill a node and the driver of the first run; its exit code."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "object_store_memory": _STORE, "include_dashboard": False},
    )
    members = [cluster.add_node(num_cpus=1, object_store_memory=_STORE) for _ in range(nodes)]
    command = [*ANCHORSR, "bulk", str(source), str(target), *options, "--address", cluster.address]
    try:
        driver = subprocess.Popen(command)
        wait_for(total // 4, target, driver)
        cluster.remove_node(members.pop(), allow_graceful=False)
        print(f"killed a node after {len(results(target))} results", flush=True)
        members.append(cluster.add_node(num_cpus=1, object_store_memory=_STORE))
        wait_for(total // 2, target, driver)
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        print(f"killed the driver after {len(results(target))} results", flush=True)
        return subprocess.run(command, check=False).returncode
    finally:
        cluster.shutdown()


def wait_for(count: int, target: Path, driver: subprocess.Popen[bytes]) -> None:
    while len(results(target)) < count:
        if driver.poll() is not None:
            raise SystemExit(f"the run ended with {driver.returncode} before it was killed")
        time.sleep(3)


def differences(source: Path, target: Path, options: list[str], sample: int) -> list[str]:
    """What is wrong with the results of a run."""
    import pyarrow.dataset

    parts = sorted(map(str, (target / "_manifest").glob("*.parquet")))
    rows: list[dict[str, Any]] = pyarrow.dataset.dataset(parts).to_table().to_pylist()
    print(f"manifest: {dict(Counter(row['status'] for row in rows))} in {len(parts)} parts")
    wanted = {name.replace(".jpeg", ".jpg") for name in results(source)}
    there = results(target)
    wrong = [f"{len(wanted - there)} results are missing"] if wanted - there else []
    if there - wanted:
        wrong.append(f"{len(there - wanted)} files too many: {sorted(there - wanted)[:5]}")
    last = {row["target"]: row for row in sorted(rows, key=lambda row: row["finished"])}
    if set(last) != wanted:
        wrong.append(f"{len(set(last) ^ wanted)} names differ between manifest and source")
    twice = [name for name, count in Counter(row["target"] for row in rows).items() if count > 1]
    if twice:
        wrong.append(f"{len(twice)} images have several rows: {twice[:5]}")
    for name in there & set(last):
        if hashlib.sha256((target / name).read_bytes()).hexdigest() != last[name]["sha256"]:
            wrong.append(f"{name} has not the digest of its row")
    return wrong + differences_from_upscale(source, target, options, sorted(there), sample)


def differences_from_upscale(
    source: Path, target: Path, options: list[str], names: list[str], sample: int
) -> list[str]:
    with tempfile.TemporaryDirectory() as name:
        chosen = names[:: max(1, len(names) // sample)]
        for each in chosen:
            (Path(name, "in") / each).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / each, Path(name, "in") / each)
        command = [*ANCHORSR, "upscale", f"{name}/in", "-o", f"{name}/out", *options]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        print(f"{len(chosen)} of {len(names)} results compared with those of anchorsr upscale")
        return [
            f"{each} differs from what upscale makes"
            for each in chosen
            if Path(name, "out", each).read_bytes() != (target / each).read_bytes()
        ]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--side", type=int, default=24, help="of the images, in pixels")
    parser.add_argument("--factor", type=int, default=3)
    parser.add_argument("--model", default="fast")
    parser.add_argument("--nodes", type=int, default=3, help="that work, beside the head")
    parser.add_argument("--sample", type=int, default=500, help="compared with upscale")
    parser.add_argument("--manifest-to", type=Path, help="copy the manifest there")
    given = parser.parse_args(arguments)
    # Before Ray is imported: its nodes here are told apart, and nothing is reported.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    options = ["--model", given.model, "--factor", str(given.factor), "--threads", "1"]
    with tempfile.TemporaryDirectory() as name:
        source, target = Path(name, "in"), Path(name, "out")
        make_images(source, given.images, given.side)
        begun = time.monotonic()
        code = run_with_losses(source, target, options, given.images, given.nodes)
        print(f"{given.images} images: exit code {code} after {time.monotonic() - begun:.0f} s")
        wrong = differences(source, target, options, given.sample)
        if given.manifest_to:
            shutil.copytree(target / "_manifest", given.manifest_to)
    print("\n".join(wrong) or "nothing is lost, double or different")
    return 1 if wrong or code else 0


if __name__ == "__main__":
    sys.exit(main())
