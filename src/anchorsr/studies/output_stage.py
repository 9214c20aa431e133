"""What the output stage of an integer network costs: the scale of its last sum, and the clip.

ABPN's paper (arXiv 2105.09750) reports less than 20 dB in INT8 without the clip to 0..255, and
the sum in its published file has scale 1.25, which leaves 204 levels. Here one run's weights get
each of these output stages after post-training quantization:

scale 1         the sum has scale 1 and zero point -128, so that it saturates at 0 and 255: ours
scale 1.25      as published; requantized to scale 1 after depth-to-space
calibrated      the scale of the sum's range, as converters choose it; requantized to scale 1
bytes as made   calibrated, without requantization: where there is no clip, a converter does not
                know that the output lies in 0..255; to whoever takes its bytes for an image, as
                challenges do, contrast and brightness are wrong
wrapped         the float network's values, rounded, modulo 256
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from anchorsr.errors import GraphError
from anchorsr.evaluation.evaluate import Method, Score, evaluate_method
from anchorsr.graph import operators as ops
from anchorsr.graph.executor import run_graph
from anchorsr.graph.graph import Graph
from anchorsr.quantization.calibration import (
    IMAGE,
    Ranges,
    choose_quantization,
    fixed_quantizations,
    quantization_of,
    share,
)
from anchorsr.quantization.ptq import apply_quantization
from anchorsr.quantization.qat import calibrate
from anchorsr.quantization.rounding import avoid_ties
from anchorsr.training.checkpoint import load_run

OURS, PUBLISHED, CALIBRATED = "scale 1", "scale 1.25", "calibrated"
UNSCALED, WRAPPED = "bytes as made", "wrapped"
_PUBLISHED_SUM = ops.Quantization(1.25, -128)


def measure_output_stages(
    run: Path, *, on_image: Callable[[str], None] | None = None
) -> list[Score]:
    """Score each output stage on the validation sets of a finished run, executed exactly.

    Args:
        run: The run's folder.
        on_image: Called with the name of each image that was scored.

    Raises:
        AnchorSRError: What `quantization.qat.calibrate` and `evaluation.evaluate` raise.
    """
    loaded = load_run(run)
    folders = [Path(name) for name in loaded.recipe.validation.folders]
    calibration = calibrate(loaded)
    graph, ranges = calibration.graph, calibration.ranges
    methods = {
        name: _integer_method(one) for name, one in quantize_output_stages(graph, ranges).items()
    }
    methods[WRAPPED] = wrap_around(graph)
    return [
        evaluate_method(method, name, folder, factor=graph.factor, on_image=on_image)
        for folder in folders
        for name, method in methods.items()
    ]


def quantize_output_stages(graph: Graph, ranges: Ranges) -> Mapping[str, Graph]:
    """Quantize a float graph with each output stage but the wrapped one.

    Raises:
        GraphError: The output is a copy of the input, or calibrates to scale 1.
    """
    chosen = choose_quantization(graph, ranges)
    last = _last_sum(graph)
    clipped = {operator.output for operator in graph.operators if isinstance(operator, ops.Clip)}
    low = min(0.0, *(ranges[name][0] for name in last - clipped))
    high = max(0.0, *(ranges[name][1] for name in last - clipped))
    wanted = quantization_of((high - low) / 255, low)
    if wanted == IMAGE:
        raise GraphError(f"{graph.name} calibrates to scale 1: there is nothing to compare")
    stages = {
        name: avoid_ties(apply_quantization(graph, {**chosen, **dict.fromkeys(last, quantization)}))
        for name, quantization in (
            (OURS, chosen[graph.output]),
            (PUBLISHED, _PUBLISHED_SUM),
            (CALIBRATED, wanted),
        )
    }
    return {**stages, UNSCALED: _without_requantization(stages[CALIBRATED])}


def wrap_around(graph: Graph) -> Method:
    """Run a float graph without its clip; values are rounded and taken modulo 256."""
    last = graph.operators[-1]
    if isinstance(last, ops.Clip):
        tensors = {name: kind for name, kind in graph.tensors.items() if name != last.output}
        graph = Graph(graph.name, tensors, graph.operators[:-1], graph.input, last.input)

    def method(lr: np.ndarray) -> np.ndarray:
        values = np.rint(run_graph(graph, lr[None].astype(np.float32))[0])
        return np.asarray(values.astype(np.int64).astype(np.uint8))  # modulo 256

    return method


def _last_sum(graph: Graph) -> set[str]:
    """Name the tensors whose scale is the output's, such as the sum before depth-to-space."""
    fixed = fixed_quantizations(graph)
    first = share(graph, lambda op, name: fixed.get(name) == fixed.get(op.output))
    names = {name for name in first if first[name] == first[graph.output]}
    if graph.input in names:
        raise GraphError(f"{graph.name} only copies its input: it has no sum to scale")
    return names


def _without_requantization(graph: Graph) -> Graph:
    """Drop the last change of scale: the uint8 output has the integers before it."""
    *operators, change, last = graph.operators
    made = graph.tensors[change.inputs[0]].quantization
    assert made is not None
    bytes_as_made = ops.Quantization(made.scale, made.zero_point + 128)
    tensors = {name: kind for name, kind in graph.tensors.items() if name != change.output}
    output = dataclasses.replace(tensors[graph.output], quantization=bytes_as_made)
    return dataclasses.replace(
        graph,
        tensors={**tensors, graph.output: output},
        operators=[*operators, ops.Requantize(change.inputs[0], last.output)],
    )


def _integer_method(graph: Graph) -> Method:
    return lambda lr: run_graph(graph, lr[None])[0]
