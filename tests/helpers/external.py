"""Networks that are not anchorsr's, in the styles in which people write them; on [0, 1]."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTH = 8


def conv(inputs: int, outputs: int, size: int = 3, **options) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, padding=size // 2, **options)


class Compact(nn.Module):
    """Plain, with PReLU and PixelShuffle, added to the nearest-neighbour image."""

    def __init__(self, factor: int = 3) -> None:
        super().__init__()
        body = [conv(3, WIDTH), nn.PReLU(WIDTH)]
        for _ in range(2):
            body += [conv(WIDTH, WIDTH), nn.PReLU(WIDTH)]
        self.body = nn.Sequential(*body, conv(WIDTH, 3 * factor**2))
        self.shuffle = nn.PixelShuffle(factor)
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        out = self.shuffle(self.body(x))
        out += functional.interpolate(x, scale_factor=self.factor, mode="nearest")
        return out


class Residual(nn.Module):
    """Residual blocks with a residual scale, a long skip and a shift by the mean colour."""

    def __init__(self, factor: int = 2) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.45, 0.44, 0.4]).view(1, 3, 1, 1))
        self.head = conv(3, WIDTH)
        self.blocks = nn.ModuleList(
            nn.Sequential(conv(WIDTH, WIDTH), nn.ReLU(True), conv(WIDTH, WIDTH)) for _ in range(2)
        )
        self.tail = nn.Sequential(
            conv(WIDTH, WIDTH * factor**2), nn.PixelShuffle(factor), conv(WIDTH, 3)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = first = self.head(x - self.mean)
        for block in self.blocks:
            x = x + 0.2 * block(x)
        return self.tail(x + first) + self.mean


class Dense(nn.Module):
    """Dense connections, 1×1 fusions, LeakyReLU, a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.head = conv(3, WIDTH)
        self.layers = nn.ModuleList(conv(WIDTH * (i + 1), WIDTH) for i in range(3))
        self.act = nn.LeakyReLU(0.1, inplace=True)
        self.fuse = conv(WIDTH * 4, WIDTH, 1)
        self.up = nn.ConvTranspose2d(WIDTH, 3, 4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        features = [self.head(x)]
        for layer in self.layers:
            features.append(self.act(layer(torch.cat(features, dim=1))))
        return torch.clamp(self.up(self.fuse(torch.cat(features, 1))), 0, 1)


class Branches(nn.Module):
    """A block of three branches with batch normalization, as RepVGG is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Sequential(conv(WIDTH, WIDTH, bias=False), nn.BatchNorm2d(WIDTH))
        self.point = nn.Sequential(conv(WIDTH, WIDTH, 1, bias=False), nn.BatchNorm2d(WIDTH))
        self.identity = nn.BatchNorm2d(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.wide(x) + self.point(x) + self.identity(x))


class Reparameterized(nn.Module):
    """Branches that become one convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(3, WIDTH), nn.ReLU(), Branches(), Branches())
        self.tail = nn.Sequential(conv(WIDTH, 12), nn.PixelShuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.body(x)).clamp(0.0, 1.0)


class Collapsing(nn.Module):
    """A kernel that is computed in `forward` from an expanded one."""

    def __init__(self) -> None:
        super().__init__()
        self.expand = nn.Parameter(torch.randn(32, 3, 3, 3) * 0.2)
        self.squeeze = nn.Parameter(torch.randn(WIDTH, 32) * 0.2)
        self.bias = nn.Parameter(torch.zeros(WIDTH))
        self.tail = conv(WIDTH, 27)

    def forward(self, x: Tensor) -> Tensor:
        kernel = torch.einsum("oe,eihw->oihw", self.squeeze, self.expand)
        features = functional.relu6(functional.conv2d(x, kernel, self.bias, padding=1))
        return functional.pixel_shuffle(self.tail(features), 3) + functional.interpolate(
            x, scale_factor=3
        )


