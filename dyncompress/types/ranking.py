"""Checkpoints in predicted order, and how well the order agrees with known gaps, as `rank` returns them."""

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
        value, low, high: the coefficient and the interval's ends.
        n: runs.
    """

    value: float
    low: float
    high: float
    n: int

    __repr__ = short_repr

    def turned(self) -> Correlation:
        """That of the measure times -1."""
        return Correlation(-self.value, -self.high, -self.low, self.n)


@dataclass(frozen=True)
class Agreement:
    """How a measure goes with the gap over runs, every coefficient by itself.

    Attributes:
        kendall: tau-b over all pairs of runs.
        granulated: hyper-parameter -> psi, over pairs of runs that differ in it alone.
        mean_granulated: Psi, the mean of these; None without hyper-parameters.
        partial: partial Spearman correlation given all hyper-parameters; None without them.
    """

    kendall: Correlation
    granulated: Mapping[str, Correlation] = field(default_factory=dict)
    mean_granulated: Correlation | None = None
    partial: Correlation | None = None

    __repr__ = short_repr

    def turned(self) -> Agreement:
        """That of the measure times -1."""
        return Agreement(
            self.kendall.turned(),
            {name: part.turned() for name, part in self.granulated.items()},
            None if self.mean_granulated is None else self.mean_granulated.turned(),
            None if self.partial is None else self.partial.turned(),
        )


class SignedPrediction(Protocol):
    """What is predicted of a measure."""

    @property
    def sign(self) -> int:
        """1: the gap grows with the measure; -1: it shrinks; 0: not known."""
        ...

    @property
    def source(self) -> str:
        """Who predicts it; or that it was learned."""
        ...


@dataclass(frozen=True)
class Row:
    """One checkpoint.

    Attributes:
        checkpoint: its name.
        place: mean over measures of its place in the measure's order, 1 the smallest predicted gap; nan where none gave a number.
        estimates: measure -> Estimate.
        gap: as it was given, or None.
        hyperparameters: as they were given.
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
        rows: in that order.
        predictions: measure -> the sign by which it orders, and whose it is.
        agreements: measure -> correlations of its prediction (the measure times its sign) with the gaps: 1 where the predicted
            order is theirs. Empty without gaps.
        notes: sentences for the report.
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
