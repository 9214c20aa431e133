"""The sequence of runs that makes a model, found from its last recipe."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs anchorsr[train]")

import torch

from anchorsr.cli.app import main
from anchorsr.cli.commands.data import make_data
from anchorsr.errors import DataError, RecipeError
from anchorsr.images.io import read_image
from anchorsr.models.registry import list_models
from anchorsr.networks.registry import build_network
from anchorsr.training.chain import find_chain, find_missing_data
from anchorsr.training.initialize import load_matching_weights
from anchorsr.training.recipe import DataRecipe, read_recipe
from anchorsr.training.sampling import load_training_data
from anchorsr.utils.config import parse_table

RECIPES = Path(__file__).parents[2] / "recipes"


def write(folder: Path, name: str, *weights: str, images: str = "images") -> Path:
    path = folder / f"{name}.toml"
    listed = ", ".join(f'"{one}"' for one in weights)
    path.write_text(
        f'initial_weights = [{listed}]\n[network]\nname = "abpn"\n[data]\nfolders = ["{images}"]\n'
        "[schedule]\nsteps = 1\n"
    )
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("images", "recipes"):
        (tmp_path / name).mkdir()
    return tmp_path / "recipes"


def test_parents_come_first_and_only_once(folder: Path) -> None:
    write(folder, "first")
    write(folder, "left", "runs/first")
    write(folder, "right", "runs/first")
    last = write(folder, "model_mean", "runs/left", "runs/right")
    phases = find_chain(last)
    assert [phase.path.stem for phase in phases] == ["first", "left", "right", "model_mean"]
    assert [str(phase.folder) for phase in phases] == [
        "runs/first",
        "runs/left",
        "runs/right",
        "runs/model_mean",
    ]
    assert phases[-1].recipe == read_recipe(last)
    assert [phase.path.stem for phase in find_chain(Path("model"))][-1] == "model_mean"
    assert find_chain(last, Path("elsewhere"))[-1].folder == Path("elsewhere")


def test_given_files_and_runs_need_no_recipe(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "model.tflite").write_bytes(b"")
    (tmp_path / "runs" / "old").mkdir(parents=True)
    (tmp_path / "runs" / "old" / "run.json").write_text("{}")
    last = write(folder, "last", "model.tflite", "runs/old")
    assert [phase.path for phase in find_chain(last)] == [last]


def test_what_is_missing_is_named(folder: Path) -> None:
    last = write(folder, "last", "runs/lost")
    with pytest.raises(RecipeError, match=r"from runs/lost, which does not exist.*lost\.toml"):
        find_chain(last)
    write(folder, "lost", images="nowhere")
    with pytest.raises(DataError, match=r"lost\.toml needs the folder nowhere"):
        find_missing_data(find_chain(last))
    write(folder, "lost", "runs/last")
    with pytest.raises(RecipeError, match="is initialized from itself"):
        find_chain(last)
    with pytest.raises(RecipeError, match="nothing is no recipe"):
        find_chain(Path("nothing"))


@pytest.mark.parametrize("model", [model.path.stem for model in list_models()])
def test_every_shipped_model_has_a_recipe_for_each_phase(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(RECIPES.parent)
    phases = find_chain(Path(model))
    assert phases[0].recipe.initial_weights == ()
    last = phases[-1].path.stem
    endings = ("mean", "films", "wide", "relative")
    assert last in {f"{model}_{ending}" for ending in endings}
    for phase in phases:
        assert all(not name.endswith(".tflite") for name in phase.recipe.initial_weights)


def test_every_shipped_recipe_says_how_its_images_are_made() -> None:
    made: dict[str, str] = {}
    for path in sorted(RECIPES.glob("*.toml")):
        data = read_recipe(path).data
        for name in (*data.folders, *data.pairs):
            if not name.startswith(("../shared/", "data/DIV2K")):  # which is downloaded
                assert made.setdefault(name, data.make[name]) == data.make[name]


def test_conditioned_networks_take_over_the_weights_that_their_recipes_name() -> None:
    phases = {
        phase.path.stem: phase.recipe for phase in find_chain(RECIPES / "photo_x2_films.toml")
    }
    networks = {name: build_network(recipe.network) for name, recipe in phases.items()}
    for name, recipe in phases.items():
        if recipe.initial_weights and "photo" in name:
            parents = [networks[Path(parent).name] for parent in recipe.initial_weights]
            load_matching_weights(networks[name], parents)
    first = networks["quality_x3_mean"].get_submodule("body.0")
    kernels = [networks[name].get_submodule("body.0") for name in ("photo_x3", "photo_x2_films")]
    for other in kernels:
        torch.testing.assert_close(other.collapsed(), first.collapsed())


MADE = ("folders = ['images', 'data/drawn']", "make = { 'data/drawn' = 'synthetic --count 2' }")


def with_made_images(folder: Path) -> Path:
    last = write(folder, "last")
    last.write_text(last.read_text().replace('folders = ["images"]', "\n".join(MADE)))
    return last


def test_images_are_made_as_the_recipe_says(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    last = with_made_images(folder)
    missing = find_missing_data(find_chain(last))
    assert missing == {Path("data/drawn"): "synthetic --count 2"}
    made = "make data/drawn: anchorsr data synthetic --count 2\n"
    assert main(["train", "--chain", str(last), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert out == f"{made}1. {last} -> runs/last: 1 steps\n"
    assert not (tmp_path / "data").exists()
    (tmp_path / "data" / "drawn.unfinished").mkdir(parents=True)
    (tmp_path / "data" / "drawn.unfinished" / "000.png").write_bytes(b"cut short")
    make_data(Path("data/drawn"), "synthetic --count 2")
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["drawn"]
    made_images = sorted((tmp_path / "data/drawn").iterdir())
    assert [read_image(path).rgb.shape for path in made_images] == [(480, 480, 3)] * 2
    assert find_missing_data(find_chain(last)) == {}
    assert capsys.readouterr().out == ""


def test_a_run_without_its_images_says_how_they_are_made(folder: Path) -> None:
    recipe = read_recipe(with_made_images(folder))
    with pytest.raises(DataError, match=r"data/drawn does not exist: anchorsr data synthetic --c"):
        load_training_data(recipe, 3)
    with pytest.raises(RecipeError, match=r"data\.make: elsewhere is not used"):
        parse_table(DataRecipe, {"folders": ["a"], "make": {"elsewhere": "films a"}}, "data")
    with pytest.raises(RecipeError, match=r"data\.make: a is made by arguments in quotes"):
        parse_table(DataRecipe, {"folders": ["a"], "make": {"a": 3}}, "data")
    with pytest.raises(RecipeError, match=r"data\.make: a: No closing quotation: films 'b"):
        parse_table(DataRecipe, {"folders": ["a"], "make": {"a": "films 'b"}}, "data")


def test_only_chains_look_for_images_first(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A run that has its steps needs none; several processes make none."""
    last = with_made_images(folder)
    last.write_text(last.read_text().replace("steps = 1", "steps = 0"))
    assert main(["train", str(last), "--threads", "1"]) == 0
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    assert main(["train", "--chain", str(last)]) == 1
    assert "data/drawn does not exist: anchorsr data synthetic" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()
