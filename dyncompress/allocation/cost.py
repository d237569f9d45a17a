"""Turns a profile's table of options into arrays, lets an allocator choose, and returns the plan with its reasons."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from dyncompress.allocation.exclusive import JointOption, join_blocks
from dyncompress.allocation.lagrangian import Budgets, Costs, Distortions, Rows, check_feasible
from dyncompress.allocation.rule import check_rule_applies, choose_by_rule
from dyncompress.errors import Infeasible, InvalidRequest
from dyncompress.types import FLOAT_BITS, NATS, STRUCTURE, UNMEASURED, Allocator, Option, Plan, Profile, Rule

ROWS = ("bytes", "macs", "seconds")
NONZEROS = "nonzeros"  # the row for budget.sparsity
DISTORTION = "distortion"  # the row for budget.distortion
IN_REMOVED_BLOCK = "its block is removed"


def arrays(table: Mapping[str, Sequence[Option | JointOption]], rows: Sequence[str] = ROWS[:2]) -> tuple[Costs, Distortions]:
    """The costs and distortions of a table as arrays, padded with inf to the length of the longest list of options.

    Args:
        table: unit -> its options.
        rows: names of the costs, which are attributes of `Option`.

    Returns:
        Cost `[R, L, C]` and distortion `[L, C]`, float64; units are in the order of the table.
    """
    width = max((len(options) for options in table.values()), default=0)
    cost = np.full((len(rows), len(table), width), np.inf)
    distortion = np.full((len(table), width), np.inf)
    for unit, options in enumerate(table.values()):
        distortion[unit, : len(options)] = [option.distortion for option in options]
        for row, name in enumerate(rows):
            cost[row, unit, : len(options)] = [getattr(option, name) for option in options]
    return cost, distortion


def solve(
    profile: Profile,
    limits: Sequence[tuple[str, float]],
    allocator: Allocator | Rule,
    share_left_alone: Mapping[str, float],
) -> Plan:
    """Choose one option for every unit.

    Args:
        profile: holds the table of options.
        limits: pairs of a row and the largest total cost of all units, e.g. `[("bytes", 40_000.0)]`. Without limits, the plan has
            the least distortion. With the row `distortion`, it has the fewest bytes at no larger distortion.
        allocator: chooses the options; a rule chooses by a table of its own.
        share_left_alone: shares of weights and MACs that aren't compressed, copied into the plan.

    Returns:
        The plan.

    Raises:
        Infeasible: the smallest plan is above a limit.
        InvalidRequest: the budget limits seconds, and the profile has none.
    """
    names = [name for name, _ in limits]
    if "seconds" in names and not profile.seconds:
        raise InvalidRequest(
            "budget.seconds needs times measured on the target, and this profile has none; measure with a recipe whose "
            "[channels] say latency = true, or set budget.macs."
        )
    fixed, joint = _fixed(profile), join_blocks(profile.table)
    choice, gap = _choose(profile, joint, limits, allocator)
    selection = [options[c] for options, c in zip(joint.values(), choice, strict=True)]
    parts = {unit: option for one in selection for unit, option in one.parts.items()}
    chosen = {unit: parts.get(unit, options[0]) for unit, options in profile.table.items()}  # in removed blocks: the default
    row = next((name for name in names if name != DISTORTION), "bytes")
    return Plan(
        asked={unit: option.choice for unit, option in chosen.items()},
        why={
            unit: _why(profile.table[unit], option, profile.source[unit], row) if unit in parts else IN_REMOVED_BLOCK
            for unit, option in chosen.items()
        },
        reasons=dict(profile.reasons),
        cost={
            "bytes": fixed["bytes"] + sum(one.bytes for one in selection),
            "macs": fixed["macs"] + sum(one.macs for one in selection),
            "float_bytes": float(profile.float_bytes),
            "float_macs": float(profile.macs),
            **_seconds(profile, selection),
        },
        distortion=float(sum(one.distortion for one in selection)),
        gap=float(gap),
        recipe=profile.recipe,
        target=profile.target,
        digest=profile.digest,
        shapes={layer.name: tuple(layer.shape) for layer in profile.layers},
        share_left_alone=dict(share_left_alone),
        notes=profile.notes,
    )


def _choose(
    profile: Profile, joint: Mapping[str, Sequence[JointOption]], limits: Sequence[tuple[str, float]], allocator: Allocator | Rule
) -> tuple[np.ndarray, float]:
    """The index of the option of every unit in `joint`, `[L]`, and the gap that the allocator returns."""
    names, fixed = [name for name, _ in limits], _fixed(profile)
    budget = np.array([limit for _, limit in limits], dtype=np.float64)
    if not profile.table:
        _check_empty(names, budget, fixed)
        return np.zeros(0, dtype=np.int64), 0.0
    cost, distortion = arrays(joint, names)
    check_feasible(cost, distortion, budget, Rows(names, [fixed[name] for name in names], _hint(profile)))
    if isinstance(allocator, Rule):
        check_rule_applies(allocator, profile, names)
        return choose_by_rule(allocator, profile, cost, distortion, budget)
    return allocator(cost, arrays(joint, ["bytes"])[0][0] if DISTORTION in names else distortion, budget)


def least(profile: Profile, row: str) -> float:
    """The least total of all units in a row: bytes, macs, seconds, nonzeros or distortion."""
    return math.fsum(min(getattr(o, row) for o in options) for options in join_blocks(profile.table).values())


def _fixed(profile: Profile) -> dict[str, float]:
    """The costs, by row, that don't depend on the choices."""
    return {
        "bytes": float(profile.fixed_bytes),
        "macs": float(sum(layer.macs for layer in profile.layers if layer.name not in profile.table)),
        "seconds": profile.whole_seconds,
        NONZEROS: 0.0,
        DISTORTION: 0.0,
    }


