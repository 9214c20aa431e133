"""How long a network takes, predicted from its operators and measured as a whole.

The prediction is the sum, over the operators of its graph, of what each costs by itself, found
as `probe` finds it at the same size and in the same rounds as the whole, plus the edges of the
graph. Operators that differ in nothing their time depends on are measured once. What an engine
gains by joining operators, and loses by changing layout between them, is the difference.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from anchorsr.bench.samples import natural_image
from anchorsr.bench.timing import Times, take_turns
from anchorsr.errors import BenchmarkError, GraphError, ModelError, needs
from anchorsr.graph.dequantize import dequantize
from anchorsr.graph.graph import Graph
from anchorsr.models.registry import list_models, model_path, read_model
from anchorsr.quantization.ptq import quantize
from anchorsr.studies.op_costs import CALL, Terms, combine, cost_terms, file_terms, sum_terms
from anchorsr.studies.op_graphs import OperatorClass, Precision, classify
from anchorsr.studies.operators import PAUSE_S, PRECISIONS, Setting, prepare_call, prepare_probes

# A network with random weights gets its ranges from one made image of this size.
_CALIBRATION = (24, 32)
# Sizes to choose from, and how many multiplications are few enough for seconds and not minutes.
_SIZES = ((360, 640), (180, 320), (90, 160), (45, 80), (24, 40))
_MOST_MACS = 25e9
_WHOLE = "whole"


class Network(NamedTuple):
    """A network as graphs that run: in floating point, and in integers where that is wanted."""

    name: str
    graphs: Mapping[Precision, Graph]


@dataclass(frozen=True)
class Part:
    """All operators of one class in a network; each_ms: one of them, None where none is timed."""

    label: str
    count: int
    each_ms: float | None
    total_ms: float


@dataclass(frozen=True)
class Prediction:
    """A network in one setting. Milliseconds: medians over the rounds, quartiles of the whole.

    edges_ms: copies and changes of type where the image enters and leaves. failure: why there
    is no prediction, or no measurement either.
    """

    network: str
    precision: Precision
    engine: str
    threads: int
    height: int
    width: int
    rounds: int
    macs_per_pixel: int
    parts: tuple[Part, ...] = ()
    edges_ms: float | None = None
    predicted_ms: float | None = None
    measured_ms: float | None = None
    low_ms: float | None = None
    high_ms: float | None = None
    failure: str | None = None

    @property
    def ratio(self) -> float | None:
        """Predicted over measured."""
        if self.predicted_ms is None or self.measured_ms is None:
            return None
        return self.predicted_ms / self.measured_ms


def median_error(rows: Sequence[Prediction]) -> float | None:
    """How far predictions are from what was measured, as a share of it: the median of them."""
    ratios = [row.ratio for row in rows if row.ratio is not None]
    return float(np.median([abs(ratio - 1) for ratio in ratios])) if ratios else None


def load_network(name: str, precisions: Sequence[Precision] = PRECISIONS) -> Network:
    """A network of `networks.NETWORKS` with random weights and its own defaults, a shipped model
    or a `.tflite` file.

    Raises BenchmarkError for an unknown name; ModelError, GraphError for a file that is no
    network of ours, and for a network that cannot be quantized where that is wanted.
    """
    shipped = {key for model in list_models() for key in (model.name, model.path.stem)}
    if Path(name).suffix.lower() == ".tflite" or name in shipped:
        return as_network(name, read_model(model_path(name))[1], precisions)
    return random_network(name, {"name": name}, precisions)


def random_network(
    name: str, options: Mapping[str, Any], precisions: Sequence[Precision] = PRECISIONS
) -> Network:
    """What a recipe's [network] table describes, with random weights; ranges from one image.

    Raises BenchmarkError for an unknown network, what `networks.build_network`, `lower` and
    `quantize` raise, and MissingDependencyError without PyTorch.
    """
    with needs("PyTorch", "train"):
        import torch

        from anchorsr.lowering.trace import lower
        from anchorsr.networks.registry import NETWORKS, build_network
    if options["name"] not in NETWORKS:
        there = ", ".join([*NETWORKS, *(model.path.stem for model in list_models())])
        raise BenchmarkError(f"no network {options['name']!r}; there are: {there}")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        graph = lower(build_network(options), name=name)
    return as_network(name, graph, precisions)


def as_network(name: str, graph: Graph, precisions: Sequence[Precision]) -> Network:
    """A graph in each precision that is wanted, made from the one that it has."""
    graphs: dict[Precision, Graph] = {}
    for precision in precisions:
        if (precision == "int8") == graph.is_integer:
            graphs[precision] = graph
        elif precision == "int8":
            graphs[precision] = quantize(graph, [natural_image(*_CALIBRATION)])
        else:
            graphs[precision] = dequantize(graph)
    return Network(name, graphs)


def choose_size(graph: Graph) -> tuple[int, int]:
    """Height and width at which a network is quick enough to be measured many times."""
    for height, width in _SIZES:
        if graph.macs_per_pixel * height * width <= _MOST_MACS:
            return height, width
    return _SIZES[-1]


def count_classes(graph: Graph) -> Counter[OperatorClass | None]:
    """How many operators of each class a graph has; None: those on 1×1 tensors.

    The changes of number type of the input and the output belong to the graph's edges.
    """
    inner = [
        operator
        for operator in graph.operators
        if type(operator).__name__ != "Requantize"
        or (operator.inputs[0] != graph.input and operator.output != graph.output)
    ]
    return Counter(classify(operator, graph) for operator in inner)


def network_terms(graph: Graph) -> Terms:
    """The sum that predicts a network's time."""
    operators = [(cost_terms(one), count) for one, count in count_classes(graph).items() if one]
    return combine([*operators, (_edges(graph), 1)])


