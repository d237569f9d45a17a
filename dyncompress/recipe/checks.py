"""What the values of a recipe may be. Every check takes the fields that it reads, and its message says what to change."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any

from dyncompress.errors import InvalidRequest, nearest
from dyncompress.recipe.parsing import at, build, check_finite
from dyncompress.types import FLOAT_BITS, Allocator, Budget, Distillation, Measure, Quantizer, Rule

SCHEMA = 1
SENSITIVITIES = ("fisher", "probe", "theory", "trajectory")
BITS = (2, 3, 4, 5, 6, 7, 8)
LARGEST_COUNT = 10_000  # largest number of repetitions, and of examples in one run
SMALLEST_RISK_INCREASE = 1e-6  # a smaller increase takes more than three million examples to certify
SMALLEST_AMOUNT = 256  # a budget from 1 to below this is read as a percentage by mistake, not as bytes or MACs


def parse_budget(budget: Budget | Mapping[str, Any], where: str = "budget") -> Budget:
    """Check a budget, or build one from a table and check it.

    Args:
        budget: a `Budget`, or a mapping from its field names to numbers.
        where: how messages name the budget.

    Raises:
        InvalidRequest: a number isn't positive and finite, `sparsity` or `risk_increase` isn't in (0, 1), or bytes or MACs look
            like a percentage.

    Example:
        >>> parse_budget({"bytes": 0.25})
        Budget(bytes=0.25)
    """
    budget = budget if isinstance(budget, Budget) else build(Budget, budget, at(where))
    for name in ("bytes", "macs", "seconds", "distortion"):
        value = getattr(budget, name)
        if value is None:
            continue
        check_finite(value, f"{where}.{name}")
        if value <= 0:
            raise InvalidRequest(f"{where}.{name} is {value:g}; a positive number is needed (below 1: a share of the original).")
        if name in ("bytes", "macs") and 1 <= value < SMALLEST_AMOUNT:
            raise InvalidRequest(f"{where}.{name} is {value:g}, read as {value:g} {name}; a share is written below 1, e.g. 0.25.")
    if budget.sparsity is not None and not 0 < budget.sparsity < 1:
        raise InvalidRequest(f"{where}.sparsity is {budget.sparsity:g}; a share of zeros in (0, 1) is needed, e.g. 0.7.")
    if budget.risk_increase is not None and not 0 < budget.risk_increase < 1:
        raise InvalidRequest(f"{where}.risk_increase is {budget.risk_increase:g}; a share in (0, 1) is needed, e.g. 0.02.")
    if budget.risk_increase is not None and budget.risk_increase < SMALLEST_RISK_INCREASE:
        least = f"no less than {SMALLEST_RISK_INCREASE:g} can be promised on millions of examples"
        raise InvalidRequest(f"{where}.risk_increase is {budget.risk_increase:g}; {least}, e.g. 0.02.")
    return budget


def check_schema(schema: object, where: str) -> None:
    """Refuse a file whose format has another version, before its keys are read."""
    if schema != SCHEMA:
        raise InvalidRequest(f"{where}: schema {schema} is read by another version of dyncompress; this one reads {SCHEMA}.")


def check_sensitivity(where: str, sensitivity: Sequence[str]) -> None:
    """Refuse an empty list of sensitivities and unknown names in it."""
    if not sensitivity:
        raise InvalidRequest(f"{where}: sensitivity is empty; name at least one of {', '.join(SENSITIVITIES)}.")
    for word in sensitivity:
        if word not in SENSITIVITIES:
            raise InvalidRequest(f"{where}: unknown sensitivity '{word}'{nearest(word, SENSITIVITIES)}")


def check_candidates(where: str, weight_bits: Collection[int], sparsities: Collection[float]) -> None:
    """Refuse widths that can't be stored, and shares of zeros outside [0, 1)."""
    for bits in weight_bits:
        if bits not in (*BITS, FLOAT_BITS):
            raise InvalidRequest(f"{where}: weight_bits holds {bits}; 2 to 8, or {FLOAT_BITS} for float, are needed.")
    for sparsity in sparsities:
        if not 0 <= sparsity < 1:
            raise InvalidRequest(f"{where}: sparsities holds {sparsity:g}; shares of zeros in [0, 1) are needed, e.g. 0.5.")


def check_keeps(where: str, keeps: Collection[float]) -> None:
    """Refuse shares of channels outside (0, 1]."""
    for share in keeps:
        if not 0 < share <= 1:
            raise InvalidRequest(f"{where}: channels.keeps holds {share:g}; shares in (0, 1] are needed.")


