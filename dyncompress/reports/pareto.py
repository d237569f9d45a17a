"""Present a Pareto list as a table, a curve, an HTML page, CSV and JSON."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dyncompress.errors import InvalidRequest
from dyncompress.reports import markup
from dyncompress.reports.plain import plain_json
from dyncompress.reports.plot import Series, legend, plot
from dyncompress.reports.table import Table, number, percent
from dyncompress.types import SEAL_BYTES
from dyncompress.types.pareto import Costed, ParetoList

HOW = (
    "Costs and distortions are predicted from the profile: they are indicators and aren't certified. No plan on the list is "
    f"worse than another one in everything. Bytes include {SEAL_BYTES:,} that are reserved for the seal of a certificate."
)


def pareto_table(plans: ParetoList) -> Table:
    """A table with a row for each plan: its costs, their share of the original's, and the predicted distortion."""
    timed = any(not math.isnan(one.seconds) for one in plans)
    costs = ("bytes", "MACs", "ms a run") if timed else ("bytes", "MACs")
    header = ("budget", *costs, f"share of the original's {_cost(plans)}", _distortion(plans))
    rows = []
    for one in plans:
        share = percent(getattr(one, _cost(plans)) / plans.float_cost)
        times = (number(1e3 * one.seconds),) if timed else ()
        rows.append((_budget(one), f"{one.bytes:,.0f}", f"{one.macs:,.0f}", *times, share, number(one.distortion)))
    return Table(header, tuple(rows), frozenset(header[1:]))


def pareto_text(plans: ParetoList) -> str:
    """The table with an explanation, or a sentence that no budget can be met."""
    if not len(plans):
        return "none of the budgets can be met; the smallest plan takes more."
    return f"{pareto_table(plans).plain()}\n\n{HOW}"


def pareto_html(plans: ParetoList, *, standalone: bool = True) -> str:
    """Curve and table as HTML; `standalone` adds the colours, which a notebook doesn't have."""
    parts = pareto_svg(plans, standalone=standalone), markup.table(pareto_table(plans))
    return "".join(f'<div class="scroll">{part}</div>' for part in parts)


def pareto_page(plans: ParetoList, title: str) -> str:
    """A complete HTML page with curve and table."""
    body = f'<h1>{markup.text(title)}</h1><p class="dim">{HOW}</p>{legend(_series(plans))}{pareto_html(plans, standalone=False)}'
    return markup.document(title, body)


def pareto_svg(plans: ParetoList, *, standalone: bool = False) -> str:
    """The curve of predicted distortion against cost."""
    names = {
        "bytes": "bytes that ship, predicted",
        "macs": "multiply-accumulates of one example",
        "seconds": "seconds of one run",
    }
    labels = (names[_cost(plans)], _distortion(plans))
    return plot(_series(plans), "Predicted distortion of the plans against their cost", labels, standalone=standalone)


def pareto_csv(plans: ParetoList) -> str:
    """CSV with a line for each plan; numbers aren't rounded."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("budget", "bytes", "macs", "seconds", "distortion"))
    for one in plans:
        seconds = "" if math.isnan(one.seconds) else repr(one.seconds)
        writer.writerow((_budget(one, exact=True), repr(one.bytes), repr(one.macs), seconds, repr(one.distortion)))
    return text.getvalue()


def drawn_as(path: Path) -> Callable[[ParetoList], str]:
    """The function that writes a list in the format of a path's suffix: `.html`, `.svg` or `.csv`.

    Raises:
        InvalidRequest: the suffix is another one.
    """
    writers: dict[str, Callable[[ParetoList], str]] = {
        ".html": lambda plans: pareto_page(plans, "Pareto list of the plans of several budgets"),
        ".svg": lambda plans: pareto_svg(plans, standalone=True) + "\n",
        ".csv": pareto_csv,
    }
    if path.suffix not in writers:
        raise InvalidRequest(f"{path}: a curve is written as {', '.join(writers)}; end the name in one of them.")
    return writers[path.suffix]


def pareto_json(plans: ParetoList) -> dict[str, Any]:
    """The list as a JSON object, without the choices of the plans."""
    rows = [
        {"budget": _limits(one), "bytes": one.bytes, "macs": one.macs, "seconds": one.seconds, "distortion": one.distortion}
        for one in plans
    ]
    return plain_json({"of": plans.row, "original": plans.float_cost, "unit": plans.unit, "plans": rows})


def _series(plans: ParetoList) -> list[Series]:
    """The (cost, distortion) of all plans, in the order of their cost."""
    points = sorted((getattr(one, _cost(plans)), one.distortion) for one in plans)
    return [Series("plan", tuple(points), line=True)]


def _cost(plans: ParetoList) -> str:
    """The name of the cost on the horizontal axis."""
    return "bytes" if plans.row == "distortion" else plans.row


def _distortion(plans: ParetoList) -> str:
    return f"predicted distortion, {plans.unit}"


def _limits(one: Costed) -> dict[str, float]:
    """The entries of a plan's budget that aren't None."""
    return {name: value for name in vars(one.budget) if (value := getattr(one.budget, name)) is not None}


def _budget(one: Costed, *, exact: bool = False) -> str:
    """The budget of a plan in the words of a recipe."""
    return ", ".join(f"{name}={repr(value) if exact else _short(value)}" for name, value in _limits(one).items())


def _short(value: float) -> str:
    """A share with four digits, or a whole number."""
    return f"{value:.4g}" if value < 1 else f"{value:,.0f}"
