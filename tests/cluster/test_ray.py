"""`bulk` on real Ray clusters of this machine: bytes, resuming, signals, lost nodes, full disks.

Needs anchorsr[cluster], which `.[dev]` does not install: pip install -c constraints.txt
'.[cluster]' && pytest tests/cluster
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytestmark = [
    pytest.mark.slow,  # what needs no Ray is guarded by test_plan and test_work
    pytest.mark.skipif(
        find_spec("ray") is None or find_spec("pyarrow") is None, reason="needs anchorsr[cluster]"
    ),
]
_SECONDS = 400
_NODES = Path(__file__).parents[1] / "helpers" / "ray_nodes.py"
_BULK = [sys.executable, "-m", "anchorsr", "bulk"]
_ENVIRONMENT = {**os.environ, "RAY_worker_niceness": "0"}


@pytest.fixture
def images(tmp_path: Path, dog: np.ndarray) -> Path:
    """A folder of 200 small photographs of two kinds."""
    random = np.random.default_rng(0)
    for number in range(200):
        path = tmp_path / "in" / f"{number % 3}" / f"{number}.{('jpg', 'png')[number % 2]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        y, x = random.integers(0, 240, 2)
        Image.fromarray(dog[y : y + 40, x : x + 48]).save(path)
    return tmp_path / "in"


@pytest.fixture
def reference(images: Path) -> dict[str, bytes]:
    """What `upscale` makes of them."""
    target = images.with_name("reference")
    command = [sys.executable, "-m", "anchorsr", "upscale", images, "-o", target, "--model", "fast"]
    subprocess.run([*command, "--threads", "1"], check=True, capture_output=True, timeout=_SECONDS)
    return contents(target)


def contents(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in found
        if "_manifest" not in path.parts and not path.name.endswith(".lock")
    }


def bulk(*words: object, code: int = 0) -> dict[str, Any]:
    """Run the command with --json; return what it printed."""
    ended = subprocess.run(
        [*_BULK, *map(str, words), "--model", "fast", "--json"],
        capture_output=True, text=True, check=False, env=_ENVIRONMENT, timeout=_SECONDS,
    )  # fmt: skip
    assert ended.returncode == code, ended.stderr
    assert "Traceback" not in ended.stderr
    table: dict[str, Any] = json.loads(ended.stdout)
    return table


def rows(target: Path) -> list[dict[str, Any]]:
    import pyarrow.dataset

    parts = sorted(map(str, (target / "_manifest").glob("*.parquet")))
    made: list[dict[str, Any]] = pyarrow.dataset.dataset(parts).to_table().to_pylist()
    return made


def wait_for(count: int, target: Path) -> None:
    end = time.monotonic() + _SECONDS
    while len(contents(target)) < count:
        assert time.monotonic() < end
        time.sleep(0.1)


def test_a_folder_has_the_bytes_of_upscale_and_is_resumed(
    images: Path, reference: dict[str, bytes]
) -> None:
    target = images.with_name("out")
    (images / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    made = bulk(images, target, code=1)
    assert contents(target) == reference
    assert (made["done"], made["failed"], made["unfinished"]) == (200, 1, 0)
    assert len(rows(target)) == 201
    again = bulk(images, target, code=1)
    assert (again["done"], again["done_before"], again["failed_before"]) == (0, 200, 1)
    (images / "bad.png").unlink()
    assert bulk(images, target)["done_before"] == 200


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_what_a_stopped_driver_has_left_is_completed(
    number: int, images: Path, reference: dict[str, bytes]
) -> None:
    target = images.with_name("out")
    process = subprocess.Popen(
        [*_BULK, images, target, "--model", "fast"],
        env=_ENVIRONMENT, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_for(30, target)
    process.send_signal(number)
    _, error = process.communicate(timeout=_SECONDS)
    if number != signal.SIGKILL:
        assert process.returncode == 128 + number
        assert "the same command resumes" in error
    assert contents(target).items() <= reference.items()
    made = bulk(images, target)
    assert contents(target) == reference
    assert made["done"] + made["present"] + made["done_before"] == 200
    if number == signal.SIGKILL:
        assert made["done"] <= 170
    assert {row["target"] for row in rows(target)} == reference.keys()


def test_a_lost_node_loses_no_image(images: Path, reference: dict[str, bytes]) -> None:
    target = images.with_name("out")
    ended = subprocess.run(
        [sys.executable, _NODES, images, target, "40", "--model", "fast", "--json"],
        capture_output=True, text=True, check=False, env=_ENVIRONMENT, timeout=_SECONDS,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert "killed a node after" in ended.stdout
    assert contents(target) == reference
    named = [row["target"] for row in rows(target)]
    assert sorted(named) == sorted(reference)  # each exactly once
