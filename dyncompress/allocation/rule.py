"""What published rules share: each computes a table from a profile, and its solver chooses options by this table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dyncompress.allocation.lagrangian import Budgets, Costs, Distortions, Options, lower_bound, spread, total
from dyncompress.errors import InvalidRequest
from dyncompress.types import STRUCTURE, Layer, Profile, Rule, WeightChange
from dyncompress.types.arrays import Float, Float64


def check_rule_applies(rule: Rule, profile: Profile, names: Sequence[str]) -> None:
    """Check that a rule can choose within budgets for these rows.

    Args:
        rule: named in the message.
        profile: holds the table of options.
        names: names of the rows that have a limit.

    Raises:
        InvalidRequest: the profile has units that aren't layers, or the budget limits the distortion.
    """
    where = f"allocator {type(rule).__name__}"
    if "distortion" in names:
        raise InvalidRequest(
            f"{where}: this rule doesn't use distortions; set budget.bytes or budget.sparsity, or the allocator 'knapsack'."
        )
    for unit in profile.table:
        if unit.startswith(STRUCTURE):
            raise InvalidRequest(
                f"{where}: it doesn't support the unit '{unit}'; leave [channels] out, or set the allocator 'knapsack'."
            )


def choose_by_rule(rule: Rule, profile: Profile, cost: Costs, distortion: Distortions, budget: Budgets) -> tuple[Options, float]:
    """The choice of a rule, and how far its plan is from the best one by the profile's own distortions.

    Args:
        rule: computes the table from the profile; `rule.solver` chooses by it. It passed `check_rule_applies`.
        profile: layers, options and estimates of measures.
        cost: `[R, L, C]`.
        distortion: `[L, C]`, from which the gap of the plan is computed.
        budget: `[R]`.

    Returns:
        The index of each unit's option `[L]`, and the gap as a share of the distortion's range.
    """
    choice, _ = rule.solver(cost, rule(profile), budget)
    gap = total(distortion, choice) - lower_bound(cost, distortion, budget)
    return choice, max(0.0, gap) / (spread(distortion) or 1.0)


def table_of(rows: Sequence[Sequence[float]]) -> Float64[np.ndarray, "L C"]:
    """The rows, one for each layer, as an array `[L, C]`, padded with inf to the length of the longest."""
    table = np.full((len(rows), max(len(row) for row in rows)), np.inf)
    for unit, row in enumerate(rows):
        table[unit, : len(row)] = row
    return table


def layers_of(profile: Profile) -> list[Layer]:
    """The layers that have options, in the order of the profile's table."""
    by_name = {layer.name: layer for layer in profile.layers}
    return [by_name[name] for name in profile.table]


def weights_of(profile: Profile) -> Float64[np.ndarray, " L"]:
    """The number of weights of each layer with options, `[L]`."""
    return np.array([layer.weights for layer in layers_of(profile)], dtype=np.float64)


def shares(profile: Profile, rule: str) -> Float64[np.ndarray, "L C"]:
    """The share of bits that each option removes from its layer's widest one, `[L, C]`; `rule` names the caller in errors.

        share = 1 - (1 - sparsity) * bits / bits of the widest option

    Where all options have one width, this is the share of zeros; where none has zeros, the share by which the width shrinks.

    Raises:
        InvalidRequest: options have steps, whose bits depend on the weights, or lower ranks.
    """
    rows = []
    for unit, options in profile.table.items():
        if any(option.choice.rank is not None for option in options):
            raise InvalidRequest(
                f"allocator {rule}: it allocates zeros and bits, and layer '{unit}' may have lower ranks; leave channels.ranks "
                "out, or set the allocator 'equal_error'."
            )
        if any(option.choice.step for option in options):
            raise InvalidRequest(
                f"allocator {rule}: layer '{unit}' has entropy-coded options, which don't remove a fixed share of bits; set "
                "quantize.weight_bits instead of quantize.steps, or the allocator 'equal_error'."
            )
        widest = max(option.choice.weight_bits for option in options)
        rows.append([1 - (1 - option.choice.sparsity) * option.choice.weight_bits / widest for option in options])
    return table_of(rows)


def zeros_only(profile: Profile, rule: str) -> Float64[np.ndarray, "L C"]:
    """The share of zeros of every option, `[L, C]`, for rules that don't apply to bit widths.

    Raises:
        InvalidRequest: the options of a layer have several widths.
    """
    for unit, options in profile.table.items():
        widths = sorted({option.choice.weight_bits for option in options}, reverse=True)
        if len(widths) > 1 or any(option.choice.step for option in options):
            raise InvalidRequest(
                f"allocator {rule}: it allocates zeros only, and layer '{unit}' may have {widths} bits; leave one width in "
                "quantize.weight_bits, or set the allocator 'equal_error'."
            )
    return shares(profile, rule)


def changes(profile: Profile, rule: str) -> list[list[WeightChange]]:
    """The change of the weight under every option, by layer; a layer's only option counts as no change.

    Raises:
        InvalidRequest: the profile doesn't hold the changes.
    """
    nothing = WeightChange(energy=0.0, error=0.0, threshold=0.0, left=0.0)
    rows = []
    for unit, options in profile.table.items():
        row = [option.change or nothing for option in options]
        if len(options) > 1 and any(option.change is None for option in options):
            raise InvalidRequest(
                f"allocator {rule}: the profile doesn't hold the weight changes of layer '{unit}'; measure it again."
            )
        rows.append(row)
    return rows


def estimates_of(profile: Profile, measure: str, rule: str) -> Float64[np.ndarray, " L"]:
    """A measure's value for every layer, `[L]`; a layer without one has the mean over the others.

    As in the published rules, invalid estimates count too.

    Raises:
        InvalidRequest: the profile doesn't hold the measure, or no layer has a value.
    """
    if measure not in profile.estimates:
        raise InvalidRequest(
            f"allocator {rule}: it needs '{measure}', which this profile doesn't hold; measure with a recipe that names this "
            f'allocator or lists [[measure]] name = "{measure}", with calibration data where that measure needs them.'
        )
    by_layer = profile.estimates[measure]
    values = np.array([by_layer[name].value if name in by_layer else np.nan for name in profile.table], dtype=np.float64)
    known = np.isfinite(values)
    if not known.any():
        raise InvalidRequest(f"allocator {rule}: '{measure}' has no value for any layer; use another measure or allocator.")
    return np.where(known, values, values[known].mean())


def relative_position(values: Float[np.ndarray, " L"]) -> Float[np.ndarray, " L"]:
    """The position of each value between the smallest (0) and the largest (1); 0.5 where all are equal.

    Example:
        >>> relative_position(np.array([2.0, 4.0, 3.0])).tolist()
        [0.0, 1.0, 0.5]
    """
    span = values.max() - values.min()
    return (values - values.min()) / span if span > 0 else np.full(values.shape, 0.5)


def levels_for_rates(share: Float[np.ndarray, "L C"], rate: Float[np.ndarray, " L"]) -> Float[np.ndarray, "L C"]:
    """The levels t `[L, C]` at which t * rate is the share, from non-negative shares and rates; 0 where the share is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(share > 0, share / rate[:, None], 0.0)
