"""Data-parallel training by several processes, and requests to stop that all agree on."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from torch import Tensor, distributed

from anchorsr.errors import RecipeError
from anchorsr.utils.files import reason


@dataclass(frozen=True)
class Processes:
    """The processes that share a batch, and which of them this is.

    Attributes:
        rank: The number of this process, from 0.
        count: The number of processes.
    """

    rank: int = 0
    count: int = 1

    def average(self, tensors: list[Tensor]) -> None:
        """Replace each tensor by its mean over all processes."""
        if self.count == 1:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        distributed.all_reduce(flat)
        flat /= self.count
        for tensor, part in zip(
            tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True
        ):
            tensor.copy_(part.view_as(tensor))

    def largest(self, tensors: list[Tensor]) -> None:
        """Replace each scalar tensor by its maximum over all processes."""
        if self.count == 1 or not tensors:
            return
        flat = torch.stack(tensors)
        distributed.all_reduce(flat, distributed.ReduceOp.MAX)
        for tensor, value in zip(tensors, flat, strict=True):
            tensor.copy_(value)

    def gather(self, value: Any) -> list[Any]:
        """Return the value of each process."""
        values = [value] * self.count
        if self.count > 1:
            distributed.all_gather_object(values, value)
        return values


def process_count() -> int:
    """Return how many processes `torchrun` started; 1 without it.

    Raises:
        RecipeError: WORLD_SIZE is set, but not the other variables of torchrun.
    """
    try:
        count = int(os.environ.get("WORLD_SIZE", "1"))
        if count > 1:
            int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    except (ValueError, KeyError) as error:
        raise RecipeError(
            f"WORLD_SIZE is set to {os.environ['WORLD_SIZE']}, but not as torchrun sets it"
            f" ({reason(error)}): start with torchrun, or unset it"
        ) from error
    return count


@contextmanager
def join_processes(device: str) -> Iterator[Processes]:
    """Join the process group, if `torchrun` started this process.

    Raises:
        RecipeError: Several processes cannot use this device.
    """
    if process_count() == 1:
        yield Processes()
        return
    if device not in ("cpu", "cuda"):
        raise RecipeError(f"several processes need --device cpu or cuda, not {device}")
    if device == "cuda":  # one GPU for each process of this machine
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("gloo" if device == "cpu" else "nccl")
    try:
        yield Processes(distributed.get_rank(), distributed.get_world_size())
        distributed.barrier()  # leaving while another process still writes can abort that one
    finally:
        distributed.destroy_process_group()


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Yield a list that is filled when the process is asked to stop, so that steps are whole.

    A second signal stops it at once.
    """
    received: list[int] = []
    numbers = [signal.SIGINT, signal.SIGTERM]
    hang_up = getattr(signal, "SIGHUP", None)  # sent by a closed terminal; nohup ignores it
    if hang_up is not None and signal.getsignal(hang_up) != signal.SIG_IGN:
        numbers.append(hang_up)

    def note(number: int, _: FrameType | None) -> None:
        received.append(number)
        for each in numbers:
            # A closed terminal sends the signal twice; the second one is ignored.
            again = signal.SIG_IGN if number == each == hang_up else previous[each]
            signal.signal(each, again)

    try:
        previous = {number: signal.getsignal(number) for number in numbers}
        for number in numbers:
            signal.signal(number, note)
    except ValueError:  # signals can be handled in the main thread only
        yield received
        return
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
