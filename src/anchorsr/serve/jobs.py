"""Jobs: kept in a folder, so that none is lost when a server ends, and run by worker processes."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import re
import secrets
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anchorsr.errors import RequestError
from anchorsr.serve.limits import Limits
from anchorsr.serve.options import Options, options_from_dict
from anchorsr.serve.work import order
from anchorsr.utils.files import publish

WAITING, RUNNING, DONE, FAILED = "waiting", "running", "done", "failed"
ENDED = (DONE, FAILED)
_ID = re.compile(r"[A-Za-z0-9_-]{16,64}")
_RECORD = "job.json"
_SOURCE = "source"
_MOST_STARTS = 3  # a job that was running when the server was killed is not tried for ever
_LONGEST_LINE = 1 << 20


@dataclass
class Job:
    """A file to upscale.

    Attributes:
        id: Its name in addresses; it cannot be guessed.
        name: What the client calls the file.
        options: What is asked for.
        folder: Its folder, with its source and its result.
        state: `waiting`, `running`, `done` or `failed`.
        progress: From 0 to 1, where it is known.
        error: Why it failed.
        status: The HTTP status that says so.
        result: What the worker returned.
        created: Seconds since the epoch.
        ended: The same.
        kept: Whether it outlives the request that made it.
    """

    id: str
    name: str
    options: Options
    folder: Path
    state: str = WAITING
    progress: float | None = None
    error: str = ""
    status: int = 200
    result: dict[str, Any] = field(default_factory=dict)
    created: float = field(default_factory=time.time)
    ended: float = 0.0
    kept: bool = True
    starts: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def source(self) -> Path:
        """The client's file."""
        return self.folder / _SOURCE

    @property
    def result_file(self) -> Path:
        """The result, once it is done."""
        return self.folder / Path(self.result["file"]).name

    def describe(self) -> dict[str, Any]:
        """Return the job as JSON shows it."""
        told: dict[str, Any] = {"id": self.id, "name": self.name, "state": self.state}
        if self.progress is not None:
            told["progress"] = round(self.progress, 4)
        if self.error:
            told["error"] = self.error
        if self.state == DONE:
            told["result"] = {key: value for key, value in self.result.items() if key != "file"}
        return told


