"""The layers that networks use in addition to PyTorch's own; each lowers to one operator.

Tensors are (N, C, H, W) float RGB on [0, 255]. Channels that hold a factor × factor block of
pixels are in TensorFlow's order, (dy * factor + dx) * C + c, not in that of PyTorch's
PixelShuffle, so that lowering needs no permutation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from anchorsr.networks.noise import add_rounding_noise

# Biases are stored divided by this, so that one optimizer step means the same for biases and
# kernels although images are on [0, 255].
BIAS_UNIT = 255.0

# Per-image gains (N, C) of a convolution's outputs, and per-image biases (N, C) in `BIAS_UNIT`
# (`conditioned_abpn`).
Modulation: TypeAlias = tuple[Tensor, Tensor]


class Convolution(nn.Conv2d):
    """A convolution of stride 1, zero-padded to keep height and width.

    The stored parameters are those of a network over features on [0, 1]. A unit is the value that
    a stored 1.0 stands for: 255 for features on the scale of images, 1 where a function that is
    not homogeneous, such as a sigmoid, was published for [0, 1]. Kernels are initialized as He's,
    biases at zero.

    Args:
        inputs: Input channels.
        outputs: Output channels.
        size: Height and width of the kernel, odd.
        groups: The number of channel groups.
        gain: What the initial kernel is multiplied by; 0.7 where no ReLU precedes, so that
            features keep their scale.
        input_unit: The unit of the input.
        output_unit: The unit of the output and of the bias.
        rounding_noise: Whether training adds `noise.add_rounding_noise` to the kernel.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int,
        *,
        groups: int = 1,
        gain: float = 1.0,
        input_unit: float = BIAS_UNIT,
        output_unit: float = BIAS_UNIT,
        rounding_noise: bool = False,
    ) -> None:
        super().__init__(inputs, outputs, size, padding=size // 2, groups=groups)
        self.rounding_noise = rounding_noise
        self.kernel_unit = output_unit / input_unit
        self.bias_unit = output_unit
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")
        with torch.no_grad():
            self.weight.mul_(gain)
        nn.init.zeros_(self.bias)  # type: ignore[arg-type]

    def scaled_parameters(self) -> tuple[Tensor, Tensor]:
        """Return the kernel and the bias that the convolution applies, units included."""
        assert self.bias is not None
        return self.weight * self.kernel_unit, self.bias * self.bias_unit

    def collapsed(self) -> tuple[Tensor, Tensor]:
        """Return the kernel in units of `kernel_unit`, and the bias in units of `bias_unit`."""
        assert self.bias is not None
        return self.weight, self.bias

    @torch.no_grad()
    def set_kernel(self, kernel: Tensor, bias: Tensor) -> None:
        """Set the kernel, in units of `kernel_unit`, and the bias, in units of `bias_unit`."""
        assert self.bias is not None
        self.weight.copy_(kernel)
        self.bias.copy_(bias)

    def forward(self, features: Tensor, modulation: Modulation | None = None) -> Tensor:
        """Convolve features, (N, in, H, W) to (N, out, H, W), and modulate the output if asked."""
        kernel, bias = self.scaled_parameters()
        if self.rounding_noise and self.training:
            kernel = add_rounding_noise(kernel)
        padding = self.kernel_size[0] // 2
        if modulation is None:
            return functional.conv2d(features, kernel, bias, padding=padding, groups=self.groups)
        convolved = functional.conv2d(features, kernel, padding=padding, groups=self.groups)
        return modulate(convolved, bias, modulation)


def modulate(features: Tensor, bias: Tensor, modulation: Modulation) -> Tensor:
    """Multiply features by per-image gains, and add a bias and per-image biases.

    Args:
        features: (N, C, H, W).
        bias: (C,).
        modulation: The gains, and the biases in `BIAS_UNIT`.
    """
    gains, biases = modulation
    shifts = bias + biases * BIAS_UNIT
    return torch.addcmul(shifts[:, :, None, None], features, gains[:, :, None, None])


class TransposedConvolution(nn.ConvTranspose2d):
    """A transposed convolution whose output is `stride` times as high and wide.

    The kernel is centred on the stride × stride block that a pixel becomes; where it cannot be,
    its centre is on the last pixel before the middle. The bias is stored in units of `BIAS_UNIT`.
    """

    def __init__(self, inputs: int, outputs: int, size: int, stride: int) -> None:
        cut = (size - stride + 1) // 2
        odd = (size - stride) % 2
        super().__init__(inputs, outputs, size, stride, padding=cut, output_padding=odd)
        self.cut = cut
        nn.init.zeros_(self.bias)  # type: ignore[arg-type]

    def scaled_parameters(self) -> tuple[Tensor, Tensor]:
        """Return the kernel and the bias that the convolution applies, units included."""
        assert self.bias is not None
        return self.weight, self.bias * BIAS_UNIT

    def forward(self, features: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Convolve features, (N, in, H, W) to (N, out, stride · H, stride · W)."""
        kernel, bias = self.scaled_parameters()
        return functional.conv_transpose2d(
            features, kernel, bias, self.stride, self.cut, self.output_padding
        )


class Anchor(nn.Module):
    """Repeat each input pixel factor² times along the channels (ABPN, section 3.2)."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, images: Tensor) -> Tensor:
        """Repeat channels, (N, C, H, W) to (N, factor² · C, H, W)."""
        return images.repeat(1, self.factor**2, 1, 1)


class DepthToSpace(nn.Module):
    """Rearrange channels into blocks of pixels, in TensorFlow's channel order."""

    def __init__(self, block: int) -> None:
        super().__init__()
        self.block = block

    def forward(self, packed: Tensor) -> Tensor:
        """Rearrange (N, block² · C, H, W) to (N, C, block · H, block · W)."""
        # Whole pixels are moved: fast where channels come last in memory, as in training.
        count, _, height, width = packed.shape
        block = self.block
        blocks = packed.permute(0, 2, 3, 1).reshape(count, height, width, block, -1)
        pixels = blocks.transpose(2, 3).reshape(count, height * block, width * block, -1)
        return pixels.permute(0, 3, 1, 2)


class Interpolate(nn.Module):
    """Upscale by nearest-neighbour or bilinear interpolation, with half-pixel centres."""

    def __init__(self, factor: int, mode: Literal["nearest", "bilinear"]) -> None:
        super().__init__()
        self.factor = factor
        self.mode = mode

    def forward(self, images: Tensor) -> Tensor:
        """Upscale (N, C, H, W) to (N, C, factor · H, factor · W)."""
        return functional.interpolate(images, scale_factor=self.factor, mode=self.mode)


class SquareRoot(nn.Module):
    """The square root, with gradient zero instead of infinity at zero."""

    def forward(self, values: Tensor) -> Tensor:
        """Return the element-wise square root."""
        return values.clamp_min(1e-12).sqrt()


class Clip(nn.Module):
    """Clip values to the range of images, [0, 255]."""

    def forward(self, images: Tensor) -> Tensor:
        """Return the clipped images."""
        return images.clamp(0.0, 255.0)


def upsampler(
    width: int,
    factor: int,
    convolution: Callable[[int, int], nn.Module],
    *,
    before_shuffle: Callable[[], nn.Module] | None = None,
    after_shuffle: Callable[[], nn.Module] | None = None,
) -> nn.Sequential:
    """Build the sub-pixel upsampler of published networks: ×4 is two stages of ×2.

    A stage is a convolution and depth-to-space.

    Args:
        width: Channels of the input and the output.
        factor: 2, 3 or 4.
        convolution: Makes a convolution from its input and output channels.
        before_shuffle: Makes the activation between convolution and depth-to-space.
        after_shuffle: Makes the activation after depth-to-space.
    """
    layers = nn.Sequential()
    for block in [2, 2] if factor == 4 else [factor]:
        layers.append(convolution(width, width * block**2))
        if before_shuffle is not None:
            layers.append(before_shuffle())
        layers.append(DepthToSpace(block))
        if after_shuffle is not None:
            layers.append(after_shuffle())
    return layers
