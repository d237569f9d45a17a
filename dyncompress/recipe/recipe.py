"""The class `Recipe` and what belongs to it: plain values, checked when they are made; `toml_files` reads them from TOML."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from dyncompress.errors import InvalidRequest, nearest
from dyncompress.recipe.checks import (
    SCHEMA,
    check_candidates,
    check_counts,
    check_distillation,
    check_keeps,
    check_numbers,
    check_path,
    check_pattern,
    check_quantization,
    check_ranks,
    check_risk,
    check_schema,
    check_sensitivity,
    check_steps,
    check_theory,
    check_weight_epochs,
    parse_budget,
)
from dyncompress.types import FLOAT_BITS, Allocator, Budget, Distillation, Measure, Pruner, Quantizer, Rule
from dyncompress.types.representation import short_repr

FIRST, LAST = "<first>", "<last>"  # in a rule's `match`: the first and the last layer of the forward pass


@dataclass(frozen=True)
class CertificateSpec:
    """What is certified about the file.

    Attributes:
        risk: a key of `certificates.RISKS` with its options, e.g. `zero_one` or `detection:score=0.3,iou=0.5`.
        delta: probability that any line of the certificate is wrong, in (0, 1).
        method: a key of `certificates.BOUNDS`; empty: the tightest bound that is valid for the risk.
    """

    risk: str = "zero_one"
    delta: float = 0.05
    method: str = ""

    __repr__ = short_repr


@dataclass(frozen=True)
class LayerRule:
    """Other choices for the layers whose names match a pattern; the first rule of a recipe that matches a layer applies.

    Attributes:
        match: a glob pattern for layer names (`layer1.*`), or `<first>` or `<last>` for the first and last layer of the forward
            pass.
        weight_bits, sparsities: candidates that replace the recipe's; empty: the recipe's.
        leave_alone: whether the layer isn't changed at all.
    """

    match: str
    weight_bits: tuple[int, ...] = ()
    sparsities: tuple[float, ...] = ()
    leave_alone: bool = False

    __repr__ = short_repr


@dataclass(frozen=True)
class Recipe:
    """How a network is compressed: what is measured, which choices are considered, and which objects make and apply them.

    All fields are checked when a recipe is made. The same values are written in TOML files, see `load_recipe` and
    `recipes/README.md`.

    Attributes:
        name, summary: for lists and messages.
        schema: version of the file format.
        sensitivity: how distortion is predicted, in order of preference: `fisher` (Fisher information), `probe` (measured on an
            edited model), `trajectory` (recorded training) or `theory` (measures of the weights).
        budget: used where the verbs are given no other one.
        measures: name -> `types.Measure`.
        coefficients: `pruning` and `quantization` -> measure -> coefficient of its z-score in the predicted log sensitivity.
        priors: in their place, `pruning` and `quantization` -> `error` and `fisher` (the quantity that the prior multiplies) ->
            an `allocation.prior.Prior` learned on other networks.
        probes: share of the layers, the largest first, that are probed to update a prior.
        allocator, pruner, quantizer: the objects that choose, set weights to zero, and round. None: no zeros, no rounding.
        weight_bits: candidate widths in bits, 2 to 8, or 32 for float; empty: weights stay float.
        steps: candidate step-size multipliers of entropy-coding quantizers; step sizes are normalised so that 1 predicts a total
            KL divergence of 1 nat.
        sparsities: candidate shares of zeros, each in [0, 1).
        pattern: of the zeros: `2:4` keeps 2 of every 4 weights; empty: unstructured.
        keeps: candidate shares of the channels that are kept, each in (0, 1]; empty: no channels are removed.
        blocks: whether whole residual blocks may be dropped.
        latency_batch: examples in one run of the choices that are timed; 0: nothing is timed.
        ranks: candidate shares of a layer's full rank at which two thin layers replace it.
        granularity: of the scales: `tensor`, `channel`, or `group:N` for N consecutive inputs of a row.
        activation_bits: 8 or 32 (float).
        activation_share: activation ranges may clip values of the other examples (of 0.98: 2 %) where that lowers the error;
            1: never.
        sequential: whether each layer is fitted to the original's output on the inputs that it gets from the compressed layers
            before it (GPTAQ).
        mirrored: horizontal-flip augmentation when layers are observed, when channels are refitted, and in distillation.
        match: whether the mean and standard deviation of every layer's outputs are matched to the original's after rounding.
        distill: distillation from the original on the calibration examples.
        calibration: largest number of calibration examples.
        observed: how many of them are used for moments and Fisher information; 0: all.
        certificate: what is certified.
        path: budgets of `path_row` (`bytes` or `macs`), strictly decreasing, that are tried in this order where
            `budget.risk_increase` is given.
        layers: other choices for some layers.
        seed: of everything that is drawn at random.

    Raises:
        InvalidRequest: a value is out of range, or two fields contradict each other. The message names the recipe, the key, the
            value and what it may be.

    Example:
        >>> from dyncompress.quantization import Gptq
        >>> recipe = Recipe("mine", weight_bits=(4, 8), quantizer=Gptq(), budget=Budget(bytes=0.2))
        >>> recipe.budgets()
        (Budget(bytes=0.2),)
        >>> Recipe("mine", weight_bits=(4, 8))
        Traceback (most recent call last):
        dyncompress.errors.InvalidRequest: recipe 'mine': weight_bits are given but no quantizer; set quantize.name.
    """

    name: str
    summary: str = ""
    schema: int = SCHEMA
    sensitivity: tuple[str, ...] = ("fisher", "probe", "theory")
    budget: Budget = field(default_factory=Budget)
    measures: Mapping[str, Measure] = field(default_factory=dict)
    coefficients: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    priors: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    probes: float = 0.0
    allocator: Allocator | Rule = field(default_factory=lambda: allocators()["knapsack"]())
    pruner: Pruner | None = None
    quantizer: Quantizer | None = None
    weight_bits: tuple[int, ...] = ()
    steps: tuple[float, ...] = ()
    sparsities: tuple[float, ...] = ()
    pattern: str = ""
    keeps: tuple[float, ...] = ()
    blocks: bool = False
    latency_batch: int = 0
    ranks: tuple[float, ...] = ()
    granularity: str = "channel"
    activation_bits: int = FLOAT_BITS
    activation_share: float = 0.98
    sequential: bool = False
    mirrored: bool = False
    match: bool = True
    distill: Distillation = field(default_factory=Distillation)
    calibration: int = 1024
    observed: int = 0
    certificate: CertificateSpec = field(default_factory=CertificateSpec)
    path: tuple[float, ...] = ()
    path_row: str = "bytes"
    layers: tuple[LayerRule, ...] = ()
    seed: int = 0

    __repr__ = short_repr

    def __post_init__(self) -> None:
        """Check all fields."""
        _check(self)

    def budgets(self) -> tuple[Budget, ...]:
        """The budgets of the path, from cautious to bold; without a path, the recipe's budget alone."""
        row = self.path_row
        return tuple(dataclasses.replace(self.budget, **{row: value}) for value in self.path) or (self.budget,)


