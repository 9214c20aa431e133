"""ECBSR, "Edge-oriented Convolution Block for Real-time Super Resolution on Mobile Devices".

ACM Multimedia 2021, doi 10.1145/3474085.3475291. M4C16: a 3×3 convolution to 16 channels, four
more, each with PReLU, and one to the channels of depth-to-space; the image is added to each of its
blocks (the anchor). On RGB at ×3 the deployed network has 13,723 parameters; M4C32 has 45,851
(13.7K and 45.9K in ETDS's paper).

Every convolution is trained as an edge-oriented block: the sum of a 3×3 convolution, a 1×1 followed
by a 3×3, and 1×1 convolutions followed by scaled Sobel and Laplacian filters. Here the kernels of
the branches are summed, not their outputs, so that training takes hardly longer than with plain
convolutions. Left out: the biases inside the branches, which together are one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from anchorsr.networks.base import NetworkConfig, RecipeNetwork
from anchorsr.networks.layers import BIAS_UNIT, Anchor, DepthToSpace

# Sobel in both directions, and Laplacian.
_EDGES = (
    ((1, 0, -1), (2, 0, -2), (1, 0, -1)),
    ((1, 2, 1), (0, 0, 0), (-1, -2, -1)),
    ((0, 1, 0), (1, -4, 1), (0, 1, 0)),
)


@dataclass(frozen=True)
class ECBSRConfig(NetworkConfig):
    """The options of ECBSR.

    Attributes:
        channels: Width of the features, C.
        blocks: Blocks between the first and the last, M.
        expansion: Channels between the 1×1 and the 3×3 convolution, over a block's outputs.
    """

    channels: int = 16
    blocks: int = 4
    expansion: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_at_least(1, "channels", "blocks", "expansion")


class EdgeConvolution(nn.Module):
    """An edge-oriented block, as one zero-padded 3×3 convolution.

    Args:
        inputs: Input channels.
        outputs: Output channels.
        expansion: As in `ECBSRConfig`.
    """

    edges: Tensor

    def __init__(self, inputs: int, outputs: int, expansion: int) -> None:
        super().__init__()
        wide = outputs * expansion
        self.weight = nn.Parameter(torch.empty(outputs, inputs, 3, 3))
        self.squeeze = nn.Parameter(torch.empty(wide, inputs))
        self.filters = nn.Parameter(torch.empty(outputs, wide, 3, 3))
        self.mixing = nn.Parameter(torch.empty(len(_EDGES), outputs, inputs))
        self.scales = nn.Parameter(torch.empty(len(_EDGES), outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.register_buffer("edges", torch.tensor(_EDGES, dtype=torch.float32), persistent=False)
        for kernel in (self.weight, self.squeeze, self.filters):
            nn.init.kaiming_uniform_(kernel, a=5**0.5)  # PyTorch's default
        nn.init.uniform_(self.mixing, -(inputs**-0.5), inputs**-0.5)
        nn.init.normal_(self.scales, std=1e-3)

    def kernel(self) -> Tensor:
        """Return the sum of the branches' kernels, (out, in, 3, 3)."""
        wide = torch.einsum("owyx,wi->oiyx", self.filters, self.squeeze)
        edges = torch.einsum("eo,eoi,eyx->oiyx", self.scales, self.mixing, self.edges)
        return self.weight + wide + edges

    def forward(self, features: Tensor) -> Tensor:
        """Convolve features, (N, in, H, W) to (N, out, H, W)."""
        return functional.conv2d(features, self.kernel(), self.bias * BIAS_UNIT, padding=1)


class ECBSR(RecipeNetwork):
    """ECBSR: (N, 3, H, W) on [0, 255] to (N, 3, factor · H, factor · W)."""

    def __init__(self, config: ECBSRConfig) -> None:
        super().__init__(config)
        width, last = config.channels, 3 * config.factor**2
        self.body = nn.Sequential(EdgeConvolution(3, width, config.expansion), nn.PReLU(width))
        for _ in range(config.blocks):
            self.body.extend([EdgeConvolution(width, width, config.expansion), nn.PReLU(width)])
        self.last = EdgeConvolution(width, last, config.expansion)
        self.anchor = Anchor(config.factor)
        self.depth_to_space = DepthToSpace(config.factor)

    def forward_unclipped(self, images: Tensor) -> Tensor:
        """Return the output before it is clipped to [0, 255]."""
        packed = self.last(self.body(images)) + self.anchor(images)
        unclipped: Tensor = self.depth_to_space(packed)
        return unclipped
