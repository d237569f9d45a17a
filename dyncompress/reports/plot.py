"""Draw curves and points on two axes as inline SVG, without a plotting library.

The colours are those of the page (classes `mark`, `soft`, `rule`), so that a drawing follows its light or dark theme;
`standalone` adds colours for a drawing in a file of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 460, 280
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 14, 46
DECADES = 30.0  # ratio of the largest to the smallest value from which on an axis is logarithmic
STYLE = (  # every selector names the drawing, since in a notebook a style applies to the whole page
    "svg.plot{background:#fbfaf7;font:12px system-ui,sans-serif}svg.plot .mark{fill:#2f6f8f;stroke:#2f6f8f}"
    "svg.plot .soft{fill:#8d8778;stroke:#8d8778}svg.plot text{fill:#1f2430}svg.plot .tick{fill:#626a78;font-size:11px}"
    "svg.plot .rule{stroke:#dcdad3}"
)
TINY = 1e-15  # smaller values on the vertical axis count as zero
Scale = Callable[[float], float]


@dataclass(frozen=True)
class Series:
    """Points of one kind.

    Attributes:
        name: for the legend.
        points: (x, y) pairs; those that aren't finite are left out.
        soft: whether the second colour is used.
        line: whether neighbouring points are joined by a line.
        hollow: whether only the outline of a point is drawn.
        radius: of a point in pixels.
    """

    name: str
    points: tuple[tuple[float, float], ...]
    soft: bool = False
    line: bool = False
    hollow: bool = False
    radius: float = 4.0

    def finite(self) -> list[tuple[float, float]]:
        """The points whose coordinates are finite."""
        return [(x, y) for x, y in self.points if math.isfinite(x) and math.isfinite(y)]


def plot(series: Sequence[Series], title: str, labels: tuple[str, str], *, standalone: bool = False) -> str:
    """Draw curves and points on common axes; the vertical axis is logarithmic if values differ by a factor of 30 or more.

    Args:
        series: drawn in this order, later ones on top.
        title: a description of the drawing, for screen readers.
        labels: of the horizontal and the vertical axis, with units.
        standalone: whether the drawing has colours of its own, for a file.

    Returns:
        An `<svg>` element; an empty string if there is nothing to draw.
    """
    drawn = [point for one in series for point in one.finite()]
    if not drawn:
        return ""
    xs, ys = [x for x, _ in drawn], [y for _, y in drawn]
    x_ticks, x = _linear(min(xs), max(xs), LEFT, WIDTH - RIGHT, 4)
    y_ticks, y = _vertical(ys)
    parts = [_grid(x_ticks, y_ticks, x, y), _labels(labels)]
    parts += [_series(one, x, y) for one in series if one.finite()]
    style = f"<style>{STYLE}</style>" if standalone else ""
    return (
        f'<svg class="plot" role="img" aria-label="{escape(title, quote=True)}" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        f'height="{HEIGHT}" xmlns="http://www.w3.org/2000/svg">{style}{"".join(parts)}</svg>'
    )


def legend(series: Sequence[Series]) -> str:
    """The legend as HTML: the mark and the name of each series."""
    marks = [(one.name, _dot(one, 7, 6)) for one in series if one.finite()]
    parts = (f'<span><svg width="14" height="12" aria-hidden="true">{dot}</svg>{escape(name)}</span>' for name, dot in marks)
    return f'<p class="legend">{"".join(parts)}</p>' if marks else ""


def _dot(one: Series, x: float, y: float, tooltip: str = "") -> str:
    """A point with a tooltip."""
    fill = ' fill-opacity="0" stroke-width="1.5"' if one.hollow else ""
    kind, title = "soft" if one.soft else "mark", f"<title>{escape(tooltip)}</title>" if tooltip else ""
    return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{one.radius:g}"{fill}>{title}</circle>'


def _linear(low: float, high: float, start: float, end: float, count: int) -> tuple[list[float], Scale]:
    """About `count` round ticks, and the function that maps a value to its position on the axis."""
    steps = ticks(low, high, count)
    first, span = steps[0], steps[-1] - steps[0]
    return steps, lambda value: start + (end - start) * (value - first) / span


def _vertical(values: Sequence[float]) -> tuple[list[float], Scale]:
    """Ticks and positions on the vertical axis; on a logarithmic one the ticks are powers of ten, and 0 lies at the bottom."""
    positive = [value for value in values if value > TINY]
    if not positive or max(positive) < DECADES * min(positive):
        return _linear(0.0, max(positive, default=1.0), HEIGHT - BOTTOM, TOP, 4)
    low, high = math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive)))
    every = max(1, round((high - low) / 5))
    steps = [10.0**power for power in range(low, high + 1, every)]

    def scale(value: float) -> float:
        share = (math.log10(max(value, 10.0**low)) - low) / (high - low)
        return HEIGHT - BOTTOM + (TOP - HEIGHT + BOTTOM) * share

    return steps, scale


def _grid(x_ticks: Sequence[float], y_ticks: Sequence[float], x: Scale, y: Scale) -> str:
    """Grid lines and numbers at the ticks."""
    bottom = HEIGHT - BOTTOM
    parts = [f'<line class="rule" x1="{x(t):.1f}" x2="{x(t):.1f}" y1="{TOP}" y2="{bottom}"/>' for t in x_ticks]
    parts += [f'<line class="rule" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(t):.1f}" y2="{y(t):.1f}"/>' for t in y_ticks]
    for i, t in enumerate(x_ticks):
        anchor, shift = ("end", 4) if i == len(x_ticks) - 1 else ("middle", 0)
        parts.append(f'<text class="tick" x="{x(t) + shift:.1f}" y="{bottom + 16}" text-anchor="{anchor}">{short(t)}</text>')
    parts += [f'<text class="tick" x="{LEFT - 6}" y="{y(t) + 4:.1f}" text-anchor="end">{short(t)}</text>' for t in y_ticks]
    return "".join(parts)


def _labels(labels: tuple[str, str]) -> str:
    """The names of the axes."""
    middle = TOP + (HEIGHT - BOTTOM - TOP) / 2
    return (
        f'<text x="{LEFT + (WIDTH - RIGHT - LEFT) / 2:.0f}" y="{HEIGHT - 8}" text-anchor="middle">{escape(labels[0])}</text>'
        f'<text x="14" y="{middle:.0f}" text-anchor="middle" transform="rotate(-90 14 {middle:.0f})">{escape(labels[1])}</text>'
    )


def _series(one: Series, x: Scale, y: Scale) -> str:
    """A line and its points; the tooltip of a point shows its values."""
    kind, places = "soft" if one.soft else "mark", one.finite()
    parts = []
    if one.line and len(places) > 1:
        path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in places)
        parts.append(f'<polyline class="{kind}" fill-opacity="0" stroke-width="1.5" points="{path}"/>')
    parts += [_dot(one, x(a), y(b), f"{one.name}: {a:,.0f}, {b:.3g}") for a, b in places]
    return f"<g>{''.join(parts)}</g>"


def ticks(low: float, high: float, wanted: int = 4) -> list[float]:
    """Round numbers that cover [low, high], about `wanted` of them.

    Example:
        >>> ticks(1.7, 6.2)
        [0.0, 2.0, 4.0, 6.0, 8.0]
    """
    size = max(abs(low), abs(high))
    span = high - low if high - low > 1e-9 * size else size or 1.0
    raw = span / wanted
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= raw * 0.999)
    first = math.floor(low / step)
    last = max(math.ceil(high / step), first + 1)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def short(value: float) -> str:
    """The number at a tick, with few characters.

    Example:
        >>> short(0.0), short(1_500_000.0), short(20_000.0), short(0.001), short(1e-7)
        ('0', '1.5 M', '20 k', '0.001', '1e-07')
    """
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:g} {unit}"
    return f"{value:g}"
