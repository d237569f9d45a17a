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
    """Held-out examples: examples that the compression has not seen, on which a file is certified.

    Attributes:
        inputs: input name -> numpy array `[n, ...]`.
        labels: `[n]` or `[n, ...]`; None: agreement with the original is certified instead of an error rate.
        groups: `[n]`, an identifier for each example. Examples with the same one aren't independent, e.g. recordings of one
            speaker. None: all examples are independent.

    Example:
        >>> import numpy as np
        >>> held_out = HeldOut({"x": np.zeros((100, 3, 32, 32), np.float32)}, labels=np.zeros(100, np.int64))
        >>> len(held_out)
        100
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
    """A confidence interval for the mean of a loss.

    Attributes:
        point: the estimate.
        lower, upper: the two ends; a one-sided bound leaves the other end at the limit of the loss's range.
        delta: probability that the interval doesn't contain the mean.
        n: number of independent losses.
        method: name of the bound, a key of `certificates.BOUNDS`.
    """

    point: float
    lower: float
    upper: float
    delta: float
    n: int
    method: str

    __repr__ = short_repr


@dataclass(frozen=True)
class Line:
    """One certified line of a certificate.

    Attributes:
        quantity: what is bounded, in words.
        point: its estimate on the held-out examples.
        lower, upper: the two ends of the bound.
        delta: this line's share of the certificate's delta.
        method: name of the bound.
    """

    quantity: str
    point: float
    lower: float
    upper: float
    delta: float
    method: str

    __repr__ = short_repr


@dataclass(frozen=True)
class Certificate:
    """What is guaranteed about a file, at which confidence, and the evidence for it; `dyncompress.verify` recomputes it.

    Attributes:
        statement: one sentence that names the risk, the population, the confidence and the bound.
        kind: `statistical` or `exact on the given inputs`.
        lines: the certified lines; the sum of their deltas is at most `delta`.
        delta: probability that any line is wrong.
        n: number of independent units (examples, or groups of them).
        counts: number of examples of each kind, e.g. `worse`, `better`, `original_errors`, `file_errors`.
        assumptions: sentences.
        valid_as: `alone`, or the number of this use of the held-out examples.
        selection: the sequence of plans and the results of fixed-sequence testing on it; empty: no plan was selected.
        environment: runtime, version, processor flags, threads.
        digests: of examples, labels, original model, compressed model, and the file without its seal.
        context: further numbers that bound nothing, e.g. code lengths and indicators.
        evidence: the original's losses for each example as hexadecimal text, with digests.
        kept: whether the promise is kept.
        risk: name of the loss, a key of `certificates.RISKS` with its options, or the name of a user's function.
        promise: largest certified increase of the risk that was asked for; None: none was.

    Example:
        >>> import dyncompress, torch
        >>> network = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 8))
        >>> x, fresh = torch.randn(64, 64), torch.randn(200, 64)
        >>> labels = network(fresh).argmax(1)
        >>> file = dyncompress.compress(network, calibration=x, held_out=(fresh, labels))
        >>> file.certificate.n, file.certificate.delta, file.certificate.risk
        (200, 0.05, 'zero_one')
        >>> print(file.certificate)
        With confidence 95 %, on examples drawn like the held-out ones (200 independent examples), the file's error rate (0-1 ...
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
        shown = {"statement": self.statement, "kept": self.kept, "promise": self.promise, "delta": self.delta, "n": self.n}
        return describe(self, **shown, risk=self.risk, counts=self.counts)

    def __str__(self) -> str:
        """The statement."""
        return self.statement