def _check(recipe: Recipe) -> None:
    """Refuse values out of range and fields that contradict each other.

    Raises:
        InvalidRequest: names the recipe, the key, the value, and what it may be.
    """
    where = f"recipe '{recipe.name}'"
    sparsities = {*recipe.sparsities, *(share for rule in recipe.layers for share in rule.sparsities)}
    widths = {*recipe.weight_bits, *(bits for rule in recipe.layers for bits in rule.weight_bits)} - {FLOAT_BITS}
    check_schema(recipe.schema, where)
    check_sensitivity(where, recipe.sensitivity)
    parse_budget(recipe.budget, f"{where}: budget")
    check_candidates(where, recipe.weight_bits, recipe.sparsities)
    for rule in recipe.layers:
        check_candidates(f"{where}, layer '{rule.match}'", rule.weight_bits, rule.sparsities)
    if any(recipe.sparsities) and recipe.pruner is None:
        raise InvalidRequest(f"{where}: sparsities are given but no pruner; set prune.name.")
    if any(bits != FLOAT_BITS for bits in recipe.weight_bits) and recipe.quantizer is None:
        raise InvalidRequest(f"{where}: weight_bits are given but no quantizer; set quantize.name.")
    check_keeps(where, recipe.keeps)
    check_ranks(where, recipe.ranks, others=bool(recipe.keeps or recipe.blocks or recipe.latency_batch or recipe.steps))
    check_steps(where, recipe.steps, recipe.quantizer)
    check_pattern(where, recipe.pattern, sparsities)
    check_quantization(where, recipe.granularity, recipe.activation_share, recipe.activation_bits)
    check_counts(where, recipe.calibration, recipe.observed, recipe.seed, recipe.latency_batch)
    check_numbers(f"{where}: prune", recipe.pruner)
    check_numbers(f"{where}: quantize", recipe.quantizer)
    check_distillation(f"{where}: distill", recipe.distill)
    removes = recipe.blocks or any(share < 1 for share in recipe.keeps)
    check_weight_epochs(where, recipe.distill.weight_epochs, removes, rounds=bool(widths or recipe.steps), zeros=any(sparsities))
    check_theory(where, recipe.coefficients, recipe.measures, recipe.priors, recipe.probes)
    spec = recipe.certificate
    if spec is not None and not 0 < spec.delta < 1:
        raise InvalidRequest(f"{where}: certificate.delta is {spec.delta:g}; a probability in (0, 1) is needed, e.g. 0.05.")
    if spec is not None and spec.risk != CertificateSpec.risk:
        check_risk(where, spec.risk)
    check_path(where, recipe.path, recipe.path_row)


def rules_for(recipe: Recipe, layer_names: Sequence[str]) -> dict[str, LayerRule]:
    """The rule of each layer: the first one that matches it. Layers without a rule are absent.

    Args:
        recipe: its `layers` are read.
        layer_names: of the model, in the order of the forward pass.

    Returns:
        layer -> rule.

    Raises:
        InvalidRequest: a pattern matches no layer.
    """
    rules: dict[str, LayerRule] = {}
    ends = {FIRST: layer_names[:1], LAST: layer_names[-1:]}
    for rule in recipe.layers:
        matching = ends.get(rule.match, [name for name in layer_names if fnmatchcase(name, rule.match)])
        if not matching:
            hint = nearest(rule.match.strip("*."), layer_names) if layer_names else "."
            raise InvalidRequest(f"recipe '{recipe.name}': layer pattern '{rule.match}' matches no layer{hint}")
        for name in matching:
            rules.setdefault(name, rule)
    return rules


def allocators() -> Mapping[str, type]:
    """Name -> class of every allocator: the solvers and the published rules."""
    from dyncompress.allocation import (  # importing scipy's solvers takes time, and not every command reads a recipe
        ALLOCATORS,
        RULES,
    )

    return {**ALLOCATORS, **RULES}
