"""Present a ranking of checkpoints as tables and as a JSON object."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from dyncompress.reports.table import Table, estimate_text, number
from dyncompress.types.ranking import Correlation, Ranking

SIGNS = {1: "grows with it", -1: "shrinks with it", 0: "not known"}


def ranking_text(ranking: Ranking) -> str:
    """The ranking as text: the order of the checkpoints, each measure's sign and agreement with the gaps, and notes."""
    parts = [order_table(ranking).plain(), agreement_table(ranking).plain()]
    if ranking.agreements:
        parts.append(
            "The coefficients compare the predicted order with the gaps: 1 is the same order, -1 the opposite one. Brackets hold "
            "95 % bootstrap intervals."
        )
    return "\n\n".join((*parts, "\n".join(ranking.notes)))


def order_table(ranking: Ranking) -> Table:
    """A table with a row for each checkpoint, the smallest predicted gap first."""
    measures = tuple(ranking.predictions)
    with_gaps = bool(ranking.agreements)
    header = ("checkpoint", "mean place", *measures, *(("gap",) if with_gaps else ()))
    rows = tuple(
        (
            row.checkpoint,
            number(row.place),
            *(estimate_text(row.estimates[name]) for name in measures),
            *((number(math.nan if row.gap is None else row.gap),) if with_gaps else ()),
        )
        for row in ranking.rows
    )
    return Table(header, rows, frozenset(header[1:]))


def agreement_table(ranking: Ranking) -> Table:
    """A table with a row for each measure: its sign, the source of the sign, and rank correlations if gaps are known."""
    axes = list(dict.fromkeys(axis for agreement in ranking.agreements.values() for axis in agreement.granulated))
    given = any(agreement.partial is not None for agreement in ranking.agreements.values())
    columns = [] if not ranking.agreements else ["Kendall", *(f"by {axis}" for axis in axes)]
    columns += ["mean of these", "partial"] if given else []
    rows = []
    for name, predicted in ranking.predictions.items():
        cells: list[str] = []
        if name in ranking.agreements:
            agreement = ranking.agreements[name]
            parts = [agreement.kendall, *(agreement.granulated.get(axis) for axis in axes)]
            parts += [agreement.mean_granulated, agreement.partial] if given else []
            cells = [correlation_text(part) for part in parts]
        rows.append((name, SIGNS[predicted.sign], *cells, predicted.source))
    return Table(("measure", "the gap", *columns, "by"), tuple(rows), frozenset(columns))


def correlation_text(correlation: Correlation | None) -> str:
    """A correlation coefficient with its interval.

    Example:
        >>> correlation_text(Correlation(0.5, 0.25, 0.75, 27)), correlation_text(None)
        ('0.50 [0.25, 0.75]', '–')
    """
    if correlation is None or math.isnan(correlation.value):
        return "–"
    interval = "" if math.isnan(correlation.low) else f" [{correlation.low:.2f}, {correlation.high:.2f}]"
    return f"{correlation.value:.2f}{interval}"


def ranking_json(ranking: Ranking) -> dict[str, Any]:
    """The ranking as a JSON object."""
    return {
        "order": [row.checkpoint for row in ranking.rows],
        "rows": [
            {
                "checkpoint": row.checkpoint,
                "mean_place": row.place,
                "estimates": {name: asdict(estimate) for name, estimate in row.estimates.items()},
                "gap": row.gap,
                "hyperparameters": row.hyperparameters,
            }
            for row in ranking.rows
        ],
        "predictions": {name: {"sign": one.sign, "source": one.source} for name, one in ranking.predictions.items()},
        "agreements": {name: asdict(agreement) for name, agreement in ranking.agreements.items()},
        "notes": list(ranking.notes),
    }
