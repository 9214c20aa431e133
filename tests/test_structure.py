"""The architecture as the code has it: who imports whom, who prints, what is public, how long."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import anchorsr
from anchorsr import errors

SOURCE = Path(anchorsr.__file__).parent

TORCH = {
    "anchorsr.networks.activation_noise",
    "anchorsr.networks.layers",
    "anchorsr.networks.abpn",
    "anchorsr.networks.fsrcnn",
    "anchorsr.networks.residual_forms",
    "anchorsr.networks.vdsr",
    "anchorsr.networks.drrn",
    "anchorsr.networks.edsr",
    "anchorsr.networks.srresnet",
    "anchorsr.networks.carn",
    "anchorsr.networks.conditioned",
    "anchorsr.networks.idn",
    "anchorsr.networks.imdn",
    "anchorsr.networks.latticenet",
    "anchorsr.training.checkpoint",
    "anchorsr.training.initialize",
    "anchorsr.training.distributed",
    "anchorsr.training.losses",
    "anchorsr.training.optim",
    "anchorsr.training.validation",
    "anchorsr.lowering.layers",
    "anchorsr.training.trainer",
    "anchorsr.lowering.trace",
    "anchorsr.quantization.qat_network",
    "anchorsr.quantization.qat",
}

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
]


def module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(SOURCE.rglob("*.py"))}


def parsed(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_text(encoding="utf-8"))


def imported(nodes: ast.AST) -> set[str]:
    """Every module that an import statement names, wherever it stands, as full names."""
    found = set()
    for node in ast.walk(nodes):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module is not None
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (submodules & MODULES.keys()) or {node.module}
    return found


@pytest.mark.parametrize("name", MODULES)
def test_torch_comes_with_the_modules_of_training_only(name: str) -> None:
    """Elsewhere torch is imported inside the function that needs it, if at all."""
    at_import = [node for node in parsed(name).body if not isinstance(node, ast.FunctionDef)]
    modules = imported(ast.Module(at_import, []))
    assert any(module.split(".")[0] == "torch" for module in modules) == (name in TORCH)


@pytest.mark.parametrize("name", MODULES)
def test_module_says_what_it_is_for(name: str) -> None:
    assert ast.get_docstring(parsed(name))


@pytest.mark.parametrize("name", MODULES)
def test_module_is_not_long(name: str) -> None:
    assert len(MODULES[name].read_text(encoding="utf-8").splitlines()) <= 450


def test_import_brings_only_what_upscaling_needs() -> None:
    program = f"import sys, anchorsr; print([n for n in {HEAVY} if n in sys.modules])"
    found = subprocess.check_output([sys.executable, "-c", program], text=True)
    assert found.strip() == "[]"


def test_public_names_are_these() -> None:
    public = ["AnchorSRError", "Score", "Upscaler", "evaluate", "list_models", "upscale"]
    assert anchorsr.__all__ == public
    for name in public:
        assert getattr(anchorsr, name).__doc__


def test_every_error_is_in_the_tree_and_its_image() -> None:
    tree = parsed("anchorsr.errors")
    classes = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    assert classes <= set((ast.get_docstring(tree) or "").split())
    assert all(issubclass(getattr(errors, name), errors.AnchorSRError) for name in classes)
    for name in MODULES.keys() - {"anchorsr.errors"}:
        for node in ast.walk(parsed(name)):
            if isinstance(node, ast.ClassDef):
                bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
                assert not any(base.endswith(("Error", "Exception")) for base in bases)
