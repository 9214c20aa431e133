"""Recipes that differ in one thing, compared: float PSNR, INT8 PSNR and time.

Each recipe is trained to its end, quantized twice (post-training quantization and, where the
recipe has it, quantization-aware training), scored on its validation sets, and timed as INT8 in
each engine, all interleaved.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anchorsr.engines.runtimes import load_engine
from anchorsr.errors import GraphError, RecipeError
from anchorsr.evaluation.evaluate import Method, evaluate_method, run_at_every_size
from anchorsr.graph.graph import Graph
from anchorsr.networks.inference import upscale_float
from anchorsr.networks.registry import build_network
from anchorsr.quantization.qat import quantize
from anchorsr.serialization.tflite.writer import write_tflite
from anchorsr.training.checkpoint import TrainingRun
from anchorsr.training.distributed import process_count
from anchorsr.training.machine import Machine
from anchorsr.training.recipe import Recipe, read_recipe
from anchorsr.training.trainer import train
from anchorsr.training.validation import check_validation
from anchorsr.utils.sample_image import sample_image
from anchorsr.utils.timing import Times, time_interleaved


@dataclass(frozen=True)
class StudyResult:
    """The result of one recipe. PSNR is over RGB in dB, by validation set.

    Attributes:
        calibrated_psnr: INT8 after post-training quantization.
        trained_psnr: INT8 after quantization-aware training; None where the recipe has none.
        latency_ms: The median time of an INT8 call, by engine.
    """

    run: str
    factor: int
    parameters: int
    macs_per_pixel: int
    steps: int
    float_psnr: dict[str, float]
    calibrated_psnr: dict[str, float]
    trained_psnr: dict[str, float] | None
    latency_ms: dict[str, float]


def run_study(
    recipes: Sequence[Path],
    folder: Path,
    *,
    engines: Sequence[str],
    threads: int = 0,
    size: tuple[int, int] = (360, 640),
    rounds: int = 10,
    machine: Machine = Machine(),
    on_recipe: Callable[[str], None] | None = None,
    **callbacks: Any,
) -> list[StudyResult]:
    """Train, quantize, score and time recipes.

    Finished runs are not trained again, and a stopped one is resumed.

    Args:
        recipes: TOML files.
        folder: Where the runs are, or will be: a folder each, with the name of its recipe.
        engines: Those to time in.
        threads: Of the timing; 0 means all processors.
        size: Height and width of the input of the timing.
        rounds: Timed calls of each network.
        machine: Where and how to train.
        on_recipe: Called with the name of each recipe before it is trained.
        callbacks: `on_loading` and `on_progress`, as of `training.trainer.train`.

    Raises:
        RecipeError: A recipe is wrong, two have one name, or there are several processes.
        AnchorSRError: What `train`, `quantize` and the engines raise.
    """
    parsed = [(path.stem, read_recipe(path)) for path in recipes]
    _check(parsed)
    done = []
    for name, recipe in parsed:
        if on_recipe is not None:
            on_recipe(name)
        run = train(recipe, folder / name, machine=machine, **callbacks)
        calibrated = quantize(run, qat=False, machine=machine).graph
        trained = None
        if recipe.quantization.schedule is not None:
            trained = quantize(run, machine=machine, **callbacks).graph
        done.append((name, run, calibrated, trained))
    graphs = {name: trained or calibrated for name, _, calibrated, trained in done}
    speeds = measure_graphs(graphs, engines=engines, threads=threads, size=size, rounds=rounds)
    return [
        StudyResult(
            run=name,
            factor=calibrated.factor,
            parameters=calibrated.parameter_count,
            macs_per_pixel=calibrated.macs_per_pixel,
            steps=run.step,
            float_psnr=_float_psnr(run),
            calibrated_psnr=graph_psnr(calibrated, run.recipe),
            trained_psnr=None if trained is None else graph_psnr(trained, run.recipe),
            latency_ms={
                engine: times.median * 1000
                for (graph, engine), times in speeds.items()
                if graph == name
            },
        )
        for name, run, calibrated, trained in done
    ]


def _check(parsed: Sequence[tuple[str, Recipe]]) -> None:
    """Check all recipes before the first one is trained."""
    if process_count() > 1:
        raise RecipeError("a study runs in one process: start it without torchrun")
    names = [name for name, _ in parsed]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise RecipeError(f"two recipes are named {twice[0]} and would share a run")
    for name, recipe in parsed:
        try:
            check_validation(recipe, build_network(recipe.network).factor)
        except RecipeError as error:
            raise RecipeError(f"{name}: {error}") from error


def graph_psnr(graph: Graph, recipe: Recipe) -> dict[str, float]:
    """Measure the PSNR over RGB of an integer graph in LiteRT, by validation set of the recipe."""
    return _psnr(run_at_every_size(graph), graph.factor, recipe)


def measure_graphs(
    graphs: dict[str, Graph],
    *,
    engines: Sequence[str],
    threads: int,
    size: tuple[int, int],
    rounds: int,
) -> dict[tuple[str, str], Times]:
    """Time each integer graph in each engine that supports it, interleaved.

    Returns:
        The times by (graph, engine).
    """
    image = sample_image(*size)[None]
    calls = {}
    for name, graph in graphs.items():
        for engine in engines:
            with suppress(GraphError):  # the file format lacks one of its operators
                loaded = load_engine(write_tflite(graph, size=size), name=engine, threads=threads)
                calls[name, engine] = functools.partial(loaded, image)
    return time_interleaved(calls, rounds=rounds)


def _float_psnr(run: TrainingRun) -> dict[str, float]:
    return _psnr(functools.partial(upscale_float, run.network), run.network.factor, run.recipe)


def _psnr(method: Method, factor: int, recipe: Recipe) -> dict[str, float]:
    scores = [
        evaluate_method(method, "", Path(name), factor=factor) for name in recipe.validation.folders
    ]
    return {row.test_set: row.psnr_rgb for row in scores}
