"""The examples for schedulers are well formed, and the commands in them are understood."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from anchorsr.cli import app
from anchorsr.inference.shards import parse_shard

EXAMPLES = Path(__file__).parents[2] / "examples"


def load(name: str) -> dict[str, Any]:
    yaml = pytest.importorskip("yaml")
    (document,) = yaml.safe_load_all((EXAMPLES / name).read_text())
    return document


def parsed(text: str) -> dict[str, Any]:
    """The options of an anchorsr command, as the command line takes them."""
    words = shlex.split(text.replace("\\\n", " "))
    words = words[words.index("anchorsr") + 1 :]
    program = app.command_line()
    name, command, rest = program.resolve_command(program.make_context("anchorsr", words), words)
    return command.make_context(name, rest).params


def test_slurm() -> None:
    script = EXAMPLES / "slurm_array.sbatch"
    subprocess.run(["bash", "-n", script], check=True)
    text = script.read_text()
    first, last = re.search(r"--array=(\d+)-(\d+)", text).groups()  # type: ignore[union-attr]
    assert first == "1"
    command = text[text.index("anchorsr upscale") :]
    for name, value in {
        "SLURM_ARRAY_TASK_ID": last,
        "SLURM_ARRAY_TASK_COUNT": last,
        "SLURM_CPUS_PER_TASK": "4",
    }.items():
        command = command.replace(f"${name}", value)
    assert parse_shard(parsed(command)["shard_text"]) is not None


def test_kubernetes() -> None:
    job = load("kubernetes_job.yaml")
    spec = job["spec"]
    assert (job["kind"], spec["completionMode"]) == ("Job", "Indexed")
    (container,) = spec["template"]["spec"]["containers"]
    program = container["args"][0]
    for index in (0, spec["completions"] - 1):
        made = subprocess.check_output(
            [*container["command"], "anchorsr() { printf '%s ' anchorsr \"$@\"; }; "
             + program.removeprefix("exec ")],
            env={"JOB_COMPLETION_INDEX": str(index)}, text=True,
        )  # fmt: skip
        shard = parse_shard(parsed(made)["shard_text"])
        assert shard is not None
        assert (shard.number, shard.count) == (index + 1, spec["completions"])
    volumes = {volume["name"] for volume in spec["template"]["spec"]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes


def test_kuberay() -> None:
    job = load("kuberay_job.yaml")
    assert job["kind"] == "RayJob"
    options = parsed(job["spec"]["entrypoint"])
    assert options["address"] == "auto"
    cluster = job["spec"]["rayClusterSpec"]
    constraints = (EXAMPLES.parent / "constraints.txt").read_text()
    assert f"ray=={cluster['rayVersion']}\n" in constraints
    pods = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    images = {pod["template"]["spec"]["containers"][0]["image"] for pod in pods}
    assert len(images) == 1
