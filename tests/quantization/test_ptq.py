"""Post-training quantization follows the numeric rules, with a small PSNR drop."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("torch", reason="needs anchorsr[train]")

import torch

from anchorsr.errors import DataError, GraphError
from anchorsr.graph import operators as ops
from anchorsr.graph.executor import run_graph
from anchorsr.graph.graph import Graph
from anchorsr.lowering.trace import lower
from anchorsr.metrics import psnr
from anchorsr.networks.abpn import ABPN, ABPNConfig
from anchorsr.networks.registry import build_network
from anchorsr.quantization.calibration import (
    IMAGE,
    RESIDUAL,
    choose_quantization,
    observe_ranges,
    tensor_roles,
)
from anchorsr.quantization.ptq import (
    BIAS_LIMIT,
    apply_quantization,
    quantize_graph,
    quantize_weights,
)
from helpers.graphs import image


def trained_like(factor: int = 3, *, image_convolution: bool = True) -> Graph:
    """A small network whose weights are large enough to fill every range."""
    torch.manual_seed(factor)
    config = ABPNConfig(factor, 8, 2, image_convolution, expansion=0)
    network = ABPN(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return lower(network, name="small")


@pytest.fixture
def images() -> list[npt.NDArray[np.uint8]]:
    return [image(seed, 24, 20)[0] for seed in range(3)]


@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize("image_convolution", [True, False])
def test_integers_stay_close_to_the_float_graph(
    factor: int, image_convolution: bool, images: list[npt.NDArray[np.uint8]]
) -> None:
    graph = trained_like(factor, image_convolution=image_convolution)
    integer = quantize_graph(graph, images)
    expected = run_graph(graph, images[0][None].astype(np.float32))
    actual = run_graph(integer, images[0][None]).astype(float)
    assert np.abs(expected - actual).mean() < 1.5
    assert integer.is_integer and not graph.is_integer


def test_the_numeric_rules_hold(images: list[npt.NDArray[np.uint8]]) -> None:
    integer = quantize_graph(trained_like(), images)
    assert integer.tensors[integer.input].dtype == integer.tensors[integer.output].dtype == "uint8"
    for name in (integer.input, integer.output):
        assert integer.tensors[name].quantization == ops.Quantization(1.0, 0)
    (add,) = (op for op in integer.operators if isinstance(op, ops.Add))
    residual, anchor = (integer.tensors[name].quantization for name in add.inputs)
    assert (residual, anchor) == (RESIDUAL, IMAGE)
    assert integer.tensors[add.output].quantization == IMAGE
    for conv in integer.operators:
        if isinstance(conv, ops.Conv2D):
            assert np.abs(conv.weights.astype(int)).max(axis=(1, 2, 3)).max() == 64
            quantization = integer.tensors[conv.output].quantization
            assert quantization is not None
            assert not conv.relu or quantization.zero_point == -128


def test_the_anchor_is_exact(images: list[npt.NDArray[np.uint8]]) -> None:
    """A network whose residual is zero repeats every pixel exactly."""
    graph = trained_like()
    silent = [
        dataclasses.replace(op, weights=0 * op.weights, bias=0 * op.bias)
        if isinstance(op, ops.Conv2D) and op.weights.shape[1] == 3
        else op
        for op in graph.operators
    ]
    quiet = Graph("quiet", graph.tensors, silent, graph.input, graph.output)
    output = run_graph(quantize_graph(quiet, images), images[0][None])[0]
    np.testing.assert_array_equal(output, images[0].repeat(3, axis=0).repeat(3, axis=1))


def test_saturation_is_the_clip() -> None:
    """Residuals beyond the image's range give 0 and 255, never a wrapped byte."""
    graph = trained_like()
    loud = [
        dataclasses.replace(op, bias=op.bias + np.float32(300) * (-1) ** np.arange(27, dtype=int))
        if isinstance(op, ops.Conv2D) and op is graph.operators[-5]
        else op
        for op in graph.operators
    ]
    loud = [
        dataclasses.replace(op, bias=op.bias.astype(np.float32))
        if isinstance(op, ops.Conv2D)
        else op
        for op in loud
    ]
    noisy = Graph("loud", graph.tensors, loud, graph.input, graph.output)
    flat = np.full((1, 9, 9, 3), 250, np.uint8)
    expected = np.clip(np.rint(run_graph(noisy, flat.astype(np.float32))), 0, 255)
    actual = run_graph(quantize_graph(noisy, [flat[0]]), flat)
    assert set(np.unique(expected)) & {0.0, 255.0}
    assert np.abs(expected - actual).max() <= 128  # a wrapped byte would be off by 256


