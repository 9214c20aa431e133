"""The layers that networks are made of beside PyTorch's own; each lowers to one graph operator.

Tensors are (N, C, H, W) float RGB on [0, 255]. Channels that hold a factor × factor block of
pixels are in TensorFlow's order, (dy * factor + dx) * C + c, not in PyTorch's PixelShuffle
order, so that lowering needs no permutation.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

# Biases are stored divided by this, so that one optimizer step means the same for biases
# and kernels although pictures are on [0, 255].
BIAS_UNIT = 255.0


class Trainable(nn.Module):
    """What can be trained: (N, 3, H, W) on [0, 255] to (N, 3, factor · H, factor · W)."""

    factor: int

    def forward_unclipped(self, images: Tensor) -> Tensor:
        """The output before its values are limited to [0, 255]."""
        raise NotImplementedError


class RecipeNetwork(Trainable):
    """One that a recipe names; `config` is the dataclass that its options were read into."""

    config: Any


class Conv3x3(nn.Module):
    """A 3×3 convolution, zero padded, whose kernel is trained over-parametrized.

    The kernel that runs is W + P·K, with K of `expansion` 3×3 filters and P a 1×1 mixing of
    them: the linear block of SESR (arXiv 2103.09404) and ECBSR (ACM MM 2021), composed in
    the kernel and not in the activations, so that training costs hardly more than a plain
    convolution. expansion=0 trains the plain kernel.
    """

    def __init__(self, inputs: int, outputs: int, *, expansion: int, gain: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, 3, 3))
        self.bias = nn.Parameter(torch.zeros(outputs))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)  # PyTorch's own default
        with torch.no_grad():
            self.weight.mul_(gain)
        if expansion:
            self.filters = nn.Parameter(torch.empty(expansion, inputs, 3, 3))
            self.mixing = nn.Parameter(torch.zeros(outputs, expansion))
            nn.init.kaiming_normal_(self.filters, nonlinearity="linear")
            # P starts at zero: with both factors at full variance every ReLU can die early.
        else:
            self.register_parameter("filters", None)
            self.register_parameter("mixing", None)

    def kernel(self) -> Tensor:
        """The single kernel that runs, (out, in, 3, 3)."""
        if self.mixing is None or self.filters is None:
            return self.weight
        return self.weight + (self.mixing @ self.filters.flatten(1)).view_as(self.weight)

    @torch.no_grad()
    def take_over(self, trained: Conv3x3) -> None:
        """Compute what `trained`, of the same widths, computes; this one's filters stay."""
        self.weight.copy_(trained.kernel())
        self.bias.copy_(trained.bias)
        if self.mixing is not None:
            self.mixing.zero_()

    def forward(self, features: Tensor) -> Tensor:
        return functional.conv2d(features, self.kernel(), self.bias * BIAS_UNIT, padding=1)


class Convolution(nn.Conv2d):
    """A size × size convolution of stride 1, zero padded, whose bias is stored in `BIAS_UNIT`.

    Kernels start as He's (variance kept under ReLU), biases at zero.
    """

    def __init__(
        self, inputs: int, outputs: int, size: int, *, groups: int = 1, bias: bool = True
    ) -> None:
        super().__init__(inputs, outputs, size, padding=size // 2, groups=groups, bias=bias)
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, features: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias * BIAS_UNIT
        return functional.conv2d(
            features, self.weight, bias, padding=self.padding, groups=self.groups
        )


class TransposedConvolution(nn.ConvTranspose2d):
    """Output `stride` times as high and wide; the bias is stored in `BIAS_UNIT`.

    The kernel's centre is in the middle of the stride × stride block that a pixel becomes, or
    on the last pixel before the middle.
    """

    def __init__(self, inputs: int, outputs: int, size: int, stride: int) -> None:
        cut = (size - stride + 1) // 2
        odd = (size - stride) % 2
        super().__init__(inputs, outputs, size, stride, padding=cut, output_padding=odd)
        self.cut = cut
        nn.init.zeros_(self.bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor, output_size: list[int] | None = None) -> Tensor:
        assert self.bias is not None
        bias = self.bias * BIAS_UNIT
        return functional.conv_transpose2d(
            features, self.weight, bias, self.stride, self.cut, self.output_padding
        )


class Anchor(nn.Module):
    """Each input pixel repeated factor² times along the channels (ABPN, section 3.2)."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, images: Tensor) -> Tensor:
        return images.repeat(1, self.factor**2, 1, 1)


class DepthToSpace(nn.Module):
    """(N, block² · C, H, W) to (N, C, block · H, block · W), in TensorFlow's channel order."""

    def __init__(self, block: int) -> None:
        super().__init__()
        self.block = block

    def forward(self, packed: Tensor) -> Tensor:
        count, channels, height, width = packed.shape
        block = self.block
        split = packed.view(count, block, block, channels // block**2, height, width)
        return split.permute(0, 3, 4, 1, 5, 2).reshape(count, -1, height * block, width * block)


class Enlarge(nn.Module):
    """(N, C, H, W) to (N, C, factor · H, factor · W), interpolated; pixel centres at halves."""

    def __init__(self, factor: int, mode: Literal["nearest", "bilinear"]) -> None:
        super().__init__()
        self.factor = factor
        self.mode = mode

    def forward(self, images: Tensor) -> Tensor:
        return functional.interpolate(images, scale_factor=self.factor, mode=self.mode)


class Clip(nn.Module):
    """Values limited to the range of a picture, [0, 255]."""

    def forward(self, images: Tensor) -> Tensor:
        return images.clamp(0.0, 255.0)
