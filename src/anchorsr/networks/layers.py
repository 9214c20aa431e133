"""The layers that networks are made of beside PyTorch's own; each lowers to one graph operator.

Tensors are (N, C, H, W) float RGB on [0, 255]. Channels that hold a factor × factor block of
pixels are in TensorFlow's order, (dy * factor + dx) * C + c, not in PyTorch's PixelShuffle
order, so that lowering needs no permutation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from anchorsr.errors import RecipeError
from anchorsr.networks.activation_noise import ActivationNoise

# Biases are stored divided by this, so that one optimizer step means the same for biases
# and kernels although images are on [0, 255].
BIAS_UNIT = 255.0

# What the largest weight of a filter becomes in integers (`quantize.WEIGHT_LIMIT`).
_LARGEST_INTEGER = 64

# What a convolution's outputs are multiplied by and moved by, image by image: (N, C) gains, and
# (N, C) biases in `BIAS_UNIT` (see `conditioned`).
Modulation: TypeAlias = tuple[Tensor, Tensor]


class Trainable(nn.Module):
    """What can be trained: (N, 3, H, W) on [0, 255] to (N, 3, factor · H, factor · W).

    strengths: names of what a network is told about each image (see `conditioned`).
    """

    factor: int
    strengths: tuple[str, ...] = ()

    def forward_unclipped(self, images: Tensor) -> Tensor:
        """The output before its values are limited to [0, 255]."""
        raise NotImplementedError

    def forward_conditioned(self, images: Tensor, strengths: Tensor) -> Tensor:
        """The same for images of these strengths, (N, len(self.strengths))."""
        return self.forward_unclipped(images)


@dataclass(frozen=True)
class NetworkConfig:
    """What every network's options begin with."""

    factor: int = 3

    def __post_init__(self) -> None:
        if self.factor not in (2, 3, 4):
            raise RecipeError(f"factor is 2, 3 or 4, not {self.factor}")


@dataclass(frozen=True)
class LumaConfig(NetworkConfig):
    """Of a network that was published for luma; colors: 3, or 1 as published."""

    colors: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.colors not in (1, 3):
            raise RecipeError(f"colors is 1 or 3, not {self.colors}")


class RecipeNetwork(Trainable):
    """One that a recipe names; `config` is the dataclass that its options were read into."""

    config: Any

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.factor = config.factor
        self.clip = Clip()

    def forward(self, images: Tensor) -> Tensor:
        clipped: Tensor = self.clip(self.forward_unclipped(images))
        return clipped


class Conv3x3(nn.Module):
    """A 3×3 convolution, zero padded, whose kernel is trained over-parametrized.

    The kernel that runs is W + P·K, with K of `expansion` 3×3 filters and P a 1×1 mixing of
    them: the linear block of SESR (arXiv 2103.09404) and ECBSR (ACM MM 2021), composed in
    the kernel and not in the activations, so that training costs hardly more than a plain
    convolution. expansion=0 trains the plain kernel.

    rounding_noise: while training, each weight is off by up to half a step of the integers that
    it will be rounded to. What is learned then bears rounding, and because the steps are parts of
    a filter's largest weight, that weight is kept small.
    """

    kernel_unit, bias_unit = 1.0, BIAS_UNIT

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        expansion: int,
        gain: float = 1.0,
        rounding_noise: bool = False,
    ) -> None:
        super().__init__()
        self.widths = (inputs, outputs)
        self.rounding_noise = rounding_noise
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

    def plain(self) -> tuple[Tensor, Tensor]:
        """The kernel that runs and the bias in `BIAS_UNIT`."""
        return self.kernel(), self.bias

    def take_mean(self, trained: Sequence[Conv3x3 | LowRankConv3x3]) -> None:
        """Compute with the mean kernel of several of these widths; this one's filters stay."""
        self.compute(*_mean_of_plain(trained))

    def pass_through(self) -> None:
        """Compute the identity; for as many outputs as inputs."""
        self.compute(nn.init.dirac_(torch.empty_like(self.weight)), torch.zeros_like(self.bias))

    @torch.no_grad()
    def compute(self, kernel: Tensor, bias: Tensor) -> None:
        """Compute what a plain kernel (out, in, 3, 3) and a bias in `BIAS_UNIT` compute."""
        self.weight.copy_(kernel)
        self.bias.copy_(bias)
        if self.mixing is not None:
            self.mixing.zero_()

    def forward(self, features: Tensor, modulation: Modulation | None = None) -> Tensor:
        kernel = self.kernel()
        if self.rounding_noise and self.training:
            kernel = _as_if_rounded(kernel)
        bias = self.bias * self.bias_unit
        if modulation is None:
            return functional.conv2d(features, kernel, bias, padding=1)
        return modulate(functional.conv2d(features, kernel, padding=1), bias, modulation)