def _seconds(profile: Profile, selection: Sequence[JointOption]) -> dict[str, float]:
    """The seconds of the plan and of the original, where times were measured."""
    if not profile.seconds:
        return {}
    seconds = profile.whole_seconds + sum(one.seconds for one in selection)
    return {"seconds": seconds, "float_seconds": profile.seconds}


def nonzeros_left(profile: Profile, sparsity: float) -> float:
    """The largest number of nonzero weights at a sparsity, in the layers that have options.

    It includes half a weight for each layer, because shares are rounded to whole weights.

    Raises:
        InvalidRequest: the table holds units whose zeros can't be counted.
        Infeasible: no plan has so many zeros.
    """
    sizes = {layer.name: layer.weights for layer in profile.layers if layer.name in profile.table}
    for unit, options in profile.table.items():
        if unit.startswith(STRUCTURE):
            raise InvalidRequest(f"budget.sparsity counts zeros in layers, and unit '{unit}' removes some; leave [channels] out.")
        if any(np.isnan(option.nonzeros) for option in options):
            raise InvalidRequest(f"budget.sparsity: the profile doesn't count the zeros of layer '{unit}'; measure it again.")
    weights, limit = sum(sizes.values()), (1 - sparsity) * sum(sizes.values()) + len(sizes) / 2
    least = sum(min(option.nonzeros for option in options) for options in profile.table.values())
    if least > limit:
        raise Infeasible(
            f"budget.sparsity is {sparsity:.4g}, and the boldest options have {1 - least / weights:.4g} zeros in all; list "
            "larger shares in prune.sparsities, or lower it."
        )
    return limit


def _check_empty(names: Sequence[str], budget: Budgets, fixed: Mapping[str, float]) -> None:
    """Check that a model without options fits the budget.

    Raises:
        Infeasible: it doesn't.
    """
    for name, limit in zip(names, budget, strict=True):
        if limit < 0:
            raise Infeasible(
                f"no layer of this model can be compressed and it takes {fixed[name]:,.0f} {name}; raise budget.{name}.".replace(
                    ",", " "
                )
            )


def _hint(profile: Profile) -> str:
    """Another remedy for a budget of bytes that is too small: the next smaller bit width."""
    bits = min((o.choice.weight_bits for options in profile.table.values() for o in options), default=FLOAT_BITS)
    fewer = next((b for b in (8, 4, 2) if b < bits), None)
    return f" or allow {fewer} bits in the recipe and the target" if fewer else ""


def _why(options: Sequence[Option], chosen: Option, source: str, row: str) -> str:
    """The reason for one unit: its predicted distortion, and what a bolder choice would save and add."""
    if source == UNMEASURED:
        return "the only option"
    unit = " nats" if source in NATS else ""
    text = f"predicted distortion {chosen.distortion:.2g}{unit} ({source})"
    cost = getattr(chosen, row, None)
    if cost is None:
        raise InvalidRequest(f"budget.{row}: the table holds {', '.join(ROWS)}.")
    bolder = [o for o in options if getattr(o, row) < cost and np.isfinite(o.distortion)]
    if not bolder:
        return f"{text}; nothing smaller is allowed"
    best = min(bolder, key=lambda o: (o.distortion - chosen.distortion) / (cost - getattr(o, row)))
    saved, added = cost - getattr(best, row), best.distortion - chosen.distortion
    amount = f"{1e6 * saved:,.1f} microseconds" if row == "seconds" else f"{saved:,.0f} {row}"
    return f"{text}; {best.choice} would save {amount} and add {added:.2g}"
