"""Lowering: every module and function that it knows, fusion, and what it refuses by name."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs anchorsr[train]")

import torch
from torch import Tensor, nn
from torch.nn import functional

from anchorsr.errors import GraphError
from anchorsr.graph import operators as ops
from anchorsr.graph.executor import run_graph
from anchorsr.graph.graph import Graph
from anchorsr.lowering.trace import lower
from anchorsr.networks import layers
from anchorsr.networks.registry import build_network
from anchorsr.networks.reparameterized import Conv3x3
from anchorsr.quantization.ptq import quantize_graph
from helpers.graphs import image

CHANNELS = 6


class Custom(nn.Module):
    """A network whose forward is given, with modules to choose from."""

    def __init__(self, forward) -> None:
        super().__init__()
        self.conv = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.other = Conv3x3(CHANNELS, CHANNELS, expansion=0)
        self.relu = nn.ReLU()
        self.inplace = nn.ReLU(inplace=True)
        self.sigmoid = nn.Sigmoid()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.square_root = layers.SquareRoot()
        self.scale = nn.Parameter(torch.ones(()))
        self.tanh = nn.Sequential(nn.Identity(), Tanh())
        self.gelu = nn.Sequential(nn.ReLU(), nn.GELU())
        self.compute = forward

    def forward(self, images: Tensor) -> Tensor:
        return self.compute(self, images)


class Tanh(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return torch.tanh(images)


def noise(height: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(1, CHANNELS, height, width, generator=generator) * 255 - 64


def lowered(network: nn.Module, *, seed: int = 0) -> Graph:
    """The network's graph, which was held against the network on images of odd sizes."""
    torch.manual_seed(seed)
    network.eval()
    graph = lower(network, name="custom", channels=CHANNELS)
    for size in [(9, 11), (1, 5)]:
        images = noise(*size)
        with torch.no_grad():
            expected = network(images).numpy().transpose(0, 2, 3, 1)
        made = run_graph(graph, images.numpy().transpose(0, 2, 3, 1))
        assert made.shape == expected.shape
        np.testing.assert_allclose(made, expected, rtol=1e-5, atol=1e-3)
    return graph


def kinds(graph: Graph) -> list[type]:
    return [type(operator) for operator in graph.operators]


def normalization(channels: int) -> nn.BatchNorm2d:
    """One that has learned something."""
    module = nn.BatchNorm2d(channels)
    with torch.no_grad():
        for values in (module.running_mean, module.bias):
            values.normal_(0, 3)
        for values in (module.running_var, module.weight):
            values.uniform_(0.5, 2)
    return module


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.Conv2d(CHANNELS, 5, 3, padding=1), ops.Conv2D),
        (nn.Conv2d(CHANNELS, 4, (1, 5), padding=(0, 2), bias=False), ops.Conv2D),
        (nn.Conv2d(CHANNELS, 4, 3, padding="same", groups=2), ops.Conv2D),
        (nn.Conv2d(CHANNELS, 2 * CHANNELS, 3, padding=1, groups=CHANNELS), ops.Conv2D),
        (nn.Conv2d(CHANNELS, CHANNELS, 5, padding=2, groups=CHANNELS), ops.DepthwiseConv2D),
        (nn.Conv2d(CHANNELS, CHANNELS, 1, groups=CHANNELS, bias=False), ops.DepthwiseConv2D),
        (layers.Convolution(CHANNELS, 4, 3, input_unit=1, output_unit=7), ops.Conv2D),
        (nn.ConvTranspose2d(CHANNELS, 2, 9, 3, padding=3), ops.TransposedConv2D),
        (nn.ConvTranspose2d(CHANNELS, 2, 2, 2, bias=False), ops.TransposedConv2D),
        (nn.ConvTranspose2d(CHANNELS, 2, 9, 4, padding=3, output_padding=1), ops.TransposedConv2D),
        (layers.TransposedConvolution(CHANNELS, 2, 9, 2), ops.TransposedConv2D),
        (nn.LeakyReLU(0.05), ops.LeakyReLU),
        (nn.PReLU(), ops.PReLU),
        (nn.PReLU(CHANNELS), ops.PReLU),
        (nn.ReLU(), ops.ReLU),
        (nn.Sigmoid(), ops.Sigmoid),
        (normalization(CHANNELS), ops.DepthwiseConv2D),
        (nn.BatchNorm2d(CHANNELS, affine=False), ops.DepthwiseConv2D),
        (nn.MaxPool2d(3, 1, 1), ops.Pool2D),
        (nn.MaxPool2d((5, 5), stride=1, padding=2), ops.Pool2D),
        (nn.AvgPool2d(3, 1, 1, count_include_pad=False), ops.Pool2D),
        (layers.Interpolate(3, "nearest"), ops.Resize),
        (layers.Interpolate(2, "bilinear"), ops.Resize),
        (layers.Clip(), ops.Clip),
        (layers.Anchor(2), ops.Conv2D),
    ],
)
def test_module_is_one_operator(module: nn.Module, expected: type) -> None:
    assert kinds(lowered(nn.Sequential(module))) == [expected]


