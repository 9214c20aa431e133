"""Counters of a server, in the text format of Prometheus."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Metrics:
    """What has happened since the server started."""

    def __init__(self) -> None:
        self._requests: Counter[tuple[str, int]] = Counter()
        self._jobs: Counter[str] = Counter()
        self._buckets: Counter[float] = Counter()
        self._seconds = 0.0

    def count_request(self, method: str, status: int) -> None:
        """Count an answered request."""
        known = method if method in ("GET", "HEAD", "POST", "DELETE") else "other"
        self._requests[known, status] += 1

    def count_job(self, state: str, seconds: float) -> None:
        """Count a job that has ended, and the seconds that it ran."""
        self._jobs[state] += 1
        self._seconds += seconds
        for bound in _SECONDS:
            self._buckets[bound] += seconds <= bound

    def text(self, *, waiting: int, running: int) -> str:
        """Return the metrics.

        Args:
            waiting: Jobs that wait.
            running: Jobs that run.
        """
        ended = self._jobs.total()
        lines = [
            "# HELP anchorsr_requests_total Answered requests.",
            "# TYPE anchorsr_requests_total counter",
            *(
                f'anchorsr_requests_total{{method="{method}",status="{status}"}} {count}'
                for (method, status), count in sorted(self._requests.items())
            ),
            "# HELP anchorsr_jobs_total Jobs that have ended.",
            "# TYPE anchorsr_jobs_total counter",
            *(f'anchorsr_jobs_total{{state="{s}"}} {self._jobs[s]}' for s in ("done", "failed")),
            "# HELP anchorsr_jobs Jobs that wait or run.",
            "# TYPE anchorsr_jobs gauge",
            f'anchorsr_jobs{{state="waiting"}} {waiting}',
            f'anchorsr_jobs{{state="running"}} {running}',
            "# HELP anchorsr_job_seconds How long jobs ran.",
            "# TYPE anchorsr_job_seconds histogram",
            *(f'anchorsr_job_seconds_bucket{{le="{b:g}"}} {self._buckets[b]}' for b in _SECONDS),
            f'anchorsr_job_seconds_bucket{{le="+Inf"}} {ended}',
            f"anchorsr_job_seconds_sum {self._seconds:.6f}",
            f"anchorsr_job_seconds_count {ended}",
        ]
        resident = _resident_bytes()
        if resident is not None:
            lines += [
                "# HELP process_resident_memory_bytes Memory of the server, without its workers.",
                "# TYPE process_resident_memory_bytes gauge",
                f"process_resident_memory_bytes {resident}",
            ]
        return "\n".join(lines) + "\n"


def _resident_bytes() -> int | None:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return None
