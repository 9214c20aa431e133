"""Networks that recipes name by their class."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs anchorsr[train]")

import torch

from anchorsr.errors import RecipeError
from anchorsr.lowering.trace import lower
from anchorsr.networks.external import ExternalConfig, ExternalNetwork
from anchorsr.networks.inference import upscale_float
from anchorsr.networks.registry import build_network
from anchorsr.studies.networks import load_network
from anchorsr.training.recipe import read_recipe
from helpers.external import UNet

PROGRAM = """
from torch import nn

class Plain(nn.Sequential):
    def __init__(self, factor=3, fails=False):
        if fails:
            raise KeyError("no such thing")
        super().__init__(nn.Conv2d(3, 3 * factor**2, 3, padding=1), nn.PixelShuffle(factor))

class Small(nn.Conv2d):
    def __init__(self):
        super().__init__(3, 3, 2, stride=2)

number = 3
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module in the current folder."""
    name = f"networks_of_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(PROGRAM)
    monkeypatch.chdir(tmp_path)
    return name


def test_class_in_the_current_folder_is_a_network(module: str) -> None:
    before = list(sys.path)
    network = build_network({"name": f"{module}:Plain", "options": {"factor": 2}})
    assert sys.path == before
    assert isinstance(network, ExternalNetwork)
    assert (network.factor, network.multiple, network.config.factor) == (2, 1, 2)
    images = torch.rand(1, 3, 5, 6) * 255
    torch.testing.assert_close(
        network.forward_unclipped(images), network.module(images / 255) * 255
    )
    again = build_network({"name": f"{module}:Plain", "factor": 3, "maximum": 255})
    torch.testing.assert_close(again.forward_unclipped(images), again.module(images))
    assert load_network(f"{module}:Plain", ["int8"]).graphs["int8"].factor == 3


def test_name_alone_stands_for_the_table(module: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(
        f'network = "{module}:Plain"\n[data]\nfolders = ["images"]\n[schedule]\nsteps = 1\n'
    )
    assert build_network(read_recipe(path).network).factor == 3


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("no_such_module:Plain", {}, "no_such_module cannot be imported: ModuleNotFoundError"),
        ("{}:Other", {}, "has no nn.Module of the name 'Other'"),
        ("{}:number", {}, "has no nn.Module of the name 'number'"),
        ("os:system", {"options": {"command": "true"}}, "os has no nn.Module"),
        ("{}:Plain", {"options": {"fails": True}}, "cannot be made .* KeyError: 'no such thing'"),
        ("{}:Plain", {"options": {"wide": 1}}, "cannot be made with the options .* TypeError"),
        ("{}:Plain", {"wide": 1}, "unknown key network.wide"),
        ("{}:Plain", {"factor": 2}, "Plain upscales 3 times, not 2"),
        ("{}:Plain", {"maximum": 0}, "maximum is 1 or 255"),
        ("{}:Plain", {"options": {"factor": 7}}, "upscales 7 times, not 2, 3 or 4"),
        ("{}:Small", {}, "does not take RGB images .* upscale them by a whole number"),
    ],
)
def test_what_is_no_network_is_refused(
    module: str, name: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        build_network({"name": name.format(module), **options})


def test_images_are_padded_to_what_the_module_takes() -> None:
    torch.manual_seed(0)
    network = ExternalNetwork(UNet(), ExternalConfig()).eval()
    assert (network.factor, network.multiple) == (2, 2)
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    assert upscale_float(network, image).shape == (10, 14, 3)
    assert lower(network, name="unet").multiple == 2