@pytest.mark.parametrize(
    ("forward", "expected"),
    [
        (lambda self, x: x + self.conv(x), [ops.Conv2D, ops.Add]),
        (lambda self, x: torch.add(x, x), [ops.Add]),
        (lambda self, x: x - self.pool(x), [ops.GlobalAveragePool, ops.Subtract]),
        (lambda self, x: self.pool(x) - x, [ops.GlobalAveragePool, ops.Subtract]),
        (
            lambda self, x: x * self.sigmoid(self.pool(x)),
            [ops.GlobalAveragePool, ops.Sigmoid, ops.Multiply],
        ),
        (lambda self, x: x.mul(other=x), [ops.Multiply]),
        (lambda self, x: x * 0.5, [ops.DepthwiseConv2D]),
        (lambda self, x: 3 * x / 2, [ops.DepthwiseConv2D]),
        (lambda self, x: self.conv(x) * 0.5, [ops.Conv2D]),
        (lambda self, x: self.relu(self.conv(x)) * 0.5, [ops.Conv2D, ops.DepthwiseConv2D]),
        (lambda self, x: x**2, [ops.Multiply]),
        (lambda self, x: x.pow(2) - torch.square(x), [ops.Multiply, ops.Multiply, ops.Subtract]),
        (lambda self, x: x + x.mean((2, 3), keepdim=True), [ops.GlobalAveragePool, ops.Add]),
        (lambda self, x: x + torch.mean(x, [-2, -1], True), [ops.GlobalAveragePool, ops.Add]),
        (
            lambda self, x: x + self.square_root(self.pool(x.square())),
            [ops.Multiply, ops.GlobalAveragePool, ops.SquareRoot, ops.Add],
        ),
        (
            lambda self, x: x - torch.sqrt(self.pool(x * x)),
            [ops.Multiply, ops.GlobalAveragePool, ops.SquareRoot, ops.Subtract],
        ),
        (lambda self, x: torch.sigmoid(x) + x.sigmoid(), [ops.Sigmoid, ops.Sigmoid, ops.Add]),
        (lambda self, x: torch.cat([x, self.conv(x), x], 1), [ops.Conv2D, ops.Concat]),
        (lambda self, x: torch.cat((x, x), dim=-3), [ops.Concat]),
        (lambda self, x: torch.chunk(x, 4, dim=1)[2], [ops.Slice]),
        (lambda self, x: x.chunk(2, 1)[-1], [ops.Slice]),
        (lambda self, x: torch.split(x, 4, dim=1)[1], [ops.Slice]),
        (lambda self, x: x.split([1, 3, 2], 1)[1] * x[:, 3:], [ops.Slice, ops.Slice, ops.Multiply]),
        (lambda self, x: x[:, :-2], [ops.Slice]),
        (lambda self, x: x[:, 1:3, :, :], [ops.Slice]),
        (lambda self, x: functional.relu(x), [ops.ReLU]),
        (lambda self, x: x.relu() + torch.relu(x), [ops.ReLU, ops.ReLU, ops.Add]),
    ],
)
def test_function_is_lowered(forward, expected: list[type]) -> None:
    assert kinds(lowered(Custom(forward))) == expected


