"""How fast models run: engines × models × threads at one size, and how near the ceiling.

All cases are timed interleaved. The ceiling of an engine with some number of threads is the best
rate that it reaches on wide convolutions of the same height and width. Frames per second count
one call of an engine, from uint8 array to uint8 array.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from anchorsr.arrays import UInt8Array
from anchorsr.bench.baselines import (
    BICUBIC,
    KNOWN_FACTOR,
    KNOWN_PSNR,
    PUBLISHED,
    published_graph,
    wide_graph,
)
from anchorsr.engines.runtimes import NATIVE, load_engine
from anchorsr.errors import GraphError, ModelError
from anchorsr.evaluation.evaluate import evaluate, load_method
from anchorsr.graph.graph import Graph
from anchorsr.metrics import Score
from anchorsr.models.card import read_card
from anchorsr.models.registry import list_models, model_path, read_model
from anchorsr.serialization.tflite.summary import fixed_size
from anchorsr.serialization.tflite.writer import needs_size, write_tflite
from anchorsr.utils.sample_image import sample_image
from anchorsr.utils.timing import Times, count_progress, time_interleaved

# Wider ones are no faster, and take long.
_WIDE_CHANNELS = (64, 128)
_CEILING_ROUNDS = 5


class Case(NamedTuple):
    """What is timed: a model in an engine with a number of threads."""

    engine: str
    model: str
    threads: int


@dataclass(frozen=True)
class Speed:
    """One case: the median and the quartiles in milliseconds, and what follows from the median.

    Attributes:
        low_ms: The first quartile.
        high_ms: The third quartile.
        gmac_per_s: The rate, in 10^9 multiply-accumulates; None for bicubic and OpenCV.
        ceiling_gmac_per_s: The rate of wide convolutions; None likewise.
        share: The first over the second; None likewise.
        times_published: How many times as fast as the published network in LiteRT with as many
            threads, the median of the rounds' ratios; None if that was not measured.
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
    """List the shipped networks of a factor, then the published one and bicubic."""
    shipped = [model.path.stem for model in list_models() if model.factor == factor]
    return [*shipped, PUBLISHED, BICUBIC]


def is_network(model: str) -> bool:
    """Return whether `upscale` takes it: a shipped network or a `.tflite` file."""
    return model not in (PUBLISHED, BICUBIC) and not is_opencv(model)


def is_opencv(model: str) -> bool:
    """Return whether it names a model file of OpenCV's dnn_superres."""
    return Path(model).suffix.lower() == ".pb"


def measure_speed(
    models: Sequence[str],
    *,
    engines: Sequence[str],
    threads: Sequence[int],
    factor: int = 3,
    size: tuple[int, int] = (360, 640),
    rounds: int = 10,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Speed]:
    """Time every model in every engine with every number of threads.

    Args:
        models: Shipped names, `.tflite` files, `published`, `bicubic` (Pillow, one thread), and
            `.pb` files of OpenCV's dnn_superres.
        engines: Names of engines.
        threads: Numbers of processor threads.
        factor: The models' factor.
        size: Height and width of the input.
        rounds: Timed calls of each case.
        on_progress: Called with (calls made, calls to make).

    Raises:
        ModelError: An unknown model, or one of another factor.
    """
    graphs = {name: read_graph(name, factor) for name in models if not _is_plain(name)}
    image = sample_image(*size)
    cases = _cases(models, engines, threads)
    wide = {f"wide{channels}": wide_graph(channels) for channels in _WIDE_CHANNELS}
    wide_cases = _cases(tuple(wide), engines, threads)
    # One more round of each is a warm-up.
    total = len(cases) * (rounds + 1) + len(wide_cases) * (_CEILING_ROUNDS + 1)
    on_call = count_progress(on_progress, total)
    calls = {case: _call(case, graphs.get(case.model), image, factor) for case in cases}
    times = time_interleaved(calls, rounds=rounds, on_call=on_call)
    calls.clear()  # frees the memory that the wide convolutions need
    calls = {case: _call(case, wide[case.model], image, 1) for case in wide_cases}
    wide_times = time_interleaved(calls, rounds=_CEILING_ROUNDS, on_call=on_call)
    ceilings: dict[tuple[str, int], float] = {}
    for case, taken in wide_times.items():
        key = case.engine, case.threads
        rate = _gmac_per_s(wide[case.model], size, min(taken.seconds))
        ceilings[key] = max(ceilings.get(key, 0.0), rate)
    return [
        _speed(case, times, graphs.get(case.model), ceilings, size=size, factor=factor)
        for case in cases
    ]


