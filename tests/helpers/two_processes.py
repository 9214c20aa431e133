"""Training in other processes: by PyTorch's launcher, or quicker, as copies of one process."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from anchorsr.training.machine import Machine
from anchorsr.training.progress import TrainingProgress
from anchorsr.training.recipe import Recipe, parse_table
from anchorsr.training.trainer import train

# One process imports PyTorch; the others are copies of it.
_COPIES = multiprocessing.get_context("forkserver")
_STOPPED = 3  # an exit code
_COPIES.set_forkserver_preload(["anchorsr.training.trainer", "torch._dynamo"])


def train_with_two(recipe: Recipe, run: Path, *, victim: int | None = None) -> bool:
    """Train on two processes, of which one is killed in step 8 if it is named.

    Returns:
        Whether both ended well.
    """
    port = _free_port()
    ranks = [_COPIES.Process(target=_train_as, args=(r, port, recipe, run, victim)) for r in (0, 1)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(timeout=120)
        rank.kill()  # if it has not ended
        rank.join()
    return all(rank.exitcode == 0 for rank in ranks)


def launch_two(recipe: Recipe, run: Path) -> bool:
    """Train on two processes that `torchrun` starts; return whether both ended well."""
    table = run.with_name("recipe.json")
    table.write_text(json.dumps(recipe.as_table()))
    # On a busy machine gloo aborts one launch in a hundred (exit code -6); the processes are then
    # started again and resume from the checkpoint. Without an address the launcher resolves the
    # name of this machine.
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--max-restarts", "1"]
    command += ["--master-addr", "127.0.0.1", "--master-port", str(_free_port())]
    return subprocess.run([*command, __file__, table, run], timeout=120).returncode == 0


def train_until_terminated(recipe: Recipe, run: Path, *, step: int) -> bool:
    """Train in a process that gets SIGTERM after a step; return whether that stopped it."""
    process = _COPIES.Process(target=_train_until, args=(step, recipe, run))
    process.start()
    process.join(timeout=120)
    process.kill()  # if it has not ended
    process.join()
    return process.exitcode == _STOPPED


def _train_until(step: int, recipe: Recipe, run: Path) -> None:
    sent: list[None] = []

    def terminate(progress: TrainingProgress) -> None:
        if progress.step >= step and not sent:
            sent.append(os.kill(os.getpid(), signal.SIGTERM))

    try:
        train(recipe, run, machine=Machine(threads=1), on_progress=terminate)
    except KeyboardInterrupt:
        sys.exit(_STOPPED)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _train_as(rank: int, port: int, recipe: Recipe, run: Path, victim: int | None) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    number = Path(f"{run}.process-{rank}")
    number.write_text(str(os.getpid()))

    def kill(progress: TrainingProgress) -> None:  # only process 0 reports progress
        if victim is not None and progress.step == 8:
            os.kill(int(Path(f"{run}.process-{victim}").read_text()), signal.SIGKILL)

    train(recipe, run, machine=Machine(threads=1), on_progress=kill)


if __name__ == "__main__":
    asked = parse_table(Recipe, json.loads(Path(sys.argv[1]).read_text()), "")
    train(asked, sys.argv[2], machine=Machine(threads=1))
