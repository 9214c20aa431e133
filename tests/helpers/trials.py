"""Run a command line many times, and end it or fill its disk at a chosen step.

A step is anything that a command does to a folder: a file that it opens for writing, writes,
renames, links, truncates or deletes, or a folder that it makes. One process has everything imported
and forks a child for each trial, so a trial takes a fraction of a second.

As a program it reads one trial per line from standard input and answers each with one line.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

_EVENTS = {
    "os.rename", "os.link", "os.remove", "os.truncate", "os.mkdir", "os.rmdir", "os.symlink",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Trial:
    """What happens in a trial.

    Attributes:
        arguments: The words after `anchorsr`.
        folder: Where the command runs; only steps below it count.
        at: The step at which something happens, from 1; 0 for never.
        signal: The signal that comes then; 0 for a full disk, from then on.
        after: Seconds after the command's start when the signal comes, instead of at a step.
    """

    arguments: list[str]
    folder: str
    at: int = 0
    signal: int = 0
    after: float = 0.0


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a trial ended: exit code (negative for a signal), steps taken, and what was printed."""

    code: int
    steps: int
    out: str
    err: str


class Trials:
    """The process that runs trials, as a context manager."""

    def __enter__(self) -> Trials:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def run(self, arguments: list[str], folder: Path, **options: Any) -> Ended:
        """Run one trial; `options` are those of `Trial`."""
        trial = Trial([str(each) for each in arguments], str(folder), **options)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(dataclasses.asdict(trial)) + "\n")
        self._process.stdin.flush()
        return Ended(**json.loads(self._process.stdout.readline()))


class _Steps:
    """Counts steps, and acts at the chosen one."""

    def __init__(self, trial: Trial, counter: int) -> None:
        self._trial = trial
        self._counter = counter  # a file descriptor
        self.count = 0

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = arguments
            writes = (isinstance(mode, str) and any(c in mode for c in "wax+")) or (
                mode is None and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            )
            if not writes or not isinstance(path, str | bytes):
                return
        elif event in _EVENTS:
            path = arguments[0]
        else:
            return
        if isinstance(path, str | bytes) and self._is_inside(os.fsdecode(path)):
            self.step(may_fail=event not in ("os.remove", "os.rmdir"))

    def _is_inside(self, path: str) -> bool:
        return os.path.abspath(path).startswith(self._trial.folder)

    def step(self, *, may_fail: bool = True) -> None:
        """Count a step. Files can be deleted on a full disk as well."""
        self.count += 1
        os.pwrite(self._counter, self.count.to_bytes(8, "little"), 0)
        if not self._trial.at or self.count < self._trial.at:
            return
        if not self._trial.signal:
            if may_fail:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        elif self.count == self._trial.at:
            os.kill(os.getpid(), self._trial.signal)


def _count_writes(steps: _Steps) -> None:
    """Count what goes through the two kinds of files that outputs are written with."""
    import io

    fdopen = os.fdopen

    class Written(io.BufferedWriter):
        def write(self, data: Any) -> int:
            steps.step()
            return super().write(data)

    def opened(descriptor: int, mode: str = "r", *rest: Any, **options: Any) -> Any:
        if mode == "wb":
            return Written(io.FileIO(descriptor, "wb"))
        return fdopen(descriptor, mode, *rest, **options)

    class Raw(io.FileIO):
        def write(self, data: Any) -> int | None:
            if self.writable():
                steps.step()
            return super().write(data)

    from anchorsr.utils import temporary
    from anchorsr.video import journal, output_file

    temporary.os = _With(os, fdopen=opened)  # type: ignore[assignment]
    output_file.io = _With(io, FileIO=Raw)  # type: ignore[assignment]
    journal.io = _With(io, FileIO=Raw)  # type: ignore[assignment]


class _With:
    """A module with some names replaced."""

    def __init__(self, module: Any, **names: Any) -> None:
        self._module = module
        self.__dict__.update(names)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def _child(trial: Trial, out: int, err: int, counter: int, started: int) -> None:
    os.dup2(out, 1)
    os.dup2(err, 2)
    os.chdir(trial.folder)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    from anchorsr.cli import app

    steps = _Steps(trial, counter)
    _count_writes(steps)
    sys.addaudithook(steps.audit)
    os.write(started, b"!")
    code = app.main(trial.arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


_MODULES = {
    "upscale": ["anchorsr.cli.commands.upscale", "ai_edge_litert.interpreter"],
    "video": ["anchorsr.cli.commands.video", "ai_edge_litert.interpreter", "av"],
    "train": ["anchorsr.cli.commands.training", "anchorsr.training.trainer", "torch._dynamo"],
    "quantize": ["anchorsr.cli.commands.training", "anchorsr.export.release", "torch._dynamo"],
    "export": ["anchorsr.cli.commands.models", "anchorsr.export.export", "onnxruntime"],
}


def _import(command: str) -> None:
    """Import what a command needs, before its trials are forked."""
    import importlib

    for name in _MODULES[command]:
        importlib.import_module(name)


def _run(trial: Trial, folder: Path) -> Ended:
    import time

    names = [folder / name for name in ("out", "err", "steps")]
    out, err, counter = (os.open(n, os.O_RDWR | os.O_CREAT | os.O_TRUNC) for n in names)
    _import(trial.arguments[0])
    starts, started = os.pipe()
    process = os.fork()
    if not process:
        try:
            _child(trial, out, err, counter, started)
        except BaseException:
            import traceback

            traceback.print_exc()
            sys.stderr.flush()
        os._exit(99)
    os.close(started)
    if trial.after:
        os.read(starts, 1)
        time.sleep(trial.after)
        os.kill(process, trial.signal)
    _, status = os.waitpid(process, 0)
    for descriptor in (out, err, counter, starts):
        os.close(descriptor)
    steps = int.from_bytes(names[2].read_bytes()[:8], "little")
    texts = [name.read_text(errors="replace") for name in names[:2]]
    return Ended(os.waitstatus_to_exitcode(status), steps, *texts)


def _main() -> None:
    import tempfile

    from anchorsr.cli import app  # noqa: F401 (imported before the forks)

    with tempfile.TemporaryDirectory() as folder:
        for line in sys.stdin:
            ended = _run(Trial(**json.loads(line)), Path(folder))
            print(json.dumps(dataclasses.asdict(ended)), flush=True)
    os._exit(0)  # in order, the end of PyTorch and LiteRT takes seconds


if __name__ == "__main__":
    _main()
