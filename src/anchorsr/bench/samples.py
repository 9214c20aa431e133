"""Images to measure with: made, not stored, and as hard to encode as a photograph."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

# A JPEG of 360x640 then takes 2.6 bits a pixel and its enlargement 1.7, as photographs do.
_FALL = 0.75


def natural_image(height: int, width: int, *, seed: int = 0) -> npt.NDArray[np.uint8]:
    """(height, width, 3) uint8 noise whose amplitude falls with its frequency, as that of
    photographs does: grids of random numbers, each twice as fine and less strong."""
    generator = np.random.default_rng(seed)
    total = np.zeros((height, width), np.float32)
    strength, cell = 64.0, max(height, width)
    while cell >= 1:
        rows, columns = -(-height // cell), -(-width // cell)
        grid = generator.normal(0, strength, (rows, columns)).astype(np.float32)
        larger = Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC)
        total += np.asarray(larger)
        strength, cell = strength * _FALL, cell // 2
    tint = generator.normal(0, 20, 3).astype(np.float32)
    return np.asarray(np.clip(total[:, :, None] + 128 + tint, 0, 255), np.uint8)
