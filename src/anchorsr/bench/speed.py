"""How fast models run: engines × models × threads at one size, and how far from the ceiling.

Every case takes its turn in every round. The ceiling of an engine with some threads is the best
rate that it reaches on wide convolutions of the same height and width. Frames per second count
one call of an engine, uint8 array to uint8 array.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import numpy as np
import numpy.typing as npt

from anchorsr.bench.baselines import (
    BICUBIC,
    KNOWN_FACTOR,
    KNOWN_PSNR,
    PUBLISHED,
    published_graph,
    wide_graph,
)
from anchorsr.bench.samples import natural_image
from anchorsr.bench.timing import Times, take_turns
from anchorsr.engines.runtimes import load_engine
from anchorsr.errors import GraphError, ModelError
from anchorsr.evaluation.evaluate import evaluate, load_method
from anchorsr.graph.graph import Graph
from anchorsr.models.registry import list_models, model_path, read_card, read_model
from anchorsr.serialization.tflite.summary import fixed_size
from anchorsr.serialization.tflite.writer import needs_size, write_tflite

UInt8Array = npt.NDArray[np.uint8]

# Wider ones are no faster, and take long.
_WIDE_CHANNELS = (64, 128)
_CEILING_ROUNDS = 5


class Case(NamedTuple):
    """What takes a turn."""

    engine: str
    model: str
    threads: int


@dataclass(frozen=True)
class Speed:
    """One case: median and quartiles in milliseconds, and what follows from the median.

    gmac_per_s, ceiling_gmac_per_s, share: None for what is no network of ours. times_published:
    how many times as fast as the published network in LiteRT with as many threads, round by
    round; None if that was not measured.
    """

    engine: str
    model: str
    threads: int
    height: int
    width: int
    factor: int
    rounds: int
    median_ms: float
    low_ms: float
    high_ms: float
    frames_per_s: float
    gmac_per_s: float | None
    ceiling_gmac_per_s: float | None
    share: float | None
    times_published: float | None


def default_models(factor: int) -> list[str]:
    """The shipped networks of a factor, the published one and bicubic."""
    shipped = [model.path.stem for model in list_models() if model.factor == factor]
    return [*shipped, PUBLISHED, BICUBIC]


def is_network(model: str) -> bool:
    """True for a shipped network or a `.tflite`: what `upscale` takes."""
    return model not in (PUBLISHED, BICUBIC) and not is_opencv(model)


def is_opencv(model: str) -> bool:
    """True for the name of a model file of OpenCV's dnn_superres."""
    return Path(model).suffix.lower() == ".pb"


def count_turns(
    models: Sequence[str], engines: Sequence[str], threads: Sequence[int], rounds: int
) -> int:
    """How often `measure_speed` calls `on_call`."""
    ceilings = len(engines) * len(threads) * len(_WIDE_CHANNELS)
    return len(_cases(models, engines, threads)) * (rounds + 1) + ceilings * (_CEILING_ROUNDS + 1)


def measure_speed(
    models: Sequence[str],
    *,
    engines: Sequence[str],
    threads: Sequence[int],
    factor: int = 3,
    size: tuple[int, int] = (360, 640),
    rounds: int = 10,
    on_call: Callable[[], None] | None = None,
) -> list[Speed]:
    """Time every model in every engine with every number of threads.

    models: shipped names, `.tflite` files, `published`, `bicubic` (Pillow, one thread), and
    `.pb` files of OpenCV's dnn_superres. size: height and width of the input.
    Raises ModelError for an unknown model or one of another factor.
    """
    graphs = {name: read_graph(name, factor) for name in models if not _is_plain(name)}
    image = natural_image(*size)
    cases = _cases(models, engines, threads)
    calls = {case: _call(case, graphs.get(case.model), image, factor) for case in cases}
    times = take_turns(calls, rounds=rounds, on_call=on_call)
    calls.clear()  # the ceiling needs the memory
    ceilings = _ceilings(engines, threads, size, on_call)
    return [
        _speed(case, times, graphs.get(case.model), ceilings, size=size, factor=factor)
        for case in cases
    ]


def find_quality(
    models: Sequence[str], *, factor: int, test_set: str, images: Path | None = None
) -> dict[str, float]:
    """PSNR over RGB in dB of those models whose figure on a test set is known, and not infinite.

    images: a test set to measure them on, whose name is `test_set`; without it the figures are
    those of the models' cards. That of the published network is the one of its authors' file.
    """
    found: dict[str, Any] = {}
    for name in models:
        known = KNOWN_PSNR.get(name, {}) if factor == KNOWN_FACTOR else {}
        if images is not None and name != PUBLISHED:
            found[name] = evaluate(name, images, factor=factor).psnr_rgb
        elif test_set in known:
            found[name] = known[test_set]
        elif is_network(name):
            for row in _figures(model_path(name, factor)):
                if (row.get("method"), row.get("test_set")) == ("int8", test_set):
                    found[name] = row.get("psnr_rgb")
    return {name: value for name, value in found.items() if _is_finite(value)}


