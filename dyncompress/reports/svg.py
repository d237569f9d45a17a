"""Three drawings by hand, inline SVG without a library: bars, bars of two models, estimates with their standard errors.

Colours come from the page (`mark`, `soft`, `rule` classes), so that a drawing follows its light or dark theme.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

ROW = 18  # height of a row, px
LABEL = 220  # room for the labels at the left
PLOT = 300  # width of the drawing area
VALUE = 170  # room for the values at the right
LABEL_LETTERS = 34


@dataclass(frozen=True)
class Bar:
    """One row: a label, a value, the text beside it; `soft` draws it in the second colour.

    Attributes:
        label: at the left.
        value: length of the bar; nan draws none.
        text: at the right.
        soft: the second colour, e.g. for the original.
    """

    label: str
    value: float
    text: str
    soft: bool = False


@dataclass(frozen=True)
class Point:
    """One row: an estimate and its standard error (nan: unknown); `doubtful` where its own conditions fail."""

    label: str
    value: float
    stderr: float
    text: str
    doubtful: bool = False


def bars(rows: Sequence[Bar], title: str, full: float | None = None) -> str:
    """Horizontal bars from zero.

    Args:
        rows: top to bottom.
        title: what is drawn, for those who can't see it.
        full: the value of a full bar; None: the largest value.

    Returns:
        an `<svg>` element.
    """
    largest = full or max((row.value for row in rows if math.isfinite(row.value)), default=0.0) or 1.0
    parts = []
    for i, row in enumerate(rows):
        length = PLOT * min(max(row.value, 0.0) / largest, 1.0) if math.isfinite(row.value) else 0.0
        kind = "soft" if row.soft else "mark"
        drawn = f'<rect class="{kind}" x="{LABEL}" y="{i * ROW + 4}" width="{length:.1f}" height="{ROW - 8}" rx="2"/>'
        parts.append(_row(i, row.label, row.text, drawn, LABEL + length + 6))
    return _svg(parts, len(rows) * ROW, title)


def points(rows: Sequence[Point], title: str) -> str:
    """Estimates as dots, whiskers of one standard error either side, on a common axis with round ticks.

    Args:
        rows: top to bottom; values that aren't finite are left out of the axis and drawn as text alone.
        title: what is drawn, for those who can't see it.

    Returns:
        an `<svg>` element.
    """
    finite = [row for row in rows if math.isfinite(row.value)]
    ends = [row.value + sign * _width(row) for row in finite for sign in (-1, 1)]
    low, high = (min(ends), max(ends)) if ends else (0.0, 1.0)
    steps = ticks(low, high)
    low, high = min(low, steps[0]), max(high, steps[-1])

    def x(value: float) -> float:
        return LABEL + PLOT * (value - low) / ((high - low) or 1.0)

    height = len(rows) * ROW
    parts = [f'<line class="rule" x1="{x(t):.1f}" x2="{x(t):.1f}" y1="0" y2="{height}"/>' for t in steps]
    for i, row in enumerate(rows):
        drawn = _dot(row, x, i * ROW + ROW / 2) if math.isfinite(row.value) else ""
        parts.append(_row(i, row.label, row.text, drawn, LABEL + PLOT + 10))
    parts += [f'<text class="tick" x="{x(t):.1f}" y="{height + 12}" text-anchor="middle">{t:g}</text>' for t in steps]
    return _svg(parts, height + 16, title)


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


def _width(row: Point) -> float:
    return row.stderr if math.isfinite(row.stderr) else 0.0


def _dot(row: Point, x, y: float) -> str:  # type: ignore[no-untyped-def]
    """A dot and its whisker."""
    width = _width(row)
    kind = "soft" if row.doubtful else "mark"
    whisker = f'<line class="whisker" x1="{x(row.value - width):.1f}" x2="{x(row.value + width):.1f}" y1="{y}" y2="{y}"/>'
    return (whisker if width else "") + f'<circle class="{kind}" cx="{x(row.value):.1f}" cy="{y}" r="4"/>'


def _row(i: int, label: str, text: str, drawn: str, text_x: float) -> str:
    """A label, the drawing, a value."""
    base = i * ROW + ROW / 2 + 4
    short = label if len(label) <= LABEL_LETTERS else "…" + label[-LABEL_LETTERS + 1 :]
    return (
        f"<g><title>{escape(label)}: {escape(text)}</title>"
        f'<text class="label" x="{LABEL - 8}" y="{base}" text-anchor="end">{escape(short)}</text>{drawn}'
        f'<text class="value" x="{text_x:.1f}" y="{base}">{escape(text)}</text></g>'
    )


def _svg(parts: Sequence[str], height: float, title: str) -> str:
    width = LABEL + PLOT + VALUE
    return (
        f'<svg role="img" aria-label="{escape(title, quote=True)}" viewBox="0 0 {width} {height:g}" width="{width}" '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
    )