def modulate(features: Tensor, bias: Tensor, modulation: Modulation) -> Tensor:
    """Multiply (N, C, H, W) by the gains, and add a bias (C,) and the biases."""
    gains, biases = modulation
    moved = bias + biases * BIAS_UNIT
    return torch.addcmul(moved[:, :, None, None], features, gains[:, :, None, None])


def _as_if_rounded(kernel: Tensor) -> Tensor:
    """Each weight off by up to half a step of its filter's integers."""
    steps = kernel.abs().amax(dim=(1, 2, 3), keepdim=True) / _LARGEST_INTEGER
    return kernel + steps * (torch.rand_like(kernel) - 0.5)


class LowRankConv3x3(nn.Module):
    """A 3×3 convolution to `rank` channels and a 1×1 convolution of those: cheaper than one 3×3.

    expansion: of the 3×3 kernel; rounding_noise: of both kernels, as in `Conv3x3`;
    activation_noise: the channels between have `ActivationNoise`.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        rank: int,
        *,
        expansion: int,
        gain: float = 1.0,
        rounding_noise: bool = False,
        activation_noise: bool = False,
    ) -> None:
        super().__init__()
        self.widths = (inputs, outputs)
        self.filters = Conv3x3(inputs, rank, expansion=expansion, rounding_noise=rounding_noise)
        self.noise = ActivationNoise() if activation_noise else nn.Identity()
        self.mixing = Convolution(rank, outputs, 1, gain=0.7 * gain, rounding_noise=rounding_noise)

    def plain(self) -> tuple[Tensor, Tensor]:
        """The one 3×3 kernel that computes the same, and the bias in `BIAS_UNIT`."""
        filters, offsets = self.filters.plain()
        mixing = self.mixing.weight[:, :, 0, 0]
        assert self.mixing.bias is not None
        kernel = (mixing @ filters.flatten(1)).view(-1, *filters.shape[1:])
        return kernel, mixing @ offsets + self.mixing.bias

    @torch.no_grad()
    def take_mean(self, trained: Sequence[Conv3x3 | LowRankConv3x3]) -> None:
        """The mean of both parts of several, of one the same, where all have this one's rank.

        The channels between the parts can be mixed at will, so those of the others are first
        brought as near to those of the first one as their second parts allow. Of others it
        computes what comes nearest to their mean kernel.
        """
        parts = [one for one in trained if isinstance(one, LowRankConv3x3)]
        ranks = {one.filters.widths for one in parts}
        if len(parts) < len(trained) or ranks != {self.filters.widths}:
            self.compute(*_mean_of_plain(trained))
            return
        kernels: list[Tensor] = []
        offsets: list[Tensor] = []
        mixings: list[Tensor] = []
        biases: list[Tensor] = []
        for one in parts:
            kernel, offset = one.filters.plain()
            mixing, bias = one.mixing.weight[:, :, 0, 0], one.mixing.bias
            assert bias is not None
            if mixings:
                change = torch.linalg.lstsq(mixing, mixings[0]).solution
                back = torch.linalg.pinv(change)
                kernel = (back @ kernel.flatten(1)).view_as(kernel)
                offset, mixing = back @ offset, mixing @ change
            kernels.append(kernel)
            offsets.append(offset)
            mixings.append(mixing)
            biases.append(bias)
        self.filters.compute(_mean(kernels), _mean(offsets))
        self.mixing.compute(_mean(mixings)[:, :, None, None], _mean(biases))

    @torch.no_grad()
    def compute(self, kernel: Tensor, bias: Tensor) -> None:
        """Compute what comes nearest, in squares of weights, to what these compute in `Conv3x3`."""
        left, values, right = torch.linalg.svd(kernel.flatten(1), full_matrices=False)
        rank, inputs = self.filters.weight.shape[:2]
        roots = values[:rank].sqrt()
        filters = (roots[:, None] * right[:rank]).view(rank, inputs, 3, 3)
        self.filters.compute(filters, torch.zeros(rank))
        self.mixing.compute((left[:, :rank] * roots)[:, :, None, None], bias)

    def forward(
        self,
        features: Tensor,
        modulation: Modulation | None = None,
        modulation_of_mixing: Modulation | None = None,
    ) -> Tensor:
        filtered = self.noise(self.filters(features, modulation))
        mixed: Tensor = self.mixing(filtered, modulation_of_mixing)
        return mixed


def _mean(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(tensors)).mean(0)


def _mean_of_plain(trained: Sequence[Conv3x3 | LowRankConv3x3]) -> tuple[Tensor, Tensor]:
    kernels, biases = zip(*(one.plain() for one in trained), strict=True)
    return _mean(kernels), _mean(biases)


class Convolution(nn.Conv2d):
    """A size × size convolution of stride 1, zero padded to keep height and width.

    What is stored is what a network of features on [0, 1] would have. A unit is what its 1.0
    stands for: 255 in features on the scale of images, 1 where a function that is not
    homogeneous, such as a sigmoid, was published for [0, 1]. Kernels start as He's times `gain`,
    which is 0.7 where no ReLU comes before, so that features keep their scale; biases at zero.
    rounding_noise: as in `Conv3x3`.
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

    def plain(self) -> tuple[Tensor, Tensor]:
        """The kernel in `kernel_unit` and the bias in `bias_unit`."""
        assert self.bias is not None
        return self.weight, self.bias

    def running(self) -> tuple[Tensor, Tensor]:
        """The kernel and the bias that run."""
        assert self.bias is not None
        return self.weight * self.kernel_unit, self.bias * self.bias_unit

    @torch.no_grad()
    def compute(self, kernel: Tensor, bias: Tensor) -> None:
        """Compute what a kernel in `kernel_unit` and a bias in `bias_unit` compute."""
        assert self.bias is not None
        self.weight.copy_(kernel)
        self.bias.copy_(bias)

    def forward(self, features: Tensor, modulation: Modulation | None = None) -> Tensor:
        kernel, bias = self.running()
        if self.rounding_noise and self.training:
            kernel = _as_if_rounded(kernel)
        padding = self.kernel_size[0] // 2
        if modulation is None:
            return functional.conv2d(features, kernel, bias, padding=padding, groups=self.groups)
        convolved = functional.conv2d(features, kernel, padding=padding, groups=self.groups)
        return modulate(convolved, bias, modulation)


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

    def running(self) -> tuple[Tensor, Tensor]:
        """The kernel and the bias that run."""
        assert self.bias is not None
        return self.weight, self.bias * BIAS_UNIT

    def forward(self, features: Tensor, output_size: list[int] | None = None) -> Tensor:
        kernel, bias = self.running()
        return functional.conv_transpose2d(
            features, kernel, bias, self.stride, self.cut, self.output_padding
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
        # Whole pixels are moved: quick where channels come last in memory, as in training.
        count, _, height, width = packed.shape
        block = self.block
        blocks = packed.permute(0, 2, 3, 1).reshape(count, height, width, block, -1)
        pixels = blocks.transpose(2, 3).reshape(count, height * block, width * block, -1)
        return pixels.permute(0, 3, 1, 2)


class Enlarge(nn.Module):
    """(N, C, H, W) to (N, C, factor · H, factor · W), interpolated; pixel centres at halves."""

    def __init__(self, factor: int, mode: Literal["nearest", "bilinear"]) -> None:
        super().__init__()
        self.factor = factor
        self.mode = mode

    def forward(self, images: Tensor) -> Tensor:
        return functional.interpolate(images, scale_factor=self.factor, mode=self.mode)


class SquareRoot(nn.Module):
    """The square root, whose gradient at zero is zero instead of infinite."""

    def forward(self, values: Tensor) -> Tensor:
        return values.clamp_min(1e-12).sqrt()


class Clip(nn.Module):
    """Values limited to the range of an image, [0, 255]."""

    def forward(self, images: Tensor) -> Tensor:
        return images.clamp(0.0, 255.0)


def sub_pixel_stages(factor: int) -> list[int]:
    """The blocks of the depth-to-space steps that published networks enlarge by: 4 is 2 twice."""
    return [2, 2] if factor == 4 else [factor]
