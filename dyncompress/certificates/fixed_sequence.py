"""Fixed-sequence testing: choose the boldest plan on the same data that certifies it, without spending any of delta.

Plans are ordered from cautious to bold, and the order is hashed, before the first held-out loss is computed. Each plan is tested
at full delta, in order, until one fails; the plan before it is chosen. If a chosen plan doesn't keep its promise, then the first
plan on the path that doesn't keep it passed its own test, which has probability at most delta.

Source: Maurer, Hothorn and Lehmacher (1995); Angelopoulos et al. (2021), Learn then Test. Assumes: nothing on the path depends on
the held-out data. The risk needn't be monotone along the path.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from dyncompress.certificates.losses import check_delta
from dyncompress.errors import InvalidRequest


@dataclass(frozen=True)
class FixedSequenceResult:
    """The result of fixed-sequence testing.

    Attributes:
        chosen: index of the last plan that passed before the first failure; None: the first plan failed.
        uppers: the certified upper bounds of the plans that were tested, in order.
        limit: the largest upper bound that passes.
        delta: the level of every test and of the whole sequence.
    """

    chosen: int | None
    uppers: tuple[float, ...]
    limit: float
    delta: float

    def record(self) -> dict[str, Any]:
        """The fields as plain values, for a certificate's `selection`."""
        values = {"chosen": self.chosen, "uppers": list(self.uppers), "limit": self.limit, "delta": self.delta}
        return {"rule": "fixed sequence"} | values


def fixed_sequence(tests: Iterable[Callable[[float], float]], *, limit: float, delta: float) -> FixedSequenceResult:
    """Test the plans in order until one fails; later plans aren't tested.

    Args:
        tests: for each plan, from cautious to bold, a callable that takes delta and returns the certified upper bound. To test
            by p-values, let it return the p-value, and let `limit` be delta.
        limit: a plan passes where its upper bound is at most this.
        delta: the probability that the chosen plan doesn't keep the limit.

    Raises:
        InvalidRequest: delta isn't a probability.

    Example:
        >>> fixed_sequence([lambda delta: 0.01, lambda delta: 0.05], limit=0.02, delta=0.05).chosen
        0
    """
    check_delta(delta)
    uppers: list[float] = []
    for test in tests:
        uppers.append(float(test(delta)))
        if not uppers[-1] <= limit:  # nan fails too
            return FixedSequenceResult(len(uppers) - 2 if len(uppers) > 1 else None, tuple(uppers), limit, delta)
    return FixedSequenceResult(len(uppers) - 1 if uppers else None, tuple(uppers), limit, delta)


def path_digest(steps: Sequence[Any], *, limit: float, delta: float) -> str:
    """sha256 of a path of plans with its promise, to be computed before the first held-out loss.

    Args:
        steps: one entry for each plan, in order, made of text, numbers, lists and dicts (plan text, seeds, digests of its file).
        limit: the largest risk increase that is promised.
        delta: the level of the tests.

    Raises:
        InvalidRequest: a step isn't plain data and therefore has no stable digest.
    """
    try:
        text = json.dumps([list(steps), limit, delta], sort_keys=True, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"a step of the path can't be hashed ({error}); use text, numbers, lists and dicts.") from error
    return hashlib.sha256(text.encode()).hexdigest()


def look_delta(delta: float, look: int) -> float:
    """The share of delta for the `look`-th certificate (1, 2, ...) on one held-out set: 6 delta / (pi^2 look^2).

    The shares of all looks add up to delta, so that all certificates on this set hold together with probability 1 - delta.

    Raises:
        InvalidRequest: delta isn't a probability, or `look` is below 1.

    Example:
        >>> round(look_delta(0.05, look=1), 4), round(look_delta(0.05, look=2), 4)
        (0.0304, 0.0076)
    """
    check_delta(delta)
    if look < 1:
        raise InvalidRequest(f"look {look} is impossible; the first look at a held-out set is 1.")
    return delta * 6 / (math.pi * look) ** 2
