"""Noise on activations while training, like that of rounding them to integers.

A layer like those in `layers`, which does nothing once a network is trained.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class ActivationNoise(nn.Module):
    """While training, noise like that of rounding to 255 steps of the batch's range.

    So wide ranges cost something, as they do in integers. One batch has one pattern of noise.
    """

    least: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("least", torch.zeros(()))

    def share_scale_with(self, features: Tensor) -> None:
        """From the next batch on, let the range be no narrower than that of these features.

        In integers both have one scale, as summands have with their sum (`scales`).
        """
        rows = _rows(features.detach())
        self.least.copy_(rows.amax() - rows.amin())

    def forward(self, features: Tensor) -> Tensor:
        if not self.training:
            return features
        pattern = torch.rand_like(features[:1]) - 0.5
        noisy: Tensor = _Noise.apply(features, pattern, self.least)  # type: ignore[no-untyped-call]
        return noisy


class _Noise(torch.autograd.Function):
    """features + pattern · range / 255, for a pattern (1, C, H, W).

    The range is that of the features, largest - smallest, but not below `least`. Its gradient
    goes to one largest and one smallest feature. PyTorch's own `amax` and `amin` spread it over
    all that are equal, at the cost of two convolutions.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, pattern: Tensor, least: Tensor) -> Tensor:
        images = _rows(features)
        largest, smallest = images.amax(1), images.amin(1)
        own = largest.max() - smallest.min()
        ctx.save_for_backward(images, largest, smallest, pattern)
        ctx.narrow = bool(own < least)
        return features + pattern * (own.maximum(least) / 255)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        if ctx.narrow:
            return gradient, None, None
        images, largest, smallest, pattern = ctx.saved_tensors
        rows = _rows(gradient)
        slope = (rows @ _rows(pattern)[0]).sum() / 255
        changed = rows.clone()
        image = largest.argmax()
        changed[image, images[image].argmax()] += slope
        image = smallest.argmin()
        changed[image, images[image].argmin()] -= slope
        count, channels, height, width = gradient.shape
        return changed.view(count, height, width, channels).permute(0, 3, 1, 2), None, None


def _rows(features: Tensor) -> Tensor:
    """Each image's features in a row; a view where channels come last in memory."""
    return features.permute(0, 2, 3, 1).reshape(len(features), -1)
