"""What published rules have in common: they read a profile, make a table of their own, and a solver chooses by it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dyncompress.allocation.lagrangian import lower_bound, spread, total
from dyncompress.errors import InvalidRequest
from dyncompress.types import STRUCTURE, Layer, Profile, Rule, WeightChange


def chosen_by_rule(
    rule: Rule, profile: Profile, cost: np.ndarray, distortion: np.ndarray, budget: np.ndarray, names: Sequence[str]
) -> tuple[np.ndarray, float]:
    """The rule's choice, and how far its plan is from the best one of the profile's own table.

    Args:
        rule: whose table is solved, by its solver.
        profile: what it reads.
        cost: `[R, L, C]`, and the harms `[L, C]` that the plan is judged by.
        distortion: see `cost`.
        budget: `[R]`.
        names: of the rows.

    Returns:
        Choice `[L]`, and the gap as a share of the distortion's range.

    Raises:
        InvalidRequest: the profile has units that aren't layers, or a budget of harm.
    """
    where = f"allocator {type(rule).__name__}"
    if "distortion" in names:
        raise InvalidRequest(
            f"{where}: this rule doesn't use distortions; set budget.bytes or budget.sparsity, or the allocator 'knapsack'."
        )
    for unit in profile.table:
        if unit.startswith(STRUCTURE):
            raise InvalidRequest(f"{where}: it knows no unit '{unit}'; leave [channels] out, or set the allocator 'knapsack'.")
    choice, _ = rule.solver(cost, rule(profile), budget)
    gap = total(distortion, choice) - lower_bound(cost, distortion, budget)
    return choice, max(0.0, gap) / (spread(distortion) or 1.0)


def table_of(rows: Sequence[Sequence[float]]) -> np.ndarray:
    """One row a layer, padded with inf to the longest, `[L, C]`."""
    table = np.full((len(rows), max(len(row) for row in rows)), np.inf)
    for unit, row in enumerate(rows):
        table[unit, : len(row)] = row
    return table


def layers_of(profile: Profile) -> list[Layer]:
    """The layers that are chosen for, in the table's order."""
    by_name = {layer.name: layer for layer in profile.layers}
    return [by_name[name] for name in profile.table]


def weights_of(profile: Profile) -> np.ndarray:
    """Numbers of weights, `[L]`."""
    return np.array([layer.weights for layer in layers_of(profile)], dtype=np.float64)


def shares(profile: Profile, rule: str) -> np.ndarray:
    """Of the bits of a layer's most careful option, the share that each option gives up, `[L, C]`.

        share = 1 - (1 - sparsity) * bits / bits of the most careful option

    Where all options have one width this is the share of zeros; where none has zeros, the share by which the width shrinks.

    Raises:
        InvalidRequest: the options are steps, whose bits follow from the weights.
    """
    rows = []
    for unit, options in profile.table.items():
        if any(option.choice.rank is not None for option in options):
            raise InvalidRequest(
                f"allocator {rule}: it shares out zeros and bits, and layer '{unit}' may take lower ranks; leave channels.ranks "
                "out, or set the allocator 'equal_error'."
            )
        if any(option.choice.step for option in options):
            raise InvalidRequest(
                f"allocator {rule}: layer '{unit}' has entropy-coded options, which give up no fixed share of bits; set "
                "quantize.weight_bits in place of quantize.steps, or the allocator 'equal_error'."
            )
        widest = max(option.choice.weight_bits for option in options)
        rows.append([1 - (1 - option.choice.sparsity) * option.choice.weight_bits / widest for option in options])
    return table_of(rows)


def zeros_only(profile: Profile, rule: str) -> np.ndarray:
    """The share of zeros of every option, `[L, C]`, of rules that mean nothing for widths.

    Raises:
        InvalidRequest: a layer may take several widths.
    """
    for unit, options in profile.table.items():
        widths = sorted({option.choice.weight_bits for option in options}, reverse=True)
        if len(widths) > 1 or any(option.choice.step for option in options):
            raise InvalidRequest(
                f"allocator {rule}: it shares out zeros alone, and layer '{unit}' may take {widths} bits; leave one width in "
                "quantize.weight_bits, or set the allocator 'equal_error'."
            )
    return shares(profile, rule)


def changes(profile: Profile, rule: str) -> list[list[WeightChange]]:
    """What every option does to its layer's weight; a layer's only option counts as no change.

    Raises:
        InvalidRequest: the profile doesn't say.
    """
    nothing = WeightChange(energy=0.0, error=0.0, threshold=0.0, left=0.0)
    found = []
    for unit, options in profile.table.items():
        known = [option.change or nothing for option in options]
        if len(options) > 1 and any(option.change is None for option in options):
            raise InvalidRequest(f"allocator {rule}: the profile doesn't say what layer '{unit}' loses; measure it again.")
        found.append(known)
    return found


def estimated(profile: Profile, measure: str, rule: str) -> np.ndarray:
    """A measure's value for every layer, `[L]`; where it has none, the mean over the others.

    Values count whether or not the measure's own conditions hold, as the published rules have it.

    Raises:
        InvalidRequest: the profile lacks the measure, or no layer has a value.
    """
    if measure not in profile.estimates:
        raise InvalidRequest(
            f"allocator {rule}: it reads '{measure}', which this profile doesn't hold; measure with a recipe that names this "
            f'allocator or lists [[measure]] name = "{measure}", with calibration data where that measure needs them.'
        )
    found = profile.estimates[measure]
    values = np.array([found[name].value if name in found else np.nan for name in profile.table], dtype=np.float64)
    known = np.isfinite(values)
    if not known.any():
        raise InvalidRequest(f"allocator {rule}: '{measure}' has no value for any layer; take another measure or allocator.")
    return np.where(known, values, values[known].mean())


def place(values: np.ndarray) -> np.ndarray:
    """Where each value lies between the smallest, 0, and the largest, 1; a half where all are equal.

    Example:
        >>> place(np.array([2.0, 4.0, 3.0])).tolist()
        [0.0, 1.0, 0.5]
    """
    span = values.max() - values.min()
    return (values - values.min()) / span if span > 0 else np.full(values.shape, 0.5)


def scaled(share: np.ndarray, rate: np.ndarray) -> np.ndarray:
    """Levels t of shares t * rate, `[L, C]` from shares `[L, C]` and rates `[L]`, none negative; 0 where the share is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(share > 0, share / rate[:, None], 0.0)
