"""Data-parallel training by several processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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