@pytest.mark.parametrize(
    ("forward", "expected"),
    [
        (lambda self, x: x + x, []),
        (lambda self, x: x, []),
        (lambda self, x: self.other(x) + x, [False]),
        (lambda self, x: self.relu(self.other(self.relu(self.conv(x)))), [True, True]),
        (lambda self, x: self.relu(self.relu(self.conv(x))), [True]),
        (lambda self, x: self.conv(x).relu() + functional.relu(self.other(x)), [True, True]),
        (lambda self, x: self.inplace(self.conv(x)), [True]),
        # A ReLU that others do not want to see is an operator of its own.
        (lambda self, x: (lambda made: made + self.relu(made))(self.conv(x)), [False]),
        (lambda self, x: self.relu(self.conv(x) + x), [False]),
        # Both branches were made by convolutions; each ReLU finds its own.
        (
            lambda self, x: (lambda a, b: self.relu(a) - self.relu(b))(self.conv(x), self.other(x)),
            [True, True],
        ),
    ],
)
def test_relu_goes_into_the_convolution_that_it_alone_reads(forward, expected: list[bool]) -> None:
    graph = lowered(Custom(forward))
    assert [op.relu for op in graph.operators if isinstance(op, ops.Conv2D)] == expected


@pytest.mark.parametrize("groups", [1, 2, CHANNELS])
def test_normalization_goes_into_the_convolution_before(groups: int) -> None:
    conv = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, groups=groups, bias=groups == 1)
    graph = lowered(nn.Sequential(conv, normalization(CHANNELS), nn.ReLU()))
    (only,) = graph.operators
    assert only.relu


def test_normalization_is_an_operator_where_it_cannot_be_folded() -> None:
    after_relu = nn.Sequential(
        nn.Conv2d(CHANNELS, 4, 1), nn.ReLU(), normalization(4), nn.ReLU(), nn.Conv2d(4, 1, 1)
    )
    graph = lowered(after_relu)
    assert kinds(graph) == [ops.Conv2D, ops.DepthwiseConv2D, ops.Conv2D]
    assert [op.relu for op in graph.operators] == [True, True, False]


def test_graph_keeps_its_numbers_when_the_network_goes_on_training() -> None:
    network = nn.Sequential(nn.Conv2d(CHANNELS, CHANNELS, 1), nn.PReLU(CHANNELS))
    graph = lower(network, name="custom", channels=CHANNELS)
    conv, prelu = graph.operators
    before = [conv.weights.copy(), conv.bias.copy(), prelu.slopes.copy()]
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1)
    for left, right in zip(before, [conv.weights, conv.bias, prelu.slopes], strict=True):
        np.testing.assert_array_equal(left, right)


def test_what_nothing_reads_is_left_away() -> None:
    def forward(self: Custom, x: Tensor) -> Tensor:
        self.sigmoid(self.other(x))
        torch.tanh(x)
        return self.conv(x)

    assert kinds(lowered(Custom(forward))) == [ops.Conv2D]


