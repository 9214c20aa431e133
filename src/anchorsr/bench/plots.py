"""Plots as SVG, drawn by matplotlib: values over a logarithmic axis, with error bars.

The text of a file depends on the values alone, so that a plot that is drawn again changes only
where a figure has changed.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING, Any

from anchorsr.errors import needs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Point:
    """A marker at (x, y) with an error bar along x.

    Attributes:
        low: Where the error bar starts.
        high: Where it ends.
        group: Points of one group are joined by a line that bears its name.
        series: Points of one series share a marker.
    """

    x: float
    low: float
    high: float
    y: float
    group: str
    series: str


@dataclass(frozen=True)
class RowPoint:
    """A marker in the row of that name, with an error bar from `low` to `high`.

    Attributes:
        series: An engine and a precision: the first has a colour, the second a shape.
    """

    row: str
    series: tuple[str, str]
    x: float
    low: float
    high: float


# Okabe and Ito's palette, which people with colour blindness tell apart; shapes repeat it.
_BLUE, _ORANGE, _GREEN = "#0072B2", "#D55E00", "#009E73"
_COLOURS = (_BLUE, _ORANGE, _GREEN, "#CC79A7")
_MARKERS = ((_BLUE, "o"), (_ORANGE, "s"), (_GREEN, "^"), ("#CC79A7", "D"), ("#E69F00", "o"))
_WIDTH, _HEIGHT = 8.6, 5.2  # inches
_ROW = 0.24  # the height of one, in inches
# Text stays text: small files, and letters of the reader's own font.
_SETTINGS: Any = {"svg.fonttype": "none", "svg.hashsalt": "anchorsr", "font.family": "sans-serif"}


def check_matplotlib() -> None:
    """Raise MissingDependencyError where matplotlib is not installed."""
    with needs("matplotlib", "plots"):
        import matplotlib.backends.backend_svg  # noqa: F401


def draw_scatter(
    points: Sequence[Point], *, title: str, subtitle: str, x_label: str, y_label: str
) -> str:
    """Draw points over a logarithmic x axis.

    Returns:
        The text of an SVG file.

    Raises:
        ValueError: There are no points.
        MissingDependencyError: matplotlib is not installed.
    """
    if not points:
        raise ValueError("a plot needs at least one point")
    figure, axes = _new_figure(_HEIGHT, title, subtitle)
    axes.set(xscale="log", xlabel=x_label, ylabel=y_label)
    axes.grid(visible=True, which="both", axis="x", color="#e4e4e4")
    axes.grid(visible=True, axis="y", color="#e4e4e4")
    groups: dict[str, list[Point]] = {}
    for point in points:
        groups.setdefault(point.group, []).append(point)
    for group in groups.values():
        ends = min(group, key=lambda one: one.x), max(group, key=lambda one: one.x)
        axes.plot([end.x for end in ends], [end.y for end in ends], color="#999", lw=1, zorder=1)
    for name, marker in _markers(points).items():
        chosen = [point for point in points if point.series == name]
        _draw_series(axes, name, marker, chosen, [point.y for point in chosen])
    axes.set_xlim(min(p.low for p in points) / 1.25, max(p.high for p in points) * 1.6)
    axes.margins(y=0.15)
    _set_log_ticks(axes)
    _draw_names(figure, axes, groups)
    return _to_svg(figure, axes)


def draw_rows(
    points: Sequence[RowPoint], *, title: str, subtitle: str, x_label: str, least: float
) -> str:
    """Draw one row for each name, in order of first appearance, over a logarithmic x axis.

    Values below `least`, the left end of the axis, are drawn there.

    Returns:
        The text of an SVG file.

    Raises:
        ValueError: There are no points.
        MissingDependencyError: matplotlib is not installed.
    """
    if not points:
        raise ValueError("a plot needs at least one point")
    rows = {name: index for index, name in enumerate(dict.fromkeys(p.row for p in points))}
    figure, axes = _new_figure(max(3.0, 1.5 + _ROW * len(rows)), title, subtitle)
    axes.set(xscale="log", xlabel=x_label)
    axes.grid(visible=True, which="both", color="#eeeeee")
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(least, max(least, *(point.high for point in points)) * 1.25)
    colours = dict(zip(dict.fromkeys(p.series[0] for p in points), cycle(_COLOURS), strict=False))
    shapes = dict(zip(dict.fromkeys(p.series[1] for p in points), cycle("os"), strict=False))
    for series in sorted({point.series for point in points}):
        chosen = [
            RowPoint(p.row, series, *(max(value, least) for value in (p.x, p.low, p.high)))
            for p in points
            if p.series == series
        ]
        marker = colours[series[0]], shapes[series[1]]
        heights = [rows[point.row] for point in chosen]
        _draw_series(axes, " ".join(series), marker, chosen, heights)
    _set_log_ticks(axes)
    return _to_svg(figure, axes)


def _new_figure(height: float, title: str, subtitle: str) -> tuple[Figure, Axes]:
    """Make a figure without pyplot, whose state is the whole process's."""
    with needs("matplotlib", "plots"):
        from matplotlib.figure import Figure
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    axes = figure.add_subplot()
    figure.suptitle(title, x=0.02, ha="left", fontsize=13)
    axes.set_title(subtitle, loc="left", fontsize=9, color="#555")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    return figure, axes


