"""What each operator costs in each engine, and whether a network can afford it on this machine.

The graphs of one cost are timed interleaved; `op_costs` says which they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, get_args

import numpy as np

from anchorsr.engines.runtimes import Number, load_engine
from anchorsr.errors import BenchmarkError, GraphError, ModelError, unknown_choice
from anchorsr.graph.graph import Graph
from anchorsr.serialization.onnx import write_onnx
from anchorsr.serialization.tflite.writer import write_tflite
from anchorsr.studies.op_costs import Estimate, Probe, Residual, cost_terms, sum_terms
from anchorsr.studies.op_graphs import IMAGE, OperatorClass, Precision, ResidualForm
from anchorsr.utils.sample_image import sample_image
from anchorsr.utils.timing import count_progress, time_interleaved

PRECISIONS: tuple[Precision, ...] = get_args(Precision)
# The 3×3 convolution that keeps the number of channels: what others are compared with.
REFERENCE = "conv3x3"
# An operator is affordable if it takes at most this share of the reference's time.
AFFORDABLE = 0.5
# Enough for the threads of the call before to fall asleep, which were of the same engine.
PAUSE_S = 0.01
_NUMBERS: dict[str, Number] = {"float32": np.float32, "int8": np.int8, "uint8": np.uint8}
_FACTOR = 3


@dataclass(frozen=True)
class Cost:
    """The cost of one operator in one engine.

    Attributes:
        label: The operator's class in words.
        channels: The width that was asked for; an operator in image space has its own.
        low_ms: The start of the interquartile range.
        high_ms: The end of it.
        graph_ms: The time of the graph that holds the operator once, input and output included.
        share: The cost over the reference's at this width; None without a reference.
        affordable: Whether the share is small enough; None without one.
        paper_affordable: The paper's verdict about its NPU; None where it has none.
        failure: Why there are no figures; None if there are.
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
        """Whether the verdict contradicts the paper's."""
        both = None not in (self.affordable, self.paper_affordable)
        return both and self.affordable != self.paper_affordable


# What ABPN's paper finds on a Synaptics Dolphin NPU: an addition takes longer than an optimized
# convolution, 1×1 and 3×3 convolutions take nearly as long as each other, the anchor (Concat and
# Add) takes 15.6 ms, nearest upscaling about four times that, bilinear longer. It uses the anchor.
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
class PaperClaim:
    """A claim of the paper about the ratio of two costs, and whether it holds here."""

    statement: str
    channels: int
    precision: Precision
    engine: str
    threads: int
    ratio: float
    holds: bool


# Numerator and denominator, the claim, and the range of ratios in which it holds.
_CLAIMS = (
    ("add", REFERENCE, "an addition takes longer than a convolution", 1.0, math.inf),
    ("conv1x1", REFERENCE, "1x1 and 3x3 convolutions take nearly as long", 0.8, 1.25),
    ("relu", "leaky_relu", "ReLU is faster than LeakyReLU", -math.inf, 1.0),
    ("anchor_concat", "add", "the anchor takes 3 times an addition", 2.0, 4.5),
    (
        "isrl_nearest",
        "anchor_concat",
        "nearest upscaling takes about 4 times the anchor",
        2.7,
        6.0,
    ),
    (
        "isrl_bilinear",
        "isrl_nearest",
        "bilinear upscaling takes longer than nearest",
        1.0,
        math.inf,
    ),
)


def compare_with_paper(costs: Sequence[Cost]) -> list[PaperClaim]:
    """Check the paper's claims, wherever both operators were measured.

    A claim is left out where the denominator takes no measurable time.
    """
    times = {(c.channels, c.precision, c.engine, c.threads, c.operator): c.median_ms for c in costs}
    settings = dict.fromkeys(key[:-1] for key in times)
    claims = []
    for top, bottom, statement, low, high in _CLAIMS:
        for setting in settings:
            upper, lower = times.get((*setting, top)), times.get((*setting, bottom))
            if upper is not None and lower is not None and lower > 0:
                ratio = upper / lower
                claims.append(PaperClaim(statement, *setting, ratio, low < ratio < high))
    return claims


def catalogue(channels: int) -> dict[str, OperatorClass | Residual]:
    """List the operators that are measured at a number of channels, by name.

    Operators in image space (copies and upscaling of the image) read 3 channels whatever the
    width; depth-to-space reads nine times what it gives, and at most `channels`.

    Raises:
        BenchmarkError: Fewer than 2 channels.
    """
    if channels < 2:
        raise BenchmarkError(f"a network has at least 2 channels, not {channels}")
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
    forms = [form for form in get_args(ResidualForm) if form != "none"]
    return operators | {form: Residual(form, channels) for form in forms}


