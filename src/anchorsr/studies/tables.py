"""Tables and plots of the studies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from anchorsr.bench.plots import RowPoint, draw_rows
from anchorsr.studies.networks import Prediction, median_error
from anchorsr.studies.operators import AFFORDABLE, REFERENCE, Cost, PaperClaim

Row = TypeVar("Row", bound=Cost | PaperClaim | Prediction)

_LEAST_MS = 0.01
# ABPN's paper on the PSNR drop of post-training quantization with each residual form, in dB.
_PAPER_DROP = {
    "none": 1.93,
    "feature_space": 0.78,
    "nearest": 0.13,
    "bilinear": 0.13,
    "anchor": 0.13,
}


def draw_costs(costs: Sequence[Cost], processor: str) -> str | None:
    """Draw the costs at the first width and with the most threads.

    Returns:
        The text of an SVG file; None where nothing was measured.
    """
    first, most = costs[0], max(cost.threads for cost in costs)
    points = [
        RowPoint(c.operator, (c.engine, c.precision), c.median_ms, c.low_ms, c.high_ms)
        for c in costs
        if (c.channels, c.threads) == (first.channels, most)
        and c.median_ms is not None and c.low_ms is not None and c.high_ms is not None
    ]  # fmt: skip
    if not points:
        return None
    return draw_rows(
        points,
        title=f"Cost of operators, {first.width}x{first.height}, {first.channels} channels",
        subtitle=f"{processor}, {_threads(most)}; further left is cheaper",
        x_label=f"milliseconds, median; bars: interquartile range; left end: {_LEAST_MS} or less",
        least=_LEAST_MS,
    )


def draw_predictions(rows: Sequence[Prediction], processor: str) -> str | None:
    """Draw the ratio of predicted to measured time, with the most threads.

    Returns:
        The text of an SVG file; None where nothing was measured.
    """
    most = max(row.threads for row in rows)
    points = []
    for row in rows:
        predicted, low, high = row.predicted_ms, row.low_ms, row.high_ms
        # A cost that is smaller than the spread of the times can be negative.
        if row.threads == most and row.ratio and predicted and predicted > 0 and low and high:
            series = row.engine, row.precision
            bar = predicted / high, predicted / low
            points.append(RowPoint(row.network, series, row.ratio, *bar))
    if not points:
        return None
    return draw_rows(
        points,
        title="Predicted from operators / measured as a whole",
        subtitle=f"{processor}, {_threads(most)}; 1 is exact",
        x_label="predicted / measured; bars: interquartile range of the measured time",
        least=min(0.5, *(point.low for point in points)),
    )


@dataclass(frozen=True)
class Grid:
    """A table for the terminal or a page; `notes` are sentences below it."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: str = ""

    def markdown(self) -> str:
        """Return Markdown, the title as a heading of level 3."""
        rows = [[cell.replace("|", r"\|") for cell in row] for row in (self.head, *self.rows)]
        rows.insert(1, ["---"] * len(self.head))
        table = "\n".join(f"| {' | '.join(cells)} |" for cells in rows)
        return "\n\n".join(part for part in (f"### {self.title}", table, self.notes) if part)


def cost_grids(costs: Sequence[Cost]) -> list[Grid]:
    """Tabulate costs, a table for each width and precision."""
    return [_cost_grid(rows) for rows in _groups(costs, lambda c: (c.channels, c.precision))]


def _cost_grid(costs: Sequence[Cost]) -> Grid:
    first, columns = costs[0], _columns(costs)
    rows = []
    for group in _groups(costs, lambda cost: cost.operator):
        one = group[0]
        cells = _cells(group, columns, _cost_cell)
        rows.append((one.operator, one.label, *cells, _verdict(one.paper_affordable)))
    size = f"{first.width}x{first.height}"
    return Grid(
        f"{first.precision}, {first.channels} channels, {size}: milliseconds, affordable or not",
        ("operator", "what", *_heads(columns), "paper"),
        tuple(rows),
        "The median and, in brackets, the interquartile range. yes: affordable, at most"
        f" {AFFORDABLE:.0%} of the time of {REFERENCE}. *: the paper says the opposite of its NPU."
        " Negative: too fast to measure against the spread of the times.",
    )


