"""ABPN conditioned on degradation strengths: gains and biases follow from them.

Each convolution's outputs are multiplied by a gain and shifted by a bias per image, as in FiLM
(arXiv 1709.07871). A small perceptron computes both from the strengths of the image's degradation
(`data.strengths`). The kernels are the same for all images. For given strengths a gain is a factor
of its filter, so what runs is a plain `ABPN` of the same cost (`ConditionedABPN.fold`). Integer
weights stay the same: they are relative to the largest of their filter, so a gain changes the
filter's scale only.

Without strengths, or where all are zero, gains are 1 and biases are not shifted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from anchorsr.errors import RecipeError
from anchorsr.graph.conditioning import GAIN_BOUND
from anchorsr.networks.abpn import ABPN, ABPNConfig
from anchorsr.networks.layers import Modulation

_LARGEST_EXPONENT = float(GAIN_BOUND)


@dataclass(frozen=True)
class ConditionedABPNConfig(ABPNConfig):
    """The options of the plain network, and those of the conditioning.

    Attributes:
        strengths: Names of the strengths, in the order in which the network takes them.
        hidden: Width of the perceptron between strengths and modulation.
    """

    strengths: tuple[str, ...] = ("jpeg", "noise")
    hidden: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_at_least(1, "hidden")
        if not self.strengths:
            raise RecipeError("strengths names at least one strength")
        if len(set(self.strengths)) < len(self.strengths) or not all(self.strengths):
            raise RecipeError("strengths: a name is empty or repeated")


class ConditionedABPN(ABPN):
    """(N, 3, H, W) RGB on [0, 255] and (N, K) strengths to (N, 3, factor · H, factor · W)."""

    config: ConditionedABPNConfig

    def __init__(self, config: ConditionedABPNConfig) -> None:
        super().__init__(config)
        self.strengths = config.strengths
        widths = [len(convolution.collapsed()[1]) for convolution in self.convolutions]
        self.modulator = Modulator(len(config.strengths), config.hidden, widths)

    def forward_conditioned(self, images: Tensor, strengths: Tensor) -> Tensor:
        """Return the unclipped output for images of given strengths.

        Args:
            images: (N, 3, H, W) RGB on [0, 255].
            strengths: (N, K), in the order of the configuration.
        """
        return self.add_anchor(images, self.residual(images, self.modulator(strengths)))

    @torch.no_grad()
    def fold(self, strengths: Mapping[str, float]) -> ABPN:
        """Return the plain network for images of given strengths.

        Args:
            strengths: By name; those not named are zero.

        Raises:
            RecipeError: The network takes no strength of that name.
        """
        unknown = strengths.keys() - set(self.strengths)
        if unknown:
            raise RecipeError(
                f"the network takes no strength {min(unknown)}; it takes"
                f" {', '.join(self.strengths)}"
            )
        vector = torch.tensor([[float(strengths.get(name, 0.0)) for name in self.strengths]])
        modulations = self.modulator(vector.to(self.modulator.output.weight))
        shared = {field.name for field in dataclasses.fields(ABPNConfig)}
        options: dict[str, Any] = {
            name: value for name, value in dataclasses.asdict(self.config).items() if name in shared
        }
        plain = ABPN(ABPNConfig(**{**options, "expansion": 0}))
        for mine, folded, (gains, biases) in zip(
            self.convolutions, plain.convolutions, modulations, strict=True
        ):
            kernel, bias = mine.collapsed()
            folded.set_kernel(kernel * gains[0, :, None, None, None], bias + biases[0])
        return plain.eval()


class Modulator(nn.Module):
    """A perceptron of one hidden layer: (N, K) strengths to gains and biases of convolutions.

    Gains are exponentials, so none is negative. The last layer is initialized at zero: at first,
    strengths have no effect.

    Args:
        inputs: K, the number of strengths.
        hidden: Width of the hidden layer.
        widths: Output channels of each convolution.
    """

    def __init__(self, inputs: int, hidden: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.widths = list(widths)
        self.hidden = nn.Linear(inputs, hidden)
        self.output = nn.Linear(hidden, 2 * sum(widths), bias=False)
        # The bends of the hidden units cover the range of each strength, [0, 1].
        nn.init.normal_(self.hidden.weight, std=1.5)
        nn.init.uniform_(self.hidden.bias, -1.5, 1.0)
        nn.init.zeros_(self.output.weight)

    def forward(self, strengths: Tensor) -> list[Modulation]:
        """Return a modulation for each convolution."""
        features = functional.silu(self.hidden(strengths)) - functional.silu(self.hidden.bias)
        exponents, biases = self.output(features).chunk(2, dim=1)
        parts = (
            torch.split(tensor, self.widths, dim=1) for tensor in (bounded_exp(exponents), biases)
        )
        return list(zip(*parts, strict=True))


def bounded_exp(exponents: Tensor) -> Tensor:
    """Return the exponentials, in 0.22 to 4.5: exp(b · tanh(x / b)) with b = 1.5."""
    return (_LARGEST_EXPONENT * torch.tanh(exponents / _LARGEST_EXPONENT)).exp()
