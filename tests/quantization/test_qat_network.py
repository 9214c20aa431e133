"""Every trainable integer network computes what its exported graph computes, byte for byte."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs anchorsr[train]")

import torch

from anchorsr.errors import GraphError
from anchorsr.graph import operators as ops
from anchorsr.graph.executor import run_graph
from anchorsr.graph.graph import Graph
from anchorsr.networks.inference import to_tensor
from anchorsr.quantization.calibration import choose_quantization, observe_ranges
from anchorsr.quantization.qat_network import IntegerNetwork
from helpers.float_graphs import FloatChain, with_every_operator
from helpers.graphs import image


def residual_form(form: str) -> Graph:
    """The forms of networks.residual_form, small, with weights that fill their ranges."""
    chain = FloatChain(1)
    chain.convolve("images", "first", 6, relu=True)
    last = chain.convolve("first", "second", 6, relu=True)
    if form == "feature_space":
        last = chain.add(ops.Add(("first", "second"), "skipped"))
    packed = chain.convolve(last, "packed", 12, gain=0.3)
    if form == "anchor":
        chain.anchor("images", "anchor", 2)
        packed = chain.add(ops.Add((packed, "anchor"), "sum"))
    large = chain.add(ops.DepthToSpace(packed, "large", 2), 3)
    if form in ("nearest", "bilinear"):
        chain.add(ops.Resize("images", "enlarged", 2, form))  # type: ignore[arg-type]
        large = chain.add(ops.Add((large, "enlarged"), "sum"))
    chain.add(ops.Clip(large, "upscaled", 0.0, 255.0))
    return chain.graph("upscaled")


def small_fsrcnn() -> Graph:
    chain = FloatChain(2)
    chain.convolve("images", "wide", 8, kernel=5)
    slopes = chain.generator.uniform(-0.3, 0.6, (2, 8)).astype(np.float32)
    chain.add(ops.PReLU("wide", "wide_bent", slopes[0]))
    chain.convolve("wide_bent", "narrow", 4, kernel=1)
    chain.add(ops.PReLU("narrow", "narrow_bent", slopes[1, :4]))
    weights = chain.normal(3, 9, 9, 4, gain=0.03)
    chain.add(ops.TransposedConv2D("narrow_bent", "large", weights, chain.normal(3), 3), 3)
    chain.add(ops.Clip("large", "upscaled", 0.0, 255.0))
    return chain.graph("upscaled")


def clipped_features() -> Graph:
    """Clips that saturation does, and one of a tensor that shares a wider scale."""
    chain = FloatChain(4)
    chain.convolve("images", "wide", 6)
    chain.add(ops.Clip("wide", "narrow", 0.0, 30.0))
    chain.add(ops.Clip("wide", "below", -np.inf, 40.0))
    chain.add(ops.Add(("wide", "narrow"), "sum"))
    chain.add(ops.Add(("sum", "below"), "both"))
    chain.convolve("both", "small", 6)
    chain.add(ops.Clip("small", "gate", 0.0, 6.0))
    chain.convolve("gate", "packed", 12, gain=3.0)
    chain.add(ops.DepthToSpace("packed", "large", 2), 3)
    chain.add(ops.Clip("large", "upscaled", 0.0, 255.0))
    return chain.graph("upscaled")


def strided() -> Graph:
    """A convolution and a pool that make images smaller, as in a U-net."""
    chain = FloatChain(5)
    chain.convolve("images", "first", 6, relu=True)
    weights = chain.normal(4, 4, 4, 6, gain=0.1)
    chain.add(ops.Conv2D("first", "low", weights, chain.normal(4), relu=True, stride=2), 4)
    chain.add(ops.Pool2D("first", "pooled", "max", 2, 2), 6)
    chain.add(ops.Concat(("low", "pooled"), "both"), 10)
    chain.convolve("both", "packed", 48, gain=0.3)
    chain.add(ops.DepthToSpace("packed", "large", 4), 3)
    chain.add(ops.Clip("large", "upscaled", 0.0, 255.0))
    return chain.graph("upscaled")


def selection() -> Graph:
    """Two of four features, copied by a 1×1 convolution to a scale of their own."""
    chain = FloatChain(3)
    chain.convolve("images", "four", 4, relu=True)
    weights = np.eye(4, dtype=np.float32)[[2, 0]].reshape(2, 1, 1, 4)
    chain.add(ops.Conv2D("four", "two", weights, np.zeros(2, np.float32)), 2)
    chain.convolve("two", "packed", 12, gain=0.3)
    chain.add(ops.DepthToSpace("packed", "large", 2), 3)
    chain.add(ops.Clip("large", "upscaled", 0.0, 255.0))
    return chain.graph("upscaled")


GRAPHS = {
    form: residual_form(form) for form in ("none", "feature_space", "nearest", "bilinear", "anchor")
}
GRAPHS["fsrcnn"] = small_fsrcnn()
GRAPHS["selection"] = selection()
GRAPHS["clipped features"] = clipped_features()
GRAPHS["strided"] = strided()
GRAPHS["every operator"] = with_every_operator(square_root=False)


def trainable(graph: Graph) -> IntegerNetwork:
    ranges = observe_ranges(graph, [image(0, 24, 24)[0]], 99.9)
    return IntegerNetwork(graph, choose_quantization(graph, ranges))


def train_a_little(network: IntegerNetwork, steps: int) -> list[float]:
    """Towards the image upscaled by repetition."""
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    lr = image(1, 12, 12)
    target = to_tensor(lr.repeat(network.factor, axis=1).repeat(network.factor, axis=2), "cpu")
    losses = []
    for _ in range(steps):
        loss = (network.forward_unclipped(to_tensor(lr, "cpu")) - target).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("name", GRAPHS)
def test_training_forward_equals_the_executor_before_and_after_training(name: str) -> None:
    network = trainable(GRAPHS[name])
    for steps in (0, 3):
        train_a_little(network, steps)
        graph = network.to_graph()
        for size in ((1, 1), (1, 7), (13, 11)):
            images = image(2, *graph.fit(*size))
            with torch.no_grad():
                trained = network(to_tensor(images, "cpu")).permute(0, 2, 3, 1).numpy()
            np.testing.assert_array_equal(trained, run_graph(graph, images))


@pytest.mark.slow
@pytest.mark.parametrize("name", GRAPHS)
def test_gradients_reach_every_parameter_and_the_loss_falls(name: str) -> None:
    network = trainable(GRAPHS[name])
    losses = train_a_little(network, 40)
    silent = [key for key, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert not silent
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.slow
def test_tensors_of_one_scale_learn_it_together() -> None:
    network = trainable(with_every_operator(square_root=False))
    train_a_little(network, 3)
    graph = network.to_graph()
    one, other = (graph.tensors[name].quantization for name in ("narrow", "blurred"))
    assert one == other != network._chosen["narrow"]


def test_a_sum_of_features_at_one_scale_is_a_sum_of_integers() -> None:
    network = trainable(GRAPHS["feature_space"])
    assert set(network.log_scales) & {"first", "second", "skipped"} == {"first"}
    (add,) = [op for op in GRAPHS["feature_space"].operators if isinstance(op, ops.Add)]
    assert network._adds_exactly(add)


@pytest.mark.slow
def test_slopes_are_trained() -> None:
    network = trainable(GRAPHS["fsrcnn"])
    before = {name: slopes.detach().clone() for name, slopes in network.slopes.items()}
    train_a_little(network, 3)
    assert all(bool((network.slopes[name] != slopes).all()) for name, slopes in before.items())


@pytest.mark.slow
def test_a_square_root_cannot_be_trained() -> None:
    network = trainable(with_every_operator())
    with pytest.raises(GraphError, match="SquareRoot cannot be trained"):
        network(torch.zeros(1, 3, 4, 4))


def test_the_gradient_of_a_rounded_sum_is_that_of_the_sum() -> None:
    """With different scales: the gradient of a summand is its scale over the sum's."""
    network = trainable(GRAPHS["feature_space"])
    (add,) = [op for op in network.source.operators if isinstance(op, ops.Add)]
    ones = [torch.full((1, 6, 1, 1), 3.0, requires_grad=True) for _ in add.inputs]
    network._execute(add, ones).sum().backward()
    for values, name in zip(ones, add.inputs, strict=True):
        ratio = network._scale(name) / network._scale(add.output)
        torch.testing.assert_close(values.grad, ratio.detach().expand(1, 6, 1, 1))


