"""The body of the verb `allocate`: what a budget allows the units of a table to cost, and the plan within it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dyncompress.allocation.cost import DISTORTION, NONZEROS, least, nonzeros_left, solve
from dyncompress.types import Allocator, Budget, Layer, Plan, Profile, Rule


def limits_of(profile: Profile, budget: Budget) -> dict[str, float]:
    """Row -> what all units of the table together may cost, for `allocation.cost.solve`.

    Raises:
        Infeasible: no plan has so many zeros.
    """
    limits = {}
    whole = whole_budget(profile, budget)
    if "bytes" in whole:
        limits["bytes"] = whole["bytes"] - profile.fixed_bytes
    if "macs" in whole:
        limits["macs"] = whole["macs"] - sum(layer.macs for layer in profile.layers if layer.name not in profile.table)
    if "seconds" in whole:
        limits["seconds"] = whole["seconds"] - profile.whole_seconds
    if budget.sparsity is not None:
        limits[NONZEROS] = nonzeros_left(profile, budget.sparsity)
    if budget.distortion is not None and budget.bytes is None:
        limits[DISTORTION] = budget.distortion
    return limits


def whole_budget(profile: Profile, budget: Budget) -> dict[str, float]:
    """Bytes, multiply-accumulates and seconds that are asked for; shares as what they are of the original's."""
    found = {}
    for row, original in (("bytes", profile.float_bytes), ("macs", profile.macs), ("seconds", profile.seconds)):
        value = getattr(budget, row)
        if value is not None:
            found[row] = value if value >= 1 else value * original
    return found


def allocated(profile: Profile, limits: Mapping[str, float], allocator: Allocator | Rule) -> Plan:
    """The plan of these limits of the table.

    Args:
        profile: the table.
        limits: row -> what all units together may cost, from `limits_of`.
        allocator: who chooses.

    Raises:
        Infeasible: the smallest plan is above a limit.
    """
    return solve(profile, list(limits.items()), allocator, share_left_alone(profile.layers, profile.reasons))


def floor_of(profile: Profile, row: str) -> float:
    """A limit of the table that the smallest plan alone keeps; a little above it, for the sake of sums."""
    smallest = least(profile, row)
    return smallest + 1e-9 * max(1.0, abs(smallest))


def share_left_alone(layers: Sequence[Layer], reasons: Mapping[str, str]) -> dict[str, float]:
    """The share of weights and of MACs that no choice touches, fractions."""
    weights, macs = sum(layer.weights for layer in layers), sum(layer.macs for layer in layers)
    alone = [layer for layer in layers if layer.name in reasons]
    return {
        "weights": sum(layer.weights for layer in alone) / max(weights, 1),
        "macs": sum(layer.macs for layer in alone) / max(macs, 1),
    }
