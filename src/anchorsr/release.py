"""A finished run as a model that can be shipped: the INT8 `.tflite`, measured, and its card."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from anchorsr.errors import OutputError
from anchorsr.evaluate import Score, evaluate
from anchorsr.export import export
from anchorsr.files import check_free
from anchorsr.finetune import quantize_run, read_records
from anchorsr.models import write_card
from anchorsr.training import Machine, Progress


def check_release(output: Path, *, overwrite: bool) -> None:
    """Raise OutputError unless `output` is a `.tflite` that may be written, and its card too."""
    if output.suffix.lower() != ".tflite":
        raise OutputError(f"{output} does not end with .tflite; for ONNX, export that file after")
    for path in (output, _card(output)):
        check_free(path, overwrite=overwrite)


def release(
    run: Path,
    output: Path,
    *,
    train: bool = True,
    machine: Machine = Machine(),
    overwrite: bool = False,
    on_loading: Callable[[int, int], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> list[Score]:
    """Quantize a run, publish it as `output` and write its card (`.json`) beside it.

    Returns, for each validation folder of the run's recipe, the score of the float weights
    (method `float`) and of the file in LiteRT (`int8`). train: see `finetune.quantize_run`.
    Raises what that, `export` and `check_release` raise.
    """
    check_release(output, overwrite=overwrite)
    graph = quantize_run(
        run, train=train, machine=machine, on_loading=on_loading, on_progress=on_progress
    )
    graph = dataclasses.replace(graph, name=output.stem)  # one architecture, several models
    export(graph, output, overwrite=overwrite)
    records = read_records(run, trained=train)
    scores = [
        dataclasses.replace(evaluate(method, Path(name), factor=graph.factor), method=kind)
        for name in records["float"]["recipe"]["validation"]["folders"]
        for kind, method in (("float", run), ("int8", output))
    ]
    write_card(
        _card(output),
        output.read_bytes(),
        graph,
        figures=[dataclasses.asdict(score) for score in scores],
        runs=records,
        overwrite=overwrite,
    )
    return scores


def _card(output: Path) -> Path:
    return output.with_suffix(".json")