@pytest.mark.slow
@pytest.mark.parametrize("pool", ["average", "bilinear"])
def test_what_is_read_at_another_scale_is_brought_to_it_as_in_the_file(pool: str) -> None:
    """A mean or a resize between tensors of one scale: training and file round alike."""
    chain = FloatChain(3)
    chain.convolve("images", "features", 3, gain=4.0)
    if pool == "average":
        chain.add(ops.Pool2D("features", "smooth", "average", 3), 3)
        parts, factor = ("smooth", "features"), 1
    else:
        chain.add(ops.Resize("features", "smooth", 2, "bilinear"), 3)
        chain.add(ops.Resize("features", "blocks", 2, "nearest"), 3)
        parts, factor = ("smooth", "blocks"), 2
    chain.add(ops.Concat((*parts, *parts), "packed"), 12)
    chain.add(ops.DepthToSpace("packed", "large", 2), 3)
    chain.add(ops.Clip("large", "upscaled", 0.0, 255.0))
    graph = chain.graph("upscaled")
    sample = image(2, 12, 10)[0]
    ranges = observe_ranges(graph, [sample], 100)
    network = IntegerNetwork(graph, choose_quantization(graph, ranges))
    with torch.no_grad():
        trained = network(to_tensor(sample[None], "cpu"))[0].permute(1, 2, 0).numpy()
    assert trained.shape[0] == 12 * 2 * factor
    assert np.array_equal(trained, run_graph(network.to_graph(), sample[None])[0])


def test_what_does_not_end_in_an_image_is_not_trained() -> None:
    chain = FloatChain(3)
    chain.convolve("images", "features", 3)
    chain.add(ops.Sigmoid("features", "share"), 3)
    graph = chain.graph("share")
    chosen = choose_quantization(graph, observe_ranges(graph, [image(0, 8, 8)[0]], 100))
    with pytest.raises(GraphError, match="does not end in an image"):
        IntegerNetwork(graph, chosen)
