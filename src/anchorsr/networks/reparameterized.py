"""3×3 convolutions whose trained parameters are not the kernel that runs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from anchorsr.networks.layers import BIAS_UNIT, Convolution, Modulation, modulate
from anchorsr.networks.noise import ActivationNoise, add_rounding_noise


class Conv3x3(nn.Module):
    """A zero-padded 3×3 convolution that is over-parametrized in training.

    The kernel is W + P·K, with K of `expansion` 3×3 filters and P a 1×1 convolution of their
    outputs: the collapsible linear block of SESR (arXiv 2103.09404) and ECBSR (ACM MM 2021),
    composed in the kernel and not in the activations, so that training takes hardly longer than
    with a plain convolution. Lowering collapses it.

    P starts at zero: with both factors at full variance, every ReLU can die early. So the gradient
    of K is zero in the first step, and K is trained from the second step on.

    Args:
        inputs: Input channels.
        outputs: Output channels.
        expansion: The number of filters K; 0 for a plain kernel.
        gain: What the initial kernel is multiplied by.
        rounding_noise: Whether training adds `noise.add_rounding_noise` to the kernel.
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
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)  # PyTorch's default
        with torch.no_grad():
            self.weight.mul_(gain)
        if expansion:
            self.filters = nn.Parameter(torch.empty(expansion, inputs, 3, 3))
            self.mixing = nn.Parameter(torch.zeros(outputs, expansion))
            nn.init.kaiming_normal_(self.filters, nonlinearity="linear")
        else:
            self.register_parameter("filters", None)
            self.register_parameter("mixing", None)

    def kernel(self) -> Tensor:
        """Return the collapsed kernel, (out, in, 3, 3)."""
        if self.mixing is None or self.filters is None:
            return self.weight
        return self.weight + (self.mixing @ self.filters.flatten(1)).view_as(self.weight)

    def collapsed(self) -> tuple[Tensor, Tensor]:
        """Return the collapsed kernel, and the bias in units of `BIAS_UNIT`."""
        return self.kernel(), self.bias

    @torch.no_grad()
    def set_kernel(self, kernel: Tensor, bias: Tensor) -> None:
        """Set the kernel, (out, in, 3, 3), and the bias, in units of `BIAS_UNIT`.

        The filters K are kept, and P starts at zero again.
        """
        self.weight.copy_(kernel)
        self.bias.copy_(bias)
        if self.mixing is not None:
            self.mixing.zero_()

    def set_identity(self) -> None:
        """Set the identity; for as many outputs as inputs."""
        self.set_kernel(nn.init.dirac_(torch.empty_like(self.weight)), torch.zeros_like(self.bias))

    def set_mean(self, trained: Sequence[Conv3x3 | LowRankConv3x3]) -> None:
        """Set the mean of the collapsed kernels and biases of layers of the same widths."""
        self.set_kernel(*_mean_of_collapsed(trained))

    def forward(self, features: Tensor, modulation: Modulation | None = None) -> Tensor:
        """Convolve features, (N, in, H, W) to (N, out, H, W), and modulate the output if asked."""
        kernel = self.kernel()
        if self.rounding_noise and self.training:
            kernel = add_rounding_noise(kernel)
        bias = self.bias * self.bias_unit
        if modulation is None:
            return functional.conv2d(features, kernel, bias, padding=1)
        return modulate(functional.conv2d(features, kernel, padding=1), bias, modulation)


class LowRankConv3x3(nn.Module):
    """A 3×3 convolution to `rank` channels, then a 1×1 convolution: cheaper than one 3×3.

    Args:
        inputs: Input channels.
        outputs: Output channels.
        rank: The channels between the two convolutions.
        expansion: As in `Conv3x3`, of the 3×3 convolution.
        gain: What the initial kernels are multiplied by.
        rounding_noise: As in `Conv3x3`, of both kernels.
        activation_noise: Whether the channels between get `ActivationNoise`.
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

    def collapsed(self) -> tuple[Tensor, Tensor]:
        """Return the equivalent single 3×3 kernel, and the bias in units of `BIAS_UNIT`."""
        filters, offsets = self.filters.collapsed()
        mixing = self.mixing.weight[:, :, 0, 0]
        assert self.mixing.bias is not None
        kernel = (mixing @ filters.flatten(1)).view(-1, *filters.shape[1:])
        return kernel, mixing @ offsets + self.mixing.bias

    @torch.no_grad()
    def set_kernel(self, kernel: Tensor, bias: Tensor) -> None:
        """Set the rank-limited kernel that is closest, in squares, to a 3×3 one.

        Args:
            kernel: (out, in, 3, 3).
            bias: (out,) in units of `BIAS_UNIT`.
        """
        left, values, right = torch.linalg.svd(kernel.flatten(1), full_matrices=False)
        rank, inputs = self.filters.weight.shape[:2]
        roots = values[:rank].sqrt()
        filters = (roots[:, None] * right[:rank]).view(rank, inputs, 3, 3)
        self.filters.set_kernel(filters, torch.zeros(rank))
        self.mixing.set_kernel((left[:, :rank] * roots)[:, :, None, None], bias)

    @torch.no_grad()
    def set_mean(self, trained: Sequence[Conv3x3 | LowRankConv3x3]) -> None:
        """Set the mean of layers of the same widths.

        If all are of this layer's rank, each of the two convolutions becomes the mean of theirs.
        The channels between are free up to an invertible mixing, so those of the other layers are
        first aligned with the first layer's, by least squares over the 1×1 kernels. Otherwise the
        result is the closest to the mean of the collapsed kernels.
        """
        layers = [layer for layer in trained if isinstance(layer, LowRankConv3x3)]
        widths = {layer.filters.widths for layer in layers}
        if len(layers) < len(trained) or widths != {self.filters.widths}:
            self.set_kernel(*_mean_of_collapsed(trained))
            return
        kernels: list[Tensor] = []
        offsets: list[Tensor] = []
        mixings: list[Tensor] = []
        biases: list[Tensor] = []
        for layer in layers:
            kernel, offset = layer.filters.collapsed()
            mixing, bias = layer.mixing.weight[:, :, 0, 0], layer.mixing.bias
            assert bias is not None
            if mixings:
                alignment = torch.linalg.lstsq(mixing, mixings[0]).solution
                inverse = torch.linalg.pinv(alignment)
                kernel = (inverse @ kernel.flatten(1)).view_as(kernel)
                offset, mixing = inverse @ offset, mixing @ alignment
            kernels.append(kernel)
            offsets.append(offset)
            mixings.append(mixing)
            biases.append(bias)
        self.filters.set_kernel(_mean(kernels), _mean(offsets))
        self.mixing.set_kernel(_mean(mixings)[:, :, None, None], _mean(biases))

    def forward(
        self,
        features: Tensor,
        modulation: Modulation | None = None,
        mixing_modulation: Modulation | None = None,
    ) -> Tensor:
        """Convolve features, (N, in, H, W) to (N, out, H, W), with a modulation for each kernel."""
        filtered = self.noise(self.filters(features, modulation))
        mixed: Tensor = self.mixing(filtered, mixing_modulation)
        return mixed


def _mean(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(tensors)).mean(0)


def _mean_of_collapsed(trained: Sequence[Conv3x3 | LowRankConv3x3]) -> tuple[Tensor, Tensor]:
    kernels, biases = zip(*(layer.collapsed() for layer in trained), strict=True)
    return _mean(kernels), _mean(biases)