def test_roles_follow_the_images_through_the_graph() -> None:
    graph = trained_like()
    roles = tensor_roles(graph)
    assert roles[graph.input] == roles[graph.output] == "image"
    assert sorted(set(roles.values())) == ["features", "image", "residual"]
    assert list(roles.values()).count("residual") == 1


def test_ranges_are_the_widest_over_the_images(images: list[npt.NDArray[np.uint8]]) -> None:
    graph = trained_like()
    each = [observe_ranges(graph, [image], 99.9) for image in images]
    together = observe_ranges(graph, images, 99.9)
    for name, (low, high) in together.items():
        assert low == min(ranges[name][0] for ranges in each)
        assert high == max(ranges[name][1] for ranges in each)


def test_weights_are_rounded_to_the_nearest_integer_within_the_limit() -> None:
    weights = np.zeros((2, 3, 3, 4), np.float32)
    weights[0] = np.random.default_rng(0).normal(size=(3, 3, 4))
    bias = np.array([3.5, 0], np.float32)
    integers, integer_bias, scales = quantize_weights(weights, bias, 0.5, 64)
    assert np.abs(integers.astype(int)).max() == 64
    assert np.abs(integers[0] * scales[0] - weights[0]).max() <= scales[0] / 2 * 1.0001
    assert integer_bias[0] == np.rint(bias[0] / (np.float32(0.5) * scales[0]))
    assert not integers[1].any() and scales[1] == scales[0]


def test_a_bias_beyond_what_sums_hold_makes_the_scale_larger() -> None:
    """It would silently wrap at 2^31."""
    weights = np.full((1, 3, 3, 4), 1e-8, np.float32)
    integers, integer_bias, scales = quantize_weights(weights, np.array([20], np.float32), 0.5, 64)
    assert not integers.any()
    assert integer_bias[0] * scales[0] * 0.5 == pytest.approx(20)
    assert abs(int(integer_bias[0])) <= BIAS_LIMIT


def test_a_layer_that_is_almost_dead_is_named(images: list[npt.NDArray[np.uint8]]) -> None:
    graph = trained_like()
    ranges = observe_ranges(graph, images, 100)
    ranges = {name: (0.0, 1e-4) if name == "body_1" else ends for name, ends in ranges.items()}
    with pytest.raises(GraphError, match=r"body_1 would need a multiplier"):
        apply_quantization(graph, choose_quantization(graph, ranges))


def test_calibration_without_images_is_refused() -> None:
    with pytest.raises(DataError, match="at least one image"):
        quantize_graph(trained_like(), [])


def test_an_integer_graph_is_not_quantized_again(images: list[npt.NDArray[np.uint8]]) -> None:
    graph = trained_like()
    chosen = choose_quantization(graph, observe_ranges(graph, images, 100))
    with pytest.raises(GraphError, match="quantized already"):
        apply_quantization(apply_quantization(graph, chosen), chosen)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fsrcnn", "edsr", "carn", "idn", "imdn", "latticenet"])
def test_published_networks_lose_little(name: str) -> None:
    """With untrained weights, which is enough to compare float and integer results."""
    torch.manual_seed(0)
    graph = lower(build_network({"name": name}), name=name)
    image = smooth_image(20, 16)
    expected = np.clip(run_graph(graph, image[None].astype(np.float32)), 0, 255)
    actual = run_graph(quantize_graph(graph, [image], percentile=100), image[None])
    assert psnr(expected[0], actual[0], border=0) > 30


def smooth_image(height: int, width: int) -> npt.NDArray[np.uint8]:
    rows, columns, colors = np.mgrid[0:height, 0:width, 0:3]
    return np.rint(127 + 80 * np.sin(rows / 3 + colors) * np.cos(columns / 4)).astype(np.uint8)
