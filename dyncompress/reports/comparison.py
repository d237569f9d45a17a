"""Present a comparison of allocators as a table, a drawing of its ratios, Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from dyncompress.reports import markup
from dyncompress.reports.plain import plain_json
from dyncompress.reports.plot import STYLE, short
from dyncompress.reports.table import Table, number, percent
from dyncompress.types.comparison import AllocatorResult, Comparison, Ratio

TABLE, VALUES, DRAWING = "comparison.md", "comparison.csv", "comparison.svg"
FILES = (TABLE, VALUES, DRAWING)  # that `comparison_files` makes
NAMES = {  # of a row, where its name needs more words
    "weight_error": "exact weight errors",
    "theory": "theory (learned prior)",
    "fisher_trajectory": "fisher + recorded training",
    "fisher_probe": "fisher + one probe a layer",
}
WIDTH, LEFT, RIGHT, TOP, BOTTOM, LINE = 620, 190, 16, 14, 46, 22  # of the drawing, in pixels
MARKS = (1, 2, 5)  # ticks of the logarithmic axis, times powers of ten


def comparison_text(comparison: Comparison) -> str:
    """The verdicts, the table, the allocators that made no plan with their reasons, and notes, for a terminal."""
    return "\n\n".join((_verdicts(comparison), comparison_table(comparison).plain(), _explained(comparison)))


def comparison_table(comparison: Comparison) -> Table:
    """A table with a row for each allocator that made a plan."""
    scored = any(not math.isnan(row.changed) for row in comparison)
    labelled = any(not math.isnan(row.accuracy) for row in comparison)
    size = "bytes" if comparison.budget.sparsity is None else "zeros"
    header = ["allocator", "reads", size, f"divergence, {comparison.unit}", "of uniform's [95 %]"]
    header += ["answers changed"] * scored + ["accuracy"] * labelled
    rows = []
    for row in _planned(comparison):
        amount = f"{row.bytes:,.0f}" if size == "bytes" else percent(row.zeros)
        cells = [NAMES.get(row.name, row.name), row.reads, amount, number(row.divergence), str(row.ratio)]
        rows.append((*cells, *[percent(row.changed)] * scored, *[percent(row.accuracy)] * labelled))
    return Table(tuple(header), tuple(rows), frozenset(header[2:]))


def comparison_markdown(comparison: Comparison) -> str:
    """The text with its table in Markdown."""
    table = comparison_table(comparison)
    rule = ["---:" if name in table.numeric else "---" for name in table.header]
    lines = "\n".join(f"| {' | '.join(cells)} |" for cells in (table.header, rule, *table.rows))
    return "\n\n".join((_verdicts(comparison), lines, _explained(comparison))) + "\n"


def comparison_html(comparison: Comparison) -> str:
    """Verdicts, drawing and table as HTML for a notebook."""
    parts = comparison_svg(comparison, standalone=True), markup.table(comparison_table(comparison))
    shown = "".join(f'<div class="scroll">{part}</div>' for part in parts)
    return markup.items([str(one) for one in comparison.verdicts]) + shown


def comparison_csv(comparison: Comparison) -> str:
    """CSV with a line for each allocator; numbers aren't rounded, and what has no value is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    numbers = ("bytes", "zeros", "divergence", "stderr", "ratio", "ratio_low", "ratio_high", "changed", "accuracy")
    writer.writerow(("allocator", "reads", *numbers, "reason"))
    for row in comparison:
        values = (row.bytes, row.zeros, row.divergence, row.stderr, *_ends(row), row.changed, row.accuracy)
        writer.writerow((row.name, row.reads, *("" if math.isnan(v) else repr(v) for v in values), row.reason))
    return text.getvalue()


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """The comparison as a JSON object, without the plans."""
    rows = []
    for row in comparison:
        value, low, high = _ends(row)
        measured = {"bytes": row.bytes, "zeros": row.zeros, "divergence": row.divergence, "stderr": row.stderr}
        measured |= {"ratio": {"value": value, "low": low, "high": high}, "changed": row.changed, "accuracy": row.accuracy}
        rows.append({"allocator": row.name, "reads": row.reads, **({"reason": row.reason} if row.reason else measured)})
    limits = {name: value for name, value in vars(comparison.budget).items() if value is not None}
    answers = [{"question": one.question, "answer": one.answer, "why": one.why} for one in comparison.verdicts]
    about = {"budget": limits, "unit": comparison.unit, "examples": comparison.examples, "accuracy": comparison.accuracy}
    return plain_json({"answer": comparison.answer, "verdicts": answers, **about, "rows": rows, "notes": comparison.notes})


def comparison_files(comparison: Comparison) -> dict[str, str]:
    """Name -> content of the files of a comparison: the table, the values, and the drawing last."""
    drawing = comparison_svg(comparison, standalone=True) + "\n"
    return {TABLE: comparison_markdown(comparison), VALUES: comparison_csv(comparison), DRAWING: drawing}


