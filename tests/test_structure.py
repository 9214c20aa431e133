"""The architecture as the code has it: who imports whom, who prints, what is public, how long."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import anchorsr
from anchorsr import errors

SOURCE = Path(anchorsr.__file__).parent

# Each module imports only from those above it. A module that is not listed fails the test.
LAYERS = [
    # the ground
    "anchorsr.errors",
    "anchorsr.files",
    "anchorsr.claims",
    "anchorsr.strict_json",
    # pictures
    "anchorsr.picture",
    "anchorsr.exif",
    "anchorsr.xmp",
    "anchorsr.formats",
    "anchorsr.tiff",
    "anchorsr.png",
    "anchorsr.gif",
    "anchorsr.heic",
    "anchorsr.decode",
    "anchorsr.encode",
    "anchorsr.images",
    "anchorsr.animations",
    "anchorsr.sizes",
    "anchorsr.resize",
    "anchorsr.metrics",
    "anchorsr.datasets",
    "anchorsr.downloads",
    "anchorsr.drawn",
    "anchorsr.soft",
    # training in floating point
    "anchorsr.recipes",
    "anchorsr.networks.layers",
    "anchorsr.networks.abpn",
    "anchorsr.networks.fsrcnn",
    "anchorsr.networks.vdsr",
    "anchorsr.networks.drrn",
    "anchorsr.networks.edsr",
    "anchorsr.networks.srresnet",
    "anchorsr.networks.carn",
    "anchorsr.networks.idn",
    "anchorsr.networks.imdn",
    "anchorsr.networks.latticenet",
    "anchorsr.networks.residual_forms",
    "anchorsr.networks",
    # the waist, and what reads it
    "anchorsr.operators",
    "anchorsr.checks",
    "anchorsr.graph",
    "anchorsr.lower_layers",
    "anchorsr.lower",
    "anchorsr.kernels",
    "anchorsr.fixed_point",
    "anchorsr.integer",
    "anchorsr.scales",
    "anchorsr.equalize",
    "anchorsr.ties",
    "anchorsr.quantize",
    "anchorsr.tflite.schema",
    "anchorsr.tflite.writer",
    "anchorsr.tflite.reader",
    "anchorsr.tflite",
    "anchorsr.tflite_summary",
    "anchorsr.onnx",
    "anchorsr.models",
    "anchorsr.integer_network",
    "anchorsr.runs",
    "anchorsr.initial",
    "anchorsr.processes",
    "anchorsr.losses",
    "anchorsr.optimizers",
    "anchorsr.validation",
    "anchorsr.training",
    "anchorsr.finetune",
    # model files that run
    "anchorsr.accelerators",
    "anchorsr.openvino_graph",
    "anchorsr.engines",
    "anchorsr.export",
    "anchorsr.challenge",
    "anchorsr.cache",
    "anchorsr.choosing",
    "anchorsr.tiling",
    "anchorsr.upscale",
    "anchorsr.strips",
    "anchorsr.jobs",
    "anchorsr.pipeline",
    "anchorsr.compare",
    "anchorsr.opencv",
    "anchorsr.reuse",
    "anchorsr.video.codecs",
    "anchorsr.video.colour",
    "anchorsr.video.source",
    "anchorsr.video.target",
    "anchorsr.video.pipeline",
    "anchorsr.video",
    "anchorsr.evaluate",
    "anchorsr.release",
    "anchorsr.tail_study",
    # how fast
    "anchorsr.machine",
    "anchorsr.samples",
    "anchorsr.timing",
    "anchorsr.yardsticks",
    "anchorsr.benchmark",
    "anchorsr.end_to_end",
    "anchorsr.growth",
    "anchorsr.study",
    "anchorsr.plots",
    "anchorsr.probe_graphs",
    "anchorsr.probe_terms",
    "anchorsr.probe",
    "anchorsr.probe_network",
    "anchorsr.studies",
    "anchorsr.report",
    # faces
    "anchorsr",
    "anchorsr.terminal",
    "anchorsr.commands.options",
    "anchorsr.commands.pictures",
    "anchorsr.commands.compare",
    "anchorsr.commands.video",
    "anchorsr.commands.models",
    "anchorsr.commands.challenge",
    "anchorsr.commands.data",
    "anchorsr.commands.training",
    "anchorsr.commands.study",
    "anchorsr.commands.benchmark",
    "anchorsr.commands.probe",
    "anchorsr.commands",
    "anchorsr.cli",
    "anchorsr.__main__",
]

TORCH = {
    "anchorsr.networks.layers",
    "anchorsr.networks.abpn",
    "anchorsr.networks.fsrcnn",
    "anchorsr.networks.residual_forms",
    "anchorsr.networks.vdsr",
    "anchorsr.networks.drrn",
    "anchorsr.networks.edsr",
    "anchorsr.networks.srresnet",
    "anchorsr.networks.carn",
    "anchorsr.networks.idn",
    "anchorsr.networks.imdn",
    "anchorsr.networks.latticenet",
    "anchorsr.runs",
    "anchorsr.initial",
    "anchorsr.processes",
    "anchorsr.losses",
    "anchorsr.optimizers",
    "anchorsr.validation",
    "anchorsr.lower_layers",
    "anchorsr.training",
    "anchorsr.lower",
    "anchorsr.integer_network",
    "anchorsr.finetune",
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


def test_every_module_has_its_place() -> None:
    assert set(LAYERS) == set(MODULES)
    assert len(LAYERS) == len(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_module_imports_only_from_those_above_it(name: str) -> None:
    own = {module for module in imported(parsed(name)) if module.split(".")[0] == "anchorsr"}
    assert own <= set(LAYERS[: LAYERS.index(name)])


@pytest.mark.parametrize("name", MODULES)
def test_torch_comes_with_the_modules_of_training_only(name: str) -> None:
    """Elsewhere torch is imported inside the function that needs it, if at all."""
    at_import = [node for node in parsed(name).body if not isinstance(node, ast.FunctionDef)]
    modules = imported(ast.Module(at_import, []))
    assert any(module.split(".")[0] == "torch" for module in modules) == (name in TORCH)


PRINTING = {name for name in LAYERS if name.startswith("anchorsr.commands")}
PRINTING |= {"anchorsr.cli", "anchorsr.terminal"}


@pytest.mark.parametrize("name", sorted(MODULES.keys() - PRINTING))
def test_only_the_command_line_prints(name: str) -> None:
    tree = parsed(name)
    printing = {"print", "pprint", "stdout", "stderr", "__stdout__", "__stderr__"}
    named = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    named |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not named & printing
    packages = {module.split(".")[0] for module in imported(tree)}
    assert not packages & {"rich", "typer", "logging", "pprint"}


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
