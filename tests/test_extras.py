"""What needs an extra that is not installed is skipped, with the extra's name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.extras import hiding

MODULE = "import av\n\ndef test_video(): ...\n"
TESTS = """
import pytest

@pytest.mark.onnxruntime
def test_marked(): ...

def test_imports():
    import torch

def test_asks():
    pytest.importorskip("torch")

def test_needs():
    from anchorsr.errors import needs
    with needs("OpenVINO", "fast"):
        import openvino

def test_other():
    import nonesuch
"""


@pytest.mark.slow
def test_a_missing_extra_skips_and_anything_else_fails(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(hiding(["av", "onnxruntime", "openvino", "torch"]))
    (tmp_path / "test_module.py").write_text(MODULE)
    (tmp_path / "test_tests.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = onnxruntime\n")
    folders = [tmp_path, Path(__file__).parent, *filter(None, [os.environ.get("PYTHONPATH")])]
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "helpers.extras", "-p", "no:cacheprovider", "-rsf"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders))},
        capture_output=True,
        text=True,
        check=False,
    )
    skipped = [line for line in ended.stdout.splitlines() if line.startswith("SKIPPED")]
    extras = sorted(line.rpartition("anchorsr")[2] for line in skipped)
    assert extras == ["[fast]", "[onnx]", "[train]", "[video]"], ended.stdout
    assert "1 failed, 5 skipped" in ended.stdout
    assert "No module named 'nonesuch'" in ended.stdout