def check_ranks(where: str, ranks: Collection[float], others: bool) -> None:
    """Refuse shares of a rank outside (0, 1), and ranks beside other choices of structure (`others`) or entropy-coded steps."""
    for share in ranks:
        if not 0 < share < 1:
            raise InvalidRequest(f"{where}: channels.ranks holds {share:g}; shares in (0, 1) are needed, e.g. 0.25.")
    if ranks and others:
        raise InvalidRequest(
            f"{where}: ranks are chosen beside zeros and widths alone; leave channels.keeps, blocks, latency_batch and "
            "quantize.steps out, or ranks."
        )


def check_steps(where: str, steps: Collection[float], quantizer: object) -> None:
    """Refuse an incomplete quantizer, steps for one that doesn't code by entropy, and missing steps for one that does."""
    if quantizer is not None and not isinstance(quantizer, Quantizer):
        lacking = [word for word in ("needs", "entropy_coded", "sketch", "on_grid") if not hasattr(quantizer, word)]
        raise InvalidRequest(
            f"{where}: quantizer {type(quantizer).__name__} has no {', '.join(lacking) or '__call__'}; "
            "types.Quantizer says what a quantizer needs."
        )
    entropy_coded = quantizer is not None and quantizer.entropy_coded
    if entropy_coded and not steps:
        raise InvalidRequest(f"{where}: the quantizer codes by entropy, without steps; set quantize.steps, e.g. [0.1, 0.3, 1.0].")
    if steps and not entropy_coded:
        raise InvalidRequest(f"{where}: steps are for quantizers that code by entropy; set quantize.name to one, or drop them.")
    for step in steps:
        if not (math.isfinite(step) and step > 0):
            raise InvalidRequest(f"{where}: quantize.steps holds {step:g}; positive numbers are needed.")


def check_pattern(where: str, pattern: str, sparsities: Collection[float]) -> None:
    """Refuse a malformed n:m pattern, and shares of zeros other than the one that the pattern fixes."""
    if not pattern:
        return
    kept, of = (int(n) for n in pattern.split(":")) if re.fullmatch(r"\d+:\d+", pattern) else (0, 0)
    if not 1 <= kept < of:
        raise InvalidRequest(f"{where}: prune.pattern is '{pattern}'; write n of every m weights as '2:4', or leave it out.")
    share = 1 - kept / of
    for sparsity in set(sparsities) - {0.0}:
        if abs(sparsity - share) > 1e-9:
            raise InvalidRequest(f"{where}: pattern {pattern} has {share:g} zeros, sparsities holds {sparsity:g}; use {share:g}.")


def check_quantization(where: str, granularity: str, activation_share: float, activation_bits: int) -> None:
    """Refuse an unknown granularity of the scales, and activations of another width or coverage."""
    if granularity not in ("tensor", "channel") and not re.fullmatch(r"group:[1-9]\d*", granularity):
        raise InvalidRequest(f"{where}: quantize.granularity is '{granularity}'; 'tensor', 'channel' or 'group:32' is needed.")
    if not 0.5 <= activation_share <= 1:
        raise InvalidRequest(
            f"{where}: quantize.activation_share is {activation_share:g}; a share of the examples in [0.5, 1] is needed."
        )
    if activation_bits not in (8, FLOAT_BITS):
        raise InvalidRequest(f"{where}: quantize.activation_bits is {activation_bits}; 8 or {FLOAT_BITS} (float) is needed.")


def check_counts(where: str, calibration: int, observed: int, seed: int, latency_batch: int) -> None:
    """Refuse numbers of examples, seeds and batch sizes that are out of range."""
    if calibration < 1 or observed < 0 or seed < 0:
        raise InvalidRequest(f"{where}: calibration.limit is at least 1, calibration.observed and seed at least 0.")
    if not 0 <= latency_batch <= LARGEST_COUNT:
        raise InvalidRequest(
            f"{where}: channels.latency_batch is {latency_batch}; an integer from 0 to {LARGEST_COUNT} is needed."
        )


def check_numbers(where: str, tool: object) -> None:
    """Refuse negative numbers, infinite ones and very large integers in the fields of a pruner or quantizer.

    These fields are shares, factors and numbers of repetitions.
    """
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


def check_distillation(where: str, spec: Distillation) -> None:
    """Refuse passes, batches and shifts below their smallest values, and rates and shares outside their ranges."""
    for name, least in {"epochs": 0, "weight_epochs": 0, "batch": 1, "shift": 0}.items():
        if getattr(spec, name) < least:
            raise InvalidRequest(f"{where}.{name} is {getattr(spec, name)}; it takes {least} or more.")
    if not 0 <= spec.mix <= 1:
        raise InvalidRequest(f"{where}.mix is {spec.mix:g}; a number in [0, 1] is needed.")
    for name, share, example in (
        ("rate", spec.rate, 0.01),
        ("weight_rate", spec.weight_rate, 0.003),
        ("held_out", spec.held_out, 0.125),
    ):
        if not 0 < share < 1:
            raise InvalidRequest(f"{where}.{name} is {share:g}; a number in (0, 1) is needed, e.g. {example}.")


