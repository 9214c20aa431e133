"""Release a finished run: quantize it, score it, and write the INT8 `.tflite` and its card."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from anchorsr.data.damage import NO_DAMAGE, USUAL, Damage, parse_damage
from anchorsr.data.strengths import CLEAN, Strengths
from anchorsr.errors import ModelError, OutputError, RecipeError
from anchorsr.evaluation.evaluate import (
    Method,
    Score,
    evaluate_method,
    float_method,
    load_method,
    run_at_every_size,
)
from anchorsr.export.challenge import SIZE
from anchorsr.export.export import make_file
from anchorsr.graph.graph import Graph
from anchorsr.models.card import ModelCard, read_card, write_card
from anchorsr.models.registry import CONDITIONING
from anchorsr.quantization.qat import QuantizedRun, quantize
from anchorsr.serialization.tflite.writer import needs_size
from anchorsr.training.checkpoint import CHECKPOINT, RECORD, load_run
from anchorsr.training.distributed import process_count
from anchorsr.training.machine import Machine
from anchorsr.training.progress import TrainingProgress
from anchorsr.utils.files import check_free, input_first, publish
from anchorsr.utils.temporary import temporary_folder


def release(
    run: Path,
    output: Path,
    *,
    qat: bool = True,
    unfinished: bool = False,
    strengths: Strengths = CLEAN,
    machine: Machine = Machine(),
    overwrite: bool = False,
    on_loading: Callable[[int, int], None] | None = None,
    on_progress: Callable[[TrainingProgress], None] | None = None,
) -> list[Score]:
    """Quantize a run, publish it as `output`, and write its card (`.json`) beside it.

    A graph that cannot be stored for every size is stored for `challenge.SIZE`; for the scores it
    is then built for the size of each image.

    Args:
        run: The folder of the run.
        output: The `.tflite` file to write.
        qat: Whether to use quantization-aware training, where the recipe has a schedule for it.
        unfinished: Whether to accept a run that has not taken all its steps.
        strengths: For a plain file of a conditioned network: the degradation of the images that it
            is for. Without any, the file holds the network for clean images and the table that
            makes those for other strengths.
        machine: What to compute on.
        overwrite: Whether to replace existing files.
        on_loading: As in `train`.
        on_progress: As in `train`.

    Returns:
        For each validation folder of the recipe, the score of the float weights (method `float`)
        and of the file in LiteRT (`int8`), on images that are degraded to the strengths. A file
        for all strengths is scored on the usual damages.

    Raises:
        OutputError: A file may not be written.
        RecipeError: Several processes were started, or the network takes no such strength.
        CheckpointError: As in `quantize`.
        DataError: A validation folder cannot be measured.
        ExactnessError: LiteRT differs from the integer arithmetic.
    """
    with input_first(lambda: load_run(run)):
        _check_output(output, overwrite=overwrite)
    if process_count() > 1:
        raise RecipeError("a model is quantized by one process: start it without torchrun")
    quantized = quantize(
        run,
        qat=qat,
        unfinished=unfinished,
        machine=machine,
        on_loading=on_loading,
        on_progress=on_progress,
    )
    graph, metadata = _graph_for(quantized, strengths)
    graph = dataclasses.replace(graph, name=output.stem)  # one network, several models
    size = SIZE if needs_size(graph) else None
    data = make_file(graph, output, size=size, metadata=metadata)
    with temporary_folder() as folder:
        int8 = run_at_every_size(graph)
        if graph.is_local and size is None:
            measured = folder / output.name
            measured.write_bytes(data)
            int8 = load_method(measured, graph.factor)
        methods: dict[str, Method] = {
            "float": float_method(quantized.run.network),
            "int8": int8,
        }
        damages = [Damage(NO_DAMAGE.kind, strengths=strengths)]
        if metadata:  # one file for all strengths
            damages = [parse_damage(name) for name in USUAL]
        scores = [
            evaluate_method(method, kind, Path(name), factor=graph.factor, damage=damage)
            for name in quantized.run.recipe.validation.folders
            for damage in damages
            for kind, method in methods.items()
        ]
    card = ModelCard.of_file(data, graph, figures=scores, runs=quantized.records)
    _publish(output, data, card, overwrite=overwrite)
    return scores


def _publish(output: Path, data: bytes, card: ModelCard, *, overwrite: bool) -> None:
    """Write a model and its card, or neither.

    The card comes first. If the process is killed then, the next run finds the card of the file
    that it makes, and goes on; a file without its card would be in its way.
    """
    path = _card(output)
    earlier = path.read_bytes() if path.exists() else None
    if not overwrite and earlier is not None:
        overwrite_card = not output.exists() and read_card(output).sha256 == card.sha256
    else:
        overwrite_card = overwrite
    write_card(path, card, overwrite=overwrite_card)
    try:
        publish(data, output, overwrite=overwrite)
    except BaseException:
        with contextlib.suppress(OSError, OutputError):
            if earlier is None:
                path.unlink()
            else:
                publish(earlier, path, overwrite=True)
        raise


def _graph_for(quantized: QuantizedRun, strengths: Strengths) -> tuple[Graph, Mapping[str, bytes]]:
    """Return the graph for images of given strengths, and the metadata of its file."""
    given, table = strengths.as_table(), quantized.conditioning
    if table is None:
        if given:
            raise RecipeError(f"the network is not conditioned: it takes no strength {min(given)}")
        return quantized.graph, {}
    if given:
        return table.apply(quantized.graph, given), {}
    return quantized.graph, {CONDITIONING: table.to_bytes()}


def _check_output(output: Path, *, overwrite: bool) -> None:
    """Raise OutputError unless `output` is a `.tflite` that may be written, and its card too."""
    if output.suffix.lower() != ".tflite":
        raise OutputError(f"{output} does not end with .tflite; for ONNX, export that file after")
    card = _card(output)
    if card.name == RECORD and (card.parent / CHECKPOINT).exists():
        raise OutputError(f"{card} is the record of a run: write to another name")
    check_free(output, overwrite=overwrite)
    check_free(card, overwrite=overwrite or _is_card_alone(output))


def _is_card_alone(output: Path) -> bool:
    """Whether there is a model's card without the model, as a run that was killed may leave it."""
    try:
        return not os.path.lexists(output) and bool(read_card(output))
    except ModelError:
        return False


def _card(output: Path) -> Path:
    return output.with_suffix(".json")
