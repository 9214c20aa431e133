"""What the convolutions beside an anchor cost: latency against the depth of the body.

ABPN's paper (arXiv 2105.09750) reports that up to five convolutions with ReLU cost no time on an
NPU, because they run beside the anchor's branch. Here the same network, in each form of the anchor,
is timed with a body of 0 to 8 such convolutions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import get_args

from anchorsr.errors import BenchmarkError, GraphError, ModelError, unknown_choice
from anchorsr.studies.op_graphs import Precision, ResidualForm, residual_graph
from anchorsr.studies.operators import prepare_call
from anchorsr.studies.tables import Grid
from anchorsr.utils.timing import Times, count_progress, time_interleaved

DEPTHS = tuple(range(9))
FORMS: tuple[str, ...] = tuple(form for form in get_args(ResidualForm) if "anchor" in form)

# More than this fraction of the time at depth 0 is a cost.
_FREE = 0.05


@dataclass(frozen=True)
class DepthTimes:
    """The latency of one form of the anchor at each depth of the body.

    Attributes:
        form: How the anchor is made.
        precision: float32 or int8.
        engine: The engine.
        threads: Processor threads.
        channels: Width of the body.
        width: Of the input.
        height: Of the input.
        median_ms: By depth, from 0.
        low_ms: The lower quartiles.
        high_ms: The upper quartiles.
        free: Convolutions that together cost at most 5 % of the time without any.
        failure: Why it could not be measured.
    """

    form: str
    precision: Precision
    engine: str
    threads: int
    channels: int
    width: int
    height: int
    median_ms: tuple[float, ...] = ()
    low_ms: tuple[float, ...] = ()
    high_ms: tuple[float, ...] = ()
    free: int | None = None
    failure: str | None = None


def measure_depths(
    forms: Sequence[str] = FORMS,
    *,
    channels: int = 28,
    precisions: Sequence[Precision],
    engines: Sequence[str],
    threads: Sequence[int],
    size: tuple[int, int] = (360, 640),
    rounds: int = 5,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[DepthTimes]:
    """Time every form of the anchor with a body of 0 to 8 convolutions; all depths interleaved.

    Args:
        forms: Names of `FORMS`.
        channels: The width of the body.
        precisions: float32, int8 or both.
        engines: Names of engines.
        threads: Numbers of processor threads.
        size: Height and width of the input.
        rounds: Timed calls of each graph.
        on_progress: Called with (calls made, calls to make at most).

    Raises:
        BenchmarkError: An unknown form.
    """
    for form in forms:
        if form not in FORMS:
            raise BenchmarkError(unknown_choice("form of the anchor", form, FORMS))
    cases = [
        (form, precision, engine, count)
        for precision in precisions
        for engine in engines
        for count in threads
        for form in forms
    ]
    on_call = count_progress(on_progress, len(cases) * len(DEPTHS) * (rounds + 1))
    height, width = size
    rows = []
    for form, precision, engine, count in cases:
        case = DepthTimes(form, precision, engine, count, channels, width, height)
        try:
            calls = {
                depth: prepare_call(
                    residual_graph(  # a network's file, since the native kernel takes no other
                        form,  # type: ignore[arg-type]
                        channels,
                        precision,
                        depth=depth,
                        file_io=True,
                    ),
                    engine=engine,
                    threads=count,
                    size=size,
                )
                for depth in DEPTHS
            }
            times = time_interleaved(calls, rounds=rounds, on_call=on_call)
        except (GraphError, ModelError) as error:
            rows.append(dataclasses.replace(case, failure=str(error)))
            continue
        rows.append(_measured(case, times))
    return rows


def depth_grid(rows: Sequence[DepthTimes]) -> Grid:
    """Return the table: milliseconds by depth, and how many convolutions cost no time."""
    body = []
    for row in rows:
        case = (row.form, row.precision, row.engine, str(row.threads))
        if row.failure is not None:
            body.append((*case, *["failed"] * len(DEPTHS), ""))
        else:
            body.append((*case, *(f"{ms:.2f}" for ms in row.median_ms), str(row.free)))
    first = rows[0]
    return Grid(
        f"Milliseconds by convolutions in the body, {first.width}x{first.height},"
        f" {first.channels} channels",
        ("anchor", "numbers", "engine", "threads", *map(str, DEPTHS), "free"),
        tuple(body),
        "free: convolutions that together cost at most 5 % of the time without any. The paper: 5 on"
        " an NPU, where they run beside the anchor.",
    )


def _measured(case: DepthTimes, times: dict[int, Times]) -> DepthTimes:
    medians = tuple(1000 * times[depth].median for depth in DEPTHS)
    quartiles = [times[depth].quartiles for depth in DEPTHS]
    limit = medians[0] * (1 + _FREE)
    costly = [depth for depth in DEPTHS if medians[depth] > limit]
    return dataclasses.replace(
        case,
        median_ms=medians,
        low_ms=tuple(1000 * low for low, _ in quartiles),
        high_ms=tuple(1000 * high for _, high in quartiles),
        free=costly[0] - 1 if costly else DEPTHS[-1],
    )