# ---------------------------------------------------------------- the drawing
def comparison_svg(comparison: Comparison, *, standalone: bool = False) -> str:
    """The ratio of each allocator's divergence to that of `uniform` with its interval, on a logarithmic axis.

    Args:
        comparison: rows without a plan are left out.
        standalone: whether the drawing has colours of its own, for a file.

    Returns:
        An `<svg>` element.
    """
    drawn = [(row, row.ratio) for row in _planned(comparison) if row.ratio is not None and row.ratio.low > 0]
    low, high = min(ratio.low for _, ratio in drawn), max(ratio.high for _, ratio in drawn)
    ticks = log_ticks(low, high)
    height, bottom = TOP + LINE * len(drawn) + BOTTOM, TOP + LINE * len(drawn)

    def x(value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * math.log(value / ticks[0]) / math.log(ticks[-1] / ticks[0])

    parts = [f'<line class="rule" x1="{x(t):.1f}" x2="{x(t):.1f}" y1="{TOP}" y2="{bottom}"/>' for t in ticks]
    parts += [f'<text class="tick" x="{x(t):.1f}" y="{bottom + 16}" text-anchor="middle">{short(t)}</text>' for t in ticks]
    parts += [_interval(row, ratio, x, TOP + LINE * (i + 0.5)) for i, (row, ratio) in enumerate(drawn)]
    label, middle = "divergence, as a multiple of that of the uniform plan", (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle:.0f}" y="{height - 8}" text-anchor="middle">{label}</text>')
    style = f"<style>{STYLE}</style>" if standalone else ""
    return (
        f'<svg class="plot" role="img" aria-label="Divergence of the plans of {len(drawn)} allocators" '
        f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" xmlns="http://www.w3.org/2000/svg">'
        f"{style}{''.join(parts)}</svg>"
    )


def _interval(row: AllocatorResult, ratio: Ratio, x: Callable[[float], float], y: float) -> str:
    """A line for the interval and a point for the ratio, with the name; the second colour where the interval holds 1."""
    kind = "soft" if ratio.low <= 1 <= ratio.high else "mark"
    name = escape(NAMES.get(row.name, row.name))
    return (
        f'<g><title>{name}: {ratio}</title><text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{name}</text>'
        f'<line class="{kind}" stroke-width="1.5" x1="{x(ratio.low):.1f}" x2="{x(ratio.high):.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<circle class="{kind}" cx="{x(ratio.value):.1f}" cy="{y:.1f}" r="4"/></g>'
    )


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers on a logarithmic axis from below `low` to above `high`, both positive; powers of ten over many decades.

    Example:
        >>> log_ticks(0.3, 1.4)
        [0.2, 0.5, 1.0, 2.0]
        >>> log_ticks(0.002, 30.0)
        [0.001, 0.01, 0.1, 1.0, 10.0, 100.0]
    """
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    marks = MARKS if len(decades) <= 4 else MARKS[:1]
    every = [float(f"{mark * 10.0**decade:.6g}") for decade in decades for mark in marks]
    first = max((i for i, value in enumerate(every) if value <= low), default=0)
    last = next((i for i, value in enumerate(every) if value >= high), len(every) - 1)
    return every[first : max(last, first + 1) + 1]


# ---------------------------------------------------------------- parts
def _planned(comparison: Comparison) -> Sequence[AllocatorResult]:
    """The rows of the allocators that made a plan."""
    return [row for row in comparison if not row.reason]


def _ends(row: AllocatorResult) -> tuple[float, float, float]:
    """The ratio of a row and its interval; nan where there is none."""
    return (math.nan, math.nan, math.nan) if row.ratio is None else (row.ratio.value, row.ratio.low, row.ratio.high)


def _verdicts(comparison: Comparison) -> str:
    """The verdicts, one a line."""
    return "\n".join(map(str, comparison.verdicts))


def _explained(comparison: Comparison) -> str:
    """What the columns mean, why allocators are missing, and notes."""
    size = "zeros" if comparison.budget.sparsity is not None else "bytes"
    accuracy = "" if math.isnan(comparison.accuracy) else f" The original's accuracy is {percent(comparison.accuracy)}."
    how = (
        f"All plans keep the same budget of {size} and were carried out alike; the divergence from the original was measured on "
        f"{comparison.examples:,} held-out examples. Brackets hold paired bootstrap intervals of the ratio of mean divergences, "
        f"which don't include what another draw of calibration examples would change.{accuracy}"
    )
    missing = [f"{NAMES.get(row.name, row.name)}: no plan. {row.reason}" for row in comparison if row.reason]
    return "\n".join((how, *missing, *(f"note: {note}" for note in comparison.notes)))
