"""What each operator costs in each engine, and whether a network for this machine can afford it.

All graphs of one cost take turns; what they are and how their times are summed is `probe_terms`'.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, get_args

import numpy as np

from anchorsr.bench.samples import natural_image
from anchorsr.bench.timing import take_turns
from anchorsr.engines.runtimes import Number, load_engine
from anchorsr.errors import BenchmarkError, GraphError, ModelError
from anchorsr.graph.graph import Graph
from anchorsr.serialization.onnx import write_onnx
from anchorsr.serialization.tflite.writer import write_tflite
from anchorsr.studies.op_costs import Probe, Residual, Span, cost_terms, sum_terms
from anchorsr.studies.op_graphs import IMAGE, OperatorClass, Precision, Tail

PRECISIONS: tuple[Precision, ...] = get_args(Precision)
# A convolution 3×3 from as many to as many channels: what others are held against.
REFERENCE = "conv3x3"
# An operator is affordable that takes at most this share of the reference's time.
AFFORDABLE = 0.5
# Enough for threads to fall asleep that spun after the call before, which was of the same engine.
PAUSE_S = 0.01
_NUMBERS: dict[str, Number] = {"float32": np.float32, "int8": np.int8, "uint8": np.uint8}
_FACTOR = 3


@dataclass(frozen=True)
class Cost:
    """Milliseconds of one operator in one engine; between low and high lies half of all.

    label: the operator's class in words. channels: the width that was asked for; an operator of
    image space has its own. graph_ms: the graph that holds it once, edges and all.
    share: of the reference's time at this width, None without it.
    affordable: the verdict, and the paper's about its NPU, None where there is none. failure:
    why there are no figures, all of which then are None.
    """

    operator: str
    label: str
    channels: int
    precision: Precision
    engine: str
    threads: int
    height: int
    width: int
    rounds: int
    median_ms: float | None = None
    low_ms: float | None = None
    high_ms: float | None = None
    graph_ms: float | None = None
    share: float | None = None
    affordable: bool | None = None
    paper_affordable: bool | None = None
    failure: str | None = None

    @property
    def differs(self) -> bool:
        """Whether the verdict is another than the paper's."""
        both = None not in (self.affordable, self.paper_affordable)
        return both and self.affordable != self.paper_affordable


# What the paper finds on a Synaptics Dolphin NPU: an addition takes longer than an optimized
# convolution, 1×1 and 3×3 nearly as long as one another, the anchor (Concat and Add) 15.6 ms,
# nearest enlargement about four times that, bilinear longer. It builds on the anchor.
_PAPER = {
    "add": False,
    "conv1x1": False,
    "resize_nearest": False,
    "resize_bilinear": False,
    "isrl_nearest": False,
    "isrl_bilinear": False,
    "anchor_concat": True,
}


@dataclass(frozen=True)
class Claim:
    """A ratio of two costs of which the paper says something, and whether it holds here."""

    statement: str
    channels: int
    precision: Precision
    engine: str
    threads: int
    ratio: float
    holds: bool


# Of which operator to which other, the paper's words, and between what a ratio bears them out.
_CLAIMS = (
    ("add", REFERENCE, "an addition takes longer than a convolution", 1.0, math.inf),
    ("conv1x1", REFERENCE, "1x1 and 3x3 convolutions take nearly as long", 0.8, 1.25),
    ("relu", "leaky_relu", "ReLU is faster than LeakyReLU", -math.inf, 1.0),
    ("anchor_concat", "add", "the anchor takes 3 times an addition", 2.0, 4.5),
    (
        "isrl_nearest",
        "anchor_concat",
        "nearest enlargement takes about 4 times the anchor",
        2.7,
        6.0,
    ),
    (
        "isrl_bilinear",
        "isrl_nearest",
        "bilinear enlargement takes longer than nearest",
        1.0,
        math.inf,
    ),
)


