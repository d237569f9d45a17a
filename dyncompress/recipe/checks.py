"""What a recipe's values may be: every rule here is one sentence that says what to change."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Collection, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from dyncompress.errors import InvalidRequest, nearest
from dyncompress.recipe.parsing import at, build, check_finite
from dyncompress.types import FLOAT_BITS, Allocator, Budget, Distillation, Measure, Quantizer, Rule

if TYPE_CHECKING:
    from dyncompress.recipe.recipe import Recipe

SCHEMA = 1
SENSITIVITIES = ("fisher", "probe", "theory", "trajectory")
BITS = (2, 3, 4, 5, 6, 7, 8)
LARGEST_COUNT = 10_000  # of repetitions, and of examples in one run
LEAST_INCREASE = 1e-6  # of a risk: a smaller one takes more than three million examples to promise
A_COUNT = 256  # a budget from 1 to here is a percentage by mistake, not a number of bytes or MACs


def parse_budget(budget: Budget | Mapping[str, Any], where: str = "budget") -> Budget:
    """A budget, checked: positive numbers, `risk_increase` in (0, 1).

    Raises:
        InvalidRequest: out of range, or a percentage where a share is meant.
    """
    budget = budget if isinstance(budget, Budget) else build(Budget, budget, at(where))
    for name in ("bytes", "macs", "seconds", "distortion"):
        value = getattr(budget, name)
        if value is None:
            continue
        check_finite(value, f"{where}.{name}")
        if value <= 0:
            raise InvalidRequest(f"{where}.{name} is {value:g}; a positive number is needed (below 1: a share of the original).")
        if name in ("bytes", "macs") and 1 <= value < A_COUNT:
            raise InvalidRequest(f"{where}.{name} is {value:g}, read as {value:g} {name}; a share is written below 1, e.g. 0.25.")
    if budget.sparsity is not None and not 0 < budget.sparsity < 1:
        raise InvalidRequest(f"{where}.sparsity is {budget.sparsity:g}; a share of zeros in (0, 1) is needed, e.g. 0.7.")
    if budget.risk_increase is not None and not 0 < budget.risk_increase < 1:
        raise InvalidRequest(f"{where}.risk_increase is {budget.risk_increase:g}; a share in (0, 1) is needed, e.g. 0.02.")
    if budget.risk_increase is not None and budget.risk_increase < LEAST_INCREASE:
        least = f"no less than {LEAST_INCREASE:g} can be promised on millions of examples"
        raise InvalidRequest(f"{where}.risk_increase is {budget.risk_increase:g}; {least}, e.g. 0.02.")
    return budget


def check_schema(schema: object, where: str) -> None:
    """Refuse a file of another format before its keys confuse."""
    if schema != SCHEMA:
        raise InvalidRequest(f"{where}: schema {schema} is read by another version of dyncompress; this one reads {SCHEMA}.")


def check_recipe(recipe: Recipe) -> None:
    """Refuse values out of range.

    Raises:
        InvalidRequest: names the recipe, the key, the value, and what it may be.
    """
    where = f"recipe '{recipe.name}'"
    check_schema(recipe.schema, where)
    if not recipe.sensitivity:
        raise InvalidRequest(f"{where}: sensitivity is empty; name at least one of {', '.join(SENSITIVITIES)}.")
    for word in recipe.sensitivity:
        if word not in SENSITIVITIES:
            raise InvalidRequest(f"{where}: unknown sensitivity '{word}'{nearest(word, SENSITIVITIES)}")
    parse_budget(recipe.budget, f"{where}: budget")
    _check_choices(where, recipe.weight_bits, recipe.sparsities)
    for rule in recipe.layers:
        _check_choices(f"{where}, layer '{rule.match}'", rule.weight_bits, rule.sparsities)
    if any(recipe.sparsities) and recipe.pruner is None:
        raise InvalidRequest(f"{where}: sparsities are given but no pruner; set prune.name.")
    if any(bits != FLOAT_BITS for bits in recipe.weight_bits) and recipe.quantizer is None:
        raise InvalidRequest(f"{where}: weight_bits are given but no quantizer; set quantize.name.")
    for share in recipe.keeps:
        if not 0 < share <= 1:
            raise InvalidRequest(f"{where}: channels.keeps holds {share:g}; shares in (0, 1] are needed.")
    _check_ranks(where, recipe)
    _check_steps(where, recipe)
    _check_pattern(where, recipe)
    if recipe.granularity not in ("tensor", "channel") and not re.fullmatch(r"group:[1-9]\d*", recipe.granularity):
        raise InvalidRequest(
            f"{where}: quantize.granularity is '{recipe.granularity}'; 'tensor', 'channel' or 'group:32' is needed."
        )
    if not 0.5 <= recipe.activation_share <= 1:
        raise InvalidRequest(
            f"{where}: quantize.activation_share is {recipe.activation_share:g}; a share of the examples in [0.5, 1] is needed."
        )
    if recipe.activation_bits not in (8, FLOAT_BITS):
        raise InvalidRequest(
            f"{where}: quantize.activation_bits is {recipe.activation_bits}; 8 or {FLOAT_BITS} (float) is needed."
        )
    if recipe.calibration < 1 or recipe.observed < 0 or recipe.seed < 0:
        raise InvalidRequest(f"{where}: calibration.limit is at least 1, calibration.observed and seed at least 0.")
    if not 0 <= recipe.latency_batch <= LARGEST_COUNT:
        raise InvalidRequest(
            f"{where}: channels.latency_batch is {recipe.latency_batch}; an integer from 0 to {LARGEST_COUNT} is needed."
        )
    for section, tool in (("prune", recipe.pruner), ("quantize", recipe.quantizer)):
        _check_tool(f"{where}: {section}", tool)
    _check_distillation(f"{where}: distill", recipe.distill)
    _check_teaching(where, recipe)
    _check_theory(where, recipe)
    _check_promise(where, recipe)


def _check_tool(where: str, tool: object) -> None:
    """A tool's own numbers are shares, factors and counts of repetitions: none is negative, and no count is without end."""
    if not dataclasses.is_dataclass(tool):
        return
    for field in dataclasses.fields(tool):
        value = getattr(tool, field.name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if not (value >= 0 and math.isfinite(value)):
            raise InvalidRequest(f"{where}.{field.name} is {value:g}; a number of at least 0 is needed.")
        if isinstance(value, int) and value > LARGEST_COUNT:
            raise InvalidRequest(f"{where}.{field.name} is {value}; an integer of at most {LARGEST_COUNT} is needed.")


def _check_distillation(where: str, spec: Distillation) -> None:
    for name, least in {"epochs": 0, "weight_epochs": 0, "batch": 1, "shift": 0}.items():
        if getattr(spec, name) < least:
            raise InvalidRequest(f"{where}.{name} is {getattr(spec, name)}; it takes {least} or more.")
    if not 0 <= spec.mix <= 1:
        raise InvalidRequest(f"{where}.mix is {spec.mix:g}; a number in [0, 1] is needed.")
    for name, share, such in (
        ("rate", spec.rate, 0.01),
        ("weight_rate", spec.weight_rate, 0.003),
        ("held_out", spec.held_out, 0.125),
    ):
        if not 0 < share < 1:
            raise InvalidRequest(f"{where}.{name} is {share:g}; a number in (0, 1) is needed, e.g. {such}.")


def _check_teaching(where: str, recipe: Recipe) -> None:
    """Weights learn while they are float, and only what was taken from the network gives them something to learn."""
    widths = {*recipe.weight_bits, *(bits for rule in recipe.layers for bits in rule.weight_bits)} - {FLOAT_BITS}
    zeros = any(recipe.sparsities) or any(share for rule in recipe.layers for share in rule.sparsities)
    removes = recipe.blocks or any(share < 1 for share in recipe.keeps)
    if recipe.distill.weight_epochs and not removes and (widths or recipe.steps or not zeros):
        what = "makes zeros and rounds in one pass" if zeros else "removes nothing from the network"
        raise InvalidRequest(
            f"{where}: distill.weight_epochs is {recipe.distill.weight_epochs}; weights learn between the removal of channels or "
            f"blocks and rounding, or under zeros that aren't rounded, and this recipe {what}; set channels.keeps, or "
            "distill.weight_epochs = 0."
        )


def _check_ranks(where: str, recipe: Recipe) -> None:
    """Ranks are shares, and no other structure is chosen beside them."""
    for share in recipe.ranks:
        if not 0 < share < 1:
            raise InvalidRequest(f"{where}: channels.ranks holds {share:g}; shares in (0, 1) are needed, e.g. 0.25.")
    if recipe.ranks and (recipe.keeps or recipe.blocks or recipe.latency_batch or recipe.steps):
        raise InvalidRequest(
            f"{where}: ranks are chosen beside zeros and widths alone; leave channels.keeps, blocks, latency_batch and "
            "quantize.steps out, or ranks."
        )


def _check_steps(where: str, recipe: Recipe) -> None:
    """Steps belong to the quantizer that codes by entropy, and widths to the others."""
    if recipe.quantizer is not None and not isinstance(recipe.quantizer, Quantizer):
        lacking = [word for word in ("needs", "entropy_coded", "sketch", "on_grid") if not hasattr(recipe.quantizer, word)]
        raise InvalidRequest(
            f"{where}: quantizer {type(recipe.quantizer).__name__} has no {', '.join(lacking) or '__call__'}; "
            "types.Quantizer says what a quantizer needs."
        )
    coded = recipe.quantizer is not None and recipe.quantizer.entropy_coded
    if coded and not recipe.steps:
        raise InvalidRequest(f"{where}: the quantizer codes by entropy, without steps; set quantize.steps, e.g. [0.1, 0.3, 1.0].")
    if recipe.steps and not coded:
        raise InvalidRequest(f"{where}: steps are for quantizers that code by entropy; set quantize.name to one, or drop them.")
    for step in recipe.steps:
        if not (math.isfinite(step) and step > 0):
            raise InvalidRequest(f"{where}: quantize.steps holds {step:g}; positive numbers are needed.")


def _check_pattern(where: str, recipe: Recipe) -> None:
    """A pattern fixes the share of zeros: any other asked beside it would be passed over."""
    if not recipe.pattern:
        return
    kept, of = (int(n) for n in recipe.pattern.split(":")) if re.fullmatch(r"\d+:\d+", recipe.pattern) else (0, 0)
    if not 1 <= kept < of:
        raise InvalidRequest(
            f"{where}: prune.pattern is '{recipe.pattern}'; write n of every m weights as '2:4', or leave it out."
        )
    share = 1 - kept / of
    for sparsity in {*recipe.sparsities, *(s for rule in recipe.layers for s in rule.sparsities)} - {0.0}:
        if abs(sparsity - share) > 1e-9:
            raise InvalidRequest(
                f"{where}: pattern {recipe.pattern} has {share:g} zeros, sparsities holds {sparsity:g}; use {share:g}."
            )


def _check_choices(where: str, weight_bits: Collection[int], sparsities: Collection[float]) -> None:
    for bits in weight_bits:
        if bits not in (*BITS, FLOAT_BITS):
            raise InvalidRequest(f"{where}: weight_bits holds {bits}; 2 to 8, or {FLOAT_BITS} for float, are needed.")
    for sparsity in sparsities:
        if not 0 <= sparsity < 1:
            raise InvalidRequest(f"{where}: sparsities holds {sparsity:g}; shares of zeros in [0, 1) are needed, e.g. 0.5.")


def _check_promise(where: str, recipe: Recipe) -> None:
    spec = recipe.certificate
    if spec is not None and not 0 < spec.delta < 1:
        raise InvalidRequest(f"{where}: certificate.delta is {spec.delta:g}; a probability in (0, 1) is needed, e.g. 0.05.")
    for value in recipe.path:
        parse_budget(Budget(**{recipe.path_row: value}), f"{where}: path")
    if any(not math.isfinite(a) or a <= b for a, b in pairwise(recipe.path)):
        raise InvalidRequest(f"{where}: path.{recipe.path_row} goes from cautious to bold; every budget is below the one before.")


def _check_theory(where: str, recipe: Recipe) -> None:
    """Measures that are weighed are measured; a prior has no coefficients beside it."""
    for measure in dict.fromkeys(name for found in recipe.coefficients.values() for name in found):
        if measure not in recipe.measures:
            raise InvalidRequest(
                f"{where}: theory weighs '{measure}', which it doesn't measure{nearest(measure, recipe.measures)}"
            )
    if recipe.priors and recipe.coefficients:
        raise InvalidRequest(f"{where}: theory has coefficients and a prior; keep theory.prior, or the coefficients.")
    if not 0 <= recipe.probes <= 1:
        raise InvalidRequest(f"{where}: theory.probes is {recipe.probes:g}; a share of the layers in [0, 1] is needed.")
    if recipe.probes and not recipe.priors:
        raise InvalidRequest(f"{where}: theory.probes is {recipe.probes:g}, and no prior takes them in; set theory.prior.")


def measures_read(
    listed: Mapping[str, Measure], allocator: Allocator | Rule, by_priors: Collection[str] = ()
) -> dict[str, Measure]:
    """The listed measures, and with their default fields those that a rule or a prior reads and that aren't listed."""
    from dyncompress.measures import MEASURES

    by_rule = allocator.measures if isinstance(allocator, Rule) else ()
    for where, names in {"allocator": by_rule, "prior": by_priors}.items():
        for name in names:
            check_one_of(name, MEASURES, f"{where}: measure")
    names = dict.fromkeys((*by_rule, *by_priors))
    return {**listed, **{name: MEASURES[name]() for name in names if name not in listed}}


def check_one_of(word: str, allowed: Collection[str], what: str) -> None:
    """Refuse a word that isn't among the allowed ones."""
    if word not in allowed:
        raise InvalidRequest(f"{what} is '{word}'{nearest(word, allowed)}")
