"""Warm starts from a run, a model file or a smaller network; inactive channels re-initialized."""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs anchorsr[train]")

import torch

from anchorsr.data.pairs import Pair
from anchorsr.errors import CheckpointError, ModelError
from anchorsr.graph.executor import run_graph
from anchorsr.images.io import RasterImage, write_image
from anchorsr.lowering.trace import lower
from anchorsr.models.card import ModelCard, write_card
from anchorsr.models.registry import list_models, read_model, takes_strengths
from anchorsr.networks.abpn import ABPN, ABPNConfig
from anchorsr.networks.base import RecipeNetwork
from anchorsr.networks.inference import upscale_float
from anchorsr.networks.registry import build_network
from anchorsr.networks.residual_form import ResidualForm, ResidualFormConfig
from anchorsr.quantization.ptq import quantize_graph
from anchorsr.serialization.tflite.writer import needs_size, write_tflite
from anchorsr.training.initialize import (
    load_initial,
    load_matching_weights,
    reinitialize_inactive_channels,
)
from anchorsr.training.recipe import Recipe
from anchorsr.training.trainer import train
from anchorsr.utils.config import parse_table

SHIPPED = [model.path for model in list_models()]


def write_model(
    network: RecipeNetwork, name: str, folder: Path, photograph: np.ndarray, **changes: int
) -> Path:
    """Write the integers of a network, and what `load_initial` reads of a card."""
    path = folder / "model.tflite"
    graph = quantize_graph(lower(network, name=name), [photograph])
    path.write_bytes(write_tflite(graph, size=photograph.shape[:2] if needs_size(graph) else None))
    options = {"name": name, "factor": network.factor, **changes}
    runs = {"float": {"recipe": {"network": options}}}
    card = ModelCard.of_file(path.read_bytes(), graph, figures=[], runs=runs)
    write_card(path.with_suffix(".json"), card, overwrite=True)
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", [path for path in SHIPPED if not takes_strengths(path)], ids=lambda path: path.stem
)
def test_a_shipped_model_is_read_back_as_what_its_integers_stand_for(
    path: Path, dog: np.ndarray
) -> None:
    dog = dog[40:104, 60:140]
    network = load_initial(path)
    _, graph = read_model(path)
    integers = run_graph(graph, dog[None])[0].astype(int)
    difference = np.abs(upscale_float(network, dog).astype(int) - integers)
    assert difference.mean() < 0.5  # rounding of activations
    assert difference.max() < 24


@pytest.mark.slow
def test_a_new_network_starts_as_the_model_file_that_its_recipe_names(
    tmp_path: Path, dog: np.ndarray
) -> None:
    """Except channels that have no effect on these images, which are re-initialized."""
    (tmp_path / "images").mkdir()
    write_image(tmp_path / "images/dog.png", RasterImage(dog[:120, :120]))
    path = next(path for path in SHIPPED if path.stem == "quality_x3")
    trained = load_initial(path)
    table = {
        "network": {"name": "abpn", **dataclasses.asdict(trained.config)},
        "data": {"folders": [str(tmp_path / "images")], "patch": 16, "batch": 1},
        "schedule": {"steps": 1},
        "optimizer": {"learning_rate": 1e-9},
        "initial_weights": str(path),
    }
    network = train(parse_table(Recipe, table, ""), tmp_path / "run").network
    dog = dog[:60, :80]
    difference = upscale_float(network, dog).astype(int) - upscale_float(trained, dog)
    assert np.abs(difference).mean() < 0.5


def test_what_cannot_be_read_back_is_named(tmp_path: Path, dog: np.ndarray) -> None:
    shutil.copy(SHIPPED[0], tmp_path / "bare.tflite")
    with pytest.raises(ModelError, match="has no card beside it"):
        load_initial(tmp_path / "bare.tflite")
    data, graph = read_model(tmp_path / "bare.tflite")
    card = ModelCard.of_file(data, graph, figures=[], runs={})
    write_card(tmp_path / "bare.json", card, overwrite=False)
    with pytest.raises(ModelError, match="does not name its network"):
        load_initial(tmp_path / "bare.tflite")
    with pytest.raises(ModelError, match="does not exist"):
        load_initial(tmp_path / "missing.tflite")
    network = build_network({"name": "fsrcnn", "factor": 2}).eval()
    with pytest.raises(ModelError, match=r"weights of .* cannot be read back"):
        load_initial(write_model(network, "fsrcnn", tmp_path, dog[:32, :32]))


def test_another_network_of_convolutions_is_read_back(tmp_path: Path, dog: np.ndarray) -> None:
    torch.manual_seed(0)
    shape = {"channels": 16, "blocks": 2}
    network = build_network({"name": "edsr", "factor": 2, **shape}).eval()
    found = load_initial(write_model(network, "edsr", tmp_path, dog[:32, :32], **shape))
    weights = dict(network.named_parameters())
    for name, weight in found.named_parameters():
        torch.testing.assert_close(weight, weights[name], atol=0.02, rtol=0)


