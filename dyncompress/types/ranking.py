"""Checkpoints in predicted order and the correlation of that order with known gaps, which `rank` returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from dyncompress.types.observation import Estimate
from dyncompress.types.representation import describe, short_repr

Setting = float | int | str  # of a hyper-parameter


@dataclass(frozen=True)
class Correlation:
    """A coefficient between -1 and 1 with its percentile bootstrap interval at 95 %; nan where it doesn't exist.

    Attributes:
        value: the coefficient.
        low, high: the ends of the interval.
        n: number of runs.
    """

    value: float
    low: float
    high: float
    n: int

    __repr__ = short_repr

    def negated(self) -> Correlation:
        """The same for the measure multiplied by -1."""
        return Correlation(-self.value, -self.high, -self.low, self.n)


@dataclass(frozen=True)
class Agreement:
    """The correlation of a measure with the generalization gap over runs, by several coefficients.

    Attributes:
        kendall: tau-b over all pairs of runs.
        granulated: hyper-parameter -> psi, the coefficient over pairs of runs that differ only in it.
        mean_granulated: Psi, the mean of these; None without hyper-parameters.
        partial: partial Spearman correlation given all hyper-parameters; None without them.
    """

    kendall: Correlation
    granulated: Mapping[str, Correlation] = field(default_factory=dict)
    mean_granulated: Correlation | None = None
    partial: Correlation | None = None

    __repr__ = short_repr

    def negated(self) -> Agreement:
        """The same for the measure multiplied by -1."""
        return Agreement(
            self.kendall.negated(),
            {name: part.negated() for name, part in self.granulated.items()},
            None if self.mean_granulated is None else self.mean_granulated.negated(),
            None if self.partial is None else self.partial.negated(),
        )


class SignedPrediction(Protocol):
    """A prediction of how the gap depends on a measure."""

    @property
    def sign(self) -> int:
        """1: the gap increases with the measure; -1: it decreases; 0: unknown."""
        ...

    @property
    def source(self) -> str:
        """The source of the prediction, a publication or the runs that it was learned from."""
        ...


@dataclass(frozen=True)
class Row:
    """One checkpoint of a ranking.

    Attributes:
        checkpoint: its name.
        place: its rank by each measure, averaged over the measures; 1 is the smallest predicted gap; nan: no measure has a value.
        estimates: measure -> estimate.
        gap: the known generalization gap, or None.
        hyperparameters: name -> value.
    """

    checkpoint: str
    place: float
    estimates: Mapping[str, Estimate]
    gap: float | None = None
    hyperparameters: Mapping[str, Setting] = field(default_factory=dict)

    __repr__ = short_repr


@dataclass(frozen=True)
class Ranking:
    """Checkpoints in predicted order, the smallest gap first.

    Attributes:
        rows: the checkpoints in that order.
        predictions: measure -> the sign that it is ordered by, with its source.
        agreements: measure -> correlation of its prediction (the measure times its sign) with the gaps; 1: the predicted order is
            that of the gaps. Empty if no gaps are known.
        notes: sentences for the user.
    """

    rows: tuple[Row, ...]
    predictions: Mapping[str, SignedPrediction]
    agreements: Mapping[str, Agreement]
    notes: tuple[str, ...]

    def __repr__(self) -> str:
        order = [row.checkpoint for row in self.rows]
        return describe(self, best=order[:1], order=order, measures=tuple(self.predictions), gaps_known=bool(self.agreements))

    @property
    def best(self) -> str:
        """The checkpoint with the smallest predicted gap."""
        return self.rows[0].checkpoint
