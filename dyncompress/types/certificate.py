"""Held-out examples, bounds, and the certificate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dyncompress.types import presentation
from dyncompress.types.representation import describe, short_repr


@dataclass(frozen=True)
class HeldOut:
    """Examples that compression never saw.

    Attributes:
        inputs: by name, each `[n, ...]`, numpy.
        labels: `[n]` or more, or None.
        groups: `[n]`: examples of one group aren't independent (speaker, document); or None.
    """

    inputs: Mapping[str, np.ndarray]
    labels: np.ndarray | None = None
    groups: np.ndarray | None = None

    def __repr__(self) -> str:
        return describe(self, n=len(self) if self.inputs else 0, inputs=self.inputs, labels=self.labels, groups=self.groups)

    def __len__(self) -> int:
        """Number of examples."""
        return len(next(iter(self.inputs.values())))


@dataclass(frozen=True)
class Interval:
    """Both ends of a bound at confidence 1 - delta (a one-sided bound leaves the other end at the range's limit)."""

    point: float
    lower: float
    upper: float
    delta: float
    n: int
    method: str

    __repr__ = short_repr


@dataclass(frozen=True)
class Line:
    """One line of a certificate: a quantity and its bound, with its share of delta."""

    quantity: str
    point: float
    lower: float
    upper: float
    delta: float
    method: str

    __repr__ = short_repr


@dataclass(frozen=True)
class Certificate:
    """Data only. `pipeline.verify` recomputes it.

    Attributes:
        statement: one plain sentence: which risk, which population, which confidence.
        kind: `statistical` or `exact on the given inputs`.
        lines: the certified lines; their deltas add up to `delta` at most.
        delta: probability that any line fails.
        n: independent units; counts: e.g. `worse`, `better`, `original_errors`, `file_errors`.
        assumptions: sentences.
        valid_as: `alone` or the number of the look at this held-out set.
        selection: the path of plans and what fixed-sequence testing did on it; empty where nothing was chosen.
        environment: runtime, version, processor flags, threads.
        digests: of examples, labels, original model, compressed model, file body.
        context: printed beside and bounding nothing: code-length bounds, indicators.
        evidence: per-example losses of the original as hex, with digests.
    """

    statement: str
    kind: str
    lines: tuple[Line, ...]
    delta: float
    n: int
    counts: Mapping[str, int]
    assumptions: tuple[str, ...]
    valid_as: str
    selection: Mapping[str, Any]
    environment: Mapping[str, str]
    digests: Mapping[str, str]
    context: Mapping[str, Any]
    evidence: Mapping[str, str]
    kept: bool
    risk: str
    promise: float | None = None

    def _repr_html_(self) -> str:
        return presentation.html(self)

    def __repr__(self) -> str:
        told = {"statement": self.statement, "kept": self.kept, "promise": self.promise, "delta": self.delta, "n": self.n}
        return describe(self, **told, risk=self.risk, counts=self.counts)

    def __str__(self) -> str:
        """The statement."""
        return self.statement
