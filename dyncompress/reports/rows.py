"""Draw bars, and estimates with their standard errors, in rows with a label and a value, as HTML that fits any width.

The colours are those of the page (classes `mark`, `soft`), so that a drawing follows its light or dark theme.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from dyncompress.reports.plot import short, ticks


@dataclass(frozen=True)
class Bar:
    """A row with a bar.

    Attributes:
        label: at the left.
        value: length of the bar; nan: no bar.
        text: at the right.
        soft: whether the bar has the second colour, as for the original.
    """

    label: str
    value: float
    text: str
    soft: bool = False


@dataclass(frozen=True)
class Point:
    """A row with an estimate and its standard error.

    Attributes:
        label: at the left.
        value: the estimate.
        stderr: its standard error; nan: unknown.
        text: at the right.
        doubtful: whether the estimate's assumptions don't hold; it then has the second colour.
    """

    label: str
    value: float
    stderr: float
    text: str
    doubtful: bool = False


def bars(rows: Sequence[Bar], title: str, full: float | None = None) -> str:
    """Draw horizontal bars that start at zero.

    Args:
        rows: from top to bottom.
        title: a description of the drawing, for screen readers.
        full: the value of a bar of full width; None: the largest value.

    Returns:
        A `<div>` element.
    """
    largest = full or max((row.value for row in rows if math.isfinite(row.value)), default=0.0) or 1.0
    parts = []
    for row in rows:
        share = min(max(row.value, 0.0) / largest, 1.0) if math.isfinite(row.value) else 0.0
        parts.append(_row(row.label, f'<i{_kind(row.soft)} style="width:{100 * share:.1f}%"></i>', row.text))
    return _rows(parts, title, "bars")


def points(rows: Sequence[Point], title: str) -> str:
    """Draw estimates as dots with whiskers of one standard error on either side, on a common axis with round ticks.

    Args:
        rows: from top to bottom; values that aren't finite have no dot, only their text.
        title: a description of the drawing, for screen readers.

    Returns:
        A `<div>` element.
    """
    finite = [row for row in rows if math.isfinite(row.value)]
    ends = [row.value + sign * _width(row) for row in finite for sign in (-1, 1)]
    low, high = (min(ends), max(ends)) if ends else (0.0, 1.0)
    steps = ticks(low, high)
    first, span = steps[0], steps[-1] - steps[0]

    def at(value: float) -> float:
        return 100 * (value - first) / span

    rules = "".join(f'<u style="left:{at(t):.1f}%"></u>' for t in steps)
    parts = []
    for row in rows:
        drawn = ""
        if math.isfinite(row.value):
            width = _width(row)
            ends_at = at(row.value - width), at(row.value + width)
            if width:
                drawn = f'<s style="left:{ends_at[0]:.2f}%;width:{ends_at[1] - ends_at[0]:.2f}%"></s>'
            drawn += f'<i{_kind(row.doubtful)} style="left:{at(row.value):.2f}%"></i>'
        parts.append(_row(row.label, rules + drawn, row.text))
    labels = "".join(f'<b style="left:{at(t):.1f}%">{short(t)}</b>' for t in steps)
    return _rows([*parts, _row("", labels, "", "axis")], title, "bars points")


def _width(row: Point) -> float:
    return row.stderr if math.isfinite(row.stderr) else 0.0


def _kind(soft: bool) -> str:
    return ' class="soft"' if soft else ""


def _row(label: str, drawn: str, text: str, kind: str = "track") -> str:
    """A row as HTML: label, drawing and value."""
    return (
        f'<span class="name">{escape(label)}</span><span class="{kind}">{drawn}</span><span class="value">{escape(text)}</span>'
    )


def _rows(parts: Sequence[str], title: str, kind: str) -> str:
    return f'<div class="{kind}" role="group" aria-label="{escape(title, quote=True)}">{"".join(parts)}</div>'
