"""Allocators side by side on one network at one budget, which `compare` returns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import nan

from dyncompress.types import presentation
from dyncompress.types.plan import Budget, Plan
from dyncompress.types.representation import describe, short_repr

YES, NO, UNDECIDED = "yes", "no", "can't tell"


@dataclass(frozen=True)
class Ratio:
    """The ratio of two mean divergences on the same examples, with its paired bootstrap interval.

    Attributes:
        value: the ratio; 1: the two files are equally far from the original.
        low, high: the ends of the interval.

    Example:
        >>> from dyncompress.types.comparison import Ratio
        >>> print(Ratio(0.513, 0.48, 0.549))
        0.51 [0.48, 0.55]
    """

    value: float
    low: float
    high: float

    __repr__ = short_repr

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


@dataclass(frozen=True)
class AllocatorResult:
    """One allocator, and what its plan did to the network.

    Attributes:
        name: of the allocator.
        reads: what it reads of the network: `nothing`, `shapes`, `weights`, `recorded training` or `calibration data`.
        reason: why it made no plan for this network; then nothing below has a value. Empty where it made one.
        plan: its plan; that of the first seed for `random`.
        bytes: of the file, predicted as for every plan.
        zeros: share of zeros among the weights of the layers that have options.
        divergence: mean over the held-out examples.
        stderr: its standard error; nan if there are fewer than two independent examples.
        ratio: of the divergence to that of `uniform`.
        changed: share of the held-out examples whose answer (the largest score) changed; nan where outputs aren't scores.
        accuracy: on the held-out examples; nan without labels.
    """

    name: str
    reads: str
    reason: str = ""
    plan: Plan | None = None
    bytes: float = nan
    zeros: float = nan
    divergence: float = nan
    stderr: float = nan
    ratio: Ratio | None = None
    changed: float = nan
    accuracy: float = nan

    __repr__ = short_repr


@dataclass(frozen=True)
class Verdict:
    """The answer to one question, by the rule of `pipeline.comparison.judgement`.

    Attributes:
        question: as a statement, e.g. `theory without data earns its place here`.
        answer: `yes`, `no` or `can't tell`.
        why: the figures that the answer follows from.

    Example:
        >>> from dyncompress.types.comparison import Verdict
        >>> print(Verdict("calibration data earn their place here", "yes", "the divergence of fisher is half of that of uniform"))
        calibration data earn their place here: yes (the divergence of fisher is half of that of uniform)
    """

    question: str
    answer: str
    why: str

    __repr__ = short_repr

    def __str__(self) -> str:
        return f"{self.question}: {self.answer} ({self.why})"


@dataclass(frozen=True)
class Comparison:
    """Allocators at one budget, with everything else alike; a sequence of `AllocatorResult`, and a mapping by their names.

    Attributes:
        rows: the allocators, `uniform` first.
        verdicts: the answers; the first is about theory without data.
        budget: that every plan keeps.
        unit: of the divergence: `nats` for scores of classes, else `relative squared error` of the outputs.
        examples: number of held-out examples that the divergence was measured on.
        accuracy: of the original on them; nan without labels.
        notes: sentences for the user.
    """

    rows: tuple[AllocatorResult, ...]
    verdicts: tuple[Verdict, ...]
    budget: Budget
    unit: str
    examples: int
    accuracy: float = nan
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[AllocatorResult]:
        return iter(self.rows)

    def __getitem__(self, name: str) -> AllocatorResult:
        """The row of an allocator.

        Raises:
            KeyError: there is none of this name.
        """
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(f"'{name}': the allocators are {', '.join(row.name for row in self.rows)}.")

    def __repr__(self) -> str:
        return describe(self, answer=self.answer, best=self.best.name, allocators=len(self), examples=self.examples)

    def _repr_html_(self) -> str:
        return presentation.html(self)

    def table(self) -> str:
        """The verdicts and a table of the allocators as text: `print(found.table())`."""
        return presentation.table(self)

    @property
    def answer(self) -> str:
        """Whether theory without data earns its place here: `yes`, `no` or `can't tell`."""
        return self.verdicts[0].answer

    @property
    def best(self) -> AllocatorResult:
        """The row with the smallest divergence."""
        return min((row for row in self.rows if not row.reason), key=lambda row: row.divergence)
