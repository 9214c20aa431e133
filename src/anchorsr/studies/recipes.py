"""Networks trained by recipes that differ in one thing, compared: float, INT8, time.

Each recipe is trained to its end, turned into integers twice (calibrated only, as after training
in floating point; and trained as integers), measured on the recipe's validation sets, and timed
as INT8 in each engine, all taking turns.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anchorsr.bench.samples import natural_image
from anchorsr.bench.timing import Times, take_turns
from anchorsr.engines.runtimes import load_engine
from anchorsr.errors import GraphError, RecipeError
from anchorsr.evaluation.evaluate import Method, evaluate_method, run_at_every_size
from anchorsr.graph.graph import Graph
from anchorsr.networks.registry import build_network
from anchorsr.quantization.qat import quantize_run
from anchorsr.serialization.tflite.writer import write_tflite
from anchorsr.training.checkpoint import load_weights
from anchorsr.training.distributed import process_count
from anchorsr.training.recipe import Recipe, read_recipe
from anchorsr.training.trainer import Machine, train
from anchorsr.training.validation import check_validation, upscale_float


@dataclass(frozen=True)
class Studied:
    """One recipe's outcome. PSNR over RGB in dB by the name of the set; milliseconds by engine.

    calibrated: INT8 after calibration alone; trained: after training the integers, None where
    the recipe has none of it.
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
) -> list[Studied]:
    """Compare recipes whose runs are, or will be, the folders of their names in `folder`.

    Finished runs are not trained again, and a started one goes on. engines, threads, size and
    rounds are those of the timing. callbacks: on_loading and on_progress, as `training.fit` has.
    Raises what `training.train`, `finetune.quantize_run` and the engines raise.
    """
    parsed = [(path.stem, read_recipe(path)) for path in recipes]
    _check(parsed)
    done = []
    for name, recipe in parsed:
        if on_recipe is not None:
            on_recipe(name)
        run = folder / name
        record = train(recipe, run, machine=machine, **callbacks)
        calibrated = quantize_run(run, train=False, machine=machine)
        trained = None
        if recipe.quantization.schedule is not None:
            trained = quantize_run(run, machine=machine, **callbacks)
        done.append((name, recipe, record["step"], calibrated, trained))
    graphs = {name: trained or calibrated for name, _, _, calibrated, trained in done}
    speeds = measure_graphs(graphs, engines=engines, threads=threads, size=size, rounds=rounds)
    return [
        Studied(
            run=name,
            factor=calibrated.factor,
            parameters=calibrated.parameter_count,
            macs_per_pixel=calibrated.macs_per_pixel,
            steps=steps,
            float_psnr=_float_psnr(folder / name, recipe),
            calibrated_psnr=graph_psnr(calibrated, recipe),
            trained_psnr=None if trained is None else graph_psnr(trained, recipe),
            latency_ms={
                engine: times.median * 1000
                for (graph, engine), times in speeds.items()
                if graph == name
            },
        )
        for name, recipe, steps, calibrated, trained in done
    ]


def _check(parsed: Sequence[tuple[str, Recipe]]) -> None:
    """What is wrong with a later recipe is told before the first one is trained."""
    if process_count() > 1:
        raise RecipeError("a study is made by one process: start it without torchrun")
    names = [name for name, _ in parsed]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise RecipeError(f"two recipes are named {twice[0]}, and would have one run")
    for name, recipe in parsed:
        try:
            check_validation(recipe, build_network(recipe.network).factor)
        except RecipeError as error:
            raise RecipeError(f"{name}: {error}") from error


def graph_psnr(graph: Graph, recipe: Recipe) -> dict[str, float]:
    """PSNR over RGB of an integer graph in LiteRT, on each validation set of the recipe."""
    return _psnr(run_at_every_size(graph), graph.factor, recipe)


def measure_graphs(
    graphs: dict[str, Graph],
    *,
    engines: Sequence[str],
    threads: int,
    size: tuple[int, int],
    rounds: int,
) -> dict[tuple[str, str], Times]:
    """The times of each integer graph in each engine that has a form of it, all taking turns."""
    image = natural_image(*size)[None]
    calls = {}
    for name, graph in graphs.items():
        for engine in engines:
            with suppress(GraphError):  # a graph that an engine has no form of
                loaded = load_engine(write_tflite(graph, size=size), name=engine, threads=threads)
                calls[name, engine] = functools.partial(loaded, image)
    return take_turns(calls, rounds=rounds)


def _float_psnr(run: Path, recipe: Recipe) -> dict[str, float]:
    network = load_weights(run)
    return _psnr(functools.partial(upscale_float, network), network.factor, recipe)


def _psnr(method: Method, factor: int, recipe: Recipe) -> dict[str, float]:
    scores = [
        evaluate_method(method, "", Path(name), factor=factor) for name in recipe.validation.folders
    ]
    return {row.test_set: row.psnr_rgb for row in scores}
