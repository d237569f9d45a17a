"""The plans for several budgets, which `pareto` returns."""

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
        budget: that the plan was made for.
        bytes, macs, seconds: predicted from the profile's table; seconds are nan if no times were measured.
        distortion: predicted total, in the unit of the list; an indicator.
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
    """The plans for several budgets, none of which is better than another in cost and distortion; a sequence of `Costed`.

    Attributes:
        plans: in the order of the budgets.
        row: the quantity that the budgets limit: `bytes`, `macs`, `seconds` or `distortion`; tables and curves show it first.
        float_cost: that quantity for the original's float32 file; its bytes if `row` is `distortion`.
        unit: of the distortion, see `Profile.unit`.
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
        shown = {f"{cost}": [getattr(one, cost) for one in self.plans], "distortion": [one.distortion for one in self.plans]}
        return describe(self, plans=len(self.plans), **shown)

    def _repr_html_(self) -> str:
        return presentation.html(self)
