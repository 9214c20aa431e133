"""Release a finished run: quantize it, score it, and write the INT8 `.tflite` and its card."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
    """Check that a model and its card may be written.

    Raises:
        OutputError: They may not, or `output` is not a `.tflite` file.
    """
    if output.suffix.lower() != ".tflite":
        raise OutputError(
            f"{output} does not end with .tflite; for ONNX, export that file afterwards"
        )
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
    """Quantize a run, write it as `output`, and write its card (`.json`) beside it.

    A network that no single file can hold for every size is written for `challenge.SIZE`.

    Args:
        run: The run's folder.
        output: The `.tflite` file.
        train: Whether to use quantization-aware training where the recipe has it.
        machine: Where and how to train.
        overwrite: Whether to replace existing files.
        on_loading: As of `quantization.qat.quantize_run`.
        on_progress: As of `quantization.qat.quantize_run`.

    Returns:
        For each validation folder of the run's recipe, the score of the float weights (method
        `float`) and of the file in LiteRT (`int8`).

    Raises:
        OutputError: The files may not be written.
        DataError: The validation folders cannot be measured.
        RecipeError: This is one of several processes.
        ExactnessError: LiteRT does not reproduce the integer arithmetic.
        AnchorSRError: What `quantize_run` raises.
    """
    check_release(output, overwrite=overwrite)
    check_not_input(_card(output), [run / RECORD, run / INTEGER_FOLDER / RECORD])
    if process_count() > 1:
        raise RecipeError("quantization runs in one process: start it without torchrun")
    recipe = read_run(run)
    train = train and recipe.quantization.schedule is not None
    check_validation(recipe, build_network(recipe.network).factor)
    graph = quantize_run(
        run, train=train, machine=machine, on_loading=on_loading, on_progress=on_progress
    )
    graph = dataclasses.replace(graph, name=output.stem)  # the model's name, not the architecture's
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
            evaluate_method(method, kind, Path(name), factor=graph.factor)
            for name in records["float"]["recipe"]["validation"]["folders"]
            for kind, method in methods.items()
        ]
    # The scores come first, so that the file is hardly ever without its card.
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
    """Return a score under the keys of cards."""
    return {
        "pictures" if name == "images" else name: value
        for name, value in dataclasses.asdict(score).items()
    }


def _card(output: Path) -> Path:
    return output.with_suffix(".json")
