"""Networks and their lowering: published figures, receptive field, layers, graph = network."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs anchorsr[train]")

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from anchorsr.errors import RecipeError
from anchorsr.graph import operators as ops
from anchorsr.graph.executor import run_graph
from anchorsr.graph.graph import Graph
from anchorsr.lowering.trace import lower
from anchorsr.metrics import psnr
from anchorsr.networks import layers
from anchorsr.networks.abpn import ABPN, ABPNConfig
from anchorsr.networks.noise import ActivationNoise
from anchorsr.networks.registry import build_network
from anchorsr.networks.reparameterized import Conv3x3

SIZES = [(1, 1), (1, 7), (5, 1), (13, 17), (31, 24)]


def build(seed: int = 0, **options: object) -> ABPN:
    """A network whose every parameter does something: as after training, not as at its start."""
    torch.manual_seed(seed)
    network = build_network({"name": "abpn", **options})
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("mixing"):
                parameter.normal_(0, 0.02)
            if name.endswith("bias"):
                parameter.normal_(0, 0.02)
    return network


def noise(height: int, width: int, seed: int = 0, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(1, channels, height, width, generator=generator) * 255


def to_nhwc(images: Tensor) -> np.ndarray:
    return images.detach().numpy().transpose(0, 2, 3, 1)


def nearest(images: Tensor, factor: int) -> Tensor:
    return images.repeat_interleave(factor, 2).repeat_interleave(factor, 3)


def parameter_count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("factor", "count"),
    [
        # Added up by hand: 3->28, four 28->28, 28->3f², 3f²->3f², weights and biases.
        (2, 784 + 4 * 7_084 + 3_036 + 1_308),  # 33,464
        (3, 42_539),  # the paper's
        (4, 784 + 4 * 7_084 + 12_144 + 20_784),  # 62,048
    ],
)
def test_parameter_count_is_the_published_one(factor: int, count: int) -> None:
    plain = build_network({"name": "abpn", "factor": factor, "expansion": 0})
    assert parameter_count(plain) == count
    # Lowering collapses the expanded kernels; the anchor's copies are not counted.
    graph = lower(build_network({"name": "abpn", "factor": factor}), name="abpn")
    assert graph.parameter_count == count


def test_published_network_costs_what_the_paper_says() -> None:
    graph = lower(ABPN(ABPNConfig()), name="abpn_x3")
    assert graph.macs_per_pixel == 42_345
    assert graph.macs_per_pixel * 360 * 640 == pytest.approx(9.76e9, abs=5e6)
    assert graph.halo == 7
    assert graph.factor == 3
    assert not graph.is_integer


@pytest.mark.parametrize(
    ("body", "image_convolution"), [(4, True), (4, False), (1, True), (0, False)]
)
def test_changed_pixel_reaches_exactly_the_halo(body: int, image_convolution: bool) -> None:
    network = build(body=body, image_convolution=image_convolution, expansion=4).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.abs_()  # no ReLU stops anything, no two paths cancel
    halo = body + 2 + image_convolution
    assert lower(network, name="abpn").halo == halo
    images = noise(23, 25).double()
    changed = images.clone()
    changed[..., 11, 12] += 1
    with torch.no_grad():
        difference = network.forward_unclipped(changed) - network.forward_unclipped(images)
    rows, columns = (difference.abs() > 1e-12).any(1)[0].nonzero().T
    assert (rows.min(), rows.max()) == (3 * (11 - halo), 3 * (11 + halo) + 2)
    assert (columns.min(), columns.max()) == (3 * (12 - halo), 3 * (12 + halo) + 2)
    assert len(rows) == (3 * (2 * halo + 1)) ** 2


@pytest.mark.parametrize("shape", [(3, 1, 5, 3), (3, 5, 1, 3)])
def test_halo_is_that_of_the_longer_side_of_a_kernel(shape: tuple[int, ...]) -> None:
    conv = ops.Conv2D("images", "made", np.zeros(shape, np.float32), np.zeros(3, np.float32))
    color = ops.TensorType(3, "float32")
    graph = Graph("long", {"images": color, "made": color}, [conv], "images", "made")
    assert graph.halo == 2


@pytest.mark.parametrize("size", SIZES)
def test_collapsed_kernel_equals_the_expanded_branches(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    layer = Conv3x3(5, 7, expansion=16).double()
    with torch.no_grad():
        layer.mixing.normal_()
        layer.bias.normal_()
    features = noise(*size, channels=5).double()
    filtered = functional.conv2d(features, layer.filters, padding=1)
    expected = functional.conv2d(features, layer.weight, padding=1)
    expected = expected + functional.conv2d(filtered, layer.mixing[..., None, None])
    expected = expected + 255 * layer.bias[:, None, None]
    torch.testing.assert_close(layer(features), expected)


def test_fresh_expanded_kernel_is_the_plain_one() -> None:
    torch.manual_seed(0)
    expanded = Conv3x3(4, 6, expansion=8)
    torch.manual_seed(0)
    plain = Conv3x3(4, 6, expansion=0)
    torch.testing.assert_close(expanded.kernel(), plain.kernel(), rtol=0, atol=0)
    assert {name for name, _ in plain.named_parameters()} == {"weight", "bias"}
    assert {name for name, _ in expanded.named_parameters()} == {
        "weight",
        "bias",
        "filters",
        "mixing",
    }


def test_rounding_noise_is_half_a_step_of_seven_bits_and_only_in_training() -> None:
    torch.manual_seed(0)
    layer = Conv3x3(3, 8, expansion=4, rounding_noise=True)
    pixel = torch.zeros(1, 3, 3, 3)
    pixel[0, 1, 1, 1] = 1.0  # the output is the filters of channel 1, mirrored
    exact = layer.eval()(pixel)
    drawn = torch.cat([layer.train()(pixel) for _ in range(200)])
    steps = layer.kernel().abs().amax(dim=(1, 2, 3)) / ops.WEIGHT_LIMIT
    off = ((drawn - exact) / steps[:, None, None]).detach()
    assert off.abs().max() <= 0.5001
    assert off.std().item() == pytest.approx(12**-0.5, rel=0.02)
    assert torch.equal(layer.eval()(pixel), exact)


def test_rounding_noise_pulls_at_the_largest_weight_of_a_filter() -> None:
    torch.manual_seed(0)
    layer = Conv3x3(3, 8, expansion=0, rounding_noise=True)
    features = noise(12, 12) - 127.5
    gradient = torch.zeros_like(layer.weight)
    for _ in range(60):
        layer.zero_grad()
        loss = (layer.train()(features) - layer.eval()(features).detach()).square().mean()
        loss.backward()
        assert layer.weight.grad is not None
        gradient += layer.weight.grad
    largest = layer.weight.abs().flatten(1).argmax(1, keepdim=True)
    pulls = (gradient * layer.weight.sign()).flatten(1).gather(1, largest)
    assert pulls.mean() > 0  # down: the steps are parts of it


def test_activation_noise_is_half_a_step_of_eight_bits_and_only_in_training() -> None:
    layer = ActivationNoise()
    features = torch.rand(6, 4, 30, 30) * 51.0
    features[2, 1, 3, 4] = 51.0
    off = (layer.train()(features) - features) * 5  # in steps of 51 / 255
    assert off.abs().max() <= 0.5001
    assert off.std().item() == pytest.approx(12**-0.5, rel=0.05)
    assert torch.equal(layer.eval()(features), features)


def test_noise_of_what_shares_a_scale_is_that_of_the_wider_range() -> None:
    layer = ActivationNoise().train()
    features = torch.rand(6, 4, 30, 30, requires_grad=True)
    layer.share_scale_with(features.detach() * 51)
    off = (layer(features) - features).detach() * 5
    assert off.std().item() == pytest.approx(12**-0.5, rel=0.05)
    layer(features).sum().backward()  # nothing pulls at a range that is not their own
    assert features.grad is not None
    assert torch.equal(features.grad, torch.ones_like(features))
    layer.share_scale_with(features.detach() / 2)
    off = (layer(features) - features).detach() * 255
    assert off.std().item() == pytest.approx(12**-0.5, rel=0.05)


def test_the_first_convolution_has_the_noise_of_the_sum_that_it_is_part_of() -> None:
    shape = {"channels": 4, "body": 2, "image_convolution": False, "skip": True}
    network = build(**shape, activation_noise=True).train()
    sums: list[torch.Tensor] = []
    network.body[-1].register_forward_hook(lambda _, __, made: sums.append(made.relu()))
    firsts: list[torch.Tensor] = []
    network.first_noise.register_forward_hook(lambda _, __, made: firsts.append(made))
    network(torch.rand(2, 3, 9, 9) * 255)
    total = sums[0] + firsts[0]
    assert network.first_noise.least.item() == pytest.approx((total.max() - total.min()).item())


@pytest.mark.parametrize("channels_last", [False, True])
def test_activation_noise_pulls_at_both_ends_of_the_range(channels_last: bool) -> None:
    order = torch.channels_last if channels_last else torch.contiguous_format
    features = torch.randn(4, 3, 5, 6, dtype=torch.float64).to(memory_format=order)
    features.requires_grad_()
    weights = torch.randn_like(features)
    torch.manual_seed(3)
    (ActivationNoise()(features) * weights).sum().backward()
    torch.manual_seed(3)
    pattern = torch.rand_like(features[:1]) - 0.5
    noisy = features + pattern * (features.amax() - features.amin()) / 255
    (wanted,) = torch.autograd.grad((noisy * weights).sum(), features)
    torch.testing.assert_close(features.grad, wanted)


def test_noise_of_training_is_not_lowered() -> None:
    shape = {"channels": 6, "body": 2, "skip": True, "tail_rank": 4}
    noisy = build(**shape, rounding_noise=True, activation_noise=True)
    quiet = build(**shape)
    images = to_nhwc(noise(9, 11))
    assert np.array_equal(
        run_graph(lower(noisy.train(), name="x"), images),
        run_graph(lower(quiet, name="x"), images),
    )
    assert not torch.equal(noisy(noise(9, 11)), noisy(noise(9, 11)))


def test_low_rank_convolution_comes_as_near_as_its_rank_allows() -> None:
    trained = build(body=0, image_convolution=False, expansion=4).last
    features = noise(6, 7, channels=28) - 127
    wanted = trained(features)
    errors = []
    for rank in (5, 20, 27):
        network = build(body=0, image_convolution=False, tail_rank=rank, rounding_noise=True)
        network.last.set_kernel(*trained.collapsed())
        errors.append((network.eval().last(features) - wanted).square().mean().item())
        assert lower(network, name="x").macs_per_pixel == 756 + 28 * 9 * rank + rank * 27
    assert errors[0] > 2 * errors[1] > 1e6 * errors[2]
    torch.manual_seed(0)
    assert not torch.equal(network.train().last(features), network.last(features))


@pytest.mark.parametrize("block", [1, 2, 3, 4])
@pytest.mark.parametrize("channels", [1, 3])
def test_depth_to_space_has_the_order_of_its_documentation(block: int, channels: int) -> None:
    packed = noise(3, 5, channels=channels * block**2).expand(2, -1, -1, -1)
    large = layers.DepthToSpace(block)(packed)
    assert large.shape == (2, channels, 3 * block, 5 * block)
    for n, c, y, x in np.ndindex(*large.shape):
        source = (y % block * block + x % block) * channels + c
        assert large[n, c, y, x] == packed[n, source, y // block, x // block]
    # PyTorch's own order is channel, row, column instead of row, column, channel.
    order = torch.arange(channels * block**2).view(block**2, channels).T.flatten()
    torch.testing.assert_close(large, functional.pixel_shuffle(packed[:, order], block))


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_anchor_alone_is_nearest_neighbour(factor: int) -> None:
    images = noise(5, 7)
    packed = layers.Anchor(factor)(images)
    torch.testing.assert_close(layers.DepthToSpace(factor)(packed), nearest(images, factor))


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_untrained_network_is_nearly_nearest_neighbour(dog: np.ndarray, factor: int) -> None:
    images = torch.from_numpy(dog[:64, :48].transpose(2, 0, 1)[None].astype(np.float32))
    expected = to_nhwc(nearest(images, factor))[0]
    for seed in range(3):
        torch.manual_seed(seed)
        made = to_nhwc(ABPN(ABPNConfig(factor=factor))(images))[0]
        assert made.shape == expected.shape
        assert psnr(made, expected, border=0) > 30


def test_output_is_clipped_and_the_residual_form_is_not() -> None:
    network = build()
    with torch.no_grad():
        network.last.bias.fill_(2)
    bright = network.forward_unclipped(noise(5, 5))
    assert bright.max() > 255
    torch.testing.assert_close(network(noise(5, 5)), bright.clamp(0, 255))


@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize("size", SIZES)
def test_lowered_graph_computes_what_the_network_computes(
    size: tuple[int, int], factor: int
) -> None:
    network = build(seed=factor, factor=factor, channels=12, body=2, expansion=16)
    images = noise(*size)
    made = run_graph(lower(network, name="abpn"), to_nhwc(images))
    assert made.shape == (1, size[0] * factor, size[1] * factor, 3)
    np.testing.assert_allclose(made, to_nhwc(network(images)), rtol=0, atol=1e-3)


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(
    factor=st.integers(2, 4),
    channels=st.integers(1, 9),
    body=st.integers(0, 3),
    image_convolution=st.booleans(),
    skip=st.booleans(),
    expansion=st.integers(0, 5),
    seed=st.integers(0, 1000),
)
def test_every_shape_is_lowered(seed: int, **options: int) -> None:
    options["skip"] = bool(options["skip"] and options["body"])
    network = build(seed, **options)
    images = noise(6, 5, seed)
    graph = lower(network, name="abpn")
    made = run_graph(graph, to_nhwc(images))
    np.testing.assert_allclose(made, to_nhwc(network(images)), rtol=0, atol=1e-3)
    assert graph.halo == options["body"] + 2 + options["image_convolution"]
    assert graph.factor == options["factor"]


def test_full_size_network_is_lowered_to_few_operators() -> None:
    network = build()
    graph = lower(network, name="named")
    assert graph.name == "named"
    kinds = [type(operator) for operator in graph.operators]
    assert kinds.count(ops.Conv2D) == 8  # seven, and the anchor
    assert kinds[-3:] == [ops.Add, ops.DepthToSpace, ops.Clip]
    assert len(kinds) == 11  # each ReLU went into the convolution before it
    relus = [operator.relu for operator in graph.operators if isinstance(operator, ops.Conv2D)]
    assert relus == [True] * 6 + [False] * 2
    images = noise(13, 11)
    made = run_graph(graph, to_nhwc(images))
    np.testing.assert_allclose(made, to_nhwc(network(images)), rtol=0, atol=1e-3)


def test_anchor_is_a_convolution_that_copies() -> None:
    graph = lower(build(), name="abpn")
    sizes = {
        operator.weights.shape: operator
        for operator in graph.operators
        if isinstance(operator, ops.Conv2D)
    }
    anchor = sizes[27, 1, 1, 3]
    assert anchor.input == graph.input
    assert not anchor.bias.any()
    np.testing.assert_array_equal(anchor.weights[:, 0, 0], np.tile(np.eye(3), (9, 1)))


def test_lowering_leaves_the_network_as_it_was() -> None:
    network = build().train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    lower(network, name="abpn")
    assert network.training
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)


def test_grey_network_is_lowered_with_its_channels() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(Conv3x3(1, 4, expansion=0), nn.ReLU(), layers.DepthToSpace(2))
    images = noise(5, 3, channels=1)
    made = run_graph(lower(network, name="grey", channels=1), to_nhwc(images))
    np.testing.assert_allclose(made, to_nhwc(network(images)), rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "choose from: abpn, "),
        ({"name": "vgg"}, "no network 'vgg'"),
        ({"name": "abpn", "width": 28}, "unknown key network.width; known are: factor, channels"),
        ({"name": "abpn", "factor": 5}, "network.factor is 2, 3 or 4, not 5"),
        ({"name": "abpn", "factor": "3"}, "network.factor is int, not '3'"),
        ({"name": "abpn", "channels": 0}, "channels is at least 1, not 0"),
        ({"name": "abpn", "channels": 28.0}, "network.channels is int, not 28.0"),
        ({"name": "abpn", "body": -1}, "network.body is at least 0, not -1"),
        ({"name": "abpn", "skip": True, "body": 0}, "a skip needs a body"),
        ({"name": "abpn", "factor": 2, "tail_rank": 13}, "at most 3 · factor² = 12, not 13"),
        ({"name": "residual_form", "skip": True}, "use form = 'feature_space'"),
        (
            {"name": "residual_form", "form": "feature_space", "body": 0},
            "a skip needs a body",
        ),
        ({"name": ["abpn"]}, "choose from: abpn"),
        ({"name": "abpn", "expansion": -1}, "expansion is at least 0, not -1"),
        ({"name": "abpn", "expansion": True}, "network.expansion is int, not True"),
        ({"name": "abpn", "image_convolution": 1}, "network.image_convolution is bool, not 1"),
    ],
)
def test_unknown_network_or_option_is_refused(options: dict[str, object], message: str) -> None:
    before = dict(options)
    with pytest.raises(RecipeError) as error:
        build_network(options)
    assert message in str(error.value)
    assert options == before