@pytest.mark.slow
@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize(
    ("form", "tail"),
    [
        ("none", [ops.Conv2D, ops.DepthToSpace]),
        ("feature_space", [ops.Add, ops.Conv2D, ops.Conv2D, ops.DepthToSpace]),
        ("nearest", [ops.Conv2D, ops.DepthToSpace, ops.Resize, ops.Add]),
        ("bilinear", [ops.Conv2D, ops.DepthToSpace, ops.Resize, ops.Add]),
        ("anchor", [ops.Conv2D, ops.Conv2D, ops.Add, ops.DepthToSpace]),
    ],
)
def test_every_residual_form_is_lowered(form: str, tail: list[type], clip: bool) -> None:
    torch.manual_seed(0)
    options = {"form": form, "clip": clip, "channels": 8, "body": 2, "expansion": 4}
    network = build_network({"name": "residual_form", **options})
    with torch.no_grad():
        network.last.bias.fill_(1.2)
        network.last.mixing.normal_(0, 0.1)
    images = torch.rand(1, 3, 9, 11) * 255
    graph = lower(network, name=form)
    made = run_graph(graph, images.numpy().transpose(0, 2, 3, 1))
    expected = network(images).detach().numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(made, expected, atol=1e-3)
    assert (made.max() > 255) == (not clip)
    tail = [*tail, ops.Clip] if clip else tail
    assert kinds(graph)[-len(tail) :] == tail
    assert not any(isinstance(operator, ops.ReLU) for operator in graph.operators)


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (lambda self, x: self.gelu(x), r"the module gelu.1 \(GELU\) cannot be lowered"),
        (
            lambda self, x: self.tanh[1](x),
            r"the operator tanh \(tanh\) in the module tanh.1 cannot be lowered",
        ),
        (lambda self, x: torch.tanh(x), r"the operator tanh \(tanh\) cannot be lowered"),
        (lambda self, x: x + torch.ones(1, 1, 9, 11), r"the operator add .* one number a channel"),
        (lambda self, x: torch.add(x, x, alpha=2), r"the operator add .* other than input, other"),
        (lambda self, x: 1 / x, r"the operator truediv .* only division of a tensor by a number"),
        (lambda self, x: x / x, r"the operator truediv .* only division of a tensor by a number"),
        (lambda self, x: x**3, r"the operator pow .* only the exponent 2"),
        (lambda self, x: x.mean(), r"the operator mean .* only dimensions \(2, 3\)"),
        (lambda self, x: x / 0, "the operator truediv .* divides by zero"),
        (lambda self, x: x.mean((2, 3)), r"the operator mean .* only dimensions \(2, 3\)"),
        (lambda self, x: torch.cat([x, x], 2), r"the operator cat .* along dimension 1"),
        (lambda self, x: torch.cat(x.chunk(2, 1), 1), "the operator cat"),
        (lambda self, x: x.chunk(2, 2)[0], r"the operator chunk .* only dimension 1"),
        (lambda self, x: self.relu(x.chunk(2, 1)), "the module relu .* other than a single tensor"),
        (lambda self, x: x[0], "the operator getitem .* only a range of channels"),
        (lambda self, x: x[:, ::2], "the operator getitem .* only a range of channels"),
        (lambda self, x: x[:, :, 1:], "the operator getitem .* only a range of channels"),
        (lambda self, x: torch.sqrt(x), "the operator sqrt .* works on 1x1 tensors only"),
        (lambda self, x: self.conv(self.pool(x)), r"the module conv \(Conv2d\) .* 1x1 weights"),
        (lambda self, x: self.inplace(x) + x, r"the module inplace \(ReLU\) .* read elsewhere"),
        (lambda self, x: functional.relu(x, True) + x, "the operator relu .* read elsewhere"),
        (lambda self, x: self.inplace(x[:, :3]) + x[:, 3:], "the module inplace .* read elsewhere"),
        (
            lambda self, x: (lambda p: torch.cat([self.inplace(p[1]), p[-1]], 1))(x.chunk(2, 1)),
            "the module inplace .* read elsewhere",
        ),
        (lambda self, x: x.clone().copy_(x), "the operator copy_"),
        (lambda self, x: x + x[:, :2], "the operator add .* number of channels"),
        (lambda self, x: (self.conv(x), x), "returns one tensor"),
        (lambda self, x: x.chunk(2, 1), "returns one tensor"),
        (lambda self, x: x if x.mean() > 9 else self.conv(x), "Custom cannot be lowered"),
    ],
)
def test_function_that_a_graph_cannot_hold_is_named(forward, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        lower(Custom(forward), name="custom", channels=CHANNELS)


@pytest.mark.parametrize(
    "module",
    [
        nn.Conv2d(CHANNELS, 4, 3),
        nn.Conv2d(CHANNELS, 4, 2, padding=1),
        nn.Conv2d(CHANNELS, 4, 3, stride=2),
        nn.Conv2d(CHANNELS, 4, 3, padding=1, stride=(1, 2)),
        nn.Conv2d(CHANNELS, 4, 3, padding=1, dilation=2),
        nn.Conv2d(CHANNELS, 4, 3, padding=1, padding_mode="reflect"),
        nn.ConvTranspose2d(CHANNELS, 4, 4, 2),
        nn.ConvTranspose2d(CHANNELS, 4, 2, 2, groups=2),
        nn.ConvTranspose2d(CHANNELS, 4, (2, 3), (2, 3)),
        nn.BatchNorm2d(CHANNELS, track_running_stats=False),
        nn.InstanceNorm2d(CHANNELS),
        nn.MaxPool2d(3, 2, 1),
        nn.MaxPool2d(3, 1, 1, dilation=2),
        nn.AvgPool2d(3, 1, 1),
        nn.AvgPool2d(3, 1, 1, count_include_pad=False, divisor_override=4),
        nn.AdaptiveAvgPool2d(2),
        nn.PixelShuffle(4),
        layers.DepthToSpace(4),
    ],
)
def test_module_that_a_graph_cannot_hold_is_named(module: nn.Module) -> None:
    expected = rf"the module 1 \({type(module).__name__}\) cannot be lowered"
    with pytest.raises(GraphError, match=expected):
        lower(nn.Sequential(nn.ReLU(), module), name="custom", channels=CHANNELS)


def test_network_of_two_inputs_is_refused() -> None:
    class Two(nn.Module):
        def forward(self, images: Tensor, other: Tensor) -> Tensor:
            return images + other

    with pytest.raises(GraphError, match="one tensor, but other is a second one"):
        lower(Two(), name="two")


@pytest.mark.parametrize(
    "forward",
    [
        lambda self, x: self.conv(x).chunk(chunks=2, dim=1)[1],
        lambda self, x: self.conv(x).split(split_size=4, dim=1)[1],
        lambda self, x: torch.split(self.conv(x), split_size_or_sections=4, dim=1)[0],
        lambda self, x: self.conv(x) * x.mean(dim=(-1, -2), keepdim=True),
        lambda self, x: self.tanh[0](input=self.conv(x)),
        # The parts of one tensor lie apart, so that one may be changed in place.
        lambda self, x: (lambda p: torch.cat([self.inplace(p[0]), p[1]], 1))(
            self.conv(x).chunk(2, 1)
        ),
    ],
)
def test_other_ways_to_say_the_same(forward) -> None:
    network = Custom(forward)
    images = torch.rand(1, CHANNELS, 5, 7) * 2 - 1
    with torch.no_grad():
        expected = network(images.clone()).permute(0, 2, 3, 1).numpy()
    graph = lower(network, name="custom", channels=CHANNELS)
    made = run_graph(graph, images.permute(0, 2, 3, 1).numpy())
    np.testing.assert_allclose(made, expected, atol=1e-5)


def test_an_output_size_of_a_transposed_convolution_is_refused() -> None:
    class Large(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.ConvTranspose2d(3, 3, 4, 2, 1)

        def forward(self, images: Tensor) -> Tensor:
            return self.up(images, [11, 15])

    with pytest.raises(GraphError, match="it is called with an output size"):
        lower(Large(), name="large")


@pytest.mark.parametrize("name", ["images", "image", "upscaled", "keys", "update"])
def test_a_module_may_have_the_name_of_a_tensor_of_ours(name: str) -> None:
    network = nn.Sequential()
    network.add_module(name, nn.Conv2d(3, 3, 3, padding=1))
    network.add_module("last", layers.Clip())
    graph = quantize_graph(lower(network, name="named"), [image(0, 8, 8)[0]])
    assert run_graph(graph, image(1, 8, 8)).shape == (1, 8, 8, 3)


def test_lowering_leaves_frozen_layers_frozen() -> None:
    network = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)).train()
    network[1].eval()
    lower(network, name="frozen")
    assert [module.training for module in network] == [True, False]
