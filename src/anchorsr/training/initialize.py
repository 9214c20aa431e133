"""Warm starts: initial weights from runs or model files, and inactive channels re-initialized.

A network that grows from a smaller one computes the same as that at first (Net2DeeperNet,
arXiv 1511.05641). Channels that training has left without effect are re-initialized, as in ReDo
(arXiv 2302.12902): they cost as much as the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from anchorsr.data.pairs import Pair
from anchorsr.errors import CheckpointError, ModelError
from anchorsr.graph.dequantize import dequantize
from anchorsr.graph.graph import Graph
from anchorsr.graph.operators import Conv2D
from anchorsr.models.card import read_card
from anchorsr.models.registry import read_model
from anchorsr.networks.abpn import ABPN
from anchorsr.networks.base import RecipeNetwork
from anchorsr.networks.conditioned_abpn import ConditionedABPN
from anchorsr.networks.layers import Convolution
from anchorsr.networks.registry import build_network
from anchorsr.networks.reparameterized import Conv3x3, LowRankConv3x3
from anchorsr.training.checkpoint import load_weights

# A channel's effect is its RMS activation times the norm of the weights that read it. A channel
# below this fraction of its layer's mean is inactive; a guess between ReDo's 0 and 0.1.
_INACTIVE = 0.02
# Number of training images on which activations are measured.
_IMAGES = 16
# LR pixels a side that are used of each: all activations are in memory, 450 MB of them.
_SIDE = 128
# Relative size of new weights that cannot be kept from changing the output.
_SMALL = 0.05
_NO_MEAN = "initial_weights: networks of different shapes cannot be averaged"
_NO_MATCH = "initial_weights: that network does not fit this one"
# These have other widths for another factor: the convolution in image space, and the last.
_IMAGE = "the convolution in image space"
_OUTPUT = (_IMAGE, "last")


def load_initial_networks(names: Sequence[str]) -> list[RecipeNetwork]:
    """Load the networks that a recipe's `initial_weights` names.

    Raises:
        CheckpointError: One cannot be loaded, or a model file is one of several.
        ModelError: A model file cannot be read back.
    """
    if len(names) > 1 and any(Path(name).suffix == ".tflite" for name in names):
        raise CheckpointError(
            "initial_weights: only runs can be averaged, not model files, in which each channel"
            " can have another scale"
        )
    return [load_initial(Path(name)) for name in names]


def load_initial(source: Path) -> RecipeNetwork:
    """Load the network of a run's folder, a weights file, or a `.tflite` with its card beside it.

    The integers of a `.tflite` are dequantized.

    Raises:
        CheckpointError: A run or weights file is missing or damaged.
        ModelError: A model file is missing or damaged, or has layers that cannot be read back
            from a graph.
    """
    return _load_model(source) if source.suffix == ".tflite" else load_weights(source)


def _load_model(source: Path) -> RecipeNetwork:
    """Load the network that a card names, with the weights of the operators of its graph."""
    _, graph = read_model(source)
    card = read_card(source)
    try:
        network = build_network(card.runs["float"]["recipe"]["network"])
    except (KeyError, TypeError) as error:
        raise ModelError(f"the card of {source} does not name its network") from error
    _read_back(network, dequantize(graph), source)
    return network.eval()


def load_matching_weights(network: RecipeNetwork, trained: Sequence[RecipeNetwork]) -> None:
    """Take over each 3×3 convolution of the same name and shape, in its collapsed form.

    What `network` has beyond `trained` changes the output as little as possible: an additional
    convolution of equal widths is an identity, one of low rank is the nearest of its rank, and
    nothing reads additional channels at first (Net2WiderNet, arXiv 1511.05641, with zeros). For
    another factor, the last convolution's filters are interpolated between the pixels of a block;
    one in image space keeps its new weights. A network without such convolutions takes over all
    tensors from one of its own kind and factor, and those of the same name and shape for another
    factor.

    Args:
        network: The network to initialize.
        trained: One network, or several whose mean is taken (model soups, arXiv 2203.05482).
            That works for runs that were initialized from the same one.

    Raises:
        CheckpointError: The networks do not fit.
    """
    sources = [dict(_convolutions(one)) for one in trained]
    shapes = [{name: module.widths for name, module in one.items()} for one in sources]
    if any(shape != shapes[0] for shape in shapes):
        raise CheckpointError(_NO_MEAN)
    if not any(shapes):
        _load_tensors(network, trained)
        return
    found = False
    same_factor = trained[0].factor == network.factor
    has_image_space = _IMAGE in {name for name, _ in _convolutions(network)} | shapes[0].keys()
    for name, module in _convolutions(network):
        layers = [one[name] for one in sources if name in one]
        if not layers:
            if isinstance(module, Conv3x3) and len(set(module.widths)) == 1:
                module.set_identity()
        elif name == "last" and not has_image_space:
            _set_last(module, layers, trained[0].factor, network.factor)
        elif layers[0].widths == module.widths:
            module.set_mean(layers)
            found = True
        elif isinstance(module, Conv3x3) and (same_factor or name not in _OUTPUT):
            _set_wider(module, layers, name)
            found = True
    if not found:
        raise CheckpointError(_NO_MATCH)
    conditioned = [one for one in trained if isinstance(one, ConditionedABPN)]
    if isinstance(network, ConditionedABPN) and conditioned:
        _load_modulator(network, conditioned, len(trained))


@torch.no_grad()
def _set_wider(module: Conv3x3, trained: Sequence[Conv3x3 | LowRankConv3x3], name: str) -> None:
    """Set the mean of narrower layers; more outputs keep new filters, more inputs are not read.

    Raises:
        CheckpointError: A layer is wider than this one.
    """
    inputs, outputs = trained[0].widths
    if inputs > module.widths[0] or outputs > module.widths[1]:
        raise CheckpointError(
            f"initial_weights: {name} has {inputs} to {outputs} channels there, and"
            f" {module.widths[0]} to {module.widths[1]} in this network"
        )
    kernel, bias = (tensor.clone() for tensor in module.collapsed())
    known = [layer.collapsed() for layer in trained]
    kernel[:, inputs:] = 0
    kernel[:outputs, :inputs] = torch.stack([weights for weights, _ in known]).mean(0)
    bias[:outputs] = torch.stack([offsets for _, offsets in known]).mean(0)
    module.set_kernel(kernel, bias)


def _interpolation(present: int, factor: int) -> Tensor:
    """Return (factor, present) weights that interpolate between the places of pixels in a block."""
    if present == 1:
        return torch.ones(factor, 1)
    places = (torch.arange(factor) + 0.5) * (present / factor) - 0.5
    lower = places.floor().clamp(0, present - 2).long()
    weights = torch.zeros(factor, present)
    rows = torch.arange(factor)
    weights[rows, lower] = 1 - (places - lower)
    weights[rows, lower + 1] = places - lower
    return weights


def _to_factor(tensor: Tensor, present: int, factor: int) -> Tensor:
    """Interpolate what belongs to the pixels of a block, (3 · present², ...), between them."""
    places = _interpolation(present, factor)
    block = tensor.reshape(present, present, -1)
    interpolated = torch.einsum("yv,xu,vuc->yxc", places, places, block)
    return interpolated.reshape(-1, *tensor.shape[1:])


@torch.no_grad()
def _set_last(
    module: Conv3x3 | LowRankConv3x3,
    trained: Sequence[Conv3x3 | LowRankConv3x3],
    present: int,
    factor: int,
) -> None:
    """Set the mean of last convolutions, also of narrower networks or those for another factor.

    Args:
        module: The one to set.
        trained: Those of the trained networks.
        present: The factor of the trained networks.
        factor: The factor of the network that `module` belongs to.
    """
    ranks = {one.filters.widths[1] for one in trained if isinstance(one, LowRankConv3x3)}
    rank = max(ranks, default=0)
    if len(ranks) == 1 and isinstance(module, LowRankConv3x3) and rank <= module.filters.widths[1]:
        low_rank = LowRankConv3x3(*trained[0].widths, rank, expansion=0)
        low_rank.set_mean(trained)
        _set_wider(module.filters, [low_rank.filters], "last")
        kernel, bias = low_rank.mixing.collapsed()
        mixing = torch.zeros_like(module.mixing.weight)
        mixing[:, :rank] = _to_factor(kernel, present, factor)
        module.mixing.set_kernel(mixing, _to_factor(bias, present, factor))
    else:
        mean = Conv3x3(*trained[0].widths, expansion=0)
        mean.set_mean(trained)
        kernel, bias = mean.collapsed()
        wider = torch.zeros(*reversed(module.widths), 3, 3)
        wider[:, : kernel.shape[1]] = _to_factor(kernel, present, factor)
        module.set_kernel(wider, _to_factor(bias, present, factor))


@torch.no_grad()
def _load_modulator(
    network: ConditionedABPN, trained: Sequence[ConditionedABPN], count: int
) -> None:
    """Take over the modulator, or the mean of several, if all of `count` networks have one.

    New convolutions and channels are not modulated at first. The modulation of the last
    convolution is interpolated for another factor.
    """
    kinds = {(one.strengths, one.config.hidden) for one in [network, *trained]}
    if len(trained) < count or len(kinds) > 1:
        raise CheckpointError(
            "initial_weights: a conditioned network is initialized from plain ones, or from those"
            " with the same strengths and hidden width"
        )
    for name, tensor in network.modulator.hidden.state_dict().items():
        states = [one.modulator.hidden.state_dict()[name] for one in trained]
        tensor.copy_(torch.stack(states).mean(0))
    sources = [_modulations(one) for one in trained]
    for name, rows in _modulations(network).items():
        known = [source[name] for source in sources if name in source]
        if not known:
            continue
        mean = torch.stack(known).mean(0)
        if name == "last" and trained[0].factor != network.factor:
            mean = torch.stack([_to_factor(one, trained[0].factor, network.factor) for one in mean])
        if mean.shape[1] <= rows.shape[1]:
            rows[:, : mean.shape[1]] = mean


def _modulations(network: ConditionedABPN) -> dict[str, Tensor]:
    """Return the rows of the modulator's output, (2, channels, hidden), of each convolution.

    They are views. The 1×1 of a last convolution of low rank counts as the last.
    """
    names = {module: name for name, module in network.named_modules()}
    order = [names[module].replace("last.mixing", "last") for module in network.convolutions]
    widths = network.modulator.widths
    rows = network.modulator.output.weight.view(2, sum(widths), -1)
    return dict(zip(order, torch.split(rows, widths, dim=1), strict=True))


@torch.no_grad()
def reinitialize_inactive_channels(network: ABPN, pairs: Sequence[Pair], *, seed: int) -> int:
    """Give the inactive channels of each convolution new weights.

    Each gets random weights of the layer's mean norm, and a bias with which it is active on half
    of the pixels. The weights that read it become zero, so the output stays the same. Channels
    under a skip share their readers, and get small weights instead.

    Args:
        network: The network to change.
        pairs: Training pairs; activations are measured on the LR side of up to 16 of them.
        seed: Which of the pairs.

    Returns:
        The number of channels.
    """
    order = np.random.default_rng(seed).permutation(len(pairs))[:_IMAGES]
    images = [torch.from_numpy(pairs[i].lr[None, :_SIDE, :_SIDE]) for i in order]
    training = network.training
    network.eval()  # without noise
    convolutions = [*network.body, network.last]
    inputs = _inputs_of(
        convolutions, network, [image.permute(0, 3, 1, 2).float() for image in images]
    )
    count = 0
    for index, convolution in enumerate(network.body):
        reader = _reader(convolutions, index)
        assert isinstance(convolution, Conv3x3)
        squares = [convolution(features).relu().square() for features in inputs[convolution]]
        read = _squares_of_weights(reader)
        if network.has_skip and index == 0:  # which is read in the sum, too
            read = read + _squares_of_weights(_reader(convolutions, network.config.body))
        effect = (_mean(squares) * read).sqrt()
        inactive = effect <= _INACTIVE * effect.mean()
        if not inactive.any() or inactive.all():
            continue
        kernel, bias = (tensor.clone() for tensor in convolution.collapsed())
        fresh = torch.randn_like(kernel[inactive])
        size = kernel[~inactive].flatten(1).norm(dim=1).mean()
        shared = network.has_skip and index in (0, network.config.body)
        size = size * (_SMALL if shared else 1)
        fresh *= size / fresh.flatten(1).norm(dim=1)[:, None, None, None]
        kernel[inactive], bias[inactive] = fresh, 0
        convolution.set_kernel(kernel, bias)
        before = _mean([convolution(features) for features in inputs[convolution]])
        offset = before / convolution.bias_unit
        convolution.bias.sub_(torch.where(inactive, offset, 0))
        if not shared:
            kernel, bias = (tensor.clone() for tensor in reader.collapsed())
            kernel[:, inactive] = 0
            reader.set_kernel(kernel, bias)
        count += int(inactive.sum())
    network.train(training)
    return count


def _read_back(network: RecipeNetwork, graph: Graph, source: Path) -> None:
    """Give each convolution the weights of the operator that lowering named after it."""
    convolutions = {op.output: op for op in graph.operators if isinstance(op, Conv2D)}
    for name, module in network.named_modules():
        holds_weights = next(module.parameters(recurse=False), None) is not None
        if not holds_weights:
            continue
        conv = convolutions.get(name.replace(".", "_"))
        if not isinstance(module, Conv3x3 | Convolution) or conv is None:
            raise ModelError(
                f"{source}: weights of {name} cannot be read back from the file; give the folder of"
                " its run instead"
            )
        kernel = torch.from_numpy(conv.weights.transpose(0, 3, 1, 2).copy())
        if kernel.shape != module.weight.shape:
            raise ModelError(f"the card of {source} names another network: {name} does not fit")
        module.set_kernel(
            kernel / module.kernel_unit, torch.from_numpy(conv.bias) / module.bias_unit
        )


def _convolutions(network: nn.Module) -> Iterator[tuple[str, Conv3x3 | LowRankConv3x3]]:
    """Yield the 3×3 convolutions by name; one of low rank as a whole."""
    in_image_space = None
    if isinstance(network, ABPN) and network.config.image_convolution:
        in_image_space = network.body[-1]  # at any depth
    for name, module in network.named_modules():
        parent = network.get_submodule(name.rpartition(".")[0])
        if isinstance(module, Conv3x3 | LowRankConv3x3) and not isinstance(parent, LowRankConv3x3):
            yield _IMAGE if module is in_image_space else name, module


@torch.no_grad()
def _load_tensors(network: RecipeNetwork, trained: Sequence[RecipeNetwork]) -> None:
    """Take over the tensors of the same name and shape; of several networks their mean."""
    own = network.state_dict()
    states = [one.state_dict() for one in trained]
    shapes = [{name: tensor.shape for name, tensor in state.items()} for state in states]
    if any(type(one) is not type(network) for one in trained):
        raise CheckpointError(_NO_MATCH)
    if any(shape != shapes[0] for shape in shapes):
        raise CheckpointError(_NO_MEAN)
    same = [name for name, tensor in own.items() if shapes[0].get(name) == tensor.shape]
    if len(same) < len(own) and trained[0].factor == network.factor:
        raise CheckpointError(_NO_MATCH)
    for name in same:
        own[name].copy_(torch.stack([state[name].double() for state in states]).mean(0))


def _reader(convolutions: list[nn.Module], index: int) -> Conv3x3:
    """Return the convolution that reads the output of another, or the sum that ends with it."""
    reader = convolutions[index + 1]
    reader = reader.filters if isinstance(reader, LowRankConv3x3) else reader
    assert isinstance(reader, Conv3x3)
    return reader


def _squares_of_weights(reader: Conv3x3) -> Tensor:
    """Return (C,) sums of squares of the weights that each input channel is multiplied by."""
    return reader.kernel().square().sum(dim=(0, 2, 3))


def _inputs_of(
    convolutions: list[nn.Module], network: ABPN, images: list[Tensor]
) -> dict[nn.Module, list[Tensor]]:
    inputs: dict[nn.Module, list[Tensor]] = {module: [] for module in convolutions}

    def note(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        inputs[module].append(arguments[0])

    hooks = [module.register_forward_pre_hook(note) for module in convolutions]
    for image in images:
        network(image)
    for hook in hooks:
        hook.remove()
    return inputs


def _mean(features: list[Tensor]) -> Tensor:
    """Return (C,) means over the pixels of several (1, C, H, W)."""
    return torch.cat([one.flatten(2) for one in features], dim=2).mean(dim=(0, 2))
