"""The published networks: their parameter counts, and the same image from PyTorch, the graph,
the float `.tflite` and the integer one."""

from functools import cache
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs anchorsr[train]")

import torch
from torch import nn

from anchorsr.engines.runtimes import LiteRT
from anchorsr.errors import RecipeError
from anchorsr.graph import operators as ops
from anchorsr.graph.executor import run_graph
from anchorsr.graph.graph import Graph
from anchorsr.lowering.trace import lower
from anchorsr.networks.registry import NETWORKS, build_network, load_classes
from anchorsr.quantization.calibration import choose_quantization, observe_ranges
from anchorsr.quantization.ptq import apply_quantization
from anchorsr.serialization.tflite.summary import summarize
from anchorsr.serialization.tflite.writer import write_tflite

PUBLISHED = sorted(NETWORKS.keys() - {"abpn", "conditioned_abpn", "residual_form"})
# Published with one colour channel.
LUMA = {"fsrcnn", "vdsr", "drrn", "idn"}


def build(name: str, **options: Any) -> nn.Module:
    """A network whose every parameter does something: as after training, not as at its start."""
    torch.manual_seed(0)
    network = build_network({"name": name, **options})
    with torch.no_grad():
        for key, parameter in network.named_parameters():
            if key.endswith("bias"):
                parameter.normal_(0, 0.02)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
        if name in ("fsrcnn", "srresnet"):  # they start almost black
            last = network.last if name == "fsrcnn" else network.tail[-1]
            last.weight.mul_(10)
            last.bias.fill_(0.5)
    return network.eval()


@cache
def built(name: str, **options: Any) -> tuple[nn.Module, Graph]:
    """Made once for all tests; as published, but for the options, and on RGB at ×3."""
    network = build(name, **options)
    return network, lower(network, name=name)


def image(height: int, width: int, colors: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (1, height, width, colors), np.uint8)


def run_torch(network: nn.Module, images: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        made = network(torch.from_numpy(images.transpose(0, 3, 1, 2).astype(np.float32)))
    return made.numpy().transpose(0, 2, 3, 1)


def count_of(network: nn.Module, *, kernels: bool = False) -> int:
    """How many parameters; kernels: only the weights of convolutions."""
    return sum(p.numel() for p in network.parameters() if p.ndim == 4 or not kernels)


@pytest.mark.parametrize(
    ("name", "options", "kernels", "count", "fixed", "published"),
    [
        ("fsrcnn", {"colors": 1}, True, 12_464, 0, "12.464K"),
        ("vdsr", {"colors": 1}, True, 664_704, 0, "665K"),
        ("drrn", {"colors": 1}, True, 297_216, 0, "297K"),
        ("idn", {"colors": 1}, False, 552_769, 0, "553K"),
        # Each way of the mean colour is a fixed 1×1 convolution, 9 + 3, that tables count.
        ("edsr", {}, False, 1_554_499, 24, "1555K"),
        ("carn", {"multi_scale": True}, False, 1_591_939, 24, "1592K"),
        ("latticenet", {}, False, 764_827, 24, "765K"),
        ("imdn", {}, False, 703_059, 0, "703K"),
        ("srresnet", {"factor": 4}, True, 1_542_528, 0, "1543K"),  # published at ×4 only
        # One more channel at ×3, and two convolutions that clip.
        ("etds", {}, False, 45_691, 9 * 32 + 1 + 28 * 28 + 28, "46.8K"),
        ("etds", {"channels": 16, "blocks": 5}, False, 15_963, 9 * 16 + 1 + 812, "16.9K"),
        ("etds", {"channels": 32, "blocks": 6}, False, 64_187, 9 * 32 + 1 + 812, "65.3K"),
        ("etds", {"channels": 48, "blocks": 7}, False, 158_523, 9 * 48 + 1 + 812, "160K"),
        ("quicksrnet", {"factor": 4}, False, 33_264, 0, "33.3K"),
        ("quicksrnet", {"factor": 4, "blocks": 5}, False, 61_008, 0, "61.0K"),
        ("quicksrnet", {"factor": 4, "channels": 64, "blocks": 11}, False, 435_696, 0, "436K"),
    ],
)
def test_parameter_count_is_the_published_one(
    name: str, options: dict[str, Any], kernels: bool, count: int, fixed: int, published: str
) -> None:
    network = build_network({"name": name, **options})
    assert count_of(network, kernels=kernels) == count
    digits = len(published.partition(".")[2].rstrip("K"))
    assert f"{(count + fixed) / 1000:.{digits}f}K" == published


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("fsrcnn", 24_683),
        ("vdsr", 668_227),
        ("drrn", 302_211),
        ("edsr", 1_554_499),
        ("srresnet", 1_587_523),
        ("carn", 1_148_803),
        ("idn", 590_915),
        ("imdn", 703_059),
        ("latticenet", 764_827),
        ("etds", 45_691),
        ("quicksrnet", 27_195),
    ],
)
def test_parameters_of_the_network_that_runs(name: str, count: int) -> None:
    """At ×3 on RGB, and the same in the graph but for what it folds, shares or adds."""
    network, graph = built(name)
    assert count_of(network) == count
    folded = {
        "srresnet": -(33 * 128),  # batch normalizations
        "latticenet": 16 * 128,  # the mean of two gates: weights and biases of 1×1
        "drrn": 24 * (2 * (128 * 128 * 9 + 128)),  # what 25 units share
    }
    assert graph.parameter_count == count + folded.get(name, 0)