def claim_grid(claims: Sequence[PaperClaim]) -> Grid:
    """Tabulate the claims of the paper and the ratios they are about."""
    columns = _columns(claims)
    rows = []
    for group in _groups(claims, lambda c: (c.statement, c.precision, c.channels)):
        cells = _cells(group, columns, lambda c: f"{c.ratio:.2f} {_verdict(c.holds)}")
        setting = f"{group[0].precision}, {group[0].channels} channels"
        rows.append((group[0].statement, setting, *cells))
    return Grid(
        "Claims of the paper about its NPU: the ratio here, and whether the claim holds",
        ("claim", "", *_heads(columns)),
        tuple(rows),
    )


def operator_grids(predictions: Sequence[Prediction]) -> list[Grid]:
    """Tabulate the operators of each network in each precision, their sum and the measured time."""
    groups = _groups(predictions, lambda row: (row.network, row.precision))
    return [_operator_grid(rows) for rows in groups]


def _operator_grid(predictions: Sequence[Prediction]) -> Grid:
    first, columns = predictions[0], _columns(predictions)
    listed = next((row.parts for row in predictions if row.parts), ())
    rows = []
    for index, one in enumerate(listed):

        def total(row: Prediction, index: int = index) -> str:
            return _number(row.parts[index].total_ms if row.parts else None, 2)

        rows.append((one.label, str(one.count), *_cells(predictions, columns, total)))
    figures: dict[str, Callable[[Prediction], float | None]] = {
        "input and output": lambda row: row.edges_ms,
        "predicted": lambda row: row.predicted_ms,
        "measured": lambda row: row.measured_ms,
        "predicted / measured": lambda row: row.ratio,
    }
    for name, figure in figures.items():

        def number(row: Prediction, figure: Callable[..., float | None] = figure) -> str:
            return _number(figure(row), 2)

        rows.append((name, "", *_cells(predictions, columns, number)))
    return Grid(
        f"{first.network}, {first.precision}, {_work(first)}: milliseconds",
        ("operator", "count", *_heads(columns)),
        tuple(rows),
    )


def prediction_grid(predictions: Sequence[Prediction]) -> Grid:
    """Tabulate the predicted and measured time of each network, and the median error."""
    columns = _columns(predictions)
    rows = []
    for group in _groups(predictions, lambda row: (row.network, row.precision)):
        cells = _cells(group, columns, _prediction_cell)
        rows.append((group[0].network, group[0].precision, _work(group[0]), *cells))
    for group in _groups(predictions, lambda row: row.precision):
        errors = (
            median_error([row for row in group if (row.engine, row.threads) == column])
            for column in columns
        )
        cells = ["-" if error is None else f"{error:.0%}" for error in errors]
        rows.append(("median error", group[0].precision, "", *cells))
    return Grid(
        "Predicted / measured milliseconds",
        ("network", "", "input", *_heads(columns)),
        tuple(rows),
    )


def failures(rows: Sequence[Cost] | Sequence[Prediction]) -> list[str]:
    """List what was not measured and why, a line for each reason."""
    failed = [row for row in rows if row.failure is not None]
    found = []
    for group in _groups(failed, lambda row: (row.engine, row.precision, row.failure)):
        names = dict.fromkeys(
            row.operator if isinstance(row, Cost) else row.network for row in group
        )
        where = f"in {group[0].engine}, {group[0].precision}"
        found.append(f"not measured {where}: {', '.join(names)}: {group[0].failure}")
    return found


def challenge_grid(rows: Sequence[Mapping[str, Any]], test_set: str) -> Grid:
    """Tabulate challenge scores.

    Args:
        rows: Dictionaries with model, psnr in dB, ms and score.
        test_set: What the PSNR was measured on.
    """
    return Grid(
        "Challenge score of the shipped models",
        ("model", "PSNR, dB", "ms", "score"),
        tuple(
            (row["model"], _number(row["psnr"], 2), _number(row["ms"], 1), _number(row["score"], 3))
            for row in rows
        ),
        f"2^(2 PSNR) / (2^48 ms), with this processor's time in LiteRT and the PSNR on {test_set}:"
        " comparable within this table only, not with the challenge's.",
    )


