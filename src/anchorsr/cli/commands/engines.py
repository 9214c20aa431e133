"""The `engines` command: what runs models here, and what was found out about it."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import typer
from rich.table import Table

from anchorsr.cli.commands.options import AsJson
from anchorsr.cli.terminal import print_json, print_table, remark
from anchorsr.engines.native.library import has_kernel, instruction_sets
from anchorsr.engines.runtimes import ENGINES, NATIVE
from anchorsr.engines.selection import Finding, findings, forget_findings, installed_version
from anchorsr.models.registry import list_models
from anchorsr.utils.cache import cache_folder

_EXTRAS = {"litert": "", "openvino": "fast", "onnxruntime": "onnx"}


def engines_command(
    forget: Annotated[
        bool,
        typer.Option("--forget", help="Forget what was found out, so that engines are tried anew."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show which engines are installed, and what was found out about them on this machine.

    Our own kernel runs a model without a trial, because it is exact by construction. Where it does
    not run a model, each other engine is tried once with it: compared with the exact arithmetic,
    and timed. That takes about two seconds, and is remembered for the model, the number of threads,
    the processor and the versions of the engines.

    Examples:

        anchorsr engines

        anchorsr engines --forget
    """
    if forget:
        count = forget_findings()
        words = "1 finding is forgotten" if count == 1 else f"{count} findings are forgotten"
        remark(words if count else "nothing was found out so far")
        return
    installed = [_native_row(), *(_engine_row(name) for name in ENGINES)]
    found = findings()
    names = {model.card.sha256: model.path.stem for model in list_models()}
    if as_json:
        rows = [_finding_row(finding, names) for finding in found]
        print_json({"engines": installed, "findings": rows})
        return
    table = Table("engine", "installed", "what brings it")
    for row in installed:
        table.add_row(row["engine"], row["installed"] or "no", row["brought_by"])
    print_table(table)
    if not found:
        remark("nothing was found out so far: no engine had to be tried on this machine")
        return
    table = Table("model", "threads", "engine", "compared with the exact arithmetic", "ms")
    for finding in found:
        for name, trial in finding.trials.items():
            words = f"refused: {trial.refusal}" if trial.refusal else trial.deviation
            table.add_row(
                _model(finding, names) + ("" if finding.applies else " (outdated)"),
                str(finding.threads),
                name,
                words,
                f"{trial.milliseconds:.1f}" if trial.milliseconds else "",
            )
    print_table(table)
    remark(f"kept in {cache_folder()}; ms are for one image of 256x256")


def _native_row() -> dict[str, str]:
    if not has_kernel():
        return {"engine": NATIVE, "installed": "", "brought_by": "a C compiler at installation"}
    sets = [name for name, usable in instruction_sets().items() if usable]
    return {"engine": NATIVE, "installed": ", ".join(sets), "brought_by": "anchorsr"}


def _engine_row(name: str) -> dict[str, str]:
    extra = _EXTRAS[name]
    return {
        "engine": name,
        "installed": installed_version(name) or "",
        "brought_by": f"pip install 'anchorsr[{extra}]'" if extra else "anchorsr",
    }


def _finding_row(finding: Finding, names: dict[str, str]) -> dict[str, Any]:
    return {
        "model": _model(finding, names),
        "threads": finding.threads,
        "outdated": not finding.applies,
        "trials": {name: dataclasses.asdict(trial) for name, trial in finding.trials.items()},
    }


def _model(finding: Finding, names: dict[str, str]) -> str:
    """The name of a shipped model, else the first digits of the file's digest."""
    return names.get(finding.model_sha256, finding.model_sha256[:12])