@pytest.mark.parametrize(("channels", "count"), [(16, 13_723), (32, 45_851)])
def test_edge_oriented_blocks_become_plain_convolutions(channels: int, count: int) -> None:
    graph = lower(build("ecbsr", channels=channels), name="ecbsr")
    assert graph.parameter_count == count
    convolutions = [op for op in graph.operators if isinstance(op, ops.Conv2D)]
    assert len(convolutions) == 6 + 1  # and the anchor


def test_streams_of_the_image_do_not_read_features() -> None:
    network = build("etds", channels=8, blocks=2)
    graph = lower(network, name="etds")
    kernels = [op.weights for op in graph.operators if isinstance(op, ops.Conv2D)]
    for kernel in kernels[1:3]:
        assert not kernel[-3:, :, :, :-3].any()
        assert kernel[-3:, :, :, -3:].any()
    images = torch.rand(1, 3, 5, 6) * 255
    fresh = build_network({"name": "etds", "channels": 8, "blocks": 2})
    with torch.no_grad():
        fresh.last.weight[:, :-3] = 0
        nearest = torch.nn.functional.interpolate(images, scale_factor=3)
        torch.testing.assert_close(fresh(images), nearest)


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("size", [(9, 11), (1, 3)])
def test_graph_computes_what_the_network_computes(name: str, size: tuple[int, int]) -> None:
    network, graph = built(name)
    images = image(*size)
    made = run_graph(graph, images.astype(np.float32))
    expected = run_torch(network, images)
    assert made.shape == expected.shape == (1, 3 * size[0], 3 * size[1], 3)
    assert graph.factor == 3
    np.testing.assert_allclose(made, expected, rtol=0, atol=0.01)
    assert made.std() > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("factor", [2, 4])
