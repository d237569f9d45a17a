"""A ranking of checkpoints as tables for people and as one object for machines."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from dyncompress.pipeline.selection.rank_correlation import Correlation
from dyncompress.pipeline.selection.ranking import Ranking
from dyncompress.reports.table import Table, estimate_text, number

SIGNS = {1: "grows with it", -1: "shrinks with it", 0: "not known"}


def ranking_text(ranking: Ranking) -> str:
    """The order, what each measure predicts and how well it did, and what a reader has to know."""
    parts = [order_table(ranking).plain(), agreement_table(ranking).plain()]
    if ranking.agreements:
        parts.append(
            "The coefficients compare the predicted order with the gaps: 1 is the same order, -1 the opposite one. Brackets hold "
            "95 % bootstrap intervals."
        )
    return "\n\n".join((*parts, "\n".join(ranking.notes)))


def order_table(ranking: Ranking) -> Table:
    """One row a checkpoint, the smallest predicted gap first."""
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
    """One row a measure: the sign, its source, and the coefficients where there are gaps."""
    axes = list(dict.fromkeys(axis for found in ranking.agreements.values() for axis in found.granulated))
    given = any(found.partial is not None for found in ranking.agreements.values())
    columns = [] if not ranking.agreements else ["Kendall", *(f"by {axis}" for axis in axes)]
    columns += ["mean of these", "partial"] if given else []
    rows = []
    for name, predicted in ranking.predictions.items():
        cells: list[str] = []
        if name in ranking.agreements:
            found = ranking.agreements[name]
            parts = [found.kendall, *(found.granulated.get(axis) for axis in axes)]
            parts += [found.mean_granulated, found.partial] if given else []
            cells = [correlation_text(part) for part in parts]
        rows.append((name, SIGNS[predicted.sign], *cells, predicted.source))
    return Table(("measure", "the gap", *columns, "by"), tuple(rows), frozenset(columns))


def correlation_text(found: Correlation | None) -> str:
    """A coefficient with its interval.

    Example:
        >>> correlation_text(Correlation(0.5, 0.25, 0.75, 27)), correlation_text(None)
        ('0.50 [0.25, 0.75]', '–')
    """
    if found is None or math.isnan(found.value):
        return "–"
    return f"{found.value:.2f}" + ("" if math.isnan(found.low) else f" [{found.low:.2f}, {found.high:.2f}]")


def ranking_json(ranking: Ranking) -> dict[str, Any]:
    """Everything, for machines."""
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
        "predictions": {name: {"sign": found.sign, "source": found.source} for name, found in ranking.predictions.items()},
        "agreements": {name: asdict(found) for name, found in ranking.agreements.items()},
        "notes": list(ranking.notes),
    }