def prepare_call(
    graph: Graph, *, engine: str, threads: int, size: tuple[int, int]
) -> Callable[[], object]:
    """Load a graph, and return a function that runs it once, without copies in and out.

    Args:
        graph: What to run.
        engine: The engine's name.
        threads: Processor threads.
        size: Height and width of the input.

    Raises:
        GraphError: The file format does not have one of the operators.
        ModelError: The engine refuses the graph.
    """
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
    image = sample_image(*size)
    repeated = np.tile(image, (1, 1, -(-source.channels // IMAGE)))
    images = np.ascontiguousarray(repeated[None, :, :, : source.channels]).astype(dtype)
    return loaded.prepare(images)


class Measurement(NamedTuple):
    """The cost of an operator, and the time of the graph that holds it once."""

    cost: Estimate
    whole: Estimate


@dataclass(frozen=True)
class Setting:
    """Where and how something is measured; `size` is the image's height and width."""

    precision: Precision
    engine: str
    threads: int
    size: tuple[int, int]
    rounds: int


def prepare_probes(
    probes: Iterable[Probe], setting: Setting
) -> tuple[dict[Probe, Callable[[], object]], dict[Probe, str]]:
    """Load the graph of each probe.

    Returns:
        The functions that run the graphs, and for those that the engine or the file format refuses,
        why.
    """
    calls: dict[Probe, Callable[[], object]] = {}
    failures: dict[Probe, str] = {}
    height, width = setting.size
    for probe in probes:
        try:
            graph = probe.graph(setting.precision)
            size = max(1, height * probe.extent), max(1, width * probe.extent)
            call = prepare_call(graph, engine=setting.engine, threads=setting.threads, size=size)
            call()  # where some engines refuse it
            calls[probe] = call
        except (GraphError, ModelError) as error:
            failures[probe] = str(error)
    return calls, failures


def measure_operators(
    operators: Sequence[str] = (),
    *,
    channels: Sequence[int] = (28, 32),
    precisions: Sequence[Precision] = PRECISIONS,
    engines: Sequence[str],
    threads: Sequence[int],
    size: tuple[int, int] = (360, 640),
    rounds: int = 5,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Cost]:
    """Measure the cost of each operator in each engine, and of the reference.

    Args:
        operators: Names of the catalogue; by default all.
        channels: The widths.
        precisions: float32, int8 or both.
        engines: Names of engines.
        threads: Numbers of processor threads.
        size: Height and width of the image.
        rounds: Timed calls of each graph.
        on_progress: Called with (calls made, calls to make at most).

    Raises:
        BenchmarkError: An operator that is not in the catalogue.
    """
    cases = [
        (choose(operators, width), width, Setting(precision, engine, count, size, rounds))
        for width in channels
        for precision in precisions
        for engine in engines
        for count in threads
    ]
    graphs = sum(len(cost_terms(of)) for chosen, _, _ in cases for of in chosen.values())
    on_call = count_progress(on_progress, graphs * (rounds + 1))  # one round is a warm-up
    costs = []
    for chosen, width, setting in cases:
        measured = {name: _measure(of, setting, on_call) for name, of in chosen.items()}
        costs += _judge(chosen, measured, width, setting)
    return costs


def choose(operators: Sequence[str], channels: int) -> dict[str, OperatorClass | Residual]:
    """Return the named operators of the catalogue and the reference, by default all.

    Raises:
        BenchmarkError: A name that is not in the catalogue.
    """
    there = catalogue(channels)
    for name in operators:
        if name not in there:
            raise BenchmarkError(unknown_choice("operator", name, there))
    wanted = {*operators, REFERENCE} if operators else there.keys()
    return {name: of for name, of in there.items() if name in wanted}


def _measure(
    of: OperatorClass | Residual, setting: Setting, on_call: Callable[[], None] | None
) -> Measurement | str:
    """Measure one operator, or say why it cannot be. Its graphs are freed afterwards."""
    terms = cost_terms(of)
    calls, failures = prepare_probes(terms, setting)
    if failures:
        return next(iter(failures.values()))
    try:
        times = time_interleaved(calls, rounds=setting.rounds, pause_s=PAUSE_S, on_call=on_call)
    except ModelError as error:
        return str(error)
    return Measurement(sum_terms(terms, times), sum_terms({Probe(of): 1.0}, times))


def _judge(
    chosen: Mapping[str, OperatorClass | Residual],
    measured: Mapping[str, Measurement | str],
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
    found: Measurement | str,
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