class ChannelAttention(nn.Module):
    """Squeeze and excitation in residual blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.head = conv(3, WIDTH)
        self.body = nn.Sequential(conv(WIDTH, WIDTH), nn.ReLU(), conv(WIDTH, WIDTH))
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(WIDTH, 4, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(4, WIDTH, 1),
            nn.Sigmoid(),
        )
        self.tail = nn.Sequential(conv(WIDTH, 12), nn.PixelShuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(x)
        y = self.body(x)
        return self.tail(x + y * self.gate(y))


class PixelAttention(nn.Module):
    """Gates for each pixel, SiLU, and a map of one channel for all channels."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Sequential(conv(3, WIDTH), nn.SiLU())
        self.gate = nn.Sequential(conv(WIDTH, WIDTH, 1), nn.Sigmoid())
        self.map = nn.Sequential(conv(1, 1), nn.Sigmoid())
        self.tail = nn.Sequential(conv(WIDTH, 12), nn.PixelShuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(x)
        x = x * self.gate(x)
        x = x * self.map(torch.mean(x, dim=1, keepdim=True))
        return self.tail(x)


class UNet(nn.Module):
    """Convolutions with stride 2 down, nearest neighbours and convolutions up, skips between."""

    def __init__(self) -> None:
        super().__init__()
        self.head = conv(3, WIDTH)
        self.keys = conv(WIDTH, 2 * WIDTH, stride=2)  # also an attribute of nn.ParameterDict
        self.middle = conv(2 * WIDTH, 2 * WIDTH)
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.join = conv(3 * WIDTH, WIDTH)
        self.tail = nn.Sequential(conv(WIDTH, 12), nn.PixelShuffle(2))
        self.act = nn.LeakyReLU(0.2)

    def forward(self, x: Tensor) -> Tensor:
        first = self.act(self.head(x))
        low = self.act(self.middle(self.act(self.keys(first))))
        return self.tail(self.act(self.join(torch.cat([self.up(low), first], dim=1))))


class PooledUNet(nn.Module):
    """Max pooling down twice, transposed convolutions up, sums between."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList([conv(3, WIDTH), conv(WIDTH, WIDTH), conv(WIDTH, WIDTH)])
        self.pool = nn.MaxPool2d(2)
        self.ups = nn.ModuleList(nn.ConvTranspose2d(WIDTH, WIDTH, 2, 2) for _ in range(2))
        self.tail = nn.Sequential(conv(WIDTH, 27), nn.PixelShuffle(3))

    def forward(self, x: Tensor) -> Tensor:
        one = torch.relu(self.stages[0](x))
        two = torch.relu(self.stages[1](self.pool(one)))
        three = torch.relu(self.stages[2](self.pool(two)))
        two = two + self.ups[0](three)
        return self.tail(one + self.ups[1](two))


class Unshuffled(nn.Module):
    """PixelUnshuffle first, so that features are small; everything is made larger at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.PixelUnshuffle(2), conv(12, WIDTH), nn.Hardswish(), conv(WIDTH, WIDTH), nn.ReLU6()
        )
        self.tail = nn.Sequential(conv(WIDTH, 48), nn.PixelShuffle(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.body(x)).clamp(min=0, max=1)


class Depthwise(nn.Module):
    """Depthwise-separable and dilated convolutions with Hardswish, as in mobile networks."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Sequential(conv(3, WIDTH), nn.Hardswish())
        self.block = nn.Sequential(
            conv(WIDTH, WIDTH, groups=WIDTH),
            nn.ReLU6(inplace=True),
            conv(WIDTH, WIDTH, 1),
            nn.Dropout2d(0.1),
            nn.Conv2d(WIDTH, WIDTH, 3, padding=2, dilation=2),
            nn.ReLU6(),
        )
        self.tail = nn.Sequential(conv(WIDTH, 27), nn.PixelShuffle(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(x)
        return self.tail(x + self.block(x))


class Distillation(nn.Module):
    """Features that are split, with some distilled in each step, and a bilinear image added."""

    def __init__(self) -> None:
        super().__init__()
        self.head = conv(3, WIDTH)
        self.steps = nn.ModuleList(conv(WIDTH - 2 * i, WIDTH) for i in range(2))
        self.act = nn.LeakyReLU(0.05)
        self.fuse = conv(10, WIDTH, 1)
        self.tail = nn.Sequential(conv(WIDTH, 12), nn.PixelShuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        features = self.head(x)
        one, rest = torch.split(self.act(self.steps[0](features)), [2, WIDTH - 2], dim=1)
        last = self.act(self.steps[1](rest))
        out = self.tail(self.fuse(torch.cat([one, last], dim=1)) + features)
        return out + functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


class Anchored(nn.Module):
    """The image repeated along the channels and added before PixelShuffle, as ABPN in PyTorch."""

    def __init__(self, factor: int = 3) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv(3, WIDTH), nn.ReLU(), conv(WIDTH, 3 * factor**2), nn.Hardtanh(0, 6)
        )
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        anchor = torch.repeat_interleave(x, self.factor**2, dim=1)
        return functional.pixel_shuffle(self.body(x) + anchor, self.factor)


class Unshared(nn.Module):
    """No PixelShuffle: features are upscaled by nearest neighbours and convolved at full size."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(3, WIDTH), nn.ReLU(), conv(WIDTH, WIDTH), nn.ReLU())
        self.full = conv(WIDTH, WIDTH)
        self.last = conv(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.interpolate(self.body(x), scale_factor=2, mode="nearest")
        return torch.sigmoid(self.last(functional.leaky_relu(self.full(x), 0.2, inplace=True)))


CONVERTIBLE = (
    Compact,
    Residual,
    Dense,
    Reparameterized,
    Collapsing,
    ChannelAttention,
    PixelAttention,
    UNet,
    PooledUNet,
    Unshuffled,
    Depthwise,
    Distillation,
    Anchored,
    Unshared,
)


class WithLayerNorm(nn.Module):
    """Normalization over channels and attention over pixels, as in transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.head = conv(3, WIDTH)
        self.norm = nn.GroupNorm(1, WIDTH)
        self.tail = nn.Sequential(conv(WIDTH, 12), nn.PixelShuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.norm(self.head(x)))


class WithGELU(WithLayerNorm):
    """An activation without an integer form."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.GELU()


class WithLinear(WithLayerNorm):
    """Squeeze and excitation by linear layers over flattened features."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(x)
        gate = torch.sigmoid(self.fc(x.mean((2, 3)))).view(1, WIDTH, 1, 1)
        return self.tail(x * gate)


class WithReflection(WithLayerNorm):
    """Padding by reflection."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = conv(WIDTH, WIDTH, padding_mode="reflect")


class WithReplication(WithLayerNorm):
    """Padding by the pixels at the edge."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.Sequential(nn.ReplicationPad2d(1), nn.Conv2d(WIDTH, WIDTH, 3))


class WithBicubic(WithLayerNorm):
    """A bicubic image added."""

    def forward(self, x: Tensor) -> Tensor:
        bicubic = functional.interpolate(x, scale_factor=2, mode="bicubic")
        return self.tail(self.head(x)) + bicubic


class WithSizes(WithLayerNorm):
    """A size computed from the image's."""

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        low = functional.avg_pool2d(x, 2)
        return self.tail(self.head(functional.interpolate(low, size=(height, width))))


class WithAttention(WithLayerNorm):
    """Attention over pixels."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(x)
        flat = x.flatten(2)
        return self.tail((torch.softmax(flat @ flat.transpose(1, 2), -1) @ flat).view_as(x))


REFUSED = {
    WithLayerNorm: r"the module norm \(GroupNorm\) .* use nn.BatchNorm2d",
    WithGELU: r"the module norm \(GELU\) .* use nn.ReLU",
    WithLinear: r"the operator mean .* with keepdim=True",
    WithReflection: r"the module norm \(Conv2d\) .* 'reflect' .* use padding_mode='zeros'",
    WithReplication: r"the module norm.0 \(ReplicationPad2d\) .* the padding of the convolution",
    WithBicubic: "the operator interpolate .* bicubic .* use mode='nearest'",
    WithSizes: "getattr.* sizes are not part of a graph",
    WithAttention: "the operator flatten .* use convolutions",
}