def test_a_deeper_network_starts_as_the_one_that_it_grew_from() -> None:
    options = {"name": "abpn", "channels": 6, "skip": True, "image_convolution": False}
    small = build_network({**options, "body": 1}).eval()
    images = torch.rand(1, 3, 9, 8) * 255
    for tail_rank, near in ((0, 1e-3), (27, 1e-3), (12, 20.0)):
        large = build_network({**options, "body": 3, "tail_rank": tail_rank}).eval()
        load_matching_weights(large, [small])
        torch.testing.assert_close(large(images), small(images), atol=near, rtol=0)
        for again_rank in (0, tail_rank):
            again = build_network({**options, "body": 4, "tail_rank": again_rank}).eval()
            load_matching_weights(again, [large])
            torch.testing.assert_close(again(images), large(images), atol=1e-3, rtol=0)
    wider = build_network({**options, "channels": 7, "body": 1}).eval()
    load_matching_weights(wider, [small])
    torch.testing.assert_close(wider(images), small(images), atol=1e-3, rtol=0)
    with pytest.raises(CheckpointError, match=r"body\.0 has 3 to 7 channels there, and 3 to 6 in"):
        load_matching_weights(small, [wider])
    stranger = build_network({"name": "fsrcnn", "factor": 2})
    for one, other in ((stranger, small), (small, stranger)):
        with pytest.raises(CheckpointError, match="that network does not fit this one"):
            load_matching_weights(one, [other])


def test_a_deeper_network_keeps_its_convolution_in_image_space() -> None:
    options = {"name": "abpn", "channels": 6}
    small, large = (build_network({**options, "body": body}).eval() for body in (1, 3))
    load_matching_weights(large, [small])
    images = torch.rand(1, 3, 9, 8) * 255
    torch.testing.assert_close(large(images), small(images), atol=1e-3, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"name": "fsrcnn"},
        {"name": "edsr", "channels": 16, "blocks": 2},
        {"name": "srresnet", "channels": 16, "blocks": 2},
    ],
    ids=lambda options: options["name"],
)
def test_another_network_starts_from_one_of_its_own_kind(options: dict[str, object]) -> None:
    options = {"factor": 2, **options}
    trained, network, mean = (build_network(options).eval() for _ in range(3))
    images = torch.rand(1, 3, 9, 8) * 255
    load_matching_weights(network, [trained])
    torch.testing.assert_close(network(images), trained(images))
    other = build_network(options)
    load_matching_weights(mean, [trained, other])
    for key, tensor in mean.state_dict().items():
        first, second = trained.state_dict()[key], other.state_dict()[key]
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, (first + second) / 2)
    for wrong in ({"name": "vdsr", "factor": 2}, {"name": "edsr", "factor": 2, "channels": 17}):
        with pytest.raises(CheckpointError, match="that network does not fit this one"):
            load_matching_weights(mean, [build_network(wrong)])


def test_of_several_networks_the_mean_is_taken() -> None:
    """A name that is given twice counts twice."""
    options = {"name": "abpn", "channels": 6, "body": 1, "skip": True, "image_convolution": False}
    torch.manual_seed(1)
    one, other, mean = (build_network(options) for _ in range(3))
    load_matching_weights(mean, [one, one, other])
    for name in ("body.0", "body.1", "last"):
        kernels = [net.get_submodule(name).collapsed() for net in (one, other, mean)]
        for first, second, found in zip(*kernels, strict=True):
            torch.testing.assert_close(found, (2 * first + second) / 3, atol=1e-6, rtol=1e-4)
    small = build_network({**options, "body": 2})
    with pytest.raises(CheckpointError, match="different shapes cannot be averaged"):
        load_matching_weights(mean, [one, small])


