"""The plans of several budgets, as `pareto` returns them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from dyncompress.types import presentation
from dyncompress.types.plan import Budget, Plan
from dyncompress.types.representation import describe, short_repr


@dataclass(frozen=True)
class Costed:
    """One line of a Pareto list.

    Attributes:
        budget: that was asked.
        bytes, macs, seconds: as the table predicts; seconds are nan where none were measured.
        distortion: predicted, in all; in nats where the profile's source is one; an indicator.
        plan: the plan.
    """

    budget: Budget
    bytes: float
    macs: float
    seconds: float
    distortion: float
    plan: Plan

    __repr__ = short_repr


@dataclass(frozen=True)
class ParetoList:
    """The plans of several budgets, of which none beats another; a sequence of `Costed`.

    Attributes:
        plans: in the order of the budgets.
        row: the cost that the budgets are of, and that tables and curves show first.
        float_cost: of the original's float32 file in that row, or its bytes where the row is the distortion.
        unit: of the distortion: `nats`, or `relative` where sensitivities aren't measured on data; `not computed` where every
            unit has one option.
    """

    plans: tuple[Costed, ...]
    row: str = "bytes"
    float_cost: float = math.nan
    unit: str = "relative"

    def __len__(self) -> int:
        return len(self.plans)

    def __iter__(self) -> Iterator[Costed]:
        return iter(self.plans)

    def __getitem__(self, index: int) -> Costed:
        return self.plans[index]

    def __repr__(self) -> str:
        cost = "bytes" if self.row == "distortion" else self.row
        told = {f"{cost}": [getattr(one, cost) for one in self.plans], "distortion": [one.distortion for one in self.plans]}
        return describe(self, plans=len(self.plans), **told)

    def _repr_html_(self) -> str:
        return presentation.html(self)
