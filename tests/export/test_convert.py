"""Networks from elsewhere become exact integer files, or are refused with the reason."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs anchorsr[train]")

import torch

import anchorsr
from anchorsr.errors import DataError, GraphError, RecipeError
from anchorsr.graph import operators as ops
from anchorsr.graph.executor import run_graph
from anchorsr.images.image import from_array
from anchorsr.images.io import write_image
from anchorsr.lowering.trace import lower
from anchorsr.models.card import ModelCard
from anchorsr.serialization.tflite.writer import needs_size
from anchorsr.training.recipe import DataRecipe, Recipe, ScheduleRecipe
from anchorsr.utils.sample_image import sample_image
from helpers.external import CONVERTIBLE, REFUSED, Compact, Reparameterized, UNet

SIZE = (8, 12)


def built(network_class: type) -> torch.nn.Module:
    """Build a network whose batch normalization has learned something."""
    torch.manual_seed(0)
    network = network_class().eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
            torch.nn.init.normal_(module.running_mean, 0, 0.1)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    return network


@pytest.mark.slow
@pytest.mark.onnxruntime
@pytest.mark.parametrize("network_class", CONVERTIBLE, ids=lambda one: one.__name__)
def test_network_becomes_exact_files(network_class: type, tmp_path) -> None:
    network = built(network_class)
    lr = sample_image(*SIZE)
    with torch.no_grad():
        expected = network(torch.from_numpy(lr[None]).permute(0, 3, 1, 2) / 255) * 255
    made = run_graph(lower(network, name="one", maximum=1.0), lr[None].astype(np.float32))
    np.testing.assert_allclose(made, expected.permute(0, 2, 3, 1), atol=0.02)

    model = anchorsr.convert(network, images=sample_image(48, 48))
    integers = run_graph(model.graph, lr[None])
    assert np.abs(integers - made.clip(0, 255)).mean() < 4
    # Each is written only if its runtime gives the bytes of the integer arithmetic.
    size = SIZE if needs_size(model.graph) else None
    for name in ("model.tflite", "model.onnx"):
        assert model.export(tmp_path / name, size=size).factor == model.factor


@pytest.mark.parametrize("network_class", REFUSED, ids=lambda one: one.__name__)
def test_refusal_says_which_module_why_and_what_instead(network_class: type) -> None:
    with pytest.raises(GraphError, match=REFUSED[network_class]):
        anchorsr.convert(network_class(), images=sample_image(48, 48))


def test_order_of_channels_and_anchor_cost_nothing() -> None:
    graph = lower(Compact(), name="compact", maximum=1.0)
    kinds = [type(operator) for operator in graph.operators]
    assert kinds[-1] is ops.DepthToSpace
    copies = [op for op in graph.operators if isinstance(op, ops.Conv2D) and op.copies_channels]
    assert [(len(op.weights), op.input) for op in copies] == [(27, "images")]
    assert kinds.count(ops.Conv2D) == 4 + 1
    assert kinds.count(ops.PReLU) == 3


def test_branches_become_one_convolution() -> None:
    graph = lower(built(Reparameterized), name="branches", maximum=1.0)
    assert [type(op).__name__ for op in graph.operators[:4]] == ["Conv2D"] * 4
    assert [op.relu for op in graph.operators[:4]] == [True, True, True, False]


@pytest.mark.slow
def test_model_upscales_images_of_sizes_that_the_network_does_not_take(tmp_path) -> None:
    network = built(UNet)
    with pytest.raises(RuntimeError):
        network(torch.zeros(1, 3, 21, 26))
    model = anchorsr.convert(network, images=sample_image(48, 48))
    lr = sample_image(21, 26)
    upscaled = model.upscale(lr)
    padded = np.pad(lr, ((0, 1), (0, 0), (0, 0)), mode="edge")
    np.testing.assert_array_equal(upscaled, run_graph(model.graph, padded[None])[0, :42])
    with pytest.raises(GraphError, match="multiples of 2, not 5x8"):
        model.export(tmp_path / "odd.tflite", size=(8, 5))


@pytest.mark.slow
def test_quantization_aware_training_evaluation_and_card(tmp_path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    write_image(folder / "one.png", from_array(sample_image(60, 60)))
    network = built(Compact)
    before = [tensor.clone() for tensor in network.state_dict().values()]
    model = anchorsr.convert(network, images=folder, qat=2, name="mine_x3")
    assert all(map(torch.equal, before, network.state_dict().values()))
    score = model.evaluate(folder)
    assert score.psnr_rgb > 5
    assert model.evaluate(folder, precision="float32").method == "float"
    card = model.card
    assert ModelCard.from_dict(card.to_dict()) == card
    assert card.model == "mine_x3"
    assert [entry.method for entry in card.figures] == ["int8", "float"]
    assert card.runs["integer"]["step"] == 2
    assert model.export(tmp_path / "mine.tflite").sha256 == card.sha256

    schedule = ScheduleRecipe(steps=1)
    recipe = Recipe({"name": "other"}, DataRecipe(("nowhere",), patch=16, batch=1), schedule)
    with pytest.raises(RecipeError, match=r"no quantization\.schedule"):
        anchorsr.convert(network, images=folder, qat=recipe)


def test_wrong_arguments_are_named() -> None:
    image = sample_image(48, 48)
    with pytest.raises(RecipeError, match="Compact upscales 3 times, not 2"):
        anchorsr.convert(Compact(), images=image, factor=2)
    with pytest.raises(RecipeError, match="Conv2d upscales 1 times"):
        anchorsr.convert(torch.nn.Conv2d(3, 3, 1), images=image)
    with pytest.raises(RecipeError, match=r"does not take RGB images .* RuntimeError"):
        anchorsr.convert(torch.nn.Conv2d(4, 3, 1), images=image)
    with pytest.raises(DataError, match="at least 24 pixels a side"):
        anchorsr.convert(Compact(), images=sample_image(20, 40))
    with pytest.raises(DataError, match="none are given"):
        anchorsr.convert(Compact(), images=[])
    with pytest.raises(ValueError, match="a number of steps"):
        anchorsr.convert(Compact(), images=image, qat=-1)


@pytest.mark.slow
def test_range_of_the_network_is_an_option() -> None:
    class Wide(Compact):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x / 255) * 255

    torch.manual_seed(0)
    wide = Wide().eval()
    image = sample_image(48, 48)
    narrow = built(Compact)
    narrow.load_state_dict(wide.state_dict())
    one = anchorsr.convert(wide, images=image, maximum=255).upscale(image)
    other = anchorsr.convert(narrow, images=image).upscale(image)
    assert np.abs(one.astype(int) - other).max() <= 3
