"""Divide images among independent processes by a hash of their names, so that none has to ask.

Each image is in exactly one shard, whichever machine asks and whatever else lies in the folder.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from anchorsr.inference.batch import Job


@dataclass(frozen=True)
class Shard:
    """One of several parts of the work.

    Attributes:
        number: Which one, from 1 to `count`.
        count: How many there are.
    """

    number: int
    count: int

    def holds(self, name: str) -> bool:
        """Return whether a name, such as a relative path, is in this shard."""
        digest = hashlib.sha256(os.fsencode(name)).digest()
        return int.from_bytes(digest[:8], "big") % self.count == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


def parse_shard(text: str) -> Shard | None:
    """Parse K/N with K from 1 to N, such as 3/100; return None for other text."""
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text, re.ASCII)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        return None
    return Shard(int(match[1]), int(match[2]))


def shard_jobs(jobs: Sequence[Job], inputs: Sequence[Path], shard: Shard) -> list[Job]:
    """Return the jobs of a shard.

    Args:
        jobs: The jobs, as `batch.plan_jobs` returns them.
        inputs: The images and folders that they were planned from. What is in a folder is divided
            by its path relative to it, so machines may have the folder in different places; an
            image that is named, by the path it is named with.
        shard: The shard. A folder that cannot be listed is in all of them, as any image could be
            in it.
    """
    folders = [given for given in inputs if given.is_dir()]
    return [
        job
        for job in jobs
        if (job.problem is not None and job.source.is_dir())
        or shard.holds(_name(job.source, folders))
    ]


def _name(source: Path, folders: Sequence[Path]) -> str:
    for folder in folders:
        if source.is_relative_to(folder):
            return source.relative_to(folder).as_posix()
    return source.as_posix()
