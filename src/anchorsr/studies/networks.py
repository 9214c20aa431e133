"""The time of a network: predicted from its operators, and measured as a whole.

The prediction is the cost of the graph's input and output plus the sum of what its operators cost
alone, measured as in `studies.operators`, at the same size and interleaved with the whole.
Operators of equal class are measured once. The difference is what an engine gains by fusing
operators, and loses by changing the layout between them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from anchorsr.errors import BenchmarkError, GraphError, ModelError, needs, unknown_choice
from anchorsr.graph.dequantize import dequantize
from anchorsr.graph.graph import Graph
from anchorsr.models.registry import list_models, model_path, read_model
from anchorsr.quantization.ptq import quantize_graph
from anchorsr.studies.op_costs import CALL, Terms, combine, cost_terms, file_io_terms, sum_terms
from anchorsr.studies.op_graphs import OperatorClass, Precision, classify
from anchorsr.studies.operators import PAUSE_S, PRECISIONS, Setting, prepare_call, prepare_probes
from anchorsr.utils.sample_image import sample_image
from anchorsr.utils.timing import Times, count_progress, time_interleaved

# The size of the synthetic image that calibrates a network with random weights.
_CALIBRATION = (24, 32)
# Sizes to choose from, and the work that takes seconds and not minutes.
_SIZES = ((360, 640), (180, 320), (90, 160), (45, 80), (24, 40))
_MOST_MACS = 25e9
_WHOLE = "whole"


class Network(NamedTuple):
    """A network as a graph for each precision."""

    name: str
    graphs: Mapping[Precision, Graph]


@dataclass(frozen=True)
class OperatorTotal:
    """All operators of one class in a network.

    Attributes:
        each_ms: The cost of one; None on 1×1 tensors, where none is measured.
        total_ms: The cost of all.
    """

    label: str
    count: int
    each_ms: float | None
    total_ms: float


@dataclass(frozen=True)
class Prediction:
    """A network in one precision, engine and number of threads. Milliseconds are medians.

    Attributes:
        parts: The cost of its operators.
        edges_ms: The cost of the graph's input and output: copies and changes of type.
        predicted_ms: The sum of all those.
        measured_ms: What the whole network takes.
        low_ms: The first quartile of that.
        high_ms: The third quartile of that.
        failure: Why nothing could be measured; None if it could.
    """

    network: str
    precision: Precision
    engine: str
    threads: int
    height: int
    width: int
    rounds: int
    macs_per_pixel: int
    parts: tuple[OperatorTotal, ...] = ()
    edges_ms: float | None = None
    predicted_ms: float | None = None
    measured_ms: float | None = None
    low_ms: float | None = None
    high_ms: float | None = None
    failure: str | None = None

    @property
    def ratio(self) -> float | None:
        """The predicted time over the measured one; None without either."""
        if self.predicted_ms is None or self.measured_ms is None:
            return None
        return self.predicted_ms / self.measured_ms


def median_error(rows: Sequence[Prediction]) -> float | None:
    """Return the median relative error of predictions; None if there are none."""
    ratios = [row.ratio for row in rows if row.ratio is not None]
    return float(np.median([abs(ratio - 1) for ratio in ratios])) if ratios else None


def load_network(name: str, precisions: Sequence[Precision] = PRECISIONS) -> Network:
    """Load a network by name.

    Args:
        name: A network of `networks.registry.NETWORKS` or a class (`package.module:Class`), with
            its default options and random weights, a shipped model, or a `.tflite` file.
        precisions: Those to make graphs for.

    Raises:
        BenchmarkError: An unknown name.
        ModelError: A file that cannot be read, or holds no network of ours.
        GraphError: A network that cannot be quantized.
        MissingDependencyError: A network with random weights, without PyTorch.
    """
    shipped = {key for model in list_models() for key in (model.name, model.path.stem)}
    if Path(name).suffix.lower() == ".tflite" or name in shipped:
        return as_network(name, read_model(model_path(name))[1], precisions)
    return random_network(name, {"name": name}, precisions)


def random_network(
    name: str, options: Mapping[str, Any], precisions: Sequence[Precision] = PRECISIONS
) -> Network:
    """Build a network with random weights, calibrated on one synthetic image.

    Args:
        name: What to call it.
        options: The [network] table of a recipe.
        precisions: Those to make graphs for.

    Raises:
        BenchmarkError: An unknown network.
        RecipeError: Impossible options.
        GraphError: It cannot be lowered or quantized.
        MissingDependencyError: PyTorch is not installed.
    """
    with needs("PyTorch", "train"):
        import torch

        from anchorsr.lowering.trace import lower
        from anchorsr.networks.registry import NETWORKS, build_network
    if options["name"] not in NETWORKS and ":" not in options["name"]:
        known = [*NETWORKS, *(model.path.stem for model in list_models())]
        raise BenchmarkError(unknown_choice("network", options["name"], known))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        graph = lower(build_network(options), name=name)
    return as_network(name, graph, precisions)


def as_network(name: str, graph: Graph, precisions: Sequence[Precision]) -> Network:
    """Convert a graph into each precision: by quantizing it, or by dequantizing it."""
    graphs: dict[Precision, Graph] = {}
    for precision in precisions:
        if (precision == "int8") == graph.is_integer:
            graphs[precision] = graph
        elif precision == "int8":
            graphs[precision] = quantize_graph(graph, [sample_image(*_CALIBRATION)])
        else:
            graphs[precision] = dequantize(graph)
    return Network(name, graphs)


def choose_size(graph: Graph) -> tuple[int, int]:
    """Choose the largest height and width at which a network can be measured within seconds."""
    for height, width in _SIZES:
        if graph.macs_per_pixel * height * width <= _MOST_MACS:
            return height, width
    return _SIZES[-1]


def count_classes(graph: Graph) -> Counter[OperatorClass | None]:
    """Count the operators of each class in a graph; None stands for those on 1×1 tensors.

    The changes of number type at the graph's input and output are not counted.
    """
    inner = [
        operator
        for operator in graph.operators
        if type(operator).__name__ != "Requantize"
        or (operator.inputs[0] != graph.input and operator.output != graph.output)
    ]
    return Counter(classify(operator, graph) for operator in inner)


def network_terms(graph: Graph) -> Terms:
    """Return the sum of times that predicts a network's."""
    operators = [(cost_terms(one), count) for one, count in count_classes(graph).items() if one]
    return combine([*operators, (_io_terms(graph), 1)])