class Jobs:
    """All jobs of a server.

    Args:
        folder: Where they are kept; those of an earlier server there are taken over.
        limits: The limits.
        workers: How many run at a time.
        on_end: Called with each job that ends and the seconds that it ran.
    """

    def __init__(
        self,
        folder: Path,
        limits: Limits,
        workers: int,
        on_end: Callable[[Job, float], None] = lambda job, seconds: None,
    ) -> None:
        self.limits = limits
        self._folder = folder
        self._workers = workers
        self._on_end = on_end
        self._jobs: dict[str, Job] = {}
        self._waiting: asyncio.Queue[str] = asyncio.Queue()
        self._processes: dict[str, asyncio.subprocess.Process] = {}  # by the job that they run
        self._tasks: list[asyncio.Task[None]] = []
        self._arriving = 0

    async def start(self) -> None:
        """Take over what an earlier server left, and start the workers."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for folder in sorted(self._folder.iterdir()):
            if _ID.fullmatch(folder.name):
                self._restore(folder)
        for _ in range(self._workers):
            self._tasks.append(asyncio.create_task(self._work()))
        self._tasks.append(asyncio.create_task(self._sweep()))

    async def stop(self) -> None:
        """End the workers; what waits or runs is taken over by the next server."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def count(self, *states: str) -> int:
        """Count the jobs in these states."""
        return sum(job.state in states for job in self._jobs.values())

    def all(self) -> list[Job]:
        """Return the kept jobs, oldest first."""
        return sorted((job for job in self._jobs.values() if job.kept), key=lambda job: job.created)

    def get(self, job_id: str) -> Job:
        """Return a job.

        Raises:
            RequestError: With 404.
        """
        job = self._jobs.get(job_id)
        if job is None:
            raise RequestError(404, "there is no such job; finished ones are kept for an hour")
        return job

    @contextlib.contextmanager
    def arriving(self) -> Any:
        """Reserve a place in the queue while a file is received.

        Raises:
            RequestError: With 429, if there is none.
        """
        open_jobs = self.count(WAITING, RUNNING) + self._arriving
        if open_jobs >= self.limits.queue:
            raise RequestError(429, f"{open_jobs} images are waiting already; try again later")
        if len(self._jobs) >= self.limits.kept:
            raise RequestError(429, "too many results are waiting to be collected or deleted")
        self._arriving += 1
        try:
            yield
        finally:
            self._arriving -= 1

    def new(self, options: Options, *, kept: bool) -> Job:
        """Make a job whose source is still to be written; `submit` or `delete` it then."""
        job_id = secrets.token_urlsafe(16)
        folder = self._folder / job_id
        folder.mkdir(mode=0o700)
        return Job(job_id, "image", options, folder, kept=kept)

    def submit(self, job: Job) -> None:
        """Queue a job; from now on it is not lost."""
        self._jobs[job.id] = job
        self._save(job)
        self._waiting.put_nowait(job.id)

    async def ended(self, job: Job, seconds: float | None = None) -> None:
        """Wait until a job has ended, or for some seconds."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while job.state not in ENDED and job.id in self._jobs:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(job.changed.wait(), left)
            job.changed.clear()

    def delete(self, job: Job) -> None:
        """Forget a job and its files; if it runs, it is ended."""
        self._jobs.pop(job.id, None)
        process = self._processes.get(job.id)
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        shutil.rmtree(job.folder, ignore_errors=True)
        job.changed.set()

    def _save(self, job: Job) -> None:
        if not job.kept:  # nobody can ask for it later
            return
        table = dataclasses.asdict(dataclasses.replace(job, changed=None))  # type: ignore[arg-type]
        for name in ("id", "folder", "changed"):
            del table[name]
        publish(json.dumps(table).encode(), job.folder / _RECORD, overwrite=True)

    def _restore(self, folder: Path) -> None:
        try:
            table = json.loads((folder / _RECORD).read_text())
            options = options_from_dict(table.pop("options"))
            job = Job(id=folder.name, folder=folder, options=options, **table)
        except (OSError, ValueError, TypeError, KeyError):
            job = None  # its source had not arrived
        if job is None or not job.kept:  # whoever asked for it has seen the connection end
            shutil.rmtree(folder, ignore_errors=True)
            return
        self._jobs[job.id] = job
        if job.state not in ENDED:
            job.state = WAITING
            self._waiting.put_nowait(job.id)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(min(60, self.limits.kept_seconds))
            oldest = time.time() - self.limits.kept_seconds
            for job in list(self._jobs.values()):
                if job.state in ENDED and job.ended < oldest:
                    self.delete(job)

    async def _work(self) -> None:
        """Run jobs, one after another, in a process that is started again when it ends."""
        process: asyncio.subprocess.Process | None = None
        try:
            while True:
                if process is None or process.returncode is not None:
                    process = await self._start_process()
                job = self._jobs.get(await self._waiting.get())
                if job is None:  # deleted
                    continue
                started = time.monotonic()
                await self._run(job, process)
                if job.id in self._jobs:
                    self._on_end(job, time.monotonic() - started)
        finally:
            if process is not None and process.returncode is None:
                process.kill()
                await process.wait()

    async def _start_process(self) -> asyncio.subprocess.Process:
        numbers = [str(self.limits.memory), str(self.limits.pixels)]
        return await asyncio.create_subprocess_exec(
            *[sys.executable, "-m", "anchorsr.serve.work", *numbers],
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            limit=_LONGEST_LINE,
        )

    async def _run(self, job: Job, process: asyncio.subprocess.Process) -> None:
        job.state, job.starts = RUNNING, job.starts + 1
        self._processes[job.id] = process
        self._save(job)
        try:
            if job.starts > _MOST_STARTS:
                raise RequestError(422, f"{job.name} ended this server {_MOST_STARTS} times")
            async with asyncio.timeout(self.limits.seconds):
                job.result = await self._ask(job, process)
            job.state, job.progress = DONE, 1.0
        except RequestError as error:
            job.state, job.error, job.status = FAILED, str(error), error.status
        except TimeoutError:
            process.kill()
            await process.wait()
            message = f"{job.name} took longer than {self.limits.seconds:g} seconds"
            job.state, job.error, job.status = FAILED, message, 408
        finally:
            del self._processes[job.id]
        job.ended = time.time()
        if job.id in self._jobs:
            job.source.unlink(missing_ok=True)
            self._save(job)
        job.changed.set()

    async def _ask(self, job: Job, process: asyncio.subprocess.Process) -> dict[str, Any]:
        """Have a job done, and return what the worker tells about its result."""
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(order(job.source, job.folder, job.name, job.options))
            await process.stdin.drain()
            while line := await process.stdout.readline():
                row = json.loads(line)
                if "progress" in row:
                    job.progress = row["progress"]
                elif "error" in row:
                    raise RequestError(row["status"], row["error"])
                elif "result" in row:
                    return dict(row["result"])
        except (ConnectionError, ValueError):
            process.kill()
        await process.wait()
        raise RequestError(
            422, f"{job.name} could not be upscaled: it is damaged, or too large for the memory"
        )