def test_other_factors_and_colours(name: str, factor: int) -> None:
    colors = 1 if name in LUMA else 3
    options: dict[str, Any] = {"colors": 1} if name in LUMA else {}
    options |= {
        "drrn": {"units": 2},
        "vdsr": {"depth": 4},
        "edsr": {"channels": 16, "blocks": 2},
        "srresnet": {"channels": 16, "blocks": 2},
        "carn": {"channels": 16},
    }.get(name, {})
    network = build(name, factor=factor, **options)
    images = image(5, 7, colors)
    made = run_graph(lower(network, name=name, channels=colors), images.astype(np.float32))
    assert made.shape == (1, 5 * factor, 7 * factor, colors)
    np.testing.assert_allclose(made, run_torch(network, images), rtol=0, atol=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_float_file_computes_what_the_network_computes(name: str) -> None:
    network, graph = built(name)
    images = image(9, 11)
    data = write_tflite(graph, size=(9, 11))
    made = LiteRT(data, 1, np.float32)(images.astype(np.float32))
    np.testing.assert_allclose(made, run_torch(network, images), rtol=0, atol=0.01)
    operators = summarize(data).operators
    assert not {"TRANSPOSE", "CUSTOM"} & set(operators)


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_integer_file_computes_what_the_executor_computes(name: str) -> None:
    # Every unit and layer of these two is like the others, and all of them take long.
    network, graph = built(name, **{"drrn": {"units": 4}, "vdsr": {"depth": 8}}.get(name, {}))
    images = image(9, 11)
    # Rounded, so that the scales are the same on every machine: a result that lies halfway
    # between two integers to the last bit of float32 may go the other way in LiteRT, and attention
    # with random weights makes many levels of that one (docs/experiments/quantization.md).
    ranges = observe_ranges(graph, [images[0]], 99.999)
    rounded = {name: (float(f"{a:.4g}"), float(f"{b:.4g}")) for name, (a, b) in ranges.items()}
    integer = apply_quantization(graph, choose_quantization(graph, rounded))
    assert integer.is_integer
    data = write_tflite(integer, size=(9, 11))
    made = LiteRT(data, 1)(images).astype(int)
    assert np.abs(made - run_graph(integer, images)).max() <= 1
    assert made.std() > 5
    # Rough, with random weights; but it is this network's image.
    assert np.abs(made - run_torch(network, images)).mean() < 0.1 * made.std()
    assert not {"TRANSPOSE", "CUSTOM"} & set(summarize(data).operators)


# Options that make the networks small; the others have none, or are small already.
SMALL: dict[str, dict[str, Any]] = {
    "abpn": {"skip": True, "tail_rank": 5},
    "drrn": {"channels": 16, "units": 2},
    "vdsr": {"channels": 8, "depth": 4},
    "edsr": {"channels": 8, "blocks": 1},
    "srresnet": {"channels": 8, "blocks": 1},
    "carn": {"channels": 8},
    "imdn": {"blocks": 2},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_every_parameter_is_trained(name: str) -> None:
    """Within two steps, and also where an image is black and the contrast of every channel is zero.

    Two, because the filters of an over-parametrized convolution have no gradient in the first step,
    in which their mixing is still zero.
    """
    torch.manual_seed(0)
    network = build_network({"name": name, **SMALL.get(name, {})})
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-6)
    images = torch.rand(2, 3, 8, 8) * 255
    images[1] = 0
    strengths = torch.rand(2, len(network.strengths))
    untrained = dict(network.named_parameters())
    for _ in range(2):
        optimizer.zero_grad()
        upscaled = network.forward_conditioned(images, strengths)
        upscaled.sub(100).abs().mean().backward()
        for key, parameter in network.named_parameters():
            assert parameter.grad is not None, key
            assert parameter.grad.isfinite().all(), key
            if parameter.grad.any():
                untrained.pop(key, None)
        optimizer.step()
    assert not untrained, list(untrained)


def test_recursive_network_runs_the_same_two_convolutions_in_every_unit() -> None:
    graph = lower(build("drrn", channels=4, units=3), name="drrn")
    kernels = [op.weights for op in graph.operators if isinstance(op, ops.Conv2D)]
    assert len(kernels) == 2 + 2 * 3
    for first, second in (kernels[3:5], kernels[5:7]):
        np.testing.assert_array_equal(first, kernels[1])
        np.testing.assert_array_equal(second, kernels[2])


@pytest.mark.slow
def test_attention_works_on_the_scale_of_zero_to_one() -> None:
    """A gate of an image that is 255 times as bright in numbers is not saturated by that."""
    for name in ("imdn", "latticenet"):
        graph = built(name)[1]
        gates = []
        run_graph(
            graph,
            image(9, 11).astype(np.float32),
            observe=lambda made, values, graph=graph, gates=gates: gates.extend(
                values.ravel()
                for operator in graph.operators
                if operator.output == made and isinstance(operator, ops.Sigmoid)
            ),
        )
        gates = np.concatenate(gates)
        assert ((gates > 0.02) & (gates < 0.98)).mean() > 0.9


@pytest.mark.parametrize(("factor", "kernel"), [(2, 10), (3, 9), (4, 10)])
def test_transposed_kernel_is_widened_where_it_cannot_lie_evenly(factor: int, kernel: int) -> None:
    graph = lower(build("fsrcnn", factor=factor), name="fsrcnn")
    (last,) = [op for op in graph.operators if isinstance(op, ops.TransposedConv2D)]
    assert last.weights.shape == (3, kernel, kernel, 56)
    assert not last.weights[:, 9:].any()
    assert not last.weights[:, :, 9:].any()


@pytest.mark.parametrize("name", PUBLISHED)
def test_network_refuses_what_it_is_not_made_for(name: str) -> None:
    with pytest.raises(RecipeError, match="factor is 2, 3 or 4, not 5"):
        build_network({"name": name, "factor": 5})
    for option in ("colors", "channels", "blocks", "units", "depth", "shrunk"):
        if option in load_classes(name)[1].__dataclass_fields__:
            with pytest.raises(RecipeError, match=option):
                build_network({"name": name, option: 0})
