"""The architecture as the code has it: what is public, who needs torch, how long modules are.

Which package may import which is checked by import-linter (test_style).
"""

import ast
import doctest
import functools
import inspect
import pydoc
import subprocess
import sys
from pathlib import Path

import pytest

import anchorsr
from anchorsr import errors

SOURCE = Path(anchorsr.__file__).parent

# Elsewhere torch is imported inside the function that needs it, if at all.
PACKAGES_WITH_TORCH = ("networks", "training", "lowering", "quantization")

HEAVY = [
    "av",
    "torch",
    "onnx",
    "onnxruntime",
    "ai_edge_litert",
    "openvino",
    "pillow_heif",
    "typer",
    "rich",
    "pytorch_optimizer",
    "pyarrow",
    "ray",
]


def module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(SOURCE.rglob("*.py"))}


@functools.cache
def parsed(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_text(encoding="utf-8"))


def run(program: str) -> str:
    return subprocess.check_output([sys.executable, "-c", program], text=True).strip()


# Modules


def test_few_modules_lie_outside_a_package() -> None:
    assert len(list(SOURCE.glob("*.py"))) <= 6


def test_torch_is_imported_by_four_packages_only() -> None:
    importing = set()
    for name in MODULES:
        for node in parsed(name).body:
            if isinstance(node, ast.Import):
                imported = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                imported = [node.module or ""]
            else:
                continue
            if any(module.split(".")[0] == "torch" for module in imported):
                importing.add(name)
    assert importing
    assert {name for name in importing if name.split(".")[1] not in PACKAGES_WITH_TORCH} == set()


def test_a_module_says_what_it_is_for() -> None:
    assert [name for name in MODULES if not ast.get_docstring(parsed(name))] == []


def test_a_module_is_not_long() -> None:
    lengths = {
        name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in MODULES.items()
    }
    assert {name: lines for name, lines in lengths.items() if lines > 450} == {}


@pytest.mark.slow
def test_what_needs_no_training_needs_no_torch() -> None:
    modules = ["quantization.ptq", "training.recipe", "export.export", "evaluation.evaluate"]
    imports = "; ".join(f"import anchorsr.{module}" for module in [*modules, "cli.app"])
    run(f"import sys; sys.modules['torch'] = None; {imports}")


# The public names


def test_help_shows_the_public_names_and_nothing_else() -> None:
    shown = {name for name, _ in inspect.getmembers(anchorsr) if not name.startswith("__")}
    assert shown == set(anchorsr.__all__)
    text = pydoc.plain(pydoc.render_doc(anchorsr))
    sections = text[text.index("\nCLASSES\n") :]
    for name in anchorsr.__all__:
        assert name in sections
    assert "importlib" not in text


@pytest.mark.parametrize("name", anchorsr.__all__)
def test_a_public_name_is_documented_and_is_no_module(name: str) -> None:
    assert inspect.getdoc(getattr(anchorsr, name))
    assert not (SOURCE / name).exists()
    assert not (SOURCE / f"{name}.py").exists()


@pytest.mark.slow
def test_import_takes_nothing_heavy() -> None:
    """Not even numpy; using `upscale` then imports what upscaling needs."""
    program = "import sys, anchorsr; print([n for n in {} if n in sys.modules])"
    assert run(program.format([*HEAVY, "numpy", "PIL"])) == "[]"
    program = "import sys, anchorsr; anchorsr.upscale; print([n for n in {} if n in sys.modules])"
    assert run(program.format(HEAVY)) == "[]"


@pytest.mark.slow
def test_a_name_that_lacks_its_package_says_so_when_it_is_called() -> None:
    program = """
import sys; sys.modules["torch"] = None
import anchorsr, pydoc
pydoc.render_doc(anchorsr)
from anchorsr import train
try:
    train()
except anchorsr.AnchorSRError as error:
    print(error)
"""
    assert run(program).endswith("pip install 'anchorsr[train]'")


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'enlarge'"):
        anchorsr.enlarge  # noqa: B018


@pytest.mark.parametrize("name", ["anchorsr", "Upscaler", "list_models", "upscale"])
def test_the_examples_of_the_documentation_run(name: str) -> None:
    documented = anchorsr if name == "anchorsr" else getattr(anchorsr, name)
    names = {public: getattr(anchorsr, public) for public in anchorsr.__all__}
    examples = doctest.DocTestFinder(recurse=False).find(documented, name, globs=names)
    assert examples[0].examples
    runner = doctest.DocTestRunner()
    assert runner.run(examples[0]).failed == 0


@pytest.mark.slow
def test_every_error_is_in_the_tree_and_its_picture() -> None:
    tree = parsed("anchorsr.errors")
    classes = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    assert classes <= set((ast.get_docstring(tree) or "").split())
    assert all(issubclass(getattr(errors, name), errors.AnchorSRError) for name in classes)
    for name in MODULES.keys() - {"anchorsr.errors"}:
        for node in ast.walk(parsed(name)):
            if isinstance(node, ast.ClassDef):
                bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
                assert not any(base.endswith(("Error", "Exception")) for base in bases)