def _is_finite(value: object) -> TypeGuard[float]:
    """A card's figure can be null, that of equal images, and cards can be written by hand."""
    return isinstance(value, int | float) and math.isfinite(value)


def check_fixed_sizes(
    models: Sequence[str], *, factor: int, size: tuple[int, int], growth: bool
) -> None:
    """Raise ModelError for a file of fixed size that does not take all that is to be measured."""
    for name in models:
        data, graph = read_model(model_path(name, factor))
        fixed = fixed_size(data)
        if fixed is not None and (fixed != size or (growth and needs_size(graph))):
            sides = "x".join(map(str, fixed))
            more = ", without --growth" if needs_size(graph) else ""
            raise ModelError(f"{name} takes only {sides}: give --size {sides}{more}")


def _figures(path: Path) -> list[dict[str, Any]]:
    """What the card beside a model file says, if it has one that is of this very file."""
    try:
        card = read_card(path)
    except ModelError:
        return []
    figures = card.get("figures") if card.get("sha256") else None
    return [row for row in figures if isinstance(row, dict)] if isinstance(figures, list) else []


def read_graph(model: str, factor: int) -> Graph:
    """The graph of `published`, a shipped network or a `.tflite` file."""
    graph = (
        published_graph(factor) if model == PUBLISHED else read_model(model_path(model, factor))[1]
    )
    if graph.factor != factor:
        raise GraphError(f"{model} enlarges {graph.factor} times, not {factor}")
    return graph


def _is_plain(model: str) -> bool:
    """True for what runs without one of our engines."""
    return model == BICUBIC or is_opencv(model)


def _cases(models: Sequence[str], engines: Sequence[str], threads: Sequence[int]) -> list[Case]:
    cases = []
    for model in models:
        if model == BICUBIC:
            cases.append(Case("pillow", model, 1))
        elif is_opencv(model):
            cases += [Case("opencv", model, count) for count in threads]
        else:
            cases += [Case(engine, model, count) for engine in engines for count in threads]
    return cases


def _call(case: Case, graph: Graph | None, image: UInt8Array, factor: int) -> Callable[[], object]:
    if graph is None:
        method = load_method(case.model, factor, threads=case.threads)
        return lambda: method(image)
    data = write_tflite(graph, size=(image.shape[0], image.shape[1]))
    engine = load_engine(data, name=case.engine, threads=case.threads)
    return lambda: engine(image[None])


def _ceilings(
    engines: Sequence[str],
    threads: Sequence[int],
    size: tuple[int, int],
    on_call: Callable[[], None] | None,
) -> dict[tuple[str, int], float]:
    """GMAC/s of each engine with each number of threads, at best."""
    image = natural_image(*size)
    graphs = {f"wide{channels}": wide_graph(channels) for channels in _WIDE_CHANNELS}
    cases = [Case(e, name, count) for name in graphs for e in engines for count in threads]
    calls = {case: _call(case, graphs[case.model], image, 1) for case in cases}
    times = take_turns(calls, rounds=_CEILING_ROUNDS, on_call=on_call)
    best: dict[tuple[str, int], float] = {}
    for case, taken in times.items():
        rate = _rate(graphs[case.model], size, min(taken.seconds))
        key = (case.engine, case.threads)
        best[key] = max(best.get(key, 0.0), rate)
    return best


def _rate(graph: Graph, size: tuple[int, int], seconds: float) -> float:
    """Thousands of millions of multiplications and additions in a second."""
    return graph.macs_per_pixel * size[0] * size[1] / seconds / 1e9


def _speed(
    case: Case,
    times: dict[Case, Times],
    graph: Graph | None,
    ceilings: dict[tuple[str, int], float],
    *,
    size: tuple[int, int],
    factor: int,
) -> Speed:
    taken = times[case]
    published = times.get(Case("litert", PUBLISHED, case.threads))
    rate = ceiling = None
    if graph is not None:
        rate = _rate(graph, size, taken.median)
        ceiling = ceilings[case.engine, case.threads]
    low, high = taken.quartiles
    return Speed(
        engine=case.engine,
        model=case.model,
        threads=case.threads,
        height=size[0],
        width=size[1],
        factor=factor,
        rounds=len(taken.seconds),
        median_ms=taken.median * 1000,
        low_ms=low * 1000,
        high_ms=high * 1000,
        frames_per_s=1 / taken.median,
        gmac_per_s=rate,
        ceiling_gmac_per_s=ceiling,
        share=None if rate is None or ceiling is None else rate / ceiling,
        times_published=None if published is None else taken.relative_to(published),
    )