def study_grids(rows: Sequence[Mapping[str, Any]]) -> list[Grid]:
    """Tabulate the PSNR of each recipe before and after quantization, and its cost.

    Args:
        rows: `studies.recipes.StudyResult` as dictionaries.
    """
    quality = []
    for row in rows:
        paper = _PAPER_DROP.get(row["run"].removeprefix("residual_"))
        for name, value in row["float_psnr"].items():
            cells = [row["run"], name, _psnr(value)]
            for kind in ("calibrated_psnr", "trained_psnr"):
                figures = row[kind] or {}
                made = figures.get(name)
                drop = None if made is None or value is None else value - made
                cells += [_psnr(made) if name in figures else "-", _number(drop, 3)]
            quality.append((*cells, _number(paper, 2)))
    engines = sorted({engine for row in rows for engine in row["latency_ms"]})
    cost = [
        (
            row["run"],
            f"{row['parameters']:,}",
            f"{row['macs_per_pixel']:,}",
            *(_number(row["latency_ms"].get(engine), 1) for engine in engines),
        )
        for row in rows
    ]
    return [
        Grid(
            "Quality",
            ("run", "set", "float", "PTQ", "drop", "QAT", "drop", "PTQ drop, paper"),
            tuple(quality),
            "PSNR over RGB in dB, and its drop from float to INT8 after post-training quantization"
            " (PTQ) and after quantization-aware training (QAT). The paper's are on DIV2K's"
            " validation images.",
        ),
        Grid(
            "Cost",
            ("run", "parameters", "MAC per LR pixel", *(f"ms, {name}" for name in engines)),
            tuple(cost),
            "Milliseconds of INT8 at 640x360, interleaved.",
        ),
    ]


def output_stage_grids(stages: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Grid]:
    """Tabulate the PSNR of each output stage.

    Args:
        stages: `evaluation.evaluate.Score` as dictionaries, by run.
    """
    grids = []
    for run, scores in stages.items():
        sets = list(dict.fromkeys(row["test_set"] for row in scores))
        found = {(row["method"], row["test_set"]): _psnr(row["psnr_rgb"]) for row in scores}
        rows = [
            (method, *(found.get((method, name), "-") for name in sets))
            for method in dict.fromkeys(row["method"] for row in scores)
        ]
        words = (
            "PSNR over RGB in dB of INT8 after post-training quantization; the output stages are"
            " explained in `anchorsr.studies.output_stage`."
        )
        grids.append(Grid(f"Output stages of {run}", ("output stage", *sets), tuple(rows), words))
    return grids


def _verdict(affordable: bool | None) -> str:
    return "" if affordable is None else "yes" if affordable else "no"


def _cost_cell(cost: Cost) -> str:
    if cost.median_ms is None:
        return "-"
    star = "*" if cost.differs else ""
    spread = f"{cost.low_ms:.2f} - {cost.high_ms:.2f}"
    return f"{cost.median_ms:.2f} ({spread}) {_verdict(cost.affordable)}{star}".strip()


def _prediction_cell(row: Prediction) -> str:
    if row.predicted_ms is None or row.measured_ms is None:
        return "-"
    return f"{row.predicted_ms:.1f} / {row.measured_ms:.1f} = {row.ratio:.2f}"


def _work(row: Prediction) -> str:
    gmac = row.macs_per_pixel * row.height * row.width / 1e9
    return f"{row.width}x{row.height}, {gmac:.2f} GMAC"


def _number(value: float | None, decimals: int) -> str:
    return "-" if value is None else f"{value:.{decimals}f}"


def _psnr(value: float | None) -> str:
    """PSNR in dB; JSON has null for that of equal images."""
    return "inf" if value is None else f"{value:.3f}"


def _groups(rows: Sequence[Row], key: Callable[[Row], Any]) -> list[list[Row]]:
    """Group rows by key, in order of first appearance."""
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return list(groups.values())


def _columns(rows: Sequence[Cost | PaperClaim | Prediction]) -> list[tuple[str, int]]:
    return list(dict.fromkeys((row.engine, row.threads) for row in rows))


def _heads(columns: Sequence[tuple[str, int]]) -> list[str]:
    return [f"{engine}, {_threads(count)}" for engine, count in columns]


def _cells(
    rows: Sequence[Row], columns: Sequence[tuple[str, int]], text: Callable[[Row], str]
) -> list[str]:
    found = {(row.engine, row.threads): text(row) for row in rows}
    return [found.get(column, "-") for column in columns]


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"
