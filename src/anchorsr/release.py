"""A finished run as a model that can be shipped: the INT8 `.tflite`, measured, and its card."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from anchorsr.challenge import SIZE
from anchorsr.errors import OutputError
from anchorsr.evaluate import Score, evaluate_method, load_method, run_at_every_size
from anchorsr.export import export
from anchorsr.files import check_free
from anchorsr.finetune import quantize_run, read_records
from anchorsr.models import write_card
from anchorsr.runs import read_run
from anchorsr.tflite import needs_size
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
    Where no file can be for every size it is for `challenge.SIZE`; scores need one for each
    picture.
    Raises what that, `export` and `check_release` raise.
    """
    check_release(output, overwrite=overwrite)
    train = train and read_run(run).quantization.schedule is not None
    graph = quantize_run(
        run, train=train, machine=machine, on_loading=on_loading, on_progress=on_progress
    )
    graph = dataclasses.replace(graph, name=output.stem)  # one architecture, several models
    size = SIZE if needs_size(graph) else None
    export(graph, output, size=size, overwrite=overwrite)
    in_tiles = graph.is_local and size is None
    method = load_method(output, graph.factor) if in_tiles else run_at_every_size(graph)
    records = read_records(run, trained=train)
    methods = {"float": load_method(run, graph.factor), "int8": method}
    scores = [
        evaluate_method(method, kind, Path(name), factor=graph.factor)
        for name in records["float"]["recipe"]["validation"]["folders"]
        for kind, method in methods.items()
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
