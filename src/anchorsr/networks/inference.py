"""Run a float network on uint8 images."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn


def to_tensor(images: npt.NDArray[np.uint8], device: str) -> Tensor:
    """Convert (N, H, W, C) uint8 to (N, C, H, W) float32 in channels-last memory."""
    return torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float()


def upscale_float(network: nn.Module, lr: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Upscale an (H, W, 3) uint8 image with a float network, rounded half to even to uint8."""
    device = next(network.parameters()).device
    with torch.no_grad():
        output = network(to_tensor(lr[None], str(device)))[0]
    return np.asarray(output.clamp(0, 255).round().byte().permute(1, 2, 0).cpu().numpy())