def compare_with_paper(costs: Sequence[Cost]) -> list[Claim]:
    """Each statement of the paper, in each setting where both operators were measured.

    Where one that it divides by takes no time here, there is no ratio and no row.
    """
    times = {(c.channels, c.precision, c.engine, c.threads, c.operator): c.median_ms for c in costs}
    settings = dict.fromkeys(key[:-1] for key in times)
    claims = []
    for top, bottom, statement, low, high in _CLAIMS:
        for setting in settings:
            upper, lower = times.get((*setting, top)), times.get((*setting, bottom))
            if upper is not None and lower is not None and lower > 0:
                ratio = upper / lower
                claims.append(Claim(statement, *setting, ratio, low < ratio < high))
    return claims


def catalogue(channels: int) -> dict[str, OperatorClass | Residual]:
    """The operators that are probed at a width, by name.

    Those that a network has in image space (copies of the image, enlargement) get an image
    of 3 channels, and depth-to-space nine times the channels it makes, at most `channels`.
    Raises BenchmarkError for fewer than 2 channels.
    """
    if channels < 2:
        raise BenchmarkError(f"a network is at least 2 channels wide, not {channels}")
    groups = math.gcd(channels, 4)
    blocks = max(1, channels // _FACTOR**2)

    def make(kind: str, outputs: int | None = None, **more: Any) -> OperatorClass:
        return OperatorClass(kind, channels, outputs or channels, **more)

    copies = IMAGE * _FACTOR**2
    operators: dict[str, OperatorClass | Residual] = {
        REFERENCE: make("Conv2D", size=3),
        "conv1x1": make("Conv2D", size=1),
        "conv5x5": make("Conv2D", size=5),
        "depthwise": make("DepthwiseConv2D", size=3),
        "grouped": make("Conv2D", size=3, groups=groups),
        "transposed": make("TransposedConv2D", IMAGE, size=9, stride=_FACTOR),
        "add": make("Add"),
        "multiply": make("Multiply"),
        "concat_nine": OperatorClass("Concat", IMAGE, copies, size=_FACTOR**2),
        "concat_two": make("Concat", 2 * channels, size=2),
        "split": make("Slice", channels // 2),
        "relu": make("ReLU"),
        "leaky_relu": make("LeakyReLU"),
        "prelu": make("PReLU"),
        "sigmoid": make("Sigmoid"),
        "max_pool": make("Pool2D", size=3, detail="max"),
        "average_pool": make("Pool2D", size=3, detail="average"),
        "global_pool": make("GlobalAveragePool"),
        "channel_attention": make("ChannelAttention"),
        "resize_nearest": OperatorClass("Resize", IMAGE, IMAGE, size=3, detail="nearest"),
        "resize_bilinear": OperatorClass("Resize", IMAGE, IMAGE, size=3, detail="bilinear"),
        "depth_to_space": OperatorClass("DepthToSpace", blocks * _FACTOR**2, blocks, size=_FACTOR),
    }
    forms = [form for form in get_args(Tail) if form != "none"]
    return operators | {form: Residual(form, channels) for form in forms}


def prepare_call(
    graph: Graph, *, engine: str, threads: int, size: tuple[int, int]
) -> Callable[[], object]:
    """Runs a graph on an input of that height and width, without copies in and out."""
    source = graph.tensors[graph.input]
    dtype = _NUMBERS[source.dtype]
    write = write_onnx if engine == "onnxruntime" else write_tflite
    loaded = load_engine(
        write(graph, size=size),
        name=engine,
        threads=threads,
        dtype=dtype,
        channels=source.channels,
    )
    image = natural_image(*size)
    repeated = np.tile(image, (1, 1, -(-source.channels // IMAGE)))
    images = np.ascontiguousarray(repeated[None, :, :, : source.channels]).astype(dtype)
    return loaded.prepare(images)


class Measured(NamedTuple):
    """The cost of the operator, and of the graph that holds it once."""

    cost: Span
    whole: Span


@dataclass(frozen=True)
class Setting:
    """Where and how something is measured; size is the image's height and width."""

    precision: Precision
    engine: str
    threads: int
    size: tuple[int, int]
    rounds: int


def prepare_probes(
    probes: Iterable[Probe], setting: Setting
) -> tuple[dict[Probe, Callable[[], object]], dict[Probe, str]]:
    """A call for each, or why there is none: what the engine or the file format refuses."""
    calls: dict[Probe, Callable[[], object]] = {}
    failures: dict[Probe, str] = {}
    height, width = setting.size
    for probe in probes:
        try:
            graph = probe.graph(setting.precision)
            size = max(1, height * probe.extent), max(1, width * probe.extent)
            call = prepare_call(graph, engine=setting.engine, threads=setting.threads, size=size)
            call()  # some refuse only now
            calls[probe] = call
        except (GraphError, ModelError) as error:
            failures[probe] = str(error)
    return calls, failures


def count_turns(settings: int, operators: Iterable[OperatorClass | Residual], rounds: int) -> int:
    """How often `measure_operators` calls `on_call`, at most."""
    return settings * sum(len(cost_terms(one)) for one in operators) * (rounds + 1)


def measure_operators(
    operators: Sequence[str] = (),
    *,
    channels: Sequence[int] = (28, 32),
    precisions: Sequence[Precision] = PRECISIONS,
    engines: Sequence[str],
    threads: Sequence[int],
    size: tuple[int, int] = (360, 640),
    rounds: int = 5,
    on_call: Callable[[], None] | None = None,
) -> list[Cost]:
    """The cost of each operator in each engine; all of `catalogue` if none is named.

    The reference is measured as well, without which there is no verdict.
    Raises BenchmarkError for an operator that is not in the catalogue.
    """
    costs = []
    for width in channels:
        chosen = choose(operators, width)
        for precision in precisions:
            for engine in engines:
                for count in threads:
                    setting = Setting(precision, engine, count, size, rounds)
                    measured = {name: _measure(of, setting, on_call) for name, of in chosen.items()}
                    costs += _judge(chosen, measured, width, setting)
    return costs


def choose(operators: Sequence[str], channels: int) -> dict[str, OperatorClass | Residual]:
    """Those of the catalogue that are named, and the reference; all if none is."""
    there = catalogue(channels)
    for name in operators:
        if name not in there:
            raise BenchmarkError(f"no operator {name!r}; there are: {', '.join(there)}")
    wanted = {*operators, REFERENCE} if operators else there.keys()
    return {name: of for name, of in there.items() if name in wanted}


def _measure(
    of: OperatorClass | Residual, setting: Setting, on_call: Callable[[], None] | None
) -> Measured | str:
    """What was measured, or why it was not. What it needed in memory is free afterwards."""
    terms = cost_terms(of)
    calls, failures = prepare_probes(terms, setting)
    if failures:
        return next(iter(failures.values()))
    try:
        times = take_turns(calls, rounds=setting.rounds, pause_s=PAUSE_S, on_call=on_call)
    except ModelError as error:
        return str(error)
    return Measured(sum_terms(terms, times), sum_terms({Probe(of): 1.0}, times))


def _judge(
    chosen: Mapping[str, OperatorClass | Residual],
    measured: Mapping[str, Measured | str],
    channels: int,
    setting: Setting,
) -> list[Cost]:
    reference = measured[REFERENCE]
    limit = None if isinstance(reference, str) else reference.cost.median
    return [
        _cost(name, chosen[name].label, channels, setting, found, limit)
        for name, found in measured.items()
    ]


def _cost(
    name: str,
    label: str,
    channels: int,
    setting: Setting,
    found: Measured | str,
    reference: float | None,
) -> Cost:
    common: dict[str, Any] = {"operator": name, "label": label, "channels": channels}
    common |= {"precision": setting.precision, "engine": setting.engine}
    common |= {"threads": setting.threads, "rounds": setting.rounds}
    common |= {"height": setting.size[0], "width": setting.size[1]}
    common |= {"paper_affordable": _PAPER.get(name)}
    if isinstance(found, str):
        return Cost(**common, failure=found)
    median, half = found.cost
    share = median / reference if reference is not None and reference > 0 else None
    return Cost(
        **common,
        median_ms=median,
        low_ms=median - half,
        high_ms=median + half,
        graph_ms=found.whole.median,
        share=share,
        affordable=None if share is None or name == REFERENCE else share <= AFFORDABLE,
    )