def find_quality(
    models: Sequence[str], *, factor: int, test_set: str, images: Path | None = None
) -> dict[str, float]:
    """Look up or measure the PSNR of models on a test set.

    Args:
        models: As `measure_speed` takes.
        factor: The models' factor.
        test_set: Its name.
        images: The test set's folder, to measure the models on. Without it, the figures are those
            of the models' cards. That of the published network is always its authors' file's.

    Returns:
        PSNR over RGB in dB by model; those without a finite figure are left out.
    """
    found: dict[str, float] = {}
    for name in models:
        known = KNOWN_PSNR.get(name, {}) if factor == KNOWN_FACTOR else {}
        if images is not None and name != PUBLISHED:
            found[name] = evaluate(name, images, factor=factor).psnr_rgb
        elif test_set in known:
            found[name] = known[test_set]
        elif is_network(name):
            for score in _card_scores(model_path(name, factor)):
                if (score.method, score.test_set) == ("int8", test_set):
                    found[name] = score.psnr_rgb
    return {name: value for name, value in found.items() if math.isfinite(value)}


def check_fixed_sizes(
    models: Sequence[str], *, factor: int, size: tuple[int, int], scaling: bool
) -> None:
    """Refuse files of fixed size that do not take every size that is to be measured.

    Args:
        models: Shipped models and `.tflite` files.
        factor: The models' factor.
        size: Height and width of the input.
        scaling: Whether other sizes are to be measured too.

    Raises:
        ModelError: A file takes another size only.
    """
    for name in models:
        data, graph = read_model(model_path(name, factor))
        fixed = fixed_size(data)
        if fixed is not None and (fixed != size or (scaling and needs_size(graph))):
            sides = f"{fixed[1]}x{fixed[0]}"
            more = ", without --scaling" if needs_size(graph) else ""
            raise ModelError(f"{name} only takes {sides} images: give --size {sides}{more}")


def _card_scores(path: Path) -> tuple[Score, ...]:
    """What the card beside a model file says, if it has one that is of this very file."""
    try:
        return read_card(path).figures
    except ModelError:
        return ()


def read_graph(model: str, factor: int) -> Graph:
    """Read the graph of `published`, a shipped network or a `.tflite` file.

    Raises:
        GraphError: It has another factor.
        ModelError: An unknown model, or a file that is none.
    """
    graph = (
        published_graph(factor) if model == PUBLISHED else read_model(model_path(model, factor))[1]
    )
    if graph.factor != factor:
        raise GraphError(f"{model} upscales {graph.factor} times, not {factor}")
    return graph


def _is_plain(model: str) -> bool:
    """Return whether it runs without an engine of ours."""
    return model == BICUBIC or is_opencv(model)


def _cases(models: Sequence[str], engines: Sequence[str], threads: Sequence[int]) -> list[Case]:
    cases = []
    for model in models:
        if model == BICUBIC:
            cases.append(Case("pillow", model, 1))
        elif is_opencv(model):
            cases += [Case("opencv", model, count) for count in threads]
        else:
            # The kernel has not all of the published network's operators.
            able = [name for name in engines if (name, model) != (NATIVE, PUBLISHED)]
            cases += [Case(engine, model, count) for engine in able for count in threads]
    return cases


def _call(case: Case, graph: Graph | None, image: UInt8Array, factor: int) -> Callable[[], object]:
    if graph is None:
        method = load_method(case.model, factor, threads=case.threads)
        return lambda: method(image)
    data = write_tflite(graph, size=(image.shape[0], image.shape[1]))
    engine = load_engine(data, name=case.engine, threads=case.threads)
    return lambda: engine(image[None])


def _gmac_per_s(graph: Graph, size: tuple[int, int], seconds: float) -> float:
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
        rate = _gmac_per_s(graph, size, taken.median)
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
        times_published=None if published is None else taken.speedup_over(published),
    )
