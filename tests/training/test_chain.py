"""The sequence of runs that makes a model, found from its last recipe."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs anchorsr[train]")

from anchorsr.errors import DataError, RecipeError
from anchorsr.models.registry import list_models, takes_strengths
from anchorsr.training.chain import find_chain
from anchorsr.training.recipe import read_recipe

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
        find_chain(last)
    write(folder, "lost", "runs/last")
    with pytest.raises(RecipeError, match="is initialized from itself"):
        find_chain(last)
    with pytest.raises(RecipeError, match="nothing is no recipe"):
        find_chain(Path("nothing"))


# Those of networks for damaged images start from weights beside them, or from a shipped file.
@pytest.mark.parametrize(
    "model", [model.path.stem for model in list_models() if not takes_strengths(model.path)]
)
def test_every_shipped_model_has_a_recipe_for_each_phase(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(RECIPES.parent)
    monkeypatch.setattr(Path, "is_dir", lambda self: True)  # the images are not in the repository
    phases = find_chain(Path(model))
    assert phases[0].recipe.initial_weights == ()
    assert phases[-1].path.stem in (f"{model}_mean", f"{model}_relative")
    for phase in phases:
        assert all(not name.endswith(".tflite") for name in phase.recipe.initial_weights)
