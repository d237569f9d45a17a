"""A Pareto list as a table, a curve, a page, and values for machines."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dyncompress.errors import InvalidRequest
from dyncompress.reports import markup
from dyncompress.reports.plain import plain_json
from dyncompress.reports.plot import Series, legend, plot
from dyncompress.reports.table import Table, number, percent
from dyncompress.types import SEAL_BYTES

if TYPE_CHECKING:
    from dyncompress.pipeline.pareto import Costed, ParetoList

HOW = (
    "Costs and distortions are predicted from the profile: indicators, no promises. For every plan, each other plan on the list "
    f"is worse in something. Bytes include {SEAL_BYTES:,} reserved for the seal of a certificate."
)


def pareto_table(found: ParetoList) -> Table:
    """One row a plan: its costs, what share of the original's they are, and the predicted distortion."""
    timed = any(not math.isnan(one.seconds) for one in found)
    costs = ("bytes", "MACs", "ms a run") if timed else ("bytes", "MACs")
    header = ("budget", *costs, f"share of the original's {_cost(found)}", _distortion(found))
    rows = []
    for one in found:
        share = percent(getattr(one, _cost(found)) / found.float_cost)
        times = (number(1e3 * one.seconds),) if timed else ()
        rows.append((_budget(one), f"{one.bytes:,.0f}", f"{one.macs:,.0f}", *times, share, number(one.distortion)))
    return Table(header, tuple(rows), frozenset(header[1:]))


def pareto_text(found: ParetoList) -> str:
    """The table, and how to read it; or that no budget can be met."""
    if not len(found):
        return "none of the budgets can be met; the smallest plan takes more."
    return f"{pareto_table(found).plain()}\n\n{HOW}"


def pareto_html(found: ParetoList, *, standalone: bool = True) -> str:
    """Curve and table; `standalone` for a notebook, where no page has the colours."""
    parts = pareto_svg(found, standalone=standalone), markup.table(pareto_table(found))
    return "".join(f'<div class="scroll">{part}</div>' for part in parts)


def pareto_page(found: ParetoList, title: str) -> str:
    """A page of its own."""
    body = f'<h1>{markup.text(title)}</h1><p class="dim">{HOW}</p>{legend(_series(found))}{pareto_html(found, standalone=False)}'
    return markup.document(title, body)


def pareto_svg(found: ParetoList, *, standalone: bool = False) -> str:
    """The curve: cost against predicted distortion."""
    names = {
        "bytes": "bytes that ship, predicted",
        "macs": "multiply-accumulates of one example",
        "seconds": "seconds of one run",
    }
    labels = (names[_cost(found)], _distortion(found))
    return plot(_series(found), "Predicted distortion of the plans against their cost", labels, standalone=standalone)


def pareto_csv(found: ParetoList) -> str:
    """One line a plan, numbers as they are."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("budget", "bytes", "macs", "seconds", "distortion"))
    for one in found:
        seconds = "" if math.isnan(one.seconds) else repr(one.seconds)
        writer.writerow((_budget(one, exact=True), repr(one.bytes), repr(one.macs), seconds, repr(one.distortion)))
    return text.getvalue()


def drawn_as(path: Path) -> Callable[[ParetoList], str]:
    """What writes a list into a file of this name.

    Raises:
        InvalidRequest: no form has such an ending.
    """
    writers: dict[str, Callable[[ParetoList], str]] = {
        ".html": lambda found: pareto_page(found, "Pareto list of the plans of several budgets"),
        ".svg": lambda found: pareto_svg(found, standalone=True) + "\n",
        ".csv": pareto_csv,
    }
    if path.suffix not in writers:
        raise InvalidRequest(f"{path}: a curve is written as {', '.join(writers)}; end the name in one of them.")
    return writers[path.suffix]


def pareto_json(found: ParetoList) -> dict[str, Any]:
    """Everything but the plans' choices."""
    rows = [
        {"budget": _asked(one), "bytes": one.bytes, "macs": one.macs, "seconds": one.seconds, "distortion": one.distortion}
        for one in found
    ]
    return plain_json({"of": found.row, "original": found.float_cost, "unit": found.unit, "plans": rows})


def _series(found: ParetoList) -> list[Series]:
    points = sorted((getattr(one, _cost(found)), one.distortion) for one in found)
    return [Series("plan", tuple(points), line=True)]


def _cost(found: ParetoList) -> str:
    """What the horizontal axis shows."""
    return "bytes" if found.row == "distortion" else found.row


def _distortion(found: ParetoList) -> str:
    return f"predicted distortion, {found.unit}"


def _asked(one: Costed) -> dict[str, float]:
    return {name: value for name in vars(one.budget) if (value := getattr(one.budget, name)) is not None}


def _budget(one: Costed, *, exact: bool = False) -> str:
    """The budget as a recipe has it."""
    return ", ".join(f"{name}={repr(value) if exact else _rounded(value)}" for name, value in _asked(one).items())


def _rounded(value: float) -> str:
    """A share, or a whole number."""
    return f"{value:.4g}" if value < 1 else f"{value:,.0f}"
