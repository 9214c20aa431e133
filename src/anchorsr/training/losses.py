"""Losses: the mean absolute or squared error over all channels and pixels.

The PSNR of a set is a mean of logarithms of each image's squared error. So within an image an
error counts in proportion to its square, but less in images with a large error. `relative_l2`
does the same: squared errors, divided by the squared error of bicubic upscaling of the image.

The outermost LR pixels of a patch see black padding. They are 12 % of a patch of 32 pixels but
less than 1 % of most images, so they are weighted down to that.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from anchorsr.training.recipe import Loss

# Weight of a patch's outermost LR pixels: a patch of 32 then has as much edge as an image of
# 580x580.
_EDGE = 0.05


def measure_loss(error: Tensor, kind: Loss, weights: Tensor, *, factor: int, luma: float) -> Tensor:
    """Compute the loss of a batch.

    Args:
        error: (N, 3, H, W) differences in levels of 255.
        kind: `l1` for absolute values, the others for squares.
        weights: (N,) factors of the squares, used by `relative_l2`.
        factor: Width in HR pixels of the edge that is weighted down.
        luma: Fraction of the loss that is on luma.

    Returns:
        A scalar, in levels (l1) or their squares.
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
    """Convert (N, 3, H, W) RGB to (N, H, W) luma (ITU-R BT.601, full range)."""
    weights = torch.tensor([0.299, 0.587, 0.114], device=images.device)
    luma: Tensor = images.movedim(1, -1) @ weights
    return luma


def _edge_weights(error: Tensor, width: int) -> Tensor:
    """Return (1, 1, H, W) weights with a mean of 1, smaller on the outermost pixels."""
    weights = error.new_full((1, 1, *error.shape[2:]), _EDGE)
    weights[:, :, width:-width, width:-width] = 1
    return weights / weights.mean()


def _mean(error: Tensor, kind: Loss) -> Tensor:
    if kind == "l1":
        absolute: Tensor = MeanAbsolute.apply(error)  # type: ignore[no-untyped-call]
        return absolute
    return error.square().mean()


class MeanAbsolute(torch.autograd.Function):
    """The mean absolute value, whose gradient is linear within a thousandth of a level.

    PyTorch's own `abs` and `mean` take three times as long, a third of a small network's step.
    """

    @staticmethod
    def forward(ctx: Any, error: Tensor) -> Tensor:
        """Compute the mean absolute value."""
        ctx.save_for_backward(error)
        mean: Tensor = torch.linalg.vector_norm(error, 1) / error.numel()
        return mean

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Return the sign of each error, scaled."""
        (error,) = ctx.saved_tensors
        slope: Tensor = gradient * (1e3 / error.numel())
        signs: Tensor = error.clamp(-1e-3, 1e-3).mul_(slope)
        return signs