def _markers(points: Sequence[Point]) -> dict[str, tuple[str, str]]:
    """Give each series a colour and a shape."""
    series = dict.fromkeys(point.series for point in points)
    return {name: _MARKERS[index % len(_MARKERS)] for index, name in enumerate(series)}


def _draw_series(
    axes: Axes,
    name: str,
    marker: tuple[str, str],
    points: Sequence[Point | RowPoint],
    heights: Sequence[float],
) -> None:
    colour, shape = marker
    axes.hlines(heights, [p.low for p in points], [p.high for p in points], color=colour, lw=2)
    x = [point.x for point in points]
    axes.plot(
        x, heights, shape, color=colour, mec="white", ms=8, label=name, zorder=3, clip_on=False
    )


def _set_log_ticks(axes: Axes) -> None:
    """Label 1, 2 and 5 of each decade, or more where the axis holds little more than one."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    low, high = axes.get_xlim()
    steps = (1, 2, 5) if high / low > 30 else (1, 1.5, 2, 3, 4, 6, 8)
    axes.xaxis.set_major_locator(LogLocator(subs=steps, numticks=100))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())


def _draw_names(figure: Figure, axes: Axes, groups: Mapping[str, Sequence[Point]]) -> None:
    """Write each group's name right of its points, lower where another name stands already."""
    line, right = 13.0, 10.0  # points: between two lines of text, and right of a marker
    figure.draw_without_rendering()
    scale = 72 / figure.dpi
    taken: list[tuple[float, float]] = []
    for name, members in sorted(groups.items(), key=lambda item: -item[1][0].y):
        end = max(member.high for member in members)
        y = members[0].y
        x_points, y_points = axes.transData.transform((end, y)) * scale
        shift = 0.0
        while any(
            abs(y_points + shift - other_y) < line and x_points < other_x
            for other_x, other_y in taken
        ):
            shift -= 1.0
        taken.append((x_points + right + 7.0 * len(name), y_points + shift))
        axes.annotate(
            name,
            (end, y),
            xytext=(right, shift),
            textcoords="offset points",
            va="center",
            fontweight="bold",
            fontsize=9,
            annotation_clip=False,
        )


def _to_svg(figure: Figure, axes: Axes) -> str:
    import matplotlib

    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, borderaxespad=0)
    buffer = io.StringIO()
    metadata: dict[str, Any] = {"Date": None}
    with matplotlib.rc_context(_SETTINGS):
        figure.savefig(buffer, format="svg", metadata=metadata)
    return buffer.getvalue()
