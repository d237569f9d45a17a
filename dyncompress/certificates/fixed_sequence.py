"""Fixed-sequence testing: choose the boldest plan on the same data that certifies it, at no price in delta.

Plans are ordered from cautious to bold, and the order is hashed, before the first held-out loss is computed. Each is tested at
full delta, in order, until the first that fails; the one before is returned. If a chosen plan broke its promise, then the first
plan on the path that breaks it was accepted by its own test, which has probability at most delta.

Source: Maurer, Hothorn and Lehmacher (1995); Angelopoulos et al. (2021), Learn then Test. Assumes: nothing on the path depends on
the held-out data. The risk may rise and fall along the path.
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
class Walk:
    """What fixed-sequence testing did.

    Attributes:
        chosen: index of the last plan that passed before the first failure; None: the first one failed.
        uppers: the certified upper bounds of the plans that were looked at, in order.
        limit: what each must not exceed.
        delta: the level of every test and of the whole walk.
    """

    chosen: int | None
    uppers: tuple[float, ...]
    limit: float
    delta: float

    def record(self) -> dict[str, Any]:
        """The same as plain values, for a certificate's `selection`."""
        values = {"chosen": self.chosen, "uppers": list(self.uppers), "limit": self.limit, "delta": self.delta}
        return {"rule": "fixed sequence"} | values


def fixed_sequence(tests: Iterable[Callable[[float], float]], *, limit: float, delta: float) -> Walk:
    """Walk along the plans until one fails; later plans aren't looked at.

    Args:
        tests: for each plan, from cautious to bold, a callable: delta -> certified upper bound. With p-values: let it return
            the p-value, and let `limit` be delta.
        limit: a plan passes where its upper bound is at most this.
        delta: the probability that the chosen plan doesn't keep the limit.

    Raises:
        InvalidRequest: delta is no probability.
    """
    check_delta(delta)
    uppers: list[float] = []
    for test in tests:
        uppers.append(float(test(delta)))
        if not uppers[-1] <= limit:  # nan fails too
            return Walk(len(uppers) - 2 if len(uppers) > 1 else None, tuple(uppers), limit, delta)
    return Walk(len(uppers) - 1 if uppers else None, tuple(uppers), limit, delta)


def path_digest(steps: Sequence[Any], *, limit: float, delta: float) -> str:
    """sha256 of a path of plans with its promise, made before the first held-out loss.

    Args:
        steps: one entry a plan, in order: text, numbers, lists and dicts (plan text, seeds, digests of its file).
        limit: the promise.
        delta: the level.

    Raises:
        InvalidRequest: a step isn't plain data, and so has no stable digest.
    """
    try:
        text = json.dumps([list(steps), limit, delta], sort_keys=True, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"a step of the path can't be hashed ({error}); use text, numbers, lists and dicts.") from error
    return hashlib.sha256(text.encode()).hexdigest()


def look_delta(delta: float, look: int) -> float:
    """The share of delta for the `look`-th look (1, 2, ...) at one held-out set: 6 delta / (pi^2 look^2); all add up to delta.

    Raises:
        InvalidRequest: delta is no probability, or looks aren't counted from 1.
    """
    check_delta(delta)
    if look < 1:
        raise InvalidRequest(f"look {look} is impossible; the first look at a held-out set is 1.")
    return delta * 6 / (math.pi * look) ** 2
