"""Estimate what a run takes, from some of its images."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from anchorsr.cluster.addresses import Address
from anchorsr.cluster.rows import Row, Status
from anchorsr.cluster.settings import Settings
from anchorsr.cluster.spool import Spool
from anchorsr.cluster.work import Worker

SAMPLE = 20


@dataclass(frozen=True)
class Estimate:
    """What all images may take, by those that were tried.

    Attributes:
        tried: The images that were upscaled, on this machine.
        failed: Those of them that could not be.
        worker_seconds: The time that all images take together, if one worker does them.
        megapixels: Of all images, before they are upscaled.
        bytes_out: The size of all results.
        spread: The standard error of the time, as a share of it.
    """

    tried: int
    failed: int
    worker_seconds: float
    megapixels: float
    bytes_out: float
    spread: float


def estimate(
    settings: Settings, spool: Spool, folder: Path, on_image: Callable[[], None]
) -> Estimate:
    """Upscale some images on this machine, keep nothing, and scale up what they took.

    Args:
        settings: The options.
        spool: The tasks; up to 20 of them, evenly spread, are tried.
        folder: An existing folder for the results, which are deleted.
        on_image: Called after each.

    Raises:
        ModelError: The model cannot be loaded.
    """
    here = dataclasses.replace(settings, target=Address("", str(folder)))
    worker = Worker(here)
    rows: list[Row] = []
    for row in worker.run(spool.sample(SAMPLE)):
        rows.append(row)
        (folder / row.target).unlink(missing_ok=True)
        on_image()
    if not rows:
        return Estimate(0, 0, 0.0, 0.0, 0.0, 0.0)
    times = [row.milliseconds / 1000 for row in rows]
    share = spool.total / len(rows)
    spread = statistics.stdev(times) / len(times) ** 0.5 if len(times) > 1 else 0.0
    return Estimate(
        tried=len(rows),
        failed=sum(row.status is not Status.DONE for row in rows),
        worker_seconds=share * sum(times),
        megapixels=share * sum((row.width or 0) * (row.height or 0) for row in rows) / 1e6,
        bytes_out=share * sum(row.target_bytes or 0 for row in rows),
        spread=spread / max(statistics.mean(times), 1e-9),
    )
