"""Simulate a run of `anchorsr bulk` on very many workers, some of which are lost.

    python benchmarks/simulate_cluster.py --manifest large/_manifest
    python benchmarks/simulate_cluster.py --seconds 0.5 --workers 1000 --hours-between 4

The times of images are drawn from those of a manifest, or from a log-normal distribution. Each
worker takes one block after another from a common queue. It is lost after exponentially distributed
times, comes back after a delay, and its block is done again by the next free worker: results that
were there already are only read, the others are upscaled. Requests of the store are delayed by a
log-normal time, and a share of them is refused and tried again with the pauses of
`anchorsr.cluster.retries`. Time is that of the clock of the cluster; nothing is upscaled.
"""

from __future__ import annotations

import argparse
import heapq
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

# As in anchorsr.cluster.retries: pauses double, up to a limit.
_FIRST_PAUSE, _LONGEST_PAUSE, _TRIES = 0.25, 30.0, 9
_READ_AGAIN_SECONDS = 0.05  # a result that is there: fetched and hashed
Seconds = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Options:
    """What is simulated: see the command line's help."""

    images: int
    workers: int
    block: int
    hours_between: float
    back_seconds: float
    refused: float
    request_seconds: float
    start_seconds: float


@dataclass(frozen=True)
class Outcome:
    """What came of it: clock and worker hours, images done twice, losses, and ideal hours."""

    hours: float
    busy_hours: float
    again: int
    losses: int
    ideal_hours: float
    most_requests: float
    longest_tail: float


def block_seconds(times: Seconds, options: Options, random: np.random.Generator) -> Seconds:
    """The seconds of each image of a block, with what the store adds.

    While an image is in the network the next is fetched, so of the time for requests only what is
    longer than the image counts.
    """
    image = random.choice(times, options.block)
    requests = random.lognormal(np.log(options.request_seconds), 0.8, (options.block, 3)).sum(1)
    for number in range(_TRIES - 1):
        pause = min(_FIRST_PAUSE * 2**number, _LONGEST_PAUSE)
        refused = random.random(options.block) < (3 * options.refused) ** (number + 1)
        requests += refused * pause * random.uniform(0.5, 1.5, options.block)
    return np.maximum(image, requests)


def simulate(times: Seconds, options: Options, seed: int = 0) -> Outcome:
    """Simulate one run.

    Args:
        times: Seconds of images, to draw from.
        options: What is simulated.
        seed: Of the random numbers.
    """
    random = np.random.default_rng(seed)
    mean_life = options.hours_between * 3600
    blocks = -(-options.images // options.block)
    waiting: list[Seconds] = []  # of lost blocks: what is left to do
    free = [(float(random.uniform(0, options.start_seconds)), w) for w in range(options.workers)]
    heapq.heapify(free)
    dies = random.exponential(mean_life, options.workers)
    pending: list[tuple[float, Seconds]] = []  # losses that are not known yet
    busy = finished = last_handed = 0.0
    again = losses = handed = 0
    while handed < blocks or waiting or pending:
        now, worker = heapq.heappop(free)
        while pending and pending[0][0] <= now:
            waiting.append(heapq.heappop(pending)[1])
        if waiting:
            seconds = waiting.pop()
        elif handed < blocks:
            seconds = block_seconds(times, options, random)
            handed += 1
            last_handed = now
        else:  # only losses that will be known later
            heapq.heappush(free, (pending[0][0], worker))
            continue
        end = now + float(seconds.sum())
        if end > dies[worker]:
            done = int(np.searchsorted(np.cumsum(seconds), dies[worker] - now))
            left = np.concatenate([np.full(done, _READ_AGAIN_SECONDS), seconds[done:]])
            # Equal times are told apart by their number, as arrays have no order.
            known = dies[worker] + options.back_seconds + 1e-9 * losses
            heapq.heappush(pending, (known, left))
            again += 1  # the image in hand; those before it are only read
            losses += 1
            busy += dies[worker] - now
            back = dies[worker] + options.back_seconds + options.start_seconds
            dies[worker] = back + random.exponential(mean_life)
            heapq.heappush(free, (back, worker))
            continue
        busy += end - now
        finished = max(finished, end)
        heapq.heappush(free, (end, worker))
    ideal = options.images * float(times.mean()) / options.workers
    return Outcome(
        hours=finished / 3600,
        busy_hours=busy / 3600,
        again=again,
        losses=losses,
        ideal_hours=ideal / 3600,
        most_requests=3 * options.images / max(finished, 1e-9),
        longest_tail=(finished - last_handed) / 60,
    )


def times_of(manifest: Path) -> Seconds:
    """The seconds of the images that a manifest has."""
    import pyarrow.dataset

    table = pyarrow.dataset.dataset(sorted(map(str, manifest.glob("*.parquet")))).to_table(
        columns=["status", "milliseconds"]
    )
    rows = zip(table["status"].to_pylist(), table["milliseconds"].to_pylist(), strict=True)
    times = np.array([ms for status, ms in rows if status == "done"]) / 1000
    if not times.any():
        raise SystemExit(f"{manifest} has no times of images that were done")
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--manifest", type=Path, help="draw times from this one")
    parser.add_argument("--seconds", type=float, default=0.5, help="median time of an image")
    parser.add_argument("--sigma", type=float, default=0.35, help="of its logarithm")
    parser.add_argument("--images", type=int, default=10_000_000)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--block", type=int, default=32)
    parser.add_argument("--hours-between", type=float, default=24, help="losses of a worker")
    parser.add_argument("--back-seconds", type=float, default=120, help="until one is replaced")
    parser.add_argument("--refused", type=float, default=0.001, help="share of requests")
    parser.add_argument("--request-seconds", type=float, default=0.05, help="median")
    parser.add_argument("--start-seconds", type=float, default=20, help="of a worker")
    given = vars(parser.parse_args())
    manifest, seconds, sigma = (given.pop(name) for name in ("manifest", "seconds", "sigma"))
    random = np.random.default_rng(1)
    times = random.lognormal(np.log(seconds), sigma, 10_000) if manifest is None else None
    times = times_of(manifest) if times is None else times
    made = simulate(times, Options(**given))
    print(f"{len(times)} times of images: mean {times.mean():.3f} s, longest {times.max():.1f} s")
    print(f"{made.hours:.2f} hours on the clock; without any loss or delay {made.ideal_hours:.2f}")
    print(f"{made.losses} losses of a worker; {made.again} images begun twice")
    print(
        f"{made.busy_hours:,.0f} hours of workers; {made.longest_tail:.1f} min after the last block"
    )
    print(f"{made.most_requests:,.0f} requests of the store a second")


if __name__ == "__main__":
    main()
