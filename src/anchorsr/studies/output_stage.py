"""What the end of an integer network costs: the scale of its sum, and the missing clip.

ABPN's paper (arXiv 2105.09750) reports less than 20 dB in INT8 without the clip to 0..255, and
its published file has a sum at scale 1.25, which leaves 204 levels. Here one run's float
weights end in each of these ways, everything before being the same:

scale 1         the sum has scale 1 and zero point -128, so that it saturates at 0 and 255: ours
scale 1.25      as published; brought to scale 1 after depth-to-space
calibrated      the scale that the range of the sum asks for, as converters choose it, brought to
                scale 1 after
bytes as made   calibrated, but not brought to scale 1: without a clip nothing tells a converter
                that the output lies in 0..255, and who takes its bytes for an image, as
                challenges do, sees another contrast and brightness
wrapped         the float network's values, rounded, modulo 256

Nothing is trained after calibration.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from anchorsr.errors import GraphError
from anchorsr.evaluation.evaluate import Method, Score, evaluate_method
from anchorsr.graph.executor import run_graph
from anchorsr.graph.graph import Graph
from anchorsr.graph.operators import Clip, Quantization, Requantize
from anchorsr.quantization.calibration import (
    IMAGE,
    Ranges,
    choose_quantization,
    fixed_quantizations,
    quantization_of,
    share,
)
from anchorsr.quantization.ptq import apply_quantization
from anchorsr.quantization.qat import calibrate_run
from anchorsr.quantization.rounding import keep_from_ties
from anchorsr.training.checkpoint import read_run

OURS, PUBLISHED, CALIBRATED = "scale 1", "scale 1.25", "calibrated"
UNSCALED, WRAPPED = "bytes as made", "wrapped"
_PUBLISHED_SUM = Quantization(1.25, -128)


def measure_tails(run: Path, *, on_image: Callable[[str], None] | None = None) -> list[Score]:
    """The score of each tail of a finished run on each of its validation sets, executed exactly.

    The border of the scores is the factor. Raises what `finetune.calibrate_run` and
    `evaluate.evaluate` raise.
    """
    folders = [Path(name) for name in read_run(run).validation.folders]
    graph, ranges = calibrate_run(run)
    methods = {name: _integer_method(one) for name, one in quantize_tails(graph, ranges).items()}
    methods[WRAPPED] = wrap_around(graph)
    return [
        evaluate_method(method, name, folder, factor=graph.factor, on_image=on_image)
        for folder in folders
        for name, method in methods.items()
    ]


def quantize_tails(graph: Graph, ranges: Ranges) -> Mapping[str, Graph]:
    """The integer graph of a float graph with each tail but the wrapped one.

    Raises GraphError for a graph whose output is only a copy of its input.
    """
    chosen = choose_quantization(graph, ranges)
    tail = _tail(graph)
    clipped = {operator.output for operator in graph.operators if isinstance(operator, Clip)}
    low = min(0.0, *(ranges[name][0] for name in tail - clipped))
    high = max(0.0, *(ranges[name][1] for name in tail - clipped))
    wanted = quantization_of((high - low) / 255, low)
    if wanted == IMAGE:
        raise GraphError(f"{graph.name} calibrates to scale 1: there is nothing to compare")
    tails = {
        name: keep_from_ties(
            apply_quantization(graph, {**chosen, **dict.fromkeys(tail, quantization)})
        )
        for name, quantization in (
            (OURS, chosen[graph.output]),
            (PUBLISHED, _PUBLISHED_SUM),
            (CALIBRATED, wanted),
        )
    }
    return {**tails, UNSCALED: _ending_as_made(tails[CALIBRATED])}


def wrap_around(graph: Graph) -> Method:
    """A float graph less its clip, whose values are rounded and taken modulo 256."""
    last = graph.operators[-1]
    if isinstance(last, Clip):
        tensors = {name: kind for name, kind in graph.tensors.items() if name != last.output}
        graph = Graph(graph.name, tensors, graph.operators[:-1], graph.input, last.input)

    def method(lr: np.ndarray) -> np.ndarray:
        values = np.rint(run_graph(graph, lr[None].astype(np.float32))[0])
        return np.asarray(values.astype(np.int64).astype(np.uint8))  # modulo 256

    return method


def _tail(graph: Graph) -> set[str]:
    """The output and the tensors that only change place on the way to it, such as the sum."""
    fixed = fixed_quantizations(graph)
    first = share(graph, lambda op, name: fixed.get(name) == fixed.get(op.output))
    tail = {name for name in first if first[name] == first[graph.output]}
    if graph.input in tail:
        raise GraphError(f"{graph.name} only copies its input: it has no sum to scale")
    return tail


def _ending_as_made(graph: Graph) -> Graph:
    """The graph less the last change of scale: its uint8 output has the integers before it."""
    *operators, change, last = graph.operators
    made = graph.tensors[change.inputs[0]].quantization
    assert made is not None
    bytes_as_made = Quantization(made.scale, made.zero_point + 128)
    tensors = {name: kind for name, kind in graph.tensors.items() if name != change.output}
    output = dataclasses.replace(tensors[graph.output], quantization=bytes_as_made)
    return dataclasses.replace(
        graph,
        tensors={**tensors, graph.output: output},
        operators=[*operators, Requantize(change.inputs[0], last.output)],
    )


def _integer_method(graph: Graph) -> Method:
    return lambda lr: run_graph(graph, lr[None])[0]