def _io_terms(graph: Graph) -> Terms:
    return file_io_terms(graph.factor) if graph.is_integer else CALL


def measure_networks(
    networks: Sequence[Network],
    *,
    engines: Sequence[str],
    threads: Sequence[int],
    size: tuple[int, int] | None = None,
    rounds: int = 5,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Prediction]:
    """Predict and measure each network in each precision, engine and number of threads.

    Args:
        networks: As `load_network` gives.
        engines: Names of engines.
        threads: Numbers of processor threads.
        size: Height and width of the input; by default each network's own, by `choose_size`.
        rounds: Timed calls of each graph.
        on_progress: Called with (calls made, calls to make at most).
    """
    cases = [
        (name, graph, Setting(precision, engine, count, size or choose_size(graph), rounds))
        for name, graphs in networks
        for precision, graph in graphs.items()
        for engine in engines
        for count in threads
    ]
    # In each round, warm-up included, the operators' graphs and the whole.
    total = sum((len(network_terms(graph)) + 1) * (rounds + 1) for _, graph, _ in cases)
    on_call = count_progress(on_progress, total)
    return [_predict(*case, on_call) for case in cases]


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
        times = time_interleaved(calls, rounds=setting.rounds, pause_s=PAUSE_S, on_call=on_call)
    except (GraphError, ModelError) as error:
        return Prediction(**common, failure=str(error))
    low, high = times[_WHOLE].quartiles
    return Prediction(
        **common,
        parts=tuple(_operator_totals(graph, times)),
        edges_ms=sum_terms(_io_terms(graph), times).median,
        predicted_ms=sum_terms(terms, times).median,
        measured_ms=times[_WHOLE].median * 1000,
        low_ms=low * 1000,
        high_ms=high * 1000,
    )


def _operator_totals(graph: Graph, times: Mapping[Any, Times]) -> Iterator[OperatorTotal]:
    for one, count in count_classes(graph).items():
        if one is None:
            yield OperatorTotal("on 1x1 tensors", count, None, 0.0)
        else:
            each = sum_terms(cost_terms(one), times).median
            yield OperatorTotal(one.label, count, each, count * each)
