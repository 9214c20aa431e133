"""What training makes small: the mean error over all colours and pixels, absolute or squared.

The PSNR of a set is the mean of a logarithm of each picture's squared error, so an error counts
in proportion to its square within a picture, but less the larger those of its picture are.
`relative_l2` follows that: squares, divided by what bicubic enlargement of the picture leaves.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from anchorsr.recipes import Loss


def measure_loss(error: Tensor, kind: Loss, weights: Tensor, *, luma: float) -> Tensor:
    """The mean of (N, 3, H, W) differences in grey levels (l1) or their squares (others).

    weights: (N,), which relative_l2 multiplies the squares by; luma: the part of the loss that is
    of the differences in luma.
    """
    if kind == "relative_l2":
        error = error * weights.sqrt()[:, None, None, None]
    loss = _mean(error, kind)
    if luma:
        loss = torch.lerp(loss, _mean(to_luma(error), kind), luma)
    return loss


def to_luma(images: Tensor) -> Tensor:
    """(N, 3, H, W) to (N, H, W); grey keeps its level (ITU-R BT.601)."""
    weights = torch.tensor([0.299, 0.587, 0.114], device=images.device)
    luma: Tensor = images.movedim(1, -1) @ weights
    return luma


def _mean(error: Tensor, kind: Loss) -> Tensor:
    if kind == "l1":
        absolute: Tensor = MeanAbsolute.apply(error)  # type: ignore[no-untyped-call]
        return absolute
    return error.square().mean()


class MeanAbsolute(torch.autograd.Function):
    """The mean absolute value; its gradient is a sign, linear within a thousandth of a level.

    PyTorch's own `abs` and `mean` take three times as long, a third of a small network's step.
    """

    @staticmethod
    def forward(ctx: Any, error: Tensor) -> Tensor:
        ctx.save_for_backward(error)
        mean: Tensor = torch.linalg.vector_norm(error, 1) / error.numel()
        return mean

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (error,) = ctx.saved_tensors
        slope: Tensor = gradient * (1e3 / error.numel())
        signs: Tensor = error.clamp(-1e-3, 1e-3).mul_(slope)
        return signs
