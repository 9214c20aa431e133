"""What training makes small: the mean error over all colours and pixels, absolute or squared.

The PSNR of a set is the mean of a logarithm of each image's squared error, so an error counts
in proportion to its square within an image, but less the larger those of its image are.
`relative_l2` follows that: squares, divided by what bicubic enlargement of the image leaves.

The outermost LR pixels of a patch see black beyond it. They are 12 % of a patch of 32 and less
than 1 % of most images, so here they count as they do in those.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from anchorsr.training.recipe import Loss

# What the error of a patch's outermost LR pixels counts: a patch of 32 then has as much edge as a
# image of 580x580.
_EDGE = 0.05


def measure_loss(error: Tensor, kind: Loss, weights: Tensor, *, factor: int, luma: float) -> Tensor:
    """The mean of (N, 3, H, W) differences in levels (l1) or their squares (others).

    weights: (N,), which relative_l2 multiplies the squares by; factor: how many HR pixels wide
    the edge is that counts less; luma: the part of the loss that is of the differences in luma.
    """
    shares = _edge_weights(error, factor)
    if kind == "relative_l2":
        shares = shares * weights[:, None, None, None]
    error = error * (shares if kind == "l1" else shares.sqrt())
    loss = _mean(error, kind)
    if luma:
        loss = torch.lerp(loss, _mean(to_luma(error), kind), luma)
    return loss


def to_luma(images: Tensor) -> Tensor:
    """(N, 3, H, W) to (N, H, W); grey keeps its level (ITU-R BT.601)."""
    weights = torch.tensor([0.299, 0.587, 0.114], device=images.device)
    luma: Tensor = images.movedim(1, -1) @ weights
    return luma


def _edge_weights(error: Tensor, width: int) -> Tensor:
    """(1, 1, H, W) weights with a mean of 1, smaller on the outermost pixels."""
    weights = error.new_full((1, 1, *error.shape[2:]), _EDGE)
    weights[:, :, width:-width, width:-width] = 1
    return weights / weights.mean()


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
