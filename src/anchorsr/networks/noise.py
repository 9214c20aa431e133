"""Noise that imitates quantization while a network is trained in float."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from anchorsr.graph.operators import WEIGHT_LIMIT


def add_rounding_noise(kernel: Tensor) -> Tensor:
    """Add uniform noise of up to half a quantization step to each weight.

    The step is per-channel: the largest absolute weight of the filter over `WEIGHT_LIMIT`. The
    network learns to tolerate rounding; and since the noise grows with a filter's largest weight,
    that weight is kept small.

    Args:
        kernel: Weights (out, in, height, width).
    """
    steps = kernel.abs().amax(dim=(1, 2, 3), keepdim=True) / WEIGHT_LIMIT
    return kernel + steps * (torch.rand_like(kernel) - 0.5)


class ActivationNoise(nn.Module):
    """Add noise like that of rounding to 8 bits, in training mode only.

    The step is the range of the batch over 255, so wide ranges cost accuracy, as they do after
    quantization. All images of a batch get the same noise.
    """

    least: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("least", torch.zeros(()))

    def share_scale_with(self, features: Tensor) -> None:
        """From the next batch on, use at least the range of these features.

        For a summand: after quantization, it has the scale of the sum (`quantization.calibration`).
        """
        rows = _flatten_channels_last(features.detach())
        self.least.copy_(rows.amax() - rows.amin())

    def forward(self, features: Tensor) -> Tensor:
        """Return the features, (N, C, H, W), with noise in training mode."""
        if not self.training:
            return features
        pattern = torch.rand_like(features[:1]) - 0.5
        noisy: Tensor = _AddNoise.apply(features, pattern, self.least)  # type: ignore[no-untyped-call]
        return noisy


class _AddNoise(torch.autograd.Function):
    """features + pattern · range / 255, for a pattern (1, C, H, W).

    The range is max - min of the features, but at least `least`. Its gradient goes to one largest
    and one smallest feature. PyTorch's `amax` and `amin` spread it over all equal ones, which
    takes as long as two convolutions.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, pattern: Tensor, least: Tensor) -> Tensor:
        images = _flatten_channels_last(features)
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
        rows = _flatten_channels_last(gradient)
        slope = (rows @ _flatten_channels_last(pattern)[0]).sum() / 255
        changed = rows.clone()
        image = largest.argmax()
        changed[image, images[image].argmax()] += slope
        image = smallest.argmin()
        changed[image, images[image].argmin()] -= slope
        count, channels, height, width = gradient.shape
        return changed.view(count, height, width, channels).permute(0, 3, 1, 2), None, None


def _flatten_channels_last(features: Tensor) -> Tensor:
    """(N, C, H, W) to (N, H · W · C): a view where channels come last in memory."""
    return features.permute(0, 2, 3, 1).reshape(len(features), -1)
