"""From a profile's table to arrays, to a solver, and back to a plan with its reasons."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from dyncompress.allocation.exclusive import Whole, joined
from dyncompress.allocation.lagrangian import check_feasible
from dyncompress.allocation.rule import chosen_by_rule
from dyncompress.errors import Infeasible, InvalidRequest
from dyncompress.types import FLOAT_BITS, NATS, STRUCTURE, UNMEASURED, Allocator, Option, Plan, Profile, Rule

ROWS = ("bytes", "macs", "seconds")
NONZEROS = "nonzeros"  # the row of budget.sparsity
HARM = "distortion"  # the row of budget.distortion
MOOT = "its block is removed"


def arrays(table: Mapping[str, Sequence[Option | Whole]], rows: Sequence[str] = ROWS[:2]) -> tuple[np.ndarray, np.ndarray]:
    """The table as arrays, units in its order, padded with inf to the longest list of options.

    Args:
        table: unit -> options.
        rows: which costs, attributes of `Option`.

    Returns:
        Cost `[R, L, C]` and distortion `[L, C]`, float64.
    """
    width = max((len(options) for options in table.values()), default=0)
    cost = np.full((len(rows), len(table), width), np.inf)
    distortion = np.full((len(table), width), np.inf)
    for unit, options in enumerate(table.values()):
        distortion[unit, : len(options)] = [option.distortion for option in options]
        for row, name in enumerate(rows):
            cost[row, unit, : len(options)] = [getattr(option, name) for option in options]
    return cost, distortion


def solved(
    profile: Profile,
    limits: Sequence[tuple[str, float]],
    allocator: Allocator | Rule,
    share_left_alone: Mapping[str, float],
) -> Plan:
    """One option for every unit, as a plan.

    Args:
        profile: the table.
        limits: (row, what all units together may cost), e.g. `[("bytes", 40_000.0)]`; nothing: the least harm at any cost. With
            the row `distortion`, the fewest bytes that do no more harm.
        allocator: who chooses; a rule chooses by its own table, and its plan is judged by this one.
        share_left_alone: goes into the plan.

    Raises:
        Infeasible: the smallest plan is above a limit.
    """
    names = [name for name, _ in limits]
    if "seconds" in names and not profile.seconds:
        raise InvalidRequest(
            "budget.seconds needs times measured on the target, and this profile has none; measure with a recipe whose "
            "[channels] say latency = true, or set budget.macs."
        )
    budget = np.array([limit for _, limit in limits], dtype=np.float64)
    spent, whole = _fixed(profile), joined(profile.table)
    if not profile.table:
        choice, gap, distortion = np.zeros(0, dtype=np.int64), 0.0, np.zeros((0, 1))
        _refuse_empty(names, budget, spent)
    else:
        cost, distortion = arrays(whole, names)
        check_feasible(cost, distortion, budget, names, [spent[name] for name in names], _hint(profile))
        least = arrays(whole, ["bytes"])[0][0] if HARM in names else distortion
        if isinstance(allocator, Rule):
            choice, gap = chosen_by_rule(allocator, profile, cost, distortion, budget, names)
        else:
            choice, gap = allocator(cost, least, budget)
    picked = [options[c] for options, c in zip(whole.values(), choice, strict=True)]
    parts = {unit: option for one in picked for unit, option in one.parts.items()}
    chosen = {unit: parts.get(unit, options[0]) for unit, options in profile.table.items()}  # moot units: as if left
    row = next((name for name in names if name != HARM), "bytes")
    return Plan(
        asked={unit: option.choice for unit, option in chosen.items()},
        why={
            unit: _why(profile.table[unit], option, profile.source[unit], row) if unit in parts else MOOT
            for unit, option in chosen.items()
        },
        reasons=dict(profile.reasons),
        cost={
            "bytes": spent["bytes"] + sum(one.bytes for one in picked),
            "macs": spent["macs"] + sum(one.macs for one in picked),
            "float_bytes": float(profile.float_bytes),
            "float_macs": float(profile.macs),
            **_timed(profile, picked),
        },
        distortion=float(sum(one.distortion for one in picked)),
        gap=float(gap),
        recipe=profile.recipe,
        target=profile.target,
        digest=profile.digest,
        shapes={layer.name: tuple(layer.shape) for layer in profile.layers},
        share_left_alone=dict(share_left_alone),
        notes=profile.notes,
    )


def least(profile: Profile, row: str) -> float:
    """The least that all units together can cost in a row: of bytes, macs, seconds, nonzeros, distortion."""
    return math.fsum(min(getattr(o, row) for o in options) for options in joined(profile.table).values())


def _fixed(profile: Profile) -> dict[str, float]:
    """What is spent whatever is chosen."""
    return {
        "bytes": float(profile.fixed_bytes),
        "macs": float(sum(layer.macs for layer in profile.layers if layer.name not in profile.table)),
        "seconds": profile.whole_seconds,
        NONZEROS: 0.0,
        HARM: 0.0,
    }


def _timed(profile: Profile, picked: Sequence[Whole]) -> dict[str, float]:
    """Seconds, where they were measured."""
    if not profile.seconds:
        return {}
    seconds = profile.whole_seconds + sum(one.seconds for one in picked)
    return {"seconds": seconds, "float_seconds": profile.seconds}


def nonzeros_left(profile: Profile, sparsity: float) -> float:
    """How many weights of the layers that are chosen for may stay, each layer's share being rounded to whole weights.

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


def _refuse_empty(names: Sequence[str], budget: np.ndarray, spent: Mapping[str, float]) -> None:
    for name, limit in zip(names, budget, strict=True):
        if limit < 0:
            raise Infeasible(
                f"no layer of this model can be compressed and it takes {spent[name]:,.0f} {name}; raise budget.{name}.".replace(
                    ",", " "
                )
            )


def _hint(profile: Profile) -> str:
    """What else helps where the budget is too small."""
    bits = min((o.choice.weight_bits for options in profile.table.values() for o in options), default=FLOAT_BITS)
    fewer = next((b for b in (8, 4, 2) if b < bits), None)
    return f" or allow {fewer} bits in the recipe and the target" if fewer else ""


def _why(options: Sequence[Option], chosen: Option, source: str, row: str) -> str:
    """The reason for one unit: its expected harm, and what a bolder choice would have saved and cost."""
    if source == UNMEASURED:
        return "the only option"
    unit = " nats" if source in NATS else ""
    text = f"predicted distortion {chosen.distortion:.2g}{unit} ({source})"
    price = getattr(chosen, row, None)
    if price is None:
        raise InvalidRequest(f"budget.{row}: the table holds {', '.join(ROWS)}.")
    bolder = [o for o in options if getattr(o, row) < price and np.isfinite(o.distortion)]
    if not bolder:
        return f"{text}; nothing smaller is allowed"
    best = min(bolder, key=lambda o: (o.distortion - chosen.distortion) / (price - getattr(o, row)))
    saved, harm = price - getattr(best, row), best.distortion - chosen.distortion
    amount = f"{1e6 * saved:,.1f} microseconds" if row == "seconds" else f"{saved:,.0f} {row}"
    return f"{text}; {best.choice} would save {amount} and add {harm:.2g}"
