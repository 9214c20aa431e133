"""What `anchorsr bulk` costs beside the upscaling itself; needs anchorsr[cluster].

    python benchmarks/bulk_costs.py row     # time of an image of 1 MP, beside plain upscale
    python benchmarks/bulk_costs.py many    # time and memory over many rows

`row` compares workers of one thread on Ray with the pipeline of `upscale` in this process, with as
many threads, on the same images, in rounds of alternating order. Ray's start is not part of it; the
first round is left out. Times are of the wall clock, so the machine should be idle.

`many` hands out rows whose results are there, so that all that is measured is listing, Ray, reading
a small result, and the manifest.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from anchorsr.cluster import bulk
from anchorsr.cluster.addresses import parse_address
from anchorsr.cluster.plan import Found
from anchorsr.cluster.ray_cluster import Cluster, join_cluster
from anchorsr.cluster.rows import Row, Task
from anchorsr.cluster.settings import Settings
from anchorsr.cluster.spool import to_table
from anchorsr.inference.batch import Job
from anchorsr.inference.pipeline import FileOptions, upscale_files

DOG = Path(__file__).parents[1] / "docs" / "dog.jpg"
LINKS = 50_000  # ext4 takes 65,000 for a file


def photographs(folder: Path, count: int) -> list[Path]:
    """Images of 1 MP with the detail of a photograph."""
    dog = np.asarray(Image.open(DOG).convert("RGB"))
    whole = np.tile(dog, (4, 5, 1))[:870, :1150]
    paths = [folder / f"{number}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        Image.fromarray(np.roll(whole, 37 * number, axis=(0, 1))).save(path, quality=90)
    return paths


def cost_of_a_row(images: int, rounds: int, model: str, count: int) -> None:
    with (
        tempfile.TemporaryDirectory() as name,
        join_cluster(None, threads=1, workers=count) as cluster,
    ):
        folder = Path(name)
        (folder / "in").mkdir()
        sources = photographs(folder / "in", images)
        settings = Settings(
            parse_address(str(folder / "in")),
            parse_address(str(folder / "out")),
            files=FileOptions(overwrite=True),
            model=model,
        )
        upscaler = replace(settings, threads=count).upscaler()
        (folder / "plain").mkdir()
        jobs = [Job(path, folder / "plain" / path.name) for path in sources]
        tasks = [Task(str(path), path.name) for path in sources]
        size = min(bulk.BLOCK, -(-images // count))
        blocks = [to_table(tasks[n : n + size]) for n in range(0, images, size)]

        def plain() -> float:
            begun = time.perf_counter()
            assert all(r.error is None for r in upscale_files(jobs, upscaler, settings.files))
            return time.perf_counter() - begun

        def on_ray() -> float:
            """The time that the worker itself took, and that beside it: from block to block."""
            begun = time.perf_counter()
            rows = sum(len(table) for table in cluster.run(settings, blocks))
            assert rows == images
            return time.perf_counter() - begun - start

        start = 0.0
        start = least_start(cluster, settings, tasks)
        pairs = []
        for number in range(rounds + 1):
            order = (plain, on_ray) if number % 2 else (on_ray, plain)
            taken = {each: each() for each in order}
            if number:
                pairs.append((taken[plain] / images, taken[on_ray] / images))
                print(f"plain {pairs[-1][0]:.3f} s, bulk {pairs[-1][1]:.3f} s", file=sys.stderr)
        ratio = statistics.median(b / a for a, b in pairs)
        print(f"an image of 1 MP: plain {statistics.median(a for a, _ in pairs):.3f} s")
        print(f"bulk / plain: {ratio:.3f} (median of {rounds} rounds of {images} images)")
        print(f"starting a worker, once: {start:.1f} s")


def least_start(cluster: Cluster, settings: Settings, tasks: list[Task]) -> float:
    """The time of a run whose one task is refused at once: Ray's and the model's start."""
    refused = to_table([Task(tasks[0].source, tasks[0].target, "refused")])
    times = []
    for _ in range(4):
        begun = time.perf_counter()
        list(cluster.run(settings, [refused]))
        times.append(time.perf_counter() - begun)
    return min(times)


def resident(pid: int) -> float:
    """The memory of a process, in MB."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0.0
    return pages * os.sysconf("SC_PAGESIZE") / 1e6


def workers() -> list[int]:
    """The processes of Ray's workers that upscale."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"MapWorker" in place.read_bytes():
                found.append(int(place.parent.name))
        except OSError:
            continue
    return found


def many_rows(rows: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = folder / "out"
        made.mkdir()
        small = Image.fromarray(np.asarray(Image.open(DOG).convert("RGB"))[:32, :32])
        origins = []
        for number in range(rows // LINKS + 1):
            origins.append(folder / f"origin{number}.jpg")
            small.save(origins[-1], quality=90)
        with (folder / "list.txt").open("w") as file:
            for number in range(rows):
                file.write(f"images/{number // 1000}/{number}.jpg\n")
                place = made / "images" / f"{number // 1000}" / f"{number}.jpg"
                place.parent.mkdir(parents=True, exist_ok=True)
                os.link(origins[number // LINKS], place)
        settings = Settings(parse_address(str(folder / "list.txt")), parse_address(str(made)))
        begun = time.perf_counter()
        spool = bulk.plan(settings, folder, Found())
        print(f"listing: {1e6 * (time.perf_counter() - begun) / rows:.0f} microseconds a row")
        bulk.prepare(settings)
        shown = 0
        with join_cluster(None, threads=1, workers=2) as cluster:
            begun = time.perf_counter()

            def on_rows(ended: list[Row], progress: bulk.Progress) -> None:
                nonlocal shown
                for row in ended:
                    if row.error:
                        print(row.error, file=sys.stderr)
                if progress.ended >= shown * rows // 10:
                    memory = [f"{resident(pid):.0f}" for pid in (os.getpid(), *workers())]
                    words = f"{progress.ended} rows: driver, workers {', '.join(memory)} MB"
                    print(words, file=sys.stderr)
                    shown += 1

            progress = bulk.run(settings, spool, cluster, on_rows)
        taken = time.perf_counter() - begun
        print(dict(progress.counts))
        print(f"{1e3 * taken / rows:.2f} ms a row on the clock, with 2 workers")
        parts = list((made / "_manifest").glob("*.parquet"))
        size = sum(path.stat().st_size for path in parts)
        print(f"manifest: {size / rows:.0f} bytes a row in {len(parts)} parts")
        begun = time.perf_counter()
        bulk.plan(settings, folder, Found())
        print(f"resuming: {1e6 * (time.perf_counter() - begun) / rows:.0f} microseconds a row")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["row", "many"])
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--model", default="quality")
    given = parser.parse_args()
    if given.what == "row":
        cost_of_a_row(given.images, given.rounds, given.model, given.workers)
    else:
        many_rows(given.rows)


if __name__ == "__main__":
    main()