def test_the_parts_of_a_convolution_of_low_rank_stay_as_they_were_trained() -> None:
    """The mean of factorizations that differ only in their basis is that of their product."""
    options = {"name": "abpn", "channels": 6, "body": 1, "image_convolution": False, "tail_rank": 5}
    torch.manual_seed(1)
    one, same, mean = (build_network(options) for _ in range(3))
    load_matching_weights(same, [one])
    for first, second in zip(one.last.parameters(), same.last.parameters(), strict=True):
        if first.shape == one.last.filters.filters.shape:  # those are re-initialized
            continue
        torch.testing.assert_close(first, second)
    mix = torch.randn(5, 5)
    kernel, offset = one.last.filters.collapsed()
    same.last.filters.set_kernel((mix @ kernel.flatten(1)).view_as(kernel), mix @ offset)
    mixing = one.last.mixing.weight[:, :, 0, 0] @ torch.linalg.inv(mix)
    same.last.mixing.set_kernel(mixing[:, :, None, None], one.last.mixing.bias)
    load_matching_weights(mean, [one, same])
    torch.testing.assert_close(mean.last.filters.collapsed()[0], kernel, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(
        mean.last.mixing.weight, one.last.mixing.weight, atol=1e-4, rtol=1e-3
    )


def test_a_mean_is_not_of_model_files(tmp_path: Path) -> None:
    """Their channels may be scaled differently (`equalize`), and then cannot be averaged."""
    table = {
        "network": {"name": "abpn"},
        "data": {"folders": [str(tmp_path)]},
        "schedule": {"steps": 0},
        "initial_weights": [str(tmp_path / "run"), str(SHIPPED[0])],
    }
    with pytest.raises(CheckpointError, match="only runs can be averaged"):
        train(parse_table(Recipe, table, ""), tmp_path / "mean")


def test_a_card_of_another_network_is_refused(tmp_path: Path, dog: np.ndarray) -> None:
    path = write_model(build_network({"name": "abpn"}).eval(), "abpn", tmp_path, dog[:32, :32])
    card = json.loads(path.with_suffix(".json").read_text())
    card["runs"]["float"]["recipe"]["network"]["channels"] = 20
    path.with_suffix(".json").write_text(json.dumps(card))
    with pytest.raises(ModelError, match=r"names another network: body\.0 does not fit"):
        load_initial(path)


def reinitialize_on(network: ABPN, *images: np.ndarray) -> int:
    return reinitialize_inactive_channels(network, [Pair("", lr, lr) for lr in images], seed=0)


def lively(**options: object) -> ABPN:
    """A network whose channels all have an effect."""
    torch.manual_seed(0)
    defaults = {"channels": 8, "body": 3, "image_convolution": False, "expansion": 4}
    network = ABPN(ABPNConfig(**{**defaults, **options}))  # type: ignore[arg-type]
    with torch.no_grad():
        for convolution in network.body:
            convolution.weight.abs_()
    return network


def kill(network: ABPN, layer: int, channel: int) -> None:
    with torch.no_grad():
        network.body[layer].weight[channel] = 0
        network.body[layer].bias[channel] = -1


@pytest.mark.slow
@pytest.mark.parametrize("image_convolution", [False, True])
@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("tail_rank", [0, 5])
def test_inactive_channels_are_reinitialized_and_change_next_to_nothing(
    dog: np.ndarray, image_convolution: bool, skip: bool, tail_rank: int
) -> None:
    options = {"image_convolution": image_convolution, "skip": skip, "tail_rank": tail_rank}
    network = lively(**options)
    assert reinitialize_on(network, dog) == 0
    dead = [(0, 1), (2, 0), (2, 7), (3, 3)]
    for layer, channel in dead:
        kill(network, layer, channel)
    before, state = upscale_float(network.eval(), dog), copy.deepcopy(network.state_dict())
    assert reinitialize_on(network.train(), dog, dog[:50]) == len(dead)
    assert network.training
    after = upscale_float(network.eval(), dog)
    difference = np.abs(after.astype(int) - before)
    if skip:
        assert 0 < difference.mean() < 1
    else:
        np.testing.assert_array_equal(after, before)
    for layer, convolution in enumerate(network.body):
        old = state[f"body.{layer}.weight"]
        fresh = [c for c in range(len(old)) if not torch.equal(old[c], convolution.weight[c])]
        read = [c for c in fresh if (layer, c) in dead]
        assert read == [channel for at, channel in dead if at == layer]


def test_a_channel_that_lives_through_the_skip_is_not_inactive(dog: np.ndarray) -> None:
    network = lively(skip=True)
    with torch.no_grad():
        network.body[1].weight[:, 2] = 0  # only the sum reads it
    assert reinitialize_on(network, dog) == 0
    with torch.no_grad():
        network.last.weight[:, 2] = 0
    assert reinitialize_on(network, dog) > 0


def test_the_feature_space_form_has_a_skip_too(dog: np.ndarray) -> None:
    options = {"channels": 8, "body": 3, "image_convolution": False, "expansion": 4}
    torch.manual_seed(0)
    network = ResidualForm(ResidualFormConfig(**options, form="feature_space"))
    with torch.no_grad():
        for convolution in network.body:
            convolution.weight.abs_()
    kill(network, 3, 5)
    before = upscale_float(network.eval(), dog).astype(int)
    assert reinitialize_on(network, dog) == 1
    assert np.abs(upscale_float(network, dog) - before).mean() < 1


def test_a_layer_without_any_effect_is_left_as_it_is(dog: np.ndarray) -> None:
    network = lively()
    for channel in range(8):
        kill(network, 1, channel)
    state = copy.deepcopy(network.state_dict())
    reinitialize_on(network, dog)
    torch.testing.assert_close(network.body[1].weight, state["body.1.weight"])