def check_weight_epochs(where: str, weight_epochs: int, removes: bool, rounds: bool, zeros: bool) -> None:
    """Refuse distillation into all weights where there is nothing to distil.

    Weights are trained while they are float: after channels or blocks were removed, or under zeros that aren't rounded
    afterwards.

    Args:
        where: the recipe, for messages.
        weight_epochs: passes over the calibration examples.
        removes: whether the recipe may remove channels or blocks.
        rounds: whether it may round weights.
        zeros: whether it may set weights to zero.
    """
    if weight_epochs and not removes and (rounds or not zeros):
        what = "makes zeros and rounds in one pass" if zeros else "removes nothing from the network"
        raise InvalidRequest(
            f"{where}: distill.weight_epochs is {weight_epochs}; weights learn between the removal of channels or "
            f"blocks and rounding, or under zeros that aren't rounded, and this recipe {what}; set channels.keeps, or "
            "distill.weight_epochs = 0."
        )


def check_path(where: str, path: Sequence[float], row: str) -> None:
    """Refuse a path of budgets (`row`: `bytes` or `macs`) that isn't strictly decreasing, or a budget in it that isn't one."""
    for value in path:
        parse_budget(Budget(**{row: value}), f"{where}: path")
    if any(not math.isfinite(a) or a <= b for a, b in pairwise(path)):
        raise InvalidRequest(f"{where}: path.{row} goes from cautious to bold; every budget is below the one before.")


def check_theory(
    where: str,
    coefficients: Mapping[str, Mapping[str, float]],
    measures: Mapping[str, Measure],
    priors: Mapping[str, Any],
    probes: float,
) -> None:
    """Refuse coefficients of measures that the recipe doesn't compute, coefficients beside a prior, and probes without one."""
    for measure in dict.fromkeys(name for weights in coefficients.values() for name in weights):
        if measure not in measures:
            raise InvalidRequest(f"{where}: theory weighs '{measure}', which it doesn't measure{nearest(measure, measures)}")
    if priors and coefficients:
        raise InvalidRequest(f"{where}: theory has coefficients and a prior; keep theory.prior, or the coefficients.")
    if not 0 <= probes <= 1:
        raise InvalidRequest(f"{where}: theory.probes is {probes:g}; a share of the layers in [0, 1] is needed.")
    if probes and not priors:
        raise InvalidRequest(f"{where}: theory.probes is {probes:g}, and no prior takes them in; set theory.prior.")


def with_required_measures(
    listed: Mapping[str, Measure], allocator: Allocator | Rule, by_priors: Collection[str] = ()
) -> dict[str, Measure]:
    """The measures that a recipe lists, and with default fields those that its allocator or its priors read besides.

    Args:
        listed: name -> measure, from the recipe.
        allocator: a `Rule` names the measures that it reads.
        by_priors: names of the measures that the recipe's priors read.

    Raises:
        InvalidRequest: a name isn't in `measures.MEASURES`.
    """
    from dyncompress.measures import MEASURES

    by_rule = allocator.measures if isinstance(allocator, Rule) else ()
    for where, names in {"allocator": by_rule, "prior": by_priors}.items():
        for name in names:
            check_one_of(name, MEASURES, f"{where}: measure")
    names = dict.fromkeys((*by_rule, *by_priors))
    return {**listed, **{name: MEASURES[name]() for name in names if name not in listed}}


def check_risk(where: str, risk: str) -> None:
    """Refuse a risk whose name or options aren't valid.

    Raises:
        InvalidRequest: names the option.
    """
    from dyncompress.certificates.risks import parse_risk  # importing scipy takes time

    try:
        parse_risk(risk)
    except InvalidRequest as error:
        raise InvalidRequest(f"{where}: certificate.risk is '{risk}': {error}") from error


def check_one_of(word: str, allowed: Collection[str], what: str) -> None:
    """Refuse a word that isn't one of the allowed ones; the message names the nearest allowed word.

    Args:
        word: as it was given.
        allowed: all valid words.
        what: the key or option that the word is a value of.

    Raises:
        InvalidRequest: the word isn't among them.
    """
    if word not in allowed:
        raise InvalidRequest(f"{what} is '{word}'{nearest(word, allowed)}")
