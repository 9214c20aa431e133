"""Plots as SVG over a logarithmic axis: points joined where they belong, and rows of points.

Written out by hand, which spares a large dependency for one image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape


@dataclass(frozen=True)
class Point:
    """A marker at (x, y) with a bar from `low` to `high` along x.

    group: points of one group are joined by a line that bears its name. series: the marker.
    """

    x: float
    low: float
    high: float
    y: float
    group: str
    series: str


_WIDTH, _HEIGHT = 860, 520
_LEFT, _RIGHT, _TOP, _BOTTOM = 80, 190, 70, 70
_LINE = 16  # between two lines of text
# Okabe and Ito's palette, which the colour blind tell apart; shapes say the same again.
_MARKERS = (
    ("#0072B2", "circle"),
    ("#D55E00", "square"),
    ("#009E73", "triangle"),
    ("#CC79A7", "diamond"),
    ("#E69F00", "circle"),
)
# For engines in two precisions each: the precision by the shape.
_ROW_MARKERS = (
    ("#0072B2", "circle"),
    ("#0072B2", "square"),
    ("#D55E00", "circle"),
    ("#D55E00", "square"),
    ("#009E73", "circle"),
    ("#009E73", "square"),
)


def draw_scatter(
    points: Sequence[Point], *, title: str, subtitle: str, x_label: str, y_label: str
) -> str:
    """The plot as the text of an SVG file. Raises ValueError without points."""
    if not points:
        raise ValueError("a plot needs at least one point")
    axes = _Axes(points)
    series = list(dict.fromkeys(point.series for point in points))
    markers = {name: _MARKERS[index % len(_MARKERS)] for index, name in enumerate(series)}
    parts = [
        *_frame(_HEIGHT, title, subtitle),
        *axes.draw(x_label, y_label),
        *_draw_groups(points, axes),
    ]
    for point in points:
        colour, shape = markers[point.series]
        x, y = axes.x(point.x), axes.y(point.y)
        bar = f'<line x1="{axes.x(point.low):.1f}" x2="{axes.x(point.high):.1f}"'
        parts.append(f'{bar} y1="{y:.1f}" y2="{y:.1f}" stroke="{colour}" stroke-width="2"/>')
        parts.append(_marker(x, y, colour, shape))
    parts += _legend(markers)
    return "\n".join([*parts, "</svg>", ""])


@dataclass(frozen=True)
class Mark:
    """A marker in the row of that name, with a bar from `low` to `high`."""

    row: str
    series: str
    x: float
    low: float
    high: float


_ROW = 22  # the height of one
_ROWS_LEFT = 170


def draw_rows(
    marks: Sequence[Mark], *, title: str, subtitle: str, x_label: str, least: float
) -> str:
    """One row for each name in the order they come, a marker in it for each series, as SVG.

    least: what is smaller stands at the left edge, which a logarithmic axis must have.
    Raises ValueError without marks.
    """
    if not marks:
        raise ValueError("a plot needs at least one mark")
    rows = list(dict.fromkeys(mark.row for mark in marks))
    series = list(dict.fromkeys(mark.series for mark in marks))
    markers = {name: _ROW_MARKERS[index % len(_ROW_MARKERS)] for index, name in enumerate(series)}
    right, bottom = _WIDTH - _RIGHT, _TOP + _ROW * len(rows)
    high = max(least, *(mark.high for mark in marks)) * 1.25
    scale = (right - _ROWS_LEFT) / math.log(high / least)

    def place(value: float) -> float:
        return _ROWS_LEFT + scale * math.log(max(value, least) / least)

    height = max(bottom, _TOP + _ROW * len(series)) + 60
    parts = _frame(height, title, subtitle)
    for value in _log_ticks(least, high):
        x = place(value)
        parts.append(f'<path d="M{x:.1f} {_TOP}V{bottom}" stroke="#e4e4e4"/>')
        parts.append(_text(x, bottom + 20, f"{value:g}", anchor="middle"))
    middles = {name: _TOP + _ROW * (index + 0.5) for index, name in enumerate(rows)}
    for name, y in middles.items():
        parts.append(f'<path d="M{_ROWS_LEFT} {y:.1f}H{right}" stroke="#f2f2f2"/>')
        parts.append(_text(_ROWS_LEFT - 10, y + 4, name, anchor="end"))
    for mark in marks:
        colour, shape = markers[mark.series]
        y = middles[mark.row]
        bar = f'<line x1="{place(mark.low):.1f}" x2="{place(mark.high):.1f}"'
        parts.append(f'{bar} y1="{y:.1f}" y2="{y:.1f}" stroke="{colour}" stroke-width="2"/>')
        parts.append(_marker(place(mark.x), y, colour, shape))
    parts.append(f'<path d="M{_ROWS_LEFT} {_TOP}V{bottom}H{right}" fill="none" stroke="#333"/>')
    parts.append(_text((_ROWS_LEFT + right) / 2, bottom + 44, x_label, anchor="middle"))
    parts += _legend(markers)
    return "\n".join([*parts, "</svg>", ""])


def _frame(height: int, title: str, subtitle: str) -> list[str]:
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}"'
        f' width="{_WIDTH}" height="{height}" font-family="sans-serif" font-size="13">',
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
        _text(_LEFT, 28, title, size=17),
        _text(_LEFT, 50, subtitle, fill="#555"),
    ]


def _legend(markers: Mapping[str, tuple[str, str]]) -> list[str]:
    parts = []
    for index, (name, marker) in enumerate(markers.items()):
        x, y = _WIDTH - _RIGHT + 30, _TOP + 10 + index * 22
        parts += [_marker(x, y, *marker), _text(x + 14, y + 4, name)]
    return parts


class _Axes:
    """From values to places on the image: x logarithmic, y linear."""

    def __init__(self, points: Sequence[Point]) -> None:
        low, high = min(p.low for p in points), max(p.high for p in points)
        self._low, self._high = math.log(low / 1.25), math.log(high * 1.25)
        bottom, top = min(p.y for p in points), max(p.y for p in points)
        self._step = _nice_step(max(top - bottom, 0.1) / 6)
        self._bottom = math.floor(bottom / self._step - 0.3) * self._step
        self._top = math.ceil(top / self._step + 0.3) * self._step

    def x(self, value: float) -> float:
        share = (math.log(value) - self._low) / (self._high - self._low)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        share = (value - self._bottom) / (self._top - self._bottom)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)

    def draw(self, x_label: str, y_label: str) -> list[str]:
        right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
        parts = []
        for value in _log_ticks(math.exp(self._low), math.exp(self._high)):
            x = self.x(value)
            parts.append(f'<path d="M{x:.1f} {_TOP}V{bottom}" stroke="#e4e4e4"/>')
            parts.append(_text(x, bottom + 20, f"{value:g}", anchor="middle"))
        decimals = max(0, -math.floor(math.log10(self._step)))
        for index in range(round((self._top - self._bottom) / self._step) + 1):
            value = self._bottom + index * self._step
            y = self.y(value)
            parts.append(f'<path d="M{_LEFT} {y:.1f}H{right}" stroke="#e4e4e4"/>')
            parts.append(_text(_LEFT - 10, y + 4, f"{value:.{decimals}f}", anchor="end"))
        middle = (_TOP + bottom) / 2
        return [
            *parts,
            f'<path d="M{_LEFT} {_TOP}V{bottom}H{right}" fill="none" stroke="#333"/>',
            _text((_LEFT + right) / 2, bottom + 48, x_label, anchor="middle"),
            f'<g transform="rotate(-90 24 {middle})">'
            f"{_text(24, middle, y_label, anchor='middle')}</g>",
        ]


def _draw_groups(points: Sequence[Point], axes: _Axes) -> list[str]:
    """A line through each group and its name: on the right, else on the left, else lower."""
    groups: dict[str, list[Point]] = {}
    for point in points:
        groups.setdefault(point.group, []).append(point)
    # Left end, right end and height of what no name may cover.
    taken = [(axes.x(p.x) - 8, axes.x(p.x) + 8, axes.y(p.y)) for p in points]
    parts: list[str] = []
    for name, members in sorted(groups.items(), key=lambda item: -item[1][0].y):
        y, length = axes.y(members[0].y), 7.5 * len(name)
        left, right = (axes.x(edge(p.x for p in members)) for edge in (min, max))
        parts.append(f'<path d="M{left:.1f} {y:.1f}H{right:.1f}" stroke="#999"/>')
        before = axes.x(min(p.low for p in members)) - 12 - length
        after = axes.x(max(p.high for p in members)) + 12
        sides = (after, before) if before > _LEFT else (after,)
        start, place = next(
            (start, y + lower)
            for lower in range(_HEIGHT)
            for start in (sides if not lower else sides[:1])
            if not any(
                abs(y + lower - other) < _LINE and start < last and first < start + length
                for first, last, other in taken
            )
        )
        taken.append((start, start + length, place))
        parts.append(_text(start, place + 4, name, weight="bold"))
    return parts


def _marker(x: float, y: float, colour: str, shape: str) -> str:
    style = f'fill="{colour}" stroke="white"'
    if shape == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" {style}/>'
    outlines = {
        "square": "m-5.5 -5.5h11v11h-11z",
        "triangle": "m0 -7l6.5 12h-13z",
        "diamond": "m0 -7.5l7 7.5l-7 7.5l-7 -7.5z",
    }
    return f'<path d="M{x:.1f} {y:.1f}{outlines[shape]}" {style}/>'


def _text(
    x: float,
    y: float,
    text: str,
    *,
    size: int = 13,
    anchor: str = "start",
    fill: str = "#222",
    weight: str = "normal",
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}"'
        f' fill="{fill}" font-weight="{weight}">{escape(text)}</text>'
    )


def _nice_step(least: float) -> float:
    """The smallest of 1, 2 and 5 times a power of ten that is not below `least`."""
    unit: float = 10.0 ** math.floor(math.log10(least))
    return next(unit * times for times in (1, 2, 5, 10) if unit * times >= least * 0.999)


def _log_ticks(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if high / low > 30 else (1, 1.5, 2, 3, 4, 6, 8)
    ticks = [times * 10.0**power for power in powers for times in steps]
    return [tick for tick in ticks if low <= tick <= high]
