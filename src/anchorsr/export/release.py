"""A finished run as a model that can be shipped: the INT8 `.tflite`, measured, and its card."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from anchorsr.data.damage import NO_DAMAGE, Damage
from anchorsr.data.strengths import CLEAN, Strengths
from anchorsr.errors import OutputError, RecipeError
from anchorsr.evaluation.evaluate import Score, evaluate_method, load_method, run_at_every_size
from anchorsr.export.challenge import SIZE
from anchorsr.export.export import make_file
from anchorsr.models.registry import write_card
from anchorsr.networks.registry import build_network
from anchorsr.quantization.qat import INTEGER_FOLDER, quantize_run, read_records
from anchorsr.serialization.tflite.writer import needs_size
from anchorsr.training.checkpoint import RECORD, read_run
from anchorsr.training.distributed import process_count
from anchorsr.training.trainer import Machine, Progress
from anchorsr.training.validation import check_validation
from anchorsr.utils.files import check_free, check_not_input, publish


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
    strengths: Strengths = CLEAN,
    machine: Machine = Machine(),
    overwrite: bool = False,
    on_loading: Callable[[int, int], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> list[Score]:
    """Quantize a run, publish it as `output` and write its card (`.json`) beside it.

    Returns, for each validation folder of the run's recipe, the score of the float weights
    (method `float`) and of the file in LiteRT (`int8`), on images that were degraded as strengths
    say. train, strengths: see `qat.quantize_run`.
    Where no file can be for every size it is for `challenge.SIZE`; scores need one for each
    image.
    Raises what that, `export.make_file` and `check_release` raise, DataError for validation
    folders that cannot be measured, and RecipeError in one of several processes.
    """
    check_release(output, overwrite=overwrite)
    check_not_input(_card(output), [run / RECORD, run / INTEGER_FOLDER / RECORD])
    if process_count() > 1:
        raise RecipeError("a model is quantized by one process: start it without torchrun")
    recipe = read_run(run)
    train = train and recipe.quantization.schedule is not None
    check_validation(recipe, build_network(recipe.network).factor)
    damage = Damage(NO_DAMAGE.kind, strengths=strengths)
    graph = quantize_run(
        run,
        train=train,
        strengths=strengths,
        machine=machine,
        on_loading=on_loading,
        on_progress=on_progress,
    )
    graph = dataclasses.replace(graph, name=output.stem)  # one architecture, several models
    size = SIZE if needs_size(graph) else None
    data = make_file(graph, output, size=size)
    records = read_records(run, trained=train)
    with tempfile.TemporaryDirectory() as beside:
        methods = {"float": load_method(run, graph.factor), "int8": run_at_every_size(graph)}
        if graph.is_local and size is None:
            measured = Path(beside, output.name)
            measured.write_bytes(data)
            methods["int8"] = load_method(measured, graph.factor)
        scores = [
            evaluate_method(method, kind, Path(name), factor=graph.factor, damage=damage)
            for name in records["float"]["recipe"]["validation"]["folders"]
            for kind, method in methods.items()
        ]
    # Only now, so that no file is without its card for long.
    publish(data, output, overwrite=overwrite)
    write_card(
        _card(output),
        data,
        graph,
        figures=[_figures(score) for score in scores],
        runs=records,
        overwrite=overwrite,
    )
    return scores


def _figures(score: Score) -> dict[str, Any]:
    """A score under the names that cards have for its parts."""
    return {
        "pictures" if name == "images" else name: value
        for name, value in dataclasses.asdict(score).items()
    }


def _card(output: Path) -> Path:
    return output.with_suffix(".json")
