"""What a run starts from: the weights of runs or model files, and no dead channels.

A network that grows from a smaller one computes the same as that at first (Net2DeeperNet,
arXiv 1511.05641). Channels that training has left without effect begin anew, as in ReDo
(arXiv 2302.12902): they cost as much as the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from anchorsr.data.pairs import draw_pairs
from anchorsr.errors import CheckpointError, ModelError
from anchorsr.graph.dequantize import dequantize
from anchorsr.graph.graph import Graph
from anchorsr.graph.operators import Conv2D
from anchorsr.models.registry import read_card, read_model
from anchorsr.networks.abpn import ABPN
from anchorsr.networks.conditioned import ConditionedABPN
from anchorsr.networks.layers import Conv3x3, Convolution, LowRankConv3x3, RecipeNetwork
from anchorsr.networks.registry import build_network
from anchorsr.training.checkpoint import load_weights
from anchorsr.training.recipe import Recipe

# A channel's effect is its RMS activation times the norm of the weights that read it. Below this
# part of its layer's mean it is dormant; a guess between ReDo's 0 and 0.1.
_DORMANT = 0.02
# Training images that tell which channels are dormant.
_IMAGES = 16
# LR pixels a side of what is looked at of each: all activations are in memory, 450 MB of them.
_SIDE = 128
# How large a revived channel is that cannot be kept from changing what is computed.
_HINT = 0.05
_NO_MEAN = "initial_weights: networks of different shapes have no mean"
_STRANGER = "initial_weights: that network does not fit this one"
# What has other widths for another factor: the convolution in image space, and the last.
_IMAGE = "the convolution in image space"
_TAIL = (_IMAGE, "last")


def start_from_trained(network: RecipeNetwork, recipe: Recipe) -> None:
    """Give a new network what it can have of the recipe's `initial_weights`.

    Dead channels begin anew if there are steps in which they can learn.
    Raises what `load_initial` and `load_matching_weights` raise, and DataError.
    """
    load_matching_weights(network, _load_all(recipe.initial_weights))
    if isinstance(network, ABPN) and recipe.schedule.steps:
        pairs = draw_pairs(
            [Path(name) for name in recipe.data.folders],
            network.factor,
            patch=recipe.data.patch,
            seed=recipe.seed,
            count=_IMAGES,
        )
        revive(network, (pair.lr[:_SIDE, :_SIDE] for pair in pairs))


def _load_all(names: Sequence[str]) -> list[RecipeNetwork]:
    if len(names) > 1 and any(Path(name).suffix == ".tflite" for name in names):
        raise CheckpointError(
            "initial_weights: a mean is of runs, not of model files, in which each channel can have"
            " another scale"
        )
    return [load_initial(Path(name)) for name in names]


def load_initial(source: Path) -> RecipeNetwork:
    """The network of a run's folder, a weights file, or a `.tflite` with its card beside it.

    Of a `.tflite` the integers become the real numbers that they stand for. Raises
    CheckpointError or ModelError when it is missing, damaged, or of layers that cannot be read
    back from a graph.
    """
    if source.suffix != ".tflite":
        return load_weights(source)
    _, graph = read_model(source)
    card = read_card(source)
    try:
        network = build_network(card["runs"]["float"]["recipe"]["network"])
    except (KeyError, TypeError) as error:
        raise ModelError(f"the card of {source} does not name its network") from error
    _read_back(network, dequantize(graph), source)
    return network.eval()


def load_matching_weights(network: RecipeNetwork, trained: Sequence[RecipeNetwork]) -> None:
    """Take over each 3×3 convolution of the same name and shape, in its collapsed form.

    trained: one network or more; of several the mean is taken (model soups, arXiv 2203.05482),
    which wants runs that went on from the same one.
    What `network` has beyond `trained` changes as little as it can: a convolution more of equal
    widths passes on what it is given, and one of low rank comes as near as its rank allows. The
    last ones begin anew for another factor. A network without such convolutions takes over all
    tensors from one of its own kind and factor, and those of the same name and shape for another.
    Raises CheckpointError when the networks do not fit.
    """
    sources = [dict(_convolutions(one)) for one in trained]
    shapes = [{name: module.widths for name, module in one.items()} for one in sources]
    if any(shape != shapes[0] for shape in shapes):
        raise CheckpointError(_NO_MEAN)
    if not any(shapes):
        _load_tensors(network, trained)
        return
    found = False
    for name, module in _convolutions(network):
        widths = shapes[0].get(name)
        if widths == module.widths:
            module.take_mean([one[name] for one in sources])
            found = True
        elif widths is None and isinstance(module, Conv3x3) and len(set(module.widths)) == 1:
            module.pass_through()
        elif widths is not None and name not in _TAIL:
            raise CheckpointError(
                f"initial_weights: {name} has {widths[0]} to {widths[1]} channels there, and"
                f" {module.widths[0]} to {module.widths[1]} in this network"
            )
    if not found:
        raise CheckpointError(_STRANGER)
    conditioned = [one for one in trained if isinstance(one, ConditionedABPN)]
    if isinstance(network, ConditionedABPN) and conditioned:
        _load_modulator(network, conditioned, len(trained))


@torch.no_grad()
def _load_modulator(
    network: ConditionedABPN, trained: Sequence[ConditionedABPN], count: int
) -> None:
    """Take over, of several networks in the mean, what strengths do."""
    shapes = {(one.strengths, tuple(one.modulator.widths)) for one in [network, *trained]}
    hidden = {one.config.hidden for one in [network, *trained]}
    if len(trained) < count or len(shapes) > 1 or len(hidden) > 1:
        raise CheckpointError(
            "initial_weights: a network that is told strengths starts from a plain one, or from"
            " those of its own shape, with the same strengths and hidden width"
        )
    for name, tensor in network.modulator.state_dict().items():
        states = [one.modulator.state_dict()[name] for one in trained]
        tensor.copy_(torch.stack(states).mean(0))


@torch.no_grad()
def revive(network: ABPN, images: Iterator[npt.NDArray[np.uint8]]) -> int:
    """Give the dormant channels of each convolution new weights; returns how many there were.

    images: LR (H, W, 3) uint8, on which activations are measured. Each dormant channel gets
    random weights, as large as those of its layer in the mean and active on half of the pixels.
    What reads it starts from zero, so that the network computes what it did; but for channels
    under a skip, which share their readers and start small instead.
    """
    training = network.training
    network.eval()  # without noise
    batches = [torch.from_numpy(lr[None]).permute(0, 3, 1, 2).float() for lr in images]
    convolutions = [*network.body, network.last]
    inputs = _inputs_of(convolutions, network, batches)
    revived = 0
    for index, convolution in enumerate(network.body):
        reader = _reader(convolutions, index)
        assert isinstance(convolution, Conv3x3)
        squares = [convolution(features).relu().square() for features in inputs[convolution]]
        read = _squares_of_weights(reader)
        if network.has_skip and index == 0:  # which is read in the sum, too
            read = read + _squares_of_weights(_reader(convolutions, network.config.body))
        effect = (_mean(squares) * read).sqrt()
        dormant = effect <= _DORMANT * effect.mean()
        if not dormant.any() or dormant.all():
            continue
        kernel, bias = (tensor.clone() for tensor in convolution.plain())
        fresh = torch.randn_like(kernel[dormant])
        size = kernel[~dormant].flatten(1).norm(dim=1).mean()
        shared = network.has_skip and index in (0, network.config.body)
        fresh *= size * (_HINT if shared else 1) / fresh.flatten(1).norm(dim=1)[:, None, None, None]
        kernel[dormant], bias[dormant] = fresh, 0
        convolution.compute(kernel, bias)
        before = _mean([convolution(features) for features in inputs[convolution]])
        offset = before / convolution.bias_unit
        convolution.bias.sub_(torch.where(dormant, offset, 0))
        if not shared:
            kernel, bias = (tensor.clone() for tensor in reader.plain())
            kernel[:, dormant] = 0
            reader.compute(kernel, bias)
        revived += int(dormant.sum())
    network.train(training)
    return revived


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
                f"{source}: weights of {name} cannot be read back from the file; start from the"
                " folder of its run"
            )
        kernel = torch.from_numpy(conv.weights.transpose(0, 3, 1, 2).copy())
        if kernel.shape != module.weight.shape:
            raise ModelError(f"the card of {source} names another network: {name} does not fit")
        module.compute(kernel / module.kernel_unit, torch.from_numpy(conv.bias) / module.bias_unit)


def _convolutions(network: nn.Module) -> Iterator[tuple[str, Conv3x3 | LowRankConv3x3]]:
    """The 3×3 convolutions by name; of one of low rank not its parts."""
    in_image_space = None
    if isinstance(network, ABPN) and network.config.image_convolution:
        in_image_space = network.body[-1]  # at any depth
    for name, module in network.named_modules():
        parent = network.get_submodule(name.rpartition(".")[0])
        if isinstance(module, Conv3x3 | LowRankConv3x3) and not isinstance(parent, LowRankConv3x3):
            yield _IMAGE if module is in_image_space else name, module


@torch.no_grad()
def _load_tensors(network: RecipeNetwork, trained: Sequence[RecipeNetwork]) -> None:
    """Those of the same name and shape; of several networks their mean."""
    own = network.state_dict()
    states = [one.state_dict() for one in trained]
    shapes = [{name: tensor.shape for name, tensor in state.items()} for state in states]
    if any(type(one) is not type(network) for one in trained):
        raise CheckpointError(_STRANGER)
    if any(shape != shapes[0] for shape in shapes):
        raise CheckpointError(_NO_MEAN)
    same = [name for name, tensor in own.items() if shapes[0].get(name) == tensor.shape]
    if len(same) < len(own) and trained[0].factor == network.factor:
        raise CheckpointError(_STRANGER)
    for name in same:
        own[name].copy_(torch.stack([state[name].double() for state in states]).mean(0))


def _reader(convolutions: list[nn.Module], index: int) -> Conv3x3:
    """What reads the output of a convolution, or the sum that ends with it."""
    reader = convolutions[index + 1]
    reader = reader.filters if isinstance(reader, LowRankConv3x3) else reader
    assert isinstance(reader, Conv3x3)
    return reader


def _squares_of_weights(reader: Conv3x3) -> Tensor:
    """(C,) sums over what each input channel is multiplied by."""
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
    """(C,) means over the pixels of several (1, C, H, W)."""
    return torch.cat([one.flatten(2) for one in features], dim=2).mean(dim=(0, 2))