def _edges(graph: Graph) -> Terms:
    return file_terms(graph.factor) if graph.is_integer else CALL


def count_network_turns(networks: Sequence[Network], settings: int, rounds: int) -> int:
    """How often `measure_networks` calls `on_call`, at most; settings: engines × threads."""
    graphs = [graph for network in networks for graph in network.graphs.values()]
    return sum(len(network_terms(graph)) + 1 for graph in graphs) * settings * (rounds + 1)


def measure_networks(
    networks: Sequence[Network],
    *,
    engines: Sequence[str],
    threads: Sequence[int],
    size: tuple[int, int] | None = None,
    rounds: int = 5,
    on_call: Callable[[], None] | None = None,
) -> list[Prediction]:
    """Each network in each precision, engine and number of threads, predicted and measured.

    size: the image's height and width; without it each network gets one that suits it.
    """
    rows = []
    for network in networks:
        for precision, graph in network.graphs.items():
            for engine in engines:
                for count in threads:
                    used = size or choose_size(graph)
                    setting = Setting(precision, engine, count, used, rounds)
                    rows.append(_predict(network.name, graph, setting, on_call))
    return rows


def _predict(
    name: str, graph: Graph, setting: Setting, on_call: Callable[[], None] | None
) -> Prediction:
    common: dict[str, Any] = {"network": name, "precision": setting.precision}
    common |= {"engine": setting.engine, "threads": setting.threads, "rounds": setting.rounds}
    common |= {"height": setting.size[0], "width": setting.size[1]}
    common |= {"macs_per_pixel": graph.macs_per_pixel}
    terms = network_terms(graph)
    probes, failures = prepare_probes(terms, setting)
    if failures:
        return Prediction(**common, failure=next(iter(failures.values())))
    calls: dict[Any, Callable[[], object]] = dict(probes)
    try:
        calls[_WHOLE] = prepare_call(
            graph, engine=setting.engine, threads=setting.threads, size=setting.size
        )
        times = take_turns(calls, rounds=setting.rounds, pause_s=PAUSE_S, on_call=on_call)
    except (GraphError, ModelError) as error:
        return Prediction(**common, failure=str(error))
    low, high = times[_WHOLE].quartiles
    return Prediction(
        **common,
        parts=tuple(_parts(graph, times)),
        edges_ms=sum_terms(_edges(graph), times).median,
        predicted_ms=sum_terms(terms, times).median,
        measured_ms=times[_WHOLE].median * 1000,
        low_ms=low * 1000,
        high_ms=high * 1000,
    )


def _parts(graph: Graph, times: Mapping[Any, Times]) -> Iterator[Part]:
    for one, count in count_classes(graph).items():
        if one is None:
            yield Part("on 1x1 tensors", count, None, 0.0)
        else:
            each = sum_terms(cost_terms(one), times).median
            yield Part(one.label, count, each, count * each)
